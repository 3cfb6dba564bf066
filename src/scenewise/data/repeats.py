"""Images that stand in two splits: what a network has learned by heart is no measure of what it learned."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from scenewise.data.base import DataSet
from scenewise.data.folders import counted
from scenewise.data.instances import InstanceDataSet
from scenewise.data.label_maps import LabelMapDataSet

CURE = (
    "leave such images out of one of the two, or make new splits with scenewise data split, which keeps equal ones "
    "together"
)
TAIL = 4096  # bytes at the end of files, which tell most pictures apart


def describe_repeats(train: DataSet, other: DataSet) -> str:
    """How many images of ``other`` are in ``train``, too, by the bytes of their files, and the cure; empty where none
    is, or where the images of a data set are not files.

    Files of one size are compared by their ends, and only where those are equal as a whole, so that of 100,000 images
    little more than the folders is read.
    """
    pairs = _pairs(_files(train), _files(other))
    if not pairs:
        return ""
    path, twin = next(iter(pairs.items()))
    such = str(path) if path == twin else f"{path}, the same picture as {twin}"
    return (
        f"split {other.split!r}: {counted(len(pairs), 'image')} of {len(other):,} {'is' if len(pairs) == 1 else 'are'} "
        f"in split {train.split!r}, too, which is trained on, such as {such}. Scores are then better than on new "
        f"images: {CURE}"
    )


def _files(data: DataSet) -> list[Path]:
    if not isinstance(data, InstanceDataSet | LabelMapDataSet):
        return []
    return list(dict.fromkeys(data.image_path(index) for index in range(len(data))))


def _pairs(train: Sequence[Path], other: Sequence[Path]) -> dict[Path, Path]:
    """Each of ``other`` that is one of ``train``, in order, with the first such one."""
    known = set(train)
    found = {path: path for path in other if path in known}
    same: dict[Path, Path] = {}
    left = [path for path in other if path not in found]
    for mark in (_size, _end, _whole):
        ours, theirs = _by(mark, train), _by(mark, left)
        common = ours.keys() & theirs.keys()
        train, left = ([path for key in common for path in side[key]] for side in (ours, theirs))
        same = {path: ours[key][0] for key in common for path in theirs[key]}
    found |= same
    return {path: found[path] for path in other if path in found}


def _by(mark: Callable[[Path], Hashable], paths: Iterable[Path]) -> dict[Hashable, list[Path]]:
    """``paths`` by what ``mark`` says of each; those that can't be read, which is told when they are, are left out."""
    found: dict[Hashable, list[Path]] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            found.setdefault(mark(path), []).append(path)
    return found


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _end(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL))
        return size, file.read()


def _whole(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()
