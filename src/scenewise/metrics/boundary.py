"""Boundary detection as the Berkeley benchmark measures it: ODS, OIS and average precision.

Martin, Fowlkes and Malik, Learning to detect natural image boundaries using local brightness, color, and texture cues,
PAMI 2004, sec. 5; Arbeláez, Maire, Fowlkes and Malik, Contour detection and hierarchical image segmentation, PAMI 2011,
sec. 2. At each of many thresholds the map is cut to pixels, thinned to lines, and its pixels are matched one to one
with those of the truth that lie within a tolerance.

The benchmark looks for the match of least total distance, in which a pixel without a partner costs a hundred times the
tolerance: that is a match of as many pixels as possible, and as the scores count pixels alone, one of as many is found
here (Hopcroft and Karp). Its own program weighs rounded distances and draws random partners for outliers, which moves
its scores by about 0.001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate  # type: ignore[attr-defined]
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, maps_of
from scenewise.types import Described, Target

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


class BoundaryMetrics(Metric):
    """The benchmark's scores over a data set.

    Args:
        classes: of the model, which boundaries have no use for.
        thresholds: how many; they are k / (thresholds + 1), k from 1.
        tolerance: as a share of the image's diagonal: 0.0075 for BSDS, 0.011 for NYU.
        thin: whether predicted pixels are thinned to lines; as the benchmark does.

    A pixel of the truth is one of at least 0.5; it is compared as it is, not thinned.
    """

    def __init__(
        self, classes: Sequence[str] = (), *, thresholds: int = 99, tolerance: float = 0.0075, thin: bool = True
    ) -> None:
        if thresholds < 1 or not tolerance >= 0:
            raise UsageError(
                f"thresholds and tolerance are {thresholds} and {tolerance}; expected 1 or more, and 0 or more"
            )
        self.thresholds, self.tolerance, self.thin = thresholds, tolerance, thin
        self.counts: list[npt.NDArray[np.int64]] = []  # of each image [thresholds,3]: matched, predicted, true pixels

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.boundary`` [H,W], 0..1, against ``target["boundary"]`` [H,W], 0..1.

        Raises:
            UsageError: one of them is missing, or their sizes differ; names the image.
        """
        found, truth = (x.float().cpu().numpy() for x in maps_of(prediction, target, "boundary", "[H,W] in 0..1"))
        lines = truth >= 0.5
        radius = self.tolerance * math.hypot(*lines.shape)
        counts = np.zeros((self.thresholds, 3), np.int64)
        counts[:, 2] = lines.sum()
        before: Bools | None = None
        for place in range(self.thresholds):
            pixels: Bools = found >= np.float32((place + 1) / (self.thresholds + 1))
            if before is not None and np.array_equal(pixels, before):  # a map of few values
                counts[place] = counts[place - 1]
                continue
            before = pixels
            drawn = thinned(pixels) if self.thin else pixels
            counts[place, :2] = matched_pixels(drawn, lines, radius), drawn.sum()
        self.counts.append(counts)

    def merge(self, other: BoundaryMetrics) -> None:
        """Add what another process counted."""
        mine, theirs = ((m.thresholds, m.tolerance, m.thin) for m in (self, other))
        if mine != theirs:
            raise UsageError(f"can't merge boundary scores of (thresholds, tolerance, thin) {theirs} into {mine}")
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where the truth has no boundary.

        Returns:
            ``boundary``: ``ODS``, the best F1 score of one threshold for all images, ``threshold``, which that is,
            ``OIS``, the F1 score with the best threshold for each image, and ``AP``, the area under the curve of
            precision over recall; and the number of ``images``.
        """
        names = ("ODS", "threshold", "OIS", "AP")
        images = len(self.counts)
        if not images or not sum(counts[0, 2] for counts in self.counts):
            return {"boundary": dict.fromkeys(names), "images": images}
        whole = np.sum(self.counts, axis=0)
        recall, precision = _rates(whole)
        best, threshold = self._best(recall, precision)
        own = [counts[int(_f1(*_rates(counts)).argmax())] for counts in self.counts]  # at its own best threshold
        per_image = float(_f1(*_rates(np.sum(own, axis=0))))
        values = (best, threshold, per_image, _area(recall, precision))
        return {"boundary": dict(zip(names, values, strict=True)), "images": images}

    def _best(self, recall: Float64, precision: Float64) -> tuple[float, float]:
        """The highest F1 and its threshold; between two thresholds both rates are taken to change linearly."""
        places = np.linspace(0, self.thresholds - 1, 100 * (self.thresholds - 1) + 1)
        steps = np.arange(self.thresholds)
        scores = _f1(np.interp(places, steps, recall), np.interp(places, steps, precision))
        best = int(scores.argmax())
        return float(scores[best]), float((places[best] + 1) / (self.thresholds + 1))


def _rates(counts: npt.NDArray[np.int64]) -> tuple[Float64, Float64]:
    """Recall and precision of ``counts`` [...,3]; 0 where there is nothing to divide by."""
    matched, found, truth = (counts[..., column] for column in range(3))
    return matched / np.maximum(truth, 1), matched / np.maximum(found, 1)


def _f1(recall: Float64, precision: Float64) -> Float64:
    both = recall + precision
    result: Float64 = 2 * recall * precision / np.where(both > 0, both, 1)
    return result


def _area(recall: Float64, precision: Float64) -> float:
    """The benchmark's area: precision at the recalls 0, 0.01, ..., 1, linear between those that occur, 0 beyond."""
    recalls, first = np.unique(recall, return_index=True)
    if len(recalls) < 2:
        return 0.0
    return float(np.interp(np.arange(101) / 100, recalls, precision[first], left=0, right=0).sum() / 100)


def matched_pixels(one: Bools, two: Bools, radius: float) -> int:
    """The largest number of pixels of ``one`` [H,W] that can each have a pixel of ``two`` within ``radius`` pixels for
    themselves alone."""
    places, others = (np.argwhere(pixels) for pixels in (one, two))
    if not len(places) or not len(others):
        return 0
    near = KDTree(others).query_ball_point(places, radius * (1 + 1e-9))
    rows = np.repeat(np.arange(len(places)), [len(found) for found in near])
    if not len(rows):
        return 0
    columns = np.concatenate([np.asarray(found, np.int64) for found in near])
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(places), len(others))).tocsr()
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def _thinning_table() -> npt.NDArray[np.bool_]:
    """[2,256]: whether a pixel goes in the first and in the second half of a step, by which of its eight neighbours are
    set; bit b stands for neighbour b, counter-clockwise from the right."""
    table = np.zeros((2, 256), bool)
    for code in range(256):
        x = [code >> b & 1 for b in range(8)]
        crossings = sum(not x[2 * i] and (x[2 * i + 1] or x[(2 * i + 2) % 8]) for i in range(4))
        pairs = [
            sum(x[2 * i] or x[2 * i + 1] for i in range(4)),
            sum(x[2 * i + 1] or x[(2 * i + 2) % 8] for i in range(4)),
        ]
        if crossings == 1 and 2 <= min(pairs) <= 3:
            table[0, code] = not ((x[1] or x[2] or not x[7]) and x[0])
            table[1, code] = not ((x[5] or x[6] or not x[3]) and x[4])
    return table


_THINNING = _thinning_table()
_NEIGHBOURS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]])


def thinned(pixels: Bools) -> Bools:
    """``pixels`` [H,W] thinned to lines one pixel wide, their connections kept.

    Source: Guo and Hall, Parallel thinning with two-subiteration algorithms, Communications of the ACM 1989; in the
    form of Lam, Lee and Suen, Thinning methodologies, PAMI 1992, p. 879.
    """
    lines: Bools = pixels.copy()
    while True:
        before = int(lines.sum())
        for half in _THINNING:
            codes = correlate(lines.astype(np.uint8), _NEIGHBOURS, output=np.int32, mode="constant")
            lines &= ~half[codes]
        if int(lines.sum()) == before:
            return lines
