"""Mask R-CNN: Faster R-CNN and, in parallel, a small network that finds the mask of the object in each box.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870.
In order of the paper: the two stages (sec. 3; ``faster_rcnn.py``, its stated parent), RoIAlign (``ops/roi.py``), the
mask heads (fig. 4) and their loss, prediction (sec. 3.1), keypoints beside masks (sec. 5; ``nn/keypoint_head.py``). The
talk of Fathi, Kanazawa and Murphy (COCO workshop, 2017) adds the options ``features="intermediate"`` and ``boundary``.
Where we differ: masks are cut from the objects' bitmaps by RoIAlign, as in torchvision, so their borders are fractions.

Shapes: N images, R boxes of all images together, P positive boxes, M x M the mask's grid, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.branches import ONE_MAP, Branch, BranchFeatures, with_branches
from scenewise.nn.features import Design, Features, FeatureSpec
from scenewise.nn.keypoint_head import KeypointSpec
from scenewise.nn.layers import conv_norm
from scenewise.nn.roi_heads import Sampled
from scenewise.ops.masks import crop_masks, mask_boundary, mask_nms, paste_masks
from scenewise.systems.detection.faster_rcnn import FasterRCNN
from scenewise.types import STRICT, Channels, Count, Interface, Layers, Output, Share, Side, Target, Weight


@dataclass(frozen=True)
class MaskSpec:
    """The branch that finds masks.

    Attributes:
        head: ``"fcn"``, convolutions, or ``"mlp"``, fully-connected layers (table 2e).
        convs: 3x3 convolutions before the enlarging one, in the former.
        channels: their width.
        norm: ``"batch"`` puts a batch-norm after each of those 3x3 convolutions.
        hidden: fully-connected layers of 1024 before the last, in ``"mlp"``; the paper's are 2 and 3.
        size: M, the side of a mask; even.
        output: ``"sigmoid"``: each class has masks of its own that do not compete; ``"softmax"``: they do, with one of
            the background besides (table 2b).
        class_agnostic: one mask for all classes.
        features: ``"intermediate"`` adds a map from the middle of the backbone, pooled at the same boxes.
        intermediate_stride: which one.
        boundary: also learn the mask's boundary, see :class:`MaskHead`.
        boundary_width: in cells.
        boundary_fusion: the logits of the boundary, which must be learnt, too, are part of the features of the mask.
        boundary_weight: of its loss.
        nms_iou: of two objects of a class whose masks overlap more, the one with the lower score goes; None: none does.
    """

    __pydantic_config__ = STRICT
    branch: ClassVar[str] = "mask_head"
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})
    fills: ClassVar[frozenset[str]] = frozenset({"roi_masks"})

    head: Literal["fcn", "mlp"] = "fcn"
    convs: Layers = 4
    channels: Channels = 256
    norm: Literal["none", "batch"] = "none"
    size: Side = 28
    output: Literal["sigmoid", "softmax"] = "sigmoid"
    class_agnostic: bool = False
    features: Literal["last", "intermediate"] = "last"
    intermediate_stride: Count = 8
    boundary: bool = False
    boundary_width: Count = 1
    boundary_fusion: bool = False
    boundary_weight: Weight = 1.0
    nms_iou: Share | None = None
    hidden: Layers = 2

    def __post_init__(self) -> None:
        if self.size % 2:
            raise UsageError(f"mask: size is {self.size}; expected an even number")
        if self.output == "softmax" and self.class_agnostic:
            raise UsageError("mask: output 'softmax' lets classes compete, which class_agnostic leaves none of")
        if self.boundary and self.head != "fcn":
            raise UsageError(f"mask: boundary is true and head is {self.head!r}; a boundary needs head 'fcn'")
        if self.boundary_fusion and not self.boundary:
            raise UsageError(
                "mask: boundary_fusion is true and boundary is false; fusion needs the boundary: give boundary: true"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The branch's loss terms."""
        return ("mask", "boundary") if self.boundary else ("mask",)

    @property
    def intermediate(self) -> int | None:
        """The stride of the map from the middle of the backbone; None: none is pooled from."""
        return self.intermediate_stride if self.features == "intermediate" else None

    def build(self, features: Features, stage_channels: int | None, classes: int) -> MaskHead:
        """The head on ``features``, or on the last stage, which the masks then share with the boxes (fig. 4, left)."""
        width = features.channels if stage_channels is None else stage_channels
        return MaskHead(width + features.intermediate_channels, classes, self, stage_channels is not None)


class MaskRCNN(FasterRCNN):
    """Boxes, classes and masks of objects; with ``keypoints`` their keypoints, too.

    With its defaults it is torchvision's ``maskrcnn_resnet50_fpn``. With design ``"c4"`` and a ResNet, masks are found
    by the features of the network's last stage, which they share with the boxes (fig. 4, left).

    Args:
        mask: the branch that finds masks.
        keypoints: the branch that finds keypoints, for boxes, masks and keypoints by one network (sec. 5); None: there
            is none.
    """

    @classmethod
    def interface(cls, *, keypoints: KeypointSpec | None = None, **arguments: Any) -> Interface:
        """What it reads and returns, keypoints where it has that branch."""
        return with_branches(MaskSpec, *([] if keypoints is None else [KeypointSpec]))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        mask: MaskSpec | None = None,
        keypoints: KeypointSpec | None = None,
        **shared: Any,
    ) -> None:
        spec = mask or self.defaults(**shared)["mask"]
        super().__init__(classes, [spec] if keypoints is None else [spec, keypoints], **shared)

    @classmethod
    def defaults(cls, *, design: Design = "fpn", **shared: Any) -> dict[str, Any]:
        """The specs of ``design`` in the paper; one map has stride 16 in C4 and 32 in C5, and C4's masks 14 cells."""
        found = super().defaults(design=design, **shared) | {"mask": MaskSpec()}
        if design != "fpn":
            found |= ONE_MAP
        if design == "c4":
            found["mask"] = MaskSpec(size=14)
        if design == "c5":
            found["features"] = FeatureSpec(output_stride=32)
        return found


class MaskHead(Branch):
    """Mask logits from the features of a box.

    With ``boundary``, there are logits of each object's boundary, too: its mask without the part that is more than
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
        # the stage halves the grid that is pooled, and the enlarging convolution doubles it again
        self.grid = spec.size if shared else spec.size // 2
        self.outputs = 1 if spec.class_agnostic else classes + (spec.output == "softmax")
        if spec.head == "mlp":
            self.layers: nn.Module = self._fully_connected(in_channels * (spec.size // 2) ** 2)
        else:
            self._build_convolutions(in_channels, shared)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if spec.head == "fcn":
            nn.init.normal_(self.mask_logits.weight, std=0.001)

    def _fully_connected(self, width: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(self.spec.hidden):
            layers += [nn.Linear(width, 1024), nn.ReLU(inplace=True)]
            width = 1024
        return nn.Sequential(*layers, nn.Linear(width, self.outputs * self.spec.size**2))

    def _build_convolutions(self, width: int, shared: bool) -> None:
        spec = self.spec
        layers: list[nn.Module] = []
        for _ in range(0 if shared else spec.convs):
            layers += [*conv_norm(width, spec.channels, 3, spec.norm), nn.ReLU(inplace=True)]
            width = spec.channels
        layers += [nn.ConvTranspose2d(width, spec.channels, 2, 2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.mask_logits = nn.Conv2d(spec.channels, self.outputs, 1)
        self.boundary_logits = nn.Conv2d(spec.channels, self.outputs, 1) if spec.boundary else None
        fused = spec.channels + self.outputs
        self.fusion = nn.Conv2d(fused, spec.channels, 3, padding=1) if spec.boundary_fusion else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [R,outputs,M,M] of masks, and of boundaries where they are learnt."""
        x = self.layers(x)
        if self.spec.head == "mlp":
            return x.view(-1, self.outputs, self.spec.size, self.spec.size), None
        outline = None if self.boundary_logits is None else self.boundary_logits(x)
        if self.fusion is not None:
            assert outline is not None
            x = F.relu(self.fusion(torch.cat([x, outline], 1)))
        return self.mask_logits(x), outline

    # ---- the branch

    def losses(self, features: BranchFeatures, sampled: Sampled, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``mask``, the mean cross-entropy over the cells of the positive boxes' masks; ``boundary`` if learnt."""
        boxes, truth, labels = sampled.objects()
        logits, outlines = self._logits(features, boxes)
        masks, aligned = [target["masks"] for target in targets], features.spec.aligned
        terms = {"mask": self.loss(logits, labels, self._in_boxes(masks, boxes, truth, aligned))}
        if outlines is not None:
            edges = [mask_boundary(mask, self.spec.boundary_width) for mask in masks]
            target = self._in_boxes(edges, boxes, truth, aligned)
            terms["boundary"] = self.spec.boundary_weight * boundary_loss(outlines, labels, target)
        return terms

    def predict(self, features: BranchFeatures, found: Sequence[Output]) -> list[Output]:
        """The masks in the frames of the boxes, probabilities [K,M,M]; with ``nms_iou`` those of fewer objects."""
        boxes = [_given(one.boxes) for one in found]
        logits, _ = self._logits(features, boxes)
        labels = torch.cat([_given(one.labels) for one in found])
        masks = self.probabilities(logits, labels).split([len(b) for b in boxes])
        filled = [dataclasses.replace(one, roi_masks=mask) for one, mask in zip(found, masks, strict=True)]
        iou = self.spec.nms_iou
        return filled if iou is None else [suppress_masks(one, iou) for one in filled]

    def probe(self, features: BranchFeatures, boxes: Sequence[Tensor]) -> list[Tensor]:
        """The mask logits of ``boxes``, and those of their boundaries where they are learnt."""
        return [logits for logits in self._logits(features, boxes) if logits is not None]

    def _logits(self, features: BranchFeatures, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Mask logits [R,outputs,M,M] of ``boxes``, and those of their boundaries."""
        x = features.pool(boxes, self.grid)
        if features.stage is not None:
            x = features.stage(x)
        if self.spec.intermediate is not None:
            finer = features.pool_intermediate(boxes, x.shape[-1])
            x = torch.cat([x, finer.to(x.dtype)], 1)
        found: tuple[Tensor, Tensor | None] = self(x)
        return found

    def _in_boxes(
        self, maps: Sequence[Tensor], boxes: Sequence[Tensor], truth: Sequence[Tensor], aligned: bool
    ) -> Tensor:
        """Masks or boundaries ``maps`` (N times bool [G,H,W]) in the frames of ``boxes``: [P,M,M], 0..1."""
        rows = zip(maps, boxes, truth, strict=True)
        return torch.cat([crop_masks(m, b, t, self.spec.size, aligned=aligned) for m, b, t in rows])

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mask of each box's own class: [R,M,M] in 0..1, from logits [R,outputs,M,M] and labels [R]."""
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


@torch.no_grad()
def suppress_masks(found: Output, iou: float) -> Output:
    """``found`` without the objects whose mask overlaps one of their class with a higher score by more than ``iou``."""
    boxes, labels, scores, masks = (_given(v) for v in (found.boxes, found.labels, found.scores, found.roi_masks))
    kept = mask_nms(paste_masks(masks, boxes, found.size), scores, labels, iou)
    return dataclasses.replace(
        found, boxes=boxes[kept], labels=labels[kept], scores=scores[kept], roi_masks=masks[kept]
    )


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


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
