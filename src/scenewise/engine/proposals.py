"""Proposals of a whole data set, written to a file that systems such as Fast R-CNN take them from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from scenewise.data import DataSet, open_data
from scenewise.data.inputs import save_tensors_by_image
from scenewise.engine.evaluate import Tick
from scenewise.engine.predict import Precision, Predictor
from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.ops.selective_search import selective_search


def write_proposals(
    finder: Model | Literal["selective-search"] | Callable[[Tensor], Tensor],
    data: str | DataSet,
    split: str,
    path: str | Path,
    *,
    count: int = 2000,
    precision: Precision = "32",
    device: torch.device | str | None = None,
    tick: Tick | None = None,
) -> None:
    """Write the boxes that ``finder`` finds in each image of a data set to ``path``.

    Args:
        finder: a model that fills ``boxes``, best first, such as ``rpn``; ``"selective-search"``; or a function of an
            image [3,H,W] that gives boxes [P,4].
        data: a ``format:path`` string, or an open data set.
        split: which part of it, where ``data`` is a string.
        path: a safetensors file; see :mod:`scenewise.data.inputs`.
        count: the largest number of boxes per image.
        precision, device: see :class:`~scenewise.engine.predict.Predictor`.
        tick: called with the number of images done since its last call.

    Raises:
        UsageError: the model finds no boxes, or two images have one name.
    """
    if isinstance(finder, Model):
        if "boxes" not in finder.fills:
            filled = ", ".join(sorted(finder.fills))
            raise UsageError(f"proposals: the model fills {filled}; expected one that fills boxes")
        find = _found_by(Predictor(finder, precision=precision, device=device))
    elif finder == "selective-search":
        find = functools.partial(selective_search, max_boxes=count)
    else:
        find = finder
    opened = (open_data(data, split, allow_unlabelled=True) if isinstance(data, str) else data).only(frozenset())
    found = {}
    for index in range(len(opened)):
        name = opened.image_id(index)
        if name in found:
            raise UsageError(f"proposals: {opened.source} has two images {name!r}; a file of proposals needs names")
        found[name] = find(opened[index][0].as_subclass(Tensor))[:count]
        if tick is not None:
            tick(1)
    save_tensors_by_image(found, path)


def _found_by(predictor: Predictor) -> Callable[[Tensor], Tensor]:
    def find(image: Tensor) -> Tensor:
        boxes = predictor([image])[0].boxes
        assert boxes is not None
        return boxes

    return find
