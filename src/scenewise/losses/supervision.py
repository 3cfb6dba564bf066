"""One loss on several maps of a network: auxiliary heads, deep supervision, several scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError, suggest
from scenewise.losses.base import one_of


def supervise(
    loss: Callable[[Tensor, Tensor], Tensor | Mapping[str, Tensor]],
    maps: Mapping[str, Tensor],
    target: Tensor,
    *,
    weights: Mapping[str, float] | None = None,
    resize: Literal["logits", "labels"] = "logits",
) -> dict[str, Tensor]:
    """The weighted loss of each of ``maps`` against one target.

    Args:
        loss: of logits [N,C,H,W] and a target; a scalar, or terms by name, which are added up.
        maps: logits [N,C,h,w] by name, each of its own size.
        target: [N,H,W], or [N,C,H,W].
        weights: of each map, by its name; 1 where none is named. Usual are 0.4 or 0.5 for an auxiliary head (PSPNet,
            torchvision), 1 for all sides of HED.
        resize: where sizes differ, the ``"logits"`` are enlarged bilinearly to the target's size; or the ``"labels"``
            are reduced to the logits' by taking the nearest.

    Raises:
        UsageError: a weight is of no map.
    """
    one_of("resize", resize, ("logits", "labels"))
    weights = weights or {}
    for name in weights:
        if name not in maps:
            raise UsageError(f"weights: there is no map {name!r}{suggest(name, maps)}; known: {', '.join(maps)}")
    terms = {}
    for name, logits in maps.items():
        truth = target
        if logits.shape[-2:] != target.shape[-2:]:
            if resize == "logits":
                logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
            else:
                truth = reduced_labels(target, logits.shape[-2:])
        value = loss(logits, truth)
        total = torch.stack(list(value.values())).sum() if isinstance(value, Mapping) else value
        terms[name] = weights.get(name, 1.0) * total
    return terms


def reduced_labels(target: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """``target`` [N,...,H,W] at ``size``, each pixel with the label at the place of its centre."""
    rows, columns = (
        ((torch.arange(new, device=target.device) + 0.5) * (old / new)).long()
        for old, new in zip(target.shape[-2:], size, strict=True)
    )
    return target[..., rows[:, None], columns]
