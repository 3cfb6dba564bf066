"""Predictions as COCO results files have them: entries of their own, in COCO's conventions and ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scenewise.errors import UsageError
from scenewise.fields.base import decimals
from scenewise.fields.table import check, detached
from scenewise.files.atomic import write_text
from scenewise.model import Model
from scenewise.ops import rle
from scenewise.results.record import instance_records
from scenewise.types import Described, Target


def to_coco(prediction: Described, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """``prediction`` as entries of a COCO results file, in COCO's conventions.

    Args:
        prediction: with scores, labels, and boxes, masks or keypoints.
        image_id: the image's id in the data set.
        category_ids: for each label, the data set's own id of that category.

    Returns:
        One entry per instance: ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height; the mask's
        where there are no boxes), ``segmentation`` (run-length code), ``keypoints`` (x, y, v in one list; x and y count
        from the centre of the first pixel, as COCO's do: half a pixel less than scenewise's).

    Raises:
        UsageError: a field that COCO results need is missing, the fields don't fit together, a number is not finite,
            or there are not as many category ids as classes.
    """
    check(prediction)
    if len(category_ids) != len(prediction.classes):
        raise UsageError(
            f"category_ids has {len(category_ids)} ids; expected one for each of the {len(prediction.classes)} classes"
        )
    if prediction.labels is None or prediction.scores is None:
        raise UsageError("prediction: COCO results need labels and scores; this one has no instances with both")
    if prediction.boxes is None and prediction.masks is None and prediction.keypoints is None:
        raise UsageError("prediction: COCO results need boxes, masks or keypoints; this one has none")
    entries = []
    for instance in instance_records(detached(prediction)):
        entry = {
            "image_id": image_id,
            "category_id": int(category_ids[instance["label"]]),
            "score": instance["score"],
        }
        box = instance.get("box") or (rle.bbox(instance["mask"]) if "mask" in instance else None)
        if box is not None:
            corners = np.asarray(box, dtype=np.float32)
            entry["bbox"] = decimals(np.concatenate([corners[:2], corners[2:] - corners[:2]]))
        if "mask" in instance:
            entry["segmentation"] = instance["mask"]
        if "keypoints" in instance:
            points = np.asarray(instance["keypoints"], dtype=np.float32).reshape(-1, 3)
            points[:, :2] -= 0.5
            entry["keypoints"] = decimals(points.reshape(-1))
        entries.append(entry)
    return entries


class CocoResults:
    """Collects predictions as a COCO results file wants them; takes them one by one, as a metric does.

    Args:
        category_ids: for each label, the data set's own id of that category.
        numbers: the data set's own id of each image by its name; without it a name of digits is the id, and any other
            name stands for itself.
    """

    def __init__(self, category_ids: Sequence[int], numbers: Mapping[str, int] | None = None) -> None:
        self.category_ids, self.numbers = category_ids, numbers
        self.entries: list[dict[str, Any]] = []

    def add(self, prediction: Described, name: str) -> None:
        """Take the prediction for the image called ``name``."""
        number: int | str = int(name) if name.isdecimal() else name
        if self.numbers is not None:
            number = self.numbers[name]
        self.entries += to_coco(prediction, number, self.category_ids)

    def update(self, prediction: Described, target: Target) -> None:
        """Take one image of a data set."""
        self.add(prediction, target["image_id"])

    def merge(self, other: CocoResults) -> None:
        """Add what another process collected."""
        self.entries += other.entries

    def compute(self) -> dict[str, Any]:
        """No scores."""
        return {}

    def write(self, path: str | Path) -> None:
        """Write the file; one entry per line."""
        lines = (json.dumps(entry, allow_nan=False, ensure_ascii=False) for entry in self.entries)
        write_text(Path(path), "[\n" + ",\n".join(lines) + "\n]\n")


def category_ids(model: Model) -> list[int]:
    """The own ids of the data set that ``model`` learned from, for each label; 1, 2, ... where it had none."""
    return [int(number) for number in model.info.get("class_ids", range(1, len(model.classes) + 1))]
