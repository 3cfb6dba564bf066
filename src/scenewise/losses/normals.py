"""Losses for maps of surface normals.

Shapes: N images of H x W pixels; ``normals`` (predicted, of any length above 0) and ``truth`` (unit vectors) are float
[N,3,H,W]. Pixels whose truth has a NaN or length 0 are unknown and don't count.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.base import one_of, wide
from scenewise.losses.normalize import mean_count

Measure = Literal["cosine", "euclidean", "squared", "angle"]


def normal_difference(normals: Tensor, truth: Tensor, *, measure: Measure = "cosine") -> Tensor:
    """The mean over known pixels of how far the predicted directions are from the true ones; a scalar.

    Args:
        normals: [N,3,H,W].
        truth: [N,3,H,W].
        measure: of the angle a between the two: ``"cosine"``, 1 - cos a; ``"squared"``, the squared distance of the
            unit vectors, 2 - 2 cos a; ``"euclidean"``, their distance, sqrt(2 - 2 cos a); ``"angle"``, a in radians.
            The slopes of the latter two are held finite where a is 0 or pi.

    Returns:
        0 (with a gradient of zeros) where no pixel is known. Means equal, in several processes, those of one process
        with the joint batch.

    Source: Eigen and Fergus, ICCV 2015, https://arxiv.org/abs/1411.4734, eq. 2 (cosine, which is theirs plus 1).
    """
    one_of("measure", measure, ("cosine", "euclidean", "squared", "angle"))
    normals = wide(normals)
    if normals.shape != truth.shape:
        raise UsageError(
            f"normals are {list(normals.shape)} and their truth {list(truth.shape)}; expected equal shapes"
        )
    lengths = (truth**2).sum(1, keepdim=True)  # [N,1,H,W]
    known = lengths > 0  # not where NaN
    true = torch.where(known, truth / lengths.sqrt(), 0).to(normals)
    squared = ((F.normalize(normals, dim=1) - true) ** 2).sum(1)  # 2 - 2 cos a, with all digits where a is small
    if measure == "cosine":
        terms = squared / 2
    elif measure == "squared":
        terms = squared
    else:
        # chord = 2 sin(a / 2); the small number and the bound keep both slopes finite
        chord = (squared + 1e-12).sqrt()
        terms = chord if measure == "euclidean" else 2 * torch.asin((chord / 2).clamp(max=1 - 1e-6))
    return (terms * known[:, 0]).sum() / mean_count(known.sum())
