"""What a run writes down about itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scenewise.errors import StorageError
from scenewise.files.atomic import write_text

EVENTS = "events.out.tfevents.*"  # TensorBoard's


class Log:
    """The run's numbers: steps.csv, epochs.csv, and TensorBoard's event files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board: Any = None
        self.purge: int | None = None

    def step(self, step: int, epoch: int, lr: float, terms: Mapping[str, float]) -> None:
        """A row of steps.csv."""
        row = {"step": step, "epoch": epoch + 1, "lr": lr, "loss": sum(terms.values()), **terms}
        self._append("steps.csv", row)
        with self._writing(EVENTS):
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    self._tensorboard().add_scalar(f"step/{name}", value, step)

    def epoch(self, step: int, epoch: int, scores: Mapping[str, Any]) -> None:
        """A row of epochs.csv."""
        numbers = {k: v for k, v in flattened(scores).items() if isinstance(v, int | float)}
        self._append("epochs.csv", {"step": step, "epoch": epoch + 1, **numbers})
        with self._writing(EVENTS):
            for name, value in numbers.items():
                self._tensorboard().add_scalar(name, value, step)
            self._tensorboard().flush()

    def rewind(self, step: int, validated: bool = True) -> None:
        """Drop what was logged after ``step``; and the epoch that ends at it, unless it is ``validated``."""
        self.purge = step + 1
        for name in ("steps.csv", "epochs.csv"):
            path = self.folder / name
            if path.is_file():
                head, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
                width = head.count(",")
                last = step if validated or name == "steps.csv" else step - 1
                kept = [r for r in rows if r.endswith("\n") and r.count(",") == width and int(r.split(",")[0]) <= last]
                write_text(path, head + "".join(kept))

    def close(self) -> None:
        """Write out what is left."""
        if self.board is not None:
            with self._writing(EVENTS):
                self.board.close()

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a row; a column that is new, as at the first validation, is empty in the rows before."""
        with self._writing(name):
            self._add_row(self.folder / name, row)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """An OSError inside becomes a :class:`StorageError` that names the file."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self.folder / name}: can't be written ({error.strerror or error})") from None

    def _add_row(self, path: Path, row: Mapping[str, Any]) -> None:
        rows: list[Mapping[str, Any]] = [row]
        names = list(row)
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                known = list(reader.fieldnames or [])
                names = known + [key for key in row if key not in known]
                if names != known:
                    rows = [*reader, row]
        new = len(rows) > 1 or not path.is_file()
        with path.open("w" if new else "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)

    def _tensorboard(self) -> Any:
        if self.board is None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder), purge_step=self.purge)
        return self.board


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``values`` with the dotted path of each value, such as ``{"trainer.epochs": 30}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat.update(flattened(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value})
    return flat
