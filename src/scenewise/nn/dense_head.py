"""What detectors without proposals share: the scores of all anchors, what each anchor is to learn, and the box losses.

Used by RetinaNet and SSD. Shapes: N images, L levels, h x w cells of a level, a anchors a cell, A anchors of all levels
together, C scored classes, G true objects of one image.

Class scores are kept as [N,cells,C,a], the order in which a convolution with the channels (class, anchor) leaves them
in channels-last memory: no copy is made, and the rows of a class lie together in the convolution's weights, so that
they can be carried to a model of other classes (``weights/transfer.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from scenewise.ops.boxes import Weights, decode_boxes, encode_boxes
from scenewise.ops.matching import BETWEEN

BoxLoss = Literal["smooth-l1", "l1", "l2", "giou"]


@dataclass
class DenseScores:
    """A network's outputs for all anchors, level by level."""

    logits: list[Tensor]  # [N,h*w,C,a] a level
    deltas: list[Tensor]  # [N,h*w*a,4] a level
    anchors: list[Tensor]  # [h*w*a,4] a level


def class_scores(x: Tensor, classes: int) -> Tensor:
    """The logits float32 [N,h*w,C,a] in ``x`` [N,C*a,h,w]."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, classes, x.shape[1] // classes).float()


def box_deltas(x: Tensor) -> Tensor:
    """The deltas float32 [N,h*w*a,4] in ``x`` [N,a*4,h,w]."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, 4).float()


def class_targets(matches: Tensor, labels: Tensor, classes: int, per_cell: int, ignored: int) -> Tensor:
    """What each score of an image is to be, for independent classes: uint8 [cells,C,a].

    Args:
        matches: int64 [A], from :func:`~scenewise.ops.matching.match`.
        labels: int64 [G].
        classes: C.
        per_cell: a.
        ignored: the value for anchors that are left out; background is 0, an anchor's class 1.
    """
    target = torch.zeros(len(matches) // per_cell, classes, per_cell, dtype=torch.uint8, device=matches.device)
    out = (matches == BETWEEN).nonzero().flatten()
    target[out // per_cell, :, out % per_cell] = ignored
    positive = (matches >= 0).nonzero().flatten()
    target[positive // per_cell, labels[matches[positive]], positive % per_cell] = 1
    return target


def box_terms(
    kind: BoxLoss, deltas: Tensor, boxes: Tensor, anchors: Tensor, *, weights: Weights, beta: float
) -> Tensor:
    """The box loss [P] of P anchors that are objects, the sum over the four numbers of each.

    Args:
        kind: ``"l1"``, ``"l2"`` (half the square) and ``"smooth-l1"`` of deltas; ``"giou"``, 1 less the generalised IoU
            of the boxes.
        deltas: [P,4]: the network's.
        boxes: [P,4]: the true boxes.
        anchors: [P,4].
        weights: of the deltas.
        beta: where ``"smooth-l1"`` turns from square to straight.
    """
    if kind == "giou":
        found: Tensor = generalized_box_iou_loss(decode_boxes(deltas, anchors, weights), boxes)
        return found
    target = encode_boxes(boxes, anchors, weights)
    if kind == "l2":
        return 0.5 * F.mse_loss(deltas, target, reduction="none").sum(1)
    return F.smooth_l1_loss(deltas, target, beta=0.0 if kind == "l1" else beta, reduction="none").sum(1)


class Reach:
    """Looks at the first objects that are trained on, and warns where no anchor is near most of them.

    Args:
        needed: the IoU with which an anchor reaches an object.
    """

    OBJECTS = 20  # as many are looked at; a few may be unusual

    def __init__(self, needed: float) -> None:
        self.needed, self.seen, self.reached, self.largest = needed, 0, 0, 0.0

    def see(self, overlaps: Sequence[Tensor]) -> None:
        """``overlaps``: the IoU [G,A] of the objects of each image of a batch with all anchors."""
        if self.seen >= self.OBJECTS:
            return
        for best in (iou.amax(1) for iou in overlaps if iou.numel()):
            self.seen, self.reached = self.seen + len(best), self.reached + int((best >= self.needed).sum())
            self.largest = max(self.largest, float(best.max()))
        if self.seen >= self.OBJECTS and 2 * self.reached < self.seen:
            share = 1 - self.reached / self.seen
            warnings.warn(
                f"anchors: {share:.0%} of the first {self.seen} objects are reached by no anchor; "
                f"they overlap none by {self.needed:g} or more (the largest overlap is {self.largest:.2f}). These "
                "are learned badly; give anchors sizes and ratios nearer to those of the objects",
                stacklevel=2,
            )
