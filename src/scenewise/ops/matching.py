"""Which anchors or proposals stand for which object, and which of them a loss sees.

Shapes: G ground-truth objects, A anchors or proposals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.ops.boxes import box_ioa, nms
from scenewise.types import STRICT, Share, Target

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


def match_best(iou: Tensor, positive: float) -> Tensor:
    """:func:`match` without a gap, and with each object's best anchor taking that object: torchvision's SSD.

    Args:
        iou: [G,A].
        positive: an anchor with at least this IoU takes the object that it overlaps most.

    Returns:
        int64 [A]: the object's index, or BELOW. Of objects with the same best anchor the last has it. One that overlaps
        no anchor has none; in torchvision it takes the first.
    """
    matches = match(iou, positive, positive, force=False)
    if iou.numel():
        largest, best = iou.max(dim=1)
        touching = (largest > 0).nonzero().flatten()
        matches[best[touching]] = touching
    return matches


def match_bipartite(iou: Tensor, positive: float) -> Tensor:
    """:func:`match_best`, but each object has an anchor of its own: the pair of the largest IoU goes first, and so on.

    Args:
        iou: [G,A].
        positive: an anchor that no object took, with at least this IoU, takes the object that it overlaps most.

    Returns:
        int64 [A]: the object's index, or BELOW. An object that overlaps no free anchor has none.

    Source: Liu et al., "SSD", ECCV 2016, sec. 2.2, and its release (``MatchBBox``).
    """
    matches = match(iou, positive, positive, force=False)
    if not iou.numel():
        return matches
    left = iou.clone()  # rows of objects that have their anchor, and columns of anchors that are taken, become -1
    largest, best = left.max(dim=1)
    for _ in range(len(iou)):
        row = int(largest.argmax())
        if largest[row] <= 0:
            break
        column = best[row]
        matches[column] = row
        left[row], left[:, column], largest[row] = -1, -1, -1
        again = ((best == column) & (largest > 0)).nonzero().flatten()  # whose best anchor is gone
        if len(again):
            largest[again], best[again] = left[again].max(dim=1)
    return matches


def leave_out_crowds(matches: Tensor, candidates: Tensor, ignored: Tensor, crowd_ioa: float | None) -> Tensor:
    """``matches`` [A], with BETWEEN for background that lies within ``ignored`` objects [I,4] of the image.

    One of ``candidates`` [A,4] does where more than ``crowd_ioa`` of its area is in one of them; None: none does.
    """
    if crowd_ioa is None or len(ignored) == 0:
        return matches
    within = box_ioa(candidates, ignored).max(1).values
    return torch.where((matches == BELOW) & (within > crowd_ioa), BETWEEN, matches)


def real_boxes(truth: Target) -> Tensor:
    """The boxes [G,4] of ``truth`` that are single objects, not crowds or difficult ones."""
    return truth["boxes"][~truth["ignore"]] if "ignore" in truth else truth["boxes"]


def real_labels(truth: Target) -> Tensor:
    """The labels [G] of the same objects."""
    return truth["labels"][~truth["ignore"]] if "ignore" in truth else truth["labels"]


def ignored_boxes(truth: Target) -> Tensor:
    """The boxes [I,4] of crowds and difficult objects in ``truth``."""
    return truth["boxes"][truth["ignore"]] if "ignore" in truth else truth["boxes"][:0]


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


@dataclass(frozen=True)
class HardExamples:
    """Online hard example mining: the boxes of the largest losses are trained on (Shrivastava et al., CVPR 2016).

    Attributes:
        count: how many per image.
        nms_iou: of two boxes that overlap more, only the one of the larger loss is among them; the paper's is 0.7.
            None: boxes may overlap.
    """

    __pydantic_config__ = STRICT
    count: int
    nms_iou: Share | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"hard_examples: count is {self.count}; expected 1 or more")


def hardest(losses: Tensor, count: int, *, boxes: Tensor | None = None, iou_threshold: float | None = 0.7) -> Tensor:
    """The indices of the ``count`` largest ``losses``: online hard example mining.

    Args:
        losses: float [K].
        count: how many; fewer where there are fewer.
        boxes: [K,4]; where given, a box that overlaps one of larger loss by more than ``iou_threshold`` is left out, so
            that one hard place isn't counted many times.
        iou_threshold: for ``boxes``; None: they may overlap.

    Returns:
        int64 [min(count, K)], the largest loss first, of equals the first. Carries no gradient.

    Source: Shrivastava, Gupta and Girshick, "Training Region-based Object Detectors with Online Hard Example Mining",
    CVPR 2016, sec. 4.1.
    """
    losses = losses.detach()
    if boxes is not None and iou_threshold is not None:
        return nms(boxes, losses, iou_threshold)[:count]
    return losses.sort(descending=True, stable=True).indices[:count]
