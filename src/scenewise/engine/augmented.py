"""Prediction from several views of an image, or by several models; see :mod:`scenewise.engine.fusion`.

Scales and mirroring as in Chen et al. (DeepLab v2, PAMI 2018, sec. 4.1: the maximum of logits; DeepLab v3, 2017:
the mean of probabilities), turns as in Ronneberger et al. (U-Net, MICCAI 2015, sec. 4). Of detectors, the objects of
all views are united and suppress each other, as in He et al. (ResNet, CVPR 2016, appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from scenewise.engine.fusion import Fusion, Predict
from scenewise.errors import UsageError
from scenewise.fields.base import Average, How
from scenewise.fields.table import from_view, inputs_of_views
from scenewise.model import Model
from scenewise.ops.views import View
from scenewise.types import Batch, Output, Skeleton


@dataclass(frozen=True)
class Augmented:
    """Runs a predictor on each image at several scales, mirrored and turned, and fuses what comes of it: maps by their
    mean, objects by their union (:mod:`scenewise.engine.fusion`).

    Args:
        scales: of height and width.
        flip: whether each view is also mirrored left to right.
        quarter_turns: counterclockwise turns by 90 degrees at which each view is seen; 0 is the upright image.
        average: of class scores: whether logits or probabilities are fused.
        fusion: the ``"mean"`` over the views, or the ``"max"`` at each class and pixel.
        size_divisor: to which the views are padded; the model's ``input.size_divisor``.
        nms_iou: where two views' boxes of a class overlap more than this, the one with the lower score goes.
        skeleton: of the model's keypoints; its left and right ones change places in a mirrored view.

    Images are resized bilinearly (with antialiasing where they shrink), class scores bilinearly before they are fused.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    quarter_turns: tuple[int, ...] = (0,)
    average: Average = "probabilities"
    fusion: How = "mean"
    size_divisor: int = 1
    nms_iou: float = 0.5
    skeleton: Skeleton | None = None

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise UsageError(f"augmented: scales is {self.scales}; expected one or more positive numbers")
        if not self.quarter_turns:
            raise UsageError("augmented: quarter_turns is empty; expected at least one, such as 0")

    def __call__(self, predict: Predict) -> Predict:
        """A predictor that runs ``predict`` on all views."""

        def run(batch: Batch) -> list[Output]:
            images = [image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.sizes, strict=True)]
            what = "test-time augmentation"
            fused = [Fusion(size, self.average, self.fusion, self.nms_iou, what) for size in batch.sizes]
            for scale in self.scales:
                resized = [_resized(image, scale) for image in images]
                for turns in self.quarter_turns:
                    for flip in (False, True) if self.flip else (False,):
                        views = [View.of((i.shape[-2], i.shape[-1]), turns, flip) for i in resized]
                        moved = [view.map(image) for view, image in zip(views, resized, strict=True)]
                        seen = Batch.of(moved, size_divisor=self.size_divisor, inputs=inputs_of_views(batch, views))
                        for one, view, size, output in zip(fused, views, batch.sizes, predict(seen), strict=True):
                            one.add(from_view(output, view, size, self.skeleton))
            return [one.output() for one in fused]

        return run


@dataclass(frozen=True)
class Ensemble:
    """A predictor that fuses others: maps by their mean, objects by their union (:mod:`scenewise.engine.fusion`).

    Args:
        predictors: models, or functions such as their ``predict``, that are fed the same images.
        weights: positive, one for each predictor, of its maps; None for equal ones. Their sum does not matter.
        average: whether means of class scores are of logits or of probabilities.
        nms_iou: where two predictors' boxes of a class overlap more than this, the one with the lower score goes.

    Raises:
        UsageError: there is no predictor, the weights don't fit, or the models' classes disagree.
    """

    predictors: tuple[Predict | Model, ...]
    weights: tuple[float, ...] | None = None
    average: Average = "probabilities"
    nms_iou: float = 0.5

    def __post_init__(self) -> None:
        if not self.predictors:
            raise UsageError("ensemble: there is no predictor; expected at least one")
        if self.weights is not None and (len(self.weights) != len(self.predictors) or min(self.weights) <= 0):
            raise UsageError(
                f"ensemble: weights is {self.weights}; "
                f"expected a positive number for each of the {len(self.predictors)} predictors"
            )
        check_alike([predictor for predictor in self.predictors if isinstance(predictor, Model)])

    def __call__(self, batch: Batch) -> list[Output]:
        """The fused outputs for ``batch``."""
        fused = [Fusion(size, self.average, nms_iou=self.nms_iou, what="ensemble") for size in batch.sizes]
        weights = self.weights or (1.0,) * len(self.predictors)
        for predictor, weight in zip(self.predictors, weights, strict=True):
            for one, output in zip(fused, predictor(batch), strict=True):
                one.add(output, weight)
        return [one.output() for one in fused]


def check_alike(models: Sequence[Model]) -> None:
    """Raise a :class:`UsageError` unless all ``models`` have the same classes, in the same order, and see
    the same images."""
    for model in models[1:]:
        if model.classes != models[0].classes:
            first, other = ", ".join(models[0].classes), ", ".join(model.classes)
            raise UsageError(f"ensemble: the models' classes disagree: {first} and {other}")
        for name in ("channels", "bits"):
            one, another = getattr(models[0].input, name), getattr(model.input, name)
            if one != another:
                raise UsageError(f"ensemble: the models' input.{name} disagree: {one} and {another}")


def _resized(image: Tensor, scale: float) -> Tensor:
    """``image`` [3,H,W] with its height and width times ``scale``, rounded."""
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    if (height, width) == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=scale < 1)[0]
