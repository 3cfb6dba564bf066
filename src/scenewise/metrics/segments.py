"""How well the segments that a boundary class parts are told from one another: Rand and information scores.

Used for membranes in electron micrographs, where a gap of one pixel merges two cells and hardly changes an IoU.

Shapes: H x W pixels, S predicted and T true segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, label  # type: ignore[attr-defined]
from scipy.sparse import coo_array
from scipy.special import entr

from scenewise.errors import UsageError, suggest
from scenewise.metrics.base import Metric, maps_of, mean
from scenewise.types import Described, Target

Segments = npt.NDArray[np.int64]  # [H,W], 0 on boundaries


class SegmentMetrics(Metric):
    """Foreground-restricted Rand and information scores of segments, averaged over images.

    A segment is a 4-connected region of pixels that are not of the class ``boundary``. Pixels count where the truth has
    a segment; p is the share of them in each pair of a predicted and a true segment, s and t its sums by predicted and
    by true segment. The Rand score is ``sum p^2 / (sum s^2 / 2 + sum t^2 / 2)``, its split score ``sum p^2 / sum t^2``,
    its merge score ``sum p^2 / sum s^2``; the information score is ``2 I(S;T) / (H(S) + H(T))``, split ``I / H(S)``,
    merge ``I / H(T)``. All are 0..1, and better if larger.

    Args:
        classes: names, in label order.
        boundary: the name of the class that parts segments, such as ``"membrane"``; None: a segment is a region of one
            class, and whatever the next class is parts it.
        borders: what becomes of predicted boundary pixels in a true segment: ``"nearest"`` gives each to the nearest
            predicted segment, as thinning borders away does, so that their width does not count; ``"segment"`` takes
            them all as one segment more.

    Source: Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics,
    Frontiers in Neuroanatomy 2015, where F-scores weigh both parts alike.
    """

    def __init__(
        self, classes: Sequence[str], *, boundary: str | None = None, borders: Literal["nearest", "segment"] = "nearest"
    ) -> None:
        if boundary is not None and boundary not in classes:
            near = suggest(boundary, classes)
            raise UsageError(f"boundary is {boundary!r}{near}; expected one of {', '.join(classes)}")
        if borders not in ("nearest", "segment"):
            raise UsageError(f"borders is {borders!r}; expected 'nearest' or 'segment'")
        self.classes, self.boundary, self.borders = tuple(classes), boundary, borders
        self.scores: list[dict[str, float]] = []
        self.images = 0

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.semantic`` [H,W] against ``target["semantic"]`` [H,W]; pixels to ignore are in
        no segment.

        Raises:
            UsageError: one of them is missing, or their sizes differ; names the image.
        """
        predicted, truth = (m.cpu().numpy() for m in maps_of(prediction, target, "semantic", "[H,W] class indices"))
        found, true = (self._segments(labels) for labels in (predicted, truth))
        self.images += 1
        if not true.any():
            return
        if self.borders == "nearest" and found.any():
            _, (rows, columns) = distance_transform_edt(found == 0, return_indices=True)
            found = found[rows, columns]
        self.scores.append(segment_scores(found, true))

    def _segments(self, labels: npt.NDArray[np.int64]) -> Segments:
        if self.boundary is not None:
            wall = self.classes.index(self.boundary)
            return segments_of((labels != wall) & (labels < len(self.classes)))
        result = np.zeros(labels.shape, np.int64)
        for index in range(len(self.classes)):
            regions = segments_of(labels == index)
            result += np.where(regions > 0, regions + result.max(), 0)
        return result

    def merge(self, other: SegmentMetrics) -> None:
        """Add what another process counted."""
        ours, theirs = ((m.classes, m.boundary, m.borders) for m in (self, other))
        if ours != theirs:
            raise UsageError(f"can't merge scores of segments of (classes, boundary, borders) {theirs} into {ours}")
        self.scores += other.scores
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """``segments``: ``rand``, ``rand_split``, ``rand_merge``, ``info``, ``info_split`` and ``info_merge``, each the
        mean over the images whose truth has segments, or None; and the number of ``images``.
        """
        names = ("rand", "rand_split", "rand_merge", "info", "info_split", "info_merge")
        return {"segments": {name: mean(one[name] for one in self.scores) for name in names}, "images": self.images}


def segments_of(inside: npt.NDArray[np.bool_]) -> Segments:
    """The 4-connected regions of ``inside`` [H,W], numbered from 1."""
    return np.asarray(label(inside)[0], dtype=np.int64)


def segment_scores(found: Segments, true: Segments) -> dict[str, float]:
    """The scores of predicted segments against true ones, over the pixels where ``true`` is not 0; see
    :class:`SegmentMetrics`. A part that divides by an entropy of 0 is 1 where both maps have one segment, else 0.
    """
    counted = true > 0
    pairs = coo_array((np.ones(int(counted.sum())), (found[counted], true[counted]))).tocsr()
    pairs.sum_duplicates()
    p = pairs.data / pairs.data.sum()
    s, t = (np.asarray(pairs.sum(axis)).ravel() / pairs.data.sum() for axis in (1, 0))
    together, split, merged = float((p**2).sum()), float((t**2).sum()), float((s**2).sum())
    of_pairs, of_found, of_true = (float(entr(shares).sum()) for shares in (p, s, t))
    shared = max(0.0, of_found + of_true - of_pairs)
    same = float(of_found == of_true == 0)
    return {
        "rand": 2 * together / (merged + split),
        "rand_split": together / split,
        "rand_merge": together / merged,
        "info": 2 * shared / (of_found + of_true) if of_found + of_true else same,
        "info_split": shared / of_found if of_found else same,
        "info_merge": shared / of_true if of_true else same,
    }
