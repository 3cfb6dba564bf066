"""The box head: class logits and deltas of boxes, from the features that are pooled from each.

Its body is two fully-connected layers (Girshick, "Fast R-CNN", ICCV 2015, https://arxiv.org/abs/1504.08083, sec. 2.1),
convolutions and one (Wu and He, "Group Normalization", ECCV 2018, sec. 4.2), or the last stage of a ResNet (He et al.,
"Deep Residual Learning for Image Recognition", CVPR 2016, appendix A).

Shapes: R boxes of all images together, C channels, s x s cells of a box, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.backbone import load_vgg_layers
from scenewise.nn.features import Design, Features, freeze_norms, hold_norms, last_stage
from scenewise.nn.layers import GridLinear, conv_norm
from scenewise.ops.roi import Reduce, RoITransform, pool_levels
from scenewise.types import STRICT, Channels, Dropout, Layers, Side


@dataclass(frozen=True)
class HeadSpec:
    """What is pooled from each box, and the layers that its class and deltas come from.

    Attributes:
        kind: the layers: ``"fc"``, two fully-connected ones; ``"conv"``, 3x3 convolutions and one fully-connected
            layer; ``"stage"``, the last stage of a ResNet, for design ``c4``. None: the last with ``c4`` and a ResNet,
            else the first.
        size: the side of the grid that is pooled; None: 7, and 14 for ``"stage"``.
        sampling: points a side that RoIAlign takes in each cell; 0: as many as the cell has pixels.
        aligned: whether RoIAlign shifts by half a pixel, as it should; published weights were trained without.
        reduce: what becomes of the values of a cell: ``"mean"`` or ``"max"``. None: as each operator was published, the
            mean in RoIAlign, the maximum in RoIPool and RoIWarp (Mask R-CNN's table 2c has them all).
        channels: the width of the fully-connected layers.
        convs: how many convolutions ``"conv"`` has, each as wide as the maps.
        norm: ``"batch"`` puts a batch-norm after each of them.
        dropout: after each of them; VGG's is 0.5.
        class_agnostic: four deltas for all classes instead of four for each.
    """

    __pydantic_config__ = STRICT
    kind: Literal["fc", "conv", "stage"] | None = None
    size: Side | None = None
    sampling: Layers = 2
    aligned: bool = False
    channels: Channels = 1024
    convs: Layers = 4
    norm: Literal["none", "batch"] = "none"
    dropout: Dropout = 0.0
    class_agnostic: bool = False
    reduce: Reduce | None = None


@dataclass(frozen=True)
class RoIPooler:
    """How the features of boxes are pooled from maps.

    Attributes:
        method: RoIAlign, RoIPool or RoIWarp.
        spec: the rest: samples, alignment, mean or maximum.
        strides: of the maps, from fine to coarse.
    """

    method: RoITransform
    spec: HeadSpec
    strides: tuple[int, ...]

    def __call__(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """The features [R,channels,size,size] of ``boxes`` from the first of ``maps``, one for each stride."""
        return pool_levels(
            maps[: len(self.strides)],
            boxes,
            size,
            [1 / stride for stride in self.strides],
            method=self.method,
            sampling=self.spec.sampling,
            aligned=self.spec.aligned,
            reduce=self.spec.reduce,
        )


VGG_HEAD = HeadSpec(channels=4096, dropout=0.5)  # fc6 and fc7


def usual_head(backbone: str, design: Design) -> HeadSpec:
    """The published head of a ``backbone``: fc6 and fc7 of a VGG without a pyramid, else what :class:`HeadSpec` has."""
    return VGG_HEAD if backbone.startswith("vgg") and design != "fpn" else HeadSpec()


class FullyConnected(nn.Module):
    """Two fully-connected layers on the features of a box: [R,C,s,s] -> [R,channels].

    Args:
        in_channels: C.
        size: s.
        channels: the width of both.
        dropout: after each of them.
        ranks: each layer is the product of two, with this many channels between them; None for whole layers.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        channels: int = 1024,
        dropout: Dropout = 0.0,
        *,
        ranks: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.dropout = channels, dropout
        if ranks is None:
            self.first: nn.Module = GridLinear(in_channels, size, channels)
            self.second: nn.Module = nn.Linear(channels, channels)
        else:
            self.first = factored(GridLinear(in_channels, size, ranks[0], bias=False), channels)
            self.second = factored(nn.Linear(channels, ranks[1], bias=False), channels)

    def forward(self, x: Tensor) -> Tensor:
        """The boxes' features [R,channels] from [R,C,s,s]."""
        x = F.dropout(F.relu(self.first(x)), self.dropout, self.training)
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
        self.first = GridLinear(in_channels, size, spec.channels)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The boxes' features [R,channels] from [R,C,s,s]."""
        return F.dropout(F.relu(self.first(self.layers(x))), self.dropout, self.training)


def factored(layer: nn.Linear, outputs: int) -> nn.Sequential:
    """``layer``, which has no bias, and one after it: a linear layer with as many singular values as lie between."""
    return nn.Sequential(layer, nn.Linear(layer.out_features, outputs))


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
        found: Tensor = self.stage(x).mean((-2, -1))
        return found

    def train(self, mode: bool = True) -> StageFeatures:
        """As torch's; frozen batch-norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            hold_norms(self.stage)
        return self


class BoxHead(nn.Module):
    """Class logits and deltas of boxes.

    Args:
        features: where the maps come from.
        classes: K.
        spec: the body; its ``kind`` and ``size`` may be left open.
        backbone: the network's name, whose last stage may be the body.
        weights: of the backbone, or None: the start of a last stage, and of two fully-connected layers with the sizes
            of a VGG's fc6 and fc7 (7 cells, 4096 channels, no pyramid), where the backbone is one.
        frozen_norm: a last stage's batch-norms keep their statistics, scale and shift.
        ranks: see :class:`FullyConnected`.

    ``size`` is the side of the grid that it wants, ``stage`` the last stage, where it is the body.
    """

    def __init__(
        self,
        features: Features,
        classes: int,
        spec: HeadSpec,
        *,
        backbone: str,
        weights: str | None = None,
        frozen_norm: bool = True,
        ranks: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        # layer1: as ResNets call their stages
        staged = features.design == "c4" and hasattr(features.backbone.network, "layer1")
        kind = spec.kind or ("stage" if staged else "fc")
        self.size = spec.size or (14 if kind == "stage" else 7)
        if ranks is not None and kind != "fc":
            raise UsageError(f"ranks are for two fully-connected layers; head kind {kind!r} has none or one")
        self.body: FullyConnected | ConvolutionsThenLinear | StageFeatures
        if kind == "stage":
            self.body = StageFeatures(backbone, weights, frozen_norm)
        elif kind == "conv":
            self.body = ConvolutionsThenLinear(features.channels, self.size, spec)
        else:
            self.body = FullyConnected(features.channels, self.size, spec.channels, spec.dropout, ranks=ranks)
            whole = ranks is None and (self.size, spec.channels) == (7, 4096)
            if weights is not None and backbone.startswith("vgg") and features.design != "fpn" and whole:
                load_vgg_layers((self.body.first, self.body.second), backbone, weights)
        self.classifier = nn.Linear(self.body.channels, classes + 1)  # class 0 is the background
        self.box_regressor = nn.Linear(self.body.channels, 4 * (1 if spec.class_agnostic else classes + 1))

    @property
    def stage(self) -> nn.Module | None:
        """The ResNet's last stage that boxes go through, before its mean; None where the body is another."""
        return self.body.stage if isinstance(self.body, StageFeatures) else None

    def forward(self, x: Tensor, *, stage_wise: bool = False) -> tuple[Tensor, Tensor]:
        """Class logits [R,K+1] and deltas [R,4(K+1)], or [R,4], from pooled features [R,C,s,s].

        With ``stage_wise`` no gradient of the deltas reaches the body.
        """
        x = self.body(x)
        return self.classifier(x), self.box_regressor(x.detach() if stage_wise else x)
