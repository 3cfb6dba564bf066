"""Losses that favour smooth maps, whatever the ground truth: they act on unlabelled pixels, too.

Shapes: N images, C classes, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from scenewise.losses.base import Activation, one_of, probabilities, wide
from scenewise.losses.normalize import mean_count

Kind = Literal["anisotropic", "isotropic", "squared"]
PairNorm = Literal["images", "pairs"]


def smoothness(
    logits: Tensor,
    target: Tensor,
    *,
    kind: Kind = "anisotropic",
    norm: PairNorm = "pairs",
    kappa: float = 0.0,
    activation: Activation | None = None,
    inside: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """The :func:`total_variation` of the probabilities of ``logits``, over all pixels, labelled or not.

    Args:
        logits: [N,C,H,W].
        target: [N,H,W] or [N,C,H,W]; its labels are not read.
        kind: as in :func:`total_variation`.
        norm: as in :func:`total_variation`.
        kappa: how much less a change costs where the image changes too: the factor exp(-kappa |dI|). 0 for no factor.
        activation: None for the softmax of labels and the sigmoid of memberships.
        inside: bool [N,H,W]: the pixels that are no padding; None for all.
        image: float [N,3,H,W] in 0..1, for ``kappa``.

    Source: Javanmardi, Sajjadi, Liu and Tasdizen, Unsupervised total variation loss for semi-supervised deep learning
    of semantic segmentation, 2016, https://arxiv.org/abs/1605.01368.
    """
    scores = probabilities(logits, target, activation)
    return total_variation(scores, counted=inside, kind=kind, norm=norm, image=image if kappa else None, kappa=kappa)


def total_variation(
    probabilities: Tensor,
    *,
    counted: Tensor | None = None,
    kind: Kind = "anisotropic",
    norm: PairNorm = "images",
    image: Tensor | None = None,
    kappa: float = 1.0,
) -> Tensor:
    """How much ``probabilities`` change from pixel to pixel, summed over the classes; small for smooth maps.

    Args:
        probabilities: float [N,C,H,W].
        counted: bool [N,H,W]; differences that touch other pixels (padding) are left out. None: all pixels count.
        kind: the sum of |dx| + |dy|; of sqrt(dx^2 + dy^2 + 1e-12), where a pixel has both neighbours; or of
            dx^2 + dy^2.
        norm: divide by the number of images, or by the number of pairs of neighbours (of pixels, where isotropic).
        image: float [N,3,H,W] in 0..1; where given, each difference is multiplied by exp(-kappa |dI|), |dI| being the
            mean over the channels of how much the image changes there (isotropic: sqrt(dx^2 + dy^2) of those means).
        kappa: for ``image``.

    Source: Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 1992.
    """
    one_of("kind", kind, ("anisotropic", "isotropic", "squared"))
    one_of("norm", norm, ("images", "pairs"))
    q = wide(probabilities)
    down, right = q.diff(dim=2), q.diff(dim=3)  # [N,C,H-1,W], [N,C,H,W-1]
    if kind == "isotropic":
        changes = [(down[..., :-1] ** 2 + right[:, :, :-1] ** 2 + 1e-12).sqrt()]  # [N,C,H-1,W-1]
    else:
        changes = [change.abs() if kind == "anisotropic" else change**2 for change in (down, right)]
    if image is not None:
        edges = list(_changes(wide(image)))
        if kind == "isotropic":
            edges = [(edges[0][..., :-1] ** 2 + edges[1][:, :, :-1] ** 2).sqrt()]
        changes = [change * torch.exp(-kappa * edge) for change, edge in zip(changes, edges, strict=True)]
    pairs: Tensor | float = sum(change[:, 0].numel() for change in changes)
    if counted is not None:
        has_down, has_right = counted[:, 1:] & counted[:, :-1], counted[:, :, 1:] & counted[:, :, :-1]
        joined = [has_down[..., :-1] & has_right[:, :-1]] if kind == "isotropic" else [has_down, has_right]
        changes = [change * both[:, None] for change, both in zip(changes, joined, strict=True)]
        pairs = torch.stack([both.sum() for both in joined]).sum()
    total = torch.stack([change.sum() for change in changes]).sum()
    return total / mean_count(pairs if norm == "pairs" else len(q), device=q.device)


def _changes(image: Tensor) -> tuple[Tensor, Tensor]:
    """How much ``image`` changes downwards [N,1,H-1,W] and to the right [N,1,H,W-1], as means over the channels."""
    return image.diff(dim=2).abs().mean(1, keepdim=True), image.diff(dim=3).abs().mean(1, keepdim=True)
