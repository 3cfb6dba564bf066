"""Non-maximum suppression: one detection for each object.

Shapes: K boxes ``x1, y1, x2, y2`` with scores [K]; K may be 0.
"""

from __future__ import annotations

from torch import Tensor
from torchvision import ops


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes that are left when each one takes away those of lower score that overlap it too much.

    Args:
        boxes: float [K,4].
        scores: float [K].
        iou_threshold: a box goes where the IoU is above this; at exactly this it stays.

    Returns:
        int64: indices of those left, the largest score first, of equal scores the first.
    """
    return ops.nms(boxes.float(), scores.float(), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` within each group alone, such as a class or a pyramid level.

    Args:
        boxes: float [K,4].
        scores: float [K].
        groups: int64 [K], from 0 on.
        iou_threshold: see :func:`nms`.

    Returns:
        int64: indices of those left in all groups, the largest score first.
    """
    boxes = boxes.float()
    if len(boxes) > 0:
        # torchvision moves each group apart by the largest coordinate, so negative ones would reach into the group
        # before. Boxes without negative coordinates stay what they are, bit by bit.
        boxes = boxes - boxes.min().clamp(max=0)
    return ops.batched_nms(boxes, scores.float(), groups, iou_threshold)
