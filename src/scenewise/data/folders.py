"""What is in a folder of images, and in a list file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from scenewise.errors import DataError
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.files.text import read_text

NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})  # there is nothing of that name


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
    """The names of all files in ``folder``; none where it does not exist.

    Raises:
        DataError: it can't be read.
    """
    try:
        return set(os.listdir(folder))
    except ValueError:  # not a name that a folder can have
        return set()
    except OSError as error:
        if error.errno in NOWHERE:
            return set()
        raise DataError(f"{folder}: can't be read ({error.strerror})") from None


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


def passed_over(names: Sequence[str]) -> str:
    """What is to be said of files in a folder of images that are none: their number and, by name, the first of each
    ending, those first that may be pictures or films; empty where there are no such files."""
    if not names:
        return ""
    by_ending: dict[str, list[str]] = {}
    for name in names:
        by_ending.setdefault(os.path.splitext(name)[1].lower(), []).append(name)
    endings = sorted(by_ending, key=lambda ending: (ending not in PICTURES, -len(by_ending[ending]), ending))
    listed = [
        by_ending[ending][0] + (f" and {len(by_ending[ending]) - 1:,} more {ending}" if by_ending[ending][1:] else "")
        for ending in endings[:NAMED]
    ]
    more = f", and {len(endings) - NAMED} more kinds" if len(endings) > NAMED else ""
    cure = ". Save pictures as PNG or JPEG to have them read" if endings[0] in PICTURES else ""
    if {".heic", ".heif"} & by_ending.keys():
        cure += "; HEIC is read with pip install pi-heif, too"
    verb = "is" if len(names) == 1 else "are"
    return f"{counted(len(names), 'file')} {verb} passed over: {', '.join(listed)}{more}{cure}"


NAMED = 6  # kinds of files that a message lists
PICTURES = frozenset(
    [
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".tga",
        ".psd",
        ".svg",
        ".eps",
        ".pdf",
        ".exr",
        ".hdr",
        ".dng",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
        ".dcm",
        ".nii",
        ".mp4",
        ".mov",
        ".m4v",
        ".avi",
        ".mkv",
        ".webm",
        ".mpg",
        ".mpeg",
    ]
)


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
