"""Boxes: area, overlap, clipping, the code that a box head regresses, suppression of those found twice, and the way
from scored anchors to detections.

Shapes: A, B, K boxes ``x1, y1, x2, y2`` in pixels, continuous, unless ``plus_one`` says otherwise. Any of A, B, K may
be 0. All is computed in the precision of the boxes (float32), also where a network runs in a lower one.

``plus_one=True`` is the legacy rule: corners are the indices of the first and the last pixel, so a side is x2 - x1 + 1.
Every number published before 2018 or so was made with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision import ops

from scenewise.errors import UsageError
from scenewise.types import STRICT, Count, Output, Share, Weight

Weights = tuple[float, float, float, float]

MAX_LOG_RATIO = math.log(1000 / 16)  # decoded sides grow at most 62.5-fold: an untrained network must not overflow exp


def box_area(boxes: Tensor, *, plus_one: bool = False) -> Tensor:
    """Width times height of ``boxes`` [..., 4]: [...], in square pixels."""
    one = 1 if plus_one else 0
    return (boxes[..., 2] - boxes[..., 0] + one) * (boxes[..., 3] - boxes[..., 1] + one)


def box_iou(a: Tensor, b: Tensor, *, plus_one: bool = False) -> Tensor:
    """Intersection over union of each of ``a`` [A,4] with each of ``b`` [B,4]: [A,B], 0..1.

    0, not NaN, for two boxes without area.
    """
    intersection, union = _intersection_and_union(a, b, plus_one)
    return _ratio(intersection, union)


def box_ioa(a: Tensor, b: Tensor) -> Tensor:
    """The share of each of ``a`` [A,4] that lies within each of ``b`` [B,4]: [A,B], 0..1; 0 where a has no area.

    COCO measures a detection against a crowd so: the crowd's box or region is not expected to be filled by one object.
    """
    return _ratio(_intersection(a, b, 0), box_area(a)[:, None].expand(len(a), len(b)))


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the share of the smallest enclosing box that the two do not cover: [A,B], -1..1.

    Args:
        a: [A,4].
        b: [B,4].

    Two boxes without area at one place have 0. Source: Rezatofighi et al., "Generalized Intersection over Union",
    CVPR 2019, algorithm 1.
    """
    intersection, union = _intersection_and_union(a, b, False)
    width = torch.maximum(a[:, None, 2], b[:, 2]) - torch.minimum(a[:, None, 0], b[:, 0])
    height = torch.maximum(a[:, None, 3], b[:, 3]) - torch.minimum(a[:, None, 1], b[:, 1])
    hull = width.clamp(min=0) * height.clamp(min=0)
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def _intersection_and_union(a: Tensor, b: Tensor, plus_one: bool) -> tuple[Tensor, Tensor]:
    intersection = _intersection(a, b, 1 if plus_one else 0)
    area = box_area(a, plus_one=plus_one)[:, None] + box_area(b, plus_one=plus_one)
    return intersection, area.sub_(intersection)


def _intersection(a: Tensor, b: Tensor, one: int) -> Tensor:
    # One side at a time and in place: with all anchors of an image, [A,B,2] would be hundreds of megabytes.
    width = torch.minimum(a[:, None, 2], b[:, 2]).sub_(torch.maximum(a[:, None, 0], b[:, 0])).add_(one).clamp_(min=0)
    height = torch.minimum(a[:, None, 3], b[:, 3]).sub_(torch.maximum(a[:, None, 1], b[:, 1])).add_(one).clamp_(min=0)
    return width.mul_(height)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.zeros_like(part))


def clip_boxes(boxes: Tensor, size: tuple[int, int], *, plus_one: bool = False) -> Tensor:
    """``boxes`` [...,4] cut off at the borders of an image of ``size`` (height, width).

    A box outside the image becomes one without area on its border. With ``plus_one``, the last coordinates are
    width - 1 and height - 1.
    """
    height, width = (side - 1 for side in size) if plus_one else size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1)


def at_least(boxes: Tensor, side: float) -> Tensor:
    """Which of ``boxes`` [K,4] have both width and height of ``side`` pixels or more: bool [K]."""
    return (boxes[:, 2] - boxes[:, 0] >= side) & (boxes[:, 3] - boxes[:, 1] >= side)


def encode_boxes(
    boxes: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0), *, plus_one: bool = False
) -> Tensor:
    """The deltas that make ``boxes`` of ``anchors``; undone by :func:`decode_boxes`.

    Args:
        boxes: [..., 4], with positive width and height.
        anchors: [..., 4], one for each box, with positive width and height.
        weights: what dx, dy, dw and dh are multiplied by: all 1 for an RPN, (10, 10, 5, 5) for a second stage, which
            is the same as dividing by the standard deviations 0.1, 0.1, 0.2, 0.2.
        plus_one: the legacy rule.

    Returns:
        [..., 4]: the step between the centres in anchor widths and heights, and the natural logarithm of the ratio of
        the sides, times the weights. A side of 0 gives an infinite or undefined delta.

    Source: Girshick et al. 2014 (R-CNN), appendix C, eq. 6-9.
    """
    x, y, width, height = _centers_and_sides(boxes, plus_one)
    anchor_x, anchor_y, anchor_width, anchor_height = _centers_and_sides(anchors, plus_one)
    return torch.stack(
        (
            weights[0] * (x - anchor_x) / anchor_width,
            weights[1] * (y - anchor_y) / anchor_height,
            weights[2] * torch.log(width / anchor_width),
            weights[3] * torch.log(height / anchor_height),
        ),
        dim=-1,
    )


def decode_boxes(
    deltas: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0), *, plus_one: bool = False
) -> Tensor:
    """The boxes that ``deltas`` make of ``anchors``; undoes :func:`encode_boxes`.

    Args:
        deltas: [..., K, 4], see :func:`encode_boxes`. In a precision below that of the anchors, they are raised to it.
        anchors: [K, 4], or any shape that broadcasts, such as [K,1,4] for deltas [K,C,4] of each class.
        weights: those that the deltas were made with.
        plus_one: the legacy rule. x2 is then the last pixel's index, centre + width / 2 - 1, as in Detectron;
            py-faster-rcnn leaves out the - 1, so its boxes grow by a pixel.

    Returns:
        [..., K, 4], not clipped to the image. K may be 0.

    dw and dh are capped at log(1000 / 16). Source: Girshick et al. 2014 (R-CNN), appendix C, eq. 1-4.
    """
    deltas = deltas.to(torch.promote_types(deltas.dtype, anchors.dtype))
    anchor_x, anchor_y, anchor_width, anchor_height = _centers_and_sides(anchors, plus_one)
    x = deltas[..., 0] / weights[0] * anchor_width + anchor_x
    y = deltas[..., 1] / weights[1] * anchor_height + anchor_y
    half_width = 0.5 * (torch.exp((deltas[..., 2] / weights[2]).clamp(max=MAX_LOG_RATIO)) * anchor_width)
    half_height = 0.5 * (torch.exp((deltas[..., 3] / weights[3]).clamp(max=MAX_LOG_RATIO)) * anchor_height)
    one = 1 if plus_one else 0
    return torch.stack((x - half_width, y - half_height, x + half_width - one, y + half_height - one), dim=-1)


def _centers_and_sides(boxes: Tensor, plus_one: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    one = 1 if plus_one else 0
    width = boxes[..., 2] - boxes[..., 0] + one
    height = boxes[..., 3] - boxes[..., 1] + one
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height


# ---- non-maximum suppression: one detection for each object


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes that remain when each suppresses those of lower score that overlap it too much.

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


# ---- from scored anchors to detections


@dataclass(frozen=True)
class DetectionSpec:
    """Which of the scored boxes are returned.

    Attributes:
        score: the lowest.
        nms_iou: of two boxes of a class that overlap more, the one with the lower score goes.
        nms: ``"soft-linear"`` and ``"soft-gaussian"`` lower its score instead (Bodla et al., ICCV 2017).
        class_agnostic: boxes of different classes suppress each other, too.
        voting_iou: box voting: a box that stays becomes the mean, weighted by score, of all boxes of its class that
            overlap it at least so much (Gidaris and Komodakis, ICCV 2015; 0.5 there). None: boxes stay as they are.
        count: the largest number per image.
        min_side: boxes with a shorter side, in pixels, are dropped.
    """

    __pydantic_config__ = STRICT
    score: Share = 0.05
    nms_iou: Share = 0.5
    nms: Literal["hard", "soft-linear", "soft-gaussian"] = "hard"
    class_agnostic: bool = False
    count: Count = 100
    min_side: Weight = 1e-2
    voting_iou: Share | None = None


@torch.no_grad()
def decode_and_suppress(
    deltas: Tensor,
    anchors: Tensor,
    scores: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    spec: DetectionSpec,
    *,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
) -> Output:
    """The way of every detector from its candidates in an image to what it returns.

    Args:
        deltas: [K,4], see :func:`encode_boxes`.
        anchors: [K,4]: the anchor or proposal of each candidate.
        scores: [K] in 0..1.
        labels: int64 [K], from 0 on. Boxes of different labels do not suppress each other, unless ``spec`` says so.
        size: (height, width) of the image; boxes are clipped to it.
        spec: which of them are returned; its ``score`` is left to the caller, who picks candidates.
        weights: those of the deltas.

    Returns:
        Boxes, labels and scores, the largest score first. Candidates whose deltas are not numbers are dropped.
    """
    boxes = clip_boxes(decode_boxes(deltas, anchors, weights), size)
    large = at_least(boxes, spec.min_side).nonzero().flatten()
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    groups = torch.zeros_like(labels) if spec.class_agnostic else labels
    kept, lowered = _suppress(boxes, scores, groups, spec)
    left = boxes[kept]
    if spec.voting_iou is not None:
        left = vote_boxes(boxes, scores, groups, kept, iou_threshold=spec.voting_iou)
    return Output(size, boxes=left, labels=labels[kept], scores=lowered)


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, spec: DetectionSpec) -> tuple[Tensor, Tensor]:
    """The indices of the boxes that stay, best first, and their scores."""
    if spec.nms == "hard":
        kept = batched_nms(boxes, scores, groups, spec.nms_iou)[: spec.count]
        return kept, scores[kept]
    method: Literal["linear", "gaussian"] = "linear" if spec.nms == "soft-linear" else "gaussian"
    kept, scores = soft_nms(boxes, scores, groups, method=method, iou_threshold=spec.nms_iou, floor=spec.score)
    return kept[: spec.count], scores[: spec.count]
