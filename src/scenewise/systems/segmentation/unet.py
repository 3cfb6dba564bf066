"""U-Net: an encoder and a decoder of equal depth, joined level by level, trained from scratch on few images.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
https://arxiv.org/abs/1505.04597. In order of the paper: network (sec. 2), training, initialisation and border weights
(sec. 3); elastic deformation (sec. 3.1) is in ``data/transforms/elastic.py``, overlapping tiles (fig. 2) in
``engine/tiles.py``.

The network's convolutions are unpadded, so its map is smaller than what it sees. As in fig. 2, the model feeds it the
image extended by mirroring, so that ``losses`` and ``predict`` cover the whole image, and no pixel of an image depends
on the batch that it is in.

Where the paper's text and the authors' release differ, we follow the release: a ReLU follows each up-convolution, and
dropout of 0.5 acts on the last level of the encoder (and so on its skip connection) and on the bottom.

Shapes: N images of H x W pixels, C classes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.semantic import CROSS_ENTROPY, LossTerms, SegmentationLoss, outputs
from scenewise.ops.border_weights import border_weights
from scenewise.ops.mirror import mirrored_window
from scenewise.types import IGNORE, Batch, Channels, Dropout, InputSpec, Interface, Output, Positive, Weight

Up = Literal["upconv", "bilinear", "nearest"]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode "L"


class UNet(Model):
    """The network of fig. 1 with the loss of eq. 1 and 2.

    Args:
        classes: names of the classes, in label order.
        padding: of the 3x3 convolutions: ``"valid"`` for none, the image being extended by mirroring instead, or
            ``"same"`` for a ring of zeros, which needs less memory and time.
        width: the channels of the first level; each further level doubles them.
        depth: how often the map is halved.
        in_channels: 3 for all channels of ``input``, 1 for grey (the luma of the normalised RGB image).
        norm: ``"batch"`` for batch-norm after each 3x3 convolution; the paper has none.
        dropout: at the end of the encoder.
        up: how the decoder doubles its map: ``"upconv"`` learns it (2x2, stride 2); the others interpolate and halve
            the channels by a 1x1 convolution.
        border_weight: whether the background between close objects weighs more (eq. 2); ``losses`` then reads
            ``masks`` beside ``semantic``, and the weight of a pixel is that of its class plus the border's.
        w0: the border's weight in a gap of no width.
        sigma: in pixels, how fast it falls with the width of the gap.
        loss: the weight of each loss by its name, or a mapping of its ``weight`` and its own parameters.
        class_weights: the weight of each class in the cross-entropy, w_c in eq. 2.
        input: how images are resized and normalised. The default maps 0..1 to -2..2 in each channel.

    The border weights are made in ``losses`` rather than by a transform: they follow from the masks as the transforms
    left them, hold for the validation loss too, and no data set or recipe has to know of them. They are computed on
    the CPU, about 0.2 ms for each object of a few hundred pixels on one core.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """Class scores, learned from class maps; border weights are computed from masks."""
        needs = {"semantic", "masks"} if arguments.get("border_weight") else {"semantic"}
        return Interface(needs=frozenset(needs), fills=frozenset({"semantic_logits"}))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        padding: Literal["valid", "same"] = "valid",
        width: Channels = 64,
        depth: Annotated[int, Field(ge=1, le=8)] = 4,
        in_channels: Literal[1, 3] = 3,
        norm: Literal["batch"] | None = None,
        dropout: Dropout = 0.5,
        up: Up = "upconv",
        border_weight: bool = False,
        w0: Weight = 10.0,
        sigma: Positive = 5.0,
        loss: LossTerms = CROSS_ENTROPY,
        class_weights: tuple[Weight, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or InputSpec(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
        if width < 1 or depth < 1:
            raise UsageError(f"unet: width is {width} and depth is {depth}; expected 1 or more")
        if border_weight and "cross-entropy" not in loss:
            raise UsageError(f"unet: border_weight needs the loss term cross-entropy; loss has {', '.join(loss)}")
        if in_channels == 1 and self.input.channels not in (1, 3):
            raise UsageError(
                f"unet: in_channels is 1, the luma of RGB images, and input.channels is {self.input.channels}; leave "
                "it out"
            )
        self.luma = in_channels == 1 and self.input.channels == 3
        self.network = Network(
            1 if self.luma else self.input.channels,
            len(self.classes),
            width,
            depth,
            padding=padding,
            norm=norm,
            dropout=dropout,
            up=up,
        )
        self.border_weight, self.w0, self.sigma = border_weight, w0, sigma
        self.loss = SegmentationLoss(loss, len(self.classes), class_weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the logits at full resolution."""
        target = batch.stacked("semantic", IGNORE)  # [N,H,W]
        logits = self.logits(batch)
        weighted: dict[str, dict[str, Tensor | None]] = {}
        if self.border_weight:  # eq. 1; the weights of the classes are in those of the pixels
            weighted["cross-entropy"] = {"pixel_weights": self.pixel_weights(batch), "class_weights": None}
        found: dict[str, Tensor] = self.loss(logits, target, batch, of_term=weighted)
        return found

    def predict(self, batch: Batch) -> list[Output]:
        """Logits at the images' resolution."""
        return outputs(self.logits(batch), batch)

    def logits(self, batch: Batch) -> Tensor:
        """[N,C,H,W] at the size of the batch's canvas."""
        height, width = batch.images.shape[-2:]
        found: Tensor = self.network(self.extended(batch))[..., :height, :width]
        return found

    def extended(self, batch: Batch) -> Tensor:
        """The batch's pixels, each image continued by mirroring to a size whose map covers the canvas."""
        pixels = self.pixels(batch)
        if self.luma:
            pixels = (pixels * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        height, width = batch.images.shape[-2:]
        size = self.network.input_length(height), self.network.input_length(width)
        border = self.network.border
        if batch.padded:
            rows = zip(pixels, batch.sizes, strict=True)
            windows = [mirrored_window(row[:, :h, :w], -border, -border, size) for row, (h, w) in rows]
            return torch.stack(windows).contiguous(memory_format=torch.channels_last)
        return mirrored_window(pixels, -border, -border, size).contiguous(memory_format=torch.channels_last)

    def pixel_weights(self, batch: Batch) -> Tensor:
        """w of eq. 2, [N,H,W]: the weight of each pixel's class, and on the background the border's weight."""
        target = batch.stacked("semantic", IGNORE)
        weights = torch.ones(target.shape, device=target.device)
        of_class = self.loss.weights_of("cross-entropy")
        if of_class is not None:
            weights = of_class.to(target.device)[target.masked_fill(target == IGNORE, 0)]
        for row, objects in zip(weights, batch.targets, strict=True):
            border = border_weights(objects["masks"], w0=self.w0, sigma=self.sigma)
            row[: border.shape[0], : border.shape[1]] += border
        return weights


class Network(nn.Module):
    """The U of fig. 1.

    Args:
        inputs: the channels of the image.
        outputs: the channels of the map: one a class.
        width: the channels of the first level.
        depth: how often the map is halved.
        padding: ``"valid"`` or ``"same"``, of the 3x3 convolutions.
        norm: ``"batch"`` or None.
        dropout: after the last level of the encoder and after the bottom.
        up: how the decoder doubles its map.

    ``border`` is the number of pixels at each side of the input that the map lacks: 92 at depth 4 without padding.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 64,
        depth: int = 4,
        *,
        padding: Literal["valid", "same"] = "valid",
        norm: Literal["batch"] | None = None,
        dropout: float = 0.5,
        up: Up = "upconv",
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        valid = padding == "valid"
        self.down = nn.ModuleList(
            _two_convs(before, after, valid, norm) for before, after in zip([inputs, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(_Doubling(2 * w, w, up, valid) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_two_convs(2 * w, w, valid, norm) for w in reversed(widths[:-1]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, outputs, 1)
        self.apply(_he_init)
        self.stride = 2**depth
        # Going up a level, the map loses 2 pixels at each side in the convolutions and `trim` in the interpolation.
        trim = 1 if valid and up == "bilinear" else 0
        self._lost_down = 4 * (self.stride - 1) if valid else 0
        self._lost_up = (4 + 2 * trim) * (self.stride - 1) if valid else 0
        self._lost_bottom = 4 if valid else 0
        self.border = (self._lost_down + self._lost_bottom * self.stride + self._lost_up) // 2

    def input_length(self, wanted: int) -> int:
        """The smallest height (or width) of an input whose map is ``wanted`` or more high, and even at each pooling."""
        bottom = math.ceil((wanted + self._lost_up) / self.stride)
        found: int = (bottom + self._lost_bottom) * self.stride + self._lost_down
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[N,inputs,H,W] -> [N,outputs,H-2*border,W-2*border].

        Raises:
            UsageError: the size does not stay even at each pooling.
        """
        for name, length in zip(("height", "width"), x.shape[-2:], strict=True):
            fitting = self.input_length(max(1, length - 2 * self.border))
            if length != fitting:
                raise UsageError(
                    f"unet: an input of {name} {length} does not stay even at each pooling; {fitting} does"
                )
        skips = []
        for level, convs in enumerate(self.down):
            x = convs(F.max_pool2d(x, 2) if level else x)
            if level >= len(self.down) - 2:
                x = self.dropout(x)
            skips.append(x)
        skips.pop()  # the bottom is no skip connection
        for double, convs in zip(self.up, self.merge, strict=True):
            x = double(x)
            x = convs(torch.cat([_centre(skips.pop(), x.shape[-2:]), x], 1))
        found: Tensor = self.classifier(x)
        return found


class _Doubling(nn.Module):
    """Twice the height and width at half the channels."""

    def __init__(self, inputs: int, outputs: int, up: Up, valid: bool) -> None:
        super().__init__()
        self.mode = up
        # Bilinear interpolation makes up its outermost pixels; a valid map leaves them out.
        self.trim = valid and up == "bilinear"
        conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2) if up == "upconv" else nn.Conv2d(inputs, outputs, 1)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """[N,inputs,H,W] -> [N,outputs,2H,2W], or 2H - 2 and 2W - 2 where the border is trimmed."""
        if self.mode == "upconv":
            return F.relu(self.conv(x))
        # The 1x1 convolution commutes with the interpolation; before it, it costs a quarter.
        x = F.interpolate(self.conv(x), scale_factor=2, mode=self.mode)
        return F.relu(x[..., 1:-1, 1:-1] if self.trim else x)


def _two_convs(inputs: int, outputs: int, valid: bool, norm: Literal["batch"] | None) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by batch-norm where ``norm`` asks for it, and ReLU."""
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        layers.append(nn.Conv2d(before, outputs, 3, padding=0 if valid else 1, bias=norm is None))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _centre(x: Tensor, size: torch.Size) -> Tensor:
    """The central ``size`` (H, W) of ``x`` [N,C,h,w]; the differences are even."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


def _he_init(module: nn.Module) -> None:
    """Weights from N(0, sqrt(2 / n)), n being the number of values that one output sums up (sec. 3); biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # The taps of an up-convolution do not overlap: each output sums over the channels alone.
        taps = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
        nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * taps)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
