"""Classification with localisation: one network, two heads, one object.

The step from classification to detection; the multi-task pattern that later detectors repeat for each proposal. In
this form: Sermanet et al., "OverFeat", ICLR 2014, https://arxiv.org/abs/1312.6229, sec. 4. The object of an image with
several is its largest. It can't tell of a varying number of objects, which is why detectors go on from here.
Where we differ: the logistic function holds a box's four numbers in 0..1; plain regression gives boxes without area.

Shapes: N images, C classes, D features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.model import Model
from scenewise.nn.backbone import Backbone, backbone_input
from scenewise.ops.boxes import box_area, box_iou
from scenewise.types import Batch, Count, InputSpec, Interface, Output, Target, Weight

BoxLoss = Literal["l2", "l1", "smooth-l1", "iou"]


class SingleObject(Model):
    """The class and the box of the one object that an image shows.

    Args:
        classes: names of the classes, in label order.
        backbone: a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        box_loss: of the four numbers of a box (centre, width and height as shares of the image's), or 1 - IoU.
        box_weight: of the box's loss against the class's (the lecture's lambda).
        pool_size: the side of the grid that the last map is averaged to; with 1 little is left of where things are.
        class_specific: a box for each class, of which the loss sees that of the true class.
        input: how images are resized and normalised; by default to 224 x 224.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return Interface(needs=frozenset({"boxes", "labels"}), fills=frozenset({"boxes", "labels", "scores"}))

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        box_loss: BoxLoss = "l2",
        box_weight: Weight = 1.0,
        pool_size: Count = 1,
        class_specific: bool = False,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(classes, input or backbone_input(backbone, size=(224, 224)))
        self.backbone = Backbone(backbone, weights=backbone_weights, levels=(-1,), in_channels=self.input.channels)
        features = self.backbone.channels[-1] * pool_size**2
        self.classifier = nn.Linear(features, len(self.classes))
        self.locator = nn.Linear(features, 4 * (len(self.classes) if class_specific else 1))
        nn.init.zeros_(self.locator.weight)
        nn.init.zeros_(self.locator.bias)  # first, a box in the middle, half as large as the image
        self.box_loss, self.box_weight = box_loss, box_weight
        self.pool_size, self.class_specific = pool_size, class_specific

    def _locate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Class logits [N,C] and boxes [N,C,4] or [N,1,4]: centre, width, height as shares of the image."""
        maps = self.backbone(self.pixels(batch))[-1]
        stride = self.backbone.strides[-1]
        cells = [(max(1, round(h / stride)), max(1, round(w / stride))) for h, w in batch.sizes]
        x = torch.stack(
            [self._pooled(m[:, :h, :w]) for m, (h, w) in zip(maps, cells, strict=True)]
        )  # [N,D], no padding
        return self.classifier(x).float(), self.locator(x).float().sigmoid().unflatten(1, (-1, 4))

    def _pooled(self, x: Tensor) -> Tensor:
        return x.mean((1, 2)) if self.pool_size == 1 else F.adaptive_avg_pool2d(x, self.pool_size).flatten()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``class`` and ``box`` of each image's largest object; an image without an object has no part in either."""
        logits, boxes = self._locate(batch)
        chosen = [largest_object(target) for target in batch.targets]
        rows = [i for i, index in enumerate(chosen) if index is not None]
        if not rows:
            return {"class": logits.sum() * 0, "box": boxes.sum() * 0}
        labels = torch.stack([batch.targets[i]["labels"][chosen[i]] for i in rows])
        truth = torch.stack([batch.targets[i]["boxes"][chosen[i]] for i in rows])
        wanted = _shares(truth, _sides([batch.sizes[i] for i in rows], truth))
        found = boxes[rows, labels if self.class_specific else torch.zeros_like(labels)]
        return {
            "class": F.cross_entropy(logits[rows], labels),
            "box": self.box_weight * self._box_loss(found, wanted),
        }

    def _box_loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.box_loss == "iou":
            pairs = zip(_corners(found), _corners(wanted), strict=True)
            return 1 - torch.stack([box_iou(a[None], b[None])[0, 0] for a, b in pairs]).mean()
        loss = {"l2": F.mse_loss, "l1": F.l1_loss, "smooth-l1": F.smooth_l1_loss}[self.box_loss]
        return loss(found, wanted, reduction="sum") / len(found)

    def predict(self, batch: Batch) -> list[Output]:
        """One box an image, with the most probable class."""
        logits, boxes = self._locate(batch)
        scores, labels = logits.softmax(1).max(1)
        found = boxes[torch.arange(len(batch)), labels if self.class_specific else torch.zeros_like(labels)]
        corners = _corners(found).clamp(0, 1) * _sides(batch.sizes, found)
        rows = zip(batch.sizes, corners, labels, scores, strict=True)
        return [Output(size, boxes=b[None], labels=c[None], scores=s[None]) for size, b, c, s in rows]

    def probe(self, batch: Batch) -> Tensor:
        """Logits and boxes."""
        return torch.cat([x.flatten() for x in self._locate(batch)])


def largest_object(target: Target) -> int | None:
    """The index of the largest box that is neither crowd nor difficult; None where there is none."""
    areas = box_area(target["boxes"])
    if "ignore" in target:
        areas = areas.masked_fill(target["ignore"], -1)
    return int(areas.argmax()) if len(areas) and areas.max() >= 0 else None


def _sides(sizes: list[tuple[int, int]], like: Tensor) -> Tensor:
    """[N,4]: width, height, width, height of each image."""
    return like.new_tensor([[w, h, w, h] for h, w in sizes])


def _shares(corners: Tensor, sides: Tensor) -> Tensor:
    """Boxes [N,4] in pixels as centre, width, height in shares of the image."""
    x1, y1, x2, y2 = (corners / sides).unbind(1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1)


def _corners(shares: Tensor) -> Tensor:
    """x1, y1, x2, y2 of boxes [N,4] given as centre, width, height; a negative side is 0."""
    half = shares[:, 2:].clamp(min=0) / 2
    return torch.cat((shares[:, :2] - half, shares[:, :2] + half), 1)
