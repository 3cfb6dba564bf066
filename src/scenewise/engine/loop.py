"""The training loop: one for every system, to be read from top to bottom.

The result is a function of the recipe alone. The order of the images and all augmentation follow from (seed, epoch,
index), the random numbers within a step (dropout) from (seed, step), the learning rate from the step. The training
state therefore needs no random states, and a run that was killed goes on from its last saved step as if nothing had
happened.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scenewise.data import describe_repairs
from scenewise.data.loader import Batches, Epochs, Transform, deaths_named, mix_seed, training_batches
from scenewise.data.repeats import describe_repeats
from scenewise.engine.building import (
    InHand,
    build_model,
    disagreement,
    open_training_data,
    open_validation_data,
    training_transform,
)
from scenewise.engine.evaluate import Subset, choose_metrics, run_evaluation
from scenewise.engine.heritage import start_weights
from scenewise.engine.log import Log, flattened
from scenewise.engine.players import Average, Player, check_terms, decays_of, freeze, hold_frozen, make_players
from scenewise.engine.progress import Progress
from scenewise.engine.run import Run
from scenewise.engine.state import load_state, save_state
from scenewise.errors import LoaderError, StorageError, TrainingError, UsageError
from scenewise.losses.normalize import own_counts
from scenewise.metrics.base import Metric
from scenewise.metrics.table import scores_of, smaller_is_better
from scenewise.nn.arrange import arrange_for_training
from scenewise.recipe import Recipe
from scenewise.weights.checkpoint import save_checkpoint

SAVE_SECONDS = 120.0  # between saved training states, where the recipe says nothing
MAX_SKIPPED = 20  # steps in a row whose gradients may overflow before training stops


class Loop:
    """One process of a training run."""

    def __init__(
        self, fabric: Any, recipe: Recipe, folder: Path, in_hand: InHand, transform: Transform | None, quiet: bool
    ) -> None:
        self.fabric, self.recipe, self.settings, self.folder = fabric, recipe, recipe.trainer, folder
        self.first = fabric.global_rank == 0
        self.data = in_hand.data if in_hand.data is not None else open_training_data(recipe)
        self.validation = in_hand.validation
        if self.validation is None and (in_hand.data is None or recipe.data.val_split is not None):
            self.validation = open_validation_data(recipe)
        self.model = build_model(recipe, self.data, self.validation, in_hand.model)
        self.data = self.data.seen_as(self.model.input)
        if self.validation is not None:
            self.validation = self.validation.seen_as(self.model.input)
        self.transform = training_transform(recipe, self.model.input, transform)
        self.batches = len(self.data) // self.settings.batch_size  # an epoch
        self.steps_per_epoch = self.batches // self.settings.accumulate
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"{self.data.source}: split {self.data.split!r} has {len(self.data)} images, fewer than one step takes "
                f"(trainer.batch_size {self.settings.batch_size} x trainer.accumulate {self.settings.accumulate})"
            )
        self.total = self.steps_per_epoch * self.settings.epochs
        freeze(self.model, self.settings.freeze, self.settings.freeze_norm)
        self.scaled = self.settings.precision == "16"
        self.players = make_players(self.model, recipe, scaled=self.scaled)
        self.average: Average | None = None
        if self.settings.ema is not None:
            self.average = Average(self.model, self.settings.ema, decays_of(self.model, self.players))
        arrange_for_training(self.model)
        self.wrapped, *optimizers = fabric.setup(self.model, *(player.optimizer for player in self.players))
        for player, optimizer in zip(self.players, optimizers, strict=True):
            player.optimizer = optimizer
        self.wrapped.mark_forward_method("losses")
        if self.average is not None:
            self.average.module.to(fabric.device)

        self.step = 0  # optimizer steps done
        self.sums: dict[str, float] = {}  # of the loss terms in the epoch so far
        self.pending = False  # whether the epoch that ends at this step is not validated yet
        self.best: float | None = None
        self.best_scores: dict[str, Any] = {}
        self.waited = 0  # validations since the best one
        self.heritage: dict[str, Any] = {}  # terms and lineage, which every checkpoint has in its header
        self.monitor = None
        if self.validation is not None:
            chosen = choose_metrics(self.model.fills, self.validation, recipe.metrics)
            self.monitor = self.settings.monitor or chosen.main or "loss"
            self._check_monitor(chosen.metrics)
        self.mode = self.settings.mode or self._usual_mode()
        self.log = Log(folder) if self.first else None
        self.progress = Progress(self.total, quiet)
        for opened in (self.data, self.validation):
            if opened is not None and (told := describe_repairs(opened)):
                self.progress.note(told)
        if self.first and self.validation is not None and (told := describe_repeats(self.data, self.validation)):
            self.progress.note(f"{self.validation.source}, {told}")
        if recipe.transforms and transform is None and self.first:
            size = self.data[0][0].shape[-2:]
            if told := disagreement(recipe.transforms, self.model.input, (int(size[0]), int(size[1]))):
                self.progress.note(told)
        self.saved = time.monotonic()

    # ---- the loop

    def run(self) -> Run:
        """Train to the end, or until the user stops it."""
        finished = True
        with _Stop() as stop, self.progress, self._said_if_the_disk_is_full(), self._kept_if_a_loader_dies():
            ended = self.settings.patience is not None and self.waited >= self.settings.patience
            if self.pending:
                ended = self._finish_epoch(self.step // self.steps_per_epoch - 1)
            while self.step < self.total and not ended:
                epoch = self.step // self.steps_per_epoch
                stopping = self._train_epoch(epoch, stop)
                if self.step < (epoch + 1) * self.steps_per_epoch:
                    self._save()
                else:
                    ended = self._finish_epoch(epoch)
                if stopping and not ended:
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
        with closing(iter(self._batches(order, self.transform))) as batches:
            while self.step < (epoch + 1) * self.steps_per_epoch:
                terms, stopping = self._train_step(batches, stop)
                for name, value in terms.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                if self.log is not None:
                    self.log.step(self.step, epoch, self.players[0].optimizer.param_groups[0]["lr"], terms)
                self.progress.step(self.step, epoch, settings.epochs, terms)
                if stopping:
                    return True
                self._save_if_due()
        return False

    def _batches(self, order: Iterable[list[tuple[int, int]]], transform: Transform) -> Batches:
        """The training batches of (epoch, index) in ``order``."""
        return training_batches(
            self.data,
            order,
            transform=transform,
            seed=self.settings.seed,
            needs=self.model.needs,
            takes=self.model.takes,
            size_divisor=self.model.input.size_divisor,
            workers=self.recipe.data.workers,
        )

    def _train_step(self, batches: Iterator[Any], stop: _Stop) -> tuple[dict[str, float], bool]:
        """One optimizer step of each player; the mean of each loss term over its batches and processes, and whether to
        stop."""
        for player in self.players:
            lr = player.settings.lr
            player.set_rate(self.recipe.schedule.factor(self.step, self.total, self.steps_per_epoch, lr))
        parts = (next(batches).to(self.fabric.device) for _ in range(self.settings.accumulate))
        if self.settings.turns == "in-turn":
            sums: dict[str, Tensor] = {}
            again = list(parts)
            for player in self.players:
                found = self._gradients(again, [player])
                sums |= {name: value for name, value in found.items() if name.startswith(f"{player.name}/")}
                self._apply(player)
        else:
            sums = self._gradients(parts, self.players)
            for player in self.players:
                self._apply(player)
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        values = torch.tensor([*(float(v) for v in sums.values()), float(stop.asked)], dtype=torch.float64)
        if self.fabric.world_size > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(sums, values.tolist(), strict=False)), bool(values[-1] > 0)

    def _gradients(self, parts: Iterable[Any], players: list[Player]) -> dict[str, Tensor]:
        """Add up the gradients of the batches ``parts`` for each of ``players``; the mean of each loss term."""
        sums: dict[str, Tensor] = {}
        alone, count = len(self.players) == 1, self.settings.accumulate
        for number, batch in enumerate(parts):
            torch.manual_seed(mix_seed(self.settings.seed, self.step, number, self.fabric.global_rank))
            waiting = not alone or number < count - 1  # several players' gradients are averaged in _apply
            with self.fabric.no_backward_sync(self.wrapped, enabled=waiting):
                with self.fabric.autocast():
                    terms = self.wrapped.losses(batch)
                self._check_finite(terms, batch)
                check_terms(self.players, terms)
                for player in players:
                    loss = torch.stack(player.own(terms)).sum() / count
                    if alone:
                        self.fabric.backward(loss)
                        continue
                    if player.scaler is not None:
                        loss = player.scaler.scale(loss)
                    loss.backward(inputs=player.parameters, retain_graph=player is not players[-1])
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach().float().cpu() / count
        return sums

    def _check_finite(self, terms: dict[str, Tensor], batch: Any) -> None:
        for name, value in terms.items():
            if not math.isfinite(value.item()):
                ids = ", ".join(str(t.get("image_id", "?")) for t in batch.targets)
                raise TrainingError(
                    f"step {self.step}: the loss term {name!r} is {value.item()} for the images {ids}"
                    f"{self._kept_state()}. Lower optimizer.lr, give trainer.clip_norm, or check these images' labels"
                )

    def _kept_state(self) -> str:
        there = (self.folder / "state.safetensors").exists()
        return "; the training state of an earlier step is kept" if there else ""

    def _apply(self, player: Player) -> None:
        """Clip, and step unless a gradient overflowed; zero the gradients."""
        parameters = [p for p in player.parameters if p.grad is not None]
        if len(self.players) > 1 and self.fabric.world_size > 1:
            for p in parameters:
                p.grad = self.fabric.all_reduce(p.grad, reduce_op="mean")
        clip = self.settings.clip_norm
        if not self.scaled:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])  # type: ignore[misc]
            if player.overflowed(norm, MAX_SKIPPED, self.step):
                self.progress.note(f"step {self.step}: gradients overflowed; the step was skipped")
                return
            if clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        elif player.scaler is not None:
            player.scaler.unscale_(player.optimizer)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
        elif clip is not None:
            self.fabric.clip_gradients(self.wrapped, player.optimizer, max_norm=clip)
        if player.scaler is None:
            player.optimizer.step()
        else:
            player.scaler.step(player.optimizer)
            player.scaler.update()
        player.optimizer.zero_grad()

    @contextmanager
    def _said_if_the_disk_is_full(self) -> Iterator[None]:
        """Say what is kept, and how to go on, where a file of the run can't be written."""
        try:
            yield
        except StorageError as error:
            files = [f"{name}.safetensors" for name in ("state", "best", "last")]
            kept = ", ".join(name for name in files if (self.folder / name).exists())
            raise TrainingError(
                f"step {self.step}: {error}. {f'Whole from before: {kept}' if kept else 'Nothing was saved before'}. "
                f"Make room, then go on with: scenewise train --resume {self.folder}"
            ) from None

    @contextmanager
    def _kept_if_a_loader_dies(self) -> Iterator[None]:
        """Save the state where a loader process was killed, and say how to go on."""
        try:
            with deaths_named("data.workers"):
                yield
        except LoaderError as error:
            self._save()
            raise TrainingError(
                f"step {self.step}: {error}. The state of this step is saved; go on with: scenewise train --resume "
                f"{self.folder}",
                status=1,
            ) from None

    # ---- the end of an epoch

    def _finish_epoch(self, epoch: int) -> bool:
        """Validate, log, keep the checkpoints; whether to stop early."""
        self.pending = True
        self._save()  # whatever becomes of the validation
        scores: dict[str, Any] = {f"train/{k}": v / self.steps_per_epoch for k, v in self.sums.items()}
        scores["train/loss"] = sum(scores.values())
        last = epoch + 1 == self.settings.epochs
        if last:
            self._finish_model()
        better = self.validation is None
        if self.validation is not None and (last or (epoch + 1) % self.settings.validate_every == 0):
            measured = self._validate()
            scores |= measured
            better = self._judge(measured)
        self.sums, self.pending = {}, False
        if self.first:
            self._keep(scores, better, epoch)
        self.progress.epoch(epoch, self.settings.epochs, flattened(scores), self.monitor, better)
        self._save()
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def _finish_model(self) -> None:
        """Let the model do what it does after gradient descent; each process by itself, on all images."""
        model = self.average.module if self.average is not None else self.model
        in_order = [[(0, index)] for index in range(len(self.data))]  # one by one
        model.finish(self._batches(in_order, self.transform.fit))

    def _validate(self) -> dict[str, Any]:
        assert self.validation is not None
        model = self.average.module if self.average is not None else self.model
        model.eval()
        torch.manual_seed(mix_seed(self.settings.seed, self.step))  # detectors sample what their losses are computed on
        metrics = choose_metrics(model.fills, self.validation, self.recipe.metrics).metrics
        samples = Subset(self.validation, self.fabric.global_rank, self.fabric.world_size)
        losses = model.losses if self.settings.validation_loss else None
        with self.fabric.autocast(), own_counts():
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
                sums = {k: sums.get(k, 0.0) + other_sums.get(k, 0.0) for k in {**sums, **other_sums}}
        means = {f"val/{k}": v / len(self.validation) for k, v in sums.items()}
        if means:
            means["val/loss"] = sum(means.values())
        return {**scores_of(metrics), **means}

    def _usual_mode(self) -> Literal["max", "min"]:
        """Whether more or less of what is monitored is better, where the recipe does not say."""
        if self.monitor is None or self.validation is None:
            return "max"
        metrics = choose_metrics(self.model.fills, self.validation, self.recipe.metrics).metrics
        loss = self.monitor == "loss" or self.monitor.startswith("val/")
        return "min" if loss or smaller_is_better(metrics, self.monitor) else "max"

    def _check_monitor(self, metrics: Sequence[Metric]) -> None:
        """Raise a :class:`UsageError` where no validation will have the score that is monitored."""
        assert self.validation is not None
        assert self.monitor is not None
        if self.monitor == "loss" or self.monitor.startswith("val/"):
            if not self.settings.validation_loss:
                raise UsageError(f"trainer.monitor is {self.monitor!r}, and trainer.validation_loss is false")
            return
        empty = flattened(scores_of(metrics))
        if self.monitor not in empty or isinstance(empty[self.monitor], Mapping):
            numbers = [name for name in empty if "per_class" not in name and name != "images"]
            raise UsageError(f"trainer.monitor is {self.monitor!r}; expected one of {', '.join([*numbers, 'loss'])}")

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
                f"split {self.validation.split!r}: there is no ground truth for it"
            )
        if not isinstance(value, int | float):
            numbers = [k for k, v in flat.items() if isinstance(v, int | float) and "per_class." not in k]
            raise UsageError(f"trainer.monitor is {self.monitor!r}; expected one of {', '.join(numbers)}")
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        better = better and math.isfinite(value)
        if better:
            self.best, self.best_scores, self.waited = float(value), scores, 0
        else:
            self.waited += 1
        return better

    def _keep(self, scores: dict[str, Any], better: bool, epoch: int) -> None:
        """Write last.safetensors, and best.safetensors where this epoch is the best."""
        state = self.average.module.state_dict() if self.average is not None else None
        self._check_weights(self.model.state_dict(), state)
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
                "pending": self.pending,
                "best": self.best,
                "best_scores": self.best_scores,
                "waited": self.waited,
                "heritage": self.heritage,
                "scaler": self._scaler_state(),
                "players": {player.name: player.state() for player in self.players},
            }
            average = self.average.module.state_dict() if self.average is not None else None
            self._check_weights(self.model.state_dict(), average)
            optimizers = {player.name: player.optimizer for player in self.players}
            save_state(self.folder / "state.safetensors", self.model, average, optimizers, progress)
        self.saved = time.monotonic()

    def _check_weights(self, *states: Mapping[str, Tensor] | None) -> None:
        """Raise a :class:`TrainingError` where a weight or buffer is not finite: nothing like that is ever saved."""
        for state in states:
            for name, value in (state or {}).items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    bad = int((~value.isfinite()).sum())
                    raise TrainingError(
                        f"step {self.step}: {name} has {bad} numbers that are not finite{self._kept_state()}. Lower "
                        "optimizer.lr, or give trainer.clip_norm"
                    )

    def _scaler_state(self) -> dict[str, Any] | None:
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return None if scaler is None else scaler.state_dict()

    def start(self) -> None:
        """Start with the weights of the models in the recipe's ``init``."""
        start_weights(self.model, self.recipe, self.progress)
        if self.average is not None:
            self.average.module.load_state_dict(self.model.state_dict())
        self.heritage = {key: self.model.info[key] for key in ("terms", "lineage") if key in self.model.info}

    def resume(self) -> None:
        """Go on from the folder's training state."""
        path = self.folder / "state.safetensors"
        if path.is_file():
            optimizers = {player.name: player.optimizer for player in self.players}
            average, progress = load_state(path, self.model, optimizers)
            if self.average is not None and average is not None:
                self.average.module.load_state_dict(average)
            self.step, self.sums, self.waited = progress["step"], progress["sums"], progress["waited"]
            self.best, self.best_scores = progress["best"], progress["best_scores"]
            self.pending = progress["pending"]
            self.heritage = progress.get("heritage", {})
            self.model.info = {**self.model.info, **self.heritage}
            for player in self.players:
                player.load_state(progress["players"][player.name])
            if progress["scaler"] is not None:
                self.fabric.strategy.precision.scaler.load_state_dict(progress["scaler"])
        else:  # it was stopped before the first state was saved
            self.start()
        if self.log is not None:
            self.log.rewind(self.step, validated=not self.pending)
        self.progress.note(f"goes on from step {self.step} of {self.total}")
        self.progress.goes_on_from(self.step)


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
