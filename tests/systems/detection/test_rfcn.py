"""R-FCN: voting equals an obvious loop, its options do what they say, and it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import ps_roi_pool

from scenewise.catalog import build
from scenewise.errors import UsageError
from scenewise.metrics.coco import CocoMetrics
from scenewise.nn.features import FeatureSpec
from scenewise.nn.rpn import ProposalSpec
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.matching import HardExamples
from scenewise.systems.detection.rfcn import RFCN, position_sensitive_crop
from scenewise.types import InputSpec
from tests.systems.detection.learning import CLASSES, SHAPES, batch_of, empty, learned, scenes

SMALL = {
    "backbone": "resnet10t",
    "features": FeatureSpec(frozen_norm=False),
    "channels": 32,
    "k": 3,
    "anchors": AnchorSpec(sizes=((16.0, 32.0, 64.0),)),
    "proposals": ProposalSpec(train_after_nms=50, after_nms=50, channels=32),
    "input": InputSpec(size_divisor=32),
}
BOXES = torch.tensor([[8.0, 10, 60, 50], [0, 0, 96, 64], [30.5, 20.5, 34, 60], [70, 30, 95, 63]])


def model_of(**options) -> RFCN:
    torch.manual_seed(0)
    return RFCN(CLASSES, **(SMALL | options)).eval()


@pytest.fixture(scope="module")
def samples():
    return scenes(2, "train")


@pytest.mark.parametrize("k", [3, 7])
def test_voting_equals_a_loop_over_cells_and_pixels(k):
    """Equation 1 and 2: each cell the mean of its pixels in its own map, a score the mean of its cells."""
    model = model_of(k=k, bins="release")
    conv5 = torch.randn(1, model.features.channels, 4, 6)
    logits, deltas = model._vote(conv5, [BOXES])
    classes, corrections = model._score_maps(conv5)
    torch.testing.assert_close(logits, loop(classes[0], BOXES, k, 1 / 16), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(deltas, loop(corrections[0], BOXES, k, 1 / 16), rtol=1e-4, atol=1e-6)
    assert logits.shape == (4, len(CLASSES) + 1)
    assert deltas.shape == (4, 4)


def loop(maps: Tensor, boxes: Tensor, k: int, scale: float) -> Tensor:
    """The votes by the release's rule: corners rounded to pixels of the image, halves up."""
    maps, (height, width) = maps.detach(), maps.shape[-2:]
    votes = torch.zeros(len(boxes), len(maps) // k**2)
    for r, box in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (math.floor(v + 0.5) * scale for v in box)
        w, h = max(x2 - x1, 0.1) / k, max(y2 - y1, 0.1) / k
        for d in range(votes.shape[1]):
            for i in range(k):
                for j in range(k):
                    rows = range(max(0, math.floor(y1 + i * h)), min(height, math.ceil(y1 + (i + 1) * h)))
                    columns = range(max(0, math.floor(x1 + j * w)), min(width, math.ceil(x1 + (j + 1) * w)))
                    pixels = [float(maps[(d * k + i) * k + j, y, x]) for y in rows for x in columns]
                    votes[r, d] += sum(pixels) / max(1, len(pixels)) / k**2
    return votes


def test_pooling_is_torchvisions_by_default():
    model = model_of()
    conv5 = torch.randn(2, model.features.channels, 4, 6)
    maps, _ = model._score_maps(conv5)
    want = ps_roi_pool(maps, [BOXES, BOXES[:1]], 3, 1 / 16).mean((-2, -1))
    assert torch.equal(model._vote(conv5, [BOXES, BOXES[:1]])[0], want)


def test_cropped_cells_equal_a_loop_over_samples():
    torch.manual_seed(0)
    maps = torch.randn(1, 2 * 9, 5, 7)
    boxes = torch.tensor([[8.0, 10, 60, 50], [0, 0, 112, 80]])
    found = position_sensitive_crop(maps, [boxes], 3, 1 / 16, samples=2)  # [2,2,3,3]
    for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for d in range(2):
            for i in range(3):
                for j in range(3):
                    part = maps[0, (d * 3 + i) * 3 + j]
                    points = [
                        bilinear(
                            part, (y1 + (i + v) * (y2 - y1) / 3) / 80 * 4, (x1 + (j + u) * (x2 - x1) / 3) / 112 * 6
                        )
                        for v in (0, 1)
                        for u in (0, 1)
                    ]
                    assert float(found[r, d, i, j]) == pytest.approx(sum(points) / 4, abs=1e-4)


def bilinear(image: Tensor, y: float, x: float) -> float:
    """The value of ``image`` [H,W] at a place between the centres of its pixels."""
    top, left = min(int(y), image.shape[0] - 2), min(int(x), image.shape[1] - 2)
    v, u = y - top, x - left
    corners = image[top : top + 2, left : left + 2]
    return float(
        (1 - v) * ((1 - u) * corners[0, 0] + u * corners[0, 1]) + v * ((1 - u) * corners[1, 0] + u * corners[1, 1])
    )


def test_proposals_come_from_conv4_and_the_last_stage_is_dilated():
    model = model_of()
    conv5, conv4 = model.features(torch.rand(1, 3, 64, 96))
    assert conv4.shape == (1, 256, 4, 6)  # resnet10t's layer3
    assert conv5.shape == (1, 512, 4, 6)
    fine = model_of(features=FeatureSpec(output_stride=8, frozen_norm=False))
    assert [tuple(x.shape[-2:]) for x in fine.features(torch.rand(1, 3, 64, 96))] == [(8, 12), (8, 12)]
    assert fine.features.strides == (8,)


def test_hard_examples_are_the_costliest_of_all_proposals(samples):
    batch = batch_of(samples)
    terms = {}
    for hard in (None, 1, 20, 1000):
        model = model_of(hard_examples=hard)
        torch.nn.init.normal_(model.class_maps.weight, std=1.0)
        torch.manual_seed(0)
        terms[hard] = model.losses(batch)
    assert terms[1]["class"] + terms[1]["box"] > terms[20]["class"] + terms[20]["box"]
    assert terms[20]["class"] + terms[20]["box"] > terms[1000]["class"] + terms[1000]["box"]
    assert terms[None]["objectness"] == terms[1]["objectness"]


@pytest.mark.parametrize(
    "options",
    [
        {"bins": "release"},
        {"bins": "crop", "crop_samples": 2},
        {"k": 7},
        {"hard_examples": None},
        {"hard_examples": HardExamples(8, nms_iou=0.7)},
    ],
)
def test_it_trains_and_predicts_with_each_option(samples, options):
    """Also where an image has no objects, and where none of a batch has any."""
    model = model_of(**options).train()
    batch = batch_of(samples)
    for row in (None, 0, 1):
        if row is not None:
            empty(batch, row)
        terms = model.losses(batch)
        assert sorted(terms) == ["box", "class", "objectness", "rpn_box"]
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        assert total.isfinite()
    assert terms["box"] == terms["rpn_box"] == 0
    found = model.eval().predict(batch)
    assert [p.size for p in found] == batch.sizes


def test_box_weight_scales_the_box_terms(samples):
    batch, terms = batch_of(samples), []
    for weight in (1.0, 3.0):
        model = model_of(box_weight=weight)
        torch.manual_seed(0)
        terms.append(model.losses(batch))
    torch.testing.assert_close(terms[1]["box"], 3 * terms[0]["box"])
    torch.testing.assert_close(terms[1]["rpn_box"], 3 * terms[0]["rpn_box"])
    assert terms[1]["class"] == terms[0]["class"]


def test_beta_is_where_the_box_loss_turns_straight(samples):
    batch, terms = batch_of(samples), []
    for beta in (0.1, 1.0):
        model = model_of(beta=beta)
        torch.manual_seed(0)
        terms.append(model.losses(batch))
    assert terms[0]["box"] > terms[1]["box"] > 0
    assert terms[0]["class"] == terms[1]["class"]


def test_a_backbone_of_another_depth_fits():
    model = model_of(backbone="resnet18")
    assert model.features.channels == 512
    assert build("r-fcn", ["a"], backbone="resnet18", k=3, channels=16).classes == ("a",)


def test_a_backbone_that_cannot_be_dilated_is_refused():
    with pytest.raises(UsageError, match=r"backbone vgg11 can't be dilated: its last map of stride 16 is that of the"):
        model_of(backbone="vgg11")


def test_it_learns_to_find_figures():
    """Measured when this was written: 0.61."""
    before, after = learned(
        "r-fcn",
        CocoMetrics(SHAPES, ("box",)),
        150,
        backbone="test_resnet",
        features={"output_stride": 8, "frozen_norm": False},
        channels=64,
        k=3,
        bins="crop",
        anchors={"sizes": [[20]], "ratios": [1.0]},
        proposals={"channels": 32, "train_after_nms": 50, "after_nms": 40, "border_anchors": True},
        hard_examples=None,
    )
    assert before["box"]["AP50"] < 0.1
    assert after["box"]["AP50"] > 0.35
