"""Region proposals: a region proposal network by itself, which finds boxes that may hold an object of any class.

Ren, He, Girshick and Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NIPS 2015,
https://arxiv.org/abs/1506.01497, sec. 3.1; on a pyramid: Lin et al., FPN, CVPR 2017, sec. 4.1. This is the first step
of the paper's alternating training; the network itself, and where it differs from the paper's, is ``nn/rpn.py``.

Shapes: N images, P proposals of one image.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.features import Design, Features, FeatureSpec
from scenewise.nn.rpn import ONE_MAP_ANCHORS, ONE_MAP_PROPOSALS, PYRAMID_ANCHORS, RPN, ProposalSpec, Scored
from scenewise.ops.anchors import AnchorSpec
from scenewise.types import Batch, InputSpec, Interface, Output, Weight


class RegionProposals(Model):
    """Scored boxes without classes: what a detector such as Fast R-CNN classifies.

    A prediction has ``boxes`` and ``scores`` and no labels. It is measured by the average recall of its boxes.

    Args:
        classes: names of the classes, in label order. The network does not tell them apart; they are what its training
            data is labelled with.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        design: ``"fpn"``, a pyramid; ``"c4"``, the map before the last; ``"c5"``, the last map, dilated to
            ``features.output_stride``.
        features: the maps of the backbone: strides, widths, what is frozen.
        anchors: their sizes, one entry per map (a pyramid has one more than ``features.strides``), and ratios.
        proposals: the network, how it is trained and which boxes it returns.
        box_weight: of the box loss against the objectness loss (the paper's lambda, but see ``nn/rpn.py`` for what the
            terms are divided by).
        input: how images are resized and normalised; by default with a shorter side of 800 and at most 1333 pixels, on
            one map with 600 and at most 1000.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"boxes"}), fills=frozenset({"boxes", "scores"}))

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
        box_weight: Weight = 1.0,
        input: InputSpec | None = None,
    ) -> None:
        default = self.defaults(design=design)
        super().__init__(classes, input or backbone_input(backbone, size_divisor=32, **default["resize"]))
        self.features = Features(
            backbone, weights=backbone_weights, design=design, spec=features, in_channels=self.input.channels
        )
        self.rpn = RPN(
            self.features.channels,
            anchors or default["anchors"],
            proposals or default["proposals"],
            strides=self.features.proposal_strides,
        )
        self.box_weight = box_weight

    @classmethod
    def defaults(cls, *, design: Design = "fpn", **_: Any) -> dict[str, Any]:
        """The specs of ``design`` in the paper that it is from; 2,000 boxes, as many as train a Fast R-CNN there."""
        if design == "fpn":
            resize = {"short_side": 800, "long_side": 1333}
            return {"anchors": PYRAMID_ANCHORS, "proposals": ProposalSpec(), "resize": resize}
        return {
            "anchors": ONE_MAP_ANCHORS,
            "proposals": dataclasses.replace(ONE_MAP_PROPOSALS, after_nms=2000),
            "resize": {"short_side": 600, "long_side": 1000},
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``objectness`` and ``rpn_box`` (eq. 1)."""
        terms = self.rpn.losses(self._score(batch), batch)
        return {"objectness": terms["objectness"], "rpn_box": self.box_weight * terms["rpn_box"]}

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes [P,4] and scores [P], best first."""
        found = self.rpn.proposals(self._score(batch), batch.sizes, training=False)
        return [
            Output(size, boxes=boxes, scores=scores) for (boxes, scores), size in zip(found, batch.sizes, strict=True)
        ]

    def probe(self, batch: Batch) -> Tensor:
        """Scores and deltas of all anchors."""
        scored = self._score(batch)
        return torch.cat([x.flatten() for x in (*scored.logits, *scored.deltas)])

    def _score(self, batch: Batch) -> Scored:
        found: Scored = self.rpn(self.features(self.pixels(batch)), batch.canvas)
        return found
