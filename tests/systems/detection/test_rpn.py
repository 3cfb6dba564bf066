"""The region proposal network alone: equal to torchvision's, measured by recall, and it learns."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from scenewise.catalog import build
from scenewise.engine.evaluate import choose_metrics
from scenewise.errors import UsageError
from scenewise.metrics.proposals import ProposalMetrics
from scenewise.nn.features import FeatureSpec
from scenewise.nn.rpn import ProposalSpec
from scenewise.ops.anchors import AnchorSpec
from scenewise.systems.detection.rpn import RegionProposals
from scenewise.types import InputSpec
from tests.systems import small
from tests.systems.detection.learning import CLASSES, batch_of, empty, learned, open_data, scenes

SIZES = ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))
SMALL = {
    "backbone": "resnet10t",
    "features": FeatureSpec(channels=32, frozen_norm=False),
    "anchors": AnchorSpec(sizes=SIZES),
    "input": InputSpec(size_divisor=32),
}


def model_of(**options) -> RegionProposals:
    torch.manual_seed(0)
    return RegionProposals(CLASSES, **(SMALL | options)).eval()


@pytest.fixture(scope="module")
def samples():
    return scenes(2, "train")


@torch.no_grad()
def test_it_equals_torchvisions_with_the_same_weights(samples):
    spec = ProposalSpec(samples=64, train_before_nms=80, train_after_nms=60, before_nms=50, after_nms=40)
    model = model_of(proposals=spec)
    for layer in (model.rpn.objectness, model.rpn.deltas):
        torch.nn.init.normal_(layer.weight, std=0.2)  # scores that differ, and boxes that move
    head = RPNHead(32, 3)
    head.load_state_dict(
        {
            "conv.0.0.weight": model.rpn.conv.weight,
            "conv.0.0.bias": model.rpn.conv.bias,
            "cls_logits.weight": model.rpn.objectness.weight,
            "cls_logits.bias": model.rpn.objectness.bias,
            "bbox_pred.weight": model.rpn.deltas.weight,
            "bbox_pred.bias": model.rpn.deltas.bias,
        }
    )
    generator = AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5)
    counts = [{"training": 80, "testing": 50}, {"training": 60, "testing": 40}]
    reference = RegionProposalNetwork(generator, head, 0.7, 0.3, 64, 0.5, counts[0], counts[1], 0.7)
    batch = batch_of(samples)
    images = ImageList(batch.images, batch.sizes)
    maps = {str(i): x for i, x in enumerate(model.features(model.pixels(batch)))}
    wanted, _ = reference.eval()(images, maps)
    for found, boxes in zip(model.predict(batch), wanted, strict=True):
        torch.testing.assert_close(found.boxes, boxes, rtol=1e-4, atol=1e-3)
    reference.train()
    torch.manual_seed(1)
    _, terms = reference(images, maps, [dict(target) for target in batch.targets])
    torch.manual_seed(1)
    ours = model.losses(batch)
    torch.testing.assert_close(ours["objectness"], terms["loss_objectness"])
    torch.testing.assert_close(ours["rpn_box"], terms["loss_rpn_box_reg"])


def test_a_prediction_has_boxes_and_scores_best_first_and_no_labels(samples):
    found = model_of().predict(batch_of(samples))[0]
    assert found.labels is None
    assert len(found.boxes) == len(found.scores) > 0
    assert (found.scores.diff() <= 0).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert found.boxes[:, 2].max() <= 96
    assert found.boxes[:, 3].max() <= 64


@pytest.mark.parametrize("design", ["c4", "c5"])
def test_it_reads_a_single_map_too(samples, design):
    """Also where an image has no objects."""
    model = model_of(design=design, features=FeatureSpec(frozen_norm=False), anchors=AnchorSpec(sizes=((16.0, 32.0),)))
    batch = batch_of(samples)
    empty(batch, 0)
    terms = model.losses(batch)
    assert all(value.isfinite() for value in terms.values())
    assert len(model.predict(batch)[1].boxes) > 0


def test_its_width_and_the_weight_of_its_boxes_are_options(samples):
    assert model_of(proposals=ProposalSpec(channels=8)).rpn.conv.weight.shape == (8, 32, 3, 3)
    terms = []
    for weight in (1.0, 3.0):
        model = model_of(box_weight=weight)
        torch.manual_seed(0)
        terms.append(model.losses(batch_of(samples)))
    torch.testing.assert_close(terms[1]["rpn_box"], 3 * terms[0]["rpn_box"])


def test_one_map_has_the_papers_defaults():
    """As many boxes as a Fast R-CNN is trained on there."""
    with torch.device("meta"):
        model = build("rpn", ["a"], design="c4")
    spec = model.rpn.spec
    assert (spec.before_nms, spec.after_nms, spec.channels, spec.border_anchors) == (6000, 2000, 512, False)
    assert model.rpn.objectness.out_channels == 9
    assert (model.input.short_side, model.input.long_side) == (600, 1000)


def test_anchors_that_do_not_fit_the_maps_are_refused():
    with pytest.raises(UsageError, match="anchors: sizes has 1 entries; expected 5, one for each map"):
        build("rpn", ["a"], backbone="resnet10t", anchors={"sizes": [[8, 16]]})


def test_it_is_measured_by_the_recall_of_its_boxes():
    chosen = choose_metrics(RegionProposals.interface().fills, open_data("scenes:count=1"))
    assert [type(metric) for metric in chosen.metrics] == [ProposalMetrics]
    assert chosen.main == "proposals.AR1000"


def test_it_learns_where_figures_are():
    """Measured when this was written: 0.39."""
    options = small.SMALL["rpn"] | {"features": {"channels": 16, "frozen_norm": False}}
    before, after = learned("rpn", ProposalMetrics(), 60, **options)
    assert before["proposals"]["AR100"] < 0.1
    assert after["proposals"]["AR100"] > 0.2
