"""What the inference procedures share: their protocol, and the fusion of what several views of one image show.

A *predictor* maps a batch to one prediction an image; ``model.predict`` is one. A procedure makes a predictor of a
predictor (or of several), so that they compose::

    predictor = Augmented(scales=(0.75, 1.0, 1.25), flip=True)(Tiles(size=(512, 512))(model.predict))
    predictions = predictor(batch)

Class scores of pixels are averaged, and objects united. Where probabilities are averaged, ``semantic_logits`` are the
logarithms of the averages: their argmax and their softmax are those of the averages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.ops.nms import batched_nms
from scenewise.types import INSTANCE_FIELDS, Batch, Prediction

Predictor = Callable[[Batch], list[Prediction]]
Average = Literal["logits", "probabilities"]


def class_scores(prediction: Prediction) -> Tensor:
    """``prediction.semantic_logits``; a :class:`UsageError` where there are none."""
    if prediction.semantic_logits is None:
        raise UsageError("tiles fuse the class scores of pixels (semantic_logits); this model fills none")
    return prediction.semantic_logits


class Fusion:
    """Class scores of one image, fused from views that arrive one at a time.

    Args:
        size: (height, width) of the image.
        average: what is fused, ``"logits"`` or ``"probabilities"``.
        how: the weighted ``"mean"``, or the ``"max"`` over the views at each class and pixel.

    Views need not cover the image, but together they must. Memory is one canvas, however many views there are.
    """

    def __init__(
        self, size: tuple[int, int], average: Average = "probabilities", how: Literal["mean", "max"] = "mean"
    ) -> None:
        self.size, self.average, self.how = size, average, how
        self.classes: tuple[str, ...] = ()
        self._canvas: Tensor | None = None  # [C,H,W] the weighted sum or the maximum; of probabilities, its logarithm
        self._weight: Tensor | None = None  # [H,W] the sum of weights

    def add(
        self, scores: Tensor, classes: tuple[str, ...], weight: Tensor | float = 1.0, top: int = 0, left: int = 0
    ) -> None:
        """Fuse in a view.

        Args:
            scores: float [C,h,w], before the softmax.
            classes: their names.
            weight: positive, a number or [h,w]; without effect on a maximum.
            top: the image's row at which the view begins.
            left: the image's column at which it begins.

        Raises:
            UsageError: the classes are not those of the views before.
        """
        if self._canvas is None or self._weight is None:
            empty = 0.0 if self.average == "logits" and self.how == "mean" else -torch.inf
            self._canvas = scores.new_full((len(scores), *self.size), empty)
            self._weight = scores.new_zeros(self.size)
            self.classes = classes
        elif classes != self.classes:
            raise UsageError(f"the views' classes disagree: {', '.join(self.classes)} and {', '.join(classes)}")
        rows, columns = slice(top, top + scores.shape[-2]), slice(left, left + scores.shape[-1])
        canvas = self._canvas[:, rows, columns]
        weight = torch.as_tensor(weight, dtype=scores.dtype, device=scores.device)
        self._weight[rows, columns] += weight
        if self.average == "probabilities":
            scores = scores.log_softmax(0)
        if self.how == "max":
            torch.maximum(canvas, scores, out=canvas)
        elif self.average == "logits":
            canvas += scores * weight
        else:  # in logarithms, so that tiny probabilities survive
            canvas.copy_(torch.logaddexp(canvas, scores + weight.log()))

    def prediction(self) -> Prediction:
        """The fused prediction."""
        assert self._canvas is not None
        assert self._weight is not None
        scores = self._canvas
        if self.how == "mean":
            scores = scores / self._weight if self.average == "logits" else scores - self._weight.log()
        return Prediction(size=self.size, classes=self.classes, semantic_logits=scores)


class Union:
    """Objects of one image, from views that arrive one at a time: all of them, but those that an object of the same
    class with a higher score overlaps. An object's mask and keypoints come from the view that was surest of it.

    Args:
        nms_iou: of two boxes of a class that overlap more than this, the one with the lower score goes.

    The views' own suppression has run before. How many objects come out is not limited.
    """

    def __init__(self, nms_iou: float = 0.5) -> None:
        self.nms_iou = nms_iou
        self._views: list[Prediction] = []

    def add(self, view: Prediction) -> None:
        """Take in the objects of a view, in the coordinates of the image.

        Raises:
            UsageError: they lack boxes or scores, or the classes are not those of the views before.
        """
        if view.boxes is None or view.scores is None:
            raise UsageError(
                "test-time augmentation and ensembles fuse the class scores of pixels, or boxes with scores; "
                "this model fills neither"
            )
        if self._views and view.classes != self._views[0].classes:
            first = self._views[0].classes
            raise UsageError(f"the views' classes disagree: {', '.join(first)} and {', '.join(view.classes)}")
        self._views.append(view)

    def prediction(self) -> Prediction:
        """The objects that are left, best first."""
        first = self._views[0]
        fields: dict[str, Any] = {
            name: torch.cat([getattr(view, name) for view in self._views])
            for name in INSTANCE_FIELDS
            if getattr(first, name) is not None
        }
        labels = fields.get("labels", torch.zeros_like(fields["scores"], dtype=torch.int64))
        kept = batched_nms(fields["boxes"], fields["scores"], labels, self.nms_iou)
        return dataclasses.replace(first, **{name: value[kept] for name, value in fields.items()})
