"""Distances to the borders between classes, and weights that follow from them.

Shapes: N label maps of H x W pixels, int64 with ``IGNORE`` where there is no label.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]  # scipy fills this module at run time
from torch import Tensor

from scenewise.types import IGNORE

REACH = 6.0  # sigmas; farther out a weight is below w0 * exp(-18) = 1.5e-8 w0, lost beside 1 in float32


def edge_distances(target: Tensor, reach: float = math.inf) -> Tensor:
    """How far each pixel's centre is from that of the nearest pixel of another class, float32 [N,H,W].

    Args:
        target: [N,H,W].
        reach: distances beyond it may be given as infinite; what is near is cheaper to find.

    Returns:
        On the device of ``target``. 1 beside a border; infinite where there is no other class, and in void, which is no
        class and makes no border. Computed on the CPU, class by class within its bounding box and ``reach``.
    """
    maps = target.cpu().numpy()
    found = np.full(maps.shape, np.inf, np.float32)
    for labels, distances in zip(maps, found, strict=True):
        known = labels != IGNORE
        margin = max(labels.shape) if math.isinf(reach) else math.ceil(reach)
        for label in np.unique(labels[known]):
            own = labels == label
            rows, columns = own.any(1).nonzero()[0], own.any(0).nonzero()[0]
            window = (
                slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
                slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
            )
            others = known[window] & ~own[window]
            if others.any():
                near = distance_transform_edt(~others)
                distances[window] = np.where(own[window], near, distances[window])
    found[found > reach] = np.inf
    return torch.from_numpy(found).to(target.device)


def edge_weights(target: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """1 + ``w0`` exp(-d^2 / (2 ``sigma``^2)), d as in :func:`edge_distances`; float32 [N,H,W]."""
    distances = edge_distances(target, REACH * sigma)
    return 1 + w0 * torch.exp(-(distances**2) / (2 * sigma**2))


def band_weights(target: Tensor, *, w0: float = 10.0, band: float = 2.0) -> Tensor:
    """1 + ``w0`` where a pixel is at most ``band`` pixels from another class, else 1; float32 [N,H,W]."""
    return 1 + w0 * (edge_distances(target, band) <= band)
