"""Prediction of large images tile by tile; see :mod:`scenewise.engine.fusion` for how procedures compose.

Two published rules are here. In the sliding window of Zhao et al. (PSPNet, CVPR 2017; their code), tiles overlap by a
third and are averaged. In the overlap-tile strategy of Ronneberger et al. (U-Net, MICCAI 2015, fig. 2), the image is
mirrored beyond its borders and each tile answers for its centre alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scenewise.engine.fusion import Predict
from scenewise.errors import UsageError
from scenewise.fields.base import Average, Canvas
from scenewise.fields.table import FIELDS, given
from scenewise.ops.mirror import mirrored_window
from scenewise.types import Batch, Output

GAUSSIAN_SIGMA = 1 / 8  # of the tile's side, as nnU-Net has it (Isensee et al., Nature Methods 2021)


@dataclass(frozen=True)
class Tiles:
    """Runs a predictor on overlapping tiles of each image and joins their maps (class scores, depth, ...).

    Args:
        size: (height, width) of a tile. A side on which the image is shorter is filled by mirroring it.
        overlap: of neighbouring tiles: an int in pixels, or a float as a share of the tile's side, below 1.
        blend: what overlapping tiles make of a pixel. ``"mean"``: their mean. ``"gaussian"``: the mean weighted by the
            pixel's nearness to the tiles' centres (sigma an eighth of the side). Both shift the last tile inwards so
            that it ends with the image. ``"crop"``: each tile answers for its centre alone, the tile without half the
            overlap on every side, and the image is mirrored to give the outermost centres their surroundings.
        average: of class scores: whether means are of logits or of probabilities.
        batch_size: how many tiles the predictor is given at once.

    With ``"crop"``, the result equals that of the whole image where no pixel looks farther than half the overlap, and
    half the overlap and the step (the side less the overlap) are multiples of the network's stride: for U-Net without
    padding at depth 4, ``Tiles((576, 576), overlap=192, blend="crop")``.

    Memory beside the predictor's own is one canvas of the image's size for each class. A model that fills anything that
    is not a map, such as boxes, is refused: an object may lie in several tiles.
    """

    size: tuple[int, int]
    overlap: int | float = 1 / 3
    blend: Literal["mean", "gaussian", "crop"] = "mean"
    average: Average = "logits"
    batch_size: int = 1

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise UsageError(f"tiles: size is {self.size}; expected a (height, width) of 1 or more")
        limit = 1 if isinstance(self.overlap, float) else min(self.size)
        if not 0 <= self.overlap < limit:
            raise UsageError(
                f"tiles: overlap is {self.overlap}; expected a share of the tile as 0.0 to below 1.0, "
                f"or pixels as 0 to {min(self.size) - 1}"
            )
        if self.batch_size < 1:
            raise UsageError(f"tiles: batch_size is {self.batch_size}; expected 1 or more")

    def __call__(self, predict: Predict) -> Predict:
        """A predictor that runs ``predict`` on tiles."""

        def run(batch: Batch) -> list[Output]:
            if batch.inputs:
                raise UsageError(f"tiles: an image's {next(iter(batch.inputs))} can't be cut into tiles")
            images = zip(batch.images, batch.sizes, strict=True)
            return [self._predict(predict, image[:, :h, :w]) for image, (h, w) in images]

        return run

    def _predict(self, predict: Predict, image: Tensor) -> Output:
        """The joined output for ``image`` [3,H,W]."""
        height, width = image.shape[-2:]
        vertical, horizontal = (_overlap(self.overlap, side) for side in self.size)
        corners = [
            (top, left)
            for top in self._starts(height, self.size[0], vertical)
            for left in self._starts(width, self.size[1], horizontal)
        ]
        margins = (vertical // 2, horizontal // 2) if self.blend == "crop" else (0, 0)
        weights = self._weights(image)
        canvases: dict[str, Canvas] = {}
        for first in range(0, len(corners), self.batch_size):
            some = corners[first : first + self.batch_size]
            tiles = torch.stack([mirrored_window(image, top, left, self.size) for top, left in some])
            for (top, left), output in zip(some, predict(Batch(tiles, [self.size] * len(some))), strict=True):
                rows = _kept(top, self.size[0], margins[0], height)
                columns = _kept(left, self.size[1], margins[1], width)
                place = (weights[rows, columns], top + rows.start, left + columns.start)
                for name, value in _maps(output).items():
                    if name not in canvases:
                        canvases[name] = FIELDS[name].canvas((height, width), self.average, "mean")
                    canvases[name].add(value[..., rows, columns], *place)
        return Output((height, width), **{name: canvas.result() for name, canvas in canvases.items()})

    def _starts(self, length: int, side: int, overlap: int) -> list[int]:
        """Where the tiles begin along an axis of the image's ``length``; below 0 where the image is mirrored."""
        if self.blend == "crop":
            margin = overlap // 2
            return list(range(-margin, length - margin, side - 2 * margin))
        if length <= side:
            return [0]
        return [*range(0, length - side, side - overlap), length - side]

    def _weights(self, image: Tensor) -> Tensor:
        """[h,w] of a tile: 1, or a bell that falls from 1 in the middle to exp(-16) in the corners."""
        if self.blend != "gaussian":
            return image.new_ones(self.size)
        bells = []
        for side in self.size:
            distance = torch.arange(side, dtype=image.dtype, device=image.device) - (side - 1) / 2
            bells.append(torch.exp(-((distance / (GAUSSIAN_SIGMA * side)) ** 2) / 2))
        return torch.outer(*bells)


def check_maps(filled: Iterable[str]) -> None:
    """Raise a :class:`UsageError` unless all of these fields are maps that can be joined of tiles."""
    for name in filled:
        if FIELDS[name].fusion != "mean" or not FIELDS[name].dense:
            raise UsageError(f"tiles: maps of pixels can be joined, and this model fills {name}")


def _maps(output: Output) -> dict[str, Tensor]:
    """The fields of a tile's output."""
    values = given(output)
    check_maps(values)
    return values


def _overlap(overlap: int | float, side: int) -> int:
    """``overlap`` in pixels of a tile's ``side``. A share is rounded down: PSPNet's step is the rest, rounded up."""
    return int(overlap * side + 1e-6) if isinstance(overlap, float) else overlap


def _kept(start: int, side: int, margin: int, length: int) -> slice:
    """The part of a tile that counts: without its margin, and within the image."""
    return slice(margin, min(side - margin, length - start))  # no tile begins farther out than its margin
