"""Checkpoints of format 1 load: their tensors, arguments and defaults are today's under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewise.catalog import SYSTEMS, build, options
from scenewise.files.tensors import read_tensors, write_tensors
from scenewise.weights import older
from scenewise.weights.checkpoint import FORMAT, load_checkpoint, read_header, save_checkpoint
from scenewise.weights.load import load
from scenewise.weights.packaged import PACKAGED
from tests.systems.options import SMALL, small

NARROW = {"convs": 1, "channels": 8, "size": 14, "boundary": True}
JOINTS = {"count": 3, "convs": 1, "channels": 8, "size": 28}
CASES: dict[str, dict[str, Any]] = {
    "fast-rcnn": {"backbone": "resnet10t", "head": {"channels": 8, "size": 3}},
    "faster-rcnn": {},
    "keypoint-rcnn": {"keypoints": JOINTS},
    "mask-rcnn": {"mask": NARROW},
}
FORMER_NAMES = {  # one tensor of each module that is named anew
    "fast-rcnn": {"head.first.weight", "head.second.bias", "classifier.weight", "corrector.bias"},
    "faster-rcnn": {"head.first.weight", "head.second.bias", "classifier.weight", "corrector.bias", "rpn.deltas.bias"},
    "keypoint-rcnn": {"corrector.bias", "keypoint_head.layers.0.weight", "keypoint_head.enlarge.weight"},
    "mask-rcnn": {
        "corrector.bias",
        "mask_head.layers.0.weight",
        "mask_head.classifier.bias",
        "mask_head.boundary.bias",
    },
}


def as_format_1(path: Path, **arguments: Any) -> set[str]:
    """Rewrite the checkpoint ``path`` as format 1 had it, with ``arguments`` in its header; its tensors' names."""
    header, tensors = read_header(path), read_tensors(path)
    names = older.RENAMED_TENSORS.get(header["system"], ())
    former = {}
    for key, value in tensors.items():
        old, new = next((pair for pair in names if key.startswith(pair[1])), ("", ""))
        former[old + key[len(new) :]] = value
    header |= {"format": 1, "arguments": arguments}
    write_tensors(path, former, {"scenewise": json.dumps(header)})
    return set(former)


@pytest.mark.parametrize("system", CASES)
def test_tensors_are_found_under_their_former_names(system, tmp_path):
    arguments = CASES[system]
    model = build(system, ["a"], **arguments) if system == "fast-rcnn" else small(system, **arguments)
    save_checkpoint(model, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    assert header["format"] == FORMAT == 2
    names = as_format_1(tmp_path / "model.safetensors", **header["arguments"])
    assert FORMER_NAMES[system] <= names
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize(("system", "former"), [("rpn", "channels"), ("r-fcn", "rpn_channels")])
def test_the_width_of_a_proposal_network_was_an_argument_of_its_own(system, former, tmp_path):
    path = tmp_path / "model.safetensors"
    given = {"backbone": "resnet10t", "features": {"channels": 16}} | (
        {"k": 3, "channels": 8} if former[0] == "r" else {}
    )
    save_checkpoint(build(system, ["a"], **given, proposals={"channels": 24}), path)
    as_format_1(path, **given, **{former: 24})
    model = load_checkpoint(path)
    assert model.rpn.conv.out_channels == 24
    assert model.rpn.spec.after_nms == {"rpn": 1000, "r-fcn": 300}[system]


def test_what_a_header_leaves_out_is_at_its_former_default(tmp_path):
    """On one map today's defaults are the papers'; a model that was trained with others keeps them."""
    path, given = tmp_path / "model.safetensors", {"backbone": "resnet10t", "design": "c4"}
    anchors = {"sizes": [[32, 64, 128, 256, 512]]}
    save_checkpoint(build("mask-rcnn", ["a"], **given, anchors=anchors), path)
    as_format_1(path, **given, proposals={"after_nms": 20})
    model = load_checkpoint(path)
    spec = model.rpn.spec
    assert (spec.train_before_nms, spec.before_nms, spec.after_nms) == (2000, 1000, 20)
    assert (model.mask_head.spec.size, model.sampler.samples, model.detections.nms_iou) == (28, 512, 0.5)
    proposals = {"channels": None}
    save_checkpoint(build("faster-rcnn", ["a"], **given, anchors=anchors, proposals=proposals), path)
    as_format_1(path, **given)
    model = load_checkpoint(path)
    assert model.rpn.objectness.out_channels == 15
    assert model.rpn.spec.border_anchors
    assert (model.sampler.samples, model.detections.nms_iou) == (512, 0.5)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_models_load(name):
    """They are of format 1."""
    load(name)


def test_the_tables_speak_of_systems_and_options_that_there_are():
    assert set(older.RENAMED_TENSORS) | set(older.RENAMED_ARGUMENTS) | set(older.FORMER_DEFAULTS) <= set(SYSTEMS)
    for system, renamed in older.RENAMED_ARGUMENTS.items():
        for new in renamed.values():
            assert new.split(".")[0] in options(system)
    for system, former in older.FORMER_DEFAULTS.items():
        assert set(former) <= set(options(system))
    assert SMALL["backbone"] == "resnet10t"
