"""A step of training and a prediction of a small detector, for the tests of options."""

from __future__ import annotations

from typing import Any

import torch

from scenewise.catalog import build
from scenewise.data import open_data
from scenewise.data.loader import Collate, plain
from scenewise.model import Model
from scenewise.types import Batch, Output

SCENES = open_data("scenes:count=4,size=96x128")
SMALL: dict[str, Any] = {
    "backbone": "resnet10t",
    "proposals": {"train_after_nms": 60, "after_nms": 20},
    "sampler": {"samples": 32},
    "detections": {"count": 5},
    "input": {"size_divisor": 32},
}


def small(system: str, **options: Any) -> Model:
    """A small model of ``system`` with ``options``; drawn alike each time."""
    torch.manual_seed(0)
    narrow: dict[str, Any] = {"head": {"channels": 16, **options.pop("head", {})}}
    if options.get("design", "fpn") == "fpn":
        narrow["features"] = {"channels": 16, **options.pop("features", {})}
    return build(system, SCENES.classes, **{**SMALL, **narrow, **options})


def scenes_batch(*indices: int) -> Batch:
    """A batch of scenes of 96 x 128 pixels; those of index 2 and 3 have figures."""
    return Collate(32)([plain(*SCENES[i]) for i in indices or (2, 3)])


def trains_and_predicts(model: Model) -> tuple[dict[str, float], Output]:
    """The losses of a step, after which the weights have moved, and what the model then sees in a scene."""
    batch = scenes_batch()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    terms = model.losses(batch)
    torch.stack(list(terms.values())).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    optimizer.step()
    assert all(value.isfinite() for value in terms.values())
    model.eval()
    with torch.no_grad():
        return {name: float(value) for name, value in terms.items()}, model.predict(batch)[0]
