"""Progress bars with rate and time left; plain lines where the output is no terminal."""

from __future__ import annotations

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
from rich.text import Text


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


class Progress:
    """The display of a training run."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        live = self.console.is_terminal and not quiet
        self.bars = bars(self.console, disable=not live)
        self.task = self.bars.add_task("train", total=total, note="")
        self.validation = self.bars.add_task("validate", total=None, note="", visible=False)

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def note(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, epoch: int, epochs: int, terms: Mapping[str, float]) -> None:
        """A step is done."""
        note = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self.bars.update(self.task, completed=step, description=f"epoch {epoch + 1}/{epochs}", note=note)

    def tick(self, total: int) -> Callable[[int], None]:
        """A bar for validating ``total`` images; the function that moves it on."""
        self.bars.reset(self.validation, total=total, visible=True)

        def move(count: int) -> None:
            self.bars.advance(self.validation, count)
            if self.bars.tasks[self.validation].finished:
                self.bars.update(self.validation, visible=False)

        return move

    def epoch(self, epoch: int, epochs: int, scores: Mapping[str, Any], monitor: str | None, better: bool) -> None:
        """An epoch is done: one line that stays."""
        parts = [f"epoch {epoch + 1}/{epochs}", f"train loss {scores['train/loss']:.4f}"]
        if "val/loss" in scores:
            parts.append(f"val loss {scores['val/loss']:.4f}")
        if monitor is not None and monitor in scores and monitor != "val/loss":
            parts.append(f"{monitor} {scores[monitor]:.4f}{' (best)' if better else ''}")
        self.note("   ".join(parts))
