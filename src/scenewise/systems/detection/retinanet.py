"""RetinaNet: every anchor of a feature pyramid is classified at once, under a loss that the easy ones hardly move.

Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", ICCV 2017,
https://arxiv.org/abs/1708.02002. In order of the paper: the focal loss (sec. 3, ``losses/focal.py``), the pyramid P3 to
P7 (sec. 4, ``nn/features.py``), its anchors, the class and the box subnet.
Where we differ: objects whose best anchor overlaps them by less than 0.5 are learned by that one, as in Detectron and
torchvision; the terms of a batch are means over its images, each divided by its own number of positive anchors.

Shapes: N images, a anchors a cell, A anchors of all levels together, C classes, G true objects of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.losses.focal import sigmoid_focal
from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.dense_head import BoxLoss, DenseScores, Reach, box_deltas, box_terms, class_scores, class_targets
from scenewise.nn.features import Features, FeatureSpec
from scenewise.nn.layers import conv_norm
from scenewise.ops.anchors import AnchorSpec, anchors_per_cell, grid_anchors
from scenewise.ops.boxes import DetectionSpec, box_iou, decode_and_suppress
from scenewise.ops.matching import (
    HardExamples,
    hardest,
    ignored_boxes,
    leave_out_crowds,
    match,
    real_boxes,
    real_labels,
)
from scenewise.types import IGNORE, STRICT, Batch, Channels, Count, InputSpec, Interface, Layers, Output, Share, Weight

OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
ANCHORS = AnchorSpec(sizes=tuple(tuple(side * step for step in OCTAVE) for side in (32, 64, 128, 256, 512)))  # sec. 4
PYRAMID = FeatureSpec(strides=(8, 16, 32), coarser="c5")
PLAIN = (1.0, 1.0, 1.0, 1.0)  # weights of the deltas
KEPT_FOR_NMS = 8  # of hard examples without overlaps: so many times as many are looked at


@dataclass(frozen=True)
class SubnetSpec:
    """The two subnets, and which anchors they learn from (sec. 4).

    Attributes:
        convs: 3x3 convolutions of each, before the one that gives the outputs.
        channels: their width; None: that of the pyramid.
        norm: ``"group"`` puts a group-norm after each.
        prior: how likely each class of an anchor is at first; without it, training diverges.
        positive_iou: an anchor is an object where it overlaps one so much; the best anchor of an object is one always.
        negative_iou: it is background where it overlaps all objects less; in between it is not trained on.
        crowd_ioa: background with a larger part of itself within a crowd or a difficult object is not trained on.
    """

    __pydantic_config__ = STRICT
    convs: Layers = 4
    channels: Channels | None = None
    norm: Literal["none", "group"] = "none"
    prior: Share = 0.01
    positive_iou: Share = 0.5
    negative_iou: Share = 0.4
    crowd_ioa: Share | None = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.prior < 1:
            raise UsageError(f"head: prior is {self.prior}; expected a probability above 0 and below 1")
        if self.negative_iou > self.positive_iou:
            raise UsageError(
                f"head: negative_iou is {self.negative_iou}, above positive_iou, {self.positive_iou}; expected no more"
            )


class RetinaNet(Model):
    """One stage: a feature pyramid, and two small networks that score and move its anchors.

    Its defaults are the paper's. ``torchvision/retinanet_resnet50_fpn`` and its ``_v2`` among the published weights
    name the options that make it equal to torchvision's.

    The paper's alternatives to its loss (table 1): cross-entropy, ``alpha: null, gamma: 0``; balanced cross-entropy,
    ``alpha: 0.75, gamma: 0``; online hard examples, ``alpha: null``, ``gamma: 0`` and
    ``hard_examples: {count: 256, nms_iou: 0.7}``.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        features: the pyramid: the strides of the backbone's maps that it takes, its width, how the coarser maps are
            made, what is frozen.
        anchors: their sizes in pixels, one entry per map (two more than ``features.strides``), and ratios.
        head: the two subnets, and which anchors are trained on.
        alpha: the focal loss's weight of the positives; negatives have 1 - alpha. None: both have 1.
        gamma: how fast the loss falls off for anchors that are right already; 0 is the cross-entropy.
        hard_examples: train the classes only on this many anchors per image, those with the largest loss, whose sum is
            divided by their number.
        negatives_per_positive: with ``hard_examples``: at most so many of them are background for each that is an
            object; the paper's OHEM 1:3. None: whatever has the largest loss.
        box_loss: ``"smooth-l1"``, ``"l1"`` (torchvision's), ``"l2"``, or ``"giou"`` (of torchvision's second version).
        beta: where the smooth L1 loss turns from square to straight.
        box_weight: of the box loss against the class loss.
        candidates: of each level, this many scores at most are looked at.
        detections: which boxes are returned.
        input: how images are resized and normalised; by default with a shorter side of 800 and at most 1333 pixels.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=("boxes", "labels"), fills=("boxes", "labels", "scores"))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        features: FeatureSpec | None = None,
        anchors: AnchorSpec | None = None,
        head: SubnetSpec | None = None,
        alpha: Share | None = 0.25,
        gamma: Weight = 2.0,
        hard_examples: HardExamples | None = None,
        negatives_per_positive: Weight | None = None,
        box_loss: BoxLoss = "smooth-l1",
        beta: Weight = 1 / 9,
        box_weight: Weight = 1.0,
        candidates: Count = 1000,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone, size_divisor=32, short_side=800, long_side=1333))
        self.features = Features(
            backbone, in_channels=self.input.channels, weights=backbone_weights, spec=features or PYRAMID
        )
        self.strides = self.features.proposal_strides
        self.anchors, self.head = anchors or ANCHORS, head or SubnetSpec()
        self.per_cell = anchors_per_cell(self.anchors, len(self.strides))
        width = self.head.channels or self.features.channels
        self.class_tower = _tower(self.features.channels, width, self.head)
        self.class_logits = nn.Conv2d(width, len(self.classes) * self.per_cell, 3, padding=1)
        self.box_tower = _tower(self.features.channels, width, self.head)
        self.box_deltas = nn.Conv2d(width, 4 * self.per_cell, 3, padding=1)
        for part in (self.class_tower, self.class_logits, self.box_tower, self.box_deltas):
            _initialise(part)
        prior = self.head.prior
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        if negatives_per_positive is not None and hard_examples is None:
            raise UsageError("negatives_per_positive is a part of online hard example mining; give hard_examples, too")
        self.alpha, self.gamma = alpha, gamma
        self.hard_examples, self.negatives_per_positive = hard_examples, negatives_per_positive
        self.box_loss, self.beta, self.box_weight = box_loss, beta, box_weight
        self.candidates, self.detections = candidates, detections or DetectionSpec()
        self.reach = Reach(self.head.positive_iou)

    @classmethod
    def defaults(cls, **_: Any) -> dict[str, Any]:
        """The paper's pyramid and anchors, of which a recipe may give a part."""
        return {"features": PYRAMID, "anchors": ANCHORS}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``class``, the focal loss of all anchors that are not left out, and ``box``, of those that are objects."""
        scored = self._score(batch)
        anchors = torch.cat(scored.anchors)
        matches = self._match(batch, anchors)
        return {
            "class": self._class_loss(torch.cat(scored.logits, 1), matches, batch, anchors),
            "box": self.box_weight * self._box_loss(torch.cat(scored.deltas, 1), matches, batch, anchors),
        }

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        scored = self._score(batch)
        return [self._detect(scored, row, size) for row, size in enumerate(batch.sizes)]

    def probe(self, batch: Batch) -> Tensor:
        """Scores and deltas of all anchors."""
        scored = self._score(batch)
        return torch.cat([x.flatten() for x in (*scored.logits, *scored.deltas)])

    def _score(self, batch: Batch) -> DenseScores:
        """Both subnets on all maps, with the same weights."""
        maps = self.features(self.pixels(batch))
        logits = [class_scores(self.class_logits(self.class_tower(x)), len(self.classes)) for x in maps]
        deltas = [box_deltas(self.box_deltas(self.box_tower(x))) for x in maps]
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        anchors = grid_anchors(self.anchors, batch.canvas, sizes, strides=self.strides, device=maps[0].device)
        return DenseScores(logits, deltas, anchors)

    # ---- training

    @torch.no_grad()
    def _match(self, batch: Batch, anchors: Tensor) -> list[Tensor]:
        """For each image the object of each anchor, an index among the real ones, or BELOW or BETWEEN: int64 [A]."""
        head = self.head
        overlaps = [box_iou(real_boxes(truth), anchors) for truth in batch.targets]
        self.reach.see(overlaps)
        return [
            leave_out_crowds(
                match(iou, head.positive_iou, head.negative_iou), anchors, ignored_boxes(truth), head.crowd_ioa
            )
            for iou, truth in zip(overlaps, batch.targets, strict=True)
        ]

    def _class_loss(self, logits: Tensor, matches: Sequence[Tensor], batch: Batch, anchors: Tensor) -> Tensor:
        """Sec. 3.3 and 4.1: the sum over all anchors of an image, divided by the number of those that are objects."""
        terms = []
        for row, (found, truth) in enumerate(zip(matches, batch.targets, strict=True)):
            target = class_targets(found, real_labels(truth), len(self.classes), self.per_cell, IGNORE)
            loss = sigmoid_focal(logits[row], target, alpha=self.alpha, gamma=self.gamma)  # [cells,C,a]
            if self.hard_examples is None:
                terms.append(loss.sum() / max(1, int((found >= 0).sum())))
            else:
                chosen = self._hard(loss.detach().sum(1).flatten(), found >= 0, anchors)
                terms.append(loss.sum(1).flatten()[chosen].sum() / max(1, len(chosen)))
        return torch.stack(terms).mean()

    def _hard(self, losses: Tensor, positive: Tensor, anchors: Tensor) -> Tensor:
        """The indices of the hard examples among an image's anchors (sec. 5.1, "Online Hard Example Mining")."""
        spec, ratio = self.hard_examples, self.negatives_per_positive
        assert spec is not None
        if ratio is None:
            return _hardest(losses, torch.arange(len(losses), device=losses.device), anchors, spec, spec.count)
        objects, background = positive.nonzero().flatten(), (~positive).nonzero().flatten()
        objects = _hardest(losses, objects, anchors, spec, max(1, int(spec.count / (1 + ratio))))
        most = max(1, int(ratio * len(objects)))
        return torch.cat([objects, _hardest(losses, background, anchors, spec, most)])

    def _box_loss(self, deltas: Tensor, matches: Sequence[Tensor], batch: Batch, anchors: Tensor) -> Tensor:
        terms = []
        for row, (found, truth) in enumerate(zip(matches, batch.targets, strict=True)):
            positive = (found >= 0).nonzero().flatten()
            boxes = real_boxes(truth)[found[positive]]
            loss = box_terms(
                self.box_loss, deltas[row, positive], boxes, anchors[positive], weights=PLAIN, beta=self.beta
            )
            terms.append(loss.sum() / max(1, len(positive)))
        return torch.stack(terms).mean()

    # ---- prediction

    def _detect(self, scored: DenseScores, row: int, size: tuple[int, int]) -> Output:
        """What is found in image ``row``: the best of each level, then suppression over all levels (sec. 4)."""
        parts = [
            self._best(logits[row], deltas[row], anchors)
            for logits, deltas, anchors in zip(scored.logits, scored.deltas, scored.anchors, strict=True)
        ]
        scores, labels, deltas, anchors = (torch.cat(values) for values in zip(*parts, strict=True))
        return decode_and_suppress(deltas, anchors, scores, labels, size, self.detections, weights=PLAIN)

    def _best(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores, labels, deltas and anchors of a level's candidates, from its logits [cells,C,a]."""
        flat = logits.flatten()
        likely = (flat > _logit(self.detections.score)).nonzero().flatten()  # few of some millions
        scores = flat[likely]
        if len(scores) > self.candidates:
            scores, best = scores.topk(self.candidates)
            likely = likely[best]
        slot, cell_and_class = likely % self.per_cell, likely // self.per_cell
        place = cell_and_class // len(self.classes) * self.per_cell + slot
        return scores.sigmoid(), cell_and_class % len(self.classes), deltas[place], anchors[place]


def _tower(inputs: int, width: int, spec: SubnetSpec) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position in range(spec.convs):
        layers += [*conv_norm(width if position else inputs, width, 3, spec.norm), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _initialise(part: nn.Module) -> None:
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _hardest(losses: Tensor, among: Tensor, anchors: Tensor, spec: HardExamples, count: int) -> Tensor:
    """Those ``count`` of the indices ``among`` whose losses are the largest; of overlapping ones only one."""
    likely = among[hardest(losses[among], count if spec.nms_iou is None else KEPT_FOR_NMS * count)]
    return likely[hardest(losses[likely], count, boxes=anchors[likely], iou_threshold=spec.nms_iou)]


def _logit(share: float) -> float:
    """The logit whose sigmoid is ``share``."""
    if share <= 0:
        return -math.inf
    return math.inf if share >= 1 else math.log(share / (1 - share))
