"""The table of data formats, and how a ``format:path`` string is opened."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from scenewise.data.base import DataSet
from scenewise.errors import DataError, UsageError, suggest

FORMATS: dict[str, str] = {  # name -> module:class below scenewise.data
    "ade20k": "ade20k:ADE20K",
    "camvid": "camvid:CamVid",
    "cityscapes": "cityscapes:Cityscapes",
    "masks": "masks:Masks",
    "scenes": "scenes:Scenes",
    "voc": "voc:VOC",
}


def find_reader(source: str) -> tuple[type[DataSet], Path]:
    """The reader and the path that ``source``, a ``format:path`` string, names.

    Raises:
        UsageError: the format is unknown, or the string lacks format or path.
        DataError: the format needs a folder, and there is none at that path.
    """
    name, colon, path = source.partition(":")
    if not colon:
        raise UsageError(f"data {source!r}: expected format:path, with a format of {', '.join(FORMATS)}")
    if name not in FORMATS:
        raise UsageError(
            f"data {source!r}: there is no format {name!r}{suggest(name, FORMATS)}; known: {', '.join(FORMATS)}"
        )
    module, reader = FORMATS[name].split(":")
    cls: type[DataSet] = getattr(importlib.import_module(f"scenewise.data.{module}"), reader)
    root = Path(path).expanduser()
    if cls.needs_folder:
        if not path:
            raise UsageError(f"data {source!r}: the path is missing; expected {name}:FOLDER")
        if not root.is_dir():
            raise DataError(f"{root}: {'is a file' if root.exists() else 'not found'}; expected the folder of {source}")
    return cls, root


def splits_of(source: str) -> tuple[str, ...]:
    """The splits that the data set ``source`` has. Errors as for :func:`find_reader`."""
    cls, root = find_reader(source)
    return cls.splits(root)


def open_data(source: str, split: str = "train", **options: Any) -> DataSet:
    """The data set that ``source``, a ``format:path`` string, names.

    Args:
        source: such as ``camvid:data/camvid``.
        split: which part of it.
        options: passed to the reader.

    Raises:
        UsageError: the format is unknown, the string lacks format or path, or the reader has no such option.
        DataError: the folder is not there or not in that format, has no such split, or lacks files of it; what is wrong
            inside the files shows when they are read, or by :func:`scenewise.data.check.check_data`.
    """
    cls, root = find_reader(source)
    try:
        inspect.signature(cls).bind(root, split, **options)
    except TypeError as error:
        raise UsageError(f"{cls.format}: {error}") from None
    data: DataSet = cls(root, split, **options)  # type: ignore[call-arg]  # checked above
    lacking = list(data.missing())
    if lacking:
        more = f" ({len(lacking)} files of split {split!r} are missing; this is the first)" if len(lacking) > 1 else ""
        raise DataError(f"{lacking[0]}{more}")
    return data
