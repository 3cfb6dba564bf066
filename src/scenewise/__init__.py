"""scenewise sees beyond image classification: pixels, boxes, instances, poses, boundaries, depth, behind one contract.

    model = scenewise.load("blood-cells")
    result = scenewise.predict(model, "smear.jpg")
    result.draw("smear.jpg").save("smear.png")

Importing scenewise is cheap: each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scenewise.version import VERSION as __version__

if TYPE_CHECKING:
    from scenewise.catalog import build
    from scenewise.data import open_data
    from scenewise.data.base import DataSet
    from scenewise.data.check import check_data
    from scenewise.data.convert import convert_data
    from scenewise.data.split import split_data
    from scenewise.draw.pages import side_by_side
    from scenewise.engine.evaluate import evaluate
    from scenewise.engine.info import Info, info
    from scenewise.engine.predict import Predictor, predict
    from scenewise.engine.run import Run
    from scenewise.engine.train import train
    from scenewise.errors import ScenewiseError
    from scenewise.metrics.base import Metric
    from scenewise.model import Model
    from scenewise.pipeline import Pipeline
    from scenewise.results.picture import draw_sample
    from scenewise.results.prediction import Prediction
    from scenewise.types import Batch, InputSpec, Interface, Output, Skeleton
    from scenewise.weights.checkpoint import save_checkpoint as save
    from scenewise.weights.load import load

_HOMES = {
    "Batch": "types",
    "DataSet": "data.base",
    "Info": "engine.info",
    "InputSpec": "types",
    "Interface": "types",
    "Metric": "metrics.base",
    "Model": "model",
    "Output": "types",
    "Pipeline": "pipeline",
    "Prediction": "results.prediction",
    "Predictor": "engine.predict",
    "Run": "engine.run",
    "ScenewiseError": "errors",
    "Skeleton": "types",
    "build": "catalog",
    "check_data": "data.check",
    "convert_data": "data.convert",
    "draw_sample": "results.picture",
    "evaluate": "engine.evaluate",
    "info": "engine.info",
    "load": "weights.load",
    "open_data": "data",
    "predict": "engine.predict",
    "save": "weights.checkpoint:save_checkpoint",
    "side_by_side": "draw.pages",
    "split_data": "data.split",
    "train": "engine.train",
}

__all__ = [
    "Batch",
    "DataSet",
    "Info",
    "InputSpec",
    "Interface",
    "Metric",
    "Model",
    "Output",
    "Pipeline",
    "Prediction",
    "Predictor",
    "Run",
    "ScenewiseError",
    "Skeleton",
    "__version__",
    "build",
    "check_data",
    "convert_data",
    "draw_sample",
    "evaluate",
    "info",
    "load",
    "open_data",
    "predict",
    "save",
    "side_by_side",
    "split_data",
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
