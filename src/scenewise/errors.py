"""The errors that scenewise raises on purpose.

ScenewiseError              anything that a user can cause and mend; the command prints it without a traceback
├── UsageError              an argument, option or recipe entry that does not fit
├── DataError               a file or annotation of a data set that does not fit
├── LoaderError             a process that loads samples ended
├── StorageError            a file can't be written, as where the disk is full
├── CheckpointError         a checkpoint or weights file that does not fit
├── TrainingError           training cannot go on, such as a loss that is not finite
├── MissingExtraError       an optional package is needed
└── DownloadError           published weights could not be fetched or verified
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ScenewiseError(Exception):
    """Base of all errors that a user can cause and mend."""


class UsageError(ScenewiseError):
    """An argument, option or recipe entry does not fit."""


class DataError(ScenewiseError):
    """A file or annotation of a data set does not fit."""


class LoaderError(ScenewiseError):
    """A process that loads samples was killed, or ended by itself, as where memory runs out."""

    status = 1  # of the command: the machine failed


class StorageError(ScenewiseError):
    """A file can't be written: the disk is full, the folder is read-only or gone."""


class CheckpointError(ScenewiseError):
    """A checkpoint or weights file does not fit."""


class TrainingError(ScenewiseError):
    """Training cannot go on.

    Attributes:
        status: of the command: 2 where the recipe or the data is to be changed, 1 where the machine failed.
    """

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        """From process to process with its status."""
        return _training_error, (str(self), self.status)


class MissingExtraError(ScenewiseError):
    """An optional package is needed; the message names the extra that brings it."""


class DownloadError(ScenewiseError):
    """Published weights could not be fetched or verified."""


def _training_error(message: str, status: int) -> TrainingError:
    return TrainingError(message, status=status)


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word nearest to ``word``, or ``""`` where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
