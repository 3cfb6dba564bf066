"""Training in stages: R-CNN's separate fits, alternating training, a second run with other weights.

Each stage is a run of its own in a folder ``stage-1``, ``stage-2``, ... below the whole run's. It starts with the
weights of the stage before, unless its ``init`` says otherwise, and may take the proposals that an earlier stage's
model finds. Whatever interrupts it, resuming goes on within the stage that was interrupted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from scenewise.engine.building import (
    build_model,
    freeze,
    make_optimizer,
    open_training_data,
    open_validation_data,
)
from scenewise.engine.proposals import write_proposals
from scenewise.engine.run import Run
from scenewise.errors import UsageError
from scenewise.files.atomic import atomic_path, write_json, write_text
from scenewise.recipe import Recipe, stage_number
from scenewise.weights.load import load

Train = Callable[[Recipe, Path, bool], Run]  # one stage: its recipe, its folder, whether it goes on


def train_stages(recipe: Recipe, folder: Path, train: Train, tell: Callable[[str], None]) -> Run:
    """Run the stages of ``recipe`` that are not done yet; the last one's run, as that of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    stages = recipe.staged()
    for number, stage in enumerate(stages, 1):
        place = folder / f"stage-{number}"
        record = place / "run.json"
        if record.is_file():
            run = Run(place, **json.loads(record.read_text(encoding="utf-8")))
            continue
        tell(f"stage {number} of {len(stages)}")
        going_on = (place / "recipe.yaml").is_file()
        run = train(_with_sources(stage, folder, place), place, going_on)
        if not run.finished:
            return _as_whole(run, folder)
        write_json(record, {name: value for name, value in vars(run).items() if name != "folder"})
    for name in ("best", "last"):
        with atomic_path(folder / f"{name}.safetensors") as temporary:
            shutil.copyfile(place / f"{name}.safetensors", temporary)
    return _as_whole(run, folder)


def check_stages(recipe: Recipe) -> None:
    """Raise the error that a later stage would stop with, before the first one has begun."""
    for number, stage in enumerate(recipe.staged(), 1):
        stage = _with_data(stage, dict.fromkeys(_found_by_stages(stage)))
        try:
            model = build_model(stage, open_training_data(stage), open_validation_data(stage))
            freeze(model, stage.trainer.freeze, stage.trainer.freeze_norm)
            make_optimizer(model, stage)
        except UsageError as error:
            raise UsageError(f"stage {number}: {error}") from None


def _as_whole(run: Run, folder: Path) -> Run:
    return Run(**(vars(run) | {"folder": folder}))


def _with_sources(stage: Recipe, folder: Path, place: Path) -> Recipe:
    """``stage`` with files in place of earlier stages' names; proposals that there are no files of yet are found."""
    names = _found_by_stages(stage)
    bare = _with_data(stage, dict.fromkeys(names))
    files = {}
    for field, name in names.items():
        path = place / f"{field}.safetensors"
        if not path.is_file():
            opened = open_training_data(bare) if field == "proposals" else open_validation_data(bare)
            if opened is None:
                continue  # nothing is validated
            on_gpu = stage.trainer.accelerator in ("auto", "cuda") and torch.cuda.is_available()
            finder = load(_checkpoint(name, folder))
            write_proposals(finder, opened, opened.split, path, device="cuda" if on_gpu else None)
        files[field] = str(path)
    if stage.init_weights_file is None:
        stage = stage.model_copy(update={"init": tuple(_checkpoint(name, folder) for name in stage.sources) or None})
    return _with_data(stage, files)


def _found_by_stages(stage: Recipe) -> dict[str, str]:
    """The fields of ``data`` whose proposals come from an earlier stage, and its name."""
    fields = {"proposals": stage.data.proposals, "val_proposals": stage.data.val_proposals}
    return {field: name for field, name in fields.items() if name is not None and stage_number(name) is not None}


def _with_data(stage: Recipe, changes: Mapping[str, str | None]) -> Recipe:
    return stage.model_copy(update={"data": stage.data.model_copy(update=dict(changes))})


def _checkpoint(name: str, folder: Path) -> str:
    number = stage_number(name)
    return name if number is None else str(folder / f"stage-{number}" / "best.safetensors")
