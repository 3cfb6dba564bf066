"""SSD: default boxes of many sizes, scored and moved on maps of falling resolution in one pass.

Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, "SSD: Single Shot MultiBox Detector", ECCV 2016,
https://arxiv.org/abs/1512.02325; with depthwise convolutions (SSDLite): Sandler et al., CVPR 2018, sec. 6.2. In order
of the paper: the maps (sec. 2.1, ``nn/ssd_maps.py``), the default boxes and how they are matched (sec. 2.2,
``ops/anchors.py``, ``ops/matching.py``), the loss with hard negative mining. Its augmentation is transforms of a recipe
(``RandomIoUCrop``, ``RandomZoomOut``, ``RandomPhotometricDistort``), as recipes/blood-cells-ssd.yaml has them.
Where we differ: the loss is divided by the number of positives in the batch of one process; boxes are clipped to the
image before suppression; background that lies within a crowd is not mined.

Shapes: N images, L maps, A default boxes of all maps together, C classes, G true objects of an image. In the network's
scores class 0 is the background; everywhere else labels count from 0 without it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.dense_head import BoxLoss, Reach, box_deltas, box_terms, class_scores
from scenewise.nn.ssd_maps import MOBILENET, VGG, SSDMaps, lite_conv
from scenewise.ops.anchors import DefaultBoxSpec, default_boxes, linear_scales
from scenewise.ops.boxes import DetectionSpec, box_iou, decode_and_suppress
from scenewise.ops.matching import (
    BELOW,
    ignored_boxes,
    leave_out_crowds,
    match_best,
    match_bipartite,
    real_boxes,
    real_labels,
)
from scenewise.types import Batch, Channels, Count, InputSpec, Interface, Output, Share, Weight

VARIANCES = (10.0, 10.0, 5.0, 5.0)  # one over the release's variances: weights of the deltas
THREE, FIVE = (1.0, 2.0, 1 / 2), (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
PAPER = {  # by the side of the image: the default boxes of the release for PASCAL VOC
    300: DefaultBoxSpec(
        scales=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
        ratios=(THREE, FIVE, FIVE, FIVE, THREE, THREE),
        steps=(8, 16, 32, 64, 100, 300),
    ),
    512: DefaultBoxSpec(
        scales=(0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
        ratios=(THREE, FIVE, FIVE, FIVE, FIVE, THREE, THREE),
        steps=(8, 16, 32, 64, 128, 256, 512),
    ),
}


class SSD(Model):
    """One stage: the maps of a backbone and further ones behind it, each with convolutions that score and move boxes.

    Its defaults are the paper's SSD300. ``torchvision/ssd300_vgg16`` and ``torchvision/ssdlite320_mobilenet_v3_large``
    among the published weights name the options that make it equal to torchvision's.

    Args:
        classes: names of the classes, in label order.
        backbone: ``"vgg16"``, the paper's with dilated fc6; ``"mobilenet_v3_large"``, torchvision's for SSDLite; or a
            timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        size: the layout: the further maps, the default boxes, and the side of the square that images are resized to.
        strides: of the maps that are taken from a timm backbone.
        extra: the widths of the further maps; None: the paper's, 512, then three or (``size`` 512) four times 256.
        lite: SSDLite: depthwise convolutions in the further maps and in the heads.
        boxes: the default boxes; None: the paper's for ``"vgg16"``, else five ratios and scales from 0.2 to 0.95 in
            equal steps, as in the TensorFlow Object Detection API.
        matcher: ``"bipartite"``: each object takes a default box of its own, the best pairs first (the release's);
            ``"best"``: the one that it overlaps most, whoever had it (torchvision's). Either way all boxes that overlap
            an object by ``positive_iou`` take the one that they overlap most.
        positive_iou: see ``matcher``.
        negatives_per_positive: the background boxes in the class loss for each that is an object, those of the largest
            loss in each image.
        crowd_ioa: background with a larger part of itself within a crowd or a difficult object is not mined.
        box_loss: ``"smooth-l1"``, ``"l1"``, ``"l2"`` or ``"giou"``.
        box_weight: of the box loss against the class loss (the paper's alpha).
        candidates: of each class, this many boxes at most enter the suppression.
        detections: which boxes are returned.
        input: how images are resized and normalised; by default to ``size`` x ``size``.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=("boxes", "labels"), fills=("boxes", "labels", "scores"))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = VGG,
        backbone_weights: str | None = None,
        size: Literal[300, 320, 512] = 300,
        strides: tuple[Count, ...] = (16, 32),
        extra: tuple[Channels, ...] | None = None,
        lite: bool = False,
        boxes: DefaultBoxSpec | None = None,
        matcher: Literal["bipartite", "best"] = "bipartite",
        positive_iou: Share = 0.5,
        negatives_per_positive: Weight = 3.0,
        crowd_ioa: Share | None = 0.7,
        box_loss: BoxLoss = "smooth-l1",
        box_weight: Weight = 1.0,
        candidates: Count = 400,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        named = backbone if backbone != MOBILENET else "mobilenetv3_large_100"
        super().__init__(classes, input or backbone_input(named, size=(size, size)))
        if backbone == VGG and size == 320:
            raise UsageError("size: 320; with backbone vgg16 the paper has layouts for 300 and 512")
        large = size == 512
        if extra is None:
            extra = (512, 256, 256, 256, 256) if large else (512, 256, 256, 256)
        self.maps = SSDMaps(
            backbone,
            weights=backbone_weights,
            strides=strides,
            extra=extra,
            large=large,
            lite=lite,
            in_channels=self.input.channels,
        )
        self.boxes = boxes or self.usual_boxes(backbone, size, len(self.maps.channels))
        if len(self.boxes.ratios) != len(self.maps.channels):
            raise UsageError(
                f"boxes: ratios of {len(self.boxes.ratios)} maps; expected {len(self.maps.channels)}, one for each map"
            )
        outputs = len(self.classes) + 1
        self.class_before = nn.ModuleList(_before(width, lite) for width in self.maps.channels)
        self.box_before = nn.ModuleList(_before(width, lite) for width in self.maps.channels)
        pairs = list(zip(self.maps.channels, self.boxes.per_cell, strict=True))
        self.class_logits = nn.ModuleList(_predictor(width, outputs * count, lite) for width, count in pairs)
        self.box_deltas = nn.ModuleList(_predictor(width, 4 * count, lite) for width, count in pairs)
        for part in (self.maps.extra, self.class_before, self.box_before, self.class_logits, self.box_deltas):
            _initialise(part, 0.03 if lite else None)
        if backbone != VGG and not lite:
            for part in (self.class_logits, self.box_deltas):  # the maps of other networks have any magnitude
                _initialise(part, 0.01)
        self.matcher, self.positive_iou, self.crowd_ioa = matcher, positive_iou, crowd_ioa
        self.negatives_per_positive = negatives_per_positive
        self.box_loss, self.box_weight = box_loss, box_weight
        self.candidates, self.detections = candidates, detections or DetectionSpec(score=0.01, nms_iou=0.45, count=200)
        self.reach = Reach(positive_iou)

    @classmethod
    def defaults(cls, *, backbone: str = VGG, size: int = 300, **_: Any) -> dict[str, Any]:
        """The paper's detections and, with its backbone, its default boxes, of which a recipe may give a part."""
        usual = {"detections": DetectionSpec(score=0.01, nms_iou=0.45, count=200)}
        return {**usual, "boxes": PAPER[size]} if backbone == VGG and size in PAPER else usual

    @staticmethod
    def usual_boxes(backbone: str, size: int, maps: int) -> DefaultBoxSpec:
        """The default boxes of ``maps`` maps where none are given."""
        if backbone == VGG and len(PAPER[size].ratios) == maps:
            return PAPER[size]
        return DefaultBoxSpec(scales=linear_scales(maps, 0.2, 0.95), ratios=(FIVE,) * maps)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``class``, the softmax loss of the objects and of the hardest background, and ``box`` (eq. 1 to 3)."""
        logits, deltas, anchors = self._score(batch)
        matches = self._match(batch, anchors)  # [N,A]
        count = max(1, int((matches >= 0).sum()))
        return {
            "class": self._class_loss(logits, matches, batch) / count,
            "box": self.box_weight * self._box_loss(deltas, matches, batch, anchors) / count,
        }

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        logits, deltas, anchors = self._score(batch)
        scores = logits.softmax(-1)[..., 1:]
        return [
            self._detect(shares, moves, anchors, size)
            for shares, moves, size in zip(scores, deltas, batch.sizes, strict=True)
        ]

    def probe(self, batch: Batch) -> Tensor:
        """Scores and deltas of all default boxes."""
        logits, deltas, _ = self._score(batch)
        return torch.cat([logits.flatten(), deltas.flatten()])

    def _score(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N,A,C+1], deltas [N,A,4] and default boxes [A,4] of all maps."""
        maps = self.maps(self.pixels(batch))
        logits, deltas = [], []
        for level, x in enumerate(maps):
            scored = class_scores(self.class_logits[level](self.class_before[level](x)), len(self.classes) + 1)
            logits.append(scored.transpose(2, 3).flatten(1, 2))
            deltas.append(box_deltas(self.box_deltas[level](self.box_before[level](x))))
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        anchors = default_boxes(self.boxes, batch.canvas, sizes, device=batch.images.device)
        return torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)

    # ---- training

    @torch.no_grad()
    def _match(self, batch: Batch, anchors: Tensor) -> Tensor:
        """The object of each default box, an index among its image's real ones, or BELOW or BETWEEN: int64 [N,A]."""
        rule = match_bipartite if self.matcher == "bipartite" else match_best
        overlaps = [box_iou(real_boxes(truth), anchors) for truth in batch.targets]
        self.reach.see(overlaps)
        return torch.stack(
            [
                leave_out_crowds(rule(iou, self.positive_iou), anchors, ignored_boxes(truth), self.crowd_ioa)
                for iou, truth in zip(overlaps, batch.targets, strict=True)
            ]
        )

    def _class_loss(self, logits: Tensor, matches: Tensor, batch: Batch) -> Tensor:
        """The sum over all objects and, in each image, the hardest background boxes."""
        target = torch.zeros_like(matches)
        for row, truth in enumerate(batch.targets):
            positive = matches[row] >= 0
            target[row, positive] = real_labels(truth)[matches[row, positive]] + 1
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)  # [N,A]
        mined = hardest_background(loss.detach(), matches, self.negatives_per_positive)
        return loss[(matches >= 0) | mined].sum()

    def _box_loss(self, deltas: Tensor, matches: Tensor, batch: Batch, anchors: Tensor) -> Tensor:
        boxes = [real_boxes(truth)[found[found >= 0]] for found, truth in zip(matches, batch.targets, strict=True)]
        row, place = (matches >= 0).nonzero().unbind(1)
        return box_terms(
            self.box_loss, deltas[row, place], torch.cat(boxes), anchors[place], weights=VARIANCES, beta=1.0
        ).sum()

    # ---- prediction

    def _detect(self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int]) -> Output:
        """What is found in an image, from scores [A,C] and deltas [A,4]."""
        place, label = (scores > self.detections.score).nonzero().unbind(1)
        score = scores[place, label]
        kept = best_of_each(score, label, self.candidates)
        place, label, score = place[kept], label[kept], score[kept]
        return decode_and_suppress(
            deltas[place], anchors[place], score, label, size, self.detections, weights=VARIANCES
        )


def hardest_background(losses: Tensor, matches: Tensor, per_positive: float) -> Tensor:
    """Which background boxes are trained on: bool [N,A].

    Args:
        losses: [N,A].
        matches: int64 [N,A]; only boxes that are BELOW are background.
        per_positive: so many for each object of the image, those of the largest losses; in an image without any, none.

    Source: Liu et al., sec. 2.2, "Hard negative mining".
    """
    background = matches == BELOW
    order = losses.masked_fill(~background, -torch.inf).argsort(dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return background & (rank < per_positive * (matches >= 0).sum(1, keepdim=True))


def best_of_each(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` largest ``scores`` [K] of each label; all of them, where no label has more."""
    if not len(labels) or int(torch.bincount(labels).max()) <= count:
        return torch.arange(len(labels), device=labels.device)
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]  # label by label, in each the best first
    first = torch.searchsorted(labels[order], labels[order])  # where its label begins
    return order[torch.arange(len(order), device=order.device) - first < count]


def _before(width: int, lite: bool) -> nn.Module:
    """What stands before a prediction: with ``lite`` a depthwise convolution."""
    return lite_conv(width, width, 3) if lite else nn.Identity()


def _predictor(inputs: int, outputs: int, lite: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1 if lite else 3, padding=0 if lite else 1)


def _initialise(part: nn.Module, std: float | None) -> None:
    """Normal numbers of ``std``, or, with None, Xavier's uniform ones as the release has them."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            if std is not None:
                nn.init.normal_(layer.weight, std=std)
            else:
                bound = (3 / layer.weight[0].numel()) ** 0.5  # Caffe's: by the number of inputs alone
                nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
