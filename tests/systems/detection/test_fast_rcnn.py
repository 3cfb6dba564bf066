"""Fast R-CNN: its head equals torchvision's, its options do what they say, and it learns."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_pool

from scenewise.catalog import build
from scenewise.errors import CheckpointError, UsageError
from scenewise.metrics.coco import CocoMetrics
from scenewise.nn.backbone import load_vgg_layers
from scenewise.nn.box_head import HeadSpec
from scenewise.nn.features import FeatureSpec
from scenewise.nn.proposals import SearchSpec
from scenewise.nn.roi_heads import RoISampler
from scenewise.ops.anchors import AnchorSpec, grid_anchors
from scenewise.ops.boxes import DetectionSpec, clip_boxes
from scenewise.ops.matching import HardExamples
from scenewise.systems.detection.fast_rcnn import FastRCNN, truncated, truncated_svd
from scenewise.types import InputSpec
from scenewise.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.systems import small
from tests.systems.detection.learning import CLASSES, SHAPES, batch_of, empty, learned, scenes

# Proposals for every image alike: a grid of boxes in three sizes and shapes.
GRID = clip_boxes(
    torch.cat(grid_anchors(AnchorSpec(sizes=((16.0, 26.0, 44.0),), offset=0.5), (64, 96), [(8, 12)])), (64, 96)
)
SMALL = {
    "backbone": "resnet10t",
    "features": FeatureSpec(frozen_norm=False),
    "head": HeadSpec(channels=32, size=3, dropout=0.5),
    "input": InputSpec(size_divisor=32),
}


def model_of(**options) -> FastRCNN:
    torch.manual_seed(0)
    return FastRCNN(CLASSES, **(SMALL | options)).eval()


@pytest.fixture(scope="module")
def samples():
    return scenes(2, "train", proposals=GRID)


class _RoIPool(nn.Module):
    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return roi_pool(maps["0"], boxes, 3, 1 / 16)


@torch.no_grad()
def test_the_head_equals_torchvisions_with_the_same_weights(samples):
    model = model_of(
        beta=1 / 9,  # torchvision's; the paper's is 1
        sampler=RoISampler(samples=64),  # torchvision has no lowest IoU
        detections=DetectionSpec(score=0.12, nms_iou=0.3, count=50),
    )
    nn.init.normal_(model.box_head.classifier.weight, std=2.0)
    nn.init.normal_(model.box_head.box_regressor.weight, std=0.5)
    head, predictor = TwoMLPHead(512 * 9, 32), FastRCNNPredictor(32, len(CLASSES) + 1)
    for theirs, ours in (
        (head.fc6, model.box_head.body.first),
        (head.fc7, model.box_head.body.second),
        (predictor.cls_score, model.box_head.classifier),
        (predictor.bbox_pred, model.box_head.box_regressor),
    ):
        theirs.load_state_dict(ours.state_dict())
    reference = RoIHeads(_RoIPool(), head, predictor, 0.5, 0.5, 64, 0.25, None, 0.12, 0.3, 50)
    batch = batch_of(samples)
    maps = {"0": model.features(model.pixels(batch))[0]}
    wanted, _ = reference.eval()(maps, batch.inputs["proposals"], batch.sizes)
    assert sum(len(image["boxes"]) for image in wanted) > 10
    for found, image in zip(model.predict(batch), wanted, strict=True):
        torch.testing.assert_close(found.boxes, image["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, image["scores"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, image["labels"] - 1)  # theirs count the background
    targets = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in batch.targets]
    torch.manual_seed(1)
    _, terms = reference.train()(maps, batch.inputs["proposals"], batch.sizes, targets)
    torch.manual_seed(1)
    ours = model.losses(batch)
    torch.testing.assert_close(ours["class"], terms["loss_classifier"])
    torch.testing.assert_close(ours["box"], terms["loss_box_reg"])


def test_its_defaults_are_the_papers(monkeypatch):
    """VGG16's conv5 at stride 16, 7 x 7 cells, background between 0.1 and 0.5."""
    monkeypatch.setattr("scenewise.nn.box_head.VGG_HEAD", HeadSpec(channels=16, dropout=0.5))
    model = build("fast-rcnn", ["a"])
    assert model.features.strides == (16,)
    assert model.features(torch.rand(1, 3, 32, 48))[0].shape == (1, 512, 2, 3)
    assert model.box_head.body.first.weight.shape == (16, 512 * 7 * 7)
    assert (model.pooler.method, model.beta, model.sampler.samples) == ("pool", 1.0, 64)
    assert (model.sampler.lowest_iou, model.sampler.positive_fraction) == (0.1, 0.25)


def test_a_vggs_own_layers_are_the_heads_start(tmp_path):
    """timm's convolutions over 7 x 7 cells, as matrices over flattened features."""
    torch.manual_seed(0)
    state = {"pre_logits.fc1.weight": torch.randn(6, 2, 3, 3), "pre_logits.fc1.bias": torch.randn(6)}
    state |= {"pre_logits.fc2.weight": torch.randn(6, 6, 1, 1), "pre_logits.fc2.bias": torch.randn(6)}
    names = set(timm.create_model("vgg11", num_classes=1, device="meta").state_dict())
    assert set(state) <= names
    save_file(state, tmp_path / "vgg.safetensors")
    model = model_of()
    head = type(model.box_head.body)(2, 3, 6)
    load_vgg_layers((head.first, head.second), "vgg11", str(tmp_path / "vgg.safetensors"))
    x = torch.randn(4, 2, 3, 3)
    hidden = nn.functional.conv2d(x, state["pre_logits.fc1.weight"], state["pre_logits.fc1.bias"]).relu()
    want = nn.functional.conv2d(hidden, state["pre_logits.fc2.weight"], state["pre_logits.fc2.bias"]).relu()
    torch.testing.assert_close(head(x).detach() if not head.training else head.eval()(x).detach(), want.flatten(1))
    del state["pre_logits.fc2.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"less.safetensors: pre_logits.fc2.bias: lacks it"):
        load_vgg_layers((head.first, head.second), "vgg11", str(tmp_path / "less.safetensors"))


def test_truncated_svd_is_the_nearest_of_its_rank():
    torch.manual_seed(0)
    weight = torch.randn(5, 12)
    inner, outer = truncated_svd(weight, 3)
    assert inner.shape == (3, 12)
    assert outer.shape == (5, 3)
    dropped = torch.linalg.svdvals(weight)[3:]  # by Eckart and Young, the error of the nearest matrix
    assert float((outer @ inner - weight).norm()) == pytest.approx(float(dropped.norm()), rel=1e-5)
    with pytest.raises(UsageError, match="rank is 6; expected 1 to 5"):
        truncated_svd(weight, 6)


@torch.no_grad()
def test_a_truncated_model_is_smaller_and_with_all_its_ranks_equal(samples, tmp_path):
    model, batch = model_of(), batch_of(samples)
    whole = model.probe(batch)
    torch.testing.assert_close(truncated(model, (32, 32)).probe(batch), whole, rtol=1e-3, atol=1e-4)
    short = truncated(model, (4, 3))
    assert (
        sum(p.numel() for p in short.box_head.parameters())
        < sum(p.numel() for p in model.box_head.body.parameters()) / 5
    )
    assert not torch.allclose(short.probe(batch), whole)
    save_checkpoint(short, tmp_path / "short.safetensors", terms="none")
    assert torch.equal(load_checkpoint(tmp_path / "short.safetensors").probe(batch), short.probe(batch))
    with pytest.raises(UsageError, match=r"truncated already, to \(4, 3\)"):
        truncated(short)


@pytest.mark.parametrize(
    "options",
    [
        {"roi": "align"},
        {"roi": "warp", "head": HeadSpec(channels=16, size=3, class_agnostic=True)},
        {"design": "c4", "head": HeadSpec(size=4)},
        {"design": "fpn", "features": FeatureSpec(channels=16, frozen_norm=False)},
        {"features": FeatureSpec(output_stride=8, frozen_norm=False)},
        {"ranks": (4, 4)},
        {"hard_examples": HardExamples(8, nms_iou=0.7)},
        {"head": HeadSpec(channels=16, size=3, reduce="mean")},
    ],
)
def test_it_trains_and_predicts_with_each_option(samples, options):
    """Also where an image has no objects, and where none of a batch has any."""
    model, batch = model_of(**options).train(), batch_of(samples)
    for row in (None, 0, 1):
        if row is not None:
            empty(batch, row)
        terms = model.losses(batch)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        assert total.isfinite()
        assert terms["class"] > 0  # without objects, every proposal is background
    assert terms["box"] == 0
    assert [p.size for p in model.eval().predict(batch)] == batch.sizes


def test_the_deltas_learn_with_the_network_beside_it_or_not_at_all(samples):
    batch = batch_of(samples)
    reached = {}
    for choice in ("joint", "stage-wise", "none"):
        model = model_of(box_regression=choice)
        nn.init.normal_(model.box_head.box_regressor.weight)
        terms = model.losses(batch)
        if choice == "none":
            assert sorted(terms) == ["class"]
            assert all(p.grad is None for p in model.box_head.box_regressor.parameters())
            given = {tuple(box) for box in GRID.tolist()}
            boxes = torch.cat([p.boxes for p in model.predict(batch)])
            assert len(boxes)
            assert all(tuple(box) in given for box in boxes.tolist())
        else:
            terms["box"].backward()
            assert model.box_head.box_regressor.weight.grad.any()
            reached[choice] = model.box_head.body.first.weight.grad is not None
    assert reached == {"joint": True, "stage-wise": False}


def test_the_first_proposals_are_looked_at(samples):
    model, batch = model_of(max_proposals=7), batch_of(samples)
    assert [len(boxes) for boxes in model._proposals(batch)] == [7, 7]
    assert torch.equal(model._proposals(batch)[0], GRID[:7])


def test_images_without_proposals_are_searched():
    model = model_of(search=SearchSpec(width=None, min_side=8, max_boxes=30), detections=DetectionSpec(score=0.0))
    batch = batch_of(scenes(1, "train"))
    boxes = model._proposals(batch)[0]
    assert 1 <= len(boxes) <= 30
    assert len(model.predict(batch)[0].boxes) > 0


def test_ranks_of_a_stage_are_refused():
    with pytest.raises(UsageError, match="ranks are for two fully-connected layers; head kind 'stage' has none"):
        model_of(design="c4", ranks=(4, 4))
    with pytest.raises(UsageError, match="truncated SVD is for two fully-connected layers"):
        truncated(model_of(design="c4"))


def test_it_learns_to_find_figures():
    """Among the boxes of a grid."""
    options = small.SMALL["fast-rcnn"] | {"features": {"frozen_norm": False}, "sampler": {"samples": 64}}
    before, after = learned("fast-rcnn", CocoMetrics(SHAPES, ("box",)), 200, proposals=GRID, **options)
    assert before["box"]["AP50"] < 0.1
    assert after["box"]["AP50"] > 0.25
