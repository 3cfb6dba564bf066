"""The focal loss: cross-entropy that cares less about what is already right.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002, sec. 3.
:func:`focal` is for pixels of exactly one class each; :func:`binary_focal` for pixels of which each class is a question
of its own; :func:`sigmoid_focal` for independent yes-or-no scores of any shape, such as the anchors of a detector.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.losses.base import one_of, wide
from scenewise.losses.cross_entropy import answers, weights_of_labels
from scenewise.losses.normalize import mean_count
from scenewise.types import IGNORE


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    normalized: bool = False,
) -> Tensor:
    """The mean over counted pixels of -(1 - q)^gamma log q, q = softmax(logits)[target]; a scalar.

    Args:
        logits: [N,C,H,W].
        target: int64 [N,H,W], 0..C-1 or ``IGNORE``.
        gamma: 0 gives the cross-entropy.
        class_weights: [C], the paper's alpha; multiplies each pixel's term and does not enter the denominator.
        normalized: divide by the sum of the factors (1 - q)^gamma instead of the number of pixels, so that the loss
            does not fade as pixels turn right. No gradient flows through the divisor.
    """
    logits = wide(logits)
    terms = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")  # -log q, 0 where nothing counts
    factors = _power(-torch.expm1(-terms), gamma)
    counted = target != IGNORE
    count = (factors * counted).sum() if normalized else counted.sum()
    terms = factors * terms
    if class_weights is not None:
        terms = terms * weights_of_labels(class_weights.to(terms), target)
    return terms.sum() / mean_count(count)


def binary_focal(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    norm: Literal["pixels", "positives", "factors"] = "pixels",
) -> Tensor:
    """:func:`sigmoid_focal` of each class of each pixel, summed up and divided; a scalar.

    Args:
        logits: [N,C,H,W]; C = 1 is the binary case.
        target: [N,H,W], each class against the rest, with 0..C-1 or ``IGNORE``; or memberships [N,C,H,W].
        alpha: the weight of the positives, 0..1; the negatives have 1 - alpha. None weighs both with 1.
        gamma: 0 gives the binary cross-entropy.
        norm: what the sum is divided by: ``"pixels"``, the number of terms, a class of a pixel being one;
            ``"positives"``, the number of positives, at least 1, as detectors do; ``"factors"``, the sum of the factors
            (1 - q)^gamma, through which no gradient flows.
    """
    one_of("norm", norm, ("pixels", "positives", "factors"))
    logits = wide(logits)
    counted, truth = answers(logits, target)
    total = (_factors(logits, truth, gamma) * _terms(logits, truth, counted, alpha)).sum()
    if norm == "pixels":
        return total / mean_count(counted.sum())
    if norm == "positives":
        return total / mean_count(truth.sum()).clamp(min=1)
    return total / mean_count((_factors(logits.detach(), truth, gamma) * counted).sum())


def sigmoid_focal(logits: Tensor, target: Tensor, *, alpha: float | None = 0.25, gamma: float = 2.0) -> Tensor:
    """-a (1 - q)^gamma log q of every element, q being the probability that it gives to its own answer.

    q = sigmoid(logits) and a = alpha where the target is 1; q = 1 - sigmoid(logits) and a = 1 - alpha where it is 0.

    Args:
        logits: [...].
        target: [...], 0 to 1; elements that are ``IGNORE`` give 0.
        alpha: the weight of the positives, 0..1; the negatives have 1 - alpha. None weighs both with 1.
        gamma: 0 gives the binary cross-entropy.

    Returns:
        [...], not reduced: a detector divides the sum by its number of positives, see
        :func:`~scenewise.losses.normalize.mean_count`. Equals ``torchvision.ops.sigmoid_focal_loss``.
    """
    logits = wide(logits)
    counted = target != IGNORE
    truth = target.masked_fill(~counted, 0).to(logits)
    return _factors(logits, truth, gamma) * _terms(logits, truth, counted, alpha)


def _terms(logits: Tensor, truth: Tensor, counted: Tensor, alpha: float | None) -> Tensor:
    """-a log q, 0 where nothing counts."""
    if alpha is None:
        weights = counted.to(logits)
    else:  # alpha where the truth is 1, 1 - alpha where it is 0
        weights = (truth * (2 * alpha - 1)).add_(1 - alpha).mul_(counted)
    return F.binary_cross_entropy_with_logits(logits, truth, weights, reduction="none")


def _factors(logits: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """(1 - q)^gamma, exact where q is nearly 1."""
    return _power(torch.lerp(logits.sigmoid(), (-logits).sigmoid(), truth), gamma)


def _power(wrong: Tensor, gamma: float) -> Tensor:
    """``wrong``^gamma with a finite gradient: that of 0^gamma is infinite for gamma below 1."""
    return wrong**gamma if gamma >= 1 else wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma
