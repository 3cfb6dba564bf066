"""``load``: a model by a packaged or published name, from a checkpoint's path, or from the file of a pipeline.

The file of a pipeline is YAML, and lists models as :func:`load` takes them. From the second on, each may have the
options of :class:`~scenewise.pipeline.Pipeline` beside it. Paths are relative to the file::

    pipeline:
      - people.safetensors
      - {model: pose.safetensors, enlarge: 1.25, ratio: 1.37}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scenewise.catalog import build
from scenewise.errors import CheckpointError, UsageError, suggest
from scenewise.files.yaml_file import read_yaml
from scenewise.model import Model
from scenewise.weights.checkpoint import load_checkpoint
from scenewise.weights.packaged import PACKAGED

PIPELINE_FILES = (".yaml", ".yml")


def load(model: str | Path, *, weights_file: str | Path | None = None) -> Model:
    """A model in evaluation mode.

    Args:
        model: the name of a packaged model (``blood-cells``, ``nuclei``, ``street-scenes``), of published weights
            (``torchvision/deeplabv3_resnet50``), a checkpoint's path, the folder of a training run, whose best
            checkpoint it is then, or the path of a YAML file which lists the models of a pipeline.
        weights_file: for published weights: a local file in their own format, in place of a download.

    Raises:
        CheckpointError: the file is missing or does not fit.
        MissingExtraError: the weights are in a package of their own, which is not installed; names it and its terms.
        UsageError: the file of a pipeline is no such list, or its models don't fit together.
        DownloadError: published weights could not be fetched or verified.
    """
    name = str(model)
    if name in PACKAGED:
        if weights_file is not None:
            raise UsageError(f"load: weights_file goes with published weights, not with {name!r}")
        with PACKAGED[name].file() as path:
            loaded = load_checkpoint(path)
        loaded.info = {**loaded.info, "terms": PACKAGED[name].terms, "lineage": list(PACKAGED[name].lineage)}
        return loaded
    from scenewise.weights.published import PUBLISHED, load_published

    if name in PUBLISHED:
        return load_published(name, weights_file)
    if weights_file is not None:
        raise UsageError(
            f"load: there are no published weights {name!r}{suggest(name, PUBLISHED)}; known: {', '.join(PUBLISHED)}"
        )
    if not Path(model).exists():
        known = [*PACKAGED, *PUBLISHED]
        raise CheckpointError(
            f"{name}: neither a file nor a known name{suggest(name, known)}; known names: {', '.join(known)}"
        )
    if Path(model).is_dir():
        return load_checkpoint(best_of(Path(model)))
    if Path(model).suffix.lower() in PIPELINE_FILES:
        return _load_pipeline(Path(model))
    return load_checkpoint(model)


def best_of(run: Path) -> Path:
    """The best checkpoint of a training run in the folder ``run``.

    Raises:
        CheckpointError: it has none.
    """
    if not (run / "best.safetensors").is_file():
        what = "a run without a best checkpoint yet" if (run / "recipe.yaml").is_file() else "a folder, but not a run's"
        raise CheckpointError(f"{run}: {what}; expected best.safetensors in it, as training leaves it")
    return run / "best.safetensors"


def _load_pipeline(path: Path) -> Model:
    """The models that the YAML file ``path`` lists, in a row."""
    first, *others = _listed(path)
    if set(first) != {"model"}:
        option = next(key for key in first if key != "model")
        raise UsageError(f"{path}: pipeline[0] has {option!r}; options stand beside the second and later models")
    model = _load_part(path, first["model"], 0)
    for number, options in enumerate(others, 1):
        part = _load_part(path, options["model"], number)
        given = {str(key): value for key, value in options.items() if key != "model"}
        fixed = {"first", "second"} & given.keys()
        try:
            if fixed:
                raise UsageError(
                    f"{min(fixed)!r} is not an option; which model is which follows from the order of the list"
                )
            model = build("scenewise.pipeline:Pipeline", (), first=model, second=part, **given)
        except UsageError as error:
            raise UsageError(f"{path}: pipeline[{number}]: {error}") from None
    return model.eval()


def _listed(path: Path) -> list[dict[str, Any]]:
    """The entries of the file of a pipeline, each a mapping with a ``model``."""
    values = read_yaml(path, what="the list of a pipeline")
    if not isinstance(values, dict) or list(values) != ["pipeline"] or not isinstance(values["pipeline"], list):
        found = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise UsageError(f"{path}: holds {found}; expected one entry, pipeline: a list of models")
    entries = [{"model": entry} if isinstance(entry, str) else entry for entry in values["pipeline"]]
    if len(entries) < 2:
        raise UsageError(f"{path}: pipeline has {len(entries)} entries; expected two models or more")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
            raise UsageError(
                f"{path}: pipeline[{number}] is {entry!r}; expected a checkpoint, a name, or "
                "{model: ..., option: ...}"
            )
    return entries


def _load_part(path: Path, name: str, number: int) -> Model:
    if Path(name).suffix.lower() in PIPELINE_FILES:
        raise UsageError(f"{path}: pipeline[{number}] is {name!r}, a pipeline; list its models here instead")
    beside = path.parent / name
    return load(beside if beside.is_file() else name)
