"""The maps of falling resolution that SSD reads: those of a backbone, and further ones that convolutions make of them.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, https://arxiv.org/abs/1512.02325, sec. 2.1 and 3; with
depthwise convolutions (SSDLite): Sandler et al., MobileNet v2, CVPR 2018, sec. 6.2; Howard et al., MobileNet v3, ICCV
2019, sec. 6.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import mobilenet_v3_large

from scenewise.errors import CheckpointError, UsageError
from scenewise.nn.backbone import Backbone
from scenewise.nn.vgg import PLAN, vgg_state

VGG, MOBILENET = "vgg16", "mobilenet_v3_large"  # backbones that a paper changes; any other is timm's
FC = 1024  # the width of fc6 and fc7 as convolutions: every fourth of their 4096 outputs
LITE_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)  # torchvision's and TensorFlow's


class SSDMaps(nn.Module):
    """The maps of an image, from fine to coarse.

    Args:
        backbone: ``"vgg16"``, the paper's: its fully-connected layers are dilated convolutions, and conv4_3 is put to
            a learned length; ``"mobilenet_v3_large"``, torchvision's with its narrow last stage and the expansion of
            stride 16; or a timm feature extractor.
        weights: of the backbone: ``"imagenet"``, a local file, or None for random ones.
        strides: of the maps taken from a timm backbone.
        extra: the widths of the further maps.
        large: with ``"vgg16"``, the further maps of SSD512; else those of SSD300.
        lite: depthwise convolutions with batch-norms in the further maps.
        in_channels: of the images.

    ``channels`` are the widths of the maps that :meth:`forward` returns.
    """

    def __init__(
        self,
        backbone: str,
        *,
        weights: str | None,
        strides: Sequence[int],
        extra: Sequence[int],
        large: bool,
        lite: bool,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.backbone: SSDVGG | SSDMobileNet | Backbone
        kinds = ["half"] * len(extra)
        if backbone == VGG:
            self.backbone = SSDVGG(weights, in_channels)
            kinds = [*["half"] * (len(extra) - 1), "last"] if large else [*kinds[:2], *["valid"] * (len(extra) - 2)]
        elif backbone == MOBILENET:
            self.backbone = SSDMobileNet(weights, in_channels)
        else:
            self.backbone = _timm(backbone, weights, strides, in_channels)
        self.channels = [*self.backbone.channels, *extra]
        self.extra = nn.ModuleList()
        inputs = self.backbone.channels[-1]
        for width, kind in zip(extra, kinds, strict=True):
            self.extra.append(_lite_extra(inputs, width) if lite else _extra(inputs, width, kind))
            inputs = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps [N,channels[i],h,w] of ``images`` [N,C,H,W]."""
        maps: list[Tensor] = list(self.backbone(images))
        x = maps[-1]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


def _timm(name: str, weights: str | None, strides: Sequence[int], in_channels: int) -> Backbone:
    natural = Backbone(name, in_channels=in_channels)
    missing = [stride for stride in strides if stride not in natural.strides]
    if missing or not strides:
        raise UsageError(
            f"strides: {tuple(strides)}; backbone {name} has maps of the strides {natural.strides}, take one or more"
        )
    last = {stride: level for level, stride in enumerate(natural.strides)}  # the deepest of each stride
    return Backbone(name, weights=weights, levels=[last[s] for s in sorted(strides)], in_channels=in_channels)


def _extra(inputs: int, width: int, kind: str) -> nn.Sequential:
    """1x1, then 3x3 with stride 2 (``half``), 3x3 without padding (``valid``) or 4x4 with padding 1 (``last``)."""
    middle = width // 2
    second = {
        "half": nn.Conv2d(middle, width, 3, stride=2, padding=1),
        "valid": nn.Conv2d(middle, width, 3),
        "last": nn.Conv2d(middle, width, 4, padding=1),
    }[kind]
    return nn.Sequential(nn.Conv2d(inputs, middle, 1), nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


def _lite_extra(inputs: int, width: int) -> nn.Sequential:
    middle = width // 2
    return nn.Sequential(
        lite_conv(inputs, middle, 1), lite_conv(middle, middle, 3, stride=2), lite_conv(middle, width, 1)
    )


def lite_conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """A convolution, depthwise where its kernel is larger than 1, batch-norm, ReLU6."""
    groups = inputs if kernel > 1 else 1
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        LITE_NORM(outputs),
        nn.ReLU6(inplace=True),
    )


class SSDVGG(nn.Module):
    """VGG16 to conv4_3, whose map is put to a learned length, and on to fc7 as a convolution (sec. 3).

    pool3 rounds up; pool5 is 3x3 with stride 1; fc6 is 3x3 with dilation 6.
    """

    def __init__(self, weights: str | None, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for number, stage in enumerate(PLAN):
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=number == 2))
        first = len(layers) - 8  # pool4 and what follows it belong to the second part
        self.early = nn.Sequential(*layers[:first])  # numbered as in torchvision
        self.late = nn.Sequential(*layers[first:-1])
        self.fc = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(inputs, FC, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(FC, FC, 1),
            nn.ReLU(inplace=True),
        )
        self.scale = nn.Parameter(torch.full((PLAN[3][-1],), 20.0))
        self.channels = [PLAN[3][-1], FC]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if weights is not None:
            self.load(*vgg_state(weights))

    def forward(self, images: Tensor) -> list[Tensor]:
        """conv4_3 [N,512,H/8,W/8], normalised, and fc7 [N,1024,H/16,W/16]."""
        x = self.early(images)
        return [F.normalize(x) * self.scale.view(-1, 1, 1), self.fc(self.late(x))]

    def load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take the weights of a VGG16 classifier, torchvision's or timm's; of fc6 every third row and column and every
        fourth output, of fc7 every fourth of both (à trous; Liu et al., sec. 3)."""
        timm = "pre_logits.fc1.weight" in state
        fc6, fc7 = ("pre_logits.fc1", "pre_logits.fc2") if timm else ("classifier.0", "classifier.3")
        values = {}
        for part, module in (("early", self.early), ("late", self.late), ("fc", self.fc)):
            for key, own in module.state_dict().items():
                number, kind = key.split(".")
                name = f"features.{int(number) + (len(self.early) if part == 'late' else 0)}.{kind}"
                if part == "fc":
                    name = f"{fc6 if number == '1' else fc7}.{kind}"
                if name not in state:
                    raise CheckpointError(f"{source}: lacks {name!r}; expected torchvision's or timm's vgg16")
                value = _thinned(state[name], number == "1") if part == "fc" else state[name]
                if value.shape != own.shape:
                    found = list(state[name].shape)
                    raise CheckpointError(f"{source}: {name} has shape {found}, which does not give {list(own.shape)}")
                values[f"{part}.{key}"] = value
        self.load_state_dict(values, strict=False)  # all but the length of conv4_3


def _thinned(value: Tensor, fc6: bool) -> Tensor:
    """The rows, and of a matrix the columns, that are left of a fully-connected layer of 4096 outputs."""
    if value.dim() == 1:
        return value[::4]
    if fc6:
        return value.view(len(value), -1, 7, 7)[::4, :, ::3, ::3]
    return value.view(len(value), -1)[::4, ::4, None, None]


class SSDMobileNet(nn.Module):
    """torchvision's MobileNet v3 (large), as its SSDLite has it: the last stage of half the width, batch-norms with an
    epsilon of 0.001, and for the first map the widened channels within the first block of stride 32."""

    def __init__(self, weights: str | None, in_channels: int = 3) -> None:
        super().__init__()
        if weights is not None:
            raise UsageError(
                f"backbone_weights: {weights!r}; {MOBILENET} is torchvision's network within SSDLite, narrower than "
                "the classifier of that name, so no weights of a classifier fit it. Start from "
                "init=torchvision/ssdlite320_mobilenet_v3_large, or take timm's mobilenetv3_large_100"
            )
        layers = mobilenet_v3_large(weights=None, norm_layer=LITE_NORM, reduced_tail=True).features
        if in_channels != 3:
            first = layers[0][0]
            layers[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, stride=2, padding=1, bias=False)
        place = max(i for i, layer in enumerate(layers) if getattr(layer, "_is_cn", False))
        block = layers[place].block
        self.early = nn.Sequential(*layers[:place], block[0])
        self.late = nn.Sequential(block[1:], *layers[place + 1 :])
        self.channels = [block[0].out_channels, layers[-1].out_channels]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.03)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of stride 16 (672 channels) and 32 (480)."""
        x = self.early(images)
        return [x, self.late(x)]
