"""Mask R-CNN: Faster R-CNN and, in parallel, a small network that draws a mask in each box.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870.
In order of the paper: the two stages (sec. 3; ``faster_rcnn.py``, its stated parent), RoIAlign (``ops/roi.py``), the
mask heads (fig. 4) and their loss, prediction (sec. 3.1). The talk of Fathi, Kanazawa and Murphy (COCO workshop, 2017)
adds the options ``features="intermediate"`` and ``boundary``.
Where we differ: masks are cut from the objects' bitmaps by RoIAlign, as in torchvision, so their borders are fractions.

Shapes: N images, R boxes of all images together, P positive boxes, M x M the mask's grid, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.box_head import HeadSpec, StageFeatures
from scenewise.nn.features import Design, FeatureSpec
from scenewise.nn.layers import conv_norm
from scenewise.nn.roi_heads import DetectionSpec, RoISampler, Sampled
from scenewise.nn.rpn import ProposalSpec
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.masks import crop_masks, mask_boundary
from scenewise.ops.roi import RoITransform, roi_align
from scenewise.systems.detection.faster_rcnn import FasterRCNN
from scenewise.types import STRICT, Batch, InputSpec, Interface, Output


@dataclass(frozen=True)
class MaskSpec:
    """The branch that draws masks.

    Attributes:
        head: ``"fcn"``, convolutions, or ``"mlp"``, two fully-connected layers of 1024 (table 2e).
        convs: 3x3 convolutions before the enlarging one, in the former.
        channels: their width.
        norm: ``"batch"`` puts a batch-norm after each of those 3x3 convolutions.
        size: M, the side of a mask; even.
        output: ``"sigmoid"``: each class has masks of its own that do not compete; ``"softmax"``: they do, with one of
            the background besides (table 2b).
        class_agnostic: one mask for all classes.
        features: ``"intermediate"`` adds a map from the middle of the backbone, read at the same boxes.
        intermediate_stride: which one.
        boundary: also learn the mask's boundary, see :class:`MaskHead`.
        boundary_width: in cells.
        boundary_fusion: the boundary helps to draw the mask.
        boundary_weight: of its loss.
    """

    __pydantic_config__ = STRICT
    head: Literal["fcn", "mlp"] = "fcn"
    convs: int = 4
    channels: int = 256
    norm: Literal["none", "batch"] = "none"
    size: int = 28
    output: Literal["sigmoid", "softmax"] = "sigmoid"
    class_agnostic: bool = False
    features: Literal["last", "intermediate"] = "last"
    intermediate_stride: int = 8
    boundary: bool = False
    boundary_width: int = 1
    boundary_fusion: bool = False
    boundary_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.size % 2:
            raise UsageError(f"mask: size is {self.size}; expected an even number")
        if self.output == "softmax" and self.class_agnostic:
            raise UsageError("mask: output 'softmax' lets classes compete, which class_agnostic leaves none of")


class MaskRCNN(FasterRCNN):
    """Boxes, classes and masks of objects.

    With its defaults it is torchvision's ``maskrcnn_resnet50_fpn``.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        design: ``"fpn"``, ``"c4"`` or ``"c5"``, as for Faster R-CNN. With ``c4`` and a ResNet, masks are drawn from the
            features of the network's last stage, which they share with the boxes (fig. 4, left).
        features: the maps that are read: strides, widths, what is frozen.
        anchors: their sizes, one entry a map (a pyramid has one more than ``features.strides``), and ratios.
        proposals: how the region proposal network is trained and read out.
        roi: how a box's features are read: RoIAlign, RoIPool or RoIWarp (table 2c).
        head: what is read from each box, and what judges it.
        mask: the branch that draws masks.
        sampler: which proposals the second stage is trained on.
        hard_examples: train the second stage only on so many boxes an image, those with the largest loss (OHEM).
        loss_weights: factors on the loss terms ``objectness``, ``rpn_box``, ``class``, ``box``, ``mask``, ``boundary``.
        detections: which boxes are given out.
        input: how images are resized and normalised; by default with a shorter side of 800 and at most 1333 pixels.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(
            needs=frozenset({"boxes", "labels", "masks"}), fills=frozenset({"boxes", "labels", "scores", "roi_masks"})
        )

    terms = (*FasterRCNN.terms, "mask", "boundary")

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        design: Design = "fpn",
        features: FeatureSpec | None = None,
        anchors: AnchorSpec | None = None,
        proposals: ProposalSpec | None = None,
        roi: RoITransform = "align",
        head: HeadSpec | None = None,
        mask: MaskSpec | None = None,
        sampler: RoISampler | None = None,
        hard_examples: int | None = None,
        loss_weights: Mapping[str, float] = {},
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        spec = mask or MaskSpec()
        if spec.features == "intermediate":
            self.intermediate = spec.intermediate_stride
        super().__init__(
            classes,
            backbone=backbone,
            backbone_weights=backbone_weights,
            design=design,
            features=features,
            anchors=anchors,
            proposals=proposals,
            roi=roi,
            head=head,
            sampler=sampler,
            hard_examples=hard_examples,
            loss_weights=loss_weights,
            detections=detections,
            input=input,
        )
        self.mask = spec
        shared = isinstance(self.head, StageFeatures)
        width = self.head.channels if shared else self.features.channels
        # the stage halves the grid of the boxes and the enlarging convolution doubles it again
        self.mask_grid = spec.size if shared else spec.size // 2
        self.mask_head = MaskHead(width + self.features.intermediate_channels, len(self.classes), spec, shared)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Faster R-CNN's terms, ``mask``, and ``boundary`` where it is learnt."""
        maps, sampled, terms = self._first_losses(batch)
        terms |= self._second_losses(maps, sampled)
        terms |= self._mask_losses(maps, sampled, batch)
        return self._weighted(terms)

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels, scores and the masks in the boxes' frames: probabilities [K,M,M]."""
        maps = self.features(self.pixels(batch))
        found = self._detect(maps, batch)
        boxes = [prediction.boxes for prediction in found]
        logits, _ = self._draw(maps, boxes)  # type: ignore[arg-type]
        labels = torch.cat([prediction.labels for prediction in found])  # type: ignore[misc]
        masks = self.mask_head.probabilities(logits, labels).split([len(b) for b in boxes])  # type: ignore[arg-type]
        return [dataclasses.replace(p, roi_masks=m) for p, m in zip(found, masks, strict=True)]

    def probe(self, batch: Batch) -> Tensor:
        """What both stages and the branch say, the latter of one box in each image."""
        maps = self.features(self.pixels(batch))
        drawn = self._draw(maps, self._probe_boxes(batch))
        return torch.cat([super().probe(batch), *(x.float().flatten() for x in drawn if x is not None)])

    def _mask_losses(self, maps: Sequence[Tensor], sampled: Sampled, batch: Batch) -> dict[str, Tensor]:
        """The mean cross-entropy over the cells of the positive boxes' masks."""
        boxes, truth, labels = sampled.objects()
        logits, boundary_logits = self._draw(maps, boxes)
        terms = {"mask": self.mask_head.loss(logits, labels, self._targets(batch, boxes, truth))}
        if boundary_logits is not None:
            outlines = [mask_boundary(t["masks"], self.mask.boundary_width) for t in batch.targets]
            target = self._targets(batch, boxes, truth, outlines)
            terms["boundary"] = self.mask.boundary_weight * boundary_loss(boundary_logits, labels, target)
        return terms

    def _targets(
        self, batch: Batch, boxes: list[Tensor], truth: list[Tensor], maps: list[Tensor] | None = None
    ) -> Tensor:
        """The objects' masks (or the ``maps`` in their place) in the frames of ``boxes``: [P,M,M], 0..1."""
        maps = [target["masks"] for target in batch.targets] if maps is None else maps
        found = [
            crop_masks(m, b, t, self.mask.size, aligned=self.read.aligned)
            for m, b, t in zip(maps, boxes, truth, strict=True)
        ]
        return torch.cat(found)

    def _draw(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Mask logits [R,C,M,M] of ``boxes``, and those of their boundaries."""
        x = self._read(maps, boxes, self.mask_grid)
        if isinstance(self.head, StageFeatures):
            x = self.head.stage(x)
        if self.intermediate is not None:
            finer = roi_align(
                maps[-1],
                boxes,
                x.shape[-1],
                1 / self.intermediate,
                sampling=self.read.sampling,
                aligned=self.read.aligned,
            )
            x = torch.cat([x, finer.to(x.dtype)], 1)
        return self.mask_head(x)


class MaskHead(nn.Module):
    """Mask logits from the features of a box.

    With ``boundary``, a second output draws each object's boundary: its mask without the part that is more than
    ``boundary_width`` cells inside. With ``boundary_fusion`` the boundary's logits join the features of a last 3x3
    convolution of the mask's path. (The talk shows the idea only in pictures; this is how we read it.)

    Args:
        in_channels: the width of the features.
        classes: their number.
        spec: the options.
        shared: the features come from the network's last stage, and no convolutions are added (fig. 4, left).
    """

    def __init__(self, in_channels: int, classes: int, spec: MaskSpec, shared: bool) -> None:
        super().__init__()
        self.spec = spec
        self.outputs = 1 if spec.class_agnostic else classes + (spec.output == "softmax")
        if spec.head == "mlp":
            grid = spec.size // 2
            self.layers: nn.Module = nn.Sequential(
                nn.Flatten(),
                nn.Linear(in_channels * grid * grid, 1024),
                nn.ReLU(inplace=True),
                nn.Linear(1024, 1024),
                nn.ReLU(inplace=True),
                nn.Linear(1024, self.outputs * spec.size**2),
            )
            if spec.boundary:
                raise UsageError("mask: boundary needs head 'fcn'")
        else:
            layers: list[nn.Module] = []
            width = in_channels
            for _ in range(0 if shared else spec.convs):
                layers += [*conv_norm(width, spec.channels, 3, spec.norm), nn.ReLU(inplace=True)]
                width = spec.channels
            layers += [nn.ConvTranspose2d(width, spec.channels, 2, 2), nn.ReLU(inplace=True)]
            self.layers = nn.Sequential(*layers)
            self.classifier = nn.Conv2d(spec.channels, self.outputs, 1)
            self.boundary = nn.Conv2d(spec.channels, self.outputs, 1) if spec.boundary else None
            fused = spec.channels + self.outputs
            self.fusion = nn.Conv2d(fused, spec.channels, 3, padding=1) if spec.boundary_fusion else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if spec.head == "fcn":
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [R,outputs,M,M] of masks, and of boundaries where they are learnt."""
        x = self.layers(x)
        if self.spec.head == "mlp":
            return x.view(-1, self.outputs, self.spec.size, self.spec.size), None
        outline = None if self.boundary is None else self.boundary(x)
        if self.fusion is not None:
            x = F.relu(self.fusion(torch.cat([x, outline], 1)))  # type: ignore[list-item]
        return self.classifier(x), outline

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What each box's own class sees: [R,M,M] in 0..1, from logits [R,outputs,M,M] and labels [R]."""
        logits = logits.float()
        if self.spec.output == "softmax":
            return of_class(logits.softmax(1), labels + 1)
        return of_class(logits, labels).sigmoid()

    def loss(self, logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
        """The mean over all cells of ``target`` [P,M,M]; 0 where there are no boxes."""
        logits = logits.float()
        if not len(labels):
            return logits.sum() * 0
        if self.spec.output == "softmax":
            inside = target.round().long()
            return F.cross_entropy(logits, inside * (labels + 1)[:, None, None])
        return F.binary_cross_entropy_with_logits(of_class(logits, labels), target)


def boundary_loss(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy over the cells; boundary cells, which are few, weigh up to ten times as much."""
    logits = logits.float()
    if not len(labels):
        return logits.sum() * 0
    share = target.mean()
    weight = ((1 - share) / share.clamp(min=1e-6)).clamp(1, 10)
    return F.binary_cross_entropy_with_logits(of_class(logits, labels), target, pos_weight=weight)


def of_class(maps: Tensor, labels: Tensor) -> Tensor:
    """The map [R,M,M] of each row's own class in ``maps`` [R,outputs,M,M]; the only one, where there is one output."""
    if maps.shape[1] == 1:
        return maps[:, 0]
    return maps[torch.arange(len(labels), device=labels.device), labels]
