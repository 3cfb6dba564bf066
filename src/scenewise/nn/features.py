"""Features for detectors: a backbone's maps as the stages that follow want them.

``fpn``: a pyramid over several maps, each with the meaning of the deepest (Lin et al., "Feature Pyramid Networks for
Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144, sec. 3). ``c4``: the map before the network's last
stage, which is run on each box instead (Ren et al., Faster R-CNN; He et al., Deep Residual Learning, CVPR 2016,
appendix A). ``c5``: the last map, dilated to a finer stride (as in R-FCN and in Huang et al., CVPR 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.backbone import Backbone, resnet_stages
from scenewise.nn.layers import conv_norm
from scenewise.types import STRICT, Channels, Count, Layers

Design = Literal["fpn", "c4", "c5"]
Pathway = Literal["top-down", "bottom-up", "no-lateral"]
Coarser = Literal["pool", "c5", "p5"]


@dataclass(frozen=True)
class FeatureSpec:
    """The maps that a detector reads.

    Attributes:
        output_stride: of the one map of ``c4`` and ``c5``: 8, 16 or 32.
        strides: of the backbone's maps that the pyramid takes.
        channels: the width of the pyramid.
        pathway: of the pyramid: ``"top-down"`` is the paper's, ``"bottom-up"`` and ``"no-lateral"`` its ablations.
        coarser: the pyramid's maps above its last one: ``"pool"``, every other cell of that one; two by convolutions
            of stride 2, on the backbone's last map (``"c5"``, RetinaNet's) or the pyramid's (``"p5"``, torchvision's).
        norm: ``"batch"`` puts batch-norms into the pyramid, which are trained.
        frozen_levels: how many of the backbone's levels are not trained. None: with pre-trained weights 2 (the stem and
            the first stage of a ResNet), without none.
        frozen_norm: the backbone's batch-norms keep their statistics, scale and shift.
    """

    __pydantic_config__ = STRICT
    output_stride: Literal[8, 16, 32] = 16
    strides: tuple[Count, ...] = (4, 8, 16, 32)
    channels: Channels = 256
    pathway: Pathway = "top-down"
    coarser: Coarser = "pool"
    norm: Literal["none", "batch"] = "none"
    frozen_levels: Layers | None = None
    frozen_norm: bool = True


class Features(nn.Module):
    """The maps of an image that proposals and boxes are read from.

    Args:
        backbone: a timm feature extractor.
        weights: ``"imagenet"``, a local file, or None for random weights.
        design: ``"fpn"``, ``"c4"`` or ``"c5"``.
        spec: the rest.
        intermediate: the stride of a map of the backbone that :meth:`forward` gives besides, last of all; None for
            none.

    ``design`` is that of the arguments, ``channels`` the width of the maps, ``strides`` are those that boxes are pooled
    from, ``proposal_strides`` those that proposals come from: the pyramid has coarser ones besides, for them alone.
    ``count`` is the number of the latter, ``intermediate_channels`` and ``intermediate_stride`` are of the map besides.
    """

    def __init__(
        self,
        backbone: str,
        *,
        weights: str | None = None,
        design: Design = "fpn",
        spec: FeatureSpec | None = None,
        intermediate: int | None = None,
        in_channels: int = 3,
    ) -> None:
        spec = spec or FeatureSpec()
        super().__init__()
        self.design, self.frozen_norm = design, spec.frozen_norm
        self.pyramid: FPN | None = None
        natural = Backbone(backbone, in_channels=in_channels)
        also = [] if intermediate is None else [_level_of(natural, intermediate)]
        if design == "fpn":
            levels = [_level_of(natural, stride) for stride in spec.strides]
            chosen = sorted({*also, *levels})
            self.backbone = Backbone(backbone, weights=weights, levels=chosen, in_channels=in_channels)
            self.taken = [chosen.index(level) for level in levels]  # which of the backbone's maps
            widths = [self.backbone.channels[place] for place in self.taken]
            self.pyramid = FPN(widths, spec.channels, pathway=spec.pathway, coarser=spec.coarser, norm=spec.norm)
            self.channels, self.strides = spec.channels, tuple(spec.strides)
            self.count = len(spec.strides) + self.pyramid.coarser_maps
        else:
            self.backbone = _single_map(natural, weights, design, spec.output_stride, also)
            self.channels, self.strides = self.backbone.channels[-1], (self.backbone.strides[-1],)
            self.taken, self.count, chosen = [len(also)], 1, also
        above = range(1, self.count - len(self.strides) + 1)
        self.proposal_strides = (*self.strides, *(self.strides[-1] << step for step in above))
        self.besides = [chosen.index(level) for level in also]
        self.intermediate_channels = sum(self.backbone.channels[place] for place in self.besides)
        self.intermediate_stride = self.backbone.strides[self.besides[0]] if self.besides else None
        frozen = spec.frozen_levels
        if frozen is None:
            frozen = 0 if weights is None else 2
        for parameter in frozen_parameters(self.backbone, natural, frozen):
            parameter.requires_grad_(False)
        if spec.frozen_norm:
            freeze_norms(self.backbone)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps [N,channels,h,w] of ``images`` [N,3,H,W], from fine to coarse; then the intermediate one, if any."""
        found = self.backbone(images)
        maps = [found[place] for place in self.taken]
        return [*(maps if self.pyramid is None else self.pyramid(maps)), *(found[place] for place in self.besides)]

    def train(self, mode: bool = True) -> Features:
        """As torch's; frozen batch-norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            hold_norms(self.backbone)
        return self


def _level_of(backbone: Backbone, stride: int) -> int:
    """The deepest of ``backbone``'s maps of that stride."""
    found = [level for level, s in enumerate(backbone.strides) if s == stride]
    if not found:
        raise UsageError(f"backbone {backbone.name} has no map of stride {stride}; it has {backbone.strides}")
    return found[-1]


def _single_map(natural: Backbone, weights: str | None, design: str, output_stride: int, also: list[int]) -> Backbone:
    """The backbone with one map of ``output_stride``, after those of the levels ``also``."""
    name, bands, last = natural.name, natural.in_channels, len(natural.strides) - 1
    level = last - 1 if design == "c4" else last
    if natural.strides[level] == output_stride:
        return Backbone(name, weights=weights, levels=[*also, level], in_channels=bands)
    try:
        return Backbone(name, weights=weights, output_stride=output_stride, levels=[*also, level], in_channels=bands)
    except UsageError:  # a network that can't be dilated, such as VGG: its deepest map of that stride
        level = _level_of(natural, output_stride)
        _refuse_cut_network(natural, level, output_stride)
        if level in also:
            raise UsageError(
                f"backbone {name} can't be dilated: its last map of stride {output_stride} is that of the proposals, "
                "too; another has two, such as resnet50"
            ) from None
        return Backbone(name, weights=weights, levels=[*also, level], in_channels=bands)


def _refuse_cut_network(natural: Backbone, level: int, output_stride: int) -> None:
    """Raise a :class:`UsageError` where the network behind ``level`` has parameters, which would be left out."""
    whole, kept = _count(natural), _count(Backbone(natural.name, levels=[level], in_channels=natural.in_channels))
    if kept < whole:
        levels = range(len(natural.strides))
        strides = [
            natural.strides[i]
            for i in levels
            if _count(Backbone(natural.name, levels=[i], in_channels=natural.in_channels)) == whole
        ]
        raise UsageError(
            f"backbone {natural.name} can't be dilated to output_stride {output_stride}: its own map of that stride "
            f"leaves out {(whole - kept) / 1e6:.1f} of {whole / 1e6:.1f} million parameters. Possible: output_stride "
            f"{' or '.join(map(str, strides))}, design 'fpn', or a network that can be dilated, such as resnet50"
        )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def last_stage(name: str, weights: str | None) -> tuple[nn.Sequential, int]:
    """A ResNet's last stage, which halves the map, and its width; for design ``c4``, on the features of each box."""
    backbone = Backbone(name, weights=weights)
    return copy.deepcopy(resnet_stages(backbone, "head kind 'stage'")[-1]), backbone.channels[-1]


def frozen_parameters(backbone: Backbone, natural: Backbone, levels: int) -> list[nn.Parameter]:
    """The parameters of ``backbone`` up to the end of level ``levels`` - 1 of ``natural``, the same with all its
    levels.

    Two levels of a ResNet are its stem and its first stage, Detectron's FREEZE_AT 2.
    """
    if levels == 0:
        return []
    ends = natural.network.feature_info.module_name()  # type: ignore[union-attr, operator]
    if levels > len(ends):
        raise UsageError(f"features: frozen_levels is {levels}; backbone {natural.name} has {len(ends)} levels")
    end = ends[levels - 1].replace(".", "_")  # timm flattens the names of some networks
    passed = False
    found = []
    for name, module in backbone.network.named_modules():
        flat = name.replace(".", "_")
        below = flat == end or flat.startswith(f"{end}_")
        if passed and not below:
            break
        passed = passed or below
        found += module.parameters(recurse=False)
    return found


def freeze_norms(module: nn.Module) -> None:
    """Batch-norms in ``module`` keep their scale and shift; with :func:`hold_norms` also their statistics."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.requires_grad_(False)


def hold_norms(module: nn.Module) -> None:
    """Put the batch-norms in ``module`` into evaluation mode."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()


class FPN(nn.Module):
    """A pyramid over a backbone's maps, and one or two coarser levels above it.

    Args:
        in_channels: the width of each map, from fine to coarse; each is half as large as the one before.
        channels: the width of the pyramid.
        pathway: ``"top-down"`` is the paper's; ``"bottom-up"`` leaves out the way down, and ``"no-lateral"`` the maps
            that join it from the side (table 1, rows d and e).
        coarser: see :class:`FeatureSpec`.
        norm: ``"batch"`` puts a batch-norm after each convolution, in place of its bias.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        pathway: Pathway = "top-down",
        coarser: Coarser = "pool",
        norm: Literal["none", "batch"] = "none",
    ) -> None:
        super().__init__()
        joined = in_channels[-1:] if pathway == "no-lateral" else in_channels
        self.lateral = nn.ModuleList(_layer(conv_norm(width, channels, 1, norm)) for width in joined)
        self.output = nn.ModuleList(_layer(conv_norm(channels, channels, 3, norm)) for _ in in_channels)
        above = {"pool": (), "c5": (in_channels[-1], channels), "p5": (channels, channels)}[coarser]
        self.coarser = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in above)
        self.coarser_maps = max(1, len(above))
        self.pathway, self.above_backbone = pathway, coarser == "c5"
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map [N,channels,H,W] for each of ``maps``, from fine to coarse; then those above them."""
        inner = self.lateral[-1](maps[-1])
        found = [self.output[-1](inner)]
        for level in range(len(maps) - 2, -1, -1):
            inner = self._down(inner, maps[level], level)
            found.insert(0, self.output[level](inner))
        if not self.coarser:
            return [*found, F.max_pool2d(found[-1], 1, 2)]
        first, second = self.coarser
        found.append(first(maps[-1] if self.above_backbone else found[-1]))
        return [*found, second(found[-1].relu())]

    def _down(self, inner: Tensor, map: Tensor, level: int) -> Tensor:
        """The pyramid's inner map at ``level``, from the one above it and the backbone's ``map``."""
        if self.pathway == "bottom-up":
            plain: Tensor = self.lateral[level](map)
            return plain
        enlarged = F.interpolate(inner, map.shape[-2:], mode="nearest")
        if self.pathway == "no-lateral":
            return enlarged
        inner = self.lateral[level](map)
        inner += enlarged  # in place: the finest of these maps are the largest of all
        return inner


def _layer(parts: list[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)
