"""How well segmentations follow the edges of things: trimap scores and the boundary F1.

Both look at truth and prediction near the lines between classes, where the scores over all pixels hardly look: there
are few such pixels. Neighbours are the four beside a pixel; what lies beyond the image is no neighbour, so that the
image's border is no edge. Distances are Euclidean, in pixels, between the centres of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, defined, maps_of, mean
from scenewise.metrics.segmentation import ConfusionMatrix, class_mean
from scenewise.types import IGNORE, Described, Target

Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]


class TrimapMetrics(Metric):
    """IoU and accuracy of the pixels near an edge of the truth.

    Args:
        classes: names, in label order.
        radii: in pixels; for each, the pixels count whose distance to an edge pixel (one that has a neighbour of
            another label) is at most that much. The edge pixels themselves have the distance 0.
        void_edges: whether void is a label like others here, so that bands also run along its edges, as DeepLab does on
            the void strips of VOC; else only edges between two classes count.

    Source: Kohli, Ladický and Torr, Robust higher order potentials, IJCV 2009; Krähenbühl and Koltun, Efficient
    inference in fully connected CRFs, NIPS 2011.
    """

    def __init__(self, classes: Sequence[str], *, radii: Sequence[float] = (4, 8), void_edges: bool = True) -> None:
        self.classes = tuple(classes)
        self.radii = tuple(radii)
        self.void_edges = void_edges
        self.confusions = [ConfusionMatrix(len(self.classes)) for _ in self.radii]
        self.images = 0

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image; see :meth:`~scenewise.metrics.segmentation.SegmentationMetrics.update`."""
        predicted, truth = (labels.cpu() for labels in maps_of(prediction, target, "semantic", "[H,W] class indices"))
        edges = label_edges(_labels(truth, len(self.classes)), void_edges=self.void_edges)
        distance = torch.from_numpy(edge_distance(edges))
        for radius, confusion in zip(self.radii, self.confusions, strict=True):
            confusion.update(predicted, truth.long().masked_fill(distance > radius, IGNORE))
        self.images += 1

    def merge(self, other: TrimapMetrics) -> None:
        """Add what another process counted."""
        ours, theirs = ((m.classes, m.radii, m.void_edges) for m in (self, other))
        if ours != theirs:
            raise UsageError(f"can't merge trimap scores of (classes, radii, void_edges) {theirs} into those of {ours}")
        for mine, more in zip(self.confusions, other.confusions, strict=True):
            mine.merge(more)
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """For each radius R ``trimap_R``: ``mean_iou``, ``mean_accuracy``, ``pixel_accuracy`` (0..1, or None) and the
        counted ``pixels``; and the number of ``images``.
        """
        result: dict[str, Any] = {}
        for radius, h in zip(self.radii, self.confusions, strict=True):
            scores = {
                "mean_iou": class_mean(h.iou()),
                "mean_accuracy": class_mean(h.accuracy()),
                "pixel_accuracy": h.pixel_accuracy(),
            }
            known = {name: defined(value) for name, value in scores.items()}
            result[f"trimap_{radius:g}"] = {**known, "pixels": int(h.counts.sum())}
        return {**result, "images": self.images}


class BoundaryF1(Metric):
    """The F1 score of the boundaries of each class's region: how many boundary pixels lie near one of the other map.

    A boundary pixel of a class is one of it that has a neighbour not of it. Precision is the share of predicted
    boundary pixels that are within the tolerance of a true one, recall the share of true ones within it of a predicted
    one. Pixels in void, or with a void neighbour, are no boundary pixels. F1 is 0 where one of both maps has no
    boundary, and undefined where neither has.

    Args:
        classes: names, in label order.
        tolerance: as a share of the image's diagonal.
        predicted_alone: whether classes that are in an image's prediction but not in its truth count (with 0), as in
            SegNet's script; in the paper they don't.

    Where we differ: SegNet matches boundary pixels one to one, as the Berkeley benchmark does; here, as in the paper,
    one pixel may be near many.
    Source: Csurka, Larlus and Perronnin, What is a good evaluation measure for semantic segmentation?, BMVC 2013,
    sec. 3.
    """

    def __init__(self, classes: Sequence[str], *, tolerance: float = 0.0075, predicted_alone: bool = False) -> None:
        self.classes = tuple(classes)
        self.tolerance = tolerance
        self.predicted_alone = predicted_alone
        self.values: list[dict[int, float]] = []  # of each image, the F1 of its classes

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image; see :meth:`~scenewise.metrics.segmentation.SegmentationMetrics.update`."""
        predicted, truth = (
            _labels(labels, len(self.classes))
            for labels in maps_of(prediction, target, "semantic", "[H,W] class indices")
        )
        allowed = ~(label_edges(truth == -1) | (truth == -1))  # neither void nor beside it
        radius = self.tolerance * math.hypot(*truth.shape)
        values = {}
        for label in np.union1d(truth, predicted if self.predicted_alone else truth).tolist():
            if label == -1:
                continue
            of_truth, of_predicted = (label_edges(m == label) & (m == label) & allowed for m in (truth, predicted))
            score = _f1(of_predicted, of_truth, radius)
            if score is not None:
                values[label] = score
        self.values.append(values)

    def merge(self, other: BoundaryF1) -> None:
        """Add what another process counted."""
        ours, theirs = ((m.classes, m.tolerance, m.predicted_alone) for m in (self, other))
        if ours != theirs:
            raise UsageError(
                f"can't merge boundary scores of (classes, tolerance, predicted_alone) {theirs} into those of {ours}"
            )
        self.values += other.values

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where undefined.

        Returns:
            ``boundary_f1``: its ``mean`` over the classes of each image, then over images; ``per_class``: for each
            class's name the mean over the images that have it. And the number of ``images``.
        """
        by_image = [mean(values.values()) for values in self.values]
        by_class = [[v[label] for v in self.values if label in v] for label in range(len(self.classes))]
        return {
            "boundary_f1": {
                "mean": mean(value for value in by_image if value is not None),
                "per_class": {name: mean(values) for name, values in zip(self.classes, by_class, strict=True)},
            },
            "images": len(self.values),
        }


def label_edges(labels: Labels | Bools, *, void_edges: bool = True) -> Bools:
    """Which pixels have a neighbour of another label. [H,W] -> bool [H,W]; -1 is void, see ``TrimapMetrics``."""
    edges = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        one, two = labels[tuple(before)], labels[tuple(after)]
        differ = one != two
        if not void_edges:
            differ &= (one != -1) & (two != -1)
        edges[tuple(before)] |= differ
        edges[tuple(after)] |= differ
    return edges


def edge_distance(edges: Bools) -> npt.NDArray[np.float64]:
    """The distance of each pixel to the nearest of ``edges``, infinite where there is none. [H,W]"""
    if not edges.any():
        return np.full(edges.shape, np.inf)
    distance: npt.NDArray[np.float64] = distance_transform_edt(~edges)
    return distance


def _f1(predicted: Bools, truth: Bools, radius: float) -> float | None:
    if not predicted.any() and not truth.any():
        return None
    if not predicted.any() or not truth.any():
        return 0.0
    precision = float((edge_distance(truth)[predicted] <= radius).mean())
    recall = float((edge_distance(predicted)[truth] <= radius).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _labels(labels: torch.Tensor, num_classes: int) -> Labels:
    """Class maps with -1 for void."""
    labels = labels.cpu().long()
    void = (labels < 0) | (labels >= num_classes) | (labels == IGNORE)
    return labels.masked_fill(void, -1).numpy()
