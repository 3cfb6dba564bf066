"""Fast R-CNN: features once an image, a class and a corrected box for each proposal that comes from outside.

Girshick, "Fast R-CNN", ICCV 2015, https://arxiv.org/abs/1504.08083.
In order of the paper: the network and RoI pooling (sec. 2.1), initialisation from ImageNet (sec. 2.2), the multi-task
loss and the sampling of proposals (sec. 2.3, ``nn/roi_heads.py``), truncated SVD (sec. 3.1).
Where we differ: box corrections are divided by fixed standard deviations (0.1, 0.1, 0.2, 0.2), as in all releases, not
by those of the training set; ``box_regression="stage-wise"`` learns the corrections beside the network, not after it;
images are normalised by ImageNet's mean and standard deviation.

Shapes: N images, P proposals of one image, R of all images together, C classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from scenewise.errors import CheckpointError, UsageError
from scenewise.model import Model
from scenewise.nn.backbone import backbone_input, classifier_state
from scenewise.nn.box_head import BoxHead, ConvolutionsThenLinear, FullyConnected, HeadSpec, StageFeatures
from scenewise.nn.features import Design, Features, FeatureSpec
from scenewise.nn.proposals import SearchSpec, proposals_of
from scenewise.nn.roi_heads import DetectionSpec, RoISampler, detections, sample_rois, second_stage_losses
from scenewise.ops.roi import RoITransform, pool_levels
from scenewise.types import Batch, InputSpec, Interface, Output

VGG_HEAD = HeadSpec(channels=4096, dropout=0.5)


class FastRCNN(Model):
    """One pass of a network over the image, then a class and a corrected box for each of its proposals.

    Proposals come with the images (the input ``proposals``); images without are searched
    for them (:mod:`scenewise.ops.selective_search`), each time anew; proposals that a data set brings are much faster.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights. A VGG's give the two
            fully-connected layers their start, too, where ``head`` has the paper's sizes (7 cells, 4096 channels).
        design: ``"c5"``, one map, the network's last of stride ``features.output_stride`` (conv5 of VGG16); ``"c4"``,
            the map before a ResNet's last stage, which is run on each box; ``"fpn"``, a pyramid.
        features: the maps that are read: strides, widths, what is frozen (with weights conv1 and conv2 of a VGG).
        roi: how a box's features are read: RoIPool, RoIAlign or RoIWarp.
        head: what is read from each box, and what judges it.
        ranks: the singular values that are left of each fully-connected layer, such as (1024, 256); None for whole
            layers. :func:`truncated` makes such a model of a trained one; a new one starts from random layers.
        box_regression: ``"joint"``, the multi-task loss; ``"stage-wise"``, the corrections learn from features that the
            class loss alone has shaped; ``"none"``, no corrections: the proposals themselves are given out.
        box_weight: of the box loss against the class loss (the paper's lambda).
        beta: where the smooth L1 loss turns from square to straight.
        max_proposals: the first so many of an image's proposals are looked at.
        search: how proposals are looked for where images come without.
        sampler: which proposals are trained on.
        detections: which boxes are given out.
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
        box_weight: float = 1.0,
        beta: float = 1.0,
        max_proposals: int = 2000,
        search: SearchSpec | None = None,
        sampler: RoISampler | None = None,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        divisor = 32 if design == "fpn" else 1
        super().__init__(
            classes, input or backbone_input(backbone, short_side=600, long_side=1000, size_divisor=divisor)
        )
        self.features = Features(backbone, weights=backbone_weights, design=design, spec=features)
        self.roi, self.read = roi, head or VGG_HEAD
        kind = self.read.kind or ("stage" if design == "c4" and "resne" in backbone else "fc")
        self.roi_size = self.read.size or (14 if kind == "stage" else 7)
        if kind == "stage":
            if ranks is not None:
                raise UsageError("fast-rcnn: ranks are for fully-connected layers; head kind 'stage' has none")
            norm = features.frozen_norm if features else True
            self.head: BoxHead = StageFeatures(backbone, backbone_weights, norm)
        elif kind == "conv":
            if ranks is not None:
                raise UsageError("fast-rcnn: ranks are for two fully-connected layers; head kind 'conv' has one")
            self.head = ConvolutionsThenLinear(self.features.channels, self.roi_size, self.read)
        else:
            self.head = self._fully_connected(backbone, backbone_weights, ranks)
        outputs = 1 if self.read.class_agnostic else len(self.classes) + 1
        self.classifier = nn.Linear(self.head.channels, len(self.classes) + 1)
        self.corrector = nn.Linear(self.head.channels, 4 * outputs)
        for layer, std in ((self.classifier, 0.01), (self.corrector, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        if box_regression == "none":
            self.corrector.requires_grad_(False)
        self.box_regression, self.box_weight, self.beta = box_regression, box_weight, beta
        self.max_proposals, self.search = max_proposals, search or SearchSpec()
        self.sampler = sampler or RoISampler(samples=64, lowest_iou=0.1)
        self.detections = detections or DetectionSpec(nms_iou=0.3)

    def _fully_connected(self, backbone: str, weights: str | None, ranks: tuple[int, int] | None) -> FullyConnected:
        """fc6 and fc7, with a VGG's own weights where they fit."""
        inputs = self.features.channels * self.roi_size**2
        head = FullyConnected(inputs, self.read.channels, self.read.dropout, ranks=ranks)
        whole = ranks is None and (self.roi_size, self.read.channels) == (7, 4096)
        if weights is not None and backbone.startswith("vgg") and whole:
            load_vgg_layers(head, backbone, weights)
        return head

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``class`` and, unless ``box_regression`` is ``"none"``, ``box`` (eq. 1)."""
        sampled = sample_rois(self._proposals(batch), batch.targets, self.sampler)
        logits, deltas = self._judge(self.features(self.pixels(batch)), sampled.boxes)
        terms = second_stage_losses(logits, deltas, sampled, beta=self.beta)
        if self.box_regression == "none":
            return {"class": terms["class"]}
        return {"class": terms["class"], "box": self.box_weight * terms["box"]}

    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        proposals = self._proposals(batch)
        logits, deltas = self._judge(self.features(self.pixels(batch)), proposals)
        if self.box_regression == "none":
            deltas = torch.zeros_like(deltas)
        scores = logits.float().softmax(-1)
        return detections(scores, deltas, proposals, batch.sizes, self.detections)

    def probe(self, batch: Batch) -> Tensor:
        """The maps, and what is said of one box in each image."""
        maps = self.features(self.pixels(batch))
        boxes = [batch.images.new_tensor([[w / 5, h / 6, w / 1.5, h / 1.2]]) for h, w in batch.sizes]
        return torch.cat([x.float().flatten() for x in (*maps, *self._judge(maps, boxes))])

    def _proposals(self, batch: Batch) -> list[Tensor]:
        return [boxes[: self.max_proposals] for boxes in proposals_of(batch, self.search)]

    def _judge(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R,C+1] and corrections [R,4(C+1)] or [R,4] of ``boxes``."""
        scales = [1 / stride for stride in self.features.strides]
        sampling, aligned = self.read.sampling, self.read.aligned
        x = self.head(
            pool_levels(
                maps[: len(scales)], boxes, self.roi_size, scales, method=self.roi, sampling=sampling, aligned=aligned
            )
        )
        return self.classifier(x), self.corrector(x.detach() if self.box_regression == "stage-wise" else x)


def load_vgg_layers(head: FullyConnected, backbone: str, weights: str) -> None:
    """Give ``head`` the two hidden fully-connected layers of the timm classifier ``backbone`` (sec. 2.2).

    Raises:
        CheckpointError: the file lacks them, or they have another size.
    """
    state, source = classifier_state(backbone, weights)
    for name, layer in (("pre_logits.fc1", head.first), ("pre_logits.fc2", head.second)):
        for kind, parameter in layer.named_parameters():
            value = state.get(f"{name}.{kind}")
            if value is None or value.numel() != parameter.numel():
                found = "lacks it" if value is None else f"has {list(value.shape)}"
                raise CheckpointError(
                    f"{source}: {name}.{kind}: {found}; fast-rcnn's fully-connected layer takes {parameter.numel():,} "
                    "numbers from it; give the weights of a whole VGG, or a head of other channels"
                )
            parameter.data.copy_(value.view_as(parameter))  # a kernel [O,C,7,7] counts inputs as flattened features do


# ---- truncated SVD (sec. 3.1)


def truncated(model: FastRCNN, ranks: tuple[int, int] = (1024, 256)) -> FastRCNN:
    """A copy of ``model`` for faster prediction: its fully-connected layers keep ``ranks`` singular values.

    It can be saved, and trained further, like any other. With full ranks its outputs are those of ``model``.
    """
    if not isinstance(model.head, FullyConnected):
        raise UsageError("fast-rcnn: truncated SVD is for fully-connected layers; head kind 'stage' has none")
    if model.arguments["ranks"] is not None:
        raise UsageError(f"fast-rcnn: the model is truncated already, to {model.arguments['ranks']}")
    short = type(model)(**(model.arguments | {"backbone_weights": None, "ranks": ranks}))
    state = model.state_dict()
    for name, rank in zip(("head.first", "head.second"), ranks, strict=True):
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
