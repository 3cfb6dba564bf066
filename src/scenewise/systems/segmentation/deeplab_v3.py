"""DeepLabV3 and DeepLabV3+: dilated backbones and atrous spatial pyramid pooling.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, https://arxiv.org/abs/1706.05587;
Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, https://arxiv.org/abs/1802.02611.
In order of the papers: output stride and multi-grid (V3, sec. 3.1 and 3.2), ASPP with image pooling (V3, sec. 3.3),
decoder (V3+, sec. 3.1).

Shapes: N images of H x W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.aspp import ASPP
from scenewise.nn.backbone import Backbone, backbone_input
from scenewise.nn.layers import conv_bn_relu, upsample
from scenewise.systems.segmentation.parts import LossName, SegmentationLoss, predictions
from scenewise.types import IGNORE, Batch, InputSpec, Prediction


class DeepLabV3(Model):
    """Dilated backbone, ASPP, classifier; logits at the output stride, enlarged bilinearly.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        output_stride: 16 or 8; the ASPP's rates double at 8.
        multi_grid: the factors by which the rates of the last stage's three units are multiplied (ResNets).
        rates: the ASPP's rates at output stride 16.
        image_pooling: whether the ASPP sees the image's mean.
        aspp_channels: the width of the head.
        head_conv: a 3x3 convolution before the classifier, as in torchvision.
        dropout: before the classifier's layers.
        auxiliary: a second classifier on the stage before the last, used in training alone.
        auxiliary_weight: the weight of its loss.
        loss: the weight of each loss term.
        class_weights: the weight of each class in the cross-entropy.
        input: how images are resized and normalised; by default as the backbone's weights want it.
    """

    needs = frozenset({"semantic"})
    fills = frozenset({"semantic_logits"})

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        output_stride: Literal[8, 16] = 16,
        multi_grid: tuple[int, int, int] = (1, 2, 4),
        rates: tuple[int, ...] = (6, 12, 18),
        image_pooling: bool = True,
        aspp_channels: int = 256,
        head_conv: bool = False,
        dropout: float = 0.5,
        auxiliary: bool = False,
        auxiliary_weight: float = 0.4,
        loss: Mapping[LossName, float] = {"cross-entropy": 1.0},  # noqa: B006 (never changed)
        class_weights: tuple[float, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        self.backbone = Backbone(backbone, weights=backbone_weights, output_stride=output_stride, levels=(-2, -1))
        if tuple(multi_grid) != (1, 1, 1):
            _apply_multi_grid(self.backbone, multi_grid)
        self.aspp = ASPP(
            self.backbone.channels[-1],
            aspp_channels,
            rates=[rate * 16 // output_stride for rate in rates],
            image_pooling=image_pooling,
            dropout=dropout,
        )
        head = [*conv_bn_relu(aspp_channels, aspp_channels)] if head_conv else []
        self.classifier = nn.Sequential(*head, nn.Conv2d(aspp_channels, len(self.classes), 1))
        self.auxiliary = fcn_head(self.backbone.channels[-2], len(self.classes)) if auxiliary else None
        self.auxiliary_weight = auxiliary_weight
        self.loss = SegmentationLoss(loss, len(self.classes), class_weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution, and the auxiliary head's."""
        target = batch.stacked("semantic", IGNORE)  # [N,H,W]
        middle, last = self.backbone(self.pixels(batch))
        terms = self.loss(upsample(self.classifier(self.aspp(last)), target.shape[-2:]), target)
        if self.auxiliary is not None:
            auxiliary = self.loss(upsample(self.auxiliary(middle), target.shape[-2:]), target)
            terms["auxiliary"] = self.auxiliary_weight * torch.stack(list(auxiliary.values())).sum()
        return terms

    def predict(self, batch: Batch) -> list[Prediction]:
        """Logits at the images' resolution."""
        logits = self.classifier(self.aspp(self.backbone(self.pixels(batch))[-1]))
        return predictions(upsample(logits, batch.images.shape[-2:]), batch, self.classes)


class DeepLabV3Plus(Model):
    """DeepLabV3's encoder with a decoder that adds finer maps of the backbone.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        output_stride: 16 or 8; the ASPP's rates double at 8.
        rates: the ASPP's rates at output stride 16.
        aspp_channels: the width of the ASPP.
        decoder_strides: the strides of the maps that the decoder adds, from coarse to fine; the paper's is (4,).
        skip_channels: the width to which each of those maps is reduced.
        decoder_channels: the width of the decoder.
        separable: depthwise separable 3x3 convolutions in ASPP and decoder.
        dropout: after the ASPP and before the classifier.
        loss: the weight of each loss term.
        class_weights: the weight of each class in the cross-entropy.
        input: how images are resized and normalised; by default as the backbone's weights want it.
    """

    needs = frozenset({"semantic"})
    fills = frozenset({"semantic_logits"})

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        output_stride: Literal[8, 16] = 16,
        rates: tuple[int, ...] = (6, 12, 18),
        aspp_channels: int = 256,
        decoder_strides: tuple[int, ...] = (4,),
        skip_channels: tuple[int, ...] = (48,),
        decoder_channels: int = 256,
        separable: bool = True,
        dropout: float = 0.1,
        loss: Mapping[LossName, float] = {"cross-entropy": 1.0},  # noqa: B006 (never changed)
        class_weights: tuple[float, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        if len(decoder_strides) != len(skip_channels):
            raise UsageError(
                f"deeplab-v3-plus: skip_channels has {len(skip_channels)} numbers; "
                f"expected one for each of the {len(decoder_strides)} decoder_strides"
            )
        self.backbone = Backbone(backbone, weights=backbone_weights, output_stride=output_stride)
        strides = self.backbone.strides
        for stride in decoder_strides:
            if stride not in strides:
                raise UsageError(f"deeplab-v3-plus: {backbone} has no map of stride {stride}; it has {strides}")
        self.levels = [max(i for i, s in enumerate(strides) if s == stride) for stride in decoder_strides]
        self.aspp = ASPP(
            self.backbone.channels[-1],
            aspp_channels,
            rates=[rate * 16 // output_stride for rate in rates],
            separable=separable,
            dropout=dropout,
        )
        self.skips = nn.ModuleList(
            conv_bn_relu(self.backbone.channels[level], width, 1)
            for level, width in zip(self.levels, skip_channels, strict=True)
        )
        inputs = [aspp_channels] + [decoder_channels] * (len(skip_channels) - 1)
        self.steps = nn.ModuleList(
            nn.Sequential(
                *conv_bn_relu(width + skip, decoder_channels, separable=separable),
                *conv_bn_relu(decoder_channels, decoder_channels, separable=separable),
            )
            for width, skip in zip(inputs, skip_channels, strict=True)
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(decoder_channels, len(self.classes), 1))
        self.loss = SegmentationLoss(loss, len(self.classes), class_weights)

    def logits(self, batch: Batch) -> Tensor:
        """[N,C,H/s,W/s] at the finest of the decoder's strides s."""
        maps = self.backbone(self.pixels(batch))
        x = self.aspp(maps[-1])
        for level, skip, step in zip(self.levels, self.skips, self.steps, strict=True):
            finer = skip(maps[level])
            x = step(torch.cat([upsample(x, finer.shape[-2:]), finer], 1))
        return self.classifier(x)  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution."""
        target = batch.stacked("semantic", IGNORE)  # [N,H,W]
        return self.loss(upsample(self.logits(batch), target.shape[-2:]), target)  # type: ignore[no-any-return]

    def predict(self, batch: Batch) -> list[Prediction]:
        """Logits at the images' resolution."""
        return predictions(upsample(self.logits(batch), batch.images.shape[-2:]), batch, self.classes)


def fcn_head(inputs: int, classes: int) -> nn.Sequential:
    """3x3 convolution to a quarter of the width, batch-norm, ReLU, dropout 0.1, 1x1 classifier."""
    return nn.Sequential(*conv_bn_relu(inputs, inputs // 4), nn.Dropout(0.1), nn.Conv2d(inputs // 4, classes, 1))


def _apply_multi_grid(backbone: Backbone, factors: tuple[int, int, int]) -> None:
    """Multiply the dilation of the last stage's units by ``factors`` (sec. 3.1: Multi-grid Method)."""
    stage = getattr(backbone.network, "layer4", None)
    if stage is None or len(stage) != len(factors):
        raise UsageError(
            f"deeplab-v3: multi_grid={tuple(factors)} needs a ResNet whose last stage has {len(factors)} units; "
            f"{backbone.name} has none. Give multi_grid=[1, 1, 1]"
        )
    rate = max(m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d))
    for unit, factor in zip(stage, factors, strict=True):
        for conv in unit.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.stride == (1, 1):
                conv.dilation = conv.padding = (rate * factor, rate * factor)
