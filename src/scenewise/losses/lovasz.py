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
        classes: the mean is over the classes in the ground truth of the scope, over all, or over those listed; the
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
    the wrong ones before it. The rises follow from the order alone: they are the gradient.
    """
    with torch.no_grad():
        if errors.device.type == "cpu":  # row by row, each of which stays in the cache
            rises = torch.empty_like(errors)
            for row, error, members in zip(rises, errors, truth, strict=True):
                row.copy_(_rises(error[None], members[None])[0])
        else:
            rises = _rises(errors, truth)
    return (errors * rises).sum(1)


def _rises(errors: Tensor, truth: Tensor) -> Tensor:
    """[K,P]: how much the Jaccard loss rises with each pixel.

    In closed form (with T pixels in the truth, of which a are among the first k pixels, and b = k - a of the others)
    the rise keeps its digits, where the difference of two nearly equal losses of millions of pixels would not:
    1 / (T + b) for a pixel of the truth, (T - a) / ((T + b) (T + b - 1)) for another.
    """
    order = _descending(errors)
    member = truth.gather(1, order) > 0
    found = member.cumsum(1)  # a, exact in int64
    ranks = torch.arange(1, errors.shape[1] + 1, device=errors.device)
    size = found[:, -1:]  # T
    union = (size + ranks - found).to(errors.dtype)
    other = (size - found) / (union * (union - 1).clamp(min=1))
    # The first pixel's rise is 1 / (T + b) in both cases, and defined for an empty truth, too.
    rises = torch.where(member | (ranks == 1), 1 / union, other)
    return torch.empty_like(rises).scatter_(1, order, rises)


def _descending(errors: Tensor) -> Tensor:
    """int64 [K,P]: the order that sorts each row of ``errors`` (0 or more) from large to small; of equals the first.

    On the CPU, numpy sorts integers several times as fast as torch sorts floats with their indices. The bits of a
    float32 of 0 or more order as the number does; with the index below them they are one integer that tells both.
    """
    if errors.dtype != torch.float32 or errors.device.type != "cpu":
        return errors.sort(dim=1, descending=True, stable=True).indices
    # + 0.0 makes -0.0, whose bits are those of a negative number, 0.0
    bits = (errors + 0.0).contiguous().view(torch.int32).long()
    keys = (((1 << 31) - 1 - bits) << 32) | torch.arange(errors.shape[1])
    keys.numpy().sort(axis=1)
    return keys & ((1 << 32) - 1)
