"""What the inference procedures share: their protocol, and how outputs of several views of one image become one.

A :data:`Predict` maps a batch to one output per image; ``model.predict`` is one. A procedure makes a ``Predict`` of a
``Predict`` (or of several), so that they compose::

    predict = Augmented(scales=(0.75, 1.0, 1.25), flip=True)(Tiles(size=(512, 512))(model.predict))
    outputs = predict(batch)

How a field is fused is its own affair (``Field.fusion``): maps by their mean, instances by their union. A field that
can't be fused is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.fields.base import Average, Canvas, How, Size
from scenewise.fields.table import FIELDS, given
from scenewise.ops.boxes import batched_nms
from scenewise.types import Batch, Output

Predict = Callable[[Batch], list[Output]]


class Fusion:
    """The outputs of views of one image, which arrive one at a time, as one.

    Args:
        size: (height, width) of the image.
        average: of class scores: whether ``"logits"`` or ``"probabilities"`` are fused.
        how: the ``"mean"`` of maps over the views, or their ``"max"``.
        nms_iou: of instances of two views of one class whose boxes overlap more than this, the one with the lower score
            goes.
        what: the procedure, for messages.
    """

    def __init__(
        self, size: Size, average: Average, how: How = "mean", nms_iou: float = 0.5, what: str = "views"
    ) -> None:
        self.size, self.average, self.how, self.what = size, average, how, what
        self._canvases: dict[str, Canvas] = {}
        self._union = Union(nms_iou, what)
        self._filled: list[str] | None = None

    def add(self, output: Output, weight: Tensor | float = 1.0) -> None:
        """Take in a view's output, in the coordinates of the image; ``weight`` is that of its maps.

        Raises:
            UsageError: it has a field that can't be fused, or other fields than the views before.
        """
        values = given(output)
        if self._filled is None:
            self._filled = list(values)
            refused = [name for name in values if FIELDS[name].fusion == "refuse"]
            if refused:
                raise UsageError(f"{self.what}: {refused[0]} can't be fused over several views or models")
            if self.how == "max" and all(FIELDS[name].fusion != "mean" for name in values):
                raise UsageError(f"{self.what}: the maximum is of maps, and this model fills {_listed(self._filled)}")
        if list(values) != self._filled:
            raise UsageError(f"{self.what}: one has {_listed(self._filled)}, another {_listed(list(values))}")
        for name, value in values.items():
            if FIELDS[name].fusion == "mean":
                if name not in self._canvases:
                    self._canvases[name] = FIELDS[name].canvas(self.size, self.average, self.how)
                self._canvases[name].add(value, weight)
        if any(FIELDS[name].fusion == "union" for name in values):
            self._union.add(output)

    def output(self) -> Output:
        """What they are together."""
        values = {name: canvas.result() for name, canvas in self._canvases.items()}
        return Output(self.size, **values, **self._union.fields())


class Union:
    """Instances of one image, from views that arrive one at a time: all of them, but those that an instance of the same
    class with a higher score overlaps. An instance's mask and keypoints come from the view that was surest of it.

    Args:
        nms_iou: of two boxes of a class that overlap more than this, the one with the lower score goes.
        what: the procedure, for messages.

    The views' own suppression has run before. How many instances come out is not limited.
    """

    def __init__(self, nms_iou: float = 0.5, what: str = "views") -> None:
        self.nms_iou, self.what = nms_iou, what
        self._views: list[dict[str, Tensor]] = []

    def add(self, view: Output) -> None:
        """Take in the instances of a view, in the coordinates of the image.

        Raises:
            UsageError: they lack boxes or scores.
        """
        if view.boxes is None or view.scores is None:
            missing = "boxes" if view.boxes is None else "scores"
            raise UsageError(
                f"{self.what}: instances are united by their boxes and scores; this model's have no {missing}"
            )
        self._views.append({n: v for n, v in given(view).items() if FIELDS[n].fusion == "union"})

    def fields(self) -> dict[str, Tensor]:
        """The fields of the instances that are left, best first; empty where no view had any such field."""
        if not self._views:
            return {}
        fields = {name: torch.cat([view[name] for view in self._views]) for name in self._views[0]}
        labels = fields.get("labels", torch.zeros_like(fields["scores"], dtype=torch.int64))
        kept = batched_nms(fields["boxes"], fields["scores"], labels, self.nms_iou)
        return {name: value[kept] for name, value in fields.items()}


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "nothing"
