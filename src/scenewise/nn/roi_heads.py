"""The second stage of two-stage detectors: which boxes are trained on, the losses of their classes and deltas, and
which detections are returned.

Girshick, "Fast R-CNN", ICCV 2015, https://arxiv.org/abs/1504.08083, sec. 2.3; the numbers of Lin et al., FPN, CVPR
2017.

Shapes: N images, R boxes (RoIs) of all images together, G true objects of one image, C classes. In the outputs of a
second stage, class 0 is the background; everywhere else labels count from 0 without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.nn.rpn import BETA
from scenewise.ops.boxes import DetectionSpec, box_iou, decode_and_suppress, encode_boxes
from scenewise.ops.matching import (
    BELOW,
    BETWEEN,
    HardExamples,
    hardest,
    ignored_boxes,
    leave_out_crowds,
    match,
    sample_balanced,
)
from scenewise.types import STRICT, Batch, Count, Output, Share, Target

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the deltas: one over their usual standard deviations


@dataclass(frozen=True)
class RoISampler:
    """Which proposals the second stage is trained on.

    Attributes:
        samples: per image.
        positive_fraction: the largest part of them that are objects.
        positive_iou: a proposal is an object where it overlaps one at least so much.
        negative_iou: it is background where it overlaps all objects less; in between it is left out.
        lowest_iou: background overlaps an object at least this much; Fast R-CNN's 0.1 looks for hard examples so. In an
            image without objects every proposal is background.
        crowd_ioa: a proposal with a larger part of itself within a crowd or a difficult object is left out.
    """

    __pydantic_config__ = STRICT
    samples: Count = 512
    positive_fraction: Share = 0.25
    positive_iou: Share = 0.5
    negative_iou: Share = 0.5
    lowest_iou: Share = 0.0
    crowd_ioa: Share = 0.7


@dataclass
class Sampled:
    """Boxes to train a second stage on."""

    boxes: list[Tensor]  # N times [S,4]
    labels: Tensor  # int64 [R], 0 is the background
    truth: list[Tensor]  # N times int64 [S]: the true object of each box, an index into the image's targets
    deltas: Tensor  # [R,4]: those that make of each box its true one; 0 for background

    @property
    def positive(self) -> Tensor:
        """bool [R]: which are objects."""
        return self.labels > 0

    def objects(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The boxes [P,4], the true objects [P] of the positives in each image, and their labels from 0, joined."""
        sizes = [len(boxes) for boxes in self.boxes]
        positive = self.positive.split(sizes)
        boxes = [b[p] for b, p in zip(self.boxes, positive, strict=True)]
        truth = [t[p] for t, p in zip(self.truth, positive, strict=True)]
        return boxes, truth, self.labels[self.positive] - 1


@torch.no_grad()
def sample_rois(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    spec: RoISampler,
    *,
    add_truth: bool = True,
    weights: tuple[float, float, float, float] = BOX_WEIGHTS,
) -> Sampled:
    """Boxes to train on: some of ``proposals`` (N times [P,4]) and, with ``add_truth``, of the true ones."""
    boxes, labels, truths, deltas = [], [], [], []
    for candidates, target in zip(proposals, targets, strict=True):
        real = _real(target)
        true_boxes = target["boxes"][real]
        if add_truth:
            candidates = torch.cat([candidates, true_boxes])
        matches = _match(candidates, target, true_boxes, spec)
        chosen = torch.cat(sample_balanced(matches, spec.samples, spec.positive_fraction)).sort().values
        matched, found = candidates[chosen], matches[chosen]
        positive = found >= 0
        truth = torch.zeros_like(found)
        label = torch.zeros_like(found)
        delta = torch.zeros_like(matched)
        if len(real):
            truth[positive] = real[found[positive]]
            label[positive] = target["labels"][truth[positive]] + 1
            delta[positive] = encode_boxes(true_boxes[found[positive]], matched[positive], weights)
        boxes.append(matched)
        labels.append(label)
        truths.append(truth)
        deltas.append(delta)
    return Sampled(boxes, torch.cat(labels), truths, torch.cat(deltas))


def _real(target: Target) -> Tensor:
    """The indices of the single objects, not crowds or difficult ones, in ``target``."""
    if "ignore" in target:
        return (~target["ignore"]).nonzero().flatten()
    return torch.arange(len(target["boxes"]), device=target["boxes"].device)


def _match(candidates: Tensor, target: Target, true_boxes: Tensor, spec: RoISampler) -> Tensor:
    """For each candidate the index of its object in ``true_boxes``, BELOW for background or BETWEEN to leave it out."""
    iou = box_iou(true_boxes, candidates)
    matches = match(iou, spec.positive_iou, spec.negative_iou, force=False)
    if spec.lowest_iou > 0 and len(iou):
        matches[(matches == BELOW) & (iou.max(0).values < spec.lowest_iou)] = BETWEEN
    return leave_out_crowds(matches, candidates, ignored_boxes(target), spec.crowd_ioa)


def second_stage_losses(
    logits: Tensor, deltas: Tensor, sampled: Sampled, *, beta: float = BETA, hard: int | HardExamples | None = None
) -> dict[str, Tensor]:
    """Terms ``class`` and ``box`` of a second stage (Fast R-CNN, eq. 1 to 3).

    Args:
        logits: [R,C+1], class 0 is the background.
        deltas: [R,4(C+1)], four for each class, or [R,4], four for all.
        sampled: the ground truth of the R boxes.
        beta: where the smooth L1 loss turns from square to straight.
        hard: only the boxes with the largest losses are trained on; a number is that of an image.
    """
    logits, deltas = logits.float(), deltas.float()
    positive = sampled.positive.nonzero().flatten()
    label = sampled.labels[positive]
    chosen = deltas[positive]
    if deltas.shape[1] > 4:
        chosen = chosen.unflatten(1, (-1, 4))[torch.arange(len(positive), device=label.device), label]
    of_class = F.cross_entropy(logits, sampled.labels, reduction="none")  # [R]
    of_box = F.smooth_l1_loss(chosen, sampled.deltas[positive], beta=beta, reduction="none").sum(1)  # [P]
    count = max(1, len(logits))
    if hard is not None:
        spec = HardExamples(hard) if isinstance(hard, int) else hard
        kept = _hard_examples(of_class.detach().index_add(0, positive, of_box.detach()), sampled.boxes, spec)
        of_class, of_box, count = of_class * kept, of_box * kept[positive], max(1, int(kept.sum()))
    return {"class": of_class.sum() / count, "box": of_box.sum() / count}


def _hard_examples(losses: Tensor, boxes: Sequence[Tensor], spec: HardExamples) -> Tensor:
    """1 for the hard examples of each image, 0 for the others: [R], from ``losses`` [R] and ``boxes`` N times [S,4]."""
    kept = torch.zeros_like(losses)
    start = 0
    for candidates in boxes:
        rows = slice(start, start + len(candidates))
        best = hardest(losses[rows], spec.count, boxes=candidates, iou_threshold=spec.nms_iou)
        kept[rows][best] = 1
        start += len(candidates)
    return kept


@torch.no_grad()
def detections(
    scores: Tensor,
    deltas: Tensor,
    proposals: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    spec: DetectionSpec,
    *,
    weights: tuple[float, float, float, float] = BOX_WEIGHTS,
) -> list[Output]:
    """What is returned of scored boxes: one output per image with boxes, labels and scores, best first.

    Args:
        scores: [R,C+1] in 0..1, class 0 is the background.
        deltas: [R,4(C+1)], four for each class, or [R,4], four for all.
        proposals: N times [P,4], R in all.
        sizes: N times (height, width) of the image; boxes are clipped to it.
    """
    counts = [len(boxes) for boxes in proposals]
    found = []
    for probability, delta, boxes, size in zip(
        scores.float().split(counts), deltas.float().split(counts), proposals, sizes, strict=True
    ):
        row, label = (probability[:, 1:] > spec.score).nonzero().unbind(1)  # candidates only: few boxes are decoded
        if delta.shape[1] > 4:
            delta = delta.unflatten(1, (-1, 4))[row, label + 1]
        else:
            delta = delta[row]
        score = probability[row, label + 1]
        found.append(decode_and_suppress(delta, boxes[row], score, label, size, spec, weights=weights))
    return found


def probe_boxes(batch: Batch) -> list[Tensor]:
    """One box [1,4] in each image, for ``Model.probe``."""
    return [batch.images.new_tensor([[w / 5, h / 6, w / 1.5, h / 1.2]]) for h, w in batch.sizes]
