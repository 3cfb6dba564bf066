"""What judges the features of a box: two fully-connected layers, convolutions and one, or the last stage of a ResNet.

Girshick, "Fast R-CNN", ICCV 2015, https://arxiv.org/abs/1504.08083, sec. 2.1; with convolutions: Wu and He, "Group
Normalization", ECCV 2018, sec. 4.2; the stage: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
appendix A.

Shapes: R boxes of all images together, C channels, s x s cells of a box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.nn.features import freeze_norms, hold_norms, last_stage
from scenewise.nn.layers import conv_norm
from scenewise.types import STRICT


@dataclass(frozen=True)
class HeadSpec:
    """What is read from each box, and what judges it.

    Attributes:
        kind: ``"fc"``, two fully-connected layers; ``"conv"``, 3x3 convolutions and one fully-connected layer;
            ``"stage"``, the last stage of a ResNet, for design ``c4``. None: the last with ``c4`` and a ResNet, else
            the first.
        size: the side of the grid that is read; None: 7, and 14 for ``"stage"``.
        sampling: points a side that RoIAlign takes in each cell; 0: as many as the cell has pixels.
        aligned: whether RoIAlign shifts by half a pixel, as it should; published weights were trained without.
        channels: the width of the fully-connected layers.
        convs: how many convolutions ``"conv"`` has, each as wide as the maps.
        norm: ``"batch"`` puts a batch-norm after each of them.
        dropout: after each of them; VGG's is 0.5.
        class_agnostic: one correction for all classes instead of one for each.
    """

    __pydantic_config__ = STRICT
    kind: Literal["fc", "conv", "stage"] | None = None
    size: int | None = None
    sampling: int = 2
    aligned: bool = False
    channels: int = 1024
    convs: int = 4
    norm: Literal["none", "batch"] = "none"
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
        x = F.dropout(F.relu(_whole_grid(self.first, x)), self.dropout, self.training)
        return F.dropout(F.relu(self.second(x)), self.dropout, self.training)


class ConvolutionsThenLinear(nn.Module):
    """3x3 convolutions on the features of a box, then one fully-connected layer: [R,C,s,s] -> [R,channels].

    Args:
        in_channels: C.
        size: s.
        spec: the number of convolutions, their norm, the width of the layer, the dropout after it.
    """

    def __init__(self, in_channels: int, size: int, spec: HeadSpec) -> None:
        super().__init__()
        self.channels, self.dropout = spec.channels, spec.dropout
        layers: list[nn.Module] = []
        for _ in range(spec.convs):
            layers += [*conv_norm(in_channels, in_channels, 3, spec.norm), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.first = nn.Linear(in_channels * size**2, spec.channels)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The boxes' features [R,channels] from [R,C,s,s]."""
        return F.dropout(F.relu(_whole_grid(self.first, self.layers(x))), self.dropout, self.training)


def _whole_grid(layer: nn.Module, x: Tensor) -> Tensor:
    """The outputs [R,channels] of a fully-connected ``layer`` from [R,C,s,s].

    In prediction on the CPU it is run as a convolution as large as the grid, where channels are last: the boxes'
    features need not be turned around, and oneDNN multiplies faster than MKL on processors that aren't Intel's.
    """
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if torch.is_grad_enabled() or x.device.type != "cpu" or not channels_last or type(layer) is not nn.Linear:
        return layer(x.flatten(1))
    return F.conv2d(x, layer.weight.view(-1, *x.shape[1:]), layer.bias).flatten(1)


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


BoxHead = FullyConnected | ConvolutionsThenLinear | StageFeatures
