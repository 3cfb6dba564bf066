"""Images, maps and class scores at another resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from scenewise.types import InputSpec


def to_float(image: Tensor) -> Tensor:
    """``image`` as contiguous float32 in 0..1; uint8 is divided by 255."""
    floats = image.to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(255) if image.dtype == torch.uint8 else floats.contiguous()


def fit(image: Tensor, spec: InputSpec) -> Tensor:
    """``image`` (uint8 or float [3,H,W]) as float32 0..1, resized as ``spec`` says."""
    return resize_image(image, spec.resized(image.shape[-2], image.shape[-1]), spec.antialias)


def resize_image(image: Tensor, size: tuple[int, int], antialias: bool = True) -> Tensor:
    """``image`` (uint8 or float [3,H,W]) as float32 0..1 of ``size`` (height, width), bilinear.

    Without ``antialias`` it is not rounded to 8 bits on the way, as in torchvision's detectors.
    """
    if size == tuple(image.shape[-2:]):
        return to_float(image)
    if antialias:
        return to_float(TF.resize(image, list(size), antialias=True)).clamp_(0, 1)
    return F.interpolate(to_float(image)[None], list(size), mode="bilinear")[0]


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Float ``values`` [...,h,w] at ``size`` (H, W), bilinear with pixel areas aligned.

    NaN stands for what is not known: a pixel is the mean of the known values around it, and unknown where these are
    less than half of the weight.
    """
    if size == tuple(values.shape[-2:]):
        return values
    flat = values.reshape(1, -1, *values.shape[-2:]).float()
    known = flat.isfinite()
    if bool(known.all()):
        resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    else:
        weight = F.interpolate(known.float(), size=size, mode="bilinear", align_corners=False)
        total = F.interpolate(flat.masked_fill(~known, 0), size=size, mode="bilinear", align_corners=False)
        resized = torch.where(weight >= 0.5, total / weight, torch.nan)
    return resized.reshape(*values.shape[:-2], *size)


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
