"""Losses for semantic segmentation.

Shapes: N images, C classes, H x W pixels. ``logits`` are float [N,C,H,W], ``target`` is int64 [N,H,W] with 0..C-1 and
``IGNORE`` (255) where a pixel does not count. Every loss is a scalar, and 0 (with a gradient of zeros) where no pixel
counts. Overlap losses (Jaccard, Lovász) sum over the whole batch before they divide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.losses.normalize import mean_count
from scenewise.types import IGNORE


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean over counted pixels of -log softmax(logits)[target].

    Args:
        logits: [N,C,H,W].
        target: [N,H,W].
        class_weights: [C]; the mean is then weighted by the weights of the pixels' classes, as in torch.
        pixel_weights: [N,H,W]; multiplies each pixel's term; does not enter the denominator (U-Net, eq. 1 and 2).
        label_smoothing: in 0..1, the share of the target that is spread evenly over all classes.
    """
    terms = F.cross_entropy(
        logits.float(),
        target,
        weight=class_weights,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if pixel_weights is not None:
        terms = terms * pixel_weights
    counted = target != IGNORE
    if class_weights is None:
        count = counted.sum()
    else:
        count = class_weights[target.clamp(max=len(class_weights) - 1)][counted].sum()
    return terms.sum() / mean_count(count)


def jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft intersection over union, averaged over the classes present in ``target``.

    For a class with probabilities q and one-hot truth p: IoU = sum(q p) / sum(q + p - q p), over the batch.
    Source: Rahman and Wang, Optimizing intersection-over-union in deep neural networks, ISVC 2016.
    """
    probabilities, truth = _flat(logits, target)
    if truth.numel() == 0:
        return logits.sum() * 0
    onehot = F.one_hot(truth, logits.shape[1]).to(probabilities.dtype)  # [P,C]
    overlap = (probabilities * onehot).sum(0)
    union = (probabilities + onehot).sum(0) - overlap
    present = onehot.any(0)
    return 1 - (overlap[present] / union[present]).mean()


def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """The Lovász extension of one minus the intersection over union, averaged over the classes in ``target``.

    Source: Berman, Rannen Triki and Blaschko, The Lovász-Softmax loss, CVPR 2018, sec. 2 and 3.
    """
    probabilities, truth = _flat(logits, target)
    if truth.numel() == 0:
        return logits.sum() * 0
    terms = []
    for label in truth.unique().tolist():
        member = (truth == label).float()
        errors, order = (member - probabilities[:, label]).abs().sort(descending=True)
        terms.append(errors @ _jaccard_steps(member[order]))
    return torch.stack(terms).mean()


def _jaccard_steps(member: Tensor) -> Tensor:
    """The rise of the Jaccard loss as the pixels, sorted by falling error, are counted as wrong one by one. [P]"""
    total = member.sum()
    loss = 1 - (total - member.cumsum(0)) / (total + (1 - member).cumsum(0))
    return torch.cat([loss[:1], loss[1:] - loss[:-1]])


def _flat(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities [P,C] and truths [P] of the P pixels that count."""
    counted = target != IGNORE
    return logits.float().softmax(1).permute(0, 2, 3, 1)[counted], target[counted]
