"""Anchors: the boxes of fixed shapes, laid over a grid, that a network scores and moves.

Their drawbacks are known: very many boxes, few of them positive, and sizes and ratios to choose by hand.

Shapes: h x w cells of a feature map, a anchors a cell. Boxes are ``x1, y1, x2, y2`` in pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.types import STRICT


@dataclass(frozen=True)
class AnchorSpec:
    """Which anchors a cell of each feature map has: every size with every ratio.

    Attributes:
        sizes: for each map, the square roots of the anchors' areas, in pixels.
        ratios: height / width.
        offset: where in its cell an anchor's centre lies, in cells: 0 the upper left corner, as in torchvision,
            0.5 the middle.
        rounded: whether an anchor's corners, as seen from its centre, are rounded to whole pixels.
        legacy: the anchors of the first release of Faster R-CNN and of Detectron, see :func:`legacy_anchors`: centred
            in their cells, the sides of each ratio rounded at the map's stride and then enlarged to the size. Fixes
            ``offset`` and ``rounded``.
    """

    __pydantic_config__ = STRICT
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    offset: float = 0.0
    rounded: bool = True
    legacy: bool = False

    def __post_init__(self) -> None:
        # Tuples also where a recipe gives lists, so that the spec can be hashed and compared.
        object.__setattr__(self, "sizes", tuple(tuple(level) for level in self.sizes))
        object.__setattr__(self, "ratios", tuple(self.ratios))
        if not self.sizes or not all(self.sizes) or not self.ratios:
            raise UsageError(
                f"anchors: sizes {self.sizes} and ratios {self.ratios}; expected at least one size for each feature "
                "map, and one ratio"
            )
        wrong = [value for value in (*sum(self.sizes, ()), *self.ratios) if not value > 0]
        if wrong:
            raise UsageError(f"anchors: {wrong[0]} is not a valid size or ratio; expected numbers above 0")
        if self.legacy and (self.offset != 0 or not self.rounded):
            raise UsageError(
                f"anchors: legacy fixes where anchors lie and how they are rounded, but offset is {self.offset} and "
                f"rounded is {self.rounded}; leave both out"
            )

    @property
    def per_cell(self) -> list[int]:
        """The number of anchors a cell of each map."""
        return [len(level) * len(self.ratios) for level in self.sizes]


def anchors_per_cell(spec: AnchorSpec, levels: int) -> int:
    """The number of anchors a cell, where one network reads all of ``levels`` maps.

    Raises:
        UsageError: ``spec`` has sizes for another number of maps, or not as many of them for each.
    """
    if len(spec.sizes) != levels:
        raise UsageError(f"anchors: sizes has {len(spec.sizes)} entries; expected {levels}, one for each map")
    if len(set(spec.per_cell)) != 1:
        raise UsageError(
            f"anchors: sizes has {', '.join(str(len(sizes)) for sizes in spec.sizes)} numbers on its levels; "
            "expected as many on each, since one network reads them all"
        )
    return spec.per_cell[0]


def grid_anchors(
    spec: AnchorSpec,
    image_size: tuple[int, int],
    map_sizes: Sequence[tuple[int, int]],
    *,
    strides: Sequence[int] | None = None,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """The anchors of each feature map.

    Args:
        spec: sizes and ratios; one tuple of sizes for each map.
        image_size: (height, width) of the image, or of the padded batch.
        map_sizes: (h, w) of each map. A map's stride is image side // map side, as in torchvision.
        strides: those of the maps' network, which legacy anchors lie by.
        device: where the anchors are made.

    Returns:
        For each map float32 [h*w*a, 4]: row by row, within a row from left to right, within a cell all sizes of the
        first ratio, then of the second. Anchors reach over the image's borders. Equal to torchvision's
        ``AnchorGenerator`` where the offset is 0 and corners are rounded.

    Raises:
        UsageError: there are more or fewer maps than ``spec`` has tuples of sizes, or legacy anchors are asked for
            without ``strides``.
    """
    if len(map_sizes) != len(spec.sizes):
        raise UsageError(f"anchors: sizes for {len(spec.sizes)} feature maps, but the network has {len(map_sizes)}")
    anchors = []
    for level, (sizes, (h, w)) in enumerate(zip(spec.sizes, map_sizes, strict=True)):
        if spec.legacy:
            if strides is None:
                raise UsageError("anchors: legacy anchors are rounded at the stride of each map; give the strides")
            cell = _continuous_legacy_anchors(strides[level], sizes, spec.ratios).to(device or "cpu")
            anchors.append(shift_anchors(cell, (h, w), (strides[level], strides[level])))
        else:
            stride = (image_size[0] // max(h, 1), image_size[1] // max(w, 1))
            anchors.append(shift_anchors(_cell_anchors(spec, sizes, device), (h, w), stride, offset=spec.offset))
    return anchors


def _continuous_legacy_anchors(stride: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """:func:`legacy_anchors` [a,4] of ``sizes`` in pixels, in continuous coordinates: the last pixel is part of a box.

    So the legacy rule's widths of x2 - x1 + 1 are x2 - x1, and overlaps and deltas are those of the release.
    """
    return legacy_anchors(stride, [size / stride for size in sizes], ratios) + torch.tensor([0.0, 0.0, 1.0, 1.0])


def _cell_anchors(spec: AnchorSpec, sizes: tuple[float, ...], device: torch.device | str | None) -> Tensor:
    """The anchors [a,4] around the origin, ratio by ratio."""
    sides = torch.tensor(sizes, dtype=torch.float32, device=device)
    height_factors = torch.sqrt(torch.tensor(spec.ratios, dtype=torch.float32, device=device))
    heights = (height_factors[:, None] * sides).flatten()
    widths = ((1 / height_factors)[:, None] * sides).flatten()
    anchors = torch.stack((-widths, -heights, widths, heights), dim=1) / 2
    return anchors.round() if spec.rounded else anchors


def shift_anchors(cell: Tensor, map_size: tuple[int, int], stride: tuple[int, int], *, offset: float = 0.0) -> Tensor:
    """The anchors ``cell`` [a,4] of one cell, repeated for every cell of a map.

    Args:
        cell: as seen from the cell's reference point.
        map_size: (h, w).
        stride: (vertical, horizontal) distance of the cells, in pixels.
        offset: the reference point, in cells from the cell's upper left corner.

    Returns:
        [h*w*a, 4], row by row, the anchors of a cell together.
    """
    h, w = map_size
    y = (torch.arange(h, device=cell.device) + offset) * stride[0]
    x = (torch.arange(w, device=cell.device) + offset) * stride[1]
    rows, columns = torch.meshgrid(y.to(cell), x.to(cell), indexing="ij")
    shifts = torch.stack((columns, rows, columns, rows), dim=-1)  # [h,w,4]
    return (shifts[:, :, None] + cell).reshape(-1, 4)


def legacy_anchors(
    stride: int = 16, scales: Sequence[float] = (8, 16, 32), ratios: Sequence[float] = (0.5, 1.0, 2.0)
) -> Tensor:
    """The anchors of one cell in the first release of Faster R-CNN, for use with ``plus_one``.

    Args:
        stride: side of a cell in pixels.
        scales: sides of the anchors, in cells.
        ratios: height / width.

    Returns:
        float32 [a,4], ratio by ratio. Corners are the first and the last pixel (inclusive); the centre is
        (stride - 1) / 2, half a pixel left of and above the middle of the cell. :func:`shift_anchors` lays them over
        a map. ``AnchorSpec(legacy=True)`` gives them to a network, in continuous coordinates.

    The sides of the ratios are rounded at scale 1 and then enlarged, so the areas of the three ratios differ. Source:
    py-faster-rcnn, ``generate_anchors.py``; Ren et al., "Faster R-CNN", NIPS 2015, sec. 3.1.1.
    """
    widths = np.round(np.sqrt(stride * stride / np.asarray(ratios, dtype=np.float64)))
    heights = np.round(widths * np.asarray(ratios))
    # Half of the distance between the first and the last pixel, for every ratio and scale.
    half_x = (widths[:, None] * np.asarray(scales) - 1).ravel() / 2
    half_y = (heights[:, None] * np.asarray(scales) - 1).ravel() / 2
    center = (stride - 1) / 2
    corners = np.stack((center - half_x, center - half_y, center + half_x, center + half_y), axis=1)
    return torch.from_numpy(corners.astype(np.float32))


# ---- SSD's default boxes


@dataclass(frozen=True)
class DefaultBoxSpec:
    """Which default boxes a cell of each feature map has, as shares of the image.

    Attributes:
        scales: of each map, and one more number for the last map's enlarged square: shares of the image's height and
            width.
        ratios: width / height, for each map. Beside them there is a square of the size between two maps,
            sqrt(scale * next scale).
        enlarged: where that square stands within a cell: ``"second"`` after the first ratio, as in SSD's release, in
            torchvision and in the older TensorFlow Object Detection API; ``"last"``, as in the newer one. Weights are
            trained in one of the orders.
        reduced_lowest: the first map has three boxes alone, as in that API: a square of 0.1, and the ratios 2 and 1/2
            of its scale.
        steps: of each map, the distance of two cells in pixels; None: the image's sides divided by the map's.
        clip: no box is larger than the image; torchvision's are so, the release's are not.
    """

    __pydantic_config__ = STRICT
    scales: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    enlarged: Literal["second", "last"] = "second"
    reduced_lowest: bool = False
    steps: tuple[float, ...] | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "ratios", tuple(tuple(level) for level in self.ratios))
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))
        levels = len(self.ratios)
        if not levels or not all(self.ratios) or len(self.scales) != levels + 1:
            raise UsageError(
                f"boxes: {len(self.scales)} scales for ratios of {levels} maps; expected at least one ratio for each "
                "map, and one scale more than there are maps"
            )
        if self.steps is not None and len(self.steps) != levels:
            raise UsageError(f"boxes: {len(self.steps)} steps for {levels} maps; expected as many")
        wrong = [value for value in (*self.scales, *sum(self.ratios, ()), *(self.steps or ())) if not value > 0]
        if wrong:
            raise UsageError(f"boxes: {wrong[0]} is not a valid scale, ratio or step; expected numbers above 0")

    @property
    def per_cell(self) -> list[int]:
        """The number of boxes a cell of each map."""
        return [len(self.shapes(level)) for level in range(len(self.ratios))]

    def shapes(self, level: int) -> list[tuple[float, float]]:
        """(width, height) of the boxes of a cell of map ``level``, as shares of the image (Liu et al., sec. 2.2)."""
        scale, square = self.scales[level], math.sqrt(self.scales[level] * self.scales[level + 1])
        if level == 0 and self.reduced_lowest:
            found = [(0.1, 0.1), *(_shape(scale, ratio) for ratio in (2.0, 0.5))]
        else:
            found = [_shape(scale, ratio) for ratio in self.ratios[level]]
            found.insert(1 if self.enlarged == "second" else len(found), (square, square))
        return [(min(w, 1.0), min(h, 1.0)) for w, h in found] if self.clip else found


def _shape(scale: float, ratio: float) -> tuple[float, float]:
    return scale * math.sqrt(ratio), scale / math.sqrt(ratio)


def linear_scales(maps: int, smallest: float = 0.2, largest: float = 0.9) -> tuple[float, ...]:
    """The scales of ``maps`` maps in equal steps (Liu et al., eq. 4), and 1 for the last enlarged square."""
    steps = max(1, maps - 1)
    return (*(smallest + (largest - smallest) * k / steps for k in range(maps)), 1.0)


def default_boxes(
    spec: DefaultBoxSpec,
    image_size: tuple[int, int],
    map_sizes: Sequence[tuple[int, int]],
    *,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """SSD's default boxes of each feature map.

    Args:
        spec: their scales and ratios.
        image_size: (height, width) of the image.
        map_sizes: (h, w) of each map.
        device: where they are made.

    Returns:
        For each map float32 [h*w*a, 4], pixels: row by row, the boxes of a cell together, centred in their cell. They
        reach over the image's borders. Equal to torchvision's ``DefaultBoxGenerator``.

    Raises:
        UsageError: there are more or fewer maps than ``spec`` has ratios for.
    """
    if len(map_sizes) != len(spec.ratios):
        raise UsageError(f"boxes: ratios for {len(spec.ratios)} maps, but the network has {len(map_sizes)}")
    height, width = image_size
    sides = torch.tensor([width, height], dtype=torch.float32, device=device)
    found = []
    for level, (h, w) in enumerate(map_sizes):
        cells = (h, w) if spec.steps is None else (height / spec.steps[level], width / spec.steps[level])
        y = (torch.arange(h, device=device) + 0.5) / cells[0]
        x = (torch.arange(w, device=device) + 0.5) / cells[1]
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centers = torch.stack((columns, rows), -1).view(-1, 1, 2)  # [h*w,1,2]
        shapes = torch.tensor(spec.shapes(level), dtype=torch.float32, device=device)  # [a,2]
        corners = torch.cat(((centers - 0.5 * shapes) * sides, (centers + 0.5 * shapes) * sides), -1)
        found.append(corners.reshape(-1, 4))
    return found
