"""Losses for semantic segmentation; the focal loss is in ``focal.py``.

Shapes: N images, C classes, H x W pixels. ``logits`` are float [N,C,H,W], ``target`` is int64 [N,H,W] with 0..C-1 and
``IGNORE`` (255) where a pixel does not count. Every loss is a scalar, and 0 (with a gradient of zeros) where no pixel
counts. float16 and bfloat16 logits are taken to float32 first.

The overlap losses (Jaccard, Dice, Tversky, Lovász) also take memberships [N,C,H,W] of 0, 1 and ``IGNORE`` as their
target: each class is then a question of its own, answered by the sigmoid of its logit; C = 1 is the binary case. Their
sums run over the batch (``scope="batch"``) or over each image alone, with the mean over images (``scope="image"``).
Training in several processes gives means over pixels and over images that equal those of one process with the joint
batch. It can't give the overlap losses of a joint batch: with ``scope="batch"`` each process sums over its own images,
and the mean over the processes (that have pixels to count) is trained.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.normalize import mean_count
from scenewise.types import IGNORE

Scope = Literal["batch", "image"]
Classes = Literal["present", "all"]
TINY = 1e-12  # keeps 0 / 0 of classes that don't enter a mean, and their gradients, from being NaN


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    norm: Literal["weights", "pixels"] = "weights",
) -> Tensor:
    """The mean over counted pixels of -log softmax(logits)[target].

    Args:
        logits: [N,C,H,W].
        target: [N,H,W].
        class_weights: [C]; multiplies each pixel's term by the weight of its class.
        pixel_weights: [N,H,W]; multiplies each pixel's term; does not enter the denominator (U-Net, eq. 1 and 2).
        label_smoothing: in 0..1, the share of the target that is spread evenly over all classes.
        norm: what the sum is divided by where there are class weights: the class weights of the counted pixels, as in
            torch, or the number of counted pixels.
    """
    _check("norm", norm, ("weights", "pixels"))
    logits = _wide(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    terms = F.cross_entropy(
        logits, target, weight=weights, ignore_index=IGNORE, reduction="none", label_smoothing=label_smoothing
    )
    if pixel_weights is not None:
        terms = terms * pixel_weights
    counted = target != IGNORE
    if weights is None or norm == "pixels":
        count = counted.sum()
    else:
        count = (weights[target.masked_fill(~counted, 0)] * counted).sum()
    return terms.sum() / mean_count(count)


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
    networks, 2016, https://arxiv.org/abs/1604.04339.
    """
    with torch.no_grad():
        counted = target != IGNORE
        # The probability of each pixel's true class. It is 1 in void, which so comes last in the order.
        scores = torch.exp(-F.cross_entropy(_wide(logits), target, ignore_index=IGNORE, reduction="none"))
        rank = math.ceil(min_kept * int(counted.sum())) if isinstance(min_kept, float) else min_kept
        rank = min(rank, scores.numel())
        limit = scores.flatten().kthvalue(rank).values.clamp(min=threshold) if rank else threshold
        hard = counted & (scores <= limit)
    return cross_entropy(logits, target.masked_fill(~hard, IGNORE), class_weights=class_weights)


def jaccard(
    logits: Tensor,
    target: Tensor,
    *,
    log: bool = False,
    squared: bool = False,
    smooth: float = 0.0,
    scope: Scope = "batch",
    classes: Classes = "present",
    class_weights: Tensor | None = None,
) -> Tensor:
    """One minus the soft intersection over union, averaged over classes.

    For a class with probabilities q and truth p: IoU = (sum(q p) + smooth) / (sum(q + p - q p) + smooth).

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        log: -log(IoU) of each class in place of 1 - IoU, with the IoU held above 1e-7.
        squared: q^2 in place of q in the denominator.
        smooth: what is added above and below, in pixels.
        scope: sums over the batch, or over each image.
        classes: the mean is over the classes that are in the truth of the scope, or over all. An absent class is
            trained towards 0 pixels only if ``smooth`` is above 0.
        class_weights: [C]; makes the mean over classes a weighted one. 0 leaves a class out.

    Source: Rahman and Wang, Optimizing intersection-over-union in deep neural networks, ISVC 2016; -log:
    Iglovikov et al., 2017, https://arxiv.org/abs/1706.06169.
    """
    sums = _overlap(logits, target, scope, power=2 if squared else 1)
    iou = _ratio(sums.hit, sums.called + sums.truth - sums.hit, smooth)
    losses = -iou.clamp(min=1e-7).log() if log else 1 - iou
    return _mean(losses, sums, classes, class_weights)


def dice(
    logits: Tensor,
    target: Tensor,
    *,
    squared: bool = False,
    smooth: float = 0.0,
    scope: Scope = "batch",
    classes: Classes = "present",
    class_weights: Tensor | None = None,
) -> Tensor:
    """One minus the soft Dice coefficient, averaged over classes.

    For a class with probabilities q and truth p: D = (2 sum(q p) + smooth) / (sum(q + p) + smooth).

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        squared: q^2 in place of q in the denominator, as in V-Net.
        smooth: what is added above and below, in pixels.
        scope: sums over the batch, or over each image.
        classes: as in :func:`jaccard`.
        class_weights: [C]; as in :func:`jaccard`.

    Source: Milletari, Navab and Ahmadi, V-Net, 3DV 2016, sec. 3 (squared); Drozdzal et al., The importance of skip
    connections in biomedical image segmentation, 2016 (linear).
    """
    sums = _overlap(logits, target, scope, power=2 if squared else 1)
    return _mean(1 - _ratio(2 * sums.hit, sums.called + sums.truth, smooth), sums, classes, class_weights)


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
        class_weights: [C]; as in :func:`jaccard`.

    Source: Salehi, Erdogmus and Gholipour, 2017, https://arxiv.org/abs/1706.05721; gamma: Abraham and Khan, 2018,
    https://arxiv.org/abs/1810.07842.
    """
    sums = _overlap(logits, target, scope)
    wrong = alpha * (sums.called - sums.hit) + beta * (sums.truth - sums.hit)
    losses = 1 - _ratio(sums.hit, sums.hit + wrong, smooth)
    if gamma != 1:
        losses = losses.clamp(min=1e-7) ** (1 / gamma)  # the gradient of 0^(1/gamma) is infinite
    return _mean(losses, sums, classes, class_weights)


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    scope: Scope = "batch",
    classes: Classes = "present",
    class_weights: Tensor | None = None,
) -> Tensor:
    """The Lovász extension of one minus the intersection over union, averaged over classes.

    Equals 1 - IoU where the probabilities are 0 and 1.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W], or memberships [N,C,H,W].
        scope: pixels are ranked within the batch, or within each image.
        classes: the mean is over the classes that are in the truth of the scope, or over all; the loss of an absent
            class is its largest probability.
        class_weights: [C]; as in :func:`jaccard`.

    Source: Berman, Rannen Triki and Blaschko, The Lovász-Softmax loss, CVPR 2018, sec. 2 and 3.
    """
    scores, truth, counted = _shares(logits, target)
    # Pixels that don't count have the error 0: they come last and add nothing.
    sums = _summed(scores, truth, counted, scope)
    judged = sums.truth > 0 if classes == "present" else sums.counted[:, None].expand_as(sums.truth)  # [G,C]
    errors = _grouped((scores - truth).abs(), scope)[judged]  # [K,P], K pairs of a group and a class
    losses = _lovasz(errors, _grouped(truth, scope)[judged])
    return _mean(torch.zeros_like(sums.truth).masked_scatter(judged, losses), sums, classes, class_weights)


def lovasz_hinge(logits: Tensor, target: Tensor, *, scope: Scope = "batch") -> Tensor:
    """The Lovász extension of one minus the intersection over union, of the hinge errors max(0, 1 - z (2 p - 1)).

    For one class against the rest, with a logit z and a truth p a pixel.

    Args:
        logits: [N,H,W].
        target: [N,H,W], 0, 1 or ``IGNORE``.
        scope: pixels are ranked within the batch, or within each image.

    Source: Berman, Rannen Triki and Blaschko, The Lovász-Softmax loss, CVPR 2018, sec. 2.2.
    """
    counted = target != IGNORE
    truth = target.masked_fill(~counted, 0).to(_wide(logits))
    errors = (1 - logits * (2 * truth - 1)).relu() * counted
    groups = [x[:, None] for x in (errors, truth, counted)]
    losses = _lovasz(*(_grouped(x, scope)[:, 0] for x in groups[:2]))  # [G]
    judged = _grouped(groups[2], scope).any((1, 2))
    return (losses * judged).sum() / mean_count(judged.sum())


def total_variation(
    probabilities: Tensor,
    *,
    counted: Tensor | None = None,
    kind: Literal["anisotropic", "isotropic", "squared"] = "anisotropic",
    norm: Literal["images", "pairs"] = "images",
) -> Tensor:
    """How much ``probabilities`` change from pixel to pixel, summed over the classes; small for smooth maps.

    Args:
        probabilities: float [N,C,H,W].
        counted: bool [N,H,W]; differences that touch other pixels (padding) are left out. None: all pixels count.
        kind: the sum of |dx| + |dy|; of sqrt(dx^2 + dy^2 + 1e-12), where a pixel has both neighbours; or of
            dx^2 + dy^2.
        norm: divide by the number of images, or by the number of pairs of neighbours (of pixels, where isotropic).

    Source: Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 1992.
    """
    _check("kind", kind, ("anisotropic", "isotropic", "squared"))
    _check("norm", norm, ("images", "pairs"))
    q = _wide(probabilities)
    if counted is None:
        counted = torch.ones_like(q[:, 0], dtype=torch.bool)
    down, right = q.diff(dim=2), q.diff(dim=3)  # [N,C,H-1,W], [N,C,H,W-1]
    has_down = counted[:, 1:] & counted[:, :-1]
    has_right = counted[:, :, 1:] & counted[:, :, :-1]
    if kind == "isotropic":
        has_both = has_down[:, :, :-1] & has_right[:, :-1]  # [N,H-1,W-1]
        lengths = (down[..., :-1] ** 2 + right[:, :, :-1] ** 2 + 1e-12).sqrt()
        total, pairs = (lengths * has_both[:, None]).sum(), has_both.sum()
    else:
        sizes = [change.abs() if kind == "anisotropic" else change**2 for change in (down, right)]
        total = (sizes[0] * has_down[:, None]).sum() + (sizes[1] * has_right[:, None]).sum()
        pairs = has_down.sum() + has_right.sum()
    return total / mean_count(pairs if norm == "pairs" else len(q), device=q.device)


class _Overlap(NamedTuple):
    """Sums over the pixels of G groups: the whole batch, or each image."""

    hit: Tensor  # [G,C] of q p
    called: Tensor  # [G,C] of q, or of q^2
    truth: Tensor  # [G,C] of p
    counted: Tensor  # bool [G]: whether any pixel counts


def _overlap(logits: Tensor, target: Tensor, scope: Scope, power: int = 1) -> _Overlap:
    return _summed(*_shares(logits, target), scope, power)


def _shares(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities q and truths p [N,C,H,W], both 0 where nothing counts, and where it does: bool [N,C or 1,H,W]."""
    logits = _wide(logits)
    if target.dim() == logits.dim():
        counted = target != IGNORE
        scores, truth = logits.sigmoid(), target == 1
    else:
        counted = (target != IGNORE)[:, None]
        labels = torch.arange(logits.shape[1], device=target.device)
        scores, truth = logits.softmax(1), target[:, None] == labels[:, None, None]
    return scores * counted, (truth & counted).to(scores.dtype), counted


def _summed(scores: Tensor, truth: Tensor, counted: Tensor, scope: Scope, power: int = 1) -> _Overlap:
    """The sums over each group's pixels."""
    _check("scope", scope, ("batch", "image"))
    dims = (2, 3) if scope == "image" else (0, 2, 3)
    called = scores if power == 1 else scores**power
    hit, called, total = (x.sum(dims).view(-1, x.shape[1]) for x in (scores * truth, called, truth))
    return _Overlap(hit, called, total, counted.flatten(1).any(1) if scope == "image" else counted.any()[None])


def _grouped(maps: Tensor, scope: Scope) -> Tensor:
    """[N,C,H,W] as [G,C,P]: a row for each class of the batch, or of each image."""
    _check("scope", scope, ("batch", "image"))
    return maps.flatten(2) if scope == "image" else maps.transpose(0, 1).flatten(1)[None]


def _ratio(above: Tensor, below: Tensor, smooth: float) -> Tensor:
    return (above + smooth) / (below + smooth).clamp(min=TINY)


def _mean(losses: Tensor, sums: _Overlap, classes: Classes, class_weights: Tensor | None) -> Tensor:
    """The mean of ``losses`` [G,C] over the classes that are judged, then over the groups that have any."""
    _check("classes", classes, ("present", "all"))
    judged = sums.truth > 0 if classes == "present" else sums.counted[:, None].expand_as(losses)
    weights = judged.to(losses.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(losses)
    total = weights.sum(1)  # [G]
    groups = (weights * losses).sum(1) / total.clamp(min=TINY)
    return groups.sum() / mean_count((total > 0).sum())


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


def _wide(logits: Tensor) -> Tensor:
    """``logits`` as float32, or float64 if that is what they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")
