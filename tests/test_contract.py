"""The contract: every system of the catalog trains a step, predicts, survives its checkpoint and is measured alike."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from scenewise.catalog import SYSTEMS, build, find, name_of, options, plain_arguments
from scenewise.checkpoint import load_checkpoint, save_checkpoint
from scenewise.data import open_data
from scenewise.data.loader import Collate, plain
from scenewise.engine.evaluate import evaluate
from scenewise.engine.predict import Predictor, predict
from scenewise.types import IGNORE, Batch

SMALL: dict[str, dict[str, Any]] = {  # a small configuration of each system
    "deeplab-v3": {"backbone": "resnet10t", "aspp_channels": 8, "multi_grid": None},
    "deeplab-v3-plus": {"backbone": "resnet10t", "aspp_channels": 8, "decoder_channels": 8, "skip_channels": [4]},
    "fcn": {"backbone": "resnet10t"},
    "fcn-resnet": {"backbone": "resnet18"},
    "unet": {"width": 4, "depth": 2, "padding": "same"},
}
NAMES = list(SYSTEMS)


@pytest.fixture(scope="module")
def scenes():
    return open_data("scenes:count=4,size=64x96")


@pytest.fixture(scope="module")
def models(scenes):
    torch.manual_seed(0)
    built = {name: build(name, scenes.classes, **SMALL[name]).eval() for name in NAMES}
    for model in built.values():  # new batch-norms and zero weights hide mistakes: give them numbers
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.5, 1.5)
    return built


def batch_of(scenes, *indices: int) -> Batch:
    return Collate()([plain(*scenes[i]) for i in indices])


def tensors(prediction) -> dict[str, Tensor]:
    values = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
    return {k: v for k, v in values.items() if isinstance(v, Tensor)}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers_the_loss_and_reaches_every_parameter(models, scenes, name):
    model = copy.deepcopy(models[name]).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0
    batch = batch_of(scenes, 0, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = torch.stack(list(model.losses(batch).values())).sum()
    first.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        last = torch.stack(list(model.losses(batch).values())).sum()
        last.backward()
    assert last < first


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_named_scalars_in_both_modes(models, scenes, name):
    batch = batch_of(scenes, 0, 1)
    model = copy.deepcopy(models[name])
    for mode in (True, False):
        terms = model.train(mode).losses(batch)
        assert terms
        assert all(v.shape == () and v.isfinite() and v >= 0 for v in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_fills_what_it_says(models, scenes, name):
    found = models[name].predict(batch_of(scenes, 0))[0]
    assert frozenset(tensors(found)) == models[name].fills
    assert found.size == (64, 96)
    assert found.classes == scenes.classes


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_one_image_alone_equals_the_same_image_in_a_batch(models, scenes, name):
    model = models[name]
    together = model.predict(batch_of(scenes, 0, 1, 2))
    alone = model.predict(batch_of(scenes, 1))[0]
    for field, value in tensors(alone).items():
        torch.testing.assert_close(value, tensors(together[1])[field], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_any_label_gives_a_loss_of_zero(models, scenes, name):
    batch = batch_of(scenes, 0)
    batch.targets[0]["semantic"] = torch.full((64, 96), IGNORE)
    model = copy.deepcopy(models[name])
    total = torch.stack(list(model.losses(batch).values())).sum()
    total.backward()
    assert total == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_checkpoint_gives_the_same_model_back(models, scenes, name, tmp_path):
    model = models[name]
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path, terms="none")
    again = load_checkpoint(path)
    assert type(again) is type(model)
    assert again.info == {"terms": "none"}
    assert plain_arguments(again) | {"input": None} == plain_arguments(model) | {"input": None}
    batch = batch_of(scenes, 0)
    for field, value in tensors(model.predict(batch)[0]).items():
        assert torch.equal(value, tensors(again.predict(batch)[0])[field])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_predictor_gives_the_models_numbers(models, scenes, name):
    """Folded batch-norms and channels-last memory change nothing but rounding; bf16 changes little."""
    model = models[name]
    batch = batch_of(scenes, 0)
    plain_logits = model.predict(batch)[0].semantic_logits
    ready = Predictor(model)
    assert not any(type(m) is torch.nn.BatchNorm2d for m in ready.model.modules())
    scale = plain_logits.abs().max()
    assert (ready.run(batch)[0].semantic_logits - plain_logits).abs().max() < 1e-4 * scale
    half = Predictor(model, precision="bf16").run(batch)[0].semantic_logits
    assert half.dtype == torch.float32
    assert (half - plain_logits).abs().max() < 0.1 * scale


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_and_is_measured_through_the_common_calls(models, scenes, name):
    image = scenes[0][0]
    found = predict(models[name], [image, image[:, :40, :50]])
    assert [p.size for p in found] == [(64, 96), (40, 50)]
    assert found[0].semantic.shape == (64, 96)
    assert 0 <= int(found[0].semantic.min()) <= int(found[0].semantic.max()) < len(scenes.classes)
    scores = evaluate(models[name], scenes)
    assert scores["images"] == 4
    assert 0 <= scores["mean_iou"] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_its_options_are_documented(name):
    assert name_of(build(name, ["a", "b"], **SMALL[name])) == name
    for option in options(name).values():
        assert option.about, f"{name}: {option.name} is not described in the docstring's Args"
    assert find(name).load().__doc__
