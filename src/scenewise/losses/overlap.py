"""Losses that compare areas: soft counts of the pixels of each class, and ratios of them (Jaccard, Dice, Tversky).

Shapes and targets as in ``base.py``. Labels are answered by the softmax of the logits. Memberships make each class a
question of its own, answered by the sigmoid of its logit; C = 1 is the binary case. ``activation`` chooses the other
one: with labels, ``"sigmoid"`` asks of each class whether it is there against the rest.

The sums run over the batch (``scope="batch"``) or over each image alone, with the mean over images (``scope="image"``).
Training in several processes gives means over images that equal those of one process with the joint batch. It can't
give the losses of a joint batch: with ``scope="batch"`` each process sums over its own images, and the mean over the
processes (that have pixels to count) is trained.
"""

from __future__ import annotations

from torch import Tensor

from scenewise.losses.base import Activation, Classes, Scope, class_mean, judged, overlap, ratio
from scenewise.losses.normalize import mean_count


def jaccard(
    logits: Tensor,
    target: Tensor,
    *,
    log: bool = False,
    squared: bool = False,
    smooth: float = 0.0,
    eps: float = 1e-7,
    scope: Scope = "batch",
    classes: Classes = "present",
    background: bool = True,
    activation: Activation | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """One minus the soft intersection over union, averaged over classes.

    For a class with probabilities q and truth p: IoU = (sum(q p) + smooth) / (sum(q + p - q p) + smooth).

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        log: -log(IoU) of each class in place of 1 - IoU.
        squared: q^2 and p^2 in place of q and p in the denominator.
        smooth: what is added above and below, in pixels.
        eps: with ``log``, the IoU is held above it.
        scope: sums over the batch, or over each image.
        classes: the mean is over the classes in the ground truth of the scope, over all, or over those listed. An
            absent class is trained towards 0 pixels only if ``smooth`` is above 0.
        background: False leaves class 0 out of the mean.
        activation: None for the softmax of labels and the sigmoid of memberships.
        class_weights: [C]; makes the mean over classes a weighted one. 0 leaves a class out.

    Source: Rahman and Wang, Optimizing intersection-over-union in deep neural networks, ISVC 2016; -log:
    Iglovikov et al., 2017, https://arxiv.org/abs/1706.06169.
    """
    sums = overlap(logits, target, scope, power=2 if squared else 1, activation=activation)
    iou = ratio(sums.hit, sums.called + sums.truth - sums.hit, smooth)
    losses = -iou.clamp(min=eps).log() if log else 1 - iou
    return class_mean(losses, judged(sums, classes, background), class_weights)


def dice(
    logits: Tensor,
    target: Tensor,
    *,
    squared: bool = False,
    smooth: float = 0.0,
    scope: Scope = "batch",
    classes: Classes = "present",
    background: bool = True,
    activation: Activation | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """One minus the soft Dice coefficient, averaged over classes.

    For a class with probabilities q and truth p: D = (2 sum(q p) + smooth) / (sum(q + p) + smooth).

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        squared: q^2 and p^2 in place of q and p in the denominator, as in V-Net.
        smooth: what is added above and below, in pixels.
        scope: sums over the batch, or over each image.
        classes: as in :func:`jaccard`.
        background: as in :func:`jaccard`.
        activation: as in :func:`jaccard`.
        class_weights: [C]; as in :func:`jaccard`.

    Source: Milletari, Navab and Ahmadi, V-Net, 3DV 2016, sec. 3 (squared); Drozdzal et al., The importance of skip
    connections in biomedical image segmentation, 2016 (linear).
    """
    sums = overlap(logits, target, scope, power=2 if squared else 1, activation=activation)
    losses = 1 - ratio(2 * sums.hit, sums.called + sums.truth, smooth)
    return class_mean(losses, judged(sums, classes, background), class_weights)


def generalized_dice(
    logits: Tensor,
    target: Tensor,
    *,
    power: float = 2.0,
    smooth: float = 0.0,
    scope: Scope = "batch",
    classes: Classes = "present",
    background: bool = True,
    activation: Activation | None = None,
) -> Tensor:
    """One minus one Dice coefficient of all classes, in which each is weighed by 1 / (its size)^power.

    With the weights w_c = 1 / sum(p_c)^power: D = (2 sum_c w_c sum(q_c p_c) + smooth) / (sum_c w_c sum(q_c + p_c) +
    smooth).

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        power: 2 as published; 1 is milder; 0 weighs all pixels alike.
        smooth: what is added above and below.
        scope: sums over the batch, or over each image.
        classes: those in the ground truth of the scope, all, or those listed. A class of less than a pixel is weighed
            as one of a pixel.
        background: False leaves class 0 out.
        activation: as in :func:`jaccard`.

    Source: Sudre et al., Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations, 2017, https://arxiv.org/abs/1707.03237.
    """
    sums = overlap(logits, target, scope, activation=activation)
    chosen = judged(sums, classes, background)
    weights = chosen / sums.truth.clamp(min=1) ** power  # [G,C]
    hit, both = ((weights * x).sum(1) for x in (2 * sums.hit, sums.called + sums.truth))  # [G]
    some = chosen.any(1)
    # Not clamped: the weights of large areas, and so the sums, are tiny themselves.
    losses = 1 - (hit + smooth) / (both + smooth + ~some)
    return (losses * some).sum() / mean_count(some.sum())


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 0.0,
    scope: Scope = "batch",
    classes: Classes = "present",
    background: bool = True,
    activation: Activation | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """One minus the Tversky index, averaged over classes: T = TP / (TP + alpha FP + beta FN), softly counted.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        alpha: the weight of false positives. alpha = beta = 0.5 is Dice, alpha = beta = 1 is Jaccard.
        beta: the weight of false negatives.
        gamma: the mean is of (1 - T)^(1 / gamma); 4/3 is the focal Tversky loss.
        smooth: what is added above and below, in pixels.
        scope: sums over the batch, or over each image.
        classes: as in :func:`jaccard`.
        background: as in :func:`jaccard`.
        activation: as in :func:`jaccard`.
        class_weights: [C]; as in :func:`jaccard`.

    Source: Salehi, Erdogmus and Gholipour, 2017, https://arxiv.org/abs/1706.05721; gamma: Abraham and Khan, 2018,
    https://arxiv.org/abs/1810.07842.
    """
    sums = overlap(logits, target, scope, activation=activation)
    wrong = alpha * (sums.called - sums.hit) + beta * (sums.truth - sums.hit)
    losses = 1 - ratio(sums.hit, sums.hit + wrong, smooth)
    if gamma != 1:
        losses = losses.clamp(min=1e-7) ** (1 / gamma)  # the gradient of 0^(1/gamma) is infinite
    return class_mean(losses, judged(sums, classes, background), class_weights)
