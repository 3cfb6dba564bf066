"""The contract: every system of the catalog trains a step, predicts, survives its checkpoint and is measured alike."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from scenewise.catalog import SYSTEMS, build, find, interface_of, name_of, options, plain_arguments
from scenewise.data import open_data
from scenewise.data.loader import Collate, plain
from scenewise.engine.evaluate import choose_metrics, evaluate
from scenewise.engine.predict import Predictor, predict
from scenewise.fields.table import FIELDS, INPUTS, count, given, misfit
from scenewise.model import Model
from scenewise.results.prediction import Prediction
from scenewise.types import Batch, Described
from scenewise.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.systems.small import SMALL

NAMES = list(SYSTEMS)
INTERFACES = {name: interface_of(name, SMALL[name]) for name in NAMES}
DETECTORS = [name for name in NAMES if {"boxes", "scores"} <= INTERFACES[name].fills]
OF_PIXELS = [name for name in NAMES if all(FIELDS[field].blank is not None for field in INTERFACES[name].needs)]
OF_OBJECTS = [name for name in NAMES if any(FIELDS[field].per_instance for field in INTERFACES[name].needs)]
NO_BACKGROUND = {"single-object"}  # takes for granted that there is an object: without any, nothing is learned
TRAINED = (2, 3)  # both of these scenes have a figure, and so joints


@pytest.fixture(scope="module")
def scenes():
    return open_data("scenes:count=4,size=64x96")


@functools.cache
def built(name: str, classes: tuple[str, ...]) -> Model:
    """A model of each system, once; batch-norms and weights that are new and so alike or zero hide mistakes."""
    torch.manual_seed(0)
    model = build(name, classes, **SMALL[name]).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def model(scenes, name):
    """A model that the test may change; whatever is drawn at random is drawn alike in each test."""
    model = copy.deepcopy(built(name, scenes.classes))
    torch.manual_seed(0)
    return model


def batch_of(scenes, *indices: int) -> Batch:
    """A batch of scenes with every input that a system may take; proposals are the true boxes and, shifted, some
    more."""
    samples = [plain(*scenes[i]) for i in indices]
    for image, target in samples:
        target |= {name: one.example(image) for name, one in INPUTS.items()}
        boxes = target["boxes"]
        target["proposals"] = torch.cat([boxes, boxes + 2, boxes - 5, boxes.new_tensor([[4, 4, 60, 40]])]).clamp(0, 64)
    return Collate()(samples)


def without_objects(batch: Batch, *rows: int) -> Batch:
    """``batch`` with no object in these images."""
    for row in rows:
        target: Any = batch.targets[row]
        target |= {name: value[:0] for name, value in target.items() if name in FIELDS and FIELDS[name].per_instance}
    return batch


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers_the_loss_and_reaches_every_parameter(model, scenes, name):
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0
    batch = batch_of(scenes, *TRAINED)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = total(model.losses(batch))
    first.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    reached = [p.grad.any() for p in model.parameters() if p.requires_grad and p.dim() > 1]
    assert all(reached)
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        last = total(model.losses(batch))
        last.backward()
    assert last < first


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_named_scalars_in_both_modes(model, scenes, name):
    batch = batch_of(scenes, *TRAINED)
    for mode in (True, False):
        terms = model.train(mode).losses(batch)
        assert terms
        assert all(v.shape == () and v.isfinite() and v >= 0 for v in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_fills_what_it_says(model, scenes, name):
    found = model.predict(batch_of(scenes, 0))[0]
    assert frozenset(given(found)) == model.fills
    assert found.size == (64, 96)
    assert misfit(Described(found.size, model.classes, skeleton=model.skeleton, **given(found))) is None


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_detections_are_objects_of_the_image(model, scenes, name):
    """Best first, boxes within the image, labels of the classes, and as many of one field as of another."""
    found = model.predict(batch_of(scenes, 2, 3))
    assert sum(map(count, found)) > 0, "nothing is found: the test would say nothing"
    for one in found:
        assert len({len(value) for value in given(one).values()}) == 1
        x1, y1, x2, y2 = one.boxes.unbind(1)
        assert ((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= 96) & (y2 <= 64)).all()
        if "labels" in model.fills:
            assert one.labels.dtype == torch.int64
            assert ((one.labels >= 0) & (one.labels < len(scenes.classes))).all()
        assert ((one.scores > 0) & (one.scores <= 1)).all()
        assert (one.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_one_image_alone_equals_the_same_image_in_a_batch(model, scenes, name):
    together = model.predict(batch_of(scenes, 0, 1, 2))
    alone = model.predict(batch_of(scenes, 1))[0]
    for field, value in given(alone).items():
        torch.testing.assert_close(value, given(together[1])[field], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OF_PIXELS)
def test_an_image_without_any_label_gives_a_loss_of_zero(model, scenes, name):
    batch = batch_of(scenes, 0)
    for field in model.needs:
        batch.targets[0][field] = torch.full_like(batch.targets[0][field], FIELDS[field].blank)
    loss = total(model.losses(batch))
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", OF_OBJECTS)
@pytest.mark.parametrize("rows", [(0,), (0, 1)], ids=["one", "all"])
def test_images_without_objects_are_trained_on(model, scenes, name, rows):
    """All of them is background: the losses are numbers, and reach what the losses of other images reach."""
    terms = model.train().losses(without_objects(batch_of(scenes, *TRAINED), *rows))
    assert terms.keys() == model.losses(batch_of(scenes, *TRAINED)).keys()
    assert all(v.shape == () and v.isfinite() and v >= 0 for v in terms.values())
    loss = total(terms)
    assert loss > 0 or (name in NO_BACKGROUND and len(rows) == 2)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_checkpoint_gives_the_same_model_back(model, scenes, name, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path, terms="none")
    again = load_checkpoint(path)
    assert type(again) is type(model)
    assert again.info == {"terms": "none"}
    assert plain_arguments(again) | {"input": None} == plain_arguments(model) | {"input": None}
    batch = batch_of(scenes, 0)
    for field, value in given(model.predict(batch)[0]).items():
        assert torch.equal(value, given(again.predict(batch)[0])[field])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_predictor_gives_the_models_numbers(model, scenes, name):
    """Folded batch-norms and channels-last memory change nothing but rounding; bf16 changes little."""
    batch = batch_of(scenes, 0)
    exact = model.probe(batch)
    ready = Predictor(model)
    assert not any(type(m) is torch.nn.BatchNorm2d for m in ready.model.modules())
    scale = exact.abs().max()
    assert (ready.model.probe(batch) - exact).abs().max() < 1e-4 * scale
    half = Predictor(model, precision="bf16")
    assert (half.model.probe(batch) - exact).abs().max() < 0.1 * scale
    for field, value in given(half.run(batch)[0]).items():
        assert value.dtype == (torch.int64 if field == "labels" else torch.float32), field


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_and_is_measured_through_the_common_calls(model, scenes, name):
    image = scenes[0][0]
    found = predict(model, [image, image[:, :40, :50]])
    assert [p.size for p in found] == [(64, 96), (40, 50)]
    for one in found:
        assert set(given(one)) == {FIELDS[field].gives for field in model.fills}
        assert misfit(one) is None
        assert one.boxes is None or not len(one) or one.boxes[:, 2].max() <= one.size[1]
        assert Prediction.from_json(one.to_json()).size == one.size
        assert one.draw(image[:, : one.size[0], : one.size[1]]).size[0] >= one.size[1]
    scores: Any = evaluate(model, scenes)
    assert scores["images"] == 4
    for part in str(choose_metrics(model.fills, scenes).main).split("."):
        scores = scores[part]
    assert 0 <= scores <= 1


@pytest.mark.parametrize("name", NAMES)
def test_its_options_are_documented(name):
    assert name_of(build(name, ["a", "b"], **SMALL[name])) == name
    for option in options(name).values():
        assert option.about, f"{name}: {option.name} is not described in the docstring's Args"
    assert find(name).load().__doc__
