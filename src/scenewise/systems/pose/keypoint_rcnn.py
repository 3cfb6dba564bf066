"""Keypoint R-CNN: Mask R-CNN's branch, drawing one-hot masks of a person's joints.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, sec. 5.
The detector is Faster R-CNN, its stated parent; here is the branch, its loss (a softmax over the cells of each joint's
map), and where a joint is put back.

Shapes: N images, R boxes of all images together, P positive boxes, J joints, M x M the maps' grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.box_head import HeadSpec
from scenewise.nn.features import Design, FeatureSpec
from scenewise.nn.roi_heads import DetectionSpec, RoISampler, Sampled
from scenewise.nn.rpn import ProposalSpec
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.keypoints import decode_keypoints, keypoint_targets
from scenewise.ops.roi import RoITransform
from scenewise.systems.detection.faster_rcnn import FasterRCNN
from scenewise.types import STRICT, Batch, InputSpec, Interface, Output


@dataclass(frozen=True)
class KeypointSpec:
    """The branch that finds joints.

    Attributes:
        count: J, the number of joints; COCO's person has 17.
        convs: 3x3 convolutions before the enlarging one.
        channels: their width.
        size: M, the side of a joint's map; a multiple of 4. The features are read on a grid of a quarter of it.
        shift: added to x and y of the joints found. Networks that were trained with COCO's numbers as they stand, which
            count from the centre of the first pixel, need 0.5.
    """

    __pydantic_config__ = STRICT
    count: int = 17
    convs: int = 8
    channels: int = 512
    size: int = 56
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.size % 4:
            raise UsageError(f"keypoints: size is {self.size}; expected a multiple of 4")


class KeypointRCNN(FasterRCNN):
    """Boxes of people and their joints.

    With its defaults and one class it is torchvision's ``keypointrcnn_resnet50_fpn``.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        design: ``"fpn"``, ``"c4"`` or ``"c5"``, as for Faster R-CNN.
        features: the maps that are read: strides, widths, what is frozen.
        anchors: their sizes, one entry a map (a pyramid has one more than ``features.strides``), and ratios.
        proposals: how the region proposal network is trained and read out.
        roi: how a box's features are read: RoIAlign, RoIPool or RoIWarp.
        head: what is read from each box, and what judges it.
        keypoints: the branch that finds joints.
        sampler: which proposals the second stage is trained on.
        hard_examples: train the second stage only on so many boxes an image, those with the largest loss (OHEM).
        loss_weights: factors on the loss terms ``objectness``, ``rpn_box``, ``class``, ``box``, ``keypoints``.
        detections: which boxes are given out.
        input: how images are resized and normalised; by default with a shorter side of 800 and at most 1333 pixels.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(
            needs=frozenset({"boxes", "labels", "keypoints"}),
            fills=frozenset({"boxes", "labels", "scores", "keypoints"}),
        )

    terms = (*FasterRCNN.terms, "keypoints")

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
        keypoints: KeypointSpec | None = None,
        sampler: RoISampler | None = None,
        hard_examples: int | None = None,
        loss_weights: Mapping[str, float] = {},
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
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
        self.keypoints = keypoints or KeypointSpec()
        self.keypoint_head = KeypointHead(self.features.channels, self.keypoints)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Faster R-CNN's terms and ``keypoints``."""
        self._check_count(batch)
        maps, sampled, terms = self._first_losses(batch)
        terms |= self._second_losses(maps, sampled)
        terms["keypoints"] = self._keypoint_loss(maps, sampled, batch)
        return self._weighted(terms)

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels, scores and joints [K,J,3]; each joint's third number is 1."""
        maps = self.features(self.pixels(batch))
        found = self._detect(maps, batch)
        boxes = [prediction.boxes for prediction in found]
        logits = self._draw(maps, boxes).split([len(b) for b in boxes])  # type: ignore[arg-type]
        joints = [decode_keypoints(x, p.boxes)[0] for p, x in zip(found, logits, strict=True)]  # type: ignore[arg-type]
        for points in joints:
            points[..., :2] += self.keypoints.shift
        return [dataclasses.replace(p, keypoints=points) for p, points in zip(found, joints, strict=True)]

    def probe(self, batch: Batch) -> Tensor:
        """What both stages and the branch say, the latter of one box in each image."""
        maps = self.features(self.pixels(batch))
        return torch.cat([super().probe(batch), self._draw(maps, self._probe_boxes(batch)).float().flatten()])

    def _keypoint_loss(self, maps: Sequence[Tensor], sampled: Sampled, batch: Batch) -> Tensor:
        """The mean cross-entropy over the labelled joints that lie in a positive box; 0 where there is none."""
        boxes, truth, _ = sampled.objects()
        logits = self._draw(maps, boxes)
        cells, valid = [], []
        for b, t, target in zip(boxes, truth, batch.targets, strict=True):
            cell, known = keypoint_targets(target["keypoints"][t], b, self.keypoints.size)
            cells.append(cell)
            valid.append(known)
        chosen = torch.cat(valid).flatten()
        if not chosen.any():
            return logits.sum() * 0
        rows = logits.flatten(0, 1).flatten(1)[chosen]  # [labelled joints, M*M]
        return F.cross_entropy(rows, torch.cat(cells).flatten()[chosen])

    def _draw(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Logits [R,J,M,M] of ``boxes``."""
        return self.keypoint_head(self._read(maps, boxes, self.keypoints.size // 4)).float()

    def _check_count(self, batch: Batch) -> None:
        for target in batch.targets:
            found = target["keypoints"].shape[1]
            if found != self.keypoints.count:
                raise UsageError(
                    f"keypoint-rcnn: image {target.get('image_id', '?')} has {found} keypoints an object; "
                    f"the model's keypoints.count is {self.keypoints.count}"
                )


class KeypointHead(nn.Module):
    """Logits of each joint's place from the features of a box: [R,C,M/4,M/4] -> [R,J,M,M]."""

    def __init__(self, in_channels: int, spec: KeypointSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for _ in range(spec.convs):
            layers += [nn.Conv2d(width, spec.channels, 3, padding=1), nn.ReLU(inplace=True)]
            width = spec.channels
        self.layers = nn.Sequential(*layers)
        self.enlarge = nn.ConvTranspose2d(width, spec.count, 4, 2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The logits; the last doubling is bilinear."""
        return F.interpolate(self.enlarge(self.layers(x)), scale_factor=2, mode="bilinear")
