"""The fully connected conditional random field with Gaussian pairwise terms, by mean field.

Kraehenbuehl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011,
arXiv:1210.5644; the conventions are those of their published code.

Shapes: C classes, H x W pixels, N = H W of them in rows, D dimensions of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.ops.lattice import Lattice
from scenewise.types import STRICT

Filter = Callable[[Tensor], Tensor]  # values [N,C] -> their sums weighted by a kernel [N,C]
Normalization = Literal["symmetric", "before", "after", "none"]
Positive = Annotated[float, Field(gt=0, lt=1e6)]
Weight = Annotated[float, Field(ge=0, lt=1e6)]

EXACT_PIXELS = 16384  # beyond, the matrix of the exact filter takes more than a GiB
NEAR = 6  # standard deviations, beyond which a Gaussian is below 2e-8


@dataclass(frozen=True)
class DenseCRF:
    """Refines class scores by the image: pixels near one another and alike in colour should have one class.

    The energy of a labelling x is ``sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] k(i, j)`` with the kernel
    ``k = appearance_weight exp(-|p_i - p_j|^2 / 2 position_sigma^2 - |I_i - I_j|^2 / 2 color_sigma^2)
    + smoothness_weight exp(-|p_i - p_j|^2 / 2 smoothness_sigma^2)``.

    Args:
        appearance_weight: of the kernel of position and colour (w1 in DeepLab's paper).
        position_sigma: its standard deviation of position, in pixels (sigma alpha, or theta alpha).
        color_sigma: its standard deviation of colour, of 255 (sigma beta).
        smoothness_weight: of the kernel of position alone (w2).
        smoothness_sigma: its standard deviation, in pixels (sigma gamma).
        iterations: of mean field.
        normalization: how a kernel K filters: ``"symmetric"`` is n K n with n = 1 / sqrt(K 1), as published;
            ``"after"`` divides by K 1, ``"before"`` filters what was divided by it, ``"none"`` divides by its mean.
        filter: of the appearance kernel: ``"lattice"``, in time linear in the number of pixels, or ``"exact"``, by a
            matrix of N x N, for up to 16,384 pixels. The smoothness kernel is separable, and exact with both.
        passes: of the lattice; more are slower and nearer to the exact filter.
        min_probability: to which ``p`` is raised, so that no class is impossible.

    The defaults are those of Chen et al. (DeepLab, ICLR 2015) for DeepLab-LargeFOV: 4, 121, 5 and 3, 3, ten iterations.
    """

    __pydantic_config__ = STRICT

    appearance_weight: Weight = 4.0
    position_sigma: Positive = 121.0
    color_sigma: Positive = 5.0
    smoothness_weight: Weight = 3.0
    smoothness_sigma: Positive = 3.0
    iterations: Annotated[int, Field(ge=0, le=1000)] = 10
    normalization: Normalization = "symmetric"
    filter: Literal["lattice", "exact"] = "lattice"
    passes: Annotated[int, Field(ge=1, le=8)] = 1
    min_probability: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        """The logarithms of the marginals, [C,H,W], in the dtype of ``logits``.

        Args:
            logits: float [C,H,W], class scores before the softmax.
            image: float 0..1 [D,H,W], of any number of channels.

        Raises:
            UsageError: the sizes disagree, or the image is too large for the exact filter.
        """
        if image.shape[-2:] != logits.shape[-2:]:
            size, wanted = (" x ".join(map(str, t.shape[-2:])) for t in (image, logits))
            raise UsageError(f"crf: the image has {size} pixels; expected {wanted}, as the class scores have")
        scores = pixels(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)
        unary = scores.log_softmax(1).clamp(min=math.log(self.min_probability))
        weights = (self.appearance_weight, self.smoothness_weight)
        kernels = [
            (weight, normalized(kernel, len(unary), unary, self.normalization))
            for weight, kernel in zip(weights, self.kernels(image.to(unary)), strict=True)
            if weight
        ]
        found = unary.log_softmax(1)
        for _ in range(self.iterations):
            beliefs = found.exp()
            support = unary.clone()
            for weight, kernel in kernels:
                support += weight * kernel(beliefs)  # of the own class: what Potts' penalty leaves
            found = support.log_softmax(1)
        return found.T.reshape(logits.shape).to(logits.dtype)

    def kernels(self, image: Tensor) -> tuple[Filter, Filter]:
        """The filters of the appearance and of the smoothness kernel for ``image`` [D,H,W], 0..1."""
        height, width = image.shape[-2:]
        features = appearance(image, self.position_sigma, self.color_sigma)
        if self.filter == "exact" and len(features) > EXACT_PIXELS:
            raise UsageError(
                f"crf: the exact filter is for up to {EXACT_PIXELS} pixels, and the image has {height} x {width}; use "
                "the filter 'lattice'"
            )
        near: Filter = Lattice(features, self.passes) if self.filter == "lattice" else Exact(features)
        return near, Separable(height, width, self.smoothness_sigma)


def pixels(maps: Tensor) -> Tensor:
    """``maps`` [C,H,W] as rows, [N,C]."""
    return maps.flatten(1).T.contiguous()


def appearance(image: Tensor, position_sigma: float, color_sigma: float) -> Tensor:
    """Position and colour of each pixel of ``image`` (0..1 [D,H,W]), in standard deviations: [N,2+D]."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, dtype=image.dtype, device=image.device).repeat_interleave(width)
    columns = torch.arange(width, dtype=image.dtype, device=image.device).repeat(height)
    positions = torch.stack([columns, rows], 1) / position_sigma
    return torch.cat([positions, pixels(image) * (255 / color_sigma)], 1)


class Exact:
    """The Gaussian of features [N,D] as a matrix, for small images and as a reference."""

    def __init__(self, features: Tensor) -> None:
        self.kernel = torch.exp(-(torch.cdist(features, features) ** 2) / 2)

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered ``values`` [N,C]."""
        return self.kernel @ values


class Separable:
    """The Gaussian of pixels' positions, exact, along columns and then along rows.

    Args:
        height, width: of the image.
        sigma: the standard deviation, in pixels.
    """

    BLOCK = 64  # pixels that are filtered by one matrix

    def __init__(self, height: int, width: int, sigma: float) -> None:
        self.height, self.width, self.sigma = height, width, sigma

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered ``values`` [N,C]."""
        channels = values.shape[1]
        rows = self._along(values.view(self.height, -1)).view(self.height, self.width, channels)
        columns = self._along(rows.transpose(0, 1).reshape(self.width, -1))
        return columns.view(self.width, self.height, channels).transpose(0, 1).reshape(values.shape)

    def _along(self, values: Tensor) -> Tensor:
        """``values`` [S,K] filtered along their first axis."""
        side, reach = len(values), math.ceil(NEAR * self.sigma)
        places = torch.arange(side, dtype=values.dtype, device=values.device)
        parts = []
        for start in range(0, side, self.BLOCK):
            seen = slice(max(0, start - reach), start + self.BLOCK + reach)
            distance = (places[start : start + self.BLOCK, None] - places[seen]) / self.sigma
            parts.append(torch.exp(-(distance**2) / 2) @ values[seen])
        return torch.cat(parts)


def normalized(kernel: Filter, points: int, like: Tensor, how: Normalization) -> Filter:
    """``kernel`` with its sums divided by what ones are filtered to, which are of ``like``'s dtype; see
    :class:`DenseCRF`."""
    total = kernel(like.new_ones(points, 1))
    if how == "symmetric":
        root = total.rsqrt()
        return lambda values: root * kernel(root * values)
    if how == "after":
        return lambda values: kernel(values) / total
    if how == "before":
        return lambda values: kernel(values / total)
    mean = total.mean()
    return lambda values: kernel(values) / mean
