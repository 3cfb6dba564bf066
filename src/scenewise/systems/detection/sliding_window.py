"""Sliding windows: a classifier applied at every position of an image, at several scales and aspect ratios.

The classical scheme; in convolutional form: Sermanet et al., "OverFeat: Integrated Recognition, Localization and
Detection using Convolutional Networks", ICLR 2014, https://arxiv.org/abs/1312.6229, sec. 3.
In this order: the pyramid and its windows, the classifier, its two ways to look at all windows, training.

For each window size and proportion the image is resized so that the window becomes a square of ``window`` pixels; the
windows then lie ``stride`` pixels apart. A window is classified by itself, as a crop; or the whole resized image goes
through the network once, and the classifier, a convolution with a kernel as large as a window's map, reads all windows
off it. Both give equal numbers where the network pads nothing. Where it pads, a crop sees zeros beyond its border and
the whole image sees the window's surroundings.

Shapes: N images, P windows, R crops of all images, C classes, S the side of a warped window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.backbone import Backbone, backbone_input
from scenewise.nn.roi_heads import RoISampler, detections, sample_rois
from scenewise.ops.boxes import DetectionSpec
from scenewise.ops.crops import warp_crops
from scenewise.types import STRICT, Batch, Count, InputSpec, Interface, Output, Positive

CHUNK = 64  # crops that go through the network at once in prediction


@dataclass(frozen=True)
class PyramidSpec:
    """The sizes and proportions of the windows.

    Attributes:
        smallest: the side of the smallest square window, in pixels of the image.
        octaves: how often that side is doubled.
        scales_per_octave: steps to a doubling.
        sides: the sides themselves, in place of the three above.
        ratios: height / width; windows of one side have equal areas.
    """

    __pydantic_config__ = STRICT
    smallest: Positive = 64.0
    octaves: Annotated[int, Field(ge=1, le=16)] = 2
    scales_per_octave: Count = 3
    sides: tuple[Positive, ...] | None = None
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)

    def shapes(self) -> list[tuple[float, float]]:
        """(height, width) of each kind of window, in pixels of the image."""
        steps = self.octaves * self.scales_per_octave
        sides = self.sides or [self.smallest * 2 ** (k / self.scales_per_octave) for k in range(steps + 1)]
        return [(side * ratio**0.5, side / ratio**0.5) for side in sides for ratio in self.ratios]


@dataclass(frozen=True)
class Level:
    """An image resized for one kind of window, and the windows' places on it."""

    size: tuple[int, int]  # (height, width) of the resized image
    rows: int
    columns: int


class SlidingWindow(Model):
    """A classifier over C classes and background, at every window of an image pyramid.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        level: which of the backbone's maps the classifier reads, as an index; -1 is the last.
        padding: ``"same"`` leaves the network as it is; with ``"valid"`` none of its convolutions and poolings pads,
            which plain networks such as VGG can bear and ResNets can't.
        pooling: what the classifier reads of a window's map: its ``"mean"``, or all of it (``"full"``).
        window: the side S that windows are warped to.
        stride: from one window to the next, in pixels of the resized image.
        pyramid: sizes and proportions of the windows.
        dense: read all windows off one map of the whole image; ``stride`` is then a multiple of the map's. False
            classifies them one by one.
        sampler: the windows of each image that the network is trained on.
        detections: which windows are given out; by default with class-wise suppression at an IoU of 0.5.
        input: how images are resized and normalised; by default they keep their size.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"boxes", "labels"}), fills=frozenset({"boxes", "labels", "scores"}))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        level: int = -1,
        padding: Literal["same", "valid"] = "same",
        pooling: Literal["mean", "full"] = "mean",
        window: Count = 224,
        stride: Count = 32,
        pyramid: PyramidSpec | None = None,
        dense: bool = True,
        sampler: RoISampler | None = None,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        self.backbone = Backbone(backbone, weights=backbone_weights, levels=(level,), in_channels=self.input.channels)
        if padding == "valid":
            _pad_nothing(self.backbone)
        self.window, self.stride, self.dense = window, stride, dense
        self.map_stride = self.backbone.strides[-1]
        if dense and stride % self.map_stride:
            raise UsageError(
                f"sliding-window: stride is {stride}; with dense, expected a multiple of {self.map_stride}, "
                f"the stride of the map of {backbone}"
            )
        cells = self._cells(backbone)
        kernel = 1 if pooling == "mean" else cells
        self.classifier = nn.Conv2d(self.backbone.channels[-1], len(self.classes) + 1, kernel)  # 0: background
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        self.pool = nn.AvgPool2d(cells if pooling == "mean" else 1, stride=1)
        self.pyramid = pyramid or PyramidSpec()
        self.sampler = sampler or RoISampler(samples=64)
        self.detections = detections or DetectionSpec()

    def _cells(self, name: str) -> int:
        """The side of a window's map."""
        training = self.backbone.training
        try:
            with torch.no_grad():
                found = self.backbone.eval()(torch.zeros(1, self.input.channels, self.window, self.window))[-1]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"sliding-window: {name} can't read a window of {self.window} pixels ({reason}); "
                "with padding='valid', give a plain network such as vgg11 and a larger window"
            ) from None
        self.backbone.train(training)
        return int(found.shape[-1])

    # ---- the windows

    def levels(self, size: tuple[int, int]) -> list[Level]:
        """An entry for each kind of window that fits into an image of ``size`` (height, width)."""
        found = []
        for height, width in self.pyramid.shapes():
            resized = round(size[0] * self.window / height), round(size[1] * self.window / width)
            rows, columns = (num_windows(side, self.window, self.stride) for side in resized)
            if rows and columns:
                found.append(Level(resized, rows, columns))
        return found

    def windows(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """All windows [P,4] in an image of ``size`` (height, width), level by level, each row by row."""
        levels = self.levels(size)
        return torch.cat([torch.zeros(0, 4), *(self._windows(level, size) for level in levels)]).to(device)

    def _windows(self, level: Level, size: tuple[int, int]) -> Tensor:
        y, x = torch.meshgrid(torch.arange(level.rows), torch.arange(level.columns), indexing="ij")
        corner = torch.stack((x, y), -1).reshape(-1, 2) * self.stride
        back = torch.tensor([size[1] / level.size[1], size[0] / level.size[0]])  # to pixels of the image
        return torch.cat((corner * back, (corner + self.window) * back), 1)

    # ---- prediction

    def logits(self, x: Tensor) -> Tensor:
        """[N,C+1,rows,columns] for images [N,3,h,w] no smaller than a window; one row and column for one window."""
        found: Tensor = self.pool(self.classifier(self.backbone(x)[-1]))
        return found

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        windows = [self.windows(size, batch.images.device) for size in batch.sizes]
        scores = [self.window_logits(image, dense=self.dense).softmax(1) for image in self._images(batch)]
        none = torch.zeros(sum(map(len, windows)), 4 * (len(self.classes) + 1), device=batch.images.device)
        return detections(torch.cat(scores), none, windows, batch.sizes, self.detections)

    def probe(self, batch: Batch) -> Tensor:
        """The logits of all windows, which may be none, and of the whole image."""
        found = [self.window_logits(image, dense=self.dense) for image in self._images(batch)]
        whole = [batch.images.new_tensor([[0, 0, w, h]]) for h, w in batch.sizes]
        found += [self._crop_logits(image, box) for image, box in zip(self._images(batch), whole, strict=True)]
        return torch.cat([logits.flatten() for logits in found])

    def window_logits(self, image: Tensor, *, dense: bool) -> Tensor:
        """float32 [P,C+1] of all windows in a normalised image [3,H,W], from one map a level or from crops."""
        size = int(image.shape[-2]), int(image.shape[-1])
        if not dense:
            return self._crop_logits(image, self.windows(size, image.device))
        found = [image.new_zeros((0, len(self.classes) + 1)).float()]
        for level in self.levels(size):
            resized = F.interpolate(image[None], level.size, mode="bilinear", align_corners=False)
            step = self.stride // self.map_stride
            logits = self.logits(resized)[0, :, ::step, ::step][:, : level.rows, : level.columns]
            found.append(logits.flatten(1).T.float())
        return torch.cat(found)

    def _crop_logits(self, image: Tensor, boxes: Tensor) -> Tensor:
        parts = [self.logits(warp_crops(image, some, self.window)) for some in boxes.split(CHUNK) if len(some)]
        empty = image.new_zeros((0, len(self.classes) + 1))
        return torch.cat([empty, *(part.flatten(1) for part in parts)]).float()

    # ---- training

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy of a sample of windows and of the true boxes: objects where the IoU is at least 0.5."""
        windows = []
        for height, width in batch.sizes:
            found = self.windows((height, width), batch.images.device)
            whole = found.new_tensor([[0, 0, width, height]])
            windows.append(found if len(found) else whole)  # an image that no window fits into
        sampled = sample_rois(windows, batch.targets, self.sampler)
        crops = [warp_crops(x, b, self.window) for x, b in zip(self._images(batch), sampled.boxes, strict=True)]
        logits = self.logits(torch.cat(crops)).flatten(1).float()
        return {"class": F.cross_entropy(logits, sampled.labels, reduction="sum") / max(1, len(logits))}

    def _images(self, batch: Batch) -> Iterator[Tensor]:
        """The normalised images [3,h,w] without their padding."""
        for pixels, (height, width) in zip(self.pixels(batch), batch.sizes, strict=True):
            yield pixels[:, :height, :width]


def num_windows(side: int, window: int, stride: int) -> int:
    """How many windows fit along a ``side``: floor((side - window) / stride) + 1, 0 where none fits."""
    return max(0, (side - window) // stride + 1)


def _pad_nothing(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            layer.padding = 0 if not isinstance(layer, nn.Conv2d) else (0, 0)
