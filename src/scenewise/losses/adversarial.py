"""The terms of adversarial training, from what a discriminator answers.

``real`` and ``fake`` are the discriminator's logits of any shape, such as [N,1,h,w] of a patch discriminator: high for
what it takes for real. Every loss is the mean over all of them; the means over real and over fake ones are added.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.losses.base import one_of, wide

Kind = Literal["cross-entropy", "least-squares"]
GeneratorKind = Literal["non-saturating", "minimax", "least-squares"]


def discriminator_loss(real: Tensor, fake: Tensor, *, kind: Kind = "cross-entropy", factor: float = 1.0) -> Tensor:
    """How far the discriminator is from answering 1 for ``real`` and 0 for ``fake``.

    Args:
        real: logits of true pairs.
        fake: logits of generated ones, which are detached from the generator before they enter the discriminator.
        kind: of the logits' sigmoid, the cross-entropy; or of the logits themselves, (z - 1)^2 and z^2.
        factor: on the sum; 0.5 in pix2pix.

    Source: Goodfellow et al., NIPS 2014, https://arxiv.org/abs/1406.2661, eq. 1; Mao et al., LSGAN, ICCV 2017.
    """
    one_of("kind", kind, ("cross-entropy", "least-squares"))
    real, fake = wide(real), wide(fake)
    if kind == "cross-entropy":
        return factor * (F.softplus(-real).mean() + F.softplus(fake).mean())
    return factor * (((real - 1) ** 2).mean() + (fake**2).mean())


def generator_loss(fake: Tensor, *, kind: GeneratorKind = "non-saturating") -> Tensor:
    """How far the generator is from having its ``fake`` taken for real.

    Args:
        fake: logits of generated pairs, with a gradient to the generator.
        kind: ``"non-saturating"``, -log D; ``"minimax"``, log(1 - D); ``"least-squares"``, (z - 1)^2.

    Source: Goodfellow et al., NIPS 2014, sec. 3; Luc et al., Semantic segmentation using adversarial networks, 2016,
    https://arxiv.org/abs/1611.08408, sec. 3.1.
    """
    one_of("kind", kind, ("non-saturating", "minimax", "least-squares"))
    fake = wide(fake)
    if kind == "non-saturating":
        return F.softplus(-fake).mean()
    if kind == "minimax":
        return -F.softplus(fake).mean()
    return torch.square(fake - 1).mean()
