"""The table of data formats, and how a data set is opened by its ``format:path`` string, or by its path alone."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scenewise.data.base import DataSet, OnBadRecord, Problem
from scenewise.data.instances import InstanceDataSet
from scenewise.data.part import Part, parse_part
from scenewise.data.recognise import describe, recognise
from scenewise.errors import DataError, UsageError, suggest

FORMATS: dict[str, tuple[str, ...]] = {  # name -> module:class below scenewise.data; the first is the usual one
    "ade20k": ("readers.ade20k:ADE20K",),
    "camvid": ("readers.camvid:CamVid",),
    "cityscapes": ("readers.cityscapes:Cityscapes",),
    "coco": ("readers.coco:Coco", "readers.coco:CocoKeypoints"),
    "datumaro": ("readers.datumaro:Datumaro",),
    "labelme": ("readers.labelme:Labelme",),
    "masks": ("readers.masks:Masks", "readers.class_masks:ClassMasks", "readers.beside_masks:BesideMasks"),
    "scenes": ("scenes.scenes:Scenes",),
    "supervisely": ("readers.supervisely:Supervisely",),
    "via": ("readers.via:Via",),
    "voc": ("readers.voc:VOC", "readers.voc_boxes:VOCBoxes"),
    "yolo": ("readers.yolo:Yolo",),
}


def find_reader(source: str, needs: frozenset[str] = frozenset()) -> tuple[type[DataSet], Path]:
    """The reader and the path that ``source`` names, a ``format:path`` string or a path alone.

    Where a format has several readers, it is the first that gives the target fields ``needs`` and finds its files.
    The format of a path alone is recognised by its files (:mod:`scenewise.data.recognise`).

    Raises:
        UsageError: the format is unknown, or the string lacks the path.
        DataError: the format needs a folder, and there is none at that path; or a path alone is of no known format.
    """
    name, colon, path = source.partition(":")
    if (not colon or name not in FORMATS) and os.path.exists(Path(source).expanduser()):
        name, _, path = recognise(Path(source).expanduser(), all_readers()).partition(":")
    elif not colon:
        if name in FORMATS:
            raise UsageError(f"data {source!r}: expected format:path, such as {name}:FOLDER")
        raise UsageError(
            f"data {source!r}: not found; expected format:path, with a format of {', '.join(FORMATS)}, or the path of "
            "a folder alone"
        )
    elif name not in FORMATS:
        raise UsageError(
            f"data {source!r}: there is no format {name!r}{suggest(name, FORMATS)}; known: {', '.join(FORMATS)}"
        )
    readers = _readers(name)
    root = Path(path).expanduser()
    if readers[0].needs_folder:
        _check_path(source, name, path, root, any(reader.takes_file for reader in readers))
    if len(readers) == 1:
        return readers[0], root
    giving = [reader for reader in readers if needs <= reader.fields] or readers[:1]
    return next((reader for reader in giving if reader.recognises(root)), giving[0]), root


def path_of(source: str) -> Path | None:
    """The path that ``source`` names, a ``format:path`` string or a path alone; None where it names none that has to be
    there, or its format is not known."""
    name, colon, path = source.partition(":")
    if not colon:
        return Path(source) if source not in FORMATS else None
    return Path(path) if path and name in FORMATS and _readers(name)[0].needs_folder else None


def _check_path(source: str, name: str, path: str, root: Path, takes_file: bool) -> None:
    """That there is a folder, or a file, where the format needs one."""
    if not path:
        raise UsageError(f"data {source!r}: the path is missing; expected {name}:FOLDER")
    if not (os.path.isdir(root) or (takes_file and os.path.isfile(root))):
        found = "is a file" if os.path.exists(root) else "not found"
        hint = f"; {describe(root, all_readers(), name)}" if os.path.isfile(root) else ""
        raise DataError(f"{root}: {found}; expected the folder{' or file' if takes_file else ''} of {source}{hint}")


def all_readers() -> dict[str, list[type[DataSet]]]:
    """The readers of each format."""
    return {name: _readers(name) for name in FORMATS}


def _readers(name: str) -> list[type[DataSet]]:
    return [_load(location) for location in FORMATS[name]]


def _load(location: str) -> type[DataSet]:
    module, reader = location.split(":")
    return getattr(importlib.import_module(f"scenewise.data.{module}"), reader)  # type: ignore[no-any-return]


def splits_of(source: str, needs: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The splits that the data set ``source`` has. Errors as for :func:`find_reader`."""
    cls, root = find_reader(source, needs)
    with naming_what_is_here(cls, root):
        return cls.splits(root)


@contextmanager
def naming_what_is_here(cls: type[DataSet], root: Path) -> Iterator[None]:
    """Add what lies in ``root`` to a DataError, where nothing marks it as of the format of ``cls``."""
    try:
        yield
    except DataError as error:
        if not cls.needs_folder or any(reader.sign(root) for reader in _readers(cls.format)):
            raise
        hint = describe(root, all_readers(), cls.format)
        raise DataError(f"{error}; {hint}") from None


def open_data(
    source: str,
    split: str = "train",
    *,
    needs: frozenset[str] = frozenset(),
    on_bad_record: OnBadRecord = "error",
    allow_unlabelled: bool = False,
    **options: Any,
) -> DataSet:
    """The data set that ``source``, a ``format:path`` string or a path alone, names.

    Args:
        source: such as ``camvid:data/camvid``; or ``data/camvid``, where the format is recognised by its files.
        split: which part of it; ``train[:80%]`` and the like are shares of a split (:mod:`scenewise.data.part`).
        needs: the target fields that are wanted, where a format has several readers; what is bad in others does not
            matter. Samples may have more fields: see :meth:`~scenewise.data.base.DataSet.only`.
        on_bad_record: what becomes of bad records among those of objects, such as a box without an area: see
            :class:`~scenewise.data.instances.InstanceDataSet`. Formats without objects take ``"error"`` only.
        allow_unlabelled: take a split that training or a measurement makes no sense on, too: one without any usable
            label, one of which ``on_bad_record`` leaves out more than half, or one with images whose folder of labels
            is not there.
        options: passed to the reader.

    Raises:
        UsageError: the format is unknown, the string lacks format or path, or the reader has no such option.
        DataError: the folder is not there or not in that format, has no such split, or lacks files of it, or a record
            of an object is bad, or it has no labels; what is wrong inside images and label maps shows when they are
            read, or by :func:`scenewise.data.check.check_data`.
    """
    cls, root = find_reader(source, needs)
    return open_reader(
        cls, root, split, needs=needs, on_bad_record=on_bad_record, allow_unlabelled=allow_unlabelled, **options
    )


def open_reader(
    cls: type[DataSet],
    root: Path,
    split: str = "train",
    *,
    needs: frozenset[str] = frozenset(),
    on_bad_record: OnBadRecord = "error",
    allow_unlabelled: bool = False,
    **options: Any,
) -> DataSet:
    """The data set in ``root`` by the reader ``cls``. Arguments and errors as for :func:`open_data`."""
    name, share = parse_part(split)
    data = construct(cls, root, name, needs=needs, on_bad_record=on_bad_record, **options)
    refuse(list(data.missing()), f"files of split {name!r} are missing")
    if data.faults:
        hints = [problem.message for problem in data.suspicions()]
        cure = ". on_bad_record: skip leaves such records out, fix mends what it can"
        refuse(data.faults, "bad records", "".join(f". {hint}" for hint in hints[:1]) + cure)
    reason = "" if allow_unlabelled else data.unlabelled(needs)
    if reason:
        raise DataError(f"{data.source}, split {data.split}: {reason}. allow_unlabelled takes it as it is")
    return data if share is None else Part(data, f"{data.split}{split[len(name) :]}", share)


def construct(
    cls: type[DataSet],
    root: Path,
    split: str,
    *,
    needs: frozenset[str] = frozenset(),
    on_bad_record: OnBadRecord = "error",
    **options: Any,
) -> DataSet:
    """A data set of the reader ``cls``, with missing files and bad records in it."""
    if issubclass(cls, InstanceDataSet):
        options |= {"needs": needs, "on_bad_record": on_bad_record}
    elif on_bad_record != "error":
        raise UsageError(f"{cls.format}: on_bad_record is {on_bad_record!r}, and it has no records of objects")
    try:
        inspect.signature(cls).bind(root, split, **options)
    except TypeError as error:
        raise UsageError(f"{cls.format}: {error}") from None
    # Numbers beyond all measure are faults that readers name; numpy's warnings of them would only be noise.
    with naming_what_is_here(cls, root), np.errstate(over="ignore", invalid="ignore"):
        return cls(root, split, **options)  # type: ignore[call-arg]  # checked above


def refuse(problems: Sequence[Problem], what: str, hint: str = "") -> None:
    """Raise a :class:`DataError` with the first of ``problems``, where there are any."""
    if problems:
        more = f" ({len(problems)} {what}; this is the first)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}{hint}")
