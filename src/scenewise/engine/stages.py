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

from scenewise.engine.building import build_model, open_training_data, open_validation_data
from scenewise.engine.players import freeze, make_players
from scenewise.engine.proposals import write_proposals
from scenewise.engine.run import Run
from scenewise.errors import UsageError
from scenewise.files.atomic import atomic_path, make_folder, write_json, write_text
from scenewise.recipe import Recipe, stage_number
from scenewise.weights.load import load

Train = Callable[[Recipe, Path, bool], Run]  # one stage: its recipe, its folder, whether it goes on


def train_stages(recipe: Recipe, folder: Path, train: Train, tell: Callable[[str], None]) -> Run:
    """Run the stages of ``recipe`` that are not done yet; the last one's run, as that of ``folder``."""
    make_folder(folder)
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
        write_json(record, {name: value for name, value in vars(run).items() if name not in ("folder", "pictures")})
    for name in ("best", "last"):
        with atomic_path(folder / f"{name}.safetensors") as temporary:
            shutil.copyfile(place / f"{name}.safetensors", temporary)
    return _as_whole(run, folder)


def check_stages(recipe: Recipe) -> None:
    """Raise the error that a later stage would stop with, before the first one has begun."""
    for number, stage in enumerate(recipe.staged(), 1):
        stage = _without(stage, _found_by_stages(stage))
        try:
            model = build_model(stage, open_training_data(stage), open_validation_data(stage))
            freeze(model, stage.trainer.freeze, stage.trainer.freeze_norm)
            make_players(model, stage)
        except UsageError as error:
            raise UsageError(f"stage {number}: {error}") from None


def _as_whole(run: Run, folder: Path) -> Run:
    return Run(**(vars(run) | {"folder": folder}))


Place = tuple[str, str]  # a block of the recipe's data ("inputs" or "val_inputs") and an input's name in it


def _with_sources(stage: Recipe, folder: Path, place: Path) -> Recipe:
    """``stage`` with files in place of earlier stages' names; inputs that there are no files of yet are found."""
    found = _found_by_stages(stage)
    bare = _without(stage, found)
    files = {}
    for (block, name), source in found.items():
        path = place / f"{block.replace('inputs', name)}.safetensors"
        if not path.is_file():
            opened = open_training_data(bare) if block == "inputs" else open_validation_data(bare)
            if opened is None:
                continue  # nothing is validated
            on_gpu = stage.trainer.accelerator in ("auto", "cuda") and torch.cuda.is_available()
            finder = load(_checkpoint(source, folder))
            write_proposals(finder, opened, opened.split, path, device="cuda" if on_gpu else None)
        files[block, name] = str(path)
    if stage.init_weights_file is None:
        stage = stage.model_copy(update={"init": tuple(_checkpoint(name, folder) for name in stage.sources) or None})
    return _with_files(bare.model_copy(update={"init": stage.init}), files)


def _found_by_stages(stage: Recipe) -> dict[Place, str]:
    """The inputs of the data that an earlier stage finds, and its name."""
    blocks = {"inputs": stage.data.inputs, "val_inputs": stage.data.val_inputs}
    return {
        (block, name): source
        for block, sources in blocks.items()
        for name, source in sources.items()
        if stage_number(source) is not None
    }


def _without(stage: Recipe, places: Mapping[Place, str]) -> Recipe:
    """``stage`` without the inputs at ``places``."""
    data = stage.data
    changes = {
        block: {name: file for name, file in getattr(data, block).items() if (block, name) not in places}
        for block in ("inputs", "val_inputs")
    }
    return stage.model_copy(update={"data": data.model_copy(update=changes)})


def _with_files(stage: Recipe, files: Mapping[Place, str]) -> Recipe:
    """``stage`` with further ``files`` of inputs."""
    data = stage.data
    changes = {
        block: {**getattr(data, block), **{name: file for (where, name), file in files.items() if where == block}}
        for block in ("inputs", "val_inputs")
    }
    return stage.model_copy(update={"data": data.model_copy(update=changes)})


def _checkpoint(name: str, folder: Path) -> str:
    number = stage_number(name)
    return name if number is None else str(folder / f"stage-{number}" / "best.safetensors")
