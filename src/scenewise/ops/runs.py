"""Runs: the masks of K objects as the runs of their pixels, of which any part is made a bitmap when it is needed.

A photograph of 12 megapixels with 450 objects has 5.4 GB of bitmaps and less than a megabyte of runs.

Shapes: K masks of H x W pixels, R runs in all. Pixels are counted down the columns from left to right, as in COCO's
run-length codes. All arrays are numpy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scenewise.ops import rle

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """Masks of one size.

    Attributes:
        size: (H, W).
        starts: int64 [R], the first pixel of each run; within a mask they rise.
        ends: int64 [R], the pixel after its last one. Runs of one mask neither overlap nor touch, and none is empty.
        first: int64 [K+1], the row of each mask's first run.
    """

    size: tuple[int, int]
    starts: Int64
    ends: Int64
    first: Int64

    def __len__(self) -> int:
        return len(self.first) - 1

    @classmethod
    def of(cls, masks: Iterable[tuple[Int64, Int64]], size: tuple[int, int]) -> Runs:
        """The masks whose runs are given one by one, as (starts, ends) in any order; they may overlap."""
        parts = [united(starts, ends) for starts, ends in masks]
        first = np.cumsum([0, *(len(starts) for starts, _ in parts)], dtype=np.int64)
        starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in parts)])
        ends = np.concatenate([np.zeros(0, np.int64), *(ends for _, ends in parts)])
        return cls((int(size[0]), int(size[1])), starts, ends, first)

    @classmethod
    def of_bitmaps(cls, masks: Bool) -> Runs:
        """The runs of ``masks`` bool [K,H,W]."""
        height, width = masks.shape[1:]
        if not height or not width:
            return cls.of([(np.zeros(0, np.int64),) * 2] * len(masks), (height, width))
        return cls.of((_pairs(rle.changes_of(mask), height * width) for mask in masks), (height, width))

    @classmethod
    def joined(cls, parts: Sequence[Runs]) -> Runs:
        """The masks of ``parts``, one after the other; all have one size, and there is at least one part."""
        ends = np.cumsum([0, *(len(part.starts) for part in parts)])
        first = [part.first[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
        return cls(
            parts[0].size,
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
            np.concatenate([*first, ends[-1:]]),
        )

    def select(self, index: Int64) -> Runs:
        """The masks ``index`` int64 [K'], in that order."""
        return Runs.of(
            ((self.starts[a:b], self.ends[a:b]) for a, b in zip(self.first[index], self.first[index + 1], strict=True)),
            self.size,
        )

    def codes(self) -> list[dict[str, Any]]:
        """COCO's run-length codes, as :func:`scenewise.ops.rle.encode` gives them for the bitmaps."""
        return rle.codes_of([self._changes(k) for k in range(len(self))], self.size)

    def areas(self) -> Int64:
        """The pixels of each mask, int64 [K]."""
        sums = np.append(0, np.cumsum(self.ends - self.starts))
        return np.asarray(np.diff(sums[self.first]))

    def boxes(self) -> Int64:
        """The smallest box x1, y1, x2, y2 that holds each mask, int64 [K,4]; zeros for one without a pixel."""
        found = np.zeros((len(self), 4), np.int64)
        height = self.size[0]
        for box, a, b in zip(found, self.first[:-1], self.first[1:], strict=True):
            if b > a:
                starts, lasts = self.starts[a:b], self.ends[a:b] - 1
                box[[0, 2]] = starts[0] // height, lasts[-1] // height + 1
                whole = (starts // height != lasts // height).any()  # goes on in the next column: touches both borders
                box[[1, 3]] = (0, height) if whole else ((starts % height).min(), (lasts % height).max() + 1)
        return found

    def bitmaps(self, rows: Int64, columns: Int64) -> Bool:
        """The masks' pixels at these rows and columns, bool [K,H',W']; False where one of them is negative.

        With all rows and columns in order these are the masks themselves; with every second of them, smaller ones; in
        falling order, mirrored ones; and so on. No more memory than for the result and one object is needed.
        """
        found = np.zeros((len(self), len(rows), len(columns)), np.bool_)
        for k, (x1, y1, x2, y2) in enumerate(self.boxes().tolist()):
            i, j = np.flatnonzero((rows >= y1) & (rows < y2)), np.flatnonzero((columns >= x1) & (columns < x2))
            if len(i) and len(j):
                window = self._window(k, x1, y1, x2, y2)  # [W,H] of the box
                found[k][np.ix_(i, j)] = window[np.ix_(columns[j] - x1, rows[i] - y1)].T
        return found

    def _window(self, k: int, x1: int, y1: int, x2: int, y2: int) -> Bool:
        """The pixels of mask ``k`` in its box, column by column: bool [x2-x1,y2-y1]."""
        height = self.size[0]
        starts, ends = self.starts[self.first[k] : self.first[k + 1]], self.ends[self.first[k] : self.first[k + 1]]
        first, last = starts // height, (ends - 1) // height  # columns
        spans = last - first + 1
        owner = np.repeat(np.arange(len(starts)), spans)
        column = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(spans) - spans, spans)
        top = np.maximum(starts[owner] - column * height, 0) - y1
        bottom = np.minimum(ends[owner] - column * height, height) - y1
        steps = np.zeros(
            (x2 - x1, y2 - y1 + 1), np.int8
        )  # runs don't touch, so that a place begins or ends one of them
        steps[column - x1, top] = 1
        steps[column - x1, bottom] = -1
        return np.cumsum(steps[:, :-1], axis=1, dtype=np.int8).view(np.bool_)

    def _changes(self, k: int) -> Int64:
        """Where the value changes down the columns of mask ``k``, ascending."""
        a, b = self.first[k], self.first[k + 1]
        changes = np.stack([self.starts[a:b], self.ends[a:b]], 1).ravel()
        return changes[:-1] if len(changes) and changes[-1] == self.size[0] * self.size[1] else changes


def runs_of_code(code: Mapping[str, Any], size: tuple[int, int], *, where: str) -> tuple[Int64, Int64]:
    """The starts and ends int64 [R] of the runs that a run-length code of ``size`` stands for.

    Raises:
        DataError: as for :func:`scenewise.ops.rle.decode`.
    """
    counts = rle.parse(code, size, where=where)[1]
    ends = counts.cumsum()[1::2]
    return ends - counts[1::2], ends


def united(starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
    """The runs that cover the same pixels as all of these, in order; none of them overlap or touch."""
    filled = ends > starts
    order = np.argsort(starts[filled], kind="stable")
    starts, ends = starts[filled][order], ends[filled][order]
    if not len(starts):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    fresh = np.append(True, starts[1:] > reach[:-1])
    heads = np.flatnonzero(fresh)
    return starts[heads], reach[np.append(heads[1:], len(starts)) - 1]


def without(runs: tuple[Int64, Int64], holes: tuple[Int64, Int64]) -> tuple[Int64, Int64]:
    """The runs that cover the pixels of ``runs`` that are in none of ``holes``, in order."""
    runs, holes = united(*runs), united(*holes)
    cuts = np.unique(np.concatenate([*runs, *holes]))
    starts, ends = cuts[:-1], cuts[1:]
    inside, left_out = (
        np.searchsorted(firsts, starts, "right") > np.searchsorted(lasts, starts, "right")
        for firsts, lasts in (runs, holes)
    )
    kept = inside & ~left_out
    return united(starts[kept], ends[kept])


def _pairs(changes: Int64, pixels: int) -> tuple[Int64, Int64]:
    """The starts and ends of the runs of a mask whose values change at ``changes``."""
    if len(changes) % 2:
        changes = np.append(changes, pixels)
    return changes[::2], changes[1::2]
