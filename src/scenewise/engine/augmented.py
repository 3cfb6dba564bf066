"""Prediction from several views of an image, or by several models; see :mod:`scenewise.engine.fusion`.

Scales and mirroring as in Chen et al. (DeepLab v2, PAMI 2018, sec. 4.1: the maximum of logits; DeepLab v3, 2017:
the mean of probabilities), turns as in Ronneberger et al. (U-Net, MICCAI 2015, sec. 4). Of detectors, the objects of
all views are united and suppress each other, as in He et al. (ResNet, CVPR 2016, appendix B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from scenewise.data.transforms.mirror import COCO_PAIRS, mirrored_order
from scenewise.engine.fusion import Average, Fusion, Predictor, Union
from scenewise.errors import UsageError
from scenewise.nn.layers import upsample
from scenewise.types import Batch, Prediction


@dataclass(frozen=True)
class Augmented:
    """Runs a predictor on each image at several scales, mirrored and turned, and fuses what it sees: the class scores
    of pixels by their average, objects by their union (:class:`~scenewise.engine.fusion.Union`).

    Args:
        scales: of height and width.
        flip: whether each view is also mirrored left to right.
        quarter_turns: counterclockwise turns by 90 degrees at which each view is seen; 0 is the upright image.
        average: whether logits or probabilities are fused.
        fusion: the ``"mean"`` over the views, or the ``"max"`` at each class and pixel.
        size_divisor: to which the views are padded; the model's ``input.size_divisor``.
        nms_iou: where two views' boxes of a class overlap more than this, the one with the lower score goes.
        pairs: the indices of each left keypoint and its right one, which change places in a mirrored view.

    Images are resized bilinearly (with antialiasing where they shrink), class scores bilinearly before they are fused.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    quarter_turns: tuple[int, ...] = (0,)
    average: Average = "probabilities"
    fusion: Literal["mean", "max"] = "mean"
    size_divisor: int = 1
    nms_iou: float = 0.5
    pairs: Sequence[Sequence[int]] = COCO_PAIRS

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UsageError(f"augmented: scales is {self.scales}; expected one or more positive numbers")
        if not self.quarter_turns:
            raise UsageError("augmented: quarter_turns is empty; expected at least one, such as 0")

    def __call__(self, predictor: Predictor) -> Predictor:
        """A predictor that runs ``predictor`` on all views."""

        def predict(batch: Batch) -> list[Prediction]:
            images = [image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.sizes, strict=True)]
            fused = [_Fused(Fusion(size, self.average, self.fusion), Union(self.nms_iou)) for size in batch.sizes]
            for scale in self.scales:
                resized = [_resized(image, scale) for image in images]
                for turns in self.quarter_turns:
                    for flip in (False, True) if self.flip else (False,):
                        moved = [_moved(image, turns, flip) for image in resized]
                        views = Batch.of(moved, size_divisor=self.size_divisor)
                        if batch.proposals:
                            views.proposals = [
                                _boxes_moved(_boxes_scaled(boxes, size, _size(image)), _size(image), turns, flip)
                                for boxes, size, image in zip(batch.proposals, batch.sizes, resized, strict=True)
                            ]
                        for one, size, prediction in zip(fused, batch.sizes, predictor(views), strict=True):
                            one.add(self._back(prediction, size, turns, flip))
            return [one.prediction() for one in fused]

        return predict

    def _back(self, view: Prediction, size: tuple[int, int], turns: int, flip: bool) -> Prediction:
        """``view`` in the coordinates of the image of ``size``."""
        changed: dict[str, Any] = {"size": size}
        if view.semantic_logits is not None:
            scores = _moved_back(view.semantic_logits, turns, flip)
            changed["semantic_logits"] = upsample(scores[None], size)[0]
        upright = view.size if turns % 2 == 0 else view.size[::-1]
        if view.boxes is not None:
            changed["boxes"] = _boxes_scaled(_boxes_moved_back(view.boxes, view.size, turns, flip), upright, size)
        if view.roi_masks is not None:
            changed["roi_masks"] = _moved_back(view.roi_masks, turns, flip)
        if view.masks is not None:
            masks = _moved_back(view.masks, turns, flip)
            changed["masks"] = resize(masks, list(size), InterpolationMode.NEAREST_EXACT)
        if view.keypoints is not None:
            points, visible = view.keypoints[..., :2], view.keypoints[..., 2:]
            points = _boxes_moved_back(points.repeat(1, 1, 2), view.size, turns, flip)
            points = torch.cat([_boxes_scaled(points, upright, size)[..., :2], visible], -1)
            changed["keypoints"] = points[:, mirrored_order(points.shape[1], self.pairs)] if flip else points
        return dataclasses.replace(view, **changed)


class _Fused:
    """What the views of one image show: class scores of pixels, objects, or both."""

    def __init__(self, scores: Fusion, objects: Union) -> None:
        self.scores, self.objects = scores, objects
        self._filled: set[str] = set()

    def add(self, view: Prediction, weight: float = 1.0) -> None:
        """Take in a view, in the coordinates of the image."""
        if view.semantic_logits is not None:
            self.scores.add(view.semantic_logits, view.classes, weight)
            self._filled.add("scores")
        if view.semantic_logits is None or view.boxes is not None:
            self.objects.add(view)
            self._filled.add("objects")

    def prediction(self) -> Prediction:
        """What they show together."""
        if "objects" not in self._filled:
            return self.scores.prediction()
        objects = self.objects.prediction()
        if "scores" not in self._filled:
            return objects
        return dataclasses.replace(objects, semantic_logits=self.scores.prediction().semantic_logits)


@dataclass(frozen=True)
class Ensemble:
    """A predictor that fuses others, such as the ``predict`` of several models: the class scores of pixels by their
    mean, objects by their union (:class:`~scenewise.engine.fusion.Union`).

    Args:
        predictors: whose predictions are fused; they have the same classes and are fed the same images.
        weights: positive, one for each predictor, of its class scores; None for equal ones. Their sum does not matter.
        average: whether means are of logits or of probabilities.
        nms_iou: where two predictors' boxes of a class overlap more than this, the one with the lower score goes.
    """

    predictors: tuple[Predictor, ...]
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

    def __call__(self, batch: Batch) -> list[Prediction]:
        """The fused predictions for ``batch``."""
        fused = [_Fused(Fusion(size, self.average), Union(self.nms_iou)) for size in batch.sizes]
        weights = self.weights or (1.0,) * len(self.predictors)
        for predictor, weight in zip(self.predictors, weights, strict=True):
            for one, prediction in zip(fused, predictor(batch), strict=True):
                one.add(prediction, weight)
        return [one.prediction() for one in fused]


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


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _boxes_scaled(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """``boxes`` [...,4] of an image of size ``old`` (height, width), in the coordinates of its copy of size ``new``."""
    height, width = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor([width, height, width, height])


def _boxes_moved(boxes: Tensor, size: tuple[int, int], turns: int, flip: bool) -> Tensor:
    """``boxes`` [...,4] of an image of ``size`` (height, width), where :func:`_moved` puts them."""
    height, width = size
    for _ in range(turns % 4):
        x1, y1, x2, y2 = boxes.unbind(-1)
        boxes = torch.stack([y1, width - x2, y2, width - x1], -1)
        height, width = width, height
    return _boxes_mirrored(boxes, width) if flip else boxes


def _boxes_moved_back(boxes: Tensor, size: tuple[int, int], turns: int, flip: bool) -> Tensor:
    """Undoes :func:`_boxes_moved`; ``size`` is that of the moved image."""
    return _boxes_moved(_boxes_mirrored(boxes, size[1]) if flip else boxes, size, -turns, False)


def _boxes_mirrored(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)
