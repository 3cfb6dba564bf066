"""Feature pyramid: maps of one width at several strides, each with the meaning of the deepest.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144, sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.nn.layers import conv_norm

Pathway = Literal["top-down", "bottom-up", "no-lateral"]


class FPN(nn.Module):
    """A pyramid over a backbone's maps, and one coarser level above it.

    Args:
        in_channels: the width of each map, from fine to coarse; each is half as large as the one before.
        channels: the width of the pyramid.
        pathway: ``"top-down"`` is the paper's; ``"bottom-up"`` leaves out the way down, and ``"no-lateral"`` the maps
            that join it from the side (table 1, rows d and e).
        norm: ``"batch"`` puts a batch-norm after each convolution, in place of its bias.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        pathway: Pathway = "top-down",
        norm: Literal["none", "batch"] = "none",
    ) -> None:
        super().__init__()
        joined = in_channels[-1:] if pathway == "no-lateral" else in_channels
        self.lateral = nn.ModuleList(_layer(conv_norm(width, channels, 1, norm)) for width in joined)
        self.output = nn.ModuleList(_layer(conv_norm(channels, channels, 3, norm)) for _ in in_channels)
        self.pathway = pathway
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map [N,channels,H,W] for each of ``maps``, from fine to coarse, and one of half the last one's size."""
        inner = self.lateral[-1](maps[-1])
        found = [self.output[-1](inner)]
        for level in range(len(maps) - 2, -1, -1):
            inner = self._down(inner, maps[level], level)
            found.insert(0, self.output[level](inner))
        return [*found, F.max_pool2d(found[-1], 1, 2)]

    def _down(self, inner: Tensor, map: Tensor, level: int) -> Tensor:
        """The pyramid's inner map at ``level``, from the one above it and the backbone's ``map``."""
        if self.pathway == "bottom-up":
            return self.lateral[level](map)
        enlarged = F.interpolate(inner, map.shape[-2:], mode="nearest")
        if self.pathway == "no-lateral":
            return enlarged
        inner = self.lateral[level](map)
        inner += enlarged  # in place: the finest of these maps are the largest of all
        return inner


def _layer(parts: list[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)
