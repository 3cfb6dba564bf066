"""``train``: a recipe, or a model and data in hand, becomes a run; the loop itself is :mod:`scenewise.engine.loop`."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from scenewise.catalog import name_of, plain_arguments
from scenewise.data import DataSet
from scenewise.data.formats import FORMATS, all_readers
from scenewise.data.loader import Transform
from scenewise.data.recognise import signs_of
from scenewise.engine.allocator import keep_memory
from scenewise.engine.building import InHand, check_paths, model_block
from scenewise.engine.defaults import starting_recipe
from scenewise.engine.log import flattened
from scenewise.engine.loop import Loop
from scenewise.engine.processes import check_loaders, check_script
from scenewise.engine.report import tell_end, tell_start, write_pictures
from scenewise.engine.run import Run
from scenewise.engine.stages import check_stages, train_stages
from scenewise.errors import ScenewiseError, TrainingError, UsageError
from scenewise.files.atomic import make_folder, remove_leftovers, write_text
from scenewise.model import Model
from scenewise.recipe import Recipe, load_recipe

FREE = {"data.workers", "trainer.save_every", "trainer.folder", "trainer.name"}  # may change when a run is resumed


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    model: Model | None = None,
    data: str | DataSet | None = None,
    validation: str | DataSet | None = None,
    resume: str | Path | None = None,
    transform: Transform | None = None,
    quiet: bool = False,
) -> Run:
    """Train as ``recipe`` says; or, where it is a data set, from a starting recipe that fits it.

    Args:
        recipe: a YAML file, a mapping, or a :class:`Recipe`; or a data set, as ``format:path`` or its path alone, whose
            labels then decide what is trained (:mod:`scenewise.engine.defaults`): what is chosen is printed, and
            pictures of the best and the worst validation images are drawn in the end. None with ``resume``, or with
            ``model`` and ``data`` in hand.
        overrides: values by dotted path, such as ``{"trainer.epochs": 30}``, or by a short word: ``epochs``,
            ``batch_size``, ``image_size``, ``backbone``, ``lr``, ``name``. With a data set, also ``budget``: the
            minutes that training may take.
        model: a model in hand, which is trained in place, from the weights that it has; in place of the recipe's block
            ``model``. Its class has to be found by its name: it stands at the top of a module.
        data: a ``format:path`` string, or a data set in hand; in place of the recipe's ``data.train``.
        validation: the same of what is validated; with ``data`` in hand and no ``validation`` nothing is.
        resume: the folder of a run that was stopped; its own recipe is used. What was in hand is given again.
        transform: a callable ``(image, target) -> (image, target)`` in place of the recipe's transforms.
        quiet: show nothing.

    Returns:
        Where the run is and what it reached.

    Raises:
        UsageError, DataError: something does not fit; nothing was written.
        TrainingError: training can't go on, as after a loss that is not finite; the last good state is kept.
    """
    in_hand = InHand(model, data if isinstance(data, DataSet) else None, _data_set(validation))
    overrides = {**(overrides or {}), **_blocks(model, data, validation)}
    source = _data_in_place_of_a_recipe(recipe)
    if resume is None and source is not None:
        return _train_from_data(source, overrides, transform, quiet)
    if resume is not None:
        folder = Path(resume)
        if not (folder / "recipe.yaml").is_file():
            raise UsageError(f"{folder}: not the folder of a run (it has no recipe.yaml)")
        loaded = _resumed_recipe(folder, recipe, overrides)
    else:
        if recipe is None and not (model is not None and data is not None):
            raise UsageError(
                "train needs a folder of labelled images, a recipe, a model and data in hand, or the folder of a run "
                "to resume"
            )
        if isinstance(recipe, Recipe):
            recipe = recipe.model_dump(mode="json")
        loaded = load_recipe({} if recipe is None else recipe, overrides, architecture=model_block)
        folder = _new_folder(loaded)
    check_paths(loaded, recipe)
    if loaded.stages:
        if in_hand.any:
            raise UsageError("stages: a recipe with stages makes its own models and data; none can be given in hand")
        check_stages(loaded)

        def train_stage(stage: Recipe, place: Path, going_on: bool) -> Run:
            return _launch(stage, place, going_on, InHand(), transform, quiet)

        return train_stages(loaded, folder, train_stage, tell=(lambda line: None) if quiet else _tell)
    return _launch(loaded, folder, resume is not None, in_hand, transform, quiet)


def _data_in_place_of_a_recipe(recipe: Any) -> str | None:
    """``recipe`` where it names a data set: a format and a path, a folder, or the file that describes one."""
    if not isinstance(recipe, str | Path):
        return None
    text, path = str(recipe), Path(recipe).expanduser()
    if path.is_dir() or (not path.exists() and text.partition(":")[0] in FORMATS and ":" in text):
        return text
    if path.is_file() and signs_of(path, all_readers()):
        return text
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"{text}: not found; expected a folder of labelled images, a data set as format:path, or a recipe (.yaml)"
        )
    return None


def _train_from_data(source: str, overrides: Mapping[str, Any], transform: Transform | None, quiet: bool) -> Run:
    """Train from the starting recipe of the data set ``source``."""
    console = Console(stderr=True, quiet=quiet)
    if not quiet:
        _tell("looking at the data, and measuring how fast this machine is ...")
    start = starting_recipe(source, overrides)
    check_paths(start.recipe, None)
    folder = _new_folder(start.recipe)
    tell_start(start, console)
    run = _launch(start.recipe, folder, False, InHand(), transform, quiet)
    if run.finished:
        run = dataclasses.replace(run, pictures=write_pictures(run, start.recipe))
        tell_end(run, source, console)
    return run


def _data_set(data: str | DataSet | None) -> DataSet | None:
    return data if isinstance(data, DataSet) else None


def _blocks(model: Model | None, data: str | DataSet | None, validation: str | DataSet | None) -> dict[str, Any]:
    """The entries of a recipe that stand for what is in hand."""
    found: dict[str, Any] = {}
    if model is not None:
        found["model"] = {"system": name_of(model), **plain_arguments(model)}
    for entry, value in (("train", data), ("val", validation)):
        if isinstance(value, DataSet):
            found |= {f"data.{entry}": value.source, f"data.{entry}_split": value.split}
        elif value is not None:
            found[f"data.{entry}"] = value
    if isinstance(data, DataSet) and validation is None:
        found |= {"data.val": None, "data.val_split": None}
    return found


def _launch(
    recipe: Recipe, folder: Path, resume: bool, in_hand: InHand, transform: Transform | None, quiet: bool
) -> Run:
    """Train in as many processes as ``recipe`` wants."""
    remove_leftovers(folder)
    settings = recipe.trainer
    if settings.batch_size % settings.devices:
        raise UsageError(
            f"trainer.batch_size is {settings.batch_size}; expected a multiple of trainer.devices ({settings.devices})"
        )
    check_loaders(recipe.data.workers, "data.workers")
    arguments = (recipe, folder, resume, in_hand, transform, quiet)
    if settings.devices == 1:
        return Run(**_train_process(_fabric(recipe), *arguments))
    check_script(f"trainer.devices is {settings.devices}", "trainer.devices 1")
    errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with _signals_left_to_children():
        try:
            return Run(**_fabric(recipe).launch(_train_in_child, errors, *arguments))
        except torch.multiprocessing.ProcessRaisedException:
            if errors.empty():
                raise
            raise errors.get() from None
        except torch.multiprocessing.ProcessExitedException as error:
            how = f"by signal {error.signal_name}" if error.signal_name else f"with exit status {error.exit_code}"
            raise TrainingError(
                f"training process {error.error_index + 1} of {settings.devices} ended {how}, as when memory runs out; "
                f"the others were stopped. Go on from the last saved state with: scenewise train --resume {folder}",
                status=1,
            ) from None


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _signals_left_to_children() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; the training processes stop after their step, and the parent waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _new_folder(recipe: Recipe) -> Path:
    name = recipe.trainer.name or f"{recipe.system.replace(':', '.')}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(recipe.trainer.folder) / name
    if (folder / "recipe.yaml").exists():
        raise UsageError(f"{folder}: already contains a run; resume it, or give another trainer.name")
    return folder


def _resumed_recipe(folder: Path, recipe: Any, overrides: Mapping[str, Any]) -> Recipe:
    """The run's own recipe; what is given besides may differ from it only in what does not change the result."""
    own = load_recipe(folder / "recipe.yaml")
    given = own
    if recipe is not None:
        values = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe
        given = load_recipe(values, overrides, architecture=model_block)
    elif overrides:
        given = load_recipe(own.model_dump(mode="json"), overrides)
    before, after = flattened(own.model_dump(mode="json")), flattened(given.model_dump(mode="json"))
    for path in sorted(before.keys() | after.keys()):
        if path in FREE or before.get(path) == after.get(path):
            continue
        found = f"{folder}: was trained with {path}={before.get(path)!r}; resume can't change it to {after.get(path)!r}"
        if path == "trainer.epochs":
            found += (
                ", on which the learning rate of every step depends. To train on from its weights: scenewise train "
                f"{folder / 'recipe.yaml'} init={folder / 'last.safetensors'} trainer.epochs={after.get(path)} "
                f"trainer.name={folder.name}-longer"
            )
        raise UsageError(found)
    return given


def _fabric(recipe: Recipe) -> Any:
    from lightning_fabric import Fabric

    settings = recipe.trainer
    accelerator = settings.accelerator
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if settings.precision == "16" and on_cpu:
        raise UsageError("trainer.precision is 16, which needs a GPU; on the CPU give bf16 or 32")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # the error itself says what ended
    return Fabric(
        accelerator="cpu" if on_cpu and accelerator == "auto" else accelerator,
        devices=settings.devices,
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[settings.precision],  # type: ignore[arg-type]
    )


def _train_in_child(fabric: Any, errors: Any, *arguments: Any) -> dict[str, Any]:
    """:func:`_train_process`; an error that a user can cause goes to the parent process as it is, too."""
    try:
        return _train_process(fabric, *arguments)
    except ScenewiseError as error:
        errors.put(error)
        raise


def _train_process(
    fabric: Any,
    recipe: Recipe,
    folder: Path,
    resume: bool,
    in_hand: InHand,
    transform: Transform | None,
    quiet: bool,
) -> dict[str, Any]:
    """What each process runs; the fields of its :class:`Run`."""
    if fabric.world_size > 1:
        _end_with_parent()
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // fabric.world_size))
    if fabric.device.type == "cpu":
        keep_memory()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(recipe.trainer.deterministic)
    try:
        loop = Loop(fabric, recipe, folder, in_hand, transform, quiet or fabric.global_rank > 0)
        if fabric.global_rank == 0:
            make_folder(folder)
            write_text(folder / "recipe.yaml", recipe.to_yaml())  # first of all: a run that is killed can be resumed
        if resume:
            loop.resume()
        else:
            loop.start()
        return vars(loop.run())
    finally:
        torch.use_deterministic_algorithms(before)


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, whatever ends that one; Linux alone can."""
    if sys.platform.startswith("linux"):
        kill_at_parents_death = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(kill_at_parents_death, signal.SIGKILL)
