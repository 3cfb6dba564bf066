"""A short training on the built-in scenes, for the tests of detectors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scenewise.catalog import build
from scenewise.data import open_data
from scenewise.data.loader import Collate, plain
from scenewise.metrics.base import Metric
from scenewise.model import Model
from scenewise.results.prediction import Prediction
from scenewise.types import Batch, Target

SCENES = "scenes:count={count},size={size},objects=3,fields=boxes+labels"
SHAPES = ("square", "triangle")
CLASSES = open_data(SCENES.format(count=1, size="64x96")).classes


def scenes(
    count: int, split: str, *, size: str = "64x96", proposals: Tensor | None = None
) -> list[tuple[Tensor, Target]]:
    """Scenes of ``size`` (height x width); with ``proposals`` [P,4], the same for every one."""
    data = open_data(SCENES.format(count=count, size=size), split)
    samples = [plain(*data[index]) for index in range(count)]
    if proposals is not None:
        for _, target in samples:
            target["proposals"] = proposals
    return samples


def shapes(count: int, seed: int, *, proposals: Tensor | None = None) -> list[tuple[Tensor, Target]]:
    """Grey pictures of 64 x 96 pixels with noise, and in each one to three figures that don't overlap: dark squares and
    light right-angled triangles, which fill half of their boxes."""
    rng = torch.Generator().manual_seed(seed)

    def below(stop: int, start: int = 0) -> int:
        return int(torch.randint(start, stop, (), generator=rng))

    samples: list[tuple[Tensor, Target]] = []
    for index in range(count):
        image = 0.5 + 0.03 * torch.randn(3, 64, 96, generator=rng)
        boxes, labels, masks = [], [], []
        for column in torch.randperm(3, generator=rng)[: below(4, 1)].tolist():
            side, label = below(29, 16), below(2)
            x, y = 32 * column + below(33 - side), below(65 - side)
            mask = torch.zeros(64, 96, dtype=torch.bool)
            figure = torch.ones(side, side, dtype=torch.bool)
            mask[y : y + side, x : x + side] = figure.tril() if label else figure
            image[:, mask] += 0.6 * label - 0.3
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
            masks.append(mask)
        target: Target = {
            "image_id": str(index),
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor(labels),
            "masks": torch.stack(masks),
        }
        if proposals is not None:
            target["proposals"] = proposals
        samples.append((image.clamp(0, 1), target))
    return samples


def batch_of(samples: Sequence[tuple[Tensor, Target]]) -> Batch:
    """The batch of ``samples``, with targets of its own."""
    return Collate(32)([(image, target.copy()) for image, target in samples])


def empty(batch: Batch, row: int) -> None:
    """Take the objects out of image ``row``."""
    batch.targets[row] |= {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "ignore": torch.zeros(0, dtype=torch.bool),
    }


def train(
    model: Model, samples: Sequence[tuple[Tensor, Target]], steps: int, *, size: int = 4, lr: float = 1e-3
) -> None:
    """So many steps of AdamW, on a one-cycle schedule."""
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        first = step * size % len(samples)
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch_of(samples[first : first + size])).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def found(model: Model, samples: Sequence[tuple[Tensor, Target]]) -> list[Prediction]:
    """What ``model`` finds in ``samples``."""
    model.eval()
    outputs = [output for sample in samples for output in model.predict(batch_of([sample]))]
    return [Prediction.of(output, output.size, model.classes) for output in outputs]


def score(metric: Metric, model: Model, samples: Sequence[tuple[Tensor, Target]]) -> dict[str, Any]:
    """What ``metric`` says of ``model`` on ``samples``."""
    for prediction, (_, target) in zip(found(model, samples), samples, strict=True):
        metric.update(prediction, target)
    value: dict[str, float | None] = metric.compute()
    return value


def learned(
    system: str, metric: Metric, steps: int, *, proposals: Tensor | None = None, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``metric`` says of a ``system`` with ``options`` on 24 unseen pictures of figures, before and after so many
    steps on others."""
    torch.manual_seed(0)
    model = build(system, SHAPES, **options)
    held_out = shapes(24, 1000, proposals=proposals)
    untrained = score(copy.deepcopy(metric), model, held_out)
    train(model, shapes(4 * steps, 0, proposals=proposals), steps, lr=5e-3)
    return untrained, score(metric, model, held_out)
