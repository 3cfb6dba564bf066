"""``info``: what is known of a model, a checkpoint or a run, without running it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scenewise.catalog import SYSTEMS, find, name_of, plain_arguments
from scenewise.engine.log import flattened
from scenewise.errors import CheckpointError, suggest
from scenewise.model import Model
from scenewise.recipe import load_recipe
from scenewise.weights.load import PIPELINE_FILES, load
from scenewise.weights.packaged import PACKAGED
from scenewise.weights.published import PUBLISHED

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Info:
    """What is known of a model.

    Attributes:
        source: the name or path that was asked for; the class of a model in hand.
        kind: ``packaged``, ``published``, ``checkpoint``, ``pipeline``, ``run``, or ``model`` for one in hand.
        system, task: of the catalog; a system of one's own is ``module:Class``.
        classes: in label order.
        fills: the kinds of output, sorted.
        input: how images are fed, the entries of :class:`~scenewise.types.InputSpec` that are not at their defaults.
        arguments: of the system's constructor.
        parameters: how many numbers are trained.
        data: what it was trained on; None where that is not stated.
        scores: the metrics that it reached, and on which data; empty where none is stated.
        terms: the licence of the weights; None where none is stated.
        lineage: the weights and data that it was made of, the nearest first.
        run: of a run: the checkpoint that is described, and how many epochs are done of how many.
    """

    source: str
    kind: str
    system: str
    task: str
    classes: tuple[str, ...]
    fills: tuple[str, ...]
    input: dict[str, Any]
    arguments: dict[str, Any]
    parameters: int
    data: Any
    scores: dict[str, Any]
    terms: str | None
    lineage: tuple[str, ...]
    run: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<10} {value}" for name, value in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """What a person reads: names and values, in order."""
        own = self.run or {}
        found = [
            ("model", f"{self.source} ({self.kind})"),
            ("run", ", ".join(f"{name}: {value}" for name, value in own.items())),
            ("system", self.system),
            ("task", self.task),
            ("fills", ", ".join(self.fills)),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes)}" if self.classes else "none"),
            ("input", ", ".join(f"{name} {_word(value)}" for name, value in self.input.items()) or "as it is"),
            ("parameters", f"{self.parameters:,}"),
            ("data", _data(self.data)),
            ("scores", _scores(self.scores)),
            ("terms", self.terms or NOT_STATED),
            ("lineage", "\n           ".join(self.lineage) or NOT_STATED),
        ]
        return [(name, value) for name, value in found if value]


def info(model: str | Path | Model) -> Info:
    """What is known of ``model``.

    Args:
        model: a packaged or published name, the path of a checkpoint or of a pipeline's YAML file, the folder of a run,
            or a model in hand. Nothing is downloaded.

    Raises:
        CheckpointError: it is none of these, or the file is damaged.
        MissingExtraError: the weights are in a package of their own, which is not installed.

    Example:
        >>> info("blood-cells").terms
        'MIT (the data set)'
    """
    if isinstance(model, Model):
        return _described(model, type(model).__name__, "model")
    name, path = str(model), Path(model).expanduser()
    if name in PACKAGED:
        return _described(load(name), name, "packaged")
    if name in PUBLISHED:
        with torch.device("meta"):  # no weights, no memory
            return _described(PUBLISHED[name].build(), name, "published")
    if (path / "recipe.yaml").is_file():
        return _run(path)
    if not path.is_file():
        raise CheckpointError(f"{name}: {_nothing(name, path)}")
    kind = "pipeline" if path.suffix.lower() in PIPELINE_FILES else "checkpoint"
    return _described(load(path), name, kind)


def _nothing(name: str, path: Path) -> str:
    """Why there is nothing to tell about ``name``."""
    if name in SYSTEMS:
        return f"a system, which has no weights; its options: scenewise models {name}"
    what = "a folder without a recipe.yaml" if path.is_dir() else "not found"
    known = [*PACKAGED, *PUBLISHED]
    return (
        f"{what}; expected a checkpoint (.safetensors), the folder of a run, the YAML file of a pipeline, or a name"
        f"{suggest(name, known)}; known names: {', '.join(known)}"
    )


def _run(folder: Path) -> Info:
    """What is known of the run in ``folder``: of its best checkpoint, or of its last."""
    recipe = load_recipe(folder / "recipe.yaml")
    there = [path for path in (folder / "best.safetensors", folder / "last.safetensors") if path.is_file()]
    if not there:
        raise CheckpointError(
            f"{folder}: a run of {recipe.system} without a checkpoint yet, which the end of its first epoch writes; "
            f"go on with: scenewise train --resume {folder}"
        )
    total = sum(stage.trainer.epochs for stage in recipe.staged()) if recipe.stages else recipe.trainer.epochs
    run = {"checkpoint": there[0].name, "epochs": f"{_epochs(folder)} of {total}"}
    return _described(load(there[0]), str(folder), "run", run)


def _epochs(folder: Path) -> int:
    """How many epochs the run in ``folder`` has done, in all of its stages."""
    rows = 0
    for path in (folder / "epochs.csv", *folder.glob("stage-*/epochs.csv")):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows += len({row["epoch"] for row in csv.DictReader(file)})
    return rows


def _described(model: Model, source: str, kind: str, run: dict[str, Any] | None = None) -> Info:
    known, system = {**_of_parts(model), **model.info}, name_of(model)
    return Info(
        source=source,
        kind=kind,
        system=system,
        task=find(system).task,
        classes=model.classes,
        fills=tuple(sorted(model.fills)),
        input=model.input.to_dict(),
        arguments=plain_arguments(model, lambda part: _described(part, name_of(part), "part").to_dict()),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=known.get("data"),
        scores=dict(known.get("metrics", {})),
        terms=known.get("terms"),
        lineage=tuple(known.get("lineage", ())),
        run=run,
    )


def _of_parts(model: Model) -> dict[str, Any]:
    """Terms and lineage of the models among the arguments of ``model``, as those of a pipeline."""
    parts = {name: part.info for name, part in model.arguments.items() if isinstance(part, Model)}
    if not parts:
        return {}
    return {
        "terms": "; ".join(f"{name}: {info.get('terms') or NOT_STATED}" for name, info in parts.items()),
        "lineage": [f"{name}: {line}" for name, info in parts.items() for line in info.get("lineage", ())],
    }


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(data: Any) -> str:
    if isinstance(data, Mapping):
        return f"{data.get('train')}, split {data.get('split')}"
    return str(data or NOT_STATED)


def _scores(scores: Mapping[str, Any]) -> str:
    """The numbers of ``scores`` but those of single classes, and what they are of."""
    where = ", split ".join(str(scores[key]) for key in ("data", "split") if scores.get(key))
    told = [
        f"{name.replace('/', ' ')} {value:.4g}"
        for name, value in flattened(scores).items()
        if isinstance(value, int | float) and "per_" not in name
    ]
    return (", ".join(told) + (f" (on {where})" if where else "")) or NOT_STATED
