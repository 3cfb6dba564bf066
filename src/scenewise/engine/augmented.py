"""Prediction from several views of an image, or by several models; see :mod:`scenewise.engine.fusion`.

Scales and mirroring as in Chen et al. (DeepLab v2, PAMI 2018, sec. 4.1: the maximum of logits; DeepLab v3, 2017:
the mean of probabilities), turns as in Ronneberger et al. (U-Net, MICCAI 2015, sec. 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.engine.fusion import Average, Fusion, Predictor, class_scores
from scenewise.errors import UsageError
from scenewise.nn.layers import upsample
from scenewise.types import Batch, Prediction


@dataclass(frozen=True)
class Augmented:
    """Runs a predictor on each image at several scales, mirrored and turned, and fuses the class scores.

    Args:
        scales: of height and width.
        flip: whether each view is also mirrored left to right.
        quarter_turns: counterclockwise turns by 90 degrees at which each view is seen; 0 is the upright image.
        average: whether logits or probabilities are fused.
        fusion: the ``"mean"`` over the views, or the ``"max"`` at each class and pixel.
        size_divisor: to which the views are padded; the model's ``input.size_divisor``.

    Images are resized bilinearly (with antialiasing where they shrink), class scores bilinearly before they are fused.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    quarter_turns: tuple[int, ...] = (0,)
    average: Average = "probabilities"
    fusion: Literal["mean", "max"] = "mean"
    size_divisor: int = 1

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UsageError(f"augmented: scales is {self.scales}; expected one or more positive numbers")
        if not self.quarter_turns:
            raise UsageError("augmented: quarter_turns is empty; expected at least one, such as 0")

    def __call__(self, predictor: Predictor) -> Predictor:
        """A predictor that runs ``predictor`` on all views."""

        def predict(batch: Batch) -> list[Prediction]:
            images = [image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.sizes, strict=True)]
            fusions = [Fusion(size, self.average, self.fusion) for size in batch.sizes]
            for scale in self.scales:
                resized = [_resized(image, scale) for image in images]
                for turns in self.quarter_turns:
                    for flip in (False, True) if self.flip else (False,):
                        views = [_moved(image, turns, flip) for image in resized]
                        found = predictor(Batch.of(views, size_divisor=self.size_divisor))
                        for fusion, prediction in zip(fusions, found, strict=True):
                            scores = _moved_back(class_scores(prediction), turns, flip)
                            fusion.add(upsample(scores[None], fusion.size)[0], prediction.classes)
            return [fusion.prediction() for fusion in fusions]

        return predict


@dataclass(frozen=True)
class Ensemble:
    """A predictor that averages others, such as the ``predict`` of several models.

    Args:
        predictors: whose predictions are averaged; they have the same classes and are fed the same images.
        weights: positive, one for each predictor; None for equal ones. Their sum does not matter.
        average: whether means are of logits or of probabilities.
    """

    predictors: tuple[Predictor, ...]
    weights: tuple[float, ...] | None = None
    average: Average = "probabilities"

    def __post_init__(self) -> None:
        if not self.predictors:
            raise UsageError("ensemble: there is no predictor; expected at least one")
        if self.weights is not None and (len(self.weights) != len(self.predictors) or min(self.weights) <= 0):
            raise UsageError(
                f"ensemble: weights is {self.weights}; "
                f"expected a positive number for each of the {len(self.predictors)} predictors"
            )

    def __call__(self, batch: Batch) -> list[Prediction]:
        """The averaged predictions for ``batch``."""
        fusions = [Fusion(size, self.average) for size in batch.sizes]
        weights = self.weights or (1.0,) * len(self.predictors)
        for predictor, weight in zip(self.predictors, weights, strict=True):
            for fusion, prediction in zip(fusions, predictor(batch), strict=True):
                fusion.add(class_scores(prediction), prediction.classes, weight)
        return [fusion.prediction() for fusion in fusions]


def _resized(image: Tensor, scale: float) -> Tensor:
    """``image`` [3,H,W] with its height and width times ``scale``, rounded."""
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    if (height, width) == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=scale < 1)[0]


def _moved(image: Tensor, turns: int, flip: bool) -> Tensor:
    """``image`` [...,H,W], turned counterclockwise by ``turns`` right angles, then mirrored left to right."""
    image = torch.rot90(image, turns, (-2, -1)) if turns % 4 else image
    return image.flip(-1) if flip else image


def _moved_back(scores: Tensor, turns: int, flip: bool) -> Tensor:
    """Undoes :func:`_moved`."""
    return _moved(scores.flip(-1) if flip else scores, -turns, False)
