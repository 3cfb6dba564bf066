"""Faster R-CNN: proposals from a small network that shares its features with the detector.

Ren, He, Girshick and Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NIPS 2015,
https://arxiv.org/abs/1506.01497; its feature pyramid: Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144.
In order of the papers: features (``nn/features.py``), proposals (sec. 3.1, ``nn/rpn.py``), what is read from each box,
and its class and correction (sec. 3.2; Fast R-CNN, ``nn/roi_heads.py``).
Where we differ: both stages are trained at once, without gradients through the proposals' coordinates (the papers'
approximate joint training); images are normalised by ImageNet's mean and standard deviation.

Shapes: N images, L levels, R boxes of all images together, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError, suggest
from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.box_head import BoxHead, ConvolutionsThenLinear, FullyConnected, HeadSpec, StageFeatures
from scenewise.nn.features import Design, Features, FeatureSpec
from scenewise.nn.roi_heads import DetectionSpec, RoISampler, Sampled, detections, sample_rois, second_stage_losses
from scenewise.nn.rpn import PYRAMID_ANCHORS, RPN, SINGLE_MAP_ANCHORS, ProposalSpec
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.roi import RoITransform, pool_levels
from scenewise.types import Batch, InputSpec, Interface, Output


class FasterRCNN(Model):
    """Two stages: a region proposal network, then a class and a corrected box for each proposal.

    With its defaults it is torchvision's ``fasterrcnn_resnet50_fpn``.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        design: ``"fpn"``, a pyramid; ``"c4"``, one map, and the network's last stage on each box; ``"c5"``, one map,
            the network's last, dilated to ``features.output_stride``.
        features: the maps that are read: strides, widths, what is frozen.
        anchors: their sizes, one entry a map (a pyramid has one more than ``features.strides``), and ratios.
        proposals: how the region proposal network is trained and read out.
        roi: how a box's features are read: RoIAlign, RoIPool or RoIWarp.
        head: what is read from each box, and what judges it.
        sampler: which proposals the second stage is trained on.
        hard_examples: train the second stage only on so many boxes an image, those with the largest loss (OHEM).
        loss_weights: factors on the loss terms ``objectness``, ``rpn_box``, ``class``, ``box``.
        detections: which boxes are given out.
        input: how images are resized and normalised; by default with a shorter side of 800 and at most 1333 pixels.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"boxes", "labels"}), fills=frozenset({"boxes", "labels", "scores"}))

    terms: ClassVar[tuple[str, ...]] = ("objectness", "rpn_box", "class", "box")
    intermediate: int | None = None  # the stride of the map that a branch of a subclass reads besides

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
        sampler: RoISampler | None = None,
        hard_examples: int | None = None,
        loss_weights: Mapping[str, float] = {},
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone, short_side=800, long_side=1333, size_divisor=32))
        self.features = Features(
            backbone, weights=backbone_weights, design=design, spec=features, intermediate=self.intermediate
        )
        anchors = anchors or (PYRAMID_ANCHORS if design == "fpn" else SINGLE_MAP_ANCHORS)
        if len(anchors.sizes) != self.features.count:
            raise UsageError(
                f"anchors: sizes has {len(anchors.sizes)} entries; expected {self.features.count}, one for each map"
            )
        self.rpn = RPN(self.features.channels, anchors, proposals)
        self.roi, self.read = roi, head or HeadSpec()
        staged = design == "c4" and hasattr(self.features.backbone.network, "layer1")  # as ResNets call their stages
        kind = self.read.kind or ("stage" if staged else "fc")
        self.roi_size = self.read.size or (14 if kind == "stage" else 7)
        if kind == "stage":
            norm = features.frozen_norm if features else True
            self.head: BoxHead = StageFeatures(backbone, backbone_weights, norm)
        elif kind == "conv":
            self.head = ConvolutionsThenLinear(self.features.channels, self.roi_size, self.read)
        else:
            self.head = FullyConnected(self.features.channels * self.roi_size**2, self.read.channels, self.read.dropout)
        outputs = 1 if self.read.class_agnostic else len(self.classes) + 1
        self.classifier = nn.Linear(self.head.channels, len(self.classes) + 1)
        self.corrector = nn.Linear(self.head.channels, 4 * outputs)
        self.sampler, self.hard_examples = sampler or RoISampler(), hard_examples
        self.detections = detections or DetectionSpec()
        unknown = sorted(set(loss_weights) - set(self.terms))
        if unknown:
            raise UsageError(
                f"loss_weights has {unknown[0]!r}{suggest(unknown[0], self.terms)}; known: {', '.join(self.terms)}"
            )
        self.loss_weights = dict(loss_weights)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``objectness`` and ``rpn_box`` of the first stage, ``class`` and ``box`` of the second."""
        maps, sampled, terms = self._first_losses(batch)
        terms |= self._second_losses(maps, sampled)
        return self._weighted(terms)

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        return self._detect(self.features(self.pixels(batch)), batch)

    def probe(self, batch: Batch) -> Tensor:
        """What both stages say, the second of one box in each image."""
        maps = self.features(self.pixels(batch))
        scored = self.rpn(maps[: self.features.count], _size(batch.images))
        second = self._second(maps, self._probe_boxes(batch))
        return torch.cat([x.float().flatten() for x in (*maps, *scored.logits, *scored.deltas, *second)])

    def _probe_boxes(self, batch: Batch) -> list[Tensor]:
        return [batch.images.new_tensor([[w / 5, h / 6, w / 1.5, h / 1.2]]) for h, w in batch.sizes]

    # ---- the two stages

    def _first_losses(self, batch: Batch) -> tuple[list[Tensor], Sampled, dict[str, Tensor]]:
        """The maps, the boxes to train the second stage on, and the loss terms of the first."""
        maps = self.features(self.pixels(batch))
        scored = self.rpn(maps[: self.features.count], _size(batch.images))
        proposals = [boxes for boxes, _ in self.rpn.proposals(scored, batch.sizes, training=True)]
        terms = self.rpn.losses(scored, batch)
        return maps, sample_rois(proposals, batch.targets, self.sampler), terms

    def _second_losses(self, maps: Sequence[Tensor], sampled: Sampled) -> dict[str, Tensor]:
        logits, deltas = self._second(maps, sampled.boxes)
        return second_stage_losses(logits, deltas, sampled, hard=self.hard_examples)

    def _detect(self, maps: list[Tensor], batch: Batch) -> list[Output]:
        scored = self.rpn(maps[: self.features.count], _size(batch.images))
        proposals = [boxes for boxes, _ in self.rpn.proposals(scored, batch.sizes, training=False)]
        logits, deltas = self._second(maps, proposals)
        scores = logits.float().softmax(-1)
        return detections(scores, deltas, proposals, batch.sizes, self.detections)

    def _second(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R,C+1] and corrections [R,4(C+1)] or [R,4] of ``boxes``."""
        x = self.head(self._read(maps, boxes, self.roi_size))
        return self.classifier(x), self.corrector(x)

    def _read(self, maps: Sequence[Tensor], boxes: list[Tensor], size: int) -> Tensor:
        """The features [R,channels,size,size] of ``boxes``."""
        scales = [1 / stride for stride in self.features.strides]
        return pool_levels(
            maps[: len(scales)],
            boxes,
            size,
            scales,
            method=self.roi,
            sampling=self.read.sampling,
            aligned=self.read.aligned,
        )

    def _weighted(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value * self.loss_weights.get(name, 1.0) for name, value in terms.items()}


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])
