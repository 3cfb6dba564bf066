"""Objects: their boxes, classes and scores; and what only data sets know of them.

Shapes: K instances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scenewise.draw.colors import Array, Color
from scenewise.draw.legends import Row
from scenewise.draw.look import IGNORED, Scene
from scenewise.draw.strokes import Strokes
from scenewise.fields.base import Cut, Field, Size, decimals, decode_rows, like, not_finite, wrong_label
from scenewise.ops.views import View, boxes_scaled
from scenewise.types import Described, Skeleton

MIN_SIDE = 1.0  # pixels; what a crop leaves of an object is gone where its box is narrower or lower


class Boxes(Field):
    """x1, y1, x2, y2 in pixels, continuous."""

    name = "boxes"
    shape = "K4"
    fusion = "union"
    storage = "json"
    layer = "over"
    depth = 30
    key = "box"

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """Boxes that are not finite."""
        return not_finite(value, self.name)

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Scaled."""
        return boxes_scaled(value, old, size)

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored."""
        return view.boxes_back(value)

    def shift(self, value: Tensor, left: int, top: int, size: Size) -> Tensor:
        """Shifted."""
        return value + value.new_tensor([left, top, left, top])

    def encode(self, value: Tensor, whole: Described) -> Any:
        """K lists of four numbers."""
        return decimals(value.float().numpy())

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """See :class:`~scenewise.fields.base.Field`."""
        return decode_rows(values, self.key, torch.float32, (4,), "finite numbers of shape [4]", where)

    def stroke(self, strokes: Strokes, value: Array, color: Color, scene: Scene) -> None:
        """The box's outline."""
        if scene.look.boxes:
            strokes.box(value * scene.pen.factor, color, scene.pen.line)

    def tag_boxes(self, value: Tensor, reach: float) -> Array | None:
        """The boxes themselves."""
        return value.numpy()

    def cut(self, target: Mapping[str, Any], size: Size) -> Cut:
        """Boxes clipped to the image; gone where a side is then shorter than ``MIN_SIDE``."""
        boxes = target["boxes"].as_subclass(Tensor)
        height, width = size
        clipped = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        kept = ((clipped[:, 2:] - clipped[:, :2]) >= MIN_SIDE).all(1)
        return Cut({"boxes": like(target["boxes"], clipped)}, kept)


class Labels(Field):
    """The class of each instance."""

    name = "labels"
    shape = "K"
    fusion = "union"
    storage = "json"
    layer = "over"
    key = "label"

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """Labels that are no class."""
        return wrong_label(value, self.name, whole.classes)

    def shift(self, value: Tensor, left: int, top: int, size: Size) -> Tensor:
        """As they are."""
        return value

    def encode(self, value: Tensor, whole: Described) -> Any:
        """K integers."""
        return value.tolist()

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """See :class:`~scenewise.fields.base.Field`."""
        return decode_rows(values, self.key, torch.int64, (), "an integer", where)

    def summary(self, value: Tensor, whole: Described) -> list[str]:
        """How many there are of each class, most first."""
        numbers = Counter(value.tolist())
        return [f"{number} {whole.classes[label]}" for label, number in numbers.most_common()]

    def facts(self, value: Tensor, whole: Described) -> dict[str, Any]:
        """How many ``instances`` there are of each class."""
        return {"instances": {whole.classes[label]: n for label, n in Counter(value.tolist()).items()}}

    def legend(self, value: Tensor, scene: Scene) -> list[Row]:
        """The classes and how many of each there are, most first; last, those to ignore."""
        found: dict[str, list[Color]] = {}
        for label, color, grey in zip(value.tolist(), scene.instance_colors, scene.muted, strict=True):
            if not grey:
                found.setdefault(scene.classes[label], []).append(color)
        rows = [
            Row(tuple(dict.fromkeys(own))[:4], name, str(len(own)))
            for name, own in sorted(found.items(), key=lambda item: -len(item[1]))
        ]
        if scene.muted.any():
            rows.append(Row((IGNORED,), "ignored", str(int(scene.muted.sum()))))
        return rows

    def words(self, value: Tensor, index: int, scene: Scene) -> str:
        """The class's name, unless there is only one and the legend gives it."""
        if scene.look.legend and len(scene.classes) == 1:
            return ""
        return scene.classes[int(value[index])]


class Scores(Field):
    """How sure the model is of each instance, 0 to 1."""

    name = "scores"
    target = False
    shape = "K"
    fusion = "union"
    storage = "json"
    layer = "over"
    key = "score"

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """Scores that are not finite."""
        return not_finite(value, self.name)

    def shift(self, value: Tensor, left: int, top: int, size: Size) -> Tensor:
        """As they are."""
        return value

    def encode(self, value: Tensor, whole: Described) -> Any:
        """K numbers."""
        return decimals(value.float().numpy())

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """See :class:`~scenewise.fields.base.Field`."""
        return decode_rows(values, self.key, torch.float32, (), "a finite number", where)

    def words(self, value: Tensor, index: int, scene: Scene) -> str:
        """The score."""
        return f"{float(value[index]):.2f}"


class _OfTargets(Field):
    """What only data sets know of objects; it goes with the fields that it says more of."""

    output = False
    shape = "K"
    storage = "never"


class Ignore(_OfTargets):
    """bool: crowd or difficult, never trained as a positive."""

    name = "ignore"
    companions: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "masks", "keypoints", "area"})


class Area(_OfTargets):
    """float32: the annotated area in pixels."""

    name = "area"
    companions: ClassVar[frozenset[str]] = frozenset({"boxes", "masks", "keypoints"})


def sorted_by_score(scores: Tensor | None, count: int) -> list[int]:
    """The indices of ``count`` instances, the surest last."""
    return list(range(count)) if scores is None else scores.argsort(stable=True).tolist()


def nowhere(count: int) -> Array:
    """``count`` boxes that are not there: NaN [K,4]."""
    return np.full((count, 4), np.nan)
