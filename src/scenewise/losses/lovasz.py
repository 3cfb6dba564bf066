"""The Lovász extension of the intersection over union: losses whose value at 0 and 1 is 1 - IoU.

Berman, Rannen Triki and Blaschko, "The Lovász-Softmax loss: a tractable surrogate for the optimization of the
intersection-over-union measure in neural networks", CVPR 2018, https://arxiv.org/abs/1705.08790.

Shapes and targets as in ``base.py``; memberships are 0, 1 or ``IGNORE`` here. What ``overlap.py`` says of scopes and
several processes holds here, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenewise.losses.base import (
    Activation,
    Classes,
    Overlap,
    Scope,
    class_mean,
    grouped,
    is_memberships,
    judged,
    one_of,
    shares,
    wide,
)
from scenewise.types import IGNORE


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    scope: Scope = "batch",
    classes: Classes = "present",
    background: bool = True,
    activation: Activation | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The Lovász extension of one minus the intersection over union, of the errors |p - q|, averaged over classes.

    Equals 1 - IoU where the probabilities are 0 and 1.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        scope: pixels are ranked within the batch, or within each image.
        classes: the mean is over the classes that are in the truth of the scope, over all, or over those listed; the
            loss of an absent class is its largest probability.
        background: False leaves class 0 out of the mean.
        activation: None for the softmax of labels and the sigmoid of memberships.
        class_weights: [C]; makes the mean over classes a weighted one. 0 leaves a class out.

    Source: sec. 2 and 3.
    """
    scores, truth, counted = shares(logits, target, activation)
    # Pixels that don't count have the error 0: they come last and add nothing.
    errors = (scores - truth).abs()
    return _mean(errors, truth, counted, scope, classes, background, class_weights)


def lovasz_hinge(
    logits: Tensor,
    target: Tensor,
    *,
    scope: Scope = "batch",
    classes: Classes = "present",
    background: bool = True,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The Lovász extension of one minus the intersection over union, of the hinge errors max(0, 1 - z (2 p - 1)).

    Args:
        logits: [N,C,H,W], each class against the rest; or [N,H,W] for one class.
        target: [N,H,W]: labels, or 0, 1 and ``IGNORE`` where there is one class; or memberships [N,C,H,W].
        scope: pixels are ranked within the batch, or within each image.
        classes: as in :func:`lovasz_softmax`, for [N,C,H,W]. One class alone always counts: where it is absent, its
            largest error does.
        background: as in :func:`lovasz_softmax`.
        class_weights: [C]; as in :func:`lovasz_softmax`.

    Source: sec. 2.2.
    """
    logits = wide(logits)
    if logits.dim() == 3:
        logits, target, classes = logits[:, None], target[:, None], "all"
    if is_memberships(logits, target):
        counted = target != IGNORE
        truth = target.masked_fill(~counted, 0).to(logits)
    else:
        counted = (target != IGNORE)[:, None]
        labels = torch.arange(logits.shape[1], device=target.device)[:, None, None]
        truth = ((target[:, None] == labels) & counted).to(logits)
    errors = (1 - logits * (2 * truth - 1)).relu() * counted
    return _mean(errors, truth, counted, scope, classes, background, class_weights)


def _mean(
    errors: Tensor,
    truth: Tensor,
    counted: Tensor,
    scope: Scope,
    classes: Classes,
    background: bool,
    class_weights: Tensor | None,
) -> Tensor:
    """The mean over classes and groups of the extension at ``errors`` [N,C,H,W], 0 where nothing counts."""
    one_of("scope", scope, ("batch", "image"))
    some = counted.flatten(1).any(1)
    sizes = truth.sum((2, 3)) if scope == "image" else truth.sum((0, 2, 3))[None]  # [G,C]
    sums = Overlap(sizes, sizes, sizes, some if scope == "image" else some.any()[None])
    chosen = judged(sums, classes, background)
    losses = _lovasz(grouped(errors, scope)[chosen], grouped(truth, scope)[chosen])  # [K], K pairs of group and class
    return class_mean(torch.zeros_like(sizes).masked_scatter(chosen, losses), chosen, class_weights)


def _lovasz(errors: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss at ``errors`` [K,P] (0 or more) for K truths [K,P] of 0 and 1: [K].

    With the pixels sorted by falling error, each error counts by how much the Jaccard loss rises when its pixel joins
    the wrong ones before it. The rise in closed form (with T pixels in the truth, of which a are among the first k
    pixels, and b = k - a of the others) keeps its digits, where the difference of two nearly equal losses of millions
    of pixels would not: 1 / (T + b) for a pixel of the truth, (T - a) / ((T + b) (T + b - 1)) for another.
    """
    errors, order = errors.sort(dim=1, descending=True)
    member = truth.gather(1, order) > 0
    found = member.cumsum(1)  # a, exact in int64
    ranks = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    size = member.sum(1, keepdim=True)  # T
    union = (size + ranks - found).to(errors.dtype)
    other = (size - found) / (union * (union - 1).clamp(min=1))
    # The first pixel's rise is 1 / (T + b) in both cases, and defined for an empty truth, too.
    rises = torch.where(member | (ranks == 1), 1 / union, other)
    return (errors * rises).sum(1)
