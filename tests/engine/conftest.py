"""A tiny data set and a tiny recipe, on which a run takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def tiny(folder: Path, **overrides: Any) -> dict[str, Any]:
    """A recipe of two short epochs on generated scenes; ``overrides`` by dotted path with ``__`` for the dots."""
    recipe: dict[str, Any] = {
        "model": {
            "system": "deeplab-v3-plus",
            "backbone": "resnet10t",
            "aspp_channels": 16,
            "decoder_channels": 16,
            "skip_channels": [8],
            "dropout": 0.2,
        },
        "data": {
            "train": "scenes:count=12,size=48x64,fields=semantic",
            "val": "scenes:count=4,size=48x64,fields=semantic",
        },
        "transforms": ["RandomHorizontalFlip", {"ColorJitter": {"brightness": 0.4}}],
        "optimizer": {"name": "adamw", "lr": 0.003},
        "trainer": {
            "epochs": 2,
            "batch_size": 2,
            "ema": 0.9,
            "folder": str(folder),
            "name": "run",
            "deterministic": True,
        },
    }
    for path, value in overrides.items():
        *parents, last = path.split("__")
        here = recipe
        for name in parents:
            here = here.setdefault(name, {})
        here[last] = value
    return recipe


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Any:
    """:func:`tiny` with runs in a temporary folder."""
    return lambda **overrides: tiny(tmp_path, **overrides)
