"""The prepared copy of a model is kept for the next call, and made anew where anything in the model has changed."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scenewise
from scenewise.engine import predict as module
from scenewise.engine.predict import prepare
from scenewise.errors import CheckpointError, UsageError

IMAGE = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return scenewise.build("fcn-resnet", ["a", "b"], backbone="resnet10t").eval()


@pytest.fixture
def made(monkeypatch):
    """The number of times that a copy was made ready."""
    counted = []

    def counting(*arguments, **options):
        counted.append(1)
        return prepare(*arguments, **options)

    monkeypatch.setattr(module, "prepare", counting)
    return counted


def test_a_second_call_makes_nothing_ready(model, made):
    first = scenewise.predict(model, IMAGE)
    second = scenewise.predict(model, IMAGE)
    assert torch.equal(first.semantic, second.semantic)
    scenewise.predict(model, [IMAGE, IMAGE])
    assert len(made) == 1


def changed_by_a_step(model):
    with torch.no_grad():
        next(model.parameters()).add_(1)


def changed_by_another_state(model):
    model.load_state_dict({k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()})


def changed_through_data(model):
    next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).weight.data.fill_(0.5)


def changed_in_a_buffer(model):
    next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_mean.data[0] = 3


def another_parameter(model):
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def another_mode(model):
    model.train()


def another_input(model):
    model.input = scenewise.InputSpec(mean=(0.1, 0.1, 0.1))


def another_attribute_deep_inside(model):
    next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).eps = 0.3


def a_hook(model):
    next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(lambda m, i, o: o * 0)


@pytest.mark.parametrize(
    "change",
    [
        changed_by_a_step, changed_by_another_state, changed_through_data, changed_in_a_buffer, another_parameter,
        another_mode, another_input, another_attribute_deep_inside, a_hook,
    ],
)  # fmt: skip
def test_a_change_is_seen(model, made, change):
    scenewise.predict(model, IMAGE)
    change(model)
    found = scenewise.predict(model, IMAGE)
    assert len(made) == 2
    assert torch.equal(found.semantic, scenewise.predict(copy.deepcopy(model), IMAGE).semantic)
    scenewise.predict(model, IMAGE)
    assert len(made) == 3  # the deep copy's, and no further one


def test_another_precision_is_another_copy(model, made):
    for precision in ("32", "bf16", "bf16"):
        scenewise.predict(model, IMAGE, precision=precision)
    assert len(made) == 2


def test_the_copy_goes_with_the_model(model):
    scenewise.predict(model, IMAGE)
    kept = weakref.ref(module._READY[model][1])
    alone = scenewise.build("fcn-resnet", ["a", "b"], backbone="resnet10t")
    scenewise.predict(alone, IMAGE)
    kept_alone, gone = weakref.ref(module._READY[alone][1]), weakref.ref(alone)
    del alone
    gc.collect()
    assert gone() is None
    assert kept_alone() is None
    assert kept() is not None


def test_a_folder_a_glob_and_floats_are_images(tmp_path):
    model = scenewise.build("unet", 2, width=4, depth=1).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 24, 32, 3), np.uint8)
    for number, image in enumerate(pixels):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"{'in/' if number == 2 else ''}{number}.png")
    folder = scenewise.predict(model, tmp_path)
    assert [Path(found.source).name for found in folder] == ["0.png", "1.png", "2.png"]
    assert [Path(found.source).name for found in scenewise.predict(model, str(tmp_path / "*.png"))] == [
        "0.png",
        "1.png",
    ]
    single, array = scenewise.predict(model, tmp_path / "1.png"), scenewise.predict(model, pixels[1] / 255)
    assert torch.equal(single.semantic, array.semantic)
    with pytest.raises(UsageError, match="no file fits this pattern"):
        scenewise.predict(model, str(tmp_path / "*.jpg"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image in this folder"):
        scenewise.predict(model, tmp_path / "empty")


def test_a_model_by_name_is_read_once_until_its_file_changes(tmp_path, monkeypatch):
    from scenewise.engine import sources

    run = tmp_path / "run"
    run.mkdir()
    model = scenewise.build("unet", 2, width=4, depth=1)
    scenewise.save(model, run / "best.safetensors")
    read = []
    monkeypatch.setattr(sources, "load", lambda name: read.append(name) or scenewise.load(name))
    image = np.zeros((16, 16, 3), np.uint8)
    first = scenewise.predict(run, image)
    assert torch.equal(scenewise.predict(run, image).semantic, first.semantic)
    assert len(read) == 1
    for parameter in model.parameters():
        parameter.data.neg_()
    scenewise.save(model, run / "best.safetensors")
    os.utime(run / "best.safetensors", ns=(1, 1))
    scenewise.predict(run, image)
    assert len(read) == 2
    with pytest.raises(CheckpointError, match="a folder, but not a run's"):
        scenewise.predict(tmp_path, image)
