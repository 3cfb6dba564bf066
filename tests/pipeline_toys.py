"""Toy models for pipelines: a finder of coloured rectangles, and models that tell of a crop."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from scipy.ndimage import find_objects, label  # type: ignore[attr-defined]  # which it makes when loaded
from torch import Tensor, nn
from torchvision import tv_tensors

from scenewise.data.base import DataSet
from scenewise.model import Model
from scenewise.types import Batch, InputSpec, Interface, Output, Sample, Skeleton, Target

PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COLOURS = ("red", "green", "blue")


class Blobs(Model):
    """Finds what is not black: a box each, the larger the surer; blobs at least as wide as high are "flat"."""

    def __init__(
        self, classes: tuple[str, ...] = ("flat", "tall"), *, masks: bool = False, input: InputSpec | None = None
    ) -> None:
        super().__init__(classes, input or InputSpec(**PLAIN))

    @classmethod
    def interface(cls, *, masks: bool = False, **arguments: Any) -> Interface:
        return Interface({"boxes", "labels"}, {"boxes", "labels", "scores"} | ({"masks"} if masks else set()))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Output]:
        return [self._found(image[:, :h, :w]) for image, (h, w) in zip(batch.images, batch.sizes, strict=True)]

    def _found(self, image: Tensor) -> Output:
        marked, number = label(image.amax(0).cpu().numpy() > 0.1)
        boxes = torch.tensor(
            [[x.start, y.start, x.stop, y.stop] for y, x in find_objects(marked)], dtype=torch.float32
        ).reshape(-1, 4)
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        scores = (width * height / image[0].numel()) ** 0.25
        order = scores.argsort(descending=True, stable=True)
        found = {"boxes": boxes[order], "labels": (height > width).long()[order], "scores": scores[order]}
        if "masks" in self.fills:
            masks = torch.from_numpy(marked)[None] == torch.arange(1, number + 1)[:, None, None]
            found["masks"] = masks[order]
        return Output((image.shape[-2], image.shape[-1]), **found)


class Colours(Model):
    """A classifier of crops by the mean colours of a grid of cells: one linear layer."""

    def __init__(self, classes: tuple[str, ...], *, cells: int = 1, input: InputSpec | None = None) -> None:
        super().__init__(classes, input or InputSpec(**PLAIN, size=(8, 8)))
        self.pool = nn.AdaptiveAvgPool2d(cells)
        self.classifier = nn.Linear(3 * cells**2, len(self.classes))

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        return Interface({"labels"}, {"labels", "scores"})

    @classmethod
    def primary(cls, **arguments: Any) -> Colours:
        """Knows red, green and blue."""
        model = cls(COLOURS, **arguments)
        with torch.no_grad():
            model.classifier.weight.copy_(8 * torch.eye(3))
            model.classifier.bias.zero_()
        return model.eval()

    def logits(self, batch: Batch) -> Tensor:
        found: Tensor = self.classifier(self.pool(self.pixels(batch)).flatten(1)).float()
        return found

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        labels = torch.cat([target["labels"] for target in batch.targets])
        return {"class": nn.functional.cross_entropy(self.logits(batch), labels)}

    def predict(self, batch: Batch) -> list[Output]:
        scores, labels = self.logits(batch).softmax(1).max(1)
        rows = zip(batch.sizes, labels, scores, strict=True)
        return [Output(size, labels=label[None], scores=score[None]) for size, label, score in rows]


class Reddest(Model):
    """Tells of a crop: the centre of its red and of its green, as two keypoints; or where it is red, as a mask.

    A crop without red shows nothing.
    """

    def __init__(self, classes: tuple[str, ...] = (), *, masks: bool = False, input: InputSpec | None = None) -> None:
        super().__init__(classes, input or InputSpec(**PLAIN))
        self.fed: list[Tensor] = []  # what it was fed

    @classmethod
    def interface(cls, *, masks: bool = False, **arguments: Any) -> Interface:
        return Interface(set(), {"masks"} if masks else {"keypoints"})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Output]:
        assert not batch.padded
        images = self.pixels(batch)
        self.fed.append(images)
        return [self._told(image, size) for image, size in zip(images, batch.sizes, strict=True)]

    def _told(self, image: Tensor, size: tuple[int, int]) -> Output:
        seen = int(image[0].sum() > 0)
        if "masks" in self.fills:
            return Output(size, masks=(image[0] > 0.5)[None][:seen])
        y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
        points = []
        for channel in image[:2]:
            total = channel.sum()
            known = total > 0
            points.append(torch.stack([(x * channel).sum(), (y * channel).sum(), 2 * total]) / total.clamp(min=1e-9))
            points[-1][2] = 2 * known
        return Output(size, keypoints=torch.stack(points)[None][:seen])


class Twice(Reddest):
    """Finds two of it in every crop."""

    def predict(self, batch: Batch) -> list[Output]:
        return [Output(size, keypoints=torch.ones(2, 2, 3)) for size in batch.sizes]


class Filling(Model):
    """Fills and takes what it is told to, and never runs."""

    def __init__(
        self, classes: tuple[str, ...] = ("any",), *, fills: tuple[str, ...] = (), takes: Collection[str] = ()
    ) -> None:
        super().__init__(classes)

    @classmethod
    def interface(cls, *, fills: tuple[str, ...] = (), takes: Collection[str] = (), **arguments: Any) -> Interface:
        return Interface(set(), fills, takes)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Output]:
        raise NotImplementedError


class Rectangles(DataSet):
    """Pictures of some coloured rectangles on black, of which the first has none."""

    fields = frozenset({"boxes", "labels"})
    classes: tuple[str, ...] = COLOURS
    split = "test"

    def __len__(self) -> int:
        return 4

    def image_id(self, index: int) -> str:
        return f"picture-{index}"

    def __getitem__(self, index: int) -> Sample:
        image = torch.zeros(3, 40, 60, dtype=torch.uint8)
        boxes, labels = torch.zeros(index, 4), torch.zeros(index, dtype=torch.int64)
        for i in range(index):
            box = (2 + 20 * i, 4 + 3 * i, 14 + 20 * i + i, 20 + 6 * i)
            boxes[i], labels[i] = torch.tensor(box), (index + i) % 3
            image[labels[i], box[1] : box[3], box[0] : box[2]] = 200
        target: Target = {"image_id": self.image_id(index), "labels": labels}
        target["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(40, 60))
        return tv_tensors.Image(image), target


class Joints(Rectangles):
    """Pictures of some blue rectangles, tall or square, each with a red and a green pixel: its joints."""

    fields = frozenset({"boxes", "labels", "keypoints"})
    classes = ("any", "other")
    skeleton = Skeleton(("left_eye", "right_eye"), ((0, 1),))
    points: tuple[tuple[int, int], tuple[int, int]] = ((2, 3), (7, 5))  # column and row of the joints in a box

    def __getitem__(self, index: int) -> Sample:
        _, target = super().__getitem__(index)
        image = torch.zeros(3, 40, 60, dtype=torch.uint8)
        boxes = target["boxes"].as_subclass(Tensor)
        keypoints = torch.zeros(index, 2, 3)
        for i, (x1, y1, x2, y2) in enumerate(boxes.long().tolist()):
            image[2, y1:y2, x1:x2] = 128
            for channel, (x, y) in enumerate(((2, 3), (7, 5))):
                image[channel, y1 + y, x1 + x] = 255
            for j, (x, y) in enumerate(self.points):
                keypoints[i, j] = torch.tensor([x1 + x + 0.5, y1 + y + 0.5, 2])
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        return tv_tensors.Image(image), target | {"labels": (height > width).long(), "keypoints": keypoints}
