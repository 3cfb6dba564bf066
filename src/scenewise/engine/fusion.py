"""What the inference procedures for segmenters share: their protocol, and the fusion of several views of one image.

A *predictor* maps a batch to one prediction an image; ``model.predict`` is one. A procedure makes a predictor of a
predictor (or of several), so that they compose::

    predictor = Augmented(scales=(0.75, 1.0, 1.25), flip=True)(Tiles(size=(512, 512))(model.predict))
    predictions = predictor(batch)

Each fills ``semantic_logits`` alone. Where probabilities are averaged, these are the logarithms of the averages: their
argmax and their softmax are those of the averages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.types import Batch, Prediction

Predictor = Callable[[Batch], list[Prediction]]
Average = Literal["logits", "probabilities"]


def class_scores(prediction: Prediction) -> Tensor:
    """``prediction.semantic_logits``; a :class:`UsageError` where there are none."""
    if prediction.semantic_logits is None:
        raise UsageError("tiles, test-time augmentation and ensembles fuse semantic_logits; this model fills none")
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
