"""R-FCN: a fully convolutional detector; each cell of a box votes by score maps of its own.

Dai, Li, He and Sun, "R-FCN: Object Detection via Region-based Fully Convolutional Networks", NIPS 2016,
https://arxiv.org/abs/1605.06409.
In order of the paper: the dilated network and proposals from conv4 (sec. 2, "Backbone architecture"), score maps,
position-sensitive pooling and voting (eq. 1 and 2), class-agnostic boxes, training with hard examples.
``bins="crop"``: Huang et al., "Speed/Accuracy Trade-offs for Modern Convolutional Object Detectors", CVPR 2017, sec. 3.
Where we differ: 4 k^2 box maps as in the paper, where the release has as many again for the background; cells are
rounded by torchvision's rule, which ``bins="release"`` changes; both stages are trained at once; images are normalised
by ImageNet's mean and standard deviation.

Shapes: N images, R boxes of all images together, C classes, k x k cells of a box.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.features import Features, FeatureSpec
from scenewise.nn.roi_heads import RoISampler, detections, sample_rois, second_stage_losses
from scenewise.nn.rpn import ONE_MAP_ANCHORS, ONE_MAP_PROPOSALS, RPN, ProposalSpec, Scored
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.boxes import DetectionSpec
from scenewise.ops.matching import HardExamples
from scenewise.ops.roi import crop_and_resize, ps_roi_pool
from scenewise.types import Batch, Channels, Count, InputSpec, Interface, Output, Weight

CONV4_STRIDE = 16  # of the map that proposals are read from, in the network as it is without dilation
PROPOSALS = dataclasses.replace(ONE_MAP_PROPOSALS, train_before_nms=6000, train_after_nms=300)
EVERY_PROPOSAL = RoISampler(samples=1_000_000, positive_fraction=1.0)  # hard examples are chosen among all

Bins = Literal["pool", "release", "crop"]


class RFCN(Model):
    """Proposals, and for each the mean vote of its k x k cells, each pooled from its own maps.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor whose last stage can be dilated: a ResNet of any depth, among others.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        features: the last map's output stride, what is frozen; the fields of a pyramid have no effect.
        channels: the width of the 1x1 convolution between the last map and the score maps.
        k: cells a side of a box, each with its own score maps; the paper's are 3 and 7.
        bins: how a cell is pooled: ``"pool"``, the mean of its pixels as in torchvision; ``"release"``, the same with
            the paper's rounding; ``"crop"``, the mean of bilinear samples as in TensorFlow's detectors.
        crop_samples: the samples a side of a cell for ``bins="crop"``.
        anchors: the sizes of the one map's anchors, and ratios.
        proposals: the proposal network, how it is trained and which boxes it returns.
        hard_examples: train the second stage only on this many boxes per image, those with the largest loss (OHEM).
            None: on those that ``sampler`` draws.
        sampler: which proposals the second stage is trained on; by default all of them with ``hard_examples``, else
            128 per image.
        beta: where the second stage's smooth L1 loss turns from square to straight.
        box_weight: of both box losses against the class and objectness losses (the paper's lambda).
        detections: which boxes are returned.
        input: how images are resized and normalised; by default with a shorter side of 600 and at most 1000 pixels.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"boxes", "labels"}), fills=frozenset({"boxes", "labels", "scores"}))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet101",
        backbone_weights: str | None = None,
        features: FeatureSpec | None = None,
        channels: Channels = 1024,
        k: Annotated[int, Field(ge=1, le=64)] = 7,
        bins: Bins = "pool",
        crop_samples: Count = 3,
        anchors: AnchorSpec | None = None,
        proposals: ProposalSpec | None = None,
        hard_examples: Count | HardExamples | None = 128,
        sampler: RoISampler | None = None,
        beta: Weight = 1.0,
        box_weight: Weight = 1.0,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone, short_side=600, long_side=1000, size_divisor=32))
        self.features = Features(
            backbone,
            in_channels=self.input.channels,
            weights=backbone_weights,
            design="c5",
            spec=features,
            intermediate=CONV4_STRIDE,
        )
        default = self.defaults(hard_examples=hard_examples)
        stride = self.features.intermediate_stride
        assert stride is not None
        self.rpn = RPN(
            self.features.intermediate_channels,
            anchors or default["anchors"],
            proposals or default["proposals"],
            strides=(stride,),
        )
        self.reduce = nn.Conv2d(self.features.channels, channels, 1)
        self.class_maps = nn.Conv2d(channels, (len(self.classes) + 1) * k**2, 1)  # channel (c k + row) k + column
        self.box_maps = nn.Conv2d(channels, 4 * k**2, 1)
        for layer in (self.reduce, self.class_maps, self.box_maps):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.k, self.bins, self.crop_samples = k, bins, crop_samples
        self.hard_examples, self.beta, self.box_weight = hard_examples, beta, box_weight
        self.sampler = sampler or default["sampler"]
        self.detections = detections or default["detections"]

    @classmethod
    def defaults(cls, *, hard_examples: Count | HardExamples | None = 128, **_: Any) -> dict[str, Any]:
        """The paper's specs; hard examples are chosen among all proposals."""
        return {
            "anchors": ONE_MAP_ANCHORS,
            "proposals": PROPOSALS,
            "sampler": RoISampler(samples=128) if hard_examples is None else EVERY_PROPOSAL,
            "detections": DetectionSpec(nms_iou=0.3),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``objectness`` and ``rpn_box`` of the first stage, ``class`` and ``box`` of the second."""
        conv5, conv4 = self.features(self.pixels(batch))
        scored = self._score_anchors(conv4, batch)
        proposals = [boxes for boxes, _ in self.rpn.proposals(scored, batch.sizes, training=True)]
        sampled = sample_rois(proposals, batch.targets, self.sampler)
        logits, deltas = self._vote(conv5, sampled.boxes)
        first = self.rpn.losses(scored, batch)
        second = second_stage_losses(logits, deltas, sampled, beta=self.beta, hard=self.hard_examples)
        return {
            "objectness": first["objectness"],
            "rpn_box": self.box_weight * first["rpn_box"],
            "class": second["class"],
            "box": self.box_weight * second["box"],
        }

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        conv5, conv4 = self.features(self.pixels(batch))
        scored = self._score_anchors(conv4, batch)
        proposals = [boxes for boxes, _ in self.rpn.proposals(scored, batch.sizes, training=False)]
        logits, deltas = self._vote(conv5, proposals)
        return detections(logits.softmax(-1), deltas, proposals, batch.sizes, self.detections)

    def probe(self, batch: Batch) -> Tensor:
        """The outputs of both stages: those of all anchors, and all score maps."""
        conv5, conv4 = self.features(self.pixels(batch))
        scored = self._score_anchors(conv4, batch)
        return torch.cat([x.float().flatten() for x in (*scored.logits, *scored.deltas, *self._score_maps(conv5))])

    def _score_anchors(self, conv4: Tensor, batch: Batch) -> Scored:
        found: Scored = self.rpn([conv4], batch.canvas)
        return found

    def _vote(self, conv5: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R,C+1] and deltas [R,4] of ``boxes``: the mean over their cells (sec. 2, "voting")."""
        scale = 1 / self.features.strides[0]
        logits, deltas = (self._cells(maps, boxes, scale).float().mean((-2, -1)) for maps in self._score_maps(conv5))
        return logits, deltas

    def _score_maps(self, conv5: Tensor) -> tuple[Tensor, Tensor]:
        """The position-sensitive maps [N,(C+1)k^2,h,w] of classes and [N,4k^2,h,w] of deltas."""
        x = F.relu(self.reduce(conv5))
        return self.class_maps(x), self.box_maps(x)

    def _cells(self, maps: Tensor, boxes: Sequence[Tensor], scale: float) -> Tensor:
        """The votes of each cell of each box: [R,D,k,k] from ``maps`` [N,D k^2,h,w] (eq. 1)."""
        if self.bins == "crop":
            return position_sensitive_crop(maps, boxes, self.k, scale, samples=self.crop_samples)
        rule: Literal["torchvision", "release"] = "release" if self.bins == "release" else "torchvision"
        return ps_roi_pool(maps, boxes, self.k, self.k, scale, rule=rule)


def position_sensitive_crop(maps: Tensor, boxes: Sequence[Tensor], k: int, scale: float, *, samples: int = 3) -> Tensor:
    """Each of k x k cells of a box as the mean of ``samples`` x ``samples`` points in its own group of ``maps``.

    Args:
        maps: [N,D k^2,h,w]; channel (d k + row) k + column is for the cells of that row and column.
        boxes: N times [R_i,4].
        k: cells a side.
        scale: of the maps to the image.
        samples: points a side; the outermost are on the cell's borders, and neighbouring cells share them.

    Returns:
        [R,D,k,k].

    Source: Huang et al., CVPR 2017, sec. 3.1.3; TensorFlow's ``position_sensitive_crop_regions``.
    """
    grouped = maps.unflatten(1, (-1, k, k))
    rows = []
    for row in range(k):
        cells = []
        for column in range(k):
            part = [_cell(b, row, column, k) for b in boxes]
            cells.append(crop_and_resize(grouped[:, :, row, column], part, samples, scale).mean((-2, -1)))  # [R,D]
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


def _cell(boxes: Tensor, row: int, column: int, k: int) -> Tensor:
    """The cell of that row and column of each of ``boxes`` [R,4], as a box."""
    corner, step = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]) / k
    first = boxes.new_tensor((column, row))
    return torch.cat((corner + first * step, corner + (first + 1) * step), 1)
