"""One polygon for a mask of any shape: parts that lie apart and holes are joined by bridges, lines there and back.

Filled by the even-odd rule, as :func:`scenewise.ops.polygons.polygons_to_runs` and the drawing functions of other
libraries fill, a bridge encloses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def loops_around(mask: npt.NDArray[np.bool_]) -> list[Numbers]:
    """The closed lines along the borders of the pixels of ``mask`` [H,W]: corners x, y in pixels, each [P,2], P >= 4.

    Filled by the even-odd rule, all of them together are the mask. Pixels that touch at a corner only may share a loop
    or not.
    """
    padded = np.pad(mask, 1)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    crossed = (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    turns = (above_left ^ above_right ^ below_left ^ below_right) + 2 * crossed.astype(np.int64)  # [H+1,W+1]
    y, x = np.nonzero(turns)
    times = turns[y, x]
    y, x = np.repeat(y, times), np.repeat(x, times)  # [M], where a line turns; twice where two lines do
    by_column = np.lexsort((y, x))
    across, along = np.arange(len(y)) ^ 1, np.empty(len(y), np.int64)  # the other end of the line in its row ...
    along[by_column] = by_column[np.arange(len(y)) ^ 1]  # ... and in its column
    seen = np.zeros(len(y), np.bool_)
    loops = []
    for first in range(len(y)):
        if seen[first]:
            continue
        corners, at = [], first
        while not seen[at]:
            other = int(across[at])
            corners += [at, other]
            seen[at] = seen[other] = True
            at = int(along[other])
        loops.append(np.stack([x[corners], y[corners]], 1).astype(np.float64))
    return loops


def joined(loops: Sequence[Numbers]) -> Numbers:
    """One closed line [P,2] that goes around all of ``loops``, each [P,2], with a bridge from the first to each other.

    By the even-odd rule it encloses what an odd number of the loops enclose.
    """
    first, *others = loops
    if not others:
        return first
    start = first[:1]
    parts = [first, start]
    for number, loop in enumerate(others):
        parts += [loop, loop[:1], *([start] if number < len(others) - 1 else [])]
    return np.concatenate(parts)
