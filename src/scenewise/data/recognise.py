"""Which format a data set has, told from what lies there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from scenewise.data.base import DataSet
from scenewise.data.foreign import foreign_format
from scenewise.errors import DataError

Readers = Mapping[str, Sequence[type[DataSet]]]  # by format

LOOKED_AT = 2000  # entries of folders that are counted for a message
SUB_FOLDERS = 50  # that are looked into for a data set, of each level ...
LEVELS = 3  # ... of these
INSIDE = "it holds "  # what a message says before the data sets in sub-folders
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"})


def recognise(path: Path, readers: Readers) -> str:
    """The ``format:path`` string of the data set in ``path``, a folder or a file.

    Each reader says what marks a data set as its own (:meth:`~scenewise.data.base.DataSet.sign`).

    Raises:
        DataError: there is nothing at ``path``, or it is of no format that is known, or may be of several; the message
            says what was seen, and what it looks like.
    """
    if not os.path.exists(path):
        raise DataError(f"{path}: not found; expected the folder or the file of a data set")
    signs = signs_of(path, readers)
    if len(signs) == 1:
        return f"{next(iter(signs))}:{path}"
    if signs:
        listed = ", ".join(f"{name}:{path} ({sign})" for name, sign in signs.items())
        raise DataError(f"{path}: may be of several formats; state which: {listed}")
    described = describe(path, readers)
    known = "" if INSIDE in described else f"; known formats: {', '.join(readers)}"
    raise DataError(f"{path}: {described}{known}")


def signs_of(path: Path, readers: Readers) -> dict[str, str]:
    """What marks ``path`` as a data set, for each format that it may be of."""
    found: dict[str, str] = {}
    for name, classes in readers.items():
        for reader in classes:
            sign = reader.sign(path)
            if sign:
                found.setdefault(name, sign)
    return found


def describe(path: Path, readers: Readers, besides: str = "") -> str:
    """What lies in ``path``, and what it looks like: a clause for messages.

    Args:
        path: a folder or a file.
        readers: of all formats.
        besides: the format as which it was tried in vain.
    """
    signs = {name: sign for name, sign in signs_of(path, readers).items() if name != besides}
    if signs:
        listed = " or ".join(f"{name}:{path} ({sign})" for name, sign in signs.items())
        return f"this looks like {listed}"
    seen, inner = f"{_seen(path)} here, which is no data set of a known format", _inside(path, readers)
    if len(inner) == 1:
        return f"{seen}; {INSIDE}{inner[0]}: give that"
    if inner:
        return f"{seen}; {INSIDE}{', '.join(inner[:3])}{' and more' if len(inner) > 3 else ''}: give one of them"
    return foreign_format(path) or seen


def _inside(path: Path, readers: Readers) -> list[str]:
    """The data sets in the folders of ``path``; where there is none, in the folders of these, as archives unpack."""
    level = [path]
    for _ in range(LEVELS):
        level = [folder for above in level for folder in islice(_folders(above), SUB_FOLDERS)][:SUB_FOLDERS]
        found = [f"{name}:{folder} ({sign})" for folder in level for name, sign in signs_of(folder, readers).items()]
        if found:
            return found
    return []


def _folders(path: Path) -> Iterator[Path]:
    """The folders in ``path``, sorted."""
    try:
        names = sorted(os.listdir(path))
    except (OSError, ValueError):
        return
    for name in names:
        if not name.startswith(".") and name != "__MACOSX" and os.path.isdir(path / name):
            yield path / name


def _seen(path: Path) -> str:
    """The kinds of files in ``path``, in words, such as ``12 .jpg, 12 .xml and 1 .csv files are``."""
    if not path.is_dir():
        archive = " (an archive: unpack it, and give the folder)" if path.suffix.lower() in ARCHIVES else ""
        return f"a file {path.suffix or path.name}{archive} is"
    kinds = Counter(islice(_endings(path), LOOKED_AT))
    if not kinds:
        return "no files are"
    more = kinds.total() == LOOKED_AT
    parts = [f"{count} {ending or 'without ending'}" for ending, count in kinds.most_common(5)]
    words = " and ".join(", ".join(parts).rsplit(", ", 1))
    archive = " (an archive: unpack it)" if kinds.keys() <= ARCHIVES else ""
    return f"{words} {'files and more' if more else 'files' if kinds.total() > 1 else 'file'}{archive} " + (
        "are" if kinds.total() > 1 else "is"
    )


def _endings(path: Path) -> Iterator[str]:
    for _, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.splitext(name)[1].lower() for name in files if not name.startswith("."))
