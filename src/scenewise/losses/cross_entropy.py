"""Losses that are means over pixels, whatever their class; the focal losses are in ``focal.py``.

Shapes and targets as in ``base.py``. Frequent classes dominate such a mean; ``class_weights`` balance it, counted over
the training set (``class_weights.py``) or, in :func:`balanced_cross_entropy`, over the batch.

Training in several processes gives means that equal those of one process with the joint batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.base import is_memberships, wide
from scenewise.losses.class_weights import WeightMode, label_counts, weights_of_counts
from scenewise.losses.normalize import Norm, divisor, total_over_processes
from scenewise.ops.edge_weights import band_weights, edge_weights
from scenewise.types import IGNORE


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    norm: Norm = "weights",
) -> Tensor:
    """The mean over counted pixels of -log softmax(logits)[target].

    Args:
        logits: [N,C,H,W].
        target: [N,H,W]; or the shares p of the classes [N,C,H,W], which sum to 1 in each pixel: then it is the mean of
            -sum(p log softmax(logits)), and a pixel counts where no class of it is ``IGNORE``.
        class_weights: [C]; multiplies each pixel's term by the weight of its class.
        pixel_weights: [N,H,W]; multiplies each pixel's term. Enters the denominator with ``"all-weights"`` alone (in
            U-Net, eq. 1 and 2, it does not).
        label_smoothing: in 0..1, the share of the target that is spread evenly over all classes.
        norm: what the sum is divided by: ``"weights"``, the class weights of the counted pixels, as in torch;
            ``"pixels"``, their number; ``"all-weights"``, their class weights times pixel weights; ``"images"``, the
            number of images; ``"none"``, nothing.
    """
    logits = wide(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    if is_memberships(logits, target):
        counted = (target != IGNORE).all(1)
        truth = target.masked_fill(~counted[:, None], 0).to(logits)
        of_pixels = None if weights is None else (truth * weights[:, None, None]).sum(1)
        terms = F.cross_entropy(logits, truth, weight=weights, reduction="none", label_smoothing=label_smoothing)
        terms = terms * counted  # smoothing spreads over pixels that don't count, too
    else:
        counted = target != IGNORE
        of_pixels = None if weights is None else weights_of_labels(weights, target)
        reduction = "sum" if pixel_weights is None else "none"  # the sum is the faster one
        terms = F.cross_entropy(
            logits, target, weight=weights, ignore_index=IGNORE, reduction=reduction, label_smoothing=label_smoothing
        )
    if pixel_weights is not None:
        terms = terms * pixel_weights
    return terms.sum() / divisor(norm, counted, of_pixels, pixel_weights)


def weights_of_labels(class_weights: Tensor, target: Tensor) -> Tensor:
    """The weight [N,H,W] of each pixel's class; of no meaning where a pixel does not count."""
    table = F.pad(class_weights, (0, max(0, IGNORE + 1 - len(class_weights))))
    return table.index_select(0, target.flatten()).view_as(target)


def balanced_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    mode: WeightMode = "median",
    beta: float = 0.9999,
    clip: tuple[float, float] | None = None,
    label_smoothing: float = 0.0,
    norm: Norm = "weights",
) -> Tensor:
    """The cross-entropy with class weights that follow from the labels of the batch.

    Weights that are counted once over the training set (``data.class_weights`` in a recipe) vary less.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W].
        mode: as in :func:`~scenewise.losses.class_weights.class_weights`; the counts are those of the joint batch.
        beta: for ``"effective"``.
        clip: the lowest and the highest weight of classes that occur.
        label_smoothing: as in :func:`cross_entropy`.
        norm: as in :func:`cross_entropy`.

    Source: Eigen and Fergus, ICCV 2015, sec. 4.3 (median frequency); Cui et al., CVPR 2019 (effective).
    """
    pixels, image_pixels = (total_over_processes(x) for x in label_counts(target, logits.shape[1]))
    weights = weights_of_counts(pixels, image_pixels, mode, beta=beta, clip=clip)
    return cross_entropy(logits, target, class_weights=weights, label_smoothing=label_smoothing, norm=norm)


def edge_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    band: float | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    norm: Norm = "weights",
) -> Tensor:
    """The cross-entropy in which pixels near a border between classes weigh more.

    The weight is 1 + w0 exp(-d^2 / (2 sigma^2)), d being the distance to the nearest pixel of another class, which is 1
    at the border itself; with ``band``, it is 1 + w0 where d is at most that. Void is no class.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W].
        w0: how much the border weighs beyond 1.
        sigma: in pixels, how fast that falls with the distance.
        band: in pixels; None for the smooth weight.
        class_weights: [C]; as in :func:`cross_entropy`.
        label_smoothing: as in :func:`cross_entropy`.
        norm: as in :func:`cross_entropy`; ``"all-weights"`` keeps the loss in the range of the plain one.

    The distances are computed on the CPU. Source: after Ronneberger, Fischer and Brox, U-Net, MICCAI 2015, eq. 2, whose
    own weights, of the gaps between objects, are U-Net's ``border_weight``.
    """
    if band is None:
        weights = edge_weights(target, w0=w0, sigma=sigma)
    else:
        weights = band_weights(target, w0=w0, band=band)
    return cross_entropy(
        logits,
        target,
        class_weights=class_weights,
        pixel_weights=weights.to(wide(logits)),
        label_smoothing=label_smoothing,
        norm=norm,
    )


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    positive_weight: float = 1.0,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    norm: Norm = "weights",
) -> Tensor:
    """The mean over pixels and classes of the cross-entropy of the sigmoid: each class is a question of its own.

    Args:
        logits: [N,C,H,W]; C = 1 is the binary case.
        target: [N,H,W], each class against the rest; or memberships [N,C,H,W].
        positive_weight: multiplies the terms of memberships (in proportion, where they are between 0 and 1).
        class_weights: [C]; multiplies the terms of each class.
        pixel_weights: [N,H,W].
        norm: as in :func:`cross_entropy`, where a pixel counts once per class.
    """
    logits = wide(logits)
    counted, truth = answers(logits, target)
    of_class = None if class_weights is None else class_weights.to(logits)[:, None, None].expand_as(logits)
    of_pixels = None if pixel_weights is None else pixel_weights.to(logits)[:, None].expand_as(logits)
    weights = counted.to(logits)
    for further in (of_class, of_pixels):
        if further is not None:
            weights.mul_(further)
    positive = None if positive_weight == 1 else logits.new_tensor(positive_weight)
    terms = F.binary_cross_entropy_with_logits(logits, truth, weights, reduction="sum", pos_weight=positive)
    return terms / divisor(norm, counted, of_class, of_pixels)


def answers(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where each class of each pixel counts, bool [N,C,H,W]; and whether it is there, in 0..1 (0 where not counted)."""
    if is_memberships(logits, target):
        counted = target != IGNORE
        return counted, target.masked_fill(~counted, 0).to(logits)
    counted = (target != IGNORE)[:, None]
    truth = torch.zeros_like(logits)
    truth.scatter_(1, target[:, None].masked_fill(~counted, 0), counted.to(logits))
    return counted.expand_as(logits), truth


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.6,
    min_kept: int | float = 256,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The cross-entropy of the hard pixels: those whose true class has a probability of at most ``threshold``.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W].
        threshold: 0..1; it rises until ``min_kept`` pixels are kept. 0 keeps just the hardest ``min_kept``.
        min_kept: how many pixels of the batch (of this process) are kept at least, or all where fewer count: a number,
            or, as a float in 0..1, a share of the counted pixels.
        class_weights: [C]; as in :func:`cross_entropy`. They don't decide which pixels are hard.

    Source: Wu, Shen and van den Hengel, High-performance semantic segmentation using very deep fully convolutional
    networks, 2016, https://arxiv.org/abs/1604.04339; the hardest K: https://arxiv.org/abs/1605.06885.
    """
    if min_kept < 0 or (isinstance(min_kept, float) and min_kept > 1):
        raise UsageError(f"min_kept is {min_kept}; expected a number of pixels, or a share from 0.0 to 1.0")
    terms = F.cross_entropy(wide(logits), target, ignore_index=IGNORE, reduction="none")
    with torch.no_grad():
        counted = target != IGNORE
        scores = torch.exp(-terms)  # the true class' probability; 1 in void, which so comes last in the order
        rank = math.ceil(min_kept * int(counted.sum())) if isinstance(min_kept, float) else min_kept
        rank = min(rank, scores.numel())
        limit = scores.flatten().kthvalue(rank).values.clamp(min=threshold) if rank else threshold
        hard = counted & (scores <= limit)
    of_pixels = None
    if class_weights is not None:
        of_pixels = weights_of_labels(class_weights.to(terms), target)
        terms = terms * of_pixels
    return (terms * hard).sum() / divisor("weights", hard, of_pixels)
