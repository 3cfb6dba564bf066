"""Proposals from outside the network: those that come with the images, or selective search's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.ops.selective_search import Mode, selective_search
from scenewise.types import STRICT, Batch, Count, Weight


@dataclass(frozen=True)
class SearchSpec:
    """How selective search looks for proposals in images that come without.

    Attributes:
        mode: ``"fast"``, or ``"quality"`` for about five times as many boxes.
        max_boxes: of an image, the most promising ones; None for all.
        width: images are resized to this width for the search; None for their own.
        min_side: boxes with a shorter side are dropped, in pixels of the resized image.
        seed: of the order within a level of the hierarchy.
    """

    __pydantic_config__ = STRICT
    mode: Mode = "fast"
    max_boxes: Count | None = 2000
    width: Count | None = 500
    min_side: Weight = 20.0
    seed: int = 0


def proposals_of(batch: Batch, spec: SearchSpec) -> list[Tensor]:
    """N times boxes [P,4] that may hold an object, P at least 1, on the device of the batch.

    Those in ``batch.inputs`` where there are any, else what selective search finds in each image, up to some seconds
    a photograph. Where there is no box at all, it is that of the whole image.
    """
    given = batch.inputs.get("proposals", [])
    if given and len(given) != len(batch):
        raise UsageError(f"{len(given)} of {len(batch)} images come with proposals; expected all of them or none")
    found = []
    for i, (height, width) in enumerate(batch.sizes):
        boxes = given[i] if given else _search(batch.images[i, :, :height, :width], spec)
        whole = torch.tensor([[0.0, 0.0, width, height]])
        found.append((boxes if len(boxes) else whole).to(batch.images.device, torch.float32))
    return found


@torch.no_grad()
def _search(image: Tensor, spec: SearchSpec) -> Tensor:
    return selective_search(
        image, mode=spec.mode, max_boxes=spec.max_boxes, width=spec.width, min_side=spec.min_side, seed=spec.seed
    )
