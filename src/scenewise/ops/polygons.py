"""Polygons to masks, equal to the COCO API's bit for bit.

Shapes: P vertices, M points along an outline, H x W pixels. All arrays are numpy's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scenewise.errors import DataError
from scenewise.ops.rle import MAX_PIXELS

SCALE = 5  # the outline is walked in fifths of a pixel
MAX_POINTS = 2**26  # along one outline; a polygon of three huge numbers may otherwise ask for any amount of memory

Numbers = npt.NDArray[np.float64]


def polygons_to_mask(
    polygons: Sequence[npt.ArrayLike], size: tuple[int, int], *, where: str = "polygon"
) -> npt.NDArray[np.bool_]:
    """The mask of all that lies in any of ``polygons``.

    Args:
        polygons: each x1, y1, x2, y2, ... in pixels, [2P] with P >= 3. They may leave the image.
        size: (height, width) of the mask.
        where: begins each error message: the file and record that the polygons come from.

    Returns:
        bool [H,W]; all False where there are no polygons.

    Raises:
        DataError: a polygon has an odd count of numbers, fewer than 3 points, or numbers that are not finite or so
            large that its outline has more than ``MAX_POINTS`` points; or the size is not one of an image.

    Equal to ``pycocotools.mask``: ``decode(merge(frPyObjects(polygons, H, W)))``.
    """
    height, width = size
    starts, ends = polygons_to_runs(polygons, size, where=where)
    mask = np.zeros(width * height, np.bool_)  # column by column, as the run-length codes have it
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        mask[start:end] = True
    return np.ascontiguousarray(mask.reshape(width, height).T)


def polygons_to_runs(
    polygons: Sequence[npt.ArrayLike], size: tuple[int, int], *, where: str = "polygon"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The same mask as runs of pixels, counted down the columns from left to right: their starts and ends int64 [R].

    No bitmap is made. Runs of several polygons may overlap. Arguments and errors as for :func:`polygons_to_mask`.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(
            f"{where}: the mask is {height} x {width}; expected at least 1 x 1, at most {MAX_PIXELS} pixels"
        )
    parts = [_runs(_checked(polygon, where), height, width, where) for polygon in polygons]
    empty = np.zeros(0, np.int64)
    starts = np.concatenate([empty, *(starts for starts, _ in parts)])
    return starts, np.concatenate([empty, *(ends for _, ends in parts)])


def _checked(polygon: npt.ArrayLike, where: str) -> Numbers:
    """``polygon`` as vertices [P,2]."""
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros((0, 0))
    if points.ndim != 1 or points.size % 2 or points.size < 6:
        raise DataError(f"{where}: a polygon has {points.size} numbers; expected x1, y1, x2, y2, x3, y3, ...")
    if not np.isfinite(points).all():
        raise DataError(f"{where}: a polygon has a coordinate that is not finite")
    return points.reshape(-1, 2)


def _runs(points: Numbers, height: int, width: int, where: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The starts and ends of the runs of pixels in one polygon."""
    crossings = np.sort(_crossings(points, height, width, where))
    if len(crossings) % 2:
        crossings = np.append(crossings, width * height)
    starts, ends = crossings[::2], crossings[1::2]
    filled = ends > starts
    return starts[filled], ends[filled]


def _crossings(points: Numbers, height: int, width: int, where: str) -> npt.NDArray[np.int64]:
    """Where, in column order, the outline of a polygon [P,2] turns outside into inside or back.

    Follows ``maskApi.c: rleFrPoly`` of the COCO API: the vertices are rounded to fifths of a pixel, each edge is walked
    from vertex to vertex in steps of a fifth, and where the walk passes the middle of a column of pixels, the first
    pixel below it is one from which on inside and outside change places.
    """
    if np.abs(points).max() > 2**26:  # whose fifths would not be whole numbers of 32 bits
        raise DataError(
            f"{where}: a polygon has the coordinate {np.abs(points).max():.6g}; expected pixels of the image"
        )
    grid = np.trunc(SCALE * points + 0.5).astype(np.int64)  # towards zero, as C converts
    begin, end = grid, np.roll(grid, -1, axis=0)  # [P,2]
    extent = np.abs(end - begin)
    flat = extent[:, 0] >= extent[:, 1]
    steps = extent.max(axis=1)  # [P]
    if int(steps.sum()) > MAX_POINTS:
        raise DataError(f"{where}: a polygon's outline is {int(steps.sum()) // SCALE:,} pixels long")
    backward = np.where(flat, begin[:, 0] > end[:, 0], begin[:, 1] > end[:, 1])
    low = np.where(backward[:, None], end, begin)  # edges are computed from left to right or top to bottom ...
    high = np.where(backward[:, None], begin, end)
    rise = high - low
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(flat, rise[:, 1] / rise[:, 0], rise[:, 0] / rise[:, 1])
    slope[steps == 0] = 0.0  # two equal vertices
    edge = np.repeat(np.arange(len(points)), steps + 1)  # [M]
    first = np.cumsum(steps + 1) - (steps + 1)
    step = np.arange(len(edge)) - first[edge]
    step = np.where(backward[edge], steps[edge] - step, step)  # ... but walked in the polygon's direction
    along = step + np.where(flat, low[:, 0], low[:, 1])[edge]
    across = np.trunc(np.where(flat, low[:, 1], low[:, 0])[edge] + slope[edge] * step + 0.5).astype(np.int64)
    x = np.where(flat[edge], along, across)  # [M]
    y = np.where(flat[edge], across, along)
    turned = np.flatnonzero(x[1:] != x[:-1]) + 1
    column = (np.minimum(x[turned], x[turned - 1]) + 0.5) / SCALE - 0.5
    row = np.ceil(np.clip((np.minimum(y[turned], y[turned - 1]) + 0.5) / SCALE - 0.5, 0, height))
    middle = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    found: npt.NDArray[np.int64] = column[middle].astype(np.int64) * height + row[middle].astype(np.int64)
    return found
