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
from scenewise.losses.cross_entropy import answers
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
        terms = terms * class_weights.to(terms)[target.masked_fill(~counted, 0)]
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
    terms = sigmoid_focal(logits, truth.masked_fill(~counted, IGNORE), alpha=alpha, gamma=gamma)
    if norm == "pixels":
        count = mean_count(counted.sum())
    elif norm == "positives":
        count = mean_count(truth.sum()).clamp(min=1)
    else:
        count = mean_count((_power(_wrong(logits.detach(), truth), gamma) * counted).sum())
    return terms.sum() / count


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
    terms = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    terms = _power(_wrong(logits, truth), gamma) * terms
    if alpha is not None:
        terms = (alpha * truth + (1 - alpha) * (1 - truth)) * terms
    return terms * counted


def _wrong(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - q, the probability of the wrong answer; exact where q is nearly 1."""
    return truth * (-logits).sigmoid() + (1 - truth) * logits.sigmoid()


def _power(wrong: Tensor, gamma: float) -> Tensor:
    """``wrong``^gamma with a finite gradient: that of 0^gamma is infinite for gamma below 1."""
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma
