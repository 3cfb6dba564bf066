"""Evaluation: a model's predictions on a data set, measured with the field's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.data import DataSet, open_data
from scenewise.data.inputs import with_inputs
from scenewise.data.loader import Collate, plain
from scenewise.data.transforms.by_name import ResizeToInput
from scenewise.engine.fusion import Predict
from scenewise.engine.predict import Precision, Predictor, Procedure, predict_images
from scenewise.errors import UsageError
from scenewise.fields.table import measured_by, plain_target, take_inputs
from scenewise.metrics import Metric
from scenewise.metrics.coco import FIELDS, CocoMetrics, Kind
from scenewise.model import Model
from scenewise.results.coco import CocoResults, category_ids
from scenewise.results.prediction import Prediction
from scenewise.types import Batch, Target

Tick = Callable[[int], None]  # told the number of images done


def evaluate(
    model: Model,
    data: str | DataSet,
    split: str = "test",
    *,
    precision: Precision = "32",
    procedures: Sequence[Procedure] = (),
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
        split: which part of it, where ``data`` is a string.
        precision, procedures, device: see :class:`~scenewise.engine.predict.Predictor`.
        inputs: files of what systems take beside the images, by name, such as ``{"proposals": FILE}``; see
            :mod:`scenewise.data.inputs`.
        workers: processes that load samples.
        results: where to write the predictions as a COCO results file, for a model that finds objects.
        tick: called with the number of images done since its last call.

    Returns:
        The scores by name, ready for JSON; undefined ones are None. For semantic segmentation ``mean_iou``,
        ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou`` and ``per_class``. For objects ``box``,
        ``mask`` and ``keypoints``, each with ``AP`` and the rest of COCO's scores; see
        :class:`~scenewise.metrics.coco.CocoMetrics`.

    Raises:
        UsageError: the classes disagree, or the data set has no truth for what the model fills.
        DataError: a record of the data set is bad.
    """
    needs = truth_for(model.needs, model.fills)
    opened = (open_data(data, split, needs=needs) if isinstance(data, str) else data).only(needs)
    opened = with_inputs(opened, inputs or {})
    metrics = metrics_for(model.fills, opened)
    check_classes(model, opened)
    predictor = Predictor(model, precision=precision, procedures=procedures, device=device)
    written = None
    if results is not None:
        if not object_kinds(model.fills) or "labels" not in model.fills:
            raise UsageError("results: COCO results hold objects and their classes, which this model does not find")
        written = CocoResults(getattr(opened, "class_ids", category_ids(model)), _image_numbers(opened))
    run_evaluation(
        predictor.run,
        model,
        Subset(opened),
        metrics if written is None else [*metrics, written],
        device=predictor.device,
        batch_size=8 if predictor.device.type == "cuda" else 1,
        workers=workers,
        tick=tick,
    )
    if written is not None:
        written.write(results)  # type: ignore[arg-type]
    return scores_of(metrics)


def truth_for(needs: frozenset[str], fills: frozenset[str]) -> frozenset[str]:
    """The target fields by which a model that needs and fills these fields may be measured."""
    return needs | measured_by(fills)


def metrics_for(fills: frozenset[str], data: DataSet) -> list[Metric]:
    """The field's metrics for what a model fills and ``data`` knows.

    Raises:
        UsageError: the data set lacks the truth to measure the model by.
    """
    from scenewise.metrics.proposals import ProposalMetrics
    from scenewise.metrics.segmentation import SegmentationMetrics
    from scenewise.metrics.voc import VocMetrics

    metrics: list[Metric] = []
    if "semantic_logits" in fills and "semantic" in data.fields:
        metrics.append(SegmentationMetrics(data.classes))
    kinds = [kind for kind in object_kinds(fills) if FIELDS[kind] in data.fields]
    if kinds and "labels" in fills:
        metrics.append(CocoMetrics(data.classes, kinds, order=_image_numbers(data)))
        if "box" in kinds and data.format == "voc":
            metrics.append(VocMetrics(data.classes))
    elif "box" in kinds:  # boxes of no class: region proposals
        metrics.append(ProposalMetrics(order=_image_numbers(data)))
    if not metrics:
        raise UsageError(
            f"{data.source} has {', '.join(sorted(data.fields))}; "
            f"nothing there measures a model that fills {', '.join(sorted(fills))}"
        )
    return metrics


def object_kinds(fills: frozenset[str]) -> list[Kind]:
    """What a model that fills ``fills`` says of objects: some of box, mask and keypoints."""
    sources: dict[Kind, set[str]] = {"box": {"boxes"}, "mask": {"masks", "roi_masks"}, "keypoints": {"keypoints"}}
    return [kind for kind, fields in sources.items() if fields & fills]


def main_metric(fills: frozenset[str]) -> str:
    """The score by which a model that fills ``fills`` is usually chosen; dots lead into nested scores."""
    if "semantic_logits" in fills:
        return "mean_iou"
    kinds = object_kinds(fills)
    if "labels" not in fills:
        return "proposals.AR1000" if "box" in kinds else "loss"
    return next((f"{kind}.AP" for kind in ("mask", "keypoints", "box") if kind in kinds), "loss")


def _image_numbers(data: DataSet) -> dict[str, int] | None:
    """The format's own number of each image by its name, where it has any; COCO's evaluation orders images by it."""
    numbers = getattr(data, "image_ids", None)
    return None if numbers is None else {data.image_id(i): int(number) for i, number in enumerate(numbers)}


def check_classes(model: Model, data: DataSet, source: str = "the model") -> None:
    """Raise a :class:`UsageError` unless the model's classes are the data set's, in the same order."""
    if model.classes == data.classes:
        return
    if len(model.classes) != len(data.classes):
        what = f"{source} has {len(model.classes)} classes, {data.source} has {len(data.classes)}"
    else:
        i = next(i for i, (a, b) in enumerate(zip(model.classes, data.classes, strict=True)) if a != b)
        what = f"class {i} is {model.classes[i]!r} in {source} and {data.classes[i]!r} in {data.source}"
    raise UsageError(f"the classes disagree: {what}; a model is measured on a data set with its own classes")


class Subset(torch.utils.data.Dataset[tuple[Tensor, Target]]):
    """Every ``world``-th sample from ``rank`` on, untransformed; what one process evaluates."""

    def __init__(self, data: DataSet, rank: int = 0, world: int = 1) -> None:
        self.data, self.indices = data, range(rank, len(data), world)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Target]:
        return self.data.sample(self.indices[position])


def run_evaluation(
    predict: Predict,
    model: Model,
    samples: Subset,
    metrics: Sequence[Metric],
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
        samples, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )
    group: list[tuple[Tensor, Target]] = []
    for sample in loader:
        if group and (len(group) == batch_size or sample[0].shape != group[0][0].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def scores_of(metrics: Sequence[Metric]) -> dict[str, Any]:
    """All scores of ``metrics`` as one dictionary, those of each kind of object in one of their own."""
    return {name: value for metric in metrics for name, value in metric.compute().items()}
