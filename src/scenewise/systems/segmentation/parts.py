"""What all segmentation systems do alike: from logits to losses, and from logits to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.losses import segmentation as losses
from scenewise.types import Batch, Prediction

LossName = Literal["cross-entropy", "jaccard", "lovasz"]


class SegmentationLoss(nn.Module):
    """The weighted terms of a segmentation loss.

    Args:
        terms: the weight of each term, by its name.
        classes: their number.
        class_weights: the weight of each class in the cross-entropy, or None for equal weights.
    """

    def __init__(self, terms: Mapping[LossName, float], classes: int, class_weights: tuple[float, ...] | None) -> None:
        super().__init__()
        if class_weights is not None and len(class_weights) != classes:
            raise UsageError(f"class_weights has {len(class_weights)} numbers; expected one for each of {classes} classes")
        self.terms = dict(terms)
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The weighted terms for ``logits`` [N,C,H,W] and ``target`` [N,H,W]."""
        result = {}
        for name, weight in self.terms.items():
            if name == "cross-entropy":
                value = losses.cross_entropy(logits, target, class_weights=self.class_weights)
            elif name == "jaccard":
                value = losses.jaccard(logits, target)
            else:
                value = losses.lovasz_softmax(logits, target)
            result[name] = weight * value
        return result


def predictions(logits: Tensor, batch: Batch, classes: tuple[str, ...]) -> list[Prediction]:
    """One prediction an image from ``logits`` [N,C,H,W] at the size of the batch's canvas, the padding cut off."""
    return [
        Prediction(size=(h, w), classes=classes, semantic_logits=row[:, :h, :w].float())
        for row, (h, w) in zip(logits, batch.sizes, strict=True)
    ]
