"""What ``info`` tells of models of every kind, without downloading or running anything."""

from __future__ import annotations

import dataclasses
import json

import pytest

from scenewise.catalog import SYSTEMS, build
from scenewise.engine.info import info
from scenewise.errors import CheckpointError
from scenewise.pipeline import Pipeline
from scenewise.weights.checkpoint import save_checkpoint
from scenewise.weights.load import load
from scenewise.weights.published import PUBLISHED
from tests.systems.small import SMALL


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_described_without_a_download(name, monkeypatch):
    monkeypatch.setattr("scenewise.weights.published.download", lambda *a, **k: pytest.fail("downloads"))
    found = info(name)
    assert (found.kind, found.system) == ("published", PUBLISHED[name].system)
    assert found.parameters > 1e6
    assert "torchvision" in found.terms
    json.dumps(found.to_dict())


def test_a_checkpoint_tells_what_it_was_saved_with(tmp_path):
    model = build("unet", ["a", "b"], width=4, depth=2, padding="same")
    path = tmp_path / "m.safetensors"
    data = {"train": "masks:x", "split": "train"}
    scores = {"data": "masks:x", "split": "val", "mean_iou": 0.5, "per_class": {"a": {"iou": 0.25}}}
    save_checkpoint(model, path, data=data, metrics=scores, terms="CC BY 4.0", lineage=["street-scenes (CC BY-NC 4.0)"])
    found = info(path)
    assert dataclasses.replace(found, source="", kind="") == dataclasses.replace(info(load(path)), source="", kind="")
    assert found.parameters == sum(p.numel() for p in model.parameters())
    rows = dict(found.rows())
    assert rows["data"] == "masks:x, split train"
    assert rows["scores"] == "mean_iou 0.5 (on masks:x, split val)"
    assert rows["terms"] == "CC BY 4.0"
    assert rows["lineage"] == "street-scenes (CC BY-NC 4.0)"
    assert found.scores["per_class"]["a"]["iou"] == 0.25


def test_what_is_not_stated_is_said_to_be_so():
    rows = dict(info(build("unet", ["a"], width=4, depth=2, padding="same")).rows())
    assert [rows[name] for name in ("data", "scores", "terms", "lineage")] == ["not stated"] * 4
    assert "run" not in rows


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_described(name):
    found = info(build(name, ("a", "b"), **SMALL[name]))
    assert (found.system, found.task) == (name, SYSTEMS[name].task)
    json.dumps(found.to_dict())


def test_a_pipeline_has_the_terms_of_its_models():
    first, second = load("blood-cells"), build("fast-rcnn", ("a", "b"), **SMALL["fast-rcnn"])
    found = info(Pipeline(first=first, second=second))
    assert found.terms == "first: MIT (the data set); second: not stated"
    assert found.lineage[0] == "first: data: BCCD (MIT)"
    assert found.arguments["first"]["system"] == "faster-rcnn"


def test_a_run_before_its_first_checkpoint(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {system: unet}\ndata: {train: 'scenes:'}\n")
    with pytest.raises(CheckpointError, match=r"without a checkpoint yet.*train --resume"):
        info(tmp_path)
