"""Metrics for semantic segmentation: exact counts over a whole data set, and the scores that follow from them.

h is the confusion matrix: h[t, p] pixels of class t were predicted as p. A score of a class that has no pixels to be
judged by is undefined: NaN in tensors, None in :meth:`SegmentationMetrics.compute`. How a mean over classes treats it
is the policy ``absent``: ``"nan_skip"`` leaves it out (the usual; FCN's and torchmetrics' macro average), ``"zero"``
counts it as 0 (as the devkit of ADE20K does), ``"one"`` as 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, defined, image_label, maps_of, mean
from scenewise.types import IGNORE, Described, Target

Absent = Literal["nan_skip", "zero", "one"]
ABSENT_VALUES: dict[Absent, float] = {"nan_skip": math.nan, "zero": 0.0, "one": 1.0}


class ConfusionMatrix:
    """Counts of pixels by true and predicted class.

    Attributes:
        counts: int64 [C,C] on the CPU, rows truth, columns prediction.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise UsageError(f"num_classes is {num_classes}; expected 1 or more")
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count pixels.

        Args:
            prediction: integers [...], 0..C-1 wherever the target counts.
            target: integers of the same shape; values outside 0..C-1, ``IGNORE`` (255) among them, don't count.

        Raises:
            UsageError: the shapes differ, there are no integers, or a counted pixel has no class as its prediction.
        """
        if prediction.shape != target.shape:
            raise UsageError(f"prediction is {list(prediction.shape)}, target {list(target.shape)}; expected one shape")
        for name, value in (("prediction", prediction), ("target", target)):
            if value.is_floating_point() or value.is_complex():
                raise UsageError(f"{name} is {value.dtype}; expected integers, the index of each pixel's class")
        truth = target.long()
        counted = (truth >= 0) & (truth < self.num_classes) & (truth != IGNORE)  # the last for more than 255 classes
        truth, predicted = truth[counted], prediction[counted].long()
        if predicted.numel() == 0:
            return
        low, high = (int(v) for v in torch.aminmax(predicted))
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise UsageError(f"prediction has the value {wrong}; expected 0 to {self.num_classes - 1}")
        cells = torch.bincount(truth * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts += cells.view(self.num_classes, self.num_classes).cpu()

    def merge(self, other: ConfusionMatrix) -> None:
        """Add what ``other`` counted."""
        if other.num_classes != self.num_classes:
            raise UsageError(f"can't merge the counts of {other.num_classes} classes into those of {self.num_classes}")
        self.counts += other.counts

    @property
    def truth(self) -> Tensor:
        """int64 [C]: the pixels of each true class."""
        return self.counts.sum(1)

    @property
    def predicted(self) -> Tensor:
        """int64 [C]: the counted pixels that were predicted as each class."""
        return self.counts.sum(0)

    @property
    def hits(self) -> Tensor:
        """int64 [C]: the correctly predicted pixels of each class."""
        return self.counts.diagonal()

    def iou(self) -> Tensor:
        """float64 [C]: intersection over union; NaN for classes in neither truth nor prediction."""
        return self.hits.double() / (self.truth + self.predicted - self.hits)

    def accuracy(self) -> Tensor:
        """float64 [C]: the recall of each class, its correctly predicted share; NaN without ground truth."""
        return self.hits.double() / self.truth

    def precision(self) -> Tensor:
        """float64 [C]: the share of the pixels predicted as each class that are of it; NaN where there are none."""
        return self.hits.double() / self.predicted

    def dice(self) -> Tensor:
        """float64 [C]: 2 TP / (2 TP + FP + FN), the F1 score; NaN for classes in neither truth nor prediction."""
        return 2 * self.hits.double() / (self.truth + self.predicted)

    def pixel_accuracy(self) -> float:
        """The share of all counted pixels that were predicted correctly; NaN where none was counted."""
        return float(self.hits.sum().double() / self.counts.sum())

    def frequency_weighted_iou(self) -> float:
        """The IoU of the true classes, weighted by their pixels; NaN where none was counted."""
        share = self.truth.double() / self.counts.sum()
        return float((share * self.iou().nan_to_num()).sum())


def class_mean(values: Tensor, absent: Absent = "nan_skip") -> float:
    """The mean of ``values`` [C], in which NaN stands for undefined; NaN where nothing is left to average."""
    return float(values.nan_to_num(nan=ABSENT_VALUES[absent]).nanmean())


def image_confusion(prediction: Described, target: Target, num_classes: int) -> ConfusionMatrix:
    """The counts of one image: ``prediction.semantic`` [H,W] against ``target["semantic"]`` [H,W].

    Raises:
        UsageError: one of them is missing, or they don't fit each other; names the image.
    """
    confusion = ConfusionMatrix(num_classes)
    predicted, truth = maps_of(prediction, target, "semantic", "[H,W] class indices")
    try:
        confusion.update(predicted, truth)
    except UsageError as error:
        raise UsageError(f"{image_label(prediction, target)}: {error}") from None
    return confusion


class SegmentationMetrics(Metric):
    """The field's scores of semantic segmentation, over a data set.

    Args:
        classes: names, in label order.
        absent: how the means treat classes whose score is undefined; see the head of this file.
        background: False leaves class 0 out of the means over classes; its pixels are still errors of the others.

    Source: Long, Shelhamer and Darrell, Fully convolutional networks for semantic segmentation, CVPR 2015, sec. 5.
    """

    def __init__(self, classes: Sequence[str], *, absent: Absent = "nan_skip", background: bool = True) -> None:
        if absent not in ABSENT_VALUES:
            raise UsageError(f"absent is {absent!r}; expected one of {', '.join(ABSENT_VALUES)}")
        self.classes = tuple(classes)
        self.absent: Absent = absent
        self.background = background
        self.confusion = ConfusionMatrix(len(self.classes))
        self.images = 0

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.semantic`` [H,W] against ``target["semantic"]`` [H,W].

        Raises:
            UsageError: one of them is missing, or they don't fit each other; names the image.
        """
        self.confusion.merge(image_confusion(prediction, target, len(self.classes)))
        self.images += 1

    def merge(self, other: SegmentationMetrics) -> None:
        """Add what another process counted."""
        if other.classes != self.classes:
            raise UsageError(f"can't merge the scores of the classes {other.classes} into those of {self.classes}")
        self.confusion.merge(other.confusion)
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where undefined.

        Returns:
            ``mean_iou``, ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou``; ``per_class``: for each
            class's name its ``iou``, its ``accuracy`` and the number of its true ``pixels``; the number of ``images``
            and of counted ``pixels``.
        """
        h = self.confusion
        iou, accuracy = h.iou(), h.accuracy()
        averaged = slice(0 if self.background else 1, None)
        rows = zip(self.classes, iou.tolist(), accuracy.tolist(), h.truth.tolist(), strict=True)
        return {
            "mean_iou": defined(class_mean(iou[averaged], self.absent)),
            "pixel_accuracy": defined(h.pixel_accuracy()),
            "mean_accuracy": defined(class_mean(accuracy[averaged], self.absent)),
            "frequency_weighted_iou": defined(h.frequency_weighted_iou()),
            "per_class": {
                name: {"iou": defined(i), "accuracy": defined(a), "pixels": pixels} for name, i, a, pixels in rows
            },
            "images": self.images,
            "pixels": int(h.counts.sum()),
        }


class ClassScores(Metric):
    """One further score of each class over a data set, and its mean.

    Args:
        classes: names, in label order.
        score: ``"dice"`` (the F1 score), ``"precision"``, ``"accuracy"`` (recall) or ``"iou"``.
        absent, background: as in :class:`SegmentationMetrics`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        score: Literal["dice", "precision", "accuracy", "iou"] = "dice",
        absent: Absent = "nan_skip",
        background: bool = True,
    ) -> None:
        if score not in ("dice", "precision", "accuracy", "iou"):
            raise UsageError(f"score is {score!r}; expected dice, precision, accuracy or iou")
        self.score = score
        self.whole = SegmentationMetrics(classes, absent=absent, background=background)

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image; see :meth:`SegmentationMetrics.update`."""
        self.whole.update(prediction, target)

    def merge(self, other: ClassScores) -> None:
        """Add what another process counted."""
        self.whole.merge(other.whole)

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where undefined: under the score's name its ``mean`` over the classes and
        ``per_class``; and the number of ``images``."""
        values: Tensor = getattr(self.whole.confusion, self.score)()
        averaged = values if self.whole.background else values[1:]
        rows = zip(self.whole.classes, values.tolist(), strict=True)
        return {
            self.score: {
                "mean": defined(class_mean(averaged, self.whole.absent)),
                "per_class": {name: defined(value) for name, value in rows},
            },
            "images": self.whole.images,
        }


class ImageMeans(Metric):
    """Means over images, to which a small image and the rare class in it contribute as much as any other.

    Args:
        classes: names, in label order.
        score: what is computed within each image, for each class in its truth or prediction (for ``"accuracy"``: in
            its truth).

    Source: Csurka, Larlus and Perronnin, What is a good evaluation measure for semantic segmentation?, BMVC 2013.
    """

    def __init__(self, classes: Sequence[str], *, score: Literal["iou", "dice", "accuracy"] = "iou") -> None:
        if score not in ("iou", "dice", "accuracy"):
            raise UsageError(f"score is {score!r}; expected iou, dice or accuracy")
        self.classes = tuple(classes)
        self.score = score
        self.values: list[list[float]] = []  # of each image, one for each class that it has

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image; see :meth:`SegmentationMetrics.update`."""
        confusion = image_confusion(prediction, target, len(self.classes))
        values: Tensor = getattr(confusion, self.score)()
        self.values.append(values[~values.isnan()].tolist())

    def merge(self, other: ImageMeans) -> None:
        """Add what another process counted."""
        if (other.classes, other.score) != (self.classes, self.score):
            raise UsageError(
                f"can't merge the {other.score} of {other.classes} into the {self.score} of {self.classes}"
            )
        self.values += other.values

    def compute(self) -> dict[str, Any]:
        """The means, 0..1, None where no pixel was counted.

        Returns:
            ``image_SCORE``: its ``mean`` over the classes of each image, then over images; ``pairs``: over all pairs of
            an image and a class that it has. And the number of ``images``, also those where nothing counted.
        """
        means = [value for value in map(mean, self.values) if value is not None]
        pairs = [value for values in self.values for value in values]
        return {f"image_{self.score}": {"mean": mean(means), "pairs": mean(pairs)}, "images": len(self.values)}
