"""Training: one loop for every system, to be read from top to bottom.

The result is a function of the recipe alone. The order of the images and all augmentation follow from (seed, epoch,
index), the random numbers within a step (dropout) from (seed, step), the learning rate from the step. The training
state therefore needs no random states, and a run that was killed goes on from its last saved step as if nothing had
happened.
"""

from __future__ import annotations

import copy
import math
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
from torch import Tensor

from scenewise.data import describe_repairs
from scenewise.data.loader import Epochs, Transform, mix_seed, training_batches
from scenewise.data.transforms.by_name import ResizeToInput, build_transforms
from scenewise.engine.allocator import keep_memory
from scenewise.engine.building import (
    build_model,
    freeze,
    hold_frozen,
    make_optimizer,
    open_training_data,
    open_validation_data,
)
from scenewise.engine.evaluate import Subset, main_metric, metrics_for, run_evaluation, scores_of
from scenewise.engine.log import Log, flattened
from scenewise.engine.progress import Progress
from scenewise.engine.run import Run
from scenewise.engine.stages import check_stages, train_stages
from scenewise.engine.state import load_state, save_state
from scenewise.errors import TrainingError, UsageError
from scenewise.files.atomic import write_text
from scenewise.model import Model
from scenewise.recipe import Recipe, load_recipe
from scenewise.weights.checkpoint import save_checkpoint, transfer
from scenewise.weights.load import load

SAVE_SECONDS = 120.0  # between saved training states, where the recipe says nothing
MAX_SKIPPED = 20  # steps in a row whose gradients may overflow before training stops


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: str | Path | None = None,
    transform: Transform | None = None,
    quiet: bool = False,
) -> Run:
    """Train as ``recipe`` says.

    Args:
        recipe: a YAML file, a mapping, or a :class:`Recipe`; None with ``resume``.
        overrides: values by dotted path, such as ``{"trainer.epochs": 30}``.
        resume: the folder of a run that was stopped; its own recipe is used.
        transform: a callable ``(image, target) -> (image, target)`` in place of the recipe's transforms.
        quiet: show nothing.

    Returns:
        Where the run is and what it reached.

    Raises:
        UsageError, DataError: something does not fit; nothing was written.
        TrainingError: training can't go on, as after a loss that is not finite; the last good state is kept.
    """
    if resume is not None:
        folder = Path(resume)
        if not (folder / "recipe.yaml").is_file():
            raise UsageError(f"{folder}: not the folder of a run (it has no recipe.yaml)")
        loaded = _resumed_recipe(folder, recipe, overrides)
    else:
        if recipe is None:
            raise UsageError("train needs a recipe, or the folder of a run to resume")
        if isinstance(recipe, Recipe):
            recipe = recipe.model_dump(mode="json")
        loaded = load_recipe(recipe, overrides)
        folder = _new_folder(loaded)
    if loaded.stages:
        check_stages(loaded)

        def train_stage(stage: Recipe, place: Path, going_on: bool) -> Run:
            return _launch(stage, place, going_on, transform, quiet)

        return train_stages(loaded, folder, train_stage, tell=(lambda line: None) if quiet else _tell)
    return _launch(loaded, folder, resume is not None, transform, quiet)


def _launch(recipe: Recipe, folder: Path, resume: bool, transform: Transform | None, quiet: bool) -> Run:
    """Train in as many processes as ``recipe`` wants."""
    settings = recipe.trainer
    if settings.batch_size % settings.devices:
        raise UsageError(
            f"trainer.batch_size is {settings.batch_size}; expected a multiple of trainer.devices ({settings.devices})"
        )
    if settings.devices == 1:
        return Run(**_train_process(_fabric(recipe), recipe, folder, resume, transform, quiet))
    with _signals_left_to_children():
        return Run(**_fabric(recipe).launch(_train_process, recipe, folder, resume, transform, quiet))


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
    name = recipe.trainer.name or f"{recipe.system}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(recipe.trainer.folder) / name
    if (folder / "recipe.yaml").exists():
        raise UsageError(f"{folder}: holds a run already; resume it, or give another trainer.name")
    return folder


def _resumed_recipe(folder: Path, recipe: Any, overrides: Mapping[str, Any] | None) -> Recipe:
    """The run's own recipe; what is given besides may differ from it only in what does not change the result."""
    own = load_recipe(folder / "recipe.yaml")
    free = {"data.workers", "trainer.save_every", "trainer.folder", "trainer.name"}
    given = own
    if recipe is not None:
        given = load_recipe(recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe, overrides)
    elif overrides:
        given = load_recipe(own.model_dump(mode="json"), overrides)
    before, after = flattened(own.model_dump(mode="json")), flattened(given.model_dump(mode="json"))
    for path in sorted(before.keys() | after.keys()):
        if path not in free and before.get(path) != after.get(path):
            raise UsageError(
                f"{folder}: was trained with {path}={before.get(path)!r}; resume can't change it to {after.get(path)!r}"
            )
    return given


def _fabric(recipe: Recipe) -> Any:
    import logging

    from lightning_fabric import Fabric

    settings = recipe.trainer
    accelerator = settings.accelerator
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if settings.precision == "16" and on_cpu:
        raise UsageError("trainer.precision is 16, which needs a GPU; on the CPU give bf16 or 32")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric(
        accelerator="cpu" if on_cpu and accelerator == "auto" else accelerator,
        devices=settings.devices,
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[settings.precision],  # type: ignore[arg-type]
    )


def _train_process(
    fabric: Any, recipe: Recipe, folder: Path, resume: bool, transform: Transform | None, quiet: bool
) -> dict[str, Any]:
    """What each process runs; the fields of its :class:`Run`."""
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // fabric.world_size))
    if fabric.device.type == "cpu":
        keep_memory()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(recipe.trainer.deterministic)
    try:
        training = _Training(fabric, recipe, folder, transform, quiet or fabric.global_rank > 0)
        if resume:
            training.resume()
        else:
            training.start()
        return vars(training.run())
    finally:
        torch.use_deterministic_algorithms(before)


class _Training:
    """One process of a training run."""

    def __init__(self, fabric: Any, recipe: Recipe, folder: Path, transform: Transform | None, quiet: bool) -> None:
        self.fabric, self.recipe, self.settings, self.folder = fabric, recipe, recipe.trainer, folder
        self.first = fabric.global_rank == 0
        self.data = open_training_data(recipe)
        self.validation = open_validation_data(recipe)
        self.model = build_model(recipe, self.data, self.validation)
        augment = transform if transform is not None else build_transforms(recipe.transforms)
        self.transform = _InputThen(ResizeToInput(self.model.input), augment)
        self.batches = len(self.data) // self.settings.batch_size  # an epoch
        self.steps_per_epoch = self.batches // self.settings.accumulate
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"{self.data.source}: split {self.data.split!r} has {len(self.data)} images, fewer than one step takes "
                f"(trainer.batch_size {self.settings.batch_size} x trainer.accumulate {self.settings.accumulate})"
            )
        self.total = self.steps_per_epoch * self.settings.epochs
        freeze(self.model, self.settings.freeze, self.settings.freeze_norm)
        optimizer = make_optimizer(self.model, recipe)
        self.average = Average(self.model, self.settings.ema) if self.settings.ema is not None else None
        self.model.to(memory_format=torch.channels_last)
        self.wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.wrapped.mark_forward_method("losses")
        if self.average is not None:
            self.average.module.to(fabric.device)

        self.step = 0  # optimizer steps done
        self.skipped = 0  # steps in a row whose gradients overflowed
        self.sums: dict[str, float] = {}  # of the loss terms in the epoch so far
        self.best: float | None = None
        self.best_scores: dict[str, Any] = {}
        self.waited = 0  # validations since the best one
        self.monitor = None
        if self.validation is not None:
            self.monitor = self.settings.monitor or main_metric(self.model.fills)
        self.mode = self.settings.mode or ("min" if self.monitor and "loss" in self.monitor else "max")
        self.log = Log(folder) if self.first else None
        self.progress = Progress(self.total, quiet)
        for opened in (self.data, self.validation):
            if opened is not None and (told := describe_repairs(opened)):
                self.progress.note(told)
        self.saved = time.monotonic()

    # ---- the loop

    def run(self) -> Run:
        """Train to the end, or until the user stops it."""
        if self.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "recipe.yaml", self.recipe.to_yaml())
        finished = True
        with _Stop() as stop, self.progress:
            while self.step < self.total:
                epoch = self.step // self.steps_per_epoch
                stopping = self._train_epoch(epoch, stop)
                if self.step < (epoch + 1) * self.steps_per_epoch:
                    self._save()
                elif self._finish_epoch(epoch):
                    break
                if stopping:
                    finished = self.step == self.total
                    break
        if self.log is not None:
            self.log.close()
        epochs = self.step // self.steps_per_epoch
        return Run(self.folder, self.monitor, self.best, self.best_scores, epochs, finished)

    def _train_epoch(self, epoch: int, stop: _Stop) -> bool:
        """The rest of ``epoch``, from the current step on; whether the user asked to stop."""
        self.wrapped.train()
        hold_frozen(self.model)
        done = self.step - epoch * self.steps_per_epoch
        settings = self.settings
        order = Epochs(
            len(self.data),
            settings.batch_size,
            seed=settings.seed,
            epoch=epoch,
            start=done * settings.accumulate,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        loader = training_batches(
            self.data,
            order,
            transform=self.transform,
            seed=settings.seed,
            needs=self.model.needs,
            takes=self.model.takes,
            size_divisor=self.model.input.size_divisor,
            workers=self.recipe.data.workers,
        )
        batches = iter(loader)
        while self.step < (epoch + 1) * self.steps_per_epoch:
            terms, stopping = self._train_step(batches, stop)
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            if self.log is not None:
                self.log.step(self.step, epoch, self.optimizer.param_groups[0]["lr"], terms)
            self.progress.step(self.step, epoch, settings.epochs, terms)
            if stopping:
                return True
            self._save_if_due()
        return False

    def _train_step(self, batches: Iterator[Any], stop: _Stop) -> tuple[dict[str, float], bool]:
        """One optimizer step; the mean of each loss term over its batches and processes, and whether to stop."""
        settings = self.settings
        factor = self.recipe.schedule.factor(self.step, self.total, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        sums: dict[str, Tensor] = {}
        for part in range(settings.accumulate):
            batch = next(batches).to(self.fabric.device)
            torch.manual_seed(mix_seed(settings.seed, self.step, part, self.fabric.global_rank))
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < settings.accumulate - 1):
                terms = self.wrapped.losses(batch)
                self._check_finite(terms, batch)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / settings.accumulate)
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach().float().cpu() / settings.accumulate
        self._apply_gradients()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        values = torch.tensor([*(float(v) for v in sums.values()), float(stop.asked)], dtype=torch.float64)
        if self.fabric.world_size > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(sums, values.tolist(), strict=False)), bool(values[-1] > 0)

    def _check_finite(self, terms: dict[str, Tensor], batch: Any) -> None:
        for name, value in terms.items():
            if not math.isfinite(value.item()):
                ids = ", ".join(str(t.get("image_id", "?")) for t in batch.targets)
                kept = (
                    "; the training state of an earlier step is kept"
                    if (self.folder / "state.safetensors").exists()
                    else ""
                )
                raise TrainingError(
                    f"step {self.step}: the loss term {name!r} is {value.item()} for the images {ids}{kept}. "
                    "Lower optimizer.lr, give trainer.clip_norm, or check these images' labels"
                )

    def _apply_gradients(self) -> None:
        """Clip, and step unless a gradient overflowed; zero the gradients."""
        scaled = self.settings.precision == "16"  # the gradient scaler finds overflows itself
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if not scaled:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])  # type: ignore[misc]
            if not torch.isfinite(norm):
                self.skipped += 1
                self.progress.note(f"step {self.step}: gradients overflowed; the step was skipped")
                if self.skipped >= MAX_SKIPPED:
                    raise TrainingError(
                        f"step {self.step}: the gradients of {self.skipped} steps in a row overflowed; "
                        "lower optimizer.lr, give trainer.clip_norm, or train with trainer.precision 32"
                    )
                self.optimizer.zero_grad()
                return
            self.skipped = 0
            if self.settings.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip_norm, norm)
        elif self.settings.clip_norm is not None:
            self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    # ---- the end of an epoch

    def _finish_epoch(self, epoch: int) -> bool:
        """Validate, log, keep the checkpoints; whether to stop early."""
        scores: dict[str, Any] = {f"train/{k}": v / self.steps_per_epoch for k, v in self.sums.items()}
        scores["train/loss"] = sum(scores.values())
        self.sums = {}
        last = epoch + 1 == self.settings.epochs
        if last:
            self._finish_model()
        better = self.validation is None
        if self.validation is not None and (last or (epoch + 1) % self.settings.validate_every == 0):
            measured = self._validate()
            scores |= measured
            better = self._judge(measured)
        if self.first:
            self._keep(scores, better, epoch)
        self.progress.epoch(epoch, self.settings.epochs, flattened(scores), self.monitor, better)
        self._save()
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def _finish_model(self) -> None:
        """Let the model do what it does after gradient descent; each process by itself, on all images."""
        model = self.average.module if self.average is not None else self.model
        batches = training_batches(
            self.data,
            [[(0, index)] for index in range(len(self.data))],  # in order, one by one
            transform=self.transform.fit,
            seed=self.settings.seed,
            needs=model.needs,
            takes=model.takes,
            size_divisor=model.input.size_divisor,
            workers=self.recipe.data.workers,
        )
        model.finish(batches)

    def _validate(self) -> dict[str, Any]:
        assert self.validation is not None
        model = self.average.module if self.average is not None else self.model
        model.eval()
        metrics = metrics_for(model.fills, self.validation)
        samples = Subset(self.validation, self.fabric.global_rank, self.fabric.world_size)
        losses = model.losses if self.settings.validation_loss else None
        with self.fabric.autocast():
            sums = run_evaluation(
                model.predict,
                model,
                samples,
                metrics,
                losses=losses,
                device=self.fabric.device,
                batch_size=8 if self.fabric.device.type == "cuda" else 1,
                workers=self.recipe.data.workers,
                tick=self.progress.tick(len(samples)),
            )
        if self.fabric.world_size > 1:
            gathered: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(gathered, (metrics, sums))
            metrics, sums = gathered[0]
            for other, other_sums in gathered[1:]:
                for mine, theirs in zip(metrics, other, strict=True):
                    mine.merge(theirs)
                sums = {k: sums.get(k, 0.0) + v for k, v in other_sums.items()}
        means = {f"val/{k}": v / len(self.validation) for k, v in sums.items()}
        if means:
            means["val/loss"] = sum(means.values())
        return {**scores_of(metrics), **means}

    def _judge(self, scores: dict[str, Any]) -> bool:
        """Whether this validation is the best so far."""
        assert self.monitor is not None
        name = "val/loss" if self.monitor == "loss" else self.monitor
        flat = flattened(scores)
        value = flat.get(name)
        if name in flat and value is None:
            assert self.validation is not None
            raise UsageError(
                f"trainer.monitor is {self.monitor!r}, which is undefined on {self.validation.source}, "
                f"split {self.validation.split!r}: nothing there is to be found"
            )
        if not isinstance(value, int | float):
            numbers = [k for k, v in flat.items() if isinstance(v, int | float) and "per_class." not in k]
            raise UsageError(f"trainer.monitor is {self.monitor!r}; expected one of {', '.join(numbers)}")
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        if better:
            self.best, self.best_scores, self.waited = float(value), scores, 0
        else:
            self.waited += 1
        return better

    def _keep(self, scores: dict[str, Any], better: bool, epoch: int) -> None:
        """Write last.safetensors, and best.safetensors where this epoch is the best."""
        state = self.average.module.state_dict() if self.average is not None else None
        info: dict[str, Any] = {"data": {"train": self.data.source, "split": self.data.split}, "epoch": epoch + 1}
        if self.data.colors is not None:
            info["colors"] = [list(c) for c in self.data.colors]
        if hasattr(self.data, "class_ids"):  # the format's own numbers of the classes, for writing results back
            info["class_ids"] = [int(number) for number in self.data.class_ids]
        measured = {k: v for k, v in scores.items() if not k.startswith("train/")}
        if self.validation is not None and measured:
            info["metrics"] = {"data": self.validation.source, "split": self.validation.split, **measured}
        for name, wanted in (("last", True), ("best", better)):
            if wanted:
                save_checkpoint(
                    self.model, self.folder / f"{name}.safetensors", half=self.settings.half, state=state, **info
                )
        if self.log is not None:
            self.log.epoch(self.step, epoch, scores)

    # ---- the training state

    def _save_if_due(self) -> None:
        every = self.settings.save_every
        due = self.step % every == 0 if every else time.monotonic() - self.saved > SAVE_SECONDS
        if due and self.step % self.steps_per_epoch:  # at an epoch's end it is saved after the validation
            self._save()

    def _save(self) -> None:
        if self.first:
            progress = {
                "step": self.step,
                "sums": self.sums,
                "best": self.best,
                "best_scores": self.best_scores,
                "waited": self.waited,
                "scaler": self._scaler_state(),
            }
            average = self.average.module.state_dict() if self.average is not None else None
            save_state(self.folder / "state.safetensors", self.model, average, self.optimizer, progress)
        self.saved = time.monotonic()

    def _scaler_state(self) -> dict[str, Any] | None:
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return None if scaler is None else scaler.state_dict()

    def start(self) -> None:
        """Start with the weights of the models in the recipe's ``init`` where they fit, of the last of those that do;
        say which stay as they were built."""
        sources = self.recipe.sources
        if not sources:
            return
        left: dict[str, str] = {}  # the last reason why a tensor stays as it was
        for i, source in enumerate(sources):
            other = load(source, weights_file=self.recipe.init_weights_file)
            lines = {line.split()[0]: line for line in transfer(self.model, other.state_dict(), source)}
            left = {key: line for key, line in lines.items() if i == 0 or key in left}
        if self.average is not None:
            self.average.module.load_state_dict(self.model.state_dict())
        names = ", ".join(sources)
        for line in left.values():
            self.progress.note(f"not in {names}, newly initialised: {line}")
        self.progress.note(f"starts with {len(self.model.state_dict()) - len(left)} tensors of {names}")

    def resume(self) -> None:
        """Go on from the folder's training state."""
        path = self.folder / "state.safetensors"
        if path.is_file():
            average, progress = load_state(path, self.model, self.optimizer)
            if self.average is not None and average is not None:
                self.average.module.load_state_dict(average)
            self.step, self.sums, self.waited = progress["step"], progress["sums"], progress["waited"]
            self.best, self.best_scores = progress["best"], progress["best_scores"]
            if progress["scaler"] is not None:
                self.fabric.strategy.precision.scaler.load_state_dict(progress["scaler"])
        else:  # it was stopped before the first state was saved
            self.start()
        if self.log is not None:
            self.log.rewind(self.step)
        self.progress.note(f"goes on from step {self.step} of {self.total}")


class Average:
    """The exponential moving average of a model's weights and buffers.

    The decay at step t (from 1) is min(decay, (1 + t) / (10 + t)), so that early averages follow quickly.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.module, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move the average towards ``model``'s present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs.to(mine.dtype), 1 - decay)
            else:
                mine.copy_(theirs)


class _InputThen:
    """First the model's own resizing, then the augmentation."""

    def __init__(self, fit: ResizeToInput, augment: Transform | None) -> None:
        self.fit, self.augment = fit, augment

    def __call__(self, image: Any, target: Any) -> Any:
        image, target = self.fit(image, target)
        return (image, target) if self.augment is None else self.augment(image, target)


class _Stop:
    """Inside, Ctrl-C and a termination signal ask to stop after the step; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
