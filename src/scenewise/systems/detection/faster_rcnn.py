"""Faster R-CNN: proposals from a small network that shares its features with the detector.

Ren, He, Girshick and Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NIPS 2015,
https://arxiv.org/abs/1506.01497; its feature pyramid: Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144.
In order of the papers: features (``nn/features.py``), proposals (sec. 3.1, ``nn/rpn.py``), each box's class and deltas
(sec. 3.2; Fast R-CNN, ``nn/box_head.py``, ``nn/roi_heads.py``). Mask R-CNN and Keypoint R-CNN pass further branches to
the same network (``nn/branches.py``).
Where we differ: both stages are trained at once, without gradients through the proposals' coordinates (the papers'
approximate joint training); images are normalised by ImageNet's mean and standard deviation.

Shapes: N images, L levels, R boxes of all images together, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import UsageError, suggest
from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.box_head import BoxHead, HeadSpec, RoIPooler, usual_head
from scenewise.nn.branches import Branch, BranchFeatures, BranchSpec, with_branches
from scenewise.nn.features import Design, Features, FeatureSpec
from scenewise.nn.roi_heads import RoISampler, detections, probe_boxes, sample_rois, second_stage_losses
from scenewise.nn.rpn import (
    BETA,
    ONE_MAP_ANCHORS,
    ONE_MAP_PROPOSALS,
    PYRAMID_ANCHORS,
    RPN,
    ProposalSpec,
    Scored,
)
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.boxes import DetectionSpec
from scenewise.ops.matching import HardExamples
from scenewise.ops.roi import RoITransform
from scenewise.types import Batch, Count, InputSpec, Interface, Output, Weight

TERMS = ("objectness", "rpn_box", "class", "box")
PYRAMID = {  # Lin et al., sec. 4 and 5, with the numbers of proposals of Detectron
    "anchors": PYRAMID_ANCHORS,
    "proposals": ProposalSpec(),
    "sampler": RoISampler(),
    "detections": DetectionSpec(),
}
ONE_MAP = {  # Ren et al., sec. 3.3; 128 boxes per image and the suppression at 0.3 are Fast R-CNN's
    "anchors": ONE_MAP_ANCHORS,
    "proposals": ONE_MAP_PROPOSALS,
    "sampler": RoISampler(samples=128),
    "detections": DetectionSpec(nms_iou=0.3),
}


class FasterRCNN(Model):
    """Two stages: a region proposal network, then a class and a box for each proposal.

    With its defaults it is torchvision's ``fasterrcnn_resnet50_fpn``; on one map, its defaults are the first paper's.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights. On one map a VGG's give the two
            fully-connected layers their start, too, where ``head`` has the paper's sizes (7 cells, 4096 channels).
        design: ``"fpn"``, a pyramid; ``"c4"``, one map, and the network's last stage on each box; ``"c5"``, one map,
            the network's last, dilated to ``features.output_stride``.
        features: the maps of the backbone: strides, widths, what is frozen.
        anchors: their sizes, one entry per map (a pyramid has one more than ``features.strides``), and ratios.
        proposals: the region proposal network, how it is trained and which boxes it returns.
        roi: how a box's features are pooled: RoIAlign, RoIPool (the first paper's) or RoIWarp.
        head: what is pooled from each box, and the layers that its class and deltas come from.
        sampler: which proposals the second stage is trained on.
        hard_examples: train the second stage only on this many boxes per image, those with the largest loss (OHEM).
        beta: where the second stage's smooth L1 loss turns from square to straight; the first paper's is 1.
        loss_weights: factors on the loss terms, by their names: ``objectness``, ``rpn_box``, ``class``, ``box`` and
            those of the branches.
        detections: which boxes are returned.
        input: how images are resized and normalised; by default with a shorter side of 800 and at most 1333 pixels;
            Faster R-CNN on one map with 600 and at most 1000.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return with_branches()

    def __init__(
        self,
        classes: tuple[str, ...],
        _branches: Sequence[BranchSpec] = (),
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
        hard_examples: Count | HardExamples | None = None,
        beta: Weight = BETA,
        loss_weights: Mapping[str, Weight] = {},
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        default = self.defaults(backbone=backbone, design=design)
        super().__init__(classes, input or backbone_input(backbone, size_divisor=32, **default["resize"]))
        spec = features or default["features"]
        wanted = [branch.intermediate for branch in _branches if branch.intermediate is not None]
        self.features = Features(
            backbone,
            in_channels=self.input.channels,
            weights=backbone_weights,
            design=design,
            spec=spec,
            intermediate=wanted[0] if wanted else None,
        )
        self.rpn = RPN(
            self.features.channels,
            anchors or default["anchors"],
            proposals or default["proposals"],
            strides=self.features.proposal_strides,
        )
        head = head or default["head"]
        self.pooler = RoIPooler(roi, head, self.features.strides)
        self.box_head = BoxHead(
            self.features,
            len(self.classes),
            head,
            backbone=backbone,
            weights=backbone_weights,
            frozen_norm=spec.frozen_norm,
        )
        self.branches = tuple(branch.branch for branch in _branches)
        stage_channels = None if self.box_head.stage is None else self.box_head.body.channels
        for branch in _branches:
            self.add_module(branch.branch, branch.build(self.features, stage_channels, len(self.classes)))
        self.sampler, self.hard_examples, self.beta = sampler or default["sampler"], hard_examples, beta
        self.detections = detections or default["detections"]
        terms = [*TERMS, *(term for branch in _branches for term in branch.terms)]
        unknown = sorted(set(loss_weights) - set(terms))
        if unknown:
            raise UsageError(f"loss_weights has {unknown[0]!r}{suggest(unknown[0], terms)}; known: {', '.join(terms)}")
        self.loss_weights = dict(loss_weights)

    @classmethod
    def defaults(cls, *, backbone: str = "resnet50", design: Design = "fpn", **_: Any) -> dict[str, Any]:
        """The specs of ``design`` in the paper that it is from."""
        one_map = design != "fpn"
        return {
            "features": FeatureSpec(),
            "head": usual_head(backbone, design),
            "resize": {"short_side": 600, "long_side": 1000} if one_map else {"short_side": 800, "long_side": 1333},
            **(ONE_MAP if one_map else PYRAMID),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``objectness`` and ``rpn_box`` of the first stage, ``class`` and ``box`` of the second, those of branches."""
        maps = self.features(self.pixels(batch))
        scored = self._score_anchors(maps, batch)
        proposals = [boxes for boxes, _ in self.rpn.proposals(scored, batch.sizes, training=True)]
        terms = self.rpn.losses(scored, batch)
        sampled = sample_rois(proposals, batch.targets, self.sampler)
        logits, deltas = self._classify(maps, sampled.boxes)
        terms |= second_stage_losses(logits, deltas, sampled, beta=self.beta, hard=self.hard_examples)
        shared = self._shared(maps)
        for branch in self._branches():
            terms |= branch.losses(shared, sampled, batch.targets)
        return {name: value * self.loss_weights.get(name, 1.0) for name, value in terms.items()}

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first, and what the branches find in those boxes."""
        maps = self.features(self.pixels(batch))
        scored = self._score_anchors(maps, batch)
        proposals = [boxes for boxes, _ in self.rpn.proposals(scored, batch.sizes, training=False)]
        logits, deltas = self._classify(maps, proposals)
        scores = logits.float().softmax(-1)
        found = detections(scores, deltas, proposals, batch.sizes, self.detections)
        shared = self._shared(maps)
        for branch in self._branches():
            found = branch.predict(shared, found)
        return found

    def probe(self, batch: Batch) -> Tensor:
        """The outputs of both stages and the branches, all but the first's for one box in each image."""
        maps, boxes = self.features(self.pixels(batch)), probe_boxes(batch)
        scored, shared = self._score_anchors(maps, batch), self._shared(maps)
        drawn = [logits for branch in self._branches() for logits in branch.probe(shared, boxes)]
        parts = [*maps, *scored.logits, *scored.deltas, *self._classify(maps, boxes), *drawn]
        return torch.cat([x.float().flatten() for x in parts])

    # ---- the two stages

    def _score_anchors(self, maps: Sequence[Tensor], batch: Batch) -> Scored:
        found: Scored = self.rpn(maps[: self.features.count], batch.canvas)
        return found

    def _classify(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R,C+1] and deltas [R,4(C+1)] or [R,4] of ``boxes``."""
        found: tuple[Tensor, Tensor] = self.box_head(self._pool(maps, boxes, self.box_head.size))
        return found

    def _pool(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """The features [R,channels,size,size] of ``boxes``."""
        return self.pooler(maps, boxes, size)

    # ---- branches

    def _branches(self) -> list[Branch]:
        return [self.get_submodule(name) for name in self.branches]  # type: ignore[misc]

    def _shared(self, maps: Sequence[Tensor]) -> BranchFeatures:
        return BranchFeatures(
            maps, self._pool, self.pooler.spec, self.box_head.stage, self.features.intermediate_stride
        )
