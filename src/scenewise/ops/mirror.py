"""Images continued beyond their borders by mirroring."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored_window(image: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    """A window of the plane that ``image`` becomes when it is mirrored at its borders again and again.

    The border pixel itself is not doubled, as in numpy's ``pad(mode="reflect")``; unlike torch's, the extension may be
    wider than the image.

    Args:
        image: [..., H, W], H and W at least 1.
        top: the image's row where the window begins; may be negative.
        left: the image's column where it begins; may be negative.
        size: (height, width) of the window.

    Returns:
        [..., height, width]; a view where the window lies within the image.
    """
    return _mirrored(_mirrored(image, top, size[0], -2), left, size[1], -1)


def _mirrored(image: Tensor, start: int, count: int, dim: int) -> Tensor:
    length = image.shape[dim]
    if start >= 0 and start + count <= length:
        return image.narrow(dim, start, count)
    period = max(1, 2 * (length - 1))  # a line of one pixel goes on as that pixel
    index = torch.arange(start, start + count, device=image.device) % period
    return image.index_select(dim, torch.minimum(index, period - index))
