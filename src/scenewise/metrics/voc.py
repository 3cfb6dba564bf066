"""Average precision as Pascal VOC measures it.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, sec. 4.2; The PASCAL VOC Challenge: A
Retrospective, IJCV 2015, sec. 3. Each detection is compared with one ground-truth object only, the one of its class
that it overlaps most, even if another detection has taken that already. It is a hit if their IoU is above the threshold
(strictly, as in the Python evaluation that the field uses) and it is the best-scored to claim that truth. Detections of
a difficult truth count neither way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, image_key, image_label
from scenewise.metrics.objects import instances_of, truths_of
from scenewise.metrics.precision_recall import Curve, average_precision, precision_recall_curve
from scenewise.ops.boxes import box_iou
from scenewise.types import Described, Target

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Image:
    """What one image contributes: K detections, and the truths of each class."""

    name: str
    labels: Int64  # [K]
    scores: npt.NDArray[np.float64]  # [K]
    claims: Int64  # [K], the truth that each claims, by its place in the image; -1 for none
    difficult: npt.NDArray[np.bool_]  # [K], whether that truth does not count
    truths: Int64  # [C], the truths of each class that count


class VocMetrics(Metric):
    """VOC's average precision over a data set, by 11 points and by area.

    Args:
        classes: names, in label order.
        iou_threshold: a match has an IoU above it.
        plus_one: the boxes' corners are indices of their first and last pixels, as in VOC's own files, so that a side
            is x2 - x1 + 1. scenewise's readers convert such corners to continuous ones, and the IoU of those is the
            same number without it; it is for boxes that came in another way.
    """

    def __init__(self, classes: Sequence[str], *, iou_threshold: float = 0.5, plus_one: bool = False) -> None:
        if not 0 <= iou_threshold < 1:
            raise UsageError(f"iou_threshold is {iou_threshold}; expected 0 or more, and less than 1")
        self.classes = tuple(classes)
        self.iou_threshold = iou_threshold
        self.plus_one = plus_one
        self._images: list[_Image] = []

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``boxes``, ``labels`` and ``scores`` against ``boxes``, ``labels`` and ``ignore``.

        Raises:
            UsageError: a field is missing or does not fit; names the image.
        """
        name, count = image_label(prediction, target), len(self.classes)
        found = instances_of(prediction, name, count, ("boxes",))
        truth = truths_of(target, name, count, ("boxes",))
        labels, scores = found["labels"].long().numpy(), found["scores"].double().numpy()
        claims = self._claims(found["boxes"], labels, truth["boxes"], truth["labels"].numpy())
        claimed = claims >= 0
        difficult = np.zeros(len(labels), np.bool_)
        difficult[claimed] = truth["ignore"].numpy()[claims[claimed]]
        counted = truth["labels"][~truth["ignore"]].long()
        self._images.append(
            _Image(image_key(target), labels, scores, claims, difficult, counted.bincount(minlength=count).numpy())
        )

    def _claims(self, boxes: Tensor, labels: Int64, truths: Tensor, truth_labels: Int64) -> Int64:
        """The truth that each of ``boxes`` [K,4] claims, int64 [K]; -1 for none."""
        if len(boxes) == 0 or len(truths) == 0:
            return np.full(len(boxes), -1, np.int64)
        iou = box_iou(boxes.double(), truths.double(), plus_one=self.plus_one).numpy()
        iou[labels[:, None] != truth_labels] = -1.0
        claims = iou.argmax(1)  # the first of equals, as the reference's
        return np.where(iou.max(1) > self.iou_threshold, claims, -1)

    def merge(self, other: VocMetrics) -> None:
        """Add what another process counted."""
        mine, theirs = ((m.classes, m.iou_threshold, m.plus_one) for m in (self, other))
        if mine != theirs:
            raise UsageError(f"can't merge VOC scores of {theirs} into those of {mine} (classes, threshold, plus_one)")
        self._images += other._images

    def curve(self, label: int) -> Curve:
        """The precision-recall curve of one class."""
        images = sorted(self._images, key=lambda image: image.name)
        parts = []
        for index, image in enumerate(images):
            own = (image.labels == label) & ~image.difficult
            claims = image.claims[own]
            parts.append(np.stack([image.scores[own], np.full(len(claims), index), claims], 1))
        table = np.concatenate(parts) if parts else np.zeros((0, 3))
        table = table[np.argsort(-table[:, 0], kind="stable")]
        claimed = np.flatnonzero(table[:, 2] >= 0)
        _, first = np.unique(table[claimed, 1:], axis=0, return_index=True)
        hits = np.zeros(len(table), np.bool_)
        hits[claimed[first]] = True
        return precision_recall_curve(table[:, 0], hits, int(sum(image.truths[label] for image in images)))

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where undefined.

        Returns:
            ``voc``: ``AP`` (area) and ``AP11`` (11 points), each the mean over the classes that have ground truth (the
            field's mAP); ``per_class``: both for each class's name, and the number of its ``truths``.
        """
        rows: dict[str, dict[str, Any]] = {}
        for label, name in enumerate(self.classes):
            curve = self.curve(label)
            truths = int(sum(image.truths[label] for image in self._images))
            area, points = (average_precision(curve, kind) for kind in ("area", "11-point"))
            rows[name] = {
                "AP": area if truths else None,
                "AP11": points if truths else None,
                "truths": truths,
            }
        means = {}
        for score in ("AP", "AP11"):
            values = [row[score] for row in rows.values() if row[score] is not None]
            means[score] = math.fsum(values) / len(values) if values else None
        return {"voc": {**means, "per_class": rows}, "images": len(self._images)}
