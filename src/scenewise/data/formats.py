"""The table of data formats, and how a ``format:path`` string is opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from scenewise.data.base import DataSet
from scenewise.errors import DataError, UsageError, suggest

FORMATS: dict[str, str] = {  # name -> module:class below scenewise.data
    "camvid": "camvid:CamVid",
}


def open_data(source: str, split: str = "train", **options: Any) -> DataSet:
    """The data set that ``source``, a ``format:path`` string, names.

    Args:
        source: such as ``camvid:data/camvid``.
        split: which part of it.
        options: passed to the reader.

    Raises:
        UsageError: the format is unknown or the string has none.
        DataError: the folder is not there or not in that format.
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
    if cls.needs_folder and path and not root.exists():
        raise DataError(f"{source}: {root} does not exist")
    return cls(root, split, **options)
