"""The contract: every system of the catalog trains a step, predicts, survives its checkpoint and is measured alike.

Nothing here knows a task. What is built is the system's row in ``tests/systems/small.py``; what it is fed follows from
``Model.interface`` and the tables of fields and inputs (``tests/everything.py``), and so does what is asked of what it
returns. The toys among the rows are of kinds that no system of the catalog is of: they keep it so.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scenewise.catalog import SYSTEMS, build, find, interface_of, name_of, options, plain_arguments
from scenewise.engine.evaluate import choose_metrics, evaluate
from scenewise.engine.players import parties_of
from scenewise.engine.predict import Predictor, predict
from scenewise.errors import UsageError
from scenewise.fields.table import FIELDS, INPUTS, count, given, misfit
from scenewise.model import Model
from scenewise.results.prediction import Prediction
from scenewise.types import Batch, Described
from scenewise.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.everything import SIZE, Everything
from tests.systems.small import NO_BACKGROUND, SMALL, TOYS

ROWS = SMALL | TOYS
NAMES = list(ROWS)
INTERFACES = {name: interface_of(name, ROWS[name]) for name in NAMES}
OF_INSTANCES = [name for name in NAMES if any(FIELDS[field].per_instance for field in INTERFACES[name].fills)]
OF_OBJECTS = [name for name in NAMES if any(FIELDS[field].per_instance for field in INTERFACES[name].needs)]
OF_PIXELS = [name for name in NAMES if all(FIELDS[field].blank is not None for field in INTERFACES[name].needs)]
ONE_PLAYER = {name for name in NAMES if find(name).load().players is Model.players}
TRAINED = (2, 3)  # both of these scenes have a figure, and so joints


@pytest.fixture(scope="module")
def data():
    return Everything()


@functools.cache
def built(name: str, classes: tuple[str, ...]) -> Model:
    """A model of each system, once; batch-norms and weights that are new and so alike or zero hide mistakes."""
    torch.manual_seed(0)
    model = build(name, classes, **ROWS[name]).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def model(data, name):
    """A model that the test may change; whatever is drawn at random is drawn alike in each test."""
    model = copy.deepcopy(built(name, data.classes))
    torch.manual_seed(0)
    return model


def without_objects(batch: Batch, *rows: int) -> Batch:
    """``batch`` with no object in these images."""
    for row in rows:
        target: Any = batch.targets[row]
        target |= {name: value[:0] for name, value in target.items() if name in FIELDS and FIELDS[name].per_instance}
    return batch


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def gradients(model: Model, batch: Batch) -> tuple[float, list[tuple[nn.Parameter, Tensor | None]]]:
    """The loss, and each trained parameter with the gradient of its own player's terms (of all, with one player).

    What a loss draws at random, such as the boxes that it samples, it draws alike each time.
    """
    torch.manual_seed(0)
    terms, found = model.losses(batch), []
    for player, members in parties_of(model).items():
        own = {name: value for name, value in terms.items() if not player or name.split("/")[0] == player}
        trained = [p for p in members if p.requires_grad]
        found += zip(
            trained, torch.autograd.grad(total(own), trained, retain_graph=True, allow_unused=True), strict=True
        )
    return float(total(terms).detach()), found


@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers_the_loss_and_reaches_every_parameter(model, data, name):
    """Of several players each has a loss of its own, and what one wins the other loses."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    batch = data.batch(*TRAINED)
    first, found = gradients(model, batch)
    assert all(gradient is not None for _, gradient in found)
    assert all(gradient.any() for parameter, gradient in found if parameter.dim() > 1)
    if name not in ONE_PLAYER:
        return
    for _ in range(3):
        with torch.no_grad():
            for parameter, gradient in found:
                parameter -= 0.01 * gradient
        last, found = gradients(model, batch)
    assert last < first


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_named_scalars_in_both_modes(model, data, name):
    batch = data.batch(*TRAINED)
    for mode in (True, False):
        terms = model.train(mode).losses(batch)
        assert terms
        assert all(v.shape == () and v.isfinite() for v in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_fills_what_it_says(model, data, name):
    found = model.predict(data.batch(0))[0]
    assert frozenset(given(found)) == model.fills
    assert found.size == SIZE
    assert misfit(Described(found.size, model.classes, skeleton=model.skeleton, **given(found))) is None


@pytest.mark.parametrize("name", OF_INSTANCES)
@torch.no_grad()
def test_instances_are_objects_of_the_image(model, data, name):
    """As many of one field as of another, labels of the classes, best first, boxes within the image."""
    found = model.predict(data.batch(2, 3))
    assert sum(map(count, found)) > 0, "nothing is found: the test would say nothing"
    for one in found:
        assert misfit(Described(one.size, model.classes, skeleton=model.skeleton, **given(one))) is None
        if one.scores is not None:
            assert ((one.scores > 0) & (one.scores <= 1)).all()
            assert (one.scores.diff() <= 0).all()
        if one.boxes is not None:
            x1, y1, x2, y2 = one.boxes.unbind(1)
            assert ((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= SIZE[1]) & (y2 <= SIZE[0])).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_one_image_alone_equals_the_same_image_in_a_batch(model, data, name):
    together = model.predict(data.batch(0, 1, 2))
    alone = model.predict(data.batch(1))[0]
    for field, value in given(alone).items():
        torch.testing.assert_close(value, given(together[1])[field], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in OF_PIXELS if name in ONE_PLAYER])
def test_an_image_without_any_label_gives_a_loss_of_zero(model, data, name):
    batch = data.batch(0)
    for field in model.needs:
        batch.targets[0][field] = torch.full_like(batch.targets[0][field], FIELDS[field].blank)
    loss, found = gradients(model, batch)
    assert loss == 0
    assert not any(gradient.any() for _, gradient in found if gradient is not None)


@pytest.mark.parametrize("name", OF_OBJECTS)
@pytest.mark.parametrize("rows", [(0,), (0, 1)], ids=["one", "all"])
def test_images_without_objects_are_trained_on(model, data, name, rows):
    """All of them is background: the losses are numbers, and reach what the losses of other images reach."""
    batch = without_objects(data.batch(*TRAINED), *rows)
    terms = model.train().losses(batch)
    assert terms.keys() == model.losses(data.batch(*TRAINED)).keys()
    assert all(v.shape == () and v.isfinite() for v in terms.values())
    loss, found = gradients(model, batch)
    assert loss > 0 or (name in NO_BACKGROUND and len(rows) == 2)
    assert all(gradient is not None and gradient.isfinite().all() for _, gradient in found)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_checkpoint_gives_the_same_model_back(model, data, name, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path, terms="none")
    again = load_checkpoint(path)
    assert type(again) is type(model)
    assert again.info == {"terms": "none"}
    assert plain_arguments(again) | {"input": None} == plain_arguments(model) | {"input": None}
    batch = data.batch(0)
    for field, value in given(model.predict(batch)[0]).items():
        assert torch.equal(value, given(again.predict(batch)[0])[field])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_predictor_gives_the_models_numbers(model, data, name):
    """Folded batch-norms and channels-last memory change nothing but rounding; bf16 changes little."""
    batch = data.batch(0)
    exact = model.probe(batch)
    ready = Predictor(model)
    assert not any(type(m) is nn.BatchNorm2d for m in ready.model.modules())
    scale = exact.abs().max()
    assert (ready.model.probe(batch) - exact).abs().max() < 1e-4 * scale
    half = Predictor(model, precision="bf16")
    assert (half.model.probe(batch) - exact).abs().max() < 0.1 * scale
    types = {field: value.dtype for field, value in given(ready.run(batch)[0]).items()}
    assert {field: value.dtype for field, value in given(half.run(batch)[0]).items()} == types


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_and_is_drawn_and_kept_through_the_common_calls(model, data, name):
    image = data[0][0].as_subclass(Tensor)
    images = [image, image[:, :40, :50]]
    inputs = [{taken: INPUTS[taken].example(one / 255) for taken in model.takes} for one in images]
    found = predict(model, images, inputs=inputs)
    assert [p.size for p in found] == [SIZE, (40, 50)]
    for one in found:
        assert set(given(one)) == {FIELDS[field].gives for field in model.fills}
        assert misfit(one) is None
        assert one.boxes is None or not len(one) or one.boxes[:, 2].max() <= one.size[1]
        assert Prediction.from_json(one.to_json()).size == one.size
        assert one.draw(image[:, : one.size[0], : one.size[1]]).size[0] >= one.size[1]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_measured_through_the_common_call(model, data, name):
    seen: list[int] = []
    lean = data.taking(model.takes)
    scores: Any = evaluate(model, lean, tick=seen.append)
    assert sum(seen) == len(data)
    for part in str(choose_metrics(model.fills, lean).main).split("."):
        scores = scores[part]
    assert math.isfinite(scores)


@pytest.mark.parametrize("name", SYSTEMS)
def test_its_options_are_documented(name):
    assert name_of(built(name, ("a", "b"))) == name
    for option in options(name).values():
        assert option.about, f"{name}: {option.name} is not described in the docstring's Args"
    assert find(name).load().__doc__


def test_every_system_has_its_row():
    assert SMALL.keys() == SYSTEMS.keys()


@pytest.mark.parametrize("name", SMALL)
def test_any_number_of_channels(data, name):
    """Where a model's input states five channels, it takes images of five and no others."""
    torch.manual_seed(0)
    arguments = SMALL[name] | {"input": {**SMALL[name].get("input", {}), "channels": 5}}
    model = build(name, data.classes, **arguments)
    batch = data.batch(*TRAINED)
    with pytest.raises(UsageError, match="3 channels; the model takes 5"):
        model.losses(batch)
    batch.images = torch.cat([batch.images, batch.images[:, :2]], 1)
    assert all(bool(term.isfinite()) for term in model.losses(batch).values())
    model.eval()
    model.finish([batch])
    with torch.no_grad():
        assert len(model.predict(batch)) == len(TRAINED)
