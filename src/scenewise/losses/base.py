"""What the losses over pixels share: the types of their arguments, probabilities, soft counts, means over classes.

Shapes, here and in all files of losses for class maps: N images, C classes, H x W pixels, G groups of pixels that are
summed up (the whole batch, or each image). ``logits`` are float [N,C,H,W]. ``target`` is int64 [N,H,W] with 0..C-1 and
``IGNORE`` (255) where a pixel does not count, or memberships [N,C,H,W] in 0..1 and ``IGNORE``. Every loss is a scalar,
and 0 (with a gradient of zeros) where no pixel counts. float16 and bfloat16 logits are taken to float32 first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.normalize import mean_count
from scenewise.types import IGNORE

Scope = Literal["batch", "image"]
Classes = Literal["present", "all"] | tuple[int, ...]
Activation = Literal["softmax", "sigmoid"]
TINY = 1e-12  # keeps 0 / 0 of classes that don't enter a mean, and their gradients, from being NaN


def wide(logits: Tensor) -> Tensor:
    """``logits`` as float32, or float64 if that is what they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raise a :class:`UsageError` unless the argument ``name`` has one of the ``known`` values."""
    if value not in known:
        raise UsageError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")


def is_memberships(logits: Tensor, target: Tensor) -> bool:
    """Whether ``target`` has an entry per class and pixel, as ``logits`` do, rather than a label per pixel."""
    return target.dim() == logits.dim()


def probabilities(logits: Tensor, target: Tensor, activation: Activation | None) -> Tensor:
    """The softmax or the sigmoid of ``logits``; None takes the softmax for labels, the sigmoid for memberships."""
    if activation is None:
        activation = "sigmoid" if is_memberships(logits, target) else "softmax"
    one_of("activation", activation, ("softmax", "sigmoid"))
    return wide(logits).softmax(1) if activation == "softmax" else wide(logits).sigmoid()


def shares(logits: Tensor, target: Tensor, activation: Activation | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities q and truths p [N,C,H,W], both 0 where nothing counts, and where it does: bool [N,C or 1,H,W]."""
    scores = probabilities(logits, target, activation)
    if is_memberships(logits, target):
        counted = target != IGNORE
        truth = target.masked_fill(~counted, 0).to(scores.dtype)
    else:
        counted = (target != IGNORE)[:, None]
        labels = torch.arange(logits.shape[1], device=target.device)
        truth = ((target[:, None] == labels[:, None, None]) & counted).to(scores.dtype)
    return scores * counted, truth, counted


class Overlap(NamedTuple):
    """Sums over the pixels of each group."""

    hit: Tensor  # [G,C] of q p
    called: Tensor  # [G,C] of q, or of q^2
    truth: Tensor  # [G,C] of p, or of p^2
    counted: Tensor  # bool [G]: whether any pixel counts


def overlap(
    logits: Tensor, target: Tensor, scope: Scope, *, power: int = 1, activation: Activation | None = None
) -> Overlap:
    """The soft counts of the probabilities and of the truth, of the batch or of each image."""
    one_of("scope", scope, ("batch", "image"))
    if is_memberships(logits, target):
        scores, truth, counted = shares(logits, target, activation)
        hit, called, of_truth = (x.sum((2, 3)) for x in (scores * truth, scores**power, truth**power))
        some = counted.flatten(1).any(1)
    else:
        counted = target != IGNORE
        hit, called, of_truth = _counts_of_labels(probabilities(logits, target, activation), target, counted, power)
        some = counted.flatten(1).any(1)
    if scope == "batch":
        hit, called, of_truth = (x.sum(0, keepdim=True) for x in (hit, called, of_truth))
        some = some.any()[None]
    return Overlap(hit, called, of_truth, some)


def _counts_of_labels(scores: Tensor, target: Tensor, counted: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of :class:`Overlap` for each image, without a map of truths per class: two passes over the scores."""
    labels = target.masked_fill(~counted, 0)  # [N,H,W]
    of_truth = scores.gather(1, labels[:, None])[:, 0] * counted
    # Single values are added up one by one here: in float32 a sum of 10^5 of them would lose two digits.
    hit = of_truth.new_zeros(scores.shape[:2], dtype=torch.float64)
    hit = hit.scatter_add(1, labels.flatten(1), of_truth.flatten(1).double()).to(scores.dtype)
    truth = torch.zeros(scores.shape[:2], dtype=torch.int64, device=scores.device)
    truth = truth.scatter_add(1, labels.flatten(1), counted.flatten(1).long()).to(scores.dtype)
    called = ((scores if power == 1 else scores**power) * counted[:, None]).sum((2, 3))
    return hit, called, truth


def grouped(maps: Tensor, scope: Scope) -> Tensor:
    """[N,C,H,W] as [G,C,P]: a row for each class of the batch, or of each image."""
    one_of("scope", scope, ("batch", "image"))
    return maps.flatten(2) if scope == "image" else maps.transpose(0, 1).flatten(1)[None]


def ratio(above: Tensor, below: Tensor, smooth: float) -> Tensor:
    """(``above`` + ``smooth``) / (``below`` + ``smooth``), and finite where both are 0."""
    return (above + smooth) / (below + smooth).clamp(min=TINY)


def judged(sums: Overlap, classes: Classes, background: bool) -> Tensor:
    """bool [G,C]: the classes whose loss enters the mean.

    Raises:
        UsageError: ``classes`` is another word, or has a number that is no class.
    """
    count = sums.truth.shape[1]
    if isinstance(classes, str):
        one_of("classes", classes, ("present", "all"))
        chosen = sums.truth > 0 if classes == "present" else sums.counted[:, None].expand_as(sums.truth)
    else:
        wrong = [c for c in classes if not 0 <= c < count]
        if wrong:
            raise UsageError(f"classes has {wrong[0]}; expected labels from 0 to {count - 1}")
        listed = torch.zeros(count, dtype=torch.bool, device=sums.truth.device)
        listed[list(classes)] = True
        chosen = sums.counted[:, None] & listed
    if not background:
        chosen = chosen & (torch.arange(count, device=chosen.device) > 0)
    return chosen


def class_mean(losses: Tensor, chosen: Tensor, class_weights: Tensor | None) -> Tensor:
    """The mean of ``losses`` [G,C] over the ``chosen`` classes (bool [G,C]), then over the groups that have any."""
    weights = chosen.to(losses.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(losses)
    total = weights.sum(1)  # [G]
    groups = (weights * losses).sum(1) / total.clamp(min=TINY)
    return groups.sum() / mean_count((total > 0).sum())
