"""The losses of the segmentation systems by name: in Python, in recipes, on the command line, in checkpoints."""

import json
import sys

import pytest
import torch

from scenewise.catalog import build, check_arguments, options, plain_arguments
from scenewise.engine.building import build_model, open_training_data
from scenewise.errors import UsageError
from scenewise.losses.cross_entropy import cross_entropy
from scenewise.losses.overlap import dice
from scenewise.losses.smoothness import smoothness
from scenewise.losses.table import losses_for
from scenewise.nn.semantic import SegmentationLoss
from scenewise.recipe import load_recipe, parse_overrides
from scenewise.types import IGNORE, Batch
from scenewise.weights.checkpoint import load_checkpoint, read_header, save_checkpoint

ROWS = losses_for("class maps")
SMALL = {"width": 2, "depth": 1, "padding": "same"}
TERMS = {"cross-entropy": {"weight": 0.1, "label_smoothing": 0.1}, "dice": {"classes": (0, 2), "smooth": 1}, "ohem": 2}

ARGUMENTS = [(0.1, {"label_smoothing": 0.1}), (1.0, {"classes": (0, 2), "smooth": 1.0}), (2.0, {})]


def example():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 6, 7), generator=generator)
    target[0, :2] = IGNORE
    return torch.randn(2, 3, 6, 7, generator=generator), target


@pytest.mark.parametrize("name", ROWS)
def test_each_term(name):
    logits, target = example()
    terms = SegmentationLoss({name: 0.5}, 3, None)(logits, target)
    torch.testing.assert_close(terms, {name: 0.5 * ROWS[name].function(logits, target)})


@pytest.mark.parametrize("name", ROWS)
def test_class_weights_reach_the_means_over_pixels(name):
    logits, target = example()
    weights = (0.1, 2.0, 5.0)
    means = ("cross-entropy", "edge-cross-entropy", "binary-cross-entropy", "focal", "ohem")
    arguments = {"class_weights": torch.tensor(weights)} if name in means else {}
    terms = SegmentationLoss({name: 1.0}, 3, weights)(logits, target)
    torch.testing.assert_close(terms, {name: ROWS[name].function(logits, target, **arguments)})


def test_terms_add_up_as_composed_by_hand():
    """0.1 CE + 0.9 (1 - Dice), of a Kaggle winner; CE - log IoU of another."""
    logits, target = example()
    terms = SegmentationLoss({"cross-entropy": 0.1, "dice": 0.9}, 3, None)(logits, target)
    assert list(terms) == ["cross-entropy", "dice"]
    expected = 0.1 * cross_entropy(logits, target) + 0.9 * dice(logits, target)
    torch.testing.assert_close(sum(terms.values()), expected)
    terms = SegmentationLoss({"cross-entropy": 1, "jaccard": {"log": True}}, 3, None)(logits, target)
    iou = []
    for c in range(3):
        q, p = logits.softmax(1)[:, c][target != IGNORE], (target == c)[target != IGNORE].float()
        iou.append((q * p).sum() / (q + p - q * p).sum())
    expected = cross_entropy(logits, target) - torch.stack(iou).log().mean()
    torch.testing.assert_close(sum(terms.values()), expected)


def test_integer_weights_are_numbers_too():
    logits, target = example()
    assert SegmentationLoss({"cross-entropy": 1}, 3, (1, 2, 3))(logits, target)["cross-entropy"].isfinite()


def test_weights_are_no_part_of_the_checkpoint():
    loss = SegmentationLoss({"dice": {"class_weights": [1.0, 2.0]}}, 2, (1.0, 2.0))
    assert not loss.state_dict()


def test_class_weights_are_one_per_class():
    with pytest.raises(UsageError, match="class_weights has 2 numbers; expected one for each of 3 classes"):
        SegmentationLoss({"dice": 1.0}, 3, (1.0, 2.0))


def test_total_variation_looks_at_unlabelled_pixels_and_not_at_padding():
    logits, target = example()
    images = torch.rand(2, 3, 6, 7)
    batch = Batch(images, [(6, 5), (4, 7)], [{"semantic": target[0, :, :5]}, {"semantic": target[1, :4]}])
    inside = torch.zeros(2, 6, 7, dtype=torch.bool)
    inside[0, :, :5] = inside[1, :4] = True
    loss = SegmentationLoss({"total-variation": {"kappa": 2.0}, "dice": 1.0}, 3, None)
    expected = smoothness(logits, target, kappa=2.0, inside=inside, image=images)
    torch.testing.assert_close(loss(logits, target, batch)["total-variation"], expected)
    everywhere = smoothness(logits, target, kappa=2.0, image=images)
    whole = loss(logits, target, Batch(images, [(6, 7)] * 2))
    torch.testing.assert_close(whole["total-variation"], everywhere)
    assert not torch.isclose(expected, everywhere)


@pytest.mark.parametrize("system", ["unet", "fcn", "fcn-resnet", "deeplab-v3", "deeplab-v3-plus"])
def test_systems_give_their_loss_the_batch(system):
    """So that padding does not count in total variation, whatever stands there."""
    small = {
        "unet": SMALL,
        "fcn": {"backbone": "resnet10t"},
        "fcn-resnet": {"backbone": "resnet10t", "output_stride": 32},
        "deeplab-v3": {"backbone": "resnet10t", "aspp_channels": 8, "multi_grid": None},
        "deeplab-v3-plus": {"backbone": "resnet10t", "aspp_channels": 8, "decoder_channels": 8, "skip_channels": (8,)},
    }[system]
    model = build(system, ("a", "b", "c"), loss={"total-variation": 1.0}, **small).eval()
    seen = []
    model.loss.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    batch = Batch(torch.rand(2, 3, 64, 64), [(64, 64), (40, 50)])
    batch.targets = [{"semantic": torch.zeros(size, dtype=torch.int64)} for size in batch.sizes]
    model.losses(batch)
    assert seen == [batch]


# ---- recipes, overrides, checkpoints


def recipe(*words, **model):
    values = {"model": {"system": "unet", **SMALL, **model}, "data": {"train": "scenes:count=2,size=32x32"}}
    return load_recipe(values, parse_overrides(list(words)))


def test_recipes_are_refused_before_anything_is_built():
    with pytest.raises(UsageError, match=r"recipe: model: loss: there is no 'dise'; did you mean 'dice'\?"):
        recipe(loss={"dise": 1.0})
    with pytest.raises(UsageError, match=r"recipe: model: loss: focal has no parameter 'gama'; did you mean 'gamma'\?"):
        recipe("model.loss.focal.gama=3", loss={"focal": 0.5})


def test_dotted_overrides_reach_the_parameters():
    loss = {"cross-entropy": 1.0, "focal": 0.5, "dice": {"weight": 2, "smooth": 1.0}}
    found = recipe("model.loss.focal.gamma=3", "model.loss.dice.scope=image", "model.loss.ohem=0.1", loss=loss)
    assert found.arguments["loss"] == {
        "cross-entropy": 1.0,
        "focal": {"weight": 0.5, "gamma": 3},
        "dice": {"weight": 2, "smooth": 1.0, "scope": "image"},
        "ohem": 0.1,
    }
    assert loss["focal"] == 0.5  # the caller's stays as it was
    assert recipe("model.loss.tversky.alpha=0.5").arguments["loss"] == {"tversky": {"alpha": 0.5}}
    again = load_recipe({**recipe(loss=TERMS).model_dump(mode="json")})
    loss = build("unet", ("a", "b", "c"), **again.arguments).loss
    assert [(term.weight, term.arguments) for term in loss.terms.values()] == ARGUMENTS


def test_parameters_travel_with_the_checkpoint(tmp_path):
    model = build("unet", ("a", "b", "c"), **SMALL, loss=TERMS, class_weights=(1, 2, 3))
    plain = plain_arguments(model)
    assert plain["loss"] == {**TERMS, "dice": {"classes": [0, 2], "smooth": 1}}
    assert json.loads(json.dumps(plain)) == plain
    save_checkpoint(model, tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors")["arguments"]["loss"] == plain["loss"]
    again = load_checkpoint(tmp_path / "a.safetensors")
    for built in (model, again):
        assert [(term.weight, term.arguments) for term in built.loss.terms.values()] == ARGUMENTS
    assert plain_arguments(again)["loss"] == plain["loss"]


def test_own_losses_train_and_load_where_they_are_missing(tmp_path, monkeypatch):
    (tmp_path / "ring_loss.py").write_text(
        "def ring(logits, target, *, radius=1.0):\n    return (logits**2).mean() * radius\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "ring_loss:ring"
    settings = recipe(loss={"cross-entropy": 1.0, name: {"weight": 0.5, "radius": 2.0}})
    data = open_training_data(settings)
    model = build_model(settings, data, None)
    batch = Batch(torch.rand(1, 3, 32, 32), [(32, 32)], [{"semantic": torch.zeros(32, 32, dtype=torch.int64)}])
    assert model.losses(batch)[name].requires_grad
    save_checkpoint(model, tmp_path / "a.safetensors")
    monkeypatch.delitem(sys.modules, "ring_loss")
    (tmp_path / "ring_loss.py").unlink()
    sys.path_importer_cache.clear()
    again = load_checkpoint(tmp_path / "a.safetensors")
    assert again.predict(batch)[0].semantic_logits.shape[-2:] == (32, 32)
    with pytest.raises(UsageError, match="loss ring_loss:ring: the module 'ring_loss' can't be imported"):
        again.losses(batch)
    with pytest.raises(UsageError, match="loss ring_loss:ring: the module 'ring_loss' can't be imported"):
        build_model(settings, data, None)


def test_class_weights_are_counted_with_their_parameters():
    from scenewise.losses.class_weights import class_weights, count_classes

    values = {"model": {"system": "unet", **SMALL}, "data": {"train": "scenes:count=2,size=32x32"}}
    values["data"]["class_weights"] = {"mode": "effective", "beta": 0.99, "clip": [0.1, 0.5], "renormalize": True}
    settings = load_recipe(values)
    data = open_training_data(settings)
    expected = class_weights(count_classes(data), "effective", beta=0.99, clip=(0.1, 0.5), renormalize=True)
    model = build_model(settings, data, None)
    torch.testing.assert_close(model.loss.class_weights, expected)
    values["data"]["class_weights"] = "median"
    model = build_model(load_recipe(values), data, None)
    torch.testing.assert_close(model.loss.class_weights, class_weights(count_classes(data), "median"))


def test_the_option_describes_itself():
    assert options("unet")["loss"].describe() == "Mapping[str, float | Mapping[str, Any]]"
    with pytest.raises(UsageError, match="loss is 'dice'; expected losses with their weights"):
        check_arguments("unet", {"classes": ("a",), "loss": "dice"})


# ---- U-Net's border weights


def border_example():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 4:12, 2:7] = masks[1, 4:12, 9:14] = True
    target = {"semantic": masks.any(0).long(), "masks": masks}
    return Batch(torch.rand(1, 3, 16, 16), [(16, 16)], [target])


def test_border_weights_go_with_the_cross_entropy_alone():
    batch = border_example()
    terms = {"dice": 0.5, "cross-entropy": {"weight": 2.0, "label_smoothing": 0.1, "class_weights": [1.0, 3.0]}}
    model = build("unet", ("out", "in"), **SMALL, border_weight=True, loss=terms, class_weights=(9, 9)).eval()
    found = model.losses(batch)
    logits, target = model.logits(batch), batch.stacked("semantic", IGNORE)
    weights = model.pixel_weights(batch)
    assert 1 < weights[0, 0, 0] < 1.2  # of class 0, far from the gap
    assert weights[0, 8, 5] == 3
    assert weights[0, 8, 7] > 1.5
    expected = 2 * cross_entropy(logits, target, pixel_weights=weights, label_smoothing=0.1)
    torch.testing.assert_close(found["cross-entropy"], expected)
    torch.testing.assert_close(found["dice"], 0.5 * dice(logits, target))
