"""What is in a folder of images, and in a list file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from scenewise.errors import DataError
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.files.text import read_text


def ranges(numbers: Iterable[int]) -> str:
    """Rising ``numbers`` in words, such as "0 to 3, 7, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a} to {b}" for a, b in runs)


def counted(number: int, what: str) -> str:
    """Such as ``1 image`` and ``1,200 images``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def names_in(folder: Path) -> set[str]:
    """The names of all files in ``folder``; none where it does not exist."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def key_of(name: str, ending: str | None = None) -> str | None:
    """The file name ``name`` without ``ending``, or without its image suffix; None where it has neither."""
    if ending is not None:
        return name[: -len(ending)] if name.lower().endswith(ending.lower()) else None
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else None


def images_in(folder: Path, ending: str | None = None) -> dict[str, str]:
    """The image files in ``folder``, by name without ``ending`` (None: without any image suffix), sorted.

    Hidden files, such as the ``._x.jpg`` that macOS leaves, and other kinds of files are passed over.

    Raises:
        DataError: two files differ only in their suffix, so that a label map of that name could belong to either.
    """
    found: dict[str, str] = {}
    for name in sorted(names_in(folder)):
        key = key_of(name, ending)
        if key is None or name.startswith("."):
            continue
        if key in found:
            raise DataError(f"{folder / name}: {found[key]} has the same name but for the suffix; expected one of them")
        found[key] = name
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, stripped, without empty ones.

    Raises:
        DataError: it can't be read, as for :func:`~scenewise.files.text.read_text`, or has no line.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: the list is empty; expected one entry per line")
    return lines
