"""Small layers that most networks are made of."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch-norm, ReLU, at the same resolution.

    With ``separable`` it is a depthwise and a 1x1 convolution, each with batch-norm and ReLU, where the kernel is
    larger than 1.
    """
    padding = dilation * (kernel // 2)
    if separable and kernel > 1:
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, kernel, padding=padding, dilation=dilation, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def conv_norm(inputs: int, outputs: int, kernel: int, norm: Literal["none", "batch", "group"]) -> list[nn.Module]:
    """A convolution at the same resolution, with a bias, or without one and with a norm after it.

    A group-norm has 32 groups, or as many of them as the width can be divided into.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=norm == "none")
    if norm == "none":
        return [conv]
    return [conv, nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(math.gcd(32, outputs), outputs)]


def fcn_head(inputs: int, classes: int, dropout: float = 0.1) -> nn.Sequential:
    """3x3 convolution to a quarter of the width, batch-norm, ReLU, dropout, 1x1 classifier.

    Source: torchvision's ``FCNHead``; also the usual auxiliary head.
    """
    width = inputs // 4
    return nn.Sequential(*conv_bn_relu(inputs, width), nn.Dropout(dropout), nn.Conv2d(width, classes, 1))


def upsample(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """``x`` [N,C,h,w] at ``size`` (H, W), bilinear, with pixel areas aligned (``align_corners=False``)."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class GridLinear(nn.Linear):
    """A fully-connected layer on whole grids: [R,C,s,s] -> [R,out_features], as ``nn.Linear`` on the flattened ones.

    Args:
        in_channels: C.
        size: s.
        out_features: the width of what comes out.
        bias: whether it has one.
    """

    def __init__(self, in_channels: int, size: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_channels * size**2, out_features, bias=bias)
        self.grid = (in_channels, size, size)
        self.channels_last = False  # the order of the weights

    def forward(self, x: Tensor) -> Tensor:
        """The outputs [R,out_features] of the grids [R,C,s,s]."""
        return super().forward((x.permute(0, 2, 3, 1) if self.channels_last else x).flatten(1))

    def put_channels_last(self) -> None:
        """Order the weights as channels-last grids are in memory, which are then multiplied where they lie.

        The state no longer fits other layers; for copies that only predict.
        """
        if not self.channels_last:
            weight = self.weight.detach().unflatten(1, self.grid).permute(0, 2, 3, 1).flatten(1)
            self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
            self.channels_last = True
