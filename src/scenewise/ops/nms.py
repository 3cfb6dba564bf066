"""Non-maximum suppression: one detection for each object.

Shapes: K boxes ``x1, y1, x2, y2`` with scores [K]; K may be 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision import ops

from scenewise.errors import UsageError
from scenewise.ops.boxes import box_iou
from scenewise.ops.masks import mask_iou


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


def mask_nms(masks: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """:func:`batched_nms` by the overlap of masks instead of boxes.

    Args:
        masks: bool [K,H,W].
        scores: float [K].
        groups: int64 [K]; masks of different groups don't take each other away.
        iou_threshold: a mask goes where the IoU with one of higher score is above this.

    Returns:
        int64: indices of those left, the largest score first, of equal scores the first.
    """
    order = scores.sort(descending=True, stable=True).indices
    overlap = mask_iou(masks, masks) > iou_threshold
    overlap &= groups[:, None] == groups
    rival = overlap[order][:, order].cpu().numpy()
    gone = np.zeros(len(rival), dtype=bool)
    left = []
    for index in range(len(rival)):
        if not gone[index]:
            left.append(index)
            gone |= rival[index]
    return order[torch.tensor(left, dtype=torch.int64, device=order.device)]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    floor: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Suppression that lowers the scores of overlapping boxes instead of taking the boxes away.

    Args:
        boxes: float [K,4].
        scores: float [K].
        groups: int64 [K]; only boxes of one group lower each other's scores.
        method: the factor for a box of overlap IoU: exp(-IoU^2 / sigma), or 1 - IoU where IoU >= ``iou_threshold``.
        sigma: of "gaussian".
        iou_threshold: of "linear".
        floor: a box whose score falls below this goes.

    Returns:
        (int64 indices of those left, float32 their new scores), the largest new score first, of equal ones the first.

    Runs on the CPU. Source: Bodla et al., "Soft-NMS", ICCV 2017, sec. 3, eq. 1 and 2.
    """
    if method not in ("gaussian", "linear"):
        raise UsageError(f"soft_nms: method {method!r}; expected 'gaussian' or 'linear'")
    places, values = boxes.detach().float().cpu(), scores.detach().float().cpu().numpy().copy()
    for group in groups.cpu().unique():
        waiting = torch.where(groups.cpu() == group)[0].numpy()
        while len(waiting) > 0:
            best = values[waiting].argmax()
            chosen, waiting = waiting[best], np.delete(waiting, best)
            overlap = box_iou(places[chosen][None], places[waiting])[0].numpy()
            if method == "gaussian":
                factor = np.exp(-(overlap**2) / sigma)
            else:
                factor = np.where(overlap >= iou_threshold, 1 - overlap, 1)
            values[waiting] *= factor
            waiting = waiting[values[waiting] >= floor]  # a score can only fall, so these need not wait any longer
    lowered = torch.from_numpy(values)
    order = lowered.sort(descending=True, stable=True).indices
    order = order[lowered[order] >= floor]
    return order.to(boxes.device), lowered[order].to(boxes.device)


def vote_boxes(boxes: Tensor, scores: Tensor, groups: Tensor, keep: Tensor, *, iou_threshold: float = 0.5) -> Tensor:
    """Each kept box moved to the mean, weighted by score, of all boxes of its group that overlap it.

    Args:
        boxes: float [K,4], before suppression.
        scores: float [K], 0 or more.
        groups: int64 [K].
        keep: int64 [M]: indices of the boxes that suppression left.
        iou_threshold: boxes with at least this IoU with the kept one vote, and the kept one itself.

    Returns:
        float32 [M,4], in the order of ``keep``. A box whose voters all have score 0 stays where it is.

    Source: Gidaris and Komodakis, "Object detection via a multi-region & semantic segmentation-aware CNN model",
    ICCV 2015, sec. 4.
    """
    boxes, kept = boxes.float(), boxes[keep].float()
    votes = (box_iou(kept, boxes) >= iou_threshold) & (groups[keep][:, None] == groups)
    votes[torch.arange(len(keep), device=keep.device), keep] = True
    weights = votes * scores.float()  # [M,K]
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights @ boxes / total, kept)
