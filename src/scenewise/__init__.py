"""scenewise sees beyond image classification: pixels, boxes, instances, poses, boundaries, depth, behind one contract.

    model = scenewise.load("street-scenes")
    result = scenewise.predict(model, "street.jpg")
    result.draw("street.jpg").save("street.png")

Importing scenewise is cheap: each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scenewise.version import VERSION as __version__

if TYPE_CHECKING:
    from scenewise.catalog import build
    from scenewise.data import open_data
    from scenewise.data.check import check_data
    from scenewise.engine.evaluate import evaluate
    from scenewise.engine.predict import Predictor, predict
    from scenewise.engine.train import Run, train
    from scenewise.errors import ScenewiseError
    from scenewise.model import Model
    from scenewise.results.picture import draw_prediction, draw_sample, side_by_side
    from scenewise.types import Batch, InputSpec, Prediction
    from scenewise.weights.checkpoint import save_checkpoint as save
    from scenewise.weights.load import load

_HOMES = {
    "Batch": "types",
    "InputSpec": "types",
    "Model": "model",
    "Prediction": "types",
    "Predictor": "engine.predict",
    "Run": "engine.train",
    "ScenewiseError": "errors",
    "build": "catalog",
    "check_data": "data.check",
    "draw_prediction": "results.picture",
    "draw_sample": "results.picture",
    "evaluate": "engine.evaluate",
    "load": "weights.load",
    "open_data": "data",
    "predict": "engine.predict",
    "save": "weights.checkpoint:save_checkpoint",
    "side_by_side": "results.picture",
    "train": "engine.train",
}

__all__ = [
    "Batch",
    "InputSpec",
    "Model",
    "Prediction",
    "Predictor",
    "Run",
    "ScenewiseError",
    "__version__",
    "build",
    "check_data",
    "draw_prediction",
    "draw_sample",
    "evaluate",
    "load",
    "open_data",
    "predict",
    "save",
    "side_by_side",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scenewise' has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"scenewise.{module}"), own or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
