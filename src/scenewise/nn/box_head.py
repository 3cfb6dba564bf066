"""What judges the features of a box: two fully-connected layers, or the last stage of a ResNet.

Girshick, "Fast R-CNN", ICCV 2015, https://arxiv.org/abs/1504.08083, sec. 2.1; the stage: He et al., "Deep Residual
Learning for Image Recognition", CVPR 2016, appendix A.

Shapes: R boxes of all images together, C channels, s x s cells of a box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.nn.features import freeze_norms, hold_norms, last_stage
from scenewise.types import STRICT


@dataclass(frozen=True)
class HeadSpec:
    """What is read from each box, and what judges it.

    Attributes:
        kind: ``"fc"``, two fully-connected layers; ``"stage"``, the last stage of a ResNet, for design ``c4``. None:
            the latter with ``c4`` and a ResNet, else the former.
        size: the side of the grid that is read; None: 7, and 14 for ``"stage"``.
        sampling: points a side that RoIAlign takes in each cell; 0: as many as the cell has pixels.
        aligned: whether RoIAlign shifts by half a pixel, as it should; published weights were trained without.
        channels: the width of the fully-connected layers.
        dropout: after each of them; VGG's is 0.5.
        class_agnostic: one correction for all classes instead of one for each.
    """

    __pydantic_config__ = STRICT
    kind: Literal["fc", "stage"] | None = None
    size: int | None = None
    sampling: int = 2
    aligned: bool = False
    channels: int = 1024
    dropout: float = 0.0
    class_agnostic: bool = False


class FullyConnected(nn.Module):
    """Two fully-connected layers on the features of a box: [R,C,s,s] -> [R,channels].

    Args:
        in_features: C s s.
        channels: the width of both.
        dropout: after each of them.
        ranks: each layer is the product of two, with so many channels between them; None for whole layers.
    """

    def __init__(
        self, in_features: int, channels: int = 1024, dropout: float = 0.0, *, ranks: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.channels, self.dropout = channels, dropout
        if ranks is None:
            self.first: nn.Module = nn.Linear(in_features, channels)
            self.second: nn.Module = nn.Linear(channels, channels)
        else:
            self.first = factored_linear(in_features, ranks[0], channels)
            self.second = factored_linear(channels, ranks[1], channels)

    def forward(self, x: Tensor) -> Tensor:
        """The boxes' features [R,channels] from [R,C,s,s]."""
        x = F.dropout(F.relu(self._whole_grid(x)), self.dropout, self.training)
        return F.dropout(F.relu(self.second(x)), self.dropout, self.training)

    def _whole_grid(self, x: Tensor) -> Tensor:
        """The first layer's outputs [R,channels] from [R,C,s,s].

        In prediction on the CPU it is run as a convolution as large as the grid, where channels are last: the boxes'
        features need not be turned around, and oneDNN multiplies faster than MKL on processors that aren't Intel's.
        """
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() or x.device.type != "cpu" or not channels_last or type(self.first) is not nn.Linear:
            return self.first(x.flatten(1))
        return F.conv2d(x, self.first.weight.view(-1, *x.shape[1:]), self.first.bias).flatten(1)


def factored_linear(inputs: int, rank: int, outputs: int) -> nn.Sequential:
    """A linear layer whose weights have at most ``rank`` singular values, as two layers; the first has no bias."""
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


class StageFeatures(nn.Module):
    """A ResNet's last stage on the features of a box, averaged: [R,C,14,14] -> [R,2C]."""

    def __init__(self, backbone: str, weights: str | None, frozen_norm: bool) -> None:
        super().__init__()
        self.stage, self.channels = last_stage(backbone, weights)
        self.frozen_norm = frozen_norm
        if frozen_norm:
            freeze_norms(self.stage)

    def forward(self, x: Tensor) -> Tensor:
        """The boxes' features [R,channels]."""
        return self.stage(x).mean((-2, -1))

    def train(self, mode: bool = True) -> StageFeatures:
        """As torch's; frozen batch-norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            hold_norms(self.stage)
        return self
