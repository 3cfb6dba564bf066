"""Writing files so that none is ever half-written."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scenewise.errors import StorageError, UsageError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` at the end, deleted after an error.

    Raises:
        UsageError: the folder can't be made or written to.
        StorageError: the file can't be written, as where the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers make files that none but their owner may read
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: can't be written ({error.strerror or error}); {as_it_was(path)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # why a file can't be made that may be made


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise UsageError(f"{str(path)!r}: not a file's name") from None
    except OSError as error:
        kind = StorageError if error.errno in FULL else UsageError
        raise kind(f"{path}: can't be written ({error.strerror})") from None


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there. Errors as for :func:`atomic_path`."""
    with _told(path):
        path.mkdir(parents=True, exist_ok=True)


def as_it_was(path: str | Path) -> str:
    """What a message states about a file that was not replaced."""
    return "the file of that name is as it was before" if os.path.exists(path) else "there is no file of that name"


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in ``folder``; those of other living processes stay.

    It is called before this process writes to ``folder``: what has its number is left by an earlier one that had it, as
    in containers, whose processes are counted anew.
    """
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        number = path.name.split(".")[-2]
        if number.isdecimal() and not _lives(int(number)):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path`` atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to write to; renamed to ``path`` at the end, deleted after an error.

    Raises:
        UsageError: there is something at ``path`` already, or the folder can't be made.
        StorageError: a file in it can't be written, as where the disk is full.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path}: is there already; expected the name of a new folder")
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of processes that were killed
        if old.is_dir() and (number := old.name.split(".")[-2]).isdecimal() and not _lives(int(number)):
            shutil.rmtree(old, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror})") from None
    try:
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise StorageError(f"{path}: can't be written ({error.strerror or error}); nothing of it is kept") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
