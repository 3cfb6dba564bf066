"""Progress bars with rate and time left; a plain line every half minute where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from scenewise.engine.notebook import Cell, in_notebook

EVERY = 30.0  # seconds between lines


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f}/s" if speed >= 0.1 else f"{1 / max(speed, 1e-9):.0f} s each")


def bars(console: Console, **options: Any) -> Bars:
    """Progress bars as all long work shows them."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        **options,
    )


class Lines:
    """How far work is whose output is no terminal, such as a log file: a line every :data:`EVERY` seconds.

    Args:
        tell: prints a line.
        first: what was done before, as of a run that goes on.
    """

    def __init__(self, tell: Callable[[str], None], first: int = 0) -> None:
        self.tell, self.first = tell, first
        self.start = self.told = time.monotonic()

    def at(self, title: str, done: int, total: int | None, note: str = "") -> None:
        """So much is done of ``total``; a line where the last one is long ago."""
        now = time.monotonic()
        if now - self.told < EVERY:
            return
        self.told = now
        rate = (done - self.first) / max(now - self.start, 1e-9)
        speed = f"{rate:.1f} a second" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s each"
        left = f", {duration((total - done) / rate)} left" if total is not None and rate > 0 else ""
        self.tell(f"{title}: {done}{'' if total is None else f' of {total}'}, {speed}{left}{note and f', {note}'}")


def duration(seconds: float) -> str:
    """Some seconds in words, to two digits or so."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """The display of a training run."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.total = total
        self.cell = Cell(total) if in_notebook() and not quiet else None
        # a notebook colours what comes on standard error as if it was wrong
        self.console = Console(stderr=self.cell is None, quiet=quiet, force_jupyter=False)
        live = self.console.is_terminal and not quiet and self.cell is None  # a kernel may call itself a terminal
        self.lines = None if live or self.cell is not None else Lines(self.note)
        self.bars = bars(self.console, disable=not live)
        self.task = self.bars.add_task("train", total=total, note="")
        self.validation = self.bars.add_task("validate", total=None, note="", visible=False)

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()
        if self.cell is not None:
            self.cell.show()

    def goes_on_from(self, step: int) -> None:
        """The run begins with this step."""
        if self.lines is not None:
            self.lines = Lines(self.note, step)
        if self.cell is not None:
            self.cell = Cell(self.total, step)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """A table above the bars."""
        self.console.print(table)

    def step(self, step: int, epoch: int, epochs: int, terms: Mapping[str, float]) -> None:
        """A step is done."""
        note = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        if self.cell is not None:
            self.cell.step(step, f"epoch {epoch + 1}/{epochs}", sum(terms.values()), note)
        if self.lines is not None:
            self.lines.at(f"epoch {epoch + 1}/{epochs}, step", step, self.total, note)
        self.bars.update(self.task, completed=step, description=f"epoch {epoch + 1}/{epochs}", note=note)

    def tick(self, total: int) -> Callable[[int], None]:
        """A bar for validating ``total`` images; the function that moves it on."""
        self.bars.reset(self.validation, total=total, visible=True)
        lines, done = None if self.lines is None else Lines(self.note), 0

        def move(count: int) -> None:
            nonlocal done
            done += count
            if self.cell is not None:
                self.cell.validating(done, total)
            if lines is not None:
                lines.at("validation, image", done, total)
            self.bars.advance(self.validation, count)
            if self.bars.tasks[self.validation].finished:
                self.bars.update(self.validation, visible=False)

        return move

    def epoch(self, epoch: int, epochs: int, scores: Mapping[str, Any], monitor: str | None, better: bool) -> None:
        """An epoch is done: one line that stays, or a point of a notebook's curve."""
        if self.cell is not None:
            self.cell.epoch(monitor, scores.get(monitor) if monitor is not None else None)
            return
        parts = [f"epoch {epoch + 1}/{epochs}", f"train loss {scores['train/loss']:.4f}"]
        if "val/loss" in scores:
            parts.append(f"val loss {scores['val/loss']:.4f}")
        if monitor is not None and monitor in scores and monitor != "val/loss":
            parts.append(f"{monitor} {scores[monitor]:.4f}{' (best)' if better else ''}")
        self.note("   ".join(parts))
