"""Files of what systems take beside the images of a data set: proposals, second images.

Proposals, boxes that one system found for another, are a safetensors file: for each image, under its name in the data
set, its boxes float32 [P,4], best first, x1, y1, x2, y2 in pixels of the image.
:func:`scenewise.engine.proposals.write_proposals` makes one. Images are a folder of files with the images' names.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from scenewise.data.base import DataSet
from scenewise.data.folders import images_in
from scenewise.errors import DataError, UsageError
from scenewise.fields.table import find_input
from scenewise.files.images import read_image
from scenewise.files.tensors import checksums_of, reason_of, tensor_checksum, write_tensors

CURE = "Copy the file again, or make it anew"


class InputFile(Protocol):
    """The values of one input, by the image's name."""

    path: Path
    names: frozenset[str]

    def __getitem__(self, name: str) -> Tensor:
        """The value for the image ``name``."""


class TensorFile:
    """The tensors in the safetensors file ``path``, by the image's name; read when they are asked for, and compared
    with their checksums, where the file has some.

    Raises:
        DataError: the file can't be read, or is damaged.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self.what = Path(path).expanduser(), what
        self.file: Any = None
        file = self._opened()
        self.names = frozenset(file.keys())
        try:
            self.sums = checksums_of(file.metadata())
        except (ValueError, RecursionError):
            raise DataError(f"{self.path}: damaged: the checksums in its header can't be read. {CURE}") from None

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of the image ``name``."""
        if name not in self.names:
            raise DataError(f"{self.path}: has no {self.what} for image {name!r}; expected those of every image")
        try:
            value: Tensor = self._opened().get_tensor(name)
        except Exception as error:  # whatever damaged bytes lead to
            raise DataError(f"{self.path}: damaged: {name!r} can't be read ({reason_of(error)}). {CURE}") from None
        if self.sums is not None and self.sums.get(name) != (found := tensor_checksum(name, value)):
            raise DataError(
                f"{self.path}: damaged: {name!r} has the checksum {found}, and the header says "
                f"{reprlib.repr(self.sums.get(name))}. {CURE}"
            )
        try:
            return find_input(self.what).read(value)
        except UsageError as error:
            raise DataError(f"{self.path}: {name}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"file": None}  # each process opens the file for itself

    def _opened(self) -> Any:
        if self.file is None:
            from safetensors import safe_open

            if not self.path.is_file():
                raise DataError(f"{self.path}: not found; expected a file of {self.what}")
            try:
                self.file = safe_open(self.path, framework="pt")
            except Exception as error:  # SafetensorError, and whatever else a damaged header leads to
                raise DataError(f"{self.path}: not a safetensors file, or damaged ({reason_of(error)})") from None
        return self.file


class ImageFolder:
    """The images in a folder, by their files' names without endings."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.files = images_in(self.path)
        self.names = frozenset(self.files)

    def __getitem__(self, name: str) -> Tensor:
        """The image ``name``, uint8 [3,H,W]."""
        return read_image(self.path / self.files[name])


def open_input(name: str, path: str | Path) -> InputFile:
    """The values of the input ``name`` in a file or, of images, a folder.

    Raises:
        UsageError: there is no such input. DataError: it can't be read.
    """
    find_input(name)
    return ImageFolder(path) if Path(path).expanduser().is_dir() else TensorFile(path, name)


def with_inputs(data: DataSet, files: Mapping[str, str | Path]) -> DataSet:
    """The same data set, its samples with further inputs by name, each from a file.

    Raises:
        DataError: a file can't be read, or lacks an image; names the first.
    """
    if not files:
        return data
    changed = copy.copy(data)
    opened_files = dict(data.inputs)
    for name, path in files.items():
        opened = open_input(name, path)
        missing = [image for index in range(len(data)) if (image := data.image_id(index)) not in opened.names]
        if missing:
            raise DataError(
                f"{path}: has no {name} for {len(missing)} of the {len(data)} images of {data.source}, the first "
                f"{missing[0]!r}"
            )
        opened_files[name] = opened
    changed.inputs = opened_files
    return changed


def names_in(file: InputFile, what: str, images: Sequence[str | Path]) -> list[str]:
    """Under which of its names ``file`` has the value of each of ``images``, which are files.

    An image's name is the end of its path, with or without its ending: that of ``photos/a/b.jpg`` is ``photos/a/b``,
    ``a/b`` or ``b``. The longest that is there counts.

    Raises:
        DataError: it has none for an image, or one for two of them.
    """
    found: dict[str, str | Path] = {}
    for image in images:
        parts = Path(image).parts
        ends = [Path(*parts[start:]) for start in range(len(parts))]
        names = [name for end in ends for name in (end.as_posix(), end.with_suffix("").as_posix())]
        name = next((name for name in names if name in file.names), None)
        if name is None:
            some = f", such as {min(file.names)!r}" if file.names else ""
            raise DataError(
                f"{file.path}: has no {what} for {image}; expected them under {names[-1]!r}, or under more of its "
                f"path; there are those of {len(file.names)} images{some}"
            )
        if name in found:
            raise DataError(f"{file.path}: its {what} {name!r} may be those of {found[name]} and of {image}")
        found[name] = image
    return list(found)


def save_tensors_by_image(values: Mapping[str, Tensor], path: str | Path) -> None:
    """Write ``values``, such as proposals [P,4], by the image's name, to the file ``path``, each with a checksum.

    Raises:
        StorageError: it can't be written, as where the disk is full; an older file of that name is as it was.
    """
    write_tensors(path, {name: value.to(torch.float32) for name, value in values.items()}, {}, one_by_one=True)
