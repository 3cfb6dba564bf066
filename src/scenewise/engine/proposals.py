"""Proposals of a whole data set, written to a file that systems such as Fast R-CNN take them from."""

from __future__ import annotations

from pathlib import Path

import torch

from scenewise.data import DataSet, open_data
from scenewise.data.proposals import save_proposals
from scenewise.engine.evaluate import Tick
from scenewise.engine.predict import Precision, Predictor
from scenewise.errors import UsageError
from scenewise.model import Model


def write_proposals(
    model: Model,
    data: str | DataSet,
    split: str,
    path: str | Path,
    *,
    count: int = 2000,
    precision: Precision = "32",
    device: torch.device | str | None = None,
    tick: Tick | None = None,
) -> None:
    """Write the boxes that ``model`` finds in each image of a data set to ``path``.

    Args:
        model: one that fills ``boxes``, best first, such as ``rpn``.
        data: a ``format:path`` string, or an open data set.
        split: which part of it, where ``data`` is a string.
        path: a safetensors file; see :mod:`scenewise.data.proposals`.
        count: at most so many boxes an image.
        precision, device: see :class:`~scenewise.engine.predict.Predictor`.
        tick: called with the number of images done since its last call.

    Raises:
        UsageError: the model finds no boxes, or two images have one name.
    """
    if "boxes" not in model.fills:
        raise UsageError(f"proposals: the model fills {', '.join(sorted(model.fills))}; expected one that fills boxes")
    opened = (open_data(data, split) if isinstance(data, str) else data).only(frozenset())
    predictor = Predictor(model, precision=precision, device=device)
    found = {}
    for index in range(len(opened)):
        name = opened.image_id(index)
        if name in found:
            raise UsageError(f"proposals: {opened.source} has two images {name!r}; a file of proposals needs names")
        boxes = predictor([opened[index][0].as_subclass(torch.Tensor)])[0].boxes
        assert boxes is not None
        found[name] = boxes[:count]
        if tick is not None:
            tick(1)
    save_proposals(found, path)
