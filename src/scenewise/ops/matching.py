"""Which anchors or proposals stand for which object, and which of them a loss sees.

Shapes: G ground-truth objects, A anchors or proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenewise.ops.boxes import nms

BELOW = -1  # overlaps no object enough: background
BETWEEN = -2  # neither object nor background: no loss


def match(iou: Tensor, positive: float, negative: float, *, force: bool = True) -> Tensor:
    """The object that each anchor is to learn.

    Args:
        iou: [G,A].
        positive: an anchor with at least this IoU takes the object that it overlaps most (of equals the first).
        negative: an anchor whose largest IoU is below this is :data:`BELOW`; the others are :data:`BETWEEN`.
        force: for each object, the anchors that overlap it most, all of them where several are equal, are taken out of
            the background, so that no object goes unlearned.

    Returns:
        int64 [A]: the object's index, BELOW or BETWEEN. Without objects all are BELOW.

    A forced anchor takes the object that *it* overlaps most, which need not be the one that forced it. So do Detectron
    and torchvision, whose ``Matcher`` this equals but for one case: an object that overlaps no anchor forces none here;
    there, all anchors overlap it equally, by 0, and all become positive.
    Source: Ren et al., "Faster R-CNN", NIPS 2015, sec. 3.1.2.
    """
    count, anchors = iou.shape
    if count == 0 or anchors == 0:
        return torch.full((anchors,), BELOW, dtype=torch.int64, device=iou.device)
    best, matches = iou.max(dim=0)
    labels = torch.where(best >= positive, matches, BETWEEN)
    labels[best < negative] = BELOW
    if force:
        largest = iou.amax(dim=1, keepdim=True)  # [G,1]
        forced = ((iou == largest) & (largest > 0)).any(dim=0)
        labels = torch.where(forced, matches, labels)
    return labels


def sample_balanced(
    matches: Tensor, count: int, fraction: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A random choice of ``count`` anchors of which at most ``fraction`` are positive.

    Args:
        matches: int64 [A], from :func:`match`.
        count: how many in all; fewer where there are not enough. Missing positives are replaced by negatives, but
            not the other way round.
        fraction: 0..1.
        generator: on the device of ``matches``; torch's own without one.

    Returns:
        (indices of positives, indices of negatives), int64, each ascending. From one state of the generator, the same
        as torchvision's ``BalancedPositiveNegativeSampler``.
    """
    positive = torch.where(matches >= 0)[0]
    negative = torch.where(matches == BELOW)[0]
    num_positive = min(len(positive), int(count * fraction))
    num_negative = min(len(negative), count - num_positive)
    return _draw(positive, num_positive, generator), _draw(negative, num_negative, generator)


def _draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    # A whole permutation, though a few of it are needed: it is what torchvision draws, number by number.
    order = torch.randperm(len(indices), generator=generator, device=indices.device)
    return indices[order[:count]].sort().values


def hardest(losses: Tensor, count: int, *, boxes: Tensor | None = None, iou_threshold: float = 0.7) -> Tensor:
    """The indices of the ``count`` largest ``losses``: online hard example mining.

    Args:
        losses: float [K].
        count: how many; fewer where there are fewer.
        boxes: [K,4]; where given, a box that overlaps one of larger loss by more than ``iou_threshold`` is left out, so
            that one hard place isn't counted many times.
        iou_threshold: for ``boxes``.

    Returns:
        int64 [min(count, K)], the largest loss first, of equals the first. Carries no gradient.

    Source: Shrivastava, Gupta and Girshick, "Training Region-based Object Detectors with Online Hard Example Mining",
    CVPR 2016, sec. 4.1.
    """
    losses = losses.detach()
    if boxes is not None:
        return nms(boxes, losses, iou_threshold)[:count]
    return losses.sort(descending=True, stable=True).indices[:count]
