"""Further scores by which benchmarks of scenes are ranked: IoU of Cityscapes' categories, and ADE20K's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scenewise.errors import UsageError, suggest
from scenewise.metrics.base import Metric, defined
from scenewise.metrics.segmentation import ConfusionMatrix, SegmentationMetrics, class_mean
from scenewise.types import Described, Target

CITYSCAPES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}


class CategoryIoU(Metric):
    """IoU of categories, each of several classes: errors within a category don't count.

    Args:
        classes: names, in label order.
        categories: the classes of each category by its name; None for those of Cityscapes. A class of no category is an
            error wherever it is predicted in one, and none of its own pixels is a hit.

    Source: Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016, sec. 4.1.
    """

    def __init__(self, classes: Sequence[str], *, categories: Mapping[str, Sequence[str]] | None = None) -> None:
        groups = CITYSCAPES if categories is None else categories
        self.categories = {name: tuple(members) for name, members in groups.items()}
        listed = [member for members in self.categories.values() for member in members]
        for member in listed:
            if member not in classes:
                whose = "Cityscapes'" if categories is None else "given"
                raise UsageError(
                    f"{member!r} of the categories is no class{suggest(member, classes)}; the categories are {whose}, "
                    f"the classes {', '.join(classes)}"
                )
            if listed.count(member) > 1:
                raise UsageError(f"{member!r} is in two categories; expected each class in one")
        self.whole = SegmentationMetrics(classes)

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image; see :meth:`SegmentationMetrics.update`."""
        self.whole.update(prediction, target)

    def merge(self, other: CategoryIoU) -> None:
        """Add what another process counted."""
        if other.categories != self.categories:
            raise UsageError(f"can't merge the scores of the categories {other.categories} into {self.categories}")
        self.whole.merge(other.whole)

    def compute(self) -> dict[str, Any]:
        """``category_iou``: its ``mean`` and ``per_class`` (0..1, or None); and the number of ``images``."""
        place = {name: label for label, name in enumerate(self.whole.classes)}
        members = torch.zeros(len(self.categories) + 1, len(place), dtype=torch.int64)  # the last: of none
        for row, names in enumerate(self.categories.values()):
            members[row, [place[name] for name in names]] = 1
        members[-1] = 1 - members[:-1].sum(0)
        confusion = ConfusionMatrix(len(members))
        confusion.counts = members @ self.whole.confusion.counts @ members.T
        iou = confusion.iou()[:-1]
        per_class = {name: defined(value) for name, value in zip(self.categories, iou.tolist(), strict=True)}
        scores = {"mean": defined(class_mean(iou)), "per_class": per_class}
        return {"category_iou": scores, "images": self.whole.images}


class Ade20kScore(Metric):
    """The score of ADE20K's scene parsing challenge: the mean of pixel accuracy and mean IoU, where a class in neither
    truth nor prediction counts as 0, as in the challenge's development kit.

    Args:
        classes: names, in label order.

    Source: Zhou et al., Scene parsing through ADE20K dataset, CVPR 2017.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.whole = SegmentationMetrics(classes, absent="zero")

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image; see :meth:`SegmentationMetrics.update`."""
        self.whole.update(prediction, target)

    def merge(self, other: Ade20kScore) -> None:
        """Add what another process counted."""
        self.whole.merge(other.whole)

    def compute(self) -> dict[str, Any]:
        """``ade20k``: ``score``, ``pixel_accuracy`` and ``mean_iou``, 0..1, or None where no pixel was counted; and the
        number of ``images``."""
        found = self.whole.compute()
        accuracy, iou = found["pixel_accuracy"], found["mean_iou"]
        score = None if accuracy is None else (accuracy + iou) / 2
        kept = {"score": score, "pixel_accuracy": accuracy, "mean_iou": iou if accuracy is not None else None}
        return {"ade20k": kept, "images": found["images"]}
