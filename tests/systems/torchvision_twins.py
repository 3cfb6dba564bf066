"""torchvision's detectors on a ResNet-50, and ours with the same random weights, read as published files are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models import detection, resnet50
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from scenewise.model import Model
from scenewise.types import Batch
from scenewise.weights.published import PUBLISHED, Published, fill_published

SIDE = 192  # the shorter side of what the networks see, so that tests are fast
LOSSES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
    "keypoints": "loss_keypoint",
}
ONE_STAGE_LOSSES = {"class": "classification", "box": "bbox_regression"}


def row_of(name: str) -> Published:
    base, _, version = name.partition("_")
    return PUBLISHED[f"torchvision/{base}_resnet50_fpn" + (f"_{version}" if version else "")]


@functools.cache
def reference(name: str, side: int = SIDE) -> nn.Module:
    """torchvision's model as its COCO weights are run, frozen batch-norms with an epsilon of 0, in evaluation mode."""
    torch.manual_seed(0)
    row = row_of(name)
    if name.endswith("_v2"):
        second: Any = {
            "fasterrcnn_v2": detection.fasterrcnn_resnet50_fpn_v2,
            "maskrcnn_v2": detection.maskrcnn_resnet50_fpn_v2,
            "retinanet_v2": detection.retinanet_resnet50_fpn_v2,
        }[name]
        outputs = len(row.outputs)
        model = second(weights_backbone=None, num_classes=outputs, min_size=side, max_size=2 * side)
        return _lively(model, row, scores=16.0, one_stage=0.05)
    make: Any = {
        "fasterrcnn": detection.FasterRCNN,
        "maskrcnn": detection.MaskRCNN,
        "keypointrcnn": detection.KeypointRCNN,
        "retinanet": detection.RetinaNet,
    }[name]
    maps: Any = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if name == "retinanet" else {}
    backbone = _resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), 5, **maps)
    model = make(backbone, num_classes=len(row.outputs), min_size=side, max_size=2 * side)
    overwrite_eps(model, 0.0)
    return _lively(model, row)


@torch.no_grad()
def _lively(model: nn.Module, row: Published, scores: float = 0.8, one_stage: float = 0.2) -> nn.Module:
    """``model`` in evaluation mode, its weights such that it finds something; ``scores``: how much its classes vary."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            norm: Any = module  # its tensors are buffers in one of the two
            norm.running_var.uniform_(0.5, 1.5)
            norm.running_mean.normal_(0, 0.1)
            norm.weight.uniform_(0.3, 0.8)
    for key, value in model.named_parameters():  # heads as new as these say the same of every box
        for part, std in (
            ("rpn.head.bbox", 0.05),
            ("box_predictor.bbox", 0.005),
            ("cls_score", scores),
            ("rpn.head.cls_log", 0.1),
            ("_head.conv", 0.03),
            ("_head.cls_log", one_stage),
            ("bbox_reg", one_stage / 10),
        ):
            if part in key and key.endswith("weight") and value.dim() > 1:
                nn.init.normal_(value, std=std)
    unused = [i for i, label in enumerate(row.outputs) if label == "N/A"]
    if hasattr(model, "roi_heads"):
        heads: Any = model.roi_heads
        heads.box_predictor.cls_score.bias[unused] = -1e4
    else:
        logits: Any = model.head.classification_head.cls_logits  # type: ignore[union-attr]
        logits.bias.view(-1, len(row.outputs))[:, [0, *unused]] = -1e4  # 0 is the background, which is never an answer
    return model.eval()


@functools.cache
def twin(name: str, side: int = SIDE) -> Model:
    """Ours with the weights of :func:`reference`, in evaluation mode."""
    model = row_of(name).build()
    fill_published(model, reference(name, side).state_dict(), row_of(name), "torchvision")
    model.input = dataclasses.replace(model.input, short_side=side, long_side=2 * side)
    return model


def former_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the names that torchvision's files have, from before each convolution was put into a block."""
    former = {}
    for key, value in state.items():
        key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"^(head\.\w+\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", key)
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)
        former[key] = value
    return former


@functools.cache
def photographs() -> tuple[Tensor, Tensor]:
    """Two photographs, uint8 [3,427,640]: a temple and a flower."""
    china, flower = load_sample_images().images
    return tuple(torch.tensor(image).permute(2, 0, 1).contiguous() for image in (china, flower))  # type: ignore[return-value]


def their_labels(name: str, labels: Tensor) -> Tensor:
    """The publisher's outputs of our ``labels``."""
    return torch.tensor(row_of(name).kept)[labels + 1]


def assert_same_detections(name: str, theirs: dict[str, Tensor], ours: Any) -> None:
    """Equal to 1e-3 pixels and 1e-4 of a score; masks up to pixels on the threshold."""
    assert len(ours) > 3, "next to nothing was found: the test would say nothing"
    torch.testing.assert_close(ours.boxes, theirs["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(ours.scores, theirs["scores"], rtol=0, atol=1e-4)
    assert torch.equal(their_labels(name, ours.labels), theirs["labels"])


def both_losses(name: str, with_objects: tuple[bool, bool]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our loss terms and torchvision's under our names, of a padded batch of two photographs with made-up objects."""
    china, flower = photographs()
    images = [china[:, 60 : 60 + SIDE, 100:356], flower[:, 100 : 100 + SIDE, 200:424]]  # of the networks' own size
    images = [image / 255 for image in images]
    targets = [_objects(name, image, some) for image, some in zip(images, with_objects, strict=True)]
    ours, theirs = twin(name), reference(name)
    with in_one_order(ours, theirs):
        return _both_losses(name, images, targets)


def _both_losses(name: str, images: list[Tensor], targets: list[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    ours, theirs = twin(name), reference(name)
    torch.manual_seed(0)
    for _ in images:
        torch.empty(1).uniform_()  # torchvision draws which of its sizes an image gets, also from one
    found = ours.losses(Batch.of(images, targets, size_divisor=32))
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # of the second version; ours are in evaluation mode, too
            module.eval()
    torch.manual_seed(0)
    fed = [{**target, "labels": their_labels(name, target["labels"])} for target in targets]
    expected = theirs(images, fed)
    theirs.eval()
    names = LOSSES if hasattr(ours, "rpn") else ONE_STAGE_LOSSES
    return found, {mine: expected[their] for mine, their in names.items() if their in expected}


@contextlib.contextmanager
def in_one_order(ours: Any, theirs: Any) -> Iterator[None]:
    """Inside, both models' proposals come sorted by their places: a random choice among them is then the same one.

    By their scores they are not quite in the same order: scores that differ by a rounding change places.
    """
    if not hasattr(ours, "rpn"):
        yield  # nothing is drawn at random
        return
    propose, select = ours.rpn.proposals, theirs.rpn.filter_proposals
    ours.rpn.proposals = lambda *a, **k: [(_ordered(boxes), scores) for boxes, scores in propose(*a, **k)]

    def selected(*arguments: Any) -> Any:
        boxes, scores = select(*arguments)
        return [_ordered(b) for b in boxes], scores

    theirs.rpn.filter_proposals = selected
    try:
        yield
    finally:
        del ours.rpn.proposals, theirs.rpn.filter_proposals


def _ordered(boxes: Tensor) -> Tensor:
    return boxes[(boxes.double() @ torch.tensor([1, 3.14159, 2.71828, 1.41421], dtype=torch.float64)).argsort()]


def _objects(name: str, image: Tensor, some: bool) -> Any:
    """Three objects with boxes, masks and 17 keypoints, or none."""
    generator = torch.Generator().manual_seed(image.shape[-1])
    corner = torch.rand(3, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 20 + 70 * torch.rand(3, 2, generator=generator)], 1)
    classes = len(row_of(name).classes)
    masks = torch.rand(3, *image.shape[-2:], generator=generator) > 0.3
    points = boxes[:, None, :2] + torch.rand(3, 17, 2, generator=generator) * (boxes[:, None, 2:] - boxes[:, None, :2])
    visibility = torch.randint(0, 3, (3, 17, 1), generator=generator).float()
    target = {
        "boxes": boxes,
        "labels": torch.randint(0, classes, (3,), generator=generator),
        "masks": masks,
        "keypoints": torch.cat([points, visibility], -1),
    }
    return {key: value if some else value[:0] for key, value in target.items()}
