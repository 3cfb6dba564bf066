"""Precision and recall of detections, the curve of both, and the average precision that summarises it.

A detection is a hit (true positive) if it is matched to a truth of its class that no better-scored detection has taken;
otherwise it is a miss (false positive). Ignored objects (difficult, crowd) are neither hits nor misses, and neither are
do detections that are matched to them.

Shapes: K detections, G truths of one class. All arrays are numpy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scenewise.errors import UsageError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

Average = Literal["area", "11-point", "101-point"]


def match_in_order(iou: npt.ArrayLike, threshold: float, ignore: npt.ArrayLike | None = None) -> Int64:
    """The truth that each detection of one image is matched to, -1 for none.

    Detections choose in the order of their rows, the best-scored first. Each takes the truth of highest IoU among those
    of at least ``threshold`` that are free, the first of equals; only where there is none, an ignored one, which any
    number of detections may share.

    Args:
        iou: [K,G], 0..1.
        threshold: the least IoU of a match.
        ignore: bool [G], none by default.

    Returns:
        int64 [K].
    """
    overlaps = np.array(iou, dtype=np.float64, ndmin=2)
    ignored = np.zeros(overlaps.shape[1], np.bool_) if ignore is None else np.asarray(ignore, np.bool_)
    matches = np.full(len(overlaps), -1, np.int64)
    free = ~ignored
    for row, overlap in enumerate(overlaps):
        for candidates in (free, ignored):
            reached = np.where(candidates & (overlap >= threshold), overlap, -1.0)
            if reached.max(initial=-1.0) >= 0:
                matches[row] = reached.argmax()
                free[matches[row]] = False
                break
    return matches


@dataclass(frozen=True)
class Curve:
    """Precision and recall at each detection, from the highest score down: what a threshold there would give.

    Attributes:
        scores: float64 [K], descending.
        precision: float64 [K], the share of hits among the detections so far.
        recall: float64 [K], the share of the truths that are found so far; NaN where there are no truths.
        num_truths: how many truths there are.
        tied: whether a hit and a miss have one score. Their order, which is that of the input, then changes the curve
            and its average.
    """

    scores: Float64
    precision: Float64
    recall: Float64
    num_truths: int
    tied: bool


def precision_recall_curve(scores: npt.ArrayLike, hits: npt.ArrayLike, num_truths: int) -> Curve:
    """The curve of detections that were matched already; those matched to ignored truths must have been left out.

    Args:
        scores: [K], higher is surer. Equal scores keep their order.
        hits: bool [K].
        num_truths: how many truths there are, found or not, without the ignored ones.

    Raises:
        UsageError: the lengths differ, a score is not a number, or there are more hits than truths.
    """
    values, found = np.asarray(scores, np.float64).reshape(-1), np.asarray(hits, np.bool_).reshape(-1)
    if len(values) != len(found):
        raise UsageError(f"{len(values)} scores and {len(found)} hits; expected one of both for each detection")
    if np.isnan(values).any():
        raise UsageError(f"score {int(np.isnan(values).argmax())} is NaN; expected numbers, which can be put in order")
    if found.sum() > num_truths:
        raise UsageError(f"{found.sum()} hits among {num_truths} truths; each truth can be found once")
    order = np.argsort(-values, kind="stable")
    values, found = values[order], found[order]
    true, all_so_far = found.cumsum(), np.arange(1, len(found) + 1)
    recall = true / num_truths if num_truths else np.full(len(found), np.nan)
    tied = bool(((values[1:] == values[:-1]) & (found[1:] != found[:-1])).any())
    return Curve(values, true / all_so_far, recall, num_truths, tied)


def average_precision(curve: Curve, kind: Average = "area") -> float:
    """The mean of the precision over recalls from 0 to 1; NaN where there are no truths to be recalled.

    The precision at recall r is the highest one at any recall of at least r, 0 where r is never reached.

    * ``"area"``: the area under that curve (VOC from 2010 on);
    * ``"11-point"``: its mean at r = 0, 0.1, ..., 1 (VOC until 2009: Everingham et al., IJCV 2010, sec. 4.2);
    * ``"101-point"``: its mean at r = 0, 0.01, ..., 1 (COCO).
    """
    if kind not in ("area", "11-point", "101-point"):
        raise UsageError(f"kind is {kind!r}; expected area, 11-point or 101-point")
    if curve.num_truths == 0:
        return float("nan")
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    if kind == "area":
        return float((np.diff(curve.recall, prepend=0.0) * envelope).sum())
    steps = 10 if kind == "11-point" else 100
    # r = k / steps is reached by a recall h / n where h steps >= k n; the sum of float steps of 0.1 would miss some
    places = np.searchsorted(curve.recall, np.arange(steps + 1) / steps - 1e-12)
    return float(np.append(envelope, 0.0)[places].mean())
