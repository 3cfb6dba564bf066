"""Boxes cut out of an image and warped to one size.

Shapes: H x W pixels, K boxes ``x1, y1, x2, y2`` in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp_crops(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What lies in ``boxes`` [K,4] of ``image`` [C,H,W], each stretched to ``size`` x ``size``: [K,C,size,size].

    Bilinear without antialiasing, pixel areas aligned, as ``F.interpolate(align_corners=False)``: the box of the whole
    image gives just that. 0 (after normalisation, the mean) outside the image. Carries gradients to the image.
    """
    height, width = image.shape[-2:]
    steps = (torch.arange(size, device=image.device) + 0.5) / size  # of the output pixels' centres, 0..1
    boxes = boxes.to(image.device, torch.float32)
    x = boxes[:, 0, None] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]  # [K,size]
    y = boxes[:, 1, None] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]
    grid = torch.stack(
        ((2 / width * x - 1)[:, None, :].expand(-1, size, -1), (2 / height * y - 1)[:, :, None].expand(-1, -1, size)),
        -1,
    )  # [K,size,size,2]
    # all crops of an image in one tall output: the image is read in place, not repeated
    tall = F.grid_sample(image[None].float(), grid.reshape(1, -1, size, 2), padding_mode="border", align_corners=False)
    crops = tall.view(len(image), len(boxes), size, size).transpose(0, 1)
    inside = ((x >= 0) & (x < width))[:, None, None, :] & ((y >= 0) & (y < height))[:, None, :, None]
    return (crops * inside).to(image.dtype)


def with_context(boxes: Tensor, size: int, context: int, *, square: bool = False) -> Tensor:
    """``boxes`` [K,4] grown about their centres so that, warped to ``size``, they have ``context`` pixels around them.

    Args:
        boxes: [K,4].
        size: the side of the warped crop.
        context: on each side, in pixels of the warped crop; less than half of ``size``.
        square: grow the shorter side to the longer first, so that the warp keeps proportions.

    Source: Girshick et al. 2014 (R-CNN), appendix A: the tightest square with context, and the warp.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    if square:
        sides = sides.amax(1, keepdim=True).expand(-1, 2)
    half = sides * (size / (size - 2 * context)) / 2
    return torch.cat((center - half, center + half), 1)
