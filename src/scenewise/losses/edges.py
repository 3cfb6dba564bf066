"""Losses for boundary maps, in which few pixels are positive.

Shapes: N images, C kinds of boundary (1 where they have no class), H x W pixels. ``logits`` are float [N,C,H,W];
``target`` is [N,C,H,W]: 0 to 1, the share of annotators that drew a boundary there, or ``IGNORE``; NaN is ignored, too.
Every loss is a scalar, and 0 (with a gradient of zeros) where no pixel counts. Means over images equal, in several
processes, those of one process with the joint batch.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.base import one_of, wide
from scenewise.losses.normalize import mean_count


def balanced_edges(
    logits: Tensor,
    target: Tensor,
    *,
    positive: float = 0.5,
    negative: float | None = None,
    balance: Literal["map", "image", "batch"] = "map",
    norm: Literal["images", "pixels"] = "images",
) -> Tensor:
    """The class-balanced cross-entropy of boundary maps: beta sum_{y=1} -log p + (1 - beta) sum_{y=0} -log(1 - p).

    Args:
        logits: [N,C,H,W].
        target: [N,C,H,W], or [N,H,W] where C is 1.
        positive: pixels whose target is at least so much are boundary, y = 1.
        negative: pixels whose target is at most so much are not, y = 0, and those in between are ignored. None: all
            pixels below ``positive``.
        balance: what beta is the share of. ``"map"``: of the negatives among the pixels of the map, one beta for each
            image and kind; ``"image"``: of the pixels of the image that are no boundary of any kind (and count for all
            kinds); ``"batch"``: of the negatives in the batch of this process, of all kinds.
        norm: the sum over pixels and kinds is divided by the number of ``"images"``, as published (learning rates near
            1e-6 go with it), or of counted ``"pixels"``, a kind of a pixel being one.

    A map without positives has beta 1: its negatives weigh nothing.

    Source: Xie and Tu, Holistically-nested edge detection, ICCV 2015, https://arxiv.org/abs/1504.06375, eq. 2
    (``"map"``); Yu et al., CASENet, CVPR 2017, https://arxiv.org/abs/1705.09759, eq. 1 (``"image"``).
    """
    one_of("balance", balance, ("map", "image", "batch"))
    one_of("norm", norm, ("images", "pixels"))
    logits = wide(logits)
    counted, truth = decided(logits, target, positive, negative)
    mask = counted.to(logits)
    whole, positives = mask.sum((2, 3)), truth.sum((2, 3))  # [N,C]; exact below 2^24 pixels
    if balance == "map":
        beta = _share(whole - positives, whole)[:, :, None, None]
    elif balance == "image":
        known = counted.all(1)
        beta = _share((known & (truth == 0).all(1)).sum((1, 2)), known.sum((1, 2)))[:, None, None, None]
    else:
        beta = _share((whole - positives).sum(), whole.sum())
    beta = beta.to(logits)
    weights = ((2 * beta - 1) * truth).add_(1 - beta).mul_(mask)  # beta where 1, 1 - beta where 0
    terms = F.binary_cross_entropy_with_logits(logits, truth, weight=weights, reduction="sum")
    return terms / (mean_count(len(logits), logits.device) if norm == "images" else mean_count(whole.sum()))


def edge_dice(logits: Tensor, target: Tensor, *, positive: float = 0.5, negative: float | None = None) -> Tensor:
    """The inverse of the Dice coefficient of boundary maps, (sum(q^2) + sum(p^2)) / (2 sum(q p)); 1 at best.

    The mean over the maps (of each image and kind) that have a positive pixel; the others have no such ratio.

    Args:
        logits: [N,C,H,W]; q is their sigmoid.
        target: [N,C,H,W], or [N,H,W] where C is 1.
        positive: as in :func:`balanced_edges`.
        negative: as in :func:`balanced_edges`.

    Source: Deng et al., Learning to predict crisp boundaries, ECCV 2018, https://arxiv.org/abs/1807.10097, eq. 4.
    """
    logits = wide(logits)
    counted, truth = decided(logits, target, positive, negative)
    scores = logits.sigmoid() * counted
    hit, called, total = (x.sum((2, 3)) for x in (scores * truth, scores**2, truth))  # [N,C]
    some = total > 0
    # An untrained net may give the positives a probability of 0 in float32; the loss stays finite.
    ratios = (called + total) / (2 * hit.masked_fill(~some, 1)).clamp(min=1e-6)
    return (ratios * some).sum() / mean_count(some.sum())


def decided(logits: Tensor, target: Tensor, positive: float, negative: float | None) -> tuple[Tensor, Tensor]:
    """Which pixels count, bool [N,C,H,W], and which are boundary, 0 or 1 [N,C,H,W].

    Raises:
        UsageError: ``negative`` is not below ``positive``, or the shapes don't fit.
    """
    if negative is not None and not negative < positive:
        raise UsageError(f"negative is {negative} and positive {positive}; expected negative below positive")
    if target.dim() == logits.dim() - 1:
        target = target[:, None]
    if target.shape != logits.shape:
        raise UsageError(f"the target is {list(target.shape)}; expected {list(logits.shape)}, as the logits are")
    counted = target <= 1  # neither IGNORE nor NaN is
    truth = (target >= positive) & counted
    if negative is not None:
        counted = counted & (truth | (target <= negative))
    return counted, truth.to(logits)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """``part`` / ``whole``, exact to float64; 0 where nothing counts."""
    return part.double() / whole.clamp(min=1)
