"""FCN: a classifier made fully convolutional, its coarse scores refined by those of finer maps.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
https://arxiv.org/abs/1411.4038; Shelhamer, Long and Darrell, PAMI 2017, https://arxiv.org/abs/1605.06211.
In order of the paper: the classifier as convolutions (sec. 3.1, in nn/vgg.py), upsampling by transposed convolution
(sec. 3.3), scores and skips (sec. 4.2), starting from the coarser net (sec. 4.2), at-once training (PAMI, sec. 4.3).

Where we differ: a fixed bilinear transposed convolution is computed as an interpolation, with equal numbers several
times as fast; the loss is a mean over pixels, where the released training sums over them (so its learning rates are to
be multiplied by the number of pixels); and any timm network may take VGG16's place.

The file also holds :class:`FCNResNet`, which torchvision calls FCN: another network, without skips.

Shapes: N images of H x W pixels, C classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.backbone import Backbone, backbone_input
from scenewise.nn.layers import fcn_head, upsample
from scenewise.nn.semantic import CROSS_ENTROPY, LossTerms, SegmentationLoss, outputs
from scenewise.nn.vgg import VGG16, Grid, Padding
from scenewise.types import IGNORE, Batch, Dropout, InputSpec, Interface, Output, Weight

UpsamplingName = Literal["bilinear", "learned", "dense"]

AT_ONCE = {16: 1e-2, 8: 1e-4}  # bring the norms of these strides' maps near that of fc7 (PAMI, sec. 4.3)


class FCN(Model):
    """FCN-32s, FCN-16s and FCN-8s.

    A 1x1 convolution scores the stride-32 map; the scores are enlarged by 2 and those of the stride-16 map added, and
    so on down to ``stride``; the sum is enlarged to the image. Score layers start at zero, so that a new skip leaves
    the coarser net's scores as they are (see :meth:`load_coarser`).

    Args:
        classes: names of the classes, in label order.
        backbone: ``"vgg16"`` with its fully-connected layers as convolutions, or a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        stride: that of the finest map that is scored.
        padding: of VGG16: ``"caffe"``, 100 pixels around the image, as released; ``"same"``, which at 500 x 500 takes
            half the memory. None is ``"caffe"`` for vgg16 and ``"same"`` for others, which know no other.
        upsampling: the enlargements by 2: ``"bilinear"``, fixed; ``"learned"``, a transposed convolution of each class
            by itself that starts bilinear; ``"dense"``, of each class from all, likewise.
        final_upsampling: the same for the last enlargement, which the paper holds fixed.
        at_once: scale the stride-16 map by 0.01 and the stride-8 map by 0.0001 before they are scored, so that all
            strides can be trained in one go.
        dropout: after fc6 and fc7; for other backbones, before the stride-32 map is scored.
        width_factor: VGG16's number of channels as a share of the paper's; published weights need 1.
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
        backbone: str = "vgg16",
        backbone_weights: str | None = None,
        stride: Literal[8, 16, 32] = 8,
        padding: Padding | None = None,
        upsampling: UpsamplingName = "bilinear",
        final_upsampling: UpsamplingName = "bilinear",
        at_once: bool = False,
        dropout: Dropout = 0.5,
        width_factor: Annotated[float, Field(gt=0, le=4)] = 1.0,
        loss: LossTerms = CROSS_ENTROPY,
        class_weights: tuple[Weight, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        self.strides = [s for s in (32, 16, 8) if s >= stride]  # from coarse to fine
        self.backbone: VGG16 | Backbone
        if backbone == "vgg16":
            if self.input.channels != 3:
                raise UsageError(
                    f"fcn: input.channels is {self.input.channels}; backbone vgg16 takes 3, others such as vgg16_bn any"
                )
            self.backbone = VGG16(
                weights=backbone_weights, padding=padding or "caffe", dropout=dropout, width_factor=width_factor
            )
            self.dropout: nn.Module = nn.Identity()
            grids = dict(zip(self.backbone.strides, self.backbone.grids, strict=True))
        else:
            _refuse_vgg_options(backbone, padding, width_factor)
            self.backbone = Backbone(backbone, weights=backbone_weights, in_channels=self.input.channels)
            self.dropout = nn.Dropout(dropout)
            grids = {s: Grid(s, (s - 1) / 2) for s in self.strides}  # cells tile the image
        self.levels = {s: _level(self.backbone, backbone, s) for s in self.strides}
        self.scale = {s: AT_ONCE.get(s, 1.0) if at_once else 1.0 for s in self.strides}

        count = len(self.classes)
        self.scores = nn.ModuleDict()
        self.upsamplings = nn.ModuleDict()
        self.offsets: dict[int, int] = {}  # stride -> the cell of the map of scores on the enlarged sum's cell 0
        for s in self.strides:
            self.scores[str(s)] = _zero(nn.Conv2d(self.backbone.channels[self.levels[s]], count, 1))
        grid = grids[32]
        for s in self.strides[1:]:
            self.upsamplings[str(s)] = Upsampling(count, 2, upsampling)
            enlarged = grid.transposed(4, 2)
            self.offsets[s] = grids[s].cell(enlarged.start)
            grid = grids[s] if self.offsets[s] < 0 else enlarged
        self.final_upsampling = Upsampling(count, stride, final_upsampling)
        self.final_offset = grid.transposed(2 * stride, stride).cell(0)
        self.loss = SegmentationLoss(loss, count, class_weights)

    def logits(self, batch: Batch) -> Tensor:
        """[N,C,H,W] at the resolution of the batch's images."""
        height, width = batch.images.shape[-2:]
        maps = self.backbone(self.pixels(batch))
        x = self.scores["32"](self.dropout(maps[self.levels[32]]))
        for stride in self.strides[1:]:
            finer = self.scores[str(stride)](maps[self.levels[stride]] * self.scale[stride])
            x = _add(self.upsamplings[str(stride)](x), finer, self.offsets[stride])
        x = self.final_upsampling(x)
        return _fit(x, self.final_offset, height, width)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution."""
        found: dict[str, Tensor] = self.loss(self.logits(batch), batch.stacked("semantic", IGNORE), batch)
        return found

    def predict(self, batch: Batch) -> list[Output]:
        """Logits at the images' resolution."""
        return outputs(self.logits(batch), batch)

    def load_coarser(self, coarser: FCN) -> None:
        """Start from ``coarser``, a trained net of larger stride; the score layers that it lacks stay as they are.

        A fresh net then gives the coarser one's scores, enlarged in two steps in place of one. All names and shapes are
        shared, but for a learned ``final_upsampling``, whose kernel depends on the stride and is not taken over.

        Raises:
            UsageError: ``coarser`` is not coarser, or has other classes or weights of other names or shapes.
        """
        if coarser.strides[-1] <= self.strides[-1]:
            raise UsageError(f"fcn: stride {coarser.strides[-1]} is not coarser than stride {self.strides[-1]}")
        if coarser.classes != self.classes:
            raise UsageError("fcn: the coarser net has other classes")
        own = self.state_dict()
        taken = {k: v for k, v in coarser.state_dict().items() if not k.startswith("final_upsampling.")}
        for key, value in taken.items():
            if key not in own or own[key].shape != value.shape:
                found = list(own[key].shape) if key in own else "absent"
                raise UsageError(f"fcn: {key} is {list(value.shape)} in the coarser net and {found} in this one")
        self.load_state_dict({**own, **taken})


class FCNResNet(Model):
    """A dilated backbone, a small head and one bilinear enlargement: what torchvision calls FCN.

    With the defaults it is torchvision's ``fcn_resnet50``.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        output_stride: that of the map that the head sees.
        dropout: before the head's classifier.
        auxiliary: a second head on the stage before the last, used by the loss alone.
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
        output_stride: Literal[8, 16, 32] = 8,
        dropout: Dropout = 0.1,
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
        self.classifier = fcn_head(last, len(self.classes), dropout)
        self.auxiliary = fcn_head(middle, len(self.classes), dropout) if auxiliary else None
        self.auxiliary_weight = auxiliary_weight
        self.loss = SegmentationLoss(loss, len(self.classes), class_weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution, and the auxiliary head's."""
        target = batch.stacked("semantic", IGNORE)  # [N,H,W]
        middle, last = self.backbone(self.pixels(batch))
        terms: dict[str, Tensor] = self.loss(upsample(self.classifier(last), target.shape[-2:]), target, batch)
        if self.auxiliary is not None:
            auxiliary = self.loss(upsample(self.auxiliary(middle), target.shape[-2:]), target, batch)
            terms["auxiliary"] = self.auxiliary_weight * torch.stack(list(auxiliary.values())).sum()
        return terms

    def predict(self, batch: Batch) -> list[Output]:
        """Logits at the images' resolution."""
        logits = self.classifier(self.backbone(self.pixels(batch))[-1])
        return outputs(upsample(logits, batch.images.shape[-2:]), batch)


class Upsampling(nn.Module):
    """Transposed convolution with stride ``factor``, kernel 2 * ``factor``, no padding, no bias.

    [N,C,h,w] becomes [N,C,(h + 1) * factor,(w + 1) * factor]; a border of ``factor / 2`` surrounds the cells' own area.
    ``factor`` is even. All kinds (see :class:`FCN`) start as bilinear interpolation that falls to zero at the border.
    """

    def __init__(self, classes: int, factor: int, kind: UpsamplingName) -> None:
        super().__init__()
        self.factor = factor
        self.transposed: nn.ConvTranspose2d | None = None
        if kind != "bilinear":
            groups = classes if kind == "learned" else 1
            self.transposed = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, groups=groups, bias=False)
            with torch.no_grad():
                self.transposed.weight.zero_()  # [C,1,k,k] or [C,C,k,k]
                for c in range(classes):
                    self.transposed.weight[c, 0 if groups > 1 else c] = bilinear_kernel(factor)

    def forward(self, x: Tensor) -> Tensor:
        """The enlarged map."""
        if self.transposed is not None:
            found: Tensor = self.transposed(x)
            return found
        bordered = F.pad(x, (1, 1, 1, 1))
        enlarged = F.interpolate(bordered, scale_factor=self.factor, mode="bilinear", align_corners=False)
        cut = self.factor // 2
        return enlarged[..., cut:-cut, cut:-cut]


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel [2 * factor, 2 * factor] of bilinear enlargement by an even ``factor``."""
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs()  # of each tap to the kernel's centre
    weight = 1 - distance / factor
    return weight[:, None] * weight


def _refuse_vgg_options(backbone: str, padding: Padding | None, width_factor: float) -> None:
    if padding == "caffe":
        raise UsageError(f"fcn: padding='caffe' is for backbone vgg16; with {backbone} leave it out")
    if width_factor != 1:
        raise UsageError(f"fcn: width_factor={width_factor} is for backbone vgg16; with {backbone} leave it out")


def _level(backbone: VGG16 | Backbone, name: str, stride: int) -> int:
    """The index of the backbone's last map of ``stride``."""
    found = [index for index, s in enumerate(backbone.strides) if s == stride]
    if not found:
        raise UsageError(f"fcn: backbone {name} has no map of stride {stride}; it has {backbone.strides}")
    return found[-1]


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _add(enlarged: Tensor, finer: Tensor, offset: int) -> Tensor:
    """The sum of two maps where they overlap; cell 0 of ``enlarged`` lies on cell ``offset`` of ``finer``."""
    if offset < 0:
        return _fit(enlarged, -offset, *finer.shape[-2:]) + finer
    return enlarged + _fit(finer, offset, *enlarged.shape[-2:])


def _fit(x: Tensor, offset: int, height: int, width: int) -> Tensor:
    """``height`` x ``width`` cells of ``x`` from cell ``offset`` on.

    The maps of a network without zero padding (Inception) end before the image does; they are stretched.
    """
    return upsample(x[..., offset : offset + height, offset : offset + width], (height, width))
