"""What all segmentation systems do alike: from logits to losses, and from logits to predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError, suggest
from scenewise.losses.focal import focal
from scenewise.losses.segmentation import cross_entropy, dice, jaccard, lovasz_softmax, ohem_cross_entropy, tversky
from scenewise.types import Batch, Output

LossName = Literal["cross-entropy", "focal", "ohem", "jaccard", "dice", "tversky", "lovasz"]

PIXEL_LOSSES: dict[LossName, Callable[..., Tensor]] = {  # a mean over pixels, in which frequent classes dominate
    "cross-entropy": cross_entropy,
    "focal": focal,
    "ohem": ohem_cross_entropy,
}
OVERLAP_LOSSES: dict[LossName, Callable[..., Tensor]] = {  # a mean over classes, which weigh alike by their nature
    "jaccard": jaccard,
    "dice": dice,
    "tversky": tversky,
    "lovasz": lovasz_softmax,
}
LOSSES = {**PIXEL_LOSSES, **OVERLAP_LOSSES}


class SegmentationLoss(nn.Module):
    """The weighted terms of a segmentation loss, such as ``{"cross-entropy": 1.0, "dice": 0.5}``.

    Args:
        terms: the weight of each term, by its name; each loss is taken with its own defaults.
        classes: their number.
        class_weights: the weight of each class in the losses that are means over pixels (cross-entropy, focal, ohem),
            or None for equal weights. The overlap losses weigh all classes alike.

    Raises:
        UsageError: there is no loss of that name, or not one class weight a class.
    """

    def __init__(self, terms: Mapping[LossName, float], classes: int, class_weights: tuple[float, ...] | None) -> None:
        super().__init__()
        for name in terms:
            if name not in LOSSES:
                raise UsageError(f"loss: there is no {name!r}{suggest(name, LOSSES)}; known: {', '.join(LOSSES)}")
        if class_weights is not None and len(class_weights) != classes:
            raise UsageError(
                f"class_weights has {len(class_weights)} numbers; expected one for each of {classes} classes"
            )
        self.terms = dict(terms)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The weighted terms for ``logits`` [N,C,H,W] and ``target`` [N,H,W]."""
        weighted = {"class_weights": self.class_weights}
        return {
            name: weight * LOSSES[name](logits, target, **(weighted if name in PIXEL_LOSSES else {}))
            for name, weight in self.terms.items()
        }


def outputs(logits: Tensor, batch: Batch) -> list[Output]:
    """One output per image from ``logits`` [N,C,H,W] at the size of the batch's canvas, the padding cut off."""
    return [
        Output(size=(h, w), semantic_logits=row[:, :h, :w].float())
        for row, (h, w) in zip(logits, batch.sizes, strict=True)
    ]
