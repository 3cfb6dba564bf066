"""Losses for depth maps.

Shapes: N images of H x W pixels. ``depth`` (predicted) and ``truth`` are float [N,H,W], in metres; with
``log_input``, ``depth`` is the natural logarithm of metres, as networks give it. Pixels whose truth is NaN, infinite or
not above 0 are unknown and don't count; what is predicted there does not matter. Predicted depths are held above
``MIN_DEPTH`` before a logarithm is taken. Every loss is a scalar, and 0 (with a gradient of zeros) where no pixel
counts. Means over pixels and images equal, in several processes, those of one process with the joint batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.base import one_of, wide
from scenewise.losses.normalize import mean_count

MIN_DEPTH = 1e-3  # metres


def depth_l1(depth: Tensor, truth: Tensor, *, log: bool = False, log_input: bool = False) -> Tensor:
    """The mean over known pixels of |D - D*|, or with ``log`` of |log D - log D*|.

    Args:
        depth: [N,H,W].
        truth: [N,H,W].
        log: compare logarithms.
        log_input: ``depth`` is a logarithm.
    """
    errors, known = _errors(depth, truth, log, log_input)
    return errors.abs().sum() / mean_count(known.sum())


def depth_l2(depth: Tensor, truth: Tensor, *, log: bool = False, log_input: bool = False) -> Tensor:
    """The mean over known pixels of (D - D*)^2, or with ``log`` of (log D - log D*)^2.

    Args:
        depth: [N,H,W].
        truth: [N,H,W].
        log: compare logarithms.
        log_input: ``depth`` is a logarithm.
    """
    errors, known = _errors(depth, truth, log, log_input)
    return (errors**2).sum() / mean_count(known.sum())


def berhu(
    depth: Tensor,
    truth: Tensor,
    *,
    share: float = 0.2,
    threshold: float | None = None,
    log: bool = False,
    log_input: bool = False,
) -> Tensor:
    """The reverse Huber loss, the mean of |d| where |d| <= c, else (d^2 + c^2) / (2 c), of the errors d = D - D*.

    Args:
        depth: [N,H,W].
        truth: [N,H,W].
        share: c is this share of the largest error in the batch (of this process); no gradient flows through c.
        threshold: c itself, in metres, in place of ``share``.
        log: compare logarithms.
        log_input: ``depth`` is a logarithm.

    Source: Laina et al., Deeper depth prediction with fully convolutional residual networks, 3DV 2016,
    https://arxiv.org/abs/1606.00373, eq. 1.
    """
    if share <= 0 or (threshold is not None and threshold <= 0):
        raise UsageError(f"berhu: share is {share} and threshold {threshold}; expected numbers above 0")
    errors, known = _errors(depth, truth, log, log_input)
    sizes = errors.abs()
    limit = sizes.detach().max() * share if threshold is None else sizes.new_tensor(threshold)
    limit = limit.clamp(min=torch.finfo(sizes.dtype).tiny)
    terms = torch.where(sizes <= limit, sizes, (errors**2 + limit**2) / (2 * limit))
    return terms.sum() / mean_count(known.sum())


def scale_invariant(
    depth: Tensor,
    truth: Tensor,
    *,
    variance: float = 0.5,
    gradient: float = 1.0,
    images: Literal["equal", "by-size"] = "equal",
    log_input: bool = False,
) -> Tensor:
    """mean(d^2) - ``variance`` mean(d)^2 + ``gradient`` mean(dx(d)^2 + dy(d)^2), of d = log D - log D* in an image.

    Args:
        depth: [N,H,W].
        truth: [N,H,W].
        variance: lambda; 1 makes the loss blind to the scale of an image, 0 gives the squared error of logarithms.
        gradient: the weight of the differences between neighbours, of which both are known: sum(dx^2) / n + sum(dy^2) /
            n, n being the number of known pixels. 0 gives the loss of 2014.
        images: how images are averaged: ``"equal"``, or ``"by-size"``, weighed by the square of their known pixels, as
            in the authors' release.
        log_input: ``depth`` is a logarithm.

    Source: Eigen, Puhrsch and Fergus, NIPS 2014, https://arxiv.org/abs/1406.2283, eq. 4; Eigen and Fergus, ICCV 2015,
    https://arxiv.org/abs/1411.4734, eq. 1.
    """
    one_of("images", images, ("equal", "by-size"))
    errors, known = _errors(depth, truth, True, log_input)
    count = known.sum((1, 2)).to(errors.dtype)  # [N]
    at_least_one = count.clamp(min=1)
    losses = (errors**2).sum((1, 2)) / at_least_one - variance * (errors.sum((1, 2)) / at_least_one) ** 2
    if gradient:
        right = errors.diff(dim=2) * (known[:, :, 1:] & known[:, :, :-1])
        down = errors.diff(dim=1) * (known[:, 1:] & known[:, :-1])
        losses = losses + gradient * ((right**2).sum((1, 2)) + (down**2).sum((1, 2))) / at_least_one
    weights = (count > 0).to(losses) if images == "equal" else count**2
    return (weights * losses).sum() / mean_count(weights.sum())


def ssim(
    depth: Tensor,
    truth: Tensor,
    *,
    window: int = 11,
    sigma: float = 1.5,
    largest: float = 10.0,
    log_input: bool = False,
) -> Tensor:
    """(1 - SSIM) / 2, the mean over windows in which all pixels are known.

    Args:
        depth: [N,H,W].
        truth: [N,H,W].
        window: odd, the side of the Gaussian windows in pixels.
        sigma: of the Gaussian, in pixels.
        largest: L, the range of depths in metres, which the constants (0.01 L)^2 and (0.03 L)^2 follow from.
        log_input: ``depth`` is a logarithm.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004, eq. 13.
    """
    if window < 1 or window % 2 == 0:
        raise UsageError(f"ssim: window is {window}; expected an odd number")
    known = _known(truth)
    a = wide(depth).exp() if log_input else wide(depth)
    a, b = (x.masked_fill(~known, 0)[:, None] for x in (a, truth.to(a)))
    if min(a.shape[-2:]) < window:
        raise UsageError(f"ssim: the maps are {list(a.shape[-2:])}; expected at least the window's {window} pixels")
    positions = torch.arange(window, dtype=a.dtype, device=a.device) - window // 2
    weight = torch.exp(-(positions**2) / (2 * sigma**2))
    weight = weight / weight.sum()
    kernel = (weight[:, None] * weight)[None, None]
    with torch.autocast(a.device.type, enabled=False):  # variances are small differences
        blurred = F.conv2d(torch.cat([a, b, a * a, b * b, a * b]), kernel)
    mean_a, mean_b, aa, bb, ab = blurred.chunk(5)
    c1, c2 = (0.01 * largest) ** 2, (0.03 * largest) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (aa - mean_a**2 + bb - mean_b**2 + c2)
    whole = -F.max_pool2d(-known[:, None].float(), window, stride=1) > 0.5  # [N,1,H',W']
    return ((1 - above / below) / 2 * whole).sum() / mean_count(whole.sum())


def _known(truth: Tensor) -> Tensor:
    return truth.isfinite() & (truth > 0)


def _errors(depth: Tensor, truth: Tensor, log: bool, log_input: bool) -> tuple[Tensor, Tensor]:
    """D - D* (or log D - log D*), 0 where the truth is not known, and where it is, bool; both [N,H,W]."""
    depth = wide(depth)
    if depth.shape != truth.shape:
        raise UsageError(f"depth is {list(depth.shape)} and its truth {list(truth.shape)}; expected equal shapes")
    known = _known(truth)
    filled = truth.masked_fill(~known, 1).to(depth)
    if log:
        depth, filled = depth if log_input else depth.clamp(min=MIN_DEPTH).log(), filled.log()
    elif log_input:
        depth = depth.exp()
    return torch.where(known, depth - filled, depth.new_zeros(())), known
