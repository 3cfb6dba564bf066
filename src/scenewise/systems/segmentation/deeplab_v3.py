"""DeepLabV3 and DeepLabV3+: dilated backbones and atrous spatial pyramid pooling.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, https://arxiv.org/abs/1706.05587;
Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, https://arxiv.org/abs/1802.02611.
In order of the papers: output stride, cascade and multi-grid (V3, sec. 3.1 and 3.2), ASPP with image pooling (V3, sec.
3.3), decoder (V3+, sec. 3.1).

Shapes: N images of H x W pixels, C classes.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.aspp import ASPP
from scenewise.nn.backbone import Backbone, backbone_input, dilation, resnet_stages, set_dilation
from scenewise.nn.layers import conv_bn_relu, fcn_head, upsample
from scenewise.nn.semantic import CROSS_ENTROPY, LossTerms, SegmentationLoss, outputs
from scenewise.types import IGNORE, Batch, Channels, Count, Dropout, InputSpec, Interface, Output, Weight


class DeepLabV3(Model):
    """Dilated backbone, ASPP or further dilated blocks, classifier; logits at the output stride, enlarged bilinearly.

    A network trained at one output stride can be used at the other: the weights fit both.

    With ``output_stride=8, multi_grid=None, head_conv=True`` it is torchvision's network of the same name.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        output_stride: 16 or 8; the ASPP's rates double at 8.
        multi_grid: by how much the dilation of each unit of the last stage is multiplied, for ResNets, one factor a
            unit: with (1, 2, 4) and three units the dilations are 2, 4, 8 at output stride 16 and 4, 8, 16 at 8. None
            leaves the backbone as timm and torchvision dilate it, where a stage's first unit is one step behind.
        design: ``"aspp"``, or ``"cascade"`` for the paper's other design: copies of the last stage behind it, each of
            twice the dilation of the one before, and no ASPP.
        cascade_blocks: their number in the cascade; 3 gives the paper's block5 to block7. (The paper's best
            multi_grid for the cascade is (1, 2, 1).)
        rates: the ASPP's rates at output stride 16.
        image_pooling: whether the ASPP sees the image's mean; training then needs two images or more a batch.
        aspp_channels: the width of the ASPP, and of ``head_conv``.
        head_conv: a 3x3 convolution before the classifier, as in torchvision.
        dropout: after the ASPP or cascade; torchvision's value.
        auxiliary: a second classifier on the stage before the last, used by the loss alone, as in torchvision.
        auxiliary_weight: the weight of its loss.
        loss: the weight of each loss by its name, or a mapping of its ``weight`` and its own parameters.
        class_weights: the weight of each class in the cross-entropy.
        input: how images are resized and normalised; by default as the backbone's weights want it.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"semantic"}), fills=frozenset({"semantic_logits"}))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        output_stride: Literal[8, 16] = 16,
        multi_grid: tuple[int, ...] | None = (1, 2, 4),
        design: Literal["aspp", "cascade"] = "aspp",
        cascade_blocks: Annotated[int, Field(ge=0, le=16)] = 3,
        rates: tuple[Count, ...] = (6, 12, 18),
        image_pooling: bool = True,
        aspp_channels: Channels = 256,
        head_conv: bool = False,
        dropout: Dropout = 0.5,
        auxiliary: bool = False,
        auxiliary_weight: Weight = 0.5,
        loss: LossTerms = CROSS_ENTROPY,
        class_weights: tuple[Weight, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        self.backbone = Backbone(
            backbone,
            weights=backbone_weights,
            output_stride=output_stride,
            levels=(-2, -1),
            in_channels=self.input.channels,
        )
        middle, last = self.backbone.channels
        if multi_grid is not None:
            _apply_multi_grid(self.backbone, multi_grid)
        if design == "cascade":
            self.context: nn.Module = _cascade(self.backbone, cascade_blocks, dropout)
            width = last
        else:
            self.context = ASPP(
                last,
                aspp_channels,
                rates=[rate * 16 // output_stride for rate in rates],
                image_pooling=image_pooling,
                dropout=dropout,
            )
            width = aspp_channels
        head = [*conv_bn_relu(width, aspp_channels)] if head_conv else []
        self.classifier = nn.Sequential(*head, nn.Conv2d(aspp_channels if head else width, len(self.classes), 1))
        self.auxiliary = fcn_head(middle, len(self.classes)) if auxiliary else None
        self.auxiliary_weight = auxiliary_weight
        self.loss = SegmentationLoss(loss, len(self.classes), class_weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution, and the auxiliary head's."""
        target = batch.stacked("semantic", IGNORE)  # [N,H,W]
        middle, last = self.backbone(self.pixels(batch))
        logits = upsample(self.classifier(self.context(last)), target.shape[-2:])
        terms: dict[str, Tensor] = self.loss(logits, target, batch)
        if self.auxiliary is not None:
            auxiliary = self.loss(upsample(self.auxiliary(middle), target.shape[-2:]), target, batch)
            terms["auxiliary"] = self.auxiliary_weight * torch.stack(list(auxiliary.values())).sum()
        return terms

    def predict(self, batch: Batch) -> list[Output]:
        """Logits at the images' resolution."""
        logits = self.classifier(self.context(self.backbone(self.pixels(batch))[-1]))
        return outputs(upsample(logits, batch.images.shape[-2:]), batch)


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
        loss: the weight of each loss by its name, or a mapping of its ``weight`` and its own parameters.
        class_weights: the weight of each class in the cross-entropy.
        input: how images are resized and normalised; by default as the backbone's weights want it.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"semantic"}), fills=frozenset({"semantic_logits"}))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        output_stride: Literal[8, 16] = 16,
        rates: tuple[Count, ...] = (6, 12, 18),
        aspp_channels: Channels = 256,
        decoder_strides: tuple[int, ...] = (4,),
        skip_channels: tuple[Channels, ...] = (48,),
        decoder_channels: Channels = 256,
        separable: bool = True,
        dropout: Dropout = 0.1,
        loss: LossTerms = CROSS_ENTROPY,
        class_weights: tuple[Weight, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        if len(decoder_strides) != len(skip_channels):
            raise UsageError(
                f"deeplab-v3-plus: skip_channels has {len(skip_channels)} numbers; "
                f"expected one for each of the {len(decoder_strides)} decoder_strides"
            )
        self.backbone = Backbone(
            backbone, weights=backbone_weights, output_stride=output_stride, in_channels=self.input.channels
        )
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
        found: Tensor = self.classifier(x)
        return found

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution."""
        target = batch.stacked("semantic", IGNORE)  # [N,H,W]
        found: dict[str, Tensor] = self.loss(upsample(self.logits(batch), target.shape[-2:]), target, batch)
        return found

    def predict(self, batch: Batch) -> list[Output]:
        """Logits at the images' resolution."""
        return outputs(upsample(self.logits(batch), batch.images.shape[-2:]), batch)


def _apply_multi_grid(backbone: Backbone, factors: tuple[int, ...]) -> None:
    """Dilate all units of a dilated stage alike, then those of the last by ``factors`` times that (sec. 3.2.1)."""
    *earlier, last = resnet_stages(backbone, f"deeplab-v3: multi_grid={list(factors)} (give null for none)")
    if len(last) != len(factors):
        raise UsageError(
            f"deeplab-v3: multi_grid has {len(factors)} factors; expected one for each of the {len(last)} units of the "
            f"last stage of {backbone.name}"
        )
    for stage in earlier:
        if dilation(stage) > 1:
            set_dilation(stage, dilation(stage))
    rate = dilation(last)
    for unit, factor in zip(last, factors, strict=True):
        set_dilation(unit, rate * factor)


def _cascade(backbone: Backbone, blocks: int, dropout: float) -> nn.Sequential:
    """``blocks`` copies of a ResNet's last stage, weights included, each of twice the dilation of the one before.

    Where the ResNet would have halved the map before each, the dilation doubles instead (sec. 3.2, fig. 3). The first
    unit of the stage widens its input, which a copy need not do: the copy's first unit is the stage's second.
    """
    last = resnet_stages(backbone, "deeplab-v3: design='cascade'")[-1]
    if len(last) < 2:
        raise UsageError(
            f"deeplab-v3: design='cascade' needs two or more units in the last stage; {backbone.name} has 1"
        )
    copies = []
    for block in range(1, blocks + 1):
        units = [copy.deepcopy(last[max(number, 1)]) for number in range(len(last))]
        for unit, original in zip(units, last, strict=True):
            set_dilation(unit, dilation(original) * 2**block)
        copies.append(nn.Sequential(*units))
    return nn.Sequential(*copies, nn.Dropout(dropout))
