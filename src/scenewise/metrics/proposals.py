"""Average recall of proposals: the share of objects that region proposals cover, whatever their class.

Hosang et al., "What Makes for Effective Detection Proposals?", PAMI 2016, sec. 4; numbers as COCO's evaluation gives
them without categories: the mean recall over IoU 0.50, 0.55, ..., 0.95, at 100, 300 and 1000 proposals per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, Setting, image_key, image_label
from scenewise.metrics.coco import best_of_each_class, compact, evaluate, mean_of
from scenewise.metrics.objects import instances_of, truths_of
from scenewise.metrics.store import Images
from scenewise.types import Described, Target


class ProposalMetrics(Metric):
    """The average recall of class-agnostic boxes over a data set.

    Args:
        counts: the numbers of best-scored proposals per image that are evaluated, ascending.
        order: as in :class:`~scenewise.metrics.coco.CocoMetrics`.
    """

    def __init__(self, counts: Sequence[int] = (100, 300, 1000), *, order: Mapping[str, int] | None = None) -> None:
        if not counts or min(counts) < 1 or list(counts) != sorted(set(counts)):
            raise UsageError(f"counts is {tuple(counts)}; expected ascending numbers from 1 on")
        self.counts = tuple(counts)
        self.order = order
        self.images = Images()

    @classmethod
    def of(cls, setting: Setting, measured: tuple[str, ...], **parameters: Any) -> ProposalMetrics:
        """In the images' order of the data set."""
        return cls(**{"order": setting.order, **parameters})

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: the prediction's ``boxes`` and ``scores`` against the target's ``boxes`` and ``ignore``.

        Raises:
            UsageError: a field is missing or does not fit; names the image.
        """
        where = image_label(prediction, target)
        found = instances_of(prediction, where, 1, ("boxes",), classed=False)
        found["labels"] = torch.zeros(len(found["scores"]), dtype=torch.int64)
        kept = best_of_each_class(found["scores"].numpy(), found["labels"].numpy(), self.counts[-1])
        found = {name: value[kept] for name, value in found.items()}
        truth = truths_of(target, where, 1, ("boxes",), classed=False)
        truth["labels"] = torch.zeros(len(truth["boxes"]), dtype=torch.int64)
        self.images.append(image_key(target), prediction.size, compact(found), compact(truth))

    def merge(self, other: ProposalMetrics) -> None:
        """Add what another process counted."""
        if other.counts != self.counts:
            raise UsageError(f"can't merge the recall at {other.counts} into that at {self.counts} proposals")
        self.images.extend(other.images)

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where undefined.

        Returns:
            ``proposals``: ``AR100``, ``AR300``, ``AR1000`` (or as ``counts`` says), and ``ARs``, ``ARm``, ``ARl`` of
            small, medium and large objects at the largest number; and the number of ``images``.
        """
        _, recall = evaluate(
            "box", self.images, 1, order=self.order, most=self.counts, class_agnostic=True
        )  # [10,1,4,M]
        scores = {f"AR{count}": mean_of(recall[:, :, 0, place]) for place, count in enumerate(self.counts)}
        scores |= {f"AR{size}": mean_of(recall[:, :, area, -1]) for area, size in enumerate("sml", start=1)}
        return {"proposals": scores, "images": len(self.images)}
