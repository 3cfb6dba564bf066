"""Losses by name: what the table holds, how terms are read, and what is said of those that do not fit."""

import inspect
import re

import pytest
import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.cross_entropy import cross_entropy
from scenewise.losses.depth import berhu
from scenewise.losses.focal import focal
from scenewise.losses.table import LOSSES, losses_for, parameters, read_terms
from scenewise.losses.weighted import WeightedLoss


def own(logits: Tensor, target: Tensor, *, power: float = 1.0, class_weights: Tensor | None = None) -> Tensor:
    """A loss of one's own, as a person would write it."""
    weights = 1 if class_weights is None else class_weights.sum()
    return weights * (logits.mean() - target.float().mean()).abs() ** power


def needy(logits: Tensor, target: Tensor, *, scale: float) -> Tensor:
    return scale * logits.sum()


OWN = f"{__name__}:own"


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_every_parameter_is_typed_documented_and_has_a_default(loss):
    signature = inspect.signature(loss.function)
    about = inspect.getdoc(loss.function)
    for p in signature.parameters.values():
        assert p.annotation is not p.empty, p.name
        assert re.search(rf"^    {p.name}: ", about, re.MULTILINE), p.name
        if p.kind is p.KEYWORD_ONLY:
            assert p.default is not p.empty, p.name
    for parameter in parameters(loss.function).values():
        assert parameter.checked(parameter.default, loss.name) == parameter.default
    if loss.over_pixels:
        assert "class_weights" in signature.parameters


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_every_row_is_found_by_its_kind(loss):
    assert losses_for(loss.takes)[loss.name] is loss
    if loss.name != "discriminator":
        assert read_terms({loss.name: 0.5}, loss.takes)[loss.name].function is loss.function


def test_boundaries_are_memberships_too():
    assert {"balanced-edges", "edge-dice", "sigmoid-focal", "dice"} <= set(losses_for("boundaries"))
    assert "edge-dice" not in losses_for("class maps")


def test_what_comes_with_the_batch_is_no_parameter():
    assert set(parameters(cross_entropy)) == {"class_weights", "label_smoothing", "norm"}
    assert "generator" not in parameters(LOSSES["n-pair"].function)
    assert set(parameters(LOSSES["total-variation"].function)) == {"kind", "norm", "kappa", "activation"}


def test_a_weight_and_parameters():
    terms = read_terms(
        {"cross-entropy": 2, "focal": {"weight": 0.5, "gamma": 3}, "dice": {"classes": [1, 2]}}, "class maps"
    )
    assert [term.weight for term in terms.values()] == [2.0, 0.5, 1.0]
    assert terms["cross-entropy"].arguments == {}
    assert terms["focal"].arguments == {"gamma": 3.0}
    assert terms["dice"].arguments == {"classes": (1, 2)}


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            {"dise": 1.0},
            r"loss: there is no 'dise'; did you mean 'dice'\?; known: cross-entropy, .*, or a function of your",
        ),
        ({7: 1.0}, "loss: there is no 7; known: cross-entropy"),
        ({"berhu": 1.0}, "loss: berhu compares depth, and the model needs one for class maps; known: cross-entropy"),
        (
            {"focal": {"gama": 3}},
            r"loss: focal has no parameter 'gama'; did you mean 'gamma'\?; known: weight, gamma, ",
        ),
        ({"focal": {"pixel_weights": 3}}, "loss: focal has no parameter 'pixel_weights'"),
        ({"focal": {"gamma": "much"}}, r"loss: focal: gamma is 'much'; expected float \(Input should be"),
        ({"dice": {"scope": "pixel"}}, r"loss: dice: scope is 'pixel'; expected Literal\['batch', 'image'\]"),
        (
            {"dice": {"weight": "half"}},
            "loss: the weight of dice is 'half'; expected a number, 0 or more, or a mapping of weight and",
        ),
        ({"dice": None}, "loss: the weight of dice is None; expected a number"),
        ({"dice": True}, "loss: the weight of dice is True; expected a number"),
        ({"dice": float("nan")}, "loss: the weight of dice is nan; expected a number"),
        ({}, "loss is empty; expected at least one loss with its weight"),
        ("dice", "loss is 'dice'; expected losses with their weights"),
    ],
)
def test_errors(terms, message):
    with pytest.raises(UsageError, match=message):
        read_terms(terms, "class maps")


# ---- losses of one's own


def test_own_losses():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    loss = WeightedLoss({OWN: {"weight": 2, "power": 2}, "dice": 1.0}, "class maps", classes=3, class_weights=(1, 2, 4))
    loss.resolve()
    found = loss(logits, target)
    assert list(found) == [OWN, "dice"]
    torch.testing.assert_close(
        found[OWN], 2 * own(logits, target, power=2, class_weights=torch.tensor([1.0, 2.0, 4.0]))
    )


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "no_such_module:loss",
            {},
            r"loss no_such_module:loss: the module 'no_such_module' can't be imported \(No module named",
        ),
        (f"{__name__}:missing", {}, "missing: found nothing; expected a function"),
        (f"{__name__}:OWN", {}, f"OWN: found '{OWN}'; expected a function"),
        (":loss", {}, "loss :loss: expected module:name, such as"),
        (OWN, {"powr": 2}, r"own has no parameter 'powr'; did you mean 'power'\?; known: weight, power, class_weights"),
        (OWN, {"power": "two"}, "own: power is 'two'; expected float"),
        (f"{__name__}:needy", {}, "needy: scale is missing; expected float"),
    ],
)
def test_own_losses_are_found_when_resolved(name, given, message):
    loss = WeightedLoss({name: given}, "class maps")  # a checkpoint can be loaded where they are not installed
    with pytest.raises(UsageError, match=message):
        loss.resolve()


# ---- weighted sums


def test_other_kinds_than_class_maps():
    depth, truth = torch.rand(1, 4, 5) + 1, torch.rand(1, 4, 5) + 1
    found = WeightedLoss({"berhu": {"weight": 0.5, "share": 0.3}, "depth-l1": 1}, "depth")(depth, truth)
    torch.testing.assert_close(found["berhu"], 0.5 * berhu(depth, truth, share=0.3))


def test_a_term_may_have_class_weights_of_its_own():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    terms = {"cross-entropy": {"class_weights": [1, 2, 3]}, "focal": 1.0, "dice": {"class_weights": (0, 1, 1)}}
    loss = WeightedLoss(terms, "class maps", classes=3, class_weights=(5.0, 1.0, 1.0))
    found = loss(logits, target)
    weights = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(found["cross-entropy"], cross_entropy(logits, target, class_weights=weights))
    expected = focal(logits, target, class_weights=torch.tensor([5.0, 1.0, 1.0]))
    torch.testing.assert_close(found["focal"], expected)
    without = {"cross-entropy": {"class_weights": None}}
    found = WeightedLoss(without, "class maps", classes=3, class_weights=(5.0, 1.0, 1.0))(logits, target)
    torch.testing.assert_close(found["cross-entropy"], cross_entropy(logits, target))
    with pytest.raises(UsageError, match="loss: dice: class_weights has 2 numbers; expected one for each of 3 classes"):
        WeightedLoss({"dice": {"class_weights": [1, 2]}}, "class maps", classes=3)


def test_further_arguments_reach_the_terms_that_take_them():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    weights = torch.rand(2, 4, 5)
    loss = WeightedLoss({"cross-entropy": 1, "focal": 1}, "class maps")
    found = loss(logits, target, inputs={"pixel_weights": weights})
    torch.testing.assert_close(found["cross-entropy"], cross_entropy(logits, target, pixel_weights=weights))
    torch.testing.assert_close(found["focal"], focal(logits, target))
    again = loss(logits, target, of_term={"cross-entropy": {"pixel_weights": weights}})
    assert torch.equal(again["cross-entropy"], found["cross-entropy"])
