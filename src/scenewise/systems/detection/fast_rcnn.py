"""Fast R-CNN: features once per image, a class and a box for each proposal that comes from outside.

Girshick, "Fast R-CNN", ICCV 2015, https://arxiv.org/abs/1504.08083.
In order of the paper: the network, RoI pooling and the head (sec. 2.1), its initialisation from ImageNet (sec. 2.2;
``nn/box_head.py``), the multi-task loss and the sampling of proposals (sec. 2.3, ``nn/roi_heads.py``), truncated SVD
(sec. 3.1).
Where we differ: deltas are divided by fixed standard deviations (0.1, 0.1, 0.2, 0.2), as in all releases, not
by those of the training set; ``box_regression="stage-wise"`` learns the deltas beside the network, not after it;
images are normalised by ImageNet's mean and standard deviation.

Shapes: N images, P proposals of one image, R of all images together, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.backbone import backbone_input
from scenewise.nn.box_head import BoxHead, FullyConnected, HeadSpec, RoIPooler, usual_head
from scenewise.nn.features import Design, Features, FeatureSpec
from scenewise.nn.proposals import SearchSpec, proposals_of
from scenewise.nn.roi_heads import RoISampler, detections, probe_boxes, sample_rois, second_stage_losses
from scenewise.ops.boxes import DetectionSpec
from scenewise.ops.matching import HardExamples
from scenewise.ops.roi import RoITransform
from scenewise.types import Batch, Count, InputSpec, Interface, Output, Weight


class FastRCNN(Model):
    """One pass of a network over the image, then a class and a box for each of its proposals.

    Proposals come with the images (the input ``proposals``); images without are searched
    for them (:mod:`scenewise.ops.selective_search`), each time anew; proposals that a data set brings are much faster.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights. A VGG's give the two
            fully-connected layers their start, too, where ``head`` has the paper's sizes (7 cells, 4096 channels).
        design: ``"c5"``, one map, the network's last of stride ``features.output_stride`` (conv5 of VGG16); ``"c4"``,
            the map before a ResNet's last stage, which is run on each box; ``"fpn"``, a pyramid.
        features: the maps of the backbone: strides, widths, what is frozen (with weights conv1 and conv2 of a VGG).
        roi: how a box's features are pooled: RoIPool, RoIAlign or RoIWarp.
        head: what is pooled from each box, and the layers that its class and deltas come from; by default a VGG's fc6
            and fc7 for a VGG on one map.
        ranks: the singular values that are left of each fully-connected layer, such as (1024, 256); None for whole
            layers. :func:`truncated` makes such a model of a trained one; a new one starts from random layers.
        box_regression: ``"joint"``, the multi-task loss; ``"stage-wise"``, the deltas learn from features that the
            class loss alone has shaped; ``"none"``, no deltas: the proposals themselves are returned.
        box_weight: of the box loss against the class loss (the paper's lambda).
        beta: where the smooth L1 loss turns from square to straight.
        hard_examples: train only on this many boxes per image, those with the largest loss (OHEM).
        max_proposals: how many of an image's proposals are classified, the first ones.
        search: how proposals are looked for where images come without.
        sampler: which proposals are trained on; by default 64 per image, with a pyramid 512.
        detections: which boxes are returned.
        input: how images are resized and normalised; by default with a shorter side of 600 and at most 1000 pixels.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(
            needs=frozenset({"boxes", "labels"}),
            fills=frozenset({"boxes", "labels", "scores"}),
            takes=frozenset({"proposals"}),
        )

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "vgg16",
        backbone_weights: str | None = None,
        design: Design = "c5",
        features: FeatureSpec | None = None,
        roi: RoITransform = "pool",
        head: HeadSpec | None = None,
        ranks: tuple[int, int] | None = None,
        box_regression: Literal["joint", "stage-wise", "none"] = "joint",
        box_weight: Weight = 1.0,
        beta: Weight = 1.0,
        hard_examples: Count | HardExamples | None = None,
        max_proposals: Count = 2000,
        search: SearchSpec | None = None,
        sampler: RoISampler | None = None,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        divisor = 32 if design == "fpn" else 1
        super().__init__(
            classes, input or backbone_input(backbone, short_side=600, long_side=1000, size_divisor=divisor)
        )
        default = self.defaults(backbone=backbone, design=design)
        self.features = Features(
            backbone, weights=backbone_weights, design=design, spec=features, in_channels=self.input.channels
        )
        head = head or default["head"]
        self.pooler = RoIPooler(roi, head, self.features.strides)
        self.box_head = BoxHead(
            self.features,
            len(self.classes),
            head,
            backbone=backbone,
            weights=backbone_weights,
            frozen_norm=features.frozen_norm if features else True,
            ranks=ranks,
        )
        for layer, std in ((self.box_head.classifier, 0.01), (self.box_head.box_regressor, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        if box_regression == "none":
            self.box_head.box_regressor.requires_grad_(False)
        self.box_regression, self.box_weight, self.beta = box_regression, box_weight, beta
        self.hard_examples, self.max_proposals, self.search = hard_examples, max_proposals, search or SearchSpec()
        self.sampler = sampler or default["sampler"]
        self.detections = detections or default["detections"]

    @classmethod
    def defaults(cls, *, backbone: str = "vgg16", design: Design = "c5", **_: Any) -> dict[str, Any]:
        """The paper's specs; with a pyramid, boxes to train on as in Lin et al., FPN, CVPR 2017, sec. 5.2."""
        return {
            "head": usual_head(backbone, design),
            "sampler": RoISampler() if design == "fpn" else RoISampler(samples=64, lowest_iou=0.1),
            "detections": DetectionSpec(nms_iou=0.3),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``class`` and, unless ``box_regression`` is ``"none"``, ``box`` (eq. 1)."""
        sampled = sample_rois(self._proposals(batch), batch.targets, self.sampler)
        logits, deltas = self._classify(self.features(self.pixels(batch)), sampled.boxes)
        terms = second_stage_losses(logits, deltas, sampled, beta=self.beta, hard=self.hard_examples)
        if self.box_regression == "none":
            return {"class": terms["class"]}
        return {"class": terms["class"], "box": self.box_weight * terms["box"]}

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        proposals = self._proposals(batch)
        logits, deltas = self._classify(self.features(self.pixels(batch)), proposals)
        if self.box_regression == "none":
            deltas = torch.zeros_like(deltas)
        scores = logits.float().softmax(-1)
        return detections(scores, deltas, proposals, batch.sizes, self.detections)

    def probe(self, batch: Batch) -> Tensor:
        """The maps, and the logits and deltas of one box in each image."""
        maps = self.features(self.pixels(batch))
        return torch.cat([x.float().flatten() for x in (*maps, *self._classify(maps, probe_boxes(batch)))])

    def _proposals(self, batch: Batch) -> list[Tensor]:
        return [boxes[: self.max_proposals] for boxes in proposals_of(batch, self.search)]

    def _classify(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R,C+1] and deltas [R,4(C+1)] or [R,4] of ``boxes``."""
        pooled = self.pooler(maps, boxes, self.box_head.size)
        found: tuple[Tensor, Tensor] = self.box_head(pooled, stage_wise=self.box_regression == "stage-wise")
        return found


# ---- truncated SVD (sec. 3.1)


def truncated(model: FastRCNN, ranks: tuple[int, int] = (1024, 256)) -> FastRCNN:
    """A copy of ``model`` for faster prediction: its fully-connected layers keep ``ranks`` singular values.

    It can be saved, and trained further, like any other. With full ranks its outputs are those of ``model``.
    """
    if not isinstance(model.box_head.body, FullyConnected):
        raise UsageError("fast-rcnn: truncated SVD is for two fully-connected layers; the model's head has none or one")
    if model.arguments["ranks"] is not None:
        raise UsageError(f"fast-rcnn: the model is truncated already, to {model.arguments['ranks']}")
    short = type(model)(**(model.arguments | {"backbone_weights": None, "ranks": ranks}))
    state = model.state_dict()
    for name, rank in zip(("box_head.body.first", "box_head.body.second"), ranks, strict=True):
        inner, outer = truncated_svd(state.pop(f"{name}.weight"), rank)
        state |= {f"{name}.0.weight": inner, f"{name}.1.weight": outer, f"{name}.1.bias": state.pop(f"{name}.bias")}
    short.load_state_dict(state)
    short.info = dict(model.info)
    return short.to(model.device).train(model.training)


def truncated_svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank,I] and B [O,rank] whose product B A is the nearest to ``weight`` [O,I] of all matrices of that rank.

    With W = U S V', A is S V' and B is U, for the largest ``rank`` singular values. Multiplications by a vector go from
    O I to rank (O + I).
    """
    most = min(weight.shape)
    if not 1 <= rank <= most:
        raise UsageError(f"truncated SVD: rank is {rank}; expected 1 to {most}, the smaller side of the layer")
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)  # [O,m], [m], [m,I]
    return s[:rank, None] * v[:rank], u[:, :rank]
