"""Published weights of detectors: the table is torchvision's, files of both namings are read, runs start from them.

That outputs equal torchvision's is tested with each system (``tests/systems``), whose twins are filled the same way.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import detection

from scenewise.engine.train import train
from scenewise.errors import CheckpointError, UsageError
from scenewise.files.tensors import read_tensors
from scenewise.recipe import load_recipe
from scenewise.weights import published
from scenewise.weights.published import COCO_CLASSES, PUBLISHED, load_published
from tests.systems.torchvision_twins import former_names, reference, row_of, twin

ENUMS = {
    "fasterrcnn": detection.FasterRCNN_ResNet50_FPN_Weights,
    "maskrcnn": detection.MaskRCNN_ResNet50_FPN_Weights,
    "keypointrcnn": detection.KeypointRCNN_ResNet50_FPN_Weights,
    "fasterrcnn_v2": detection.FasterRCNN_ResNet50_FPN_V2_Weights,
    "maskrcnn_v2": detection.MaskRCNN_ResNet50_FPN_V2_Weights,
    "retinanet": detection.RetinaNet_ResNet50_FPN_Weights,
    "retinanet_v2": detection.RetinaNet_ResNet50_FPN_V2_Weights,
}
FORMER = (
    "fasterrcnn",
    "maskrcnn",
    "keypointrcnn",
    "retinanet",
)  # whose files are older than torchvision's present names
OURS = {"box_map": "box.AP", "mask_map": "mask.AP", "kp_map": "keypoints.AP"}
NAME = "test/maskrcnn"


@pytest.mark.parametrize("name", ENUMS)
def test_rows_state_what_torchvision_states(name):
    theirs, ours = ENUMS[name].COCO_V1, row_of(name)
    assert ours.url == theirs.url
    assert theirs.url.endswith(f"-{ours.sha256}.pth")
    assert ours.size == pytest.approx(theirs.meta["_file_size"], abs=0.06)
    assert list(ours.outputs) == theirs.meta["categories"]
    metrics = {OURS[key]: value / 100 for key, value in theirs.meta["_metrics"]["COCO-val2017"].items()}
    assert ours.metrics == pytest.approx(metrics)
    assert sum(p.numel() for p in reference(name).parameters()) == theirs.meta["num_params"]
    assert (ours.input.short_side, ours.input.long_side, ours.input.antialias) == (800, 1333, False)


def test_classes_are_cocos():
    assert len(COCO_CLASSES) == 80
    assert "N/A" not in COCO_CLASSES
    assert (COCO_CLASSES[0], COCO_CLASSES[11], COCO_CLASSES[79]) == ("person", "stop sign", "toothbrush")
    assert row_of("keypointrcnn").classes == ("person",)


@pytest.mark.parametrize("name", FORMER)
def test_a_file_in_the_former_naming(name, tmp_path):
    """Files of the first years and today's fill the model alike; frozen batch-norms have no step counters."""
    state = former_names(reference(name).state_dict())
    assert ("head.classification_head.conv.6.bias" if name == "retinanet" else "rpn.head.conv.weight") in state
    assert not any(key.endswith("num_batches_tracked") for key in state)
    torch.save(state, tmp_path / "former.pth")
    model = load_published(f"torchvision/{name}_resnet50_fpn", tmp_path / "former.pth")
    for key, value in twin(name).state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not model.training
    assert model.info["published"] == f"torchvision/{name}_resnet50_fpn"


def test_rows_of_the_classes_are_taken():
    """Class 11 is COCO's number 13, stop sign; each has four rows in the corrections; masks have no background."""
    theirs, ours = reference("maskrcnn").state_dict(), twin("maskrcnn")
    head = "roi_heads.box_predictor"
    assert torch.equal(ours.box_head.classifier.weight[12], theirs[f"{head}.cls_score.weight"][13])
    assert torch.equal(ours.box_head.classifier.weight[0], theirs[f"{head}.cls_score.weight"][0])
    assert torch.equal(ours.box_head.box_regressor.bias[48:52], theirs[f"{head}.bbox_pred.bias"][52:56])
    logits = theirs["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    assert torch.equal(ours.mask_head.mask_logits.weight[11], logits[13])
    assert len(ours.mask_head.mask_logits.weight) == 80


def test_rows_of_the_classes_are_taken_from_each_anchor():
    """Theirs are 91 for the first anchor, then 91 for the second; ours nine for the first class, of stop signs 11."""
    theirs, ours = reference("retinanet").state_dict(), twin("retinanet")
    logits = theirs["head.classification_head.cls_logits.weight"]
    assert (len(logits), len(ours.class_logits.weight)) == (9 * 91, 80 * 9)
    for anchor in (0, 4, 8):
        assert torch.equal(ours.class_logits.weight[11 * 9 + anchor], logits[anchor * 91 + 13])


# A small network in the publisher's format


def their_tensors(row: published.Published) -> dict[str, Tensor]:
    """What the publisher of ``row`` would publish: tensors with the names and shapes of its file."""
    torch.manual_seed(0)
    model = row.build()
    tensors = {}
    for key, value in model.state_dict().items():
        shape = published._their_shape(key, value, row)
        if value.is_floating_point():
            value = torch.rand(shape) + 0.5 if key.endswith("running_var") else 0.02 * torch.randn(shape)
        tensors[published._their_name(key, row.names)] = value
    return tensors


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """The publisher's file of a small Mask R-CNN, whose row is in the table."""
    small = {"backbone": "resnet10t", "features": {"channels": 16}, "head": {"channels": 16}}
    arguments = {**small, "mask": {"channels": 8}}
    row = dataclasses.replace(row_of("maskrcnn"), name=NAME, arguments=arguments)
    monkeypatch.setitem(PUBLISHED, NAME, row)
    torch.save(their_tensors(row), tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rpn.head.conv.0.0.bias": None},
            r"lacks 1 tensors of test/maskrcnn, the first 'rpn\.head\.conv\.0\.0\.bias'",
        ),
        ({"extra.weight": torch.zeros(1)}, r"has unknown 1 tensors of test/maskrcnn, the first 'extra\.weight'"),
        (
            {"roi_heads.box_predictor.cls_score.bias": torch.zeros(81)},
            r"roi_heads\.box_predictor\.cls_score\.bias has shape \[81\]; test/maskrcnn needs \[91\]",
        ),
        (
            {"roi_heads.box_predictor.bbox_pred.bias": torch.zeros(91)},
            r"roi_heads\.box_predictor\.bbox_pred\.bias has shape \[91\]; test/maskrcnn needs \[364\]",
        ),
    ],
)
def test_another_networks_file_names_the_first_tensor(weights, change, message):
    tensors = {k: v for k, v in {**read_tensors(weights), **change}.items() if v is not None}
    torch.save(tensors, weights)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(weights))}: {message}"):
        load_published(NAME, weights)


def recipe(weights: Path | None, **values):
    return {
        "model": {"system": "mask-rcnn", **PUBLISHED[NAME].arguments, "input": {"size_divisor": 32}},
        "data": {"train": "scenes:count=2,size=64x64", "val": None, "val_split": None, "workers": 0},
        "optimizer": {"name": "sgd", "lr": 1e-12},
        "trainer": {"epochs": 1, "batch_size": 2, "clip_norm": 1.0},  # steps far below a float's last digit
        "init": NAME,
        "init_weights_file": None if weights is None else str(weights),
        **values,
    }


def test_fine_tuning_starts_from_a_file_and_names_the_heads_that_stay_new(weights, tmp_path, capsys):
    """From COCO's 80 classes to nine: the classes' layers are new, all else is taken over."""
    values = recipe(weights)
    values["trainer"] |= {"folder": str(tmp_path), "name": "run"}
    run = train(values)
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    for layer in ("box_head.classifier", "box_head.box_regressor", "mask_head.mask_logits"):
        for part in ("weight", "bias"):
            assert f"newly initialised: {layer}.{part} " in said
    assert said.count("newly initialised") == 6
    before, after = load_published(NAME, weights).state_dict(), read_tensors(run.last_checkpoint)
    for key, value in after.items():
        if not re.match(r"box_head\.(classifier|box_regressor)|mask_head\.mask_logits", key):
            torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6, msg=key)
    assert len(after["box_head.classifier.weight"]) == 10


def test_a_weights_file_needs_the_name_of_its_weights(weights):
    with pytest.raises(UsageError, match="recipe: init_weights_file needs init, the published name of those weights"):
        load_recipe(recipe(weights, init=None))
