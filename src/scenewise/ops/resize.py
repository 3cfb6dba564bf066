"""Class scores at another resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the largest score at each pixel of ``logits`` enlarged or shrunk bilinearly to ``size``.

    Args:
        logits: float [C,h,w].
        size: (H, W).

    Returns:
        int64 [H,W]. Of equal scores the first class wins. Classes are resized one by one, so that many classes on a
        large image need no more memory than a few maps of H x W.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits.argmax(0)
    best, label = None, None
    for index, row in enumerate(logits.float()):
        scores = F.interpolate(row[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        if best is None or label is None:
            best, label = scores, torch.zeros(size, dtype=torch.int64, device=logits.device)
        else:
            better = scores > best
            label[better] = index
            best = torch.maximum(best, scores)
    assert label is not None
    return label
