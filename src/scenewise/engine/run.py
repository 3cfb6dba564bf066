"""What a training run leaves behind."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenewise.errors import CheckpointError, DataError, MissingExtraError
from scenewise.weights.load import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scenewise.model import Model


@dataclass(frozen=True, repr=False)
class Run:
    """Where a training run is, and what it reached.

    Example:
        >>> run = scenewise.train("my-data")
        >>> run.plot()
        >>> scenewise.predict(run.model, "photo.jpg")
    """

    folder: Path
    monitor: str | None  # the score that chose the best epoch; None without validation
    best: float | None
    scores: dict[str, Any]  # all scores of the best epoch
    epochs: int  # how many were trained
    finished: bool  # False: stopped by the user; train(resume=folder) goes on
    pictures: tuple[Path, ...] = ()  # of the best and the worst validation images, where training had no recipe

    def __repr__(self) -> str:
        """The folder and what was reached, in a line."""
        best = "" if self.best is None else f", best {self.monitor} {self.best:.4f}"
        return f"Run({self.folder}: {self.epochs} epochs{best}{'' if self.finished else ', stopped'})"

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.folder / "last.safetensors"

    @functools.cached_property
    def model(self) -> Model:
        """The model of the best epoch, ready to predict; it is loaded once.

        Raises:
            CheckpointError: the run was stopped in its first epoch.
        """
        if not self.best_checkpoint.is_file():
            raise CheckpointError(
                f"{self.folder}: has no best.safetensors yet, which the end of an epoch writes; go on with: "
                f"train(resume={str(self.folder)!r})"
            )
        return load(self.best_checkpoint)

    def plot(self) -> Figure:
        """The curves of the run: the loss of each step, and the validation's loss and score of each epoch.

        Raises:
            MissingExtraError: matplotlib is not installed.
            DataError: the run has no steps yet.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtraError("plot needs matplotlib: pip install 'scenewise[plots]'") from None
        places = [self.folder, *sorted(self.folder.glob("stage-*"), key=lambda stage: int(stage.name[6:]))]
        steps, epochs = (
            [row for place in places for row in _rows(place / name)] for name in ("steps.csv", "epochs.csv")
        )
        if not steps:
            raise DataError(f"{self.folder / 'steps.csv'}: holds no steps yet; there is nothing to plot")
        chosen = self.monitor if self.monitor not in (None, "loss", "val/loss") else None
        figure = Figure(figsize=(10 if chosen else 5, 3.2), layout="constrained")
        axes: Sequence[Any] = figure.subplots(1, 2 if chosen else 1, squeeze=False)[0]
        axes[0].plot(*_column(steps, "loss"), color="#56b4e9", linewidth=0.8, label="step")
        for name, color in (("train/loss", "#0072b2"), ("val/loss", "#d55e00")):
            if (line := _column(epochs, name))[0]:
                axes[0].plot(*line, color=color, marker="o", markersize=3, label=name)
        axes[0].set(xlabel="step", ylabel="loss")
        axes[0].legend()
        if chosen is not None:
            axes[1].plot(*_column(epochs, chosen), color="#009e73", marker="o", markersize=3)
            axes[1].set(xlabel="step", ylabel=chosen)
        # what a notebook shows, whether or not it was told to show matplotlib's figures
        vars(figure)["_repr_png_"] = functools.partial(_png, figure)
        return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where it is not there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _column(rows: Sequence[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Steps, counted through all stages, and the values of a column, where it has some."""
    found: tuple[list[int], list[float]] = ([], [])
    before = last = 0
    for row in rows:
        step = int(row["step"])
        if step < last:  # another stage
            before += last
        last = step
        if row.get(name) and math.isfinite(value := float(row[name])):
            found[0].append(before + step)
            found[1].append(value)
    return found
