"""What a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """Where a training run is, and what it reached."""

    folder: Path
    monitor: str | None  # the score that chose the best epoch; None without validation
    best: float | None
    scores: dict[str, Any]  # all scores of the best epoch
    epochs: int  # how many were trained
    finished: bool  # False: stopped by the user; train(resume=folder) goes on
    pictures: tuple[Path, ...] = ()  # of the best and the worst validation images, where training had no recipe

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.folder / "last.safetensors"
