"""Evaluation: a model's predictions on a data set, measured with the field's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from scenewise.data import DataSet, open_data, splits_of
from scenewise.data.base import VALIDATION
from scenewise.data.inputs import with_inputs
from scenewise.data.loader import Carrying, Collate, deaths_named, plain, raise_carried
from scenewise.data.part import parse_part
from scenewise.data.transforms.by_name import ResizeToInput
from scenewise.engine.fusion import Predict
from scenewise.engine.predict import Precision, Predictor, Procedure, check_inputs, predict_images
from scenewise.engine.processes import check_loaders
from scenewise.errors import UsageError
from scenewise.fields.table import plain_target, take_inputs
from scenewise.metrics.base import Setting
from scenewise.metrics.table import Asked, Chosen, choose, gotten, scores_of, truth_for
from scenewise.model import Model
from scenewise.results.coco import CocoResults, category_ids
from scenewise.results.prediction import Prediction
from scenewise.types import Batch, Described, Target

Tick = Callable[[int], None]  # told the number of images done


def evaluate(
    model: Model,
    data: str | DataSet,
    split: str | None = None,
    *,
    precision: Precision = "32",
    procedures: Sequence[Procedure] = (),
    metrics: Sequence[Asked] = (),
    device: torch.device | str | None = None,
    inputs: Mapping[str, str | Path] | None = None,
    workers: int = 0,
    results: str | Path | None = None,
    tick: Tick | None = None,
) -> dict[str, Any]:
    """The field's metrics of ``model`` on a data set.

    Args:
        model: its classes must be those of the data set, in the same order.
        data: a ``format:path`` string, or an open data set.
        split: which part of it, where ``data`` is a string; by default what the model was validated on in its training
            (:func:`usual_split`).
        precision, procedures, device: see :class:`~scenewise.engine.predict.Predictor`.
        inputs: files of what systems take beside the images, by name, such as ``{"proposals": FILE}``; see
            :mod:`scenewise.data.inputs`.
        metrics: further ones besides the usual, by name, such as ``"boundary-f1"``, a mapping of a name to its
            parameters (``{"trimap": {"radii": [2, 4]}}``), and one's own as ``module:Class`` or as a subclass of
            :class:`~scenewise.metrics.base.Metric`; see docs/metrics.md.
        workers: processes that load samples.
        results: where to write the predictions as a COCO results file, for a model that finds objects.
        tick: called with the number of images done since its last call.

    Returns:
        The scores by name, ready for JSON; undefined ones are None. For semantic segmentation ``mean_iou``,
        ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou`` and ``per_class``. For objects ``box``,
        ``mask`` and ``keypoints``, each with ``AP`` and the rest of COCO's scores; for maps ``boundary``, ``depth``,
        ``normals`` and ``flow``. What each contains is documented in the metric's ``compute``.

    Raises:
        UsageError: the classes disagree, the data set has no truth for what the model fills, or the model takes no such
            input.
        DataError: a record of the data set is bad.
        LoaderError: a process that loads samples ended, as where memory runs out.
    """
    check_loaders(workers, "workers")
    check_inputs(model.takes, inputs or {})
    needs = model.needs | truth_for(model.fills, metrics)
    if isinstance(data, str):
        data = open_data(data, split or usual_split(model, data), needs=needs)
    opened = data.only(needs)
    opened = with_inputs(opened.seen_as(model.input), inputs or {})
    chosen = choose_metrics(model.fills, opened, metrics).metrics
    check_classes(model, opened)
    predictor = Predictor(model, precision=precision, procedures=procedures, device=device)
    written = None
    if results is not None:
        if not {"labels", "scores"} <= model.fills:
            raise UsageError("results: COCO results contain classified objects, which this model does not return")
        written = CocoResults(getattr(opened, "class_ids", category_ids(model)), _image_numbers(opened))
    taking: list[Updated] = [*chosen] if written is None else [*chosen, written]
    with deaths_named("workers"):
        run_evaluation(
            predictor.run,
            model,
            Subset(opened),
            taking,
            device=predictor.device,
            batch_size=8 if predictor.device.type == "cuda" else 1,
            workers=workers,
            tick=tick,
        )
    if written is not None:
        written.write(results)  # type: ignore[arg-type]
    return scores_of(chosen)


def usual_split(model: Model, data: str) -> str:
    """The split of ``data`` that ``model`` was validated on in its training; ``test`` where that is not known, or
    ``data`` has no such split."""
    metrics = model.info.get("metrics")
    known = metrics.get("split") if isinstance(metrics, Mapping) else None
    if not isinstance(known, str):
        return "test"
    there, name = splits_of(data), parse_part(known)[0]
    return known if name in there or (name in VALIDATION and VALIDATION & {*there}) else "test"


def choose_metrics(fills: frozenset[str], data: DataSet, asked: Sequence[Asked] = ()) -> Chosen:
    """The metrics by which a model that fills ``fills`` is measured on ``data``: the usual ones, the data set's own,
    and those ``asked`` for; see :func:`scenewise.metrics.table.choose`.

    Raises:
        UsageError: the data set lacks the ground truth to measure the model by, or a metric does not fit.
    """
    setting = Setting(data.classes, gotten(fills), data.fields, data.skeleton, _image_numbers(data))
    return choose(setting, data.source, data.benchmarks, asked)


def _image_numbers(data: DataSet) -> dict[str, int] | None:
    """The format's own number of each image by its name, where it has any; COCO's evaluation orders images by it."""
    numbers = getattr(data, "image_ids", None)
    return None if numbers is None else {data.image_id(i): int(number) for i, number in enumerate(numbers)}


def check_classes(model: Model, data: DataSet, source: str = "the model") -> None:
    """Raise a :class:`UsageError` unless the model's classes, where it knows any, are the data set's, in the same
    order."""
    if model.classes in ((), data.classes):
        return
    if len(model.classes) != len(data.classes):
        what = f"{source} has {len(model.classes)} classes, {data.source} has {len(data.classes)}"
    else:
        i = next(i for i, (a, b) in enumerate(zip(model.classes, data.classes, strict=True)) if a != b)
        what = f"class {i} is {model.classes[i]!r} in {source} and {data.classes[i]!r} in {data.source}"
    raise UsageError(f"the classes disagree: {what}; a model is measured on a data set with its own classes")


class Updated(Protocol):
    """What takes in one image after the other: a metric, or a results file."""

    def update(self, prediction: Described, target: Target) -> None:
        """Take in one image."""


class Subset(torch.utils.data.Dataset[tuple[Tensor, Target]]):
    """Every ``world``-th sample from ``rank`` on, untransformed; what one process evaluates."""

    def __init__(self, data: DataSet, rank: int = 0, world: int = 1) -> None:
        self.data, self.indices = data, range(rank, len(data), world)

    def __len__(self) -> int:
        return len(self.indices)

    def index_of(self, position: int) -> int:
        """The index in the data set."""
        return self.indices[position]

    def __getitem__(self, position: int) -> tuple[Tensor, Target]:
        return self.data.sample(self.indices[position])


def run_evaluation(
    predict: Predict,
    model: Model,
    samples: Subset,
    metrics: Sequence[Updated],
    *,
    losses: Callable[[Batch], dict[str, Tensor]] | None = None,
    device: Any = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    tick: Tick | None = None,
) -> dict[str, float]:
    """Update ``metrics`` with the predictions for ``samples``; give the summed losses, where ``losses`` is given.

    ``model`` says how images are fed and what its outputs' labels are called. Images of one size are batched together,
    up to ``batch_size``, so that no padding is ever fed.
    """
    sums: dict[str, float] = {}
    fit = ResizeToInput(model.input)
    collate = Collate(model.input.size_divisor)
    with torch.inference_mode():
        for group in _same_size(samples, batch_size, workers):
            images = [image.as_subclass(Tensor) for image, _ in group]
            _, inputs = take_inputs([target for _, target in group])
            found = predict_images(predict, model.input, images, device, inputs=inputs)
            for output, (image, target) in zip(found, group, strict=True):
                prediction = Prediction.of(output, (image.shape[-2], image.shape[-1]), model.classes, model.skeleton)
                truth = plain_target(target, bitmaps=False)
                for metric in metrics:
                    metric.update(prediction, truth)
            if losses is not None:
                batch = collate([plain(*fit(image, target)) for image, target in group]).to(device)
                for name, value in losses(batch).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(group)
            if tick is not None:
                tick(len(group))
    return sums


def _same_size(samples: Subset, batch_size: int, workers: int) -> Iterator[list[tuple[Tensor, Target]]]:
    loader: Any = torch.utils.data.DataLoader(
        Carrying(samples, workers) if workers else samples,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    group: list[tuple[Tensor, Target]] = []
    for result in loader:
        sample = raise_carried(result)
        if group and (len(group) == batch_size or sample[0].shape != group[0][0].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group
