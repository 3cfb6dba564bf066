"""What all segmentation systems do alike: from logits to losses, and from logits to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor

from scenewise.losses.table import read_terms
from scenewise.losses.weighted import WeightedLoss
from scenewise.types import Batch, Output


def _checked(terms: Any) -> Any:
    read_terms(terms, "class maps")
    return terms


# The argument ``loss`` of a segmentation system; recipes are checked by it before anything is built.
LossTerms = Annotated[Mapping[str, float | Mapping[str, Any]], BeforeValidator(_checked)]

CROSS_ENTROPY: LossTerms = {"cross-entropy": 1.0}  # the usual default


class SegmentationLoss(WeightedLoss):
    """The weighted terms of a segmentation loss, such as ``{"cross-entropy": 1.0, "dice": 0.5}``.

    Args:
        terms: the weight of each loss by its name, or a mapping of ``weight`` and the loss's own parameters; see
            :mod:`scenewise.losses.table`.
        classes: their number.
        class_weights: the weight of each class in the losses that are means over pixels (cross-entropy, focal, ohem),
            or None for equal weights. The overlap losses weigh all classes alike.

    Raises:
        UsageError: a loss, its weight or a parameter does not fit; or not one class weight per class.
    """

    def __init__(self, terms: LossTerms, classes: int, class_weights: tuple[float, ...] | None) -> None:
        super().__init__(terms, "class maps", classes=classes, class_weights=class_weights)

    def forward(  # type: ignore[override]
        self,
        logits: Tensor,
        target: Tensor,
        batch: Batch | None = None,
        *,
        of_term: Mapping[str, Mapping[str, Tensor | None]] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            logits: [N,C,H,W] of the canvas' size.
            target: [N,H,W].
            batch: what the target is of: terms that look at unlabelled pixels (total-variation) need its images, and
                the sizes that tell them from padding. None: all pixels are in the images.
            of_term: further arguments of single terms, by the term's name. They take the place of others.
        """
        inputs = None
        if batch is not None and any({"inside", "image"} & term.accepted for term in self.terms.values()):
            inputs = {"inside": _inside(batch), "image": batch.images}
        return super().forward(logits, target, inputs=inputs, of_term=of_term)


def _inside(batch: Batch) -> Tensor | None:
    """bool [N,H,W]: the pixels that are no padding; None for all."""
    if not batch.padded:
        return None
    sizes = torch.tensor(batch.sizes, device=batch.images.device)  # [N,2]
    rows, columns = (torch.arange(n, device=sizes.device) for n in batch.images.shape[-2:])
    return (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])


def outputs(logits: Tensor, batch: Batch) -> list[Output]:
    """One output per image from ``logits`` [N,C,H,W] at the size of the batch's canvas, the padding cut off."""
    return [
        Output(size=(h, w), semantic_logits=row[:, :h, :w].float())
        for row, (h, w) in zip(logits, batch.sizes, strict=True)
    ]
