"""R-CNN: a network that classifies one warped crop for each proposal, with SVMs and box regression fitted afterwards.

Girshick, Donahue, Darrell and Malik, "Rich Feature Hierarchies for Accurate Object Detection and Semantic
Segmentation", CVPR 2014, https://arxiv.org/abs/1311.2524.
In order of the paper: proposals and warped crops (sec. 2.1, appendix A), fine-tuning (sec. 2.3), SVMs (sec. 2.3,
appendix B), box regression (appendix C).
Where we differ: any timm network takes AlexNet's place; the windows of a fine-tuning step come from the images of its
batch; SVMs have the squared hinge loss; box widths are x2 - x1, without the release's + 1; an SVM's margin becomes a
score in 0..1 by the logistic function, which keeps the order.

Shapes: N images, P proposals of one image, R crops of all images, C classes, D features of a crop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.optimize import minimize
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.nn.backbone import Backbone, backbone_input, load_vgg_layers
from scenewise.nn.proposals import SearchSpec, proposals_of
from scenewise.nn.roi_heads import RoISampler, detections, probe_boxes, sample_rois
from scenewise.ops.boxes import DetectionSpec, box_iou, encode_boxes
from scenewise.ops.crops import warp_crops, with_context
from scenewise.types import (
    STRICT,
    Batch,
    Channels,
    Count,
    Dropout,
    InputSpec,
    Interface,
    Output,
    Positive,
    Share,
    Weight,
)

Layer = Literal["pool5", "fc6", "fc7"]
LAYERS: tuple[Layer, ...] = ("pool5", "fc6", "fc7")

PLAIN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # deltas are not scaled: they are whitened instead
CHUNK = 64  # crops that go through the network at once where no gradient is kept
NEVER = -20.0  # the margin of a class without an example
NORM_SAMPLES = 32  # proposals of an image whose features the mean norm is measured by


@dataclass(frozen=True)
class SVMSpec:
    """How the SVMs are fitted.

    Attributes:
        negative_iou: a proposal that overlaps every object of a class less than this is a negative for the class.
            Positives are the true boxes alone; what lies between is left out.
        C: the weight of the loss against that of the regulariser.
        positive_weight: of a positive's loss against a negative's.
        bias_multiplier: the constant feature that the bias is the weight of; the larger, the less it is regularised.
        feature_norm: features are scaled so that their mean norm is this.
        refit_after: new hard negatives of a class after which its SVM is fitted again.
        hard_margin: a negative above this margin is hard and is kept.
        easy_margin: one below this is dropped when the SVM is fitted again.
    """

    __pydantic_config__ = STRICT
    negative_iou: Share = 0.3
    C: Positive = 1e-3
    positive_weight: Positive = 2.0
    bias_multiplier: Positive = 10.0
    feature_norm: Positive = 20.0
    refit_after: Count = 2000
    hard_margin: float = -1.0001
    easy_margin: float = -1.2


@dataclass(frozen=True)
class RegressionSpec:
    """How the box regression is fitted.

    Attributes:
        min_iou: a proposal learns to become the object that it overlaps more than this.
        ridge: the weight of the squared norm of the coefficients (the paper's lambda).
    """

    __pydantic_config__ = STRICT
    min_iou: Share = 0.6
    ridge: Weight = 1000.0


class RCNN(Model):
    """Proposals, warped crops, a network; then SVMs for the classes and ridge regressions for the boxes.

    ``losses`` fine-tunes the network to tell C classes and background. SVMs and regressions are fitted by
    :meth:`finish`, which training calls after its last epoch; until then ``predict`` gives the network's own classes
    and the proposals' own boxes. Images that come without proposals are searched for them
    (:mod:`scenewise.ops.selective_search`), each time anew; proposals that a data set brings are much faster.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights. A VGG's give fc6 and fc7 their
            start, too, where they have its sizes (``pool_size`` 7, ``hidden`` (4096, 4096)).
        crop_size: the side that proposals are warped to; the paper's is 227 for AlexNet, 224 for VGG16.
        context: pixels of the image around the proposal, on each side of the warped crop.
        crop: ``"warp"`` stretches the proposal, ``"square"`` keeps its proportions, with more of its surroundings.
        pool_size: the side of the grid that pool5 is averaged to; the paper's is 6 for AlexNet, 7 for VGG16.
        hidden: widths of the fully-connected layers fc6 and fc7 between pool5 and the classes; the paper's is
            (4096, 4096).
        dropout: after each of them.
        head: ``"svm"``, or ``"softmax"`` for the network's own classes in the end, too.
        layer: the SVMs' features: ``"pool5"``, ``"fc6"``, ``"fc7"``; None for the last there is.
        box_regression: whether boxes are moved by the regressions' deltas.
        search: how proposals are looked for where images come without.
        sampler: the windows of each image that the network is fine-tuned on.
        svm: how the SVMs are fitted.
        regression: how the box regression is fitted.
        detections: which boxes are returned.
        input: how images are resized and normalised; by default they keep their size.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(
            needs=frozenset({"boxes", "labels"}),
            fills=frozenset({"boxes", "labels", "scores"}),
            takes=frozenset({"proposals"}),
        )

    svm_weight: Tensor  # [C,D]
    svm_bias: Tensor  # [C]
    box_weight: Tensor  # [4C,D of pool5]
    box_bias: Tensor  # [4C]
    finished: Tensor  # bool []

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        crop_size: Annotated[int, Field(ge=1, le=4096)] = 224,
        context: Annotated[int, Field(ge=0)] = 16,
        crop: Literal["warp", "square"] = "warp",
        pool_size: Count = 1,
        hidden: tuple[Channels, ...] = (),
        dropout: Dropout = 0.5,
        head: Literal["svm", "softmax"] = "svm",
        layer: Layer | None = None,
        box_regression: bool = True,
        search: SearchSpec | None = None,
        sampler: RoISampler | None = None,
        svm: SVMSpec | None = None,
        regression: RegressionSpec | None = None,
        detections: DetectionSpec | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone))
        if not 0 <= 2 * context < crop_size:
            raise UsageError(f"rcnn: context is {context}; expected 0 or more, and less than half of {crop_size}")
        layers = LAYERS[: len(hidden) + 1]
        if len(hidden) >= len(LAYERS):
            raise UsageError(f"rcnn: hidden has {len(hidden)} widths; expected at most 2, of fc6 and fc7")
        if layer is not None and layer not in layers:
            raise UsageError(f"rcnn: layer is {layer!r}, but hidden is {hidden}; there is {', '.join(layers)}")
        self.backbone = Backbone(backbone, weights=backbone_weights, levels=(-1,), in_channels=self.input.channels)
        self.crop_size, self.context, self.square, self.pool_size = crop_size, context, crop == "square", pool_size
        widths = [self.backbone.channels[-1] * pool_size**2, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        if backbone_weights is not None and backbone.startswith("vgg") and (pool_size, *hidden) == (7, 4096, 4096):
            load_vgg_layers(list(self.hidden), backbone, backbone_weights)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths[-1], len(self.classes) + 1)  # class 0 is the background
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.head, self.box_regression = head, box_regression
        self.layer = layers.index(layer) if layer is not None else -1
        self.search, self.svm, self.regression = (
            search or SearchSpec(),
            svm or SVMSpec(),
            regression or RegressionSpec(),
        )
        self.sampler = sampler or RoISampler(samples=64)
        self.detections = detections or DetectionSpec(score=0.01, nms_iou=0.3)
        count = len(self.classes)
        self.register_buffer("svm_weight", torch.zeros(count, widths[self.layer]))
        self.register_buffer("svm_bias", torch.full((count,), NEVER))
        self.register_buffer("box_weight", torch.zeros(4 * count, widths[0]))
        self.register_buffer("box_bias", torch.zeros(4 * count))
        self.register_buffer("finished", torch.tensor(False))

    # ---- the network (sec. 2.1)

    def features(self, crops: Tensor) -> list[Tensor]:
        """pool5 and, where there are any, fc6 and fc7 [R,D] of ``crops`` [R,3,S,S]."""
        x = self.backbone(crops)[-1]
        x = x.mean((-2, -1)) if self.pool_size == 1 else F.adaptive_avg_pool2d(x, self.pool_size).flatten(1)
        layers = [x]
        for layer in self.hidden:
            x = self.dropout(F.relu(layer(x)))
            layers.append(x)
        return layers

    def crops(self, image: Tensor, boxes: Tensor) -> Tensor:
        """``boxes`` [P,4] of a normalised image [3,H,W], with their context: [P,3,S,S]."""
        grown = with_context(boxes, self.crop_size, self.context, square=self.square)
        return warp_crops(image, grown, self.crop_size)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy of a sample of warped windows: objects where the IoU is at least 0.5, else background."""
        sampled = sample_rois(proposals_of(batch, self.search), batch.targets, self.sampler, weights=PLAIN_WEIGHTS)
        crops = [self.crops(image, boxes) for image, boxes in zip(self._images(batch), sampled.boxes, strict=True)]
        logits = self.classifier(self.features(torch.cat(crops))[-1]).float()
        return {"class": F.cross_entropy(logits, sampled.labels, reduction="sum") / max(1, len(logits))}

    # ---- prediction (sec. 2.2)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Output]:
        """Boxes, labels and scores, best first."""
        proposals = proposals_of(batch, self.search)
        scored = [self._classify(image, boxes) for image, boxes in zip(self._images(batch), proposals, strict=True)]
        scores, deltas = (torch.cat(parts) for parts in zip(*scored, strict=True))
        return detections(scores, deltas, proposals, batch.sizes, self.detections, weights=PLAIN_WEIGHTS)

    def probe(self, batch: Batch) -> Tensor:
        """Scores and deltas of one box in each image."""
        scored = [
            self._classify(image, box) for image, box in zip(self._images(batch), probe_boxes(batch), strict=True)
        ]
        return torch.cat([x.flatten() for both in scored for x in both])

    def _classify(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [P,C+1] and deltas [P,4(C+1)], those of the background 0."""
        layers = self._features_of(image, boxes)
        finished = bool(self.finished)
        if finished and self.head == "svm":
            margins = F.linear(layers[self.layer], self.svm_weight.float(), self.svm_bias.float())
            scores = F.pad(margins.sigmoid(), (1, 0))
        else:
            weight, bias = self.classifier.weight.float(), self.classifier.bias.float()
            scores = F.linear(layers[-1], weight, bias).softmax(1)
        if finished and self.box_regression:
            deltas = F.pad(F.linear(layers[0], self.box_weight.float(), self.box_bias.float()), (4, 0))
        else:
            deltas = scores.new_zeros((len(boxes), 4 * (len(self.classes) + 1)))
        return scores, deltas

    def _features_of(self, image: Tensor, boxes: Tensor) -> list[Tensor]:
        """The layers, float32 [P,D] each, of ``boxes`` in a normalised image [3,H,W]; some crops at a time."""
        parts = [self.features(self.crops(image, some)) for some in boxes.split(CHUNK)]
        return [torch.cat(layer).float() for layer in zip(*parts, strict=True)]

    def _images(self, batch: Batch) -> Iterator[Tensor]:
        """The normalised images [3,h,w] without their padding."""
        for pixels, (height, width) in zip(self.pixels(batch), batch.sizes, strict=True):
            yield pixels[:, :height, :width]

    # ---- SVMs and box regression (sec. 2.3, appendices B and C)

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Fit the SVMs and the box regressions on the features of the network as it is now.

        Args:
            batches: of the training set; gone through twice. The first time collects the true boxes, and the proposals
                near them; the second mines hard negatives.
        """
        mode = self.training
        self.eval()
        truth, scale = self._fit_regression(batches)
        if self.head == "svm":
            self._fit_svms(batches, truth, scale)
        self.finished.fill_(True)
        self.train(mode)

    def _fit_regression(self, batches: Iterable[Batch]) -> tuple[list[Tensor], float]:
        """Fit the box regressions; give the features [G,D] of the true boxes of each class, and the features' scale."""
        truth: list[list[Tensor]] = [[] for _ in self.classes]
        pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.classes]
        norms: list[list[Tensor]] = [[] for _ in range(2)]  # of pool5, and of the SVMs' layer
        for image, proposals, boxes, labels, ignore in self._examples(batches):
            boxes, labels = boxes[~ignore], labels[~ignore]
            some = proposals[:: max(1, len(proposals) // NORM_SAMPLES)]
            iou = F.pad(box_iou(boxes, proposals), (0, 0, 0, 1))  # [G+1,P]; the last row is there where G is 0
            near, index = iou.max(0)
            chosen = near > self.regression.min_iou
            close, index = proposals[chosen], index[chosen]
            layers = self._features_of(image, torch.cat((some, boxes, close)))
            for norm, layer in zip(norms, (layers[0], layers[self.layer]), strict=True):
                norm.append(layer[: len(some)].norm(dim=1).cpu())
            of_truth = layers[self.layer][len(some) : len(some) + len(boxes)].cpu()
            of_close = layers[0][len(some) + len(boxes) :].cpu()
            for c in range(len(self.classes)):
                truth[c].append(of_truth[(labels == c).cpu()])
                if (mine := labels[index] == c).any():
                    deltas = encode_boxes(boxes[index[mine]], close[mine])
                    pairs[c].append((of_close[mine.cpu()], deltas.cpu()))
        if not norms[0]:
            raise UsageError("rcnn: there are no training images to fit the SVMs and box regressions on")
        scales = [self.svm.feature_norm / max(float(torch.cat(norm).mean()), 1e-6) for norm in norms]
        for c, found in enumerate(pairs):
            if found and self.box_regression:
                x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
                weight, bias = fit_box_regression(x * scales[0], y, self.regression.ridge)
                self.box_weight[4 * c : 4 * c + 4] = (weight * scales[0]).to(self.box_weight)
                self.box_bias[4 * c : 4 * c + 4] = bias.to(self.box_bias)
        return [torch.cat(parts) for parts in truth], scales[1]

    def _fit_svms(self, batches: Iterable[Batch], truth: list[Tensor], scale: float) -> None:
        """Fit an SVM for each class, with one pass over all proposals for hard negatives."""
        miners = [_Miner(positives * scale, self.svm) for positives in truth]
        for image, proposals, boxes, labels, _ in self._examples(batches):
            x = self._features_of(image, proposals)[self.layer].cpu() * scale
            iou = box_iou(boxes, proposals).cpu()  # crowds and difficult objects are no negatives, either
            for c, miner in enumerate(miners):
                mine = iou[(labels == c).cpu()]
                miner.look_at(x[(mine < self.svm.negative_iou).all(0)])
        for c, miner in enumerate(miners):
            weight, bias = miner.fit()
            self.svm_weight[c] = (weight * scale).to(self.svm_weight)
            self.svm_bias[c] = bias

    def _examples(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Of each image: normalised pixels, proposals [P,4], true boxes [G,4], labels [G], ignore [G]."""
        for batch in batches:
            batch = batch.to(self.device)
            proposals = proposals_of(batch, self.search)
            for image, boxes, target in zip(self._images(batch), proposals, batch.targets, strict=True):
                labels = target["labels"]
                ignore = target.get("ignore", torch.zeros_like(labels, dtype=torch.bool))
                yield image, boxes, target["boxes"].float(), labels, ignore


class _Miner:
    """The SVM of one class, and the negatives that matter to it. Features are scaled already."""

    def __init__(self, positives: Tensor, spec: SVMSpec) -> None:
        self.positives, self.spec = positives, spec
        self.negatives = positives[:0]
        self.new = 0
        self.svm: tuple[Tensor, float] | None = None

    def look_at(self, negatives: Tensor) -> None:
        """Keep the hard ones of ``negatives`` [P,D]; all of them as long as there is no SVM."""
        if len(self.positives) == 0:
            return
        if self.svm is not None:
            negatives = negatives[self._margins(negatives) > self.spec.hard_margin]
        self.negatives = torch.cat((self.negatives, negatives))
        self.new += len(negatives)
        if self.svm is None or self.new > self.spec.refit_after:
            self.fit()
            self.negatives = self.negatives[self._margins(self.negatives) > self.spec.easy_margin]

    def fit(self) -> tuple[Tensor, float]:
        """The weights [D] and the bias."""
        if len(self.positives) == 0:
            return torch.zeros(self.positives.shape[1]), NEVER
        x = torch.cat((self.positives, self.negatives))
        y = torch.ones(len(x))
        y[len(self.positives) :] = -1
        spec, start = self.spec, self.svm
        self.svm = fit_svm(x, y, C=spec.C, positive_weight=spec.positive_weight, bias=spec.bias_multiplier, start=start)
        self.new = 0
        return self.svm

    def _margins(self, x: Tensor) -> Tensor:
        assert self.svm is not None
        return x @ self.svm[0] + self.svm[1]


def fit_svm(
    x: Tensor,
    y: Tensor,
    *,
    C: float = 1.0,
    positive_weight: float = 1.0,
    bias: float = 1.0,
    start: tuple[Tensor, float] | None = None,
) -> tuple[Tensor, float]:
    """A linear SVM: the weights w [D] and the bias b of f(x) = w x + b.

    They minimise 1/2 (|w|^2 + (b / bias)^2) + C sum_i c_i max(0, 1 - y_i f(x_i))^2.

    Args:
        x: [R,D].
        y: [R], 1 or -1.
        C: see the formula.
        positive_weight: c_i where y_i is 1; it is 1 elsewhere.
        bias: the constant feature whose weight gives the bias b (liblinear's ``-B``).
        start: weights and bias to start from; they change the time alone.

    The minimum is unique and is found by L-BFGS in float64.
    """
    constant = x.new_full((len(x), 1), bias)
    features = torch.cat((x, constant), 1).double().numpy()
    sign = y.double().numpy()
    cost = C * np.where(sign > 0, positive_weight, 1.0)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        short = np.maximum(0, 1 - sign * (features @ w))
        gradient = w - 2 * features.T @ (cost * sign * short)
        return float(0.5 * w @ w + cost @ short**2), gradient

    first = np.zeros(features.shape[1])
    if start is not None:
        first[:-1], first[-1] = start[0].double().numpy(), start[1] / bias
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}).x
    return torch.from_numpy(found[:-1]).float(), float(found[-1] * bias)


def fit_box_regression(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights [4,D] and bias [4] that take the features ``x`` [R,D] to the deltas ``y`` [R,4].

    The deltas are whitened (zero mean, variances of 1 without correlations, but for 0.001 added to them), fitted
    by :func:`fit_ridge` on the features and a constant 1, and brought back. So does the paper's release.
    """
    x, y = x.double(), y.double()
    mean = y.mean(0)
    variances, axes = torch.linalg.eigh((y - mean).T @ (y - mean) / len(y))
    spread = (variances.clamp(min=0) + 0.001).sqrt()
    whiten, undo = axes / spread @ axes.T, axes * spread @ axes.T
    fitted = fit_ridge(F.pad(x, (0, 1), value=1.0), (y - mean) @ whiten, ridge) @ undo  # [D+1,4]
    return fitted[:-1].T.float(), (fitted[-1] + mean).float()


def fit_ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """The coefficients [D,T] that minimise |x w - y|^2 + ridge |w|^2, in closed form.

    With fewer rows than features, the smaller of two equal systems is solved: w = x' (x x' + ridge)^-1 y.
    """
    rows, columns = x.shape
    solved: Tensor
    if rows < columns:
        solved = x.T @ torch.linalg.solve(x @ x.T + ridge * torch.eye(rows, dtype=x.dtype), y)
    else:
        solved = torch.linalg.solve(x.T @ x + ridge * torch.eye(columns, dtype=x.dtype), x.T @ y)
    return solved
