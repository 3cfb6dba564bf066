"""The table of every metric: what it measures, by which truth, and the score by which a model is usually chosen."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scenewise.errors import UsageError, suggest
from scenewise.fields.table import FIELDS
from scenewise.metrics.base import Metric, Setting
from scenewise.own import own_class

Asked = str | type[Metric] | Mapping[str, Any]  # a name, a class, or one of them with its parameters


@dataclass(frozen=True)
class Row:
    """One field that a metric measures.

    Attributes:
        name: of the metric, as ``--metrics`` and recipes have it.
        filled: the field of :class:`~scenewise.types.Described`, that the user receives.
        truth: the target fields that it is compared with.
        location: ``module:class`` below ``scenewise.metrics``.
        main: the dotted path of the score by which a model is usually chosen; empty for none.
        used: ``"always"`` where the model and the data set allow it, ``"else"`` where no row before it measures the
            field, or when ``"asked"`` for by name (or by the data set's ``benchmarks``).
        besides: fields that the model has to fill, too.
        parameters: of the class.
    """

    name: str
    filled: str
    truth: frozenset[str]
    location: str
    main: str = ""
    used: Literal["always", "else", "asked"] = "always"
    besides: frozenset[str] = frozenset()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> frozenset[str]:
        """All fields that the model has to fill."""
        return self.besides | {self.filled}

    def load(self) -> type[Metric]:
        """The metric's class."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(f"scenewise.metrics.{module}"), name)  # type: ignore[no-any-return]


def _row(
    name: str,
    filled: str,
    truth: str,
    location: str,
    main: str = "",
    used: Literal["always", "else", "asked"] = "always",
    *,
    besides: str = "",
    **parameters: Any,
) -> Row:
    return Row(name, filled, frozenset(truth.split()), location, main, used, frozenset(besides.split()), parameters)


LABELLED = "labels scores"

# The main score is that of the first row that applies.
ROWS = (
    _row("segmentation", "semantic", "semantic", "segmentation:SegmentationMetrics", "mean_iou"),
    _row("coco", "masks", "masks labels", "coco:CocoMetrics", "mask.AP", besides=LABELLED),
    _row("coco", "keypoints", "keypoints boxes labels", "coco:CocoMetrics", "keypoints.AP", besides=LABELLED),
    _row("coco", "boxes", "boxes labels", "coco:CocoMetrics", "box.AP", besides=LABELLED),
    _row("proposals", "boxes", "boxes", "proposals:ProposalMetrics", "proposals.AR1000", "else", besides="scores"),
    _row("pck", "keypoints", "keypoints", "pck:PckMetrics", "pck.mean", "else"),
    _row("boundary", "boundary", "boundary", "boundary:BoundaryMetrics", "boundary.ODS"),
    _row("depth", "depth", "depth", "dense:DepthMetrics", "depth.rmse"),
    _row("normals", "normals", "normals", "dense:NormalMetrics", "normals.mean"),
    _row("flow", "flow", "flow", "dense:FlowMetrics", "flow.epe"),
    _row("voc", "boxes", "boxes labels", "voc:VocMetrics", "voc.AP", "asked", besides=LABELLED),
    _row("dice", "semantic", "semantic", "segmentation:ClassScores", "dice.mean", "asked", score="dice"),
    _row(
        "precision", "semantic", "semantic", "segmentation:ClassScores", "precision.mean", "asked",
        score="precision",
    ),
    _row("image-iou", "semantic", "semantic", "segmentation:ImageMeans", "image_iou.mean", "asked", score="iou"),
    _row(
        "image-dice", "semantic", "semantic", "segmentation:ImageMeans", "image_dice.mean", "asked",
        score="dice",
    ),
    _row(
        "image-accuracy", "semantic", "semantic", "segmentation:ImageMeans", "image_accuracy.mean", "asked",
        score="accuracy",
    ),
    _row("ade20k", "semantic", "semantic", "scene_benchmarks:Ade20kScore", "ade20k.score", "asked"),
    _row("categories", "semantic", "semantic", "scene_benchmarks:CategoryIoU", "category_iou.mean", "asked"),
    _row("segments", "semantic", "semantic", "segments:SegmentMetrics", "segments.rand", "asked"),
    _row("trimap", "semantic", "semantic", "segmentation_edges:TrimapMetrics", "", "asked"),
    _row(
        "boundary-f1", "semantic", "semantic", "segmentation_edges:BoundaryF1", "boundary_f1.mean", "asked"
    ),
)  # fmt: skip


def names() -> list[str]:
    """The names of all metrics."""
    return list(dict.fromkeys(row.name for row in ROWS))


@dataclass(frozen=True)
class Chosen:
    """The metrics by which a model is measured on a data set.

    Attributes:
        metrics: new, with nothing counted.
        main: the dotted path of the score by which the model is usually chosen; None where there is none.
    """

    metrics: list[Metric]
    main: str | None


def truth_for(fills: Iterable[str], asked: Sequence[Asked] = ()) -> frozenset[str]:
    """The target fields by which a model that fills ``fills`` may be measured, also by the metrics ``asked`` for."""
    got = gotten(fills)
    rows = [*ROWS, *(row for one in asked for row in _rows_of(*_told(one)[:2]))]
    return frozenset(name for row in rows if row.wanted <= got for name in row.truth)


def gotten(fills: Iterable[str]) -> frozenset[str]:
    """The fields that the user receives from a model that fills ``fills``."""
    return frozenset(FIELDS[name].gives for name in fills)


def choose(setting: Setting, source: str, benchmarks: Sequence[str] = (), asked: Sequence[Asked] = ()) -> Chosen:
    """The usual metrics of ``setting``, those of its data set's ``benchmarks``, and those ``asked`` for.

    Args:
        setting: the model and the data set.
        source: what error messages call the data set.
        benchmarks: metrics by which the data set is measured besides the usual ones; left out where they don't apply.
        asked: names of metrics, ``module:Class`` of one's own, classes, or mappings of one of them to its parameters,
            such as ``{"trimap": {"radii": [2, 4]}}``.

    Raises:
        UsageError: nothing measures the model on the data set, or a metric that was asked for is not known, does not
            fit the model or the data set, or does not take its parameters.
    """
    usual: dict[str, list[Row]] = {}
    measured: set[str] = set()
    for row in ROWS:
        if not row.wanted <= setting.fills or not row.truth <= setting.fields:
            continue
        if row.used == "always" or (row.used == "else" and row.filled not in measured) or row.name in benchmarks:
            usual.setdefault(row.name, []).append(row)
            measured.add(row.filled)
    further = [_told(one) for one in asked]
    _check_doubled([name for name, *_ in further])
    named = {name for name, *_ in further}
    metrics = [_built(rows[0].load(), setting, rows, {}) for name, rows in usual.items() if name not in named]
    main = next((rows[0].main for rows in usual.values() if rows[0].main), None)
    for name, cls, parameters in further:
        rows = _rows_of(name, cls)
        metrics.append(_built(cls or rows[0].load(), setting, _fitting(rows, name, setting, source), parameters))
        main = main or next((row.main for row in rows if row.main), None)
    if not metrics:
        raise UsageError(
            f"{source} has {', '.join(sorted(setting.fields))}; no metric applies to a model that fills "
            f"{', '.join(sorted(setting.fills))}"
        )
    return Chosen(metrics, main)


def scores_of(metrics: Sequence[Metric]) -> dict[str, Any]:
    """All scores of ``metrics`` as one dictionary.

    Raises:
        UsageError: two metrics give one name to different scores.
    """
    scores: dict[str, Any] = {}
    for metric in metrics:
        for name, value in metric.compute().items():
            if name in scores and scores[name] != value:
                raise UsageError(
                    f"metrics: two of them have a score {name!r}, the second is {type(metric).__name__}'s; expected "
                    "names of their own"
                )
            scores[name] = value
    return scores


def smaller_is_better(metrics: Sequence[Metric], score: str) -> bool:
    """Whether ``score``, a dotted path in :func:`scores_of`, is an error."""
    return any(score in metric.smaller_is_better for metric in metrics)


def _told(one: Asked) -> tuple[str, type[Metric] | None, Mapping[str, Any]]:
    """The name, the class where it is one's own, and the parameters of a metric that is asked for."""
    parameters: Any = {}
    if isinstance(one, Mapping):
        if len(one) != 1:
            raise UsageError(f"metrics: {dict(one)!r} has {len(one)} entries; expected one name with its parameters")
        one, parameters = next(iter(one.items()))
        if not isinstance(parameters, Mapping):
            raise UsageError(f"metrics: {one} has {parameters!r}; expected a mapping of its parameters")
    if isinstance(one, type) and issubclass(one, Metric):
        return f"{one.__module__}:{one.__qualname__}", one, parameters
    if not isinstance(one, str):
        raise UsageError(f"metrics: {one!r} is not a metric; expected a name, module:Class or a subclass of Metric")
    if ":" in one:
        return one, own_class(one, "metric", Metric), parameters  # type: ignore[type-abstract]
    if one not in names():
        raise UsageError(f"metrics: there is no metric {one!r}{suggest(one, names())}; known: {', '.join(names())}")
    return one, None, parameters


def _rows_of(name: str, cls: type[Metric] | None) -> list[Row]:
    """The rows of the metric ``name``; those that the user's own class stands for."""
    if cls is None:
        return [row for row in ROWS if row.name == name]
    unknown = sorted(n for n in cls.measures if n not in FIELDS)
    if not cls.measures or unknown:
        found = unknown[0] if unknown else "empty"
        raise UsageError(f"metric {name}: measures is {found}; expected some of {', '.join(FIELDS)}")
    return [Row(name, filled, cls.truth, name, cls.main, "asked") for filled in sorted(cls.measures)]


def _fitting(rows: Sequence[Row], name: str, setting: Setting, source: str) -> list[Row]:
    """Those of a metric's ``rows`` that apply to ``setting``; a :class:`UsageError` where none does."""
    filled = [row for row in rows if row.wanted <= setting.fills]
    if not filled:
        wanted = " or ".join(dict.fromkeys(_described(row) for row in rows))
        raise UsageError(
            f"metrics: {name} measures {wanted}; the model fills {', '.join(sorted(setting.fills)) or 'nothing'}"
        )
    known = [row for row in filled if row.truth <= setting.fields]
    if not known:
        lacking = ", ".join(sorted(filled[0].truth - setting.fields))
        raise UsageError(f"metrics: {name} needs {lacking}; {source} has {', '.join(sorted(setting.fields))}")
    return known


def _described(row: Row) -> str:
    return row.filled + (f" with {' and '.join(sorted(row.besides))}" if row.besides else "")


def _built(cls: type[Metric], setting: Setting, rows: Sequence[Row], parameters: Mapping[str, Any]) -> Metric:
    name = rows[0].name
    known = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in parameters:
        if key not in known:
            listed = ", ".join(known) or "none"
            raise UsageError(f"metrics: {name} has no parameter {key!r}{suggest(key, known)}; known: {listed}")
    try:
        return cls.of(setting, tuple(row.filled for row in rows), **{**rows[0].parameters, **parameters})
    except (UsageError, TypeError, ValueError) as error:
        raise UsageError(f"metrics: {name}: {error}") from None


def _check_doubled(listed: Sequence[str]) -> None:
    doubled = next((name for name in listed if listed.count(name) > 1), None)
    if doubled:
        raise UsageError(f"metrics: {doubled} is there more than once")
