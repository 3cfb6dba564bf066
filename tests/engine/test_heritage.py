"""What a run starts with: architecture, weights by the names of classes, terms and lineage."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from scenewise.catalog import build
from scenewise.engine import loop as training
from scenewise.engine.train import train
from scenewise.errors import CheckpointError
from scenewise.files.tensors import read_tensors
from scenewise.recipe import load_recipe
from scenewise.weights.checkpoint import read_header, save_checkpoint
from scenewise.weights.lineage import inherited, of_backbone

CLASSES = ("ball", "box", "can", "cone", "ring", "star", "figure", "wall", "ground")


@pytest.fixture
def parent(tmp_path):
    """A model of the generated scenes' classes in another order, under terms, of a parent of its own."""
    torch.manual_seed(0)
    model = build("unet", [*CLASSES[::-1], "sky"], width=4, depth=2, padding="same", class_weights=[1.0] * 10)
    path = tmp_path / "town" / "best.safetensors"
    path.parent.mkdir()
    save_checkpoint(model, path, terms="CC BY-NC 4.0", lineage=["data: streets (CC BY-NC 4.0)"])
    return path


@pytest.fixture
def plain(tiny_recipe, parent):
    """A recipe without a block ``model`` that starts with :func:`parent`."""
    recipe = tiny_recipe(init=str(parent), trainer__epochs=1)
    del recipe["model"]
    return recipe


def test_the_architecture_is_that_of_the_checkpoint(plain, parent, capsys):
    run = train(plain)
    header = read_header(run.best_checkpoint)
    assert header["system"] == "unet"
    assert header["arguments"]["width"] == 4
    assert header["arguments"].get("class_weights") is None
    assert header["classes"] == list(CLASSES)
    said = " ".join(capsys.readouterr().err.split())
    assert "by the names of classes" in said
    assert "carried over" in said
    assert "not needed" in said
    assert "sky" in said


def test_class_layers_are_carried_by_name(plain, parent, monkeypatch):
    monkeypatch.setattr(training.Loop, "run", lambda self: _stopped(self))
    found = train(plain, quiet=True).scores
    there = read_tensors(parent)
    name = next(key for key in there if len(there[key]) == 10 and there[key].dim() == 4)
    assert torch.equal(found[name], there[name][[8 - i for i in range(9)]])


def _stopped(loop):
    from scenewise.engine.run import Run

    return Run(loop.folder, None, None, loop.model.state_dict(), 0, False)


def test_terms_and_lineage_travel_and_a_stopped_run_keeps_them(plain, parent, monkeypatch):
    log_step = training.Log.step

    def interrupt(self, step, *arguments):
        log_step(self, step, *arguments)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training.Log, "step", interrupt)
        run = train(plain, quiet=True)
    assert not run.finished
    parent.unlink()
    info = read_header(train(resume=run.folder, quiet=True).best_checkpoint)["info"]
    assert info["terms"] == "CC BY-NC 4.0"
    first, second = info["lineage"]
    assert first.startswith("weights: town/best.safetensors, sha256 ")
    assert first.endswith(" (CC BY-NC 4.0)")
    assert second == "data: streets (CC BY-NC 4.0)"


def test_a_child_of_several_is_under_the_terms_of_all():
    found = inherited([("nuclei", {"terms": "CC0 1.0"}), ("blood-cells", {"terms": "MIT", "lineage": ["data: a"]})])
    assert found["terms"] == "CC0 1.0, as nuclei; MIT, as blood-cells"
    assert [line.split(",")[0] for line in found["lineage"]] == ["weights: nuclei", "weights: blood-cells", "data: a"]


def test_the_weights_of_a_backbone_are_told(parent):
    assert of_backbone("resnet18", "imagenet") == {"lineage": ["backbone: ImageNet weights of resnet18"]}
    assert of_backbone("resnet18", str(parent))["terms"] == "CC BY-NC 4.0"


def test_too_little_in_common_is_refused(tiny_recipe, tmp_path):
    """The first layer alone fits."""
    torch.manual_seed(0)
    path = tmp_path / "other.safetensors"
    save_checkpoint(build("unet", CLASSES, width=4, depth=1, padding="same"), path)
    model = {"system": "unet", "width": 4, "depth": 4, "padding": "same"}
    recipe = tiny_recipe(init=str(path), trainer__name="other")
    recipe["model"] = model
    with pytest.raises(CheckpointError, match=r"it has \d\.\d% of the model's numbers; the first that it lacks: "):
        train(recipe, quiet=True)


def test_arguments_of_the_checkpoint_may_be_changed(plain):
    from scenewise.engine.building import model_block

    recipe = load_recipe(plain, {"model.dropout": 0.0, "image_size": 48}, architecture=model_block)
    assert recipe.model["width"] == 4
    assert (recipe.model["dropout"], recipe.model["input"]["short_side"]) == (0.0, 48)
