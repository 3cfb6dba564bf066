"""DataSet: what every reader gives."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from scenewise.errors import DataError, UsageError, suggest
from scenewise.fields.table import find_input, with_companions
from scenewise.files.images import read_bands, read_image
from scenewise.types import InputSpec, Sample, Skeleton

UNIONS = frozenset({"trainval", "all"})  # the names of splits that hold the images of others by design

SPLITS = ("train", "val", "valid", "validation", "test")  # usual names
VALIDATION = frozenset({"val", "valid", "validation"})  # names of one and the same split

RGB: tuple[int, Literal[8, 16]] = (3, 8)  # the usual form of images

OnBadRecord = Literal["error", "skip", "fix"]


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set: which file (and record of it), and a sentence with what was found and expected.

    An ``error`` makes the record unusable as it is; a ``suspicion`` is a likely mistake that only the user can judge.
    """

    file: str
    message: str
    severity: Literal["error", "suspicion"] = "error"

    def __str__(self) -> str:
        mark = "" if self.severity == "error" else "suspicious: "
        return f"{self.file}: {mark}{self.message}"

    @classmethod
    def of(cls, error: DataError, files: Sequence[str] = ()) -> Problem:
        """The problem that ``error`` describes; ``files`` are those that its message may start with."""
        text = str(error)
        for file in files:
            if text.startswith(f"{file}: "):
                return cls(file, text[len(file) + 2 :])
        file, _, message = text.partition(": ")
        return cls(file, message) if message else cls(next(iter(files), ""), text)


@dataclass
class Examined:
    """One record of a data set with its problems: see :meth:`DataSet.examine`."""

    sample: Sample | None  # None where an error makes the record unusable
    problems: list[Problem]
    values: npt.NDArray[np.int64] | None = None  # [256]: how many pixels of the label map's file have each value


class DataSet(torch.utils.data.Dataset[Sample], ABC):
    """The samples of one split of a data set.

    Data sets are sent to loader processes, so they hold names and tables, never pixels or open files.

    Attributes:
        source: the ``format:path`` string that opens it.
        split: which part of it.
        classes: names, in label order.
        colors: an RGB colour for each class, or None where the format has none.
        fields: the target fields that its samples have.
        needs_folder: whether the path in ``format:path`` must exist; where not, it is up to the reader what it means.
        takes_file: whether the path may be a file.
        faults: the bad records that were found at opening; they are in no sample. :func:`open_data` raises the first.
        repairs: the bad records that were left out or mended because ``on_bad_record`` says so.
        notes: what was decided at opening, or looks wrong as a whole, and should be known before training starts.
        inputs: files of what systems take beside the images, by name, which :meth:`sample` adds.
        skeleton: of the keypoints, where it is known.
        image_form: the channels and the bits of images; RGB of 8 bits unless :meth:`seen_as` says otherwise.
        reads_files: whether images are files, which may be read in another form.
        benchmarks: names of metrics by which the set is measured besides the usual ones.
    """

    format: ClassVar[str] = ""  # empty for the user's own, which no string opens
    fields: frozenset[str]
    needs_folder: ClassVar[bool] = True
    takes_file: ClassVar[bool] = False

    faults: tuple[Problem, ...] = ()
    repairs: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    inputs: Mapping[str, Any] = {}
    skeleton: Skeleton | None = None
    image_form: tuple[int, Literal[8, 16]] = RGB
    reads_files: ClassVar[bool] = False
    benchmarks: ClassVar[tuple[str, ...]] = ()

    root: Path
    split: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] | None = None

    @classmethod
    def sign(cls, path: Path) -> str:
        """What marks ``path``, a folder or a file, as a data set of this format, such as ``data.yaml with names``.

        Empty where nothing does. It only lists folders and reads small files, and raises nothing.
        """
        return ""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether ``root`` is for this reader, where a format has several."""
        return True

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The splits that are there, those with labels only. Without a word from the format: train, val and test."""
        return ("train", "val", "test")

    def only(self, fields: frozenset[str]) -> DataSet:
        """The same data set, its samples with these target fields only; what nobody needs is not read.

        ``image_id`` stays always; ``ignore``, ``area`` and ``visibility`` stay with the fields that they say more of.
        """
        lean = copy.copy(self)
        lean.fields = self.fields & with_companions(fields)
        return lean

    def seen_as(self, spec: InputSpec) -> DataSet:
        """The same data set, its images with the channels and the bits of a model's input.

        Raises:
            UsageError: they are not read from files, and are RGB of 8 bits always.
        """
        form = (spec.channels, spec.bits)
        if form == self.image_form or not self.format:  # a person's own data set has what its model takes
            return self
        if not self.reads_files:
            raise UsageError(
                f"{self.source}: its images are RGB of 8 bits, and the model's input has channels={spec.channels} and "
                f"bits={spec.bits}"
            )
        changed = copy.copy(self)
        changed.image_form = form
        return changed

    def read_image(self, path: str | Path) -> torch.Tensor:
        """The image in a file, in the form that is wanted."""
        return read_image(path) if self.image_form == RGB else read_bands(path, *self.image_form)

    @property
    def source(self) -> str:
        """The ``format:path`` string that opens this data set."""
        return f"{self.format}:{self.root}" if self.format else f"{type(self).__module__}:{type(self).__qualname__}"

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The image (``tv_tensors.Image``, uint8 [3,H,W]) and its target.

        Raises:
            DataError: the record is bad; names the file, what was found and what is expected.
        """

    def sample(self, index: int) -> Sample:
        """The image and its target as :meth:`__getitem__` returns them, with its further inputs where there are any."""
        image, target = self[index]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        for name, values in self.inputs.items():
            target[name] = find_input(name).as_target(values[self.image_id(index)], size)  # type: ignore[literal-required]
        return image, target

    @abstractmethod
    def image_id(self, index: int) -> str:
        """The name of image ``index`` within the data set."""

    def unlabelled(self, needs: frozenset[str] = frozenset()) -> str:
        """Why training on this split, or measuring by it, would be for nothing: what of it is not labelled.

        Args:
            needs: the target fields that are wanted; empty: all.

        Returns:
            What was found and the cure, to follow the name of the data set; empty where there are labels.
        """
        return ""

    def missing(self) -> Iterator[Problem]:
        """The files of this split that are not there. Only lists folders, so it can run at each start of training."""
        return iter(())

    def strays(self) -> Iterator[Problem]:
        """Files and entries beside this split's records that should not be, such as label maps without an image."""
        return iter(())

    def suspicions(self) -> Iterator[Problem]:
        """Likely mistakes that all records together show; they tell, too, why records are bad."""
        return iter(())

    def examine(self, index: int) -> Examined:
        """Record ``index`` with all that is wrong with it, where ``self[index]`` raises the first error."""
        try:
            return Examined(self[index], [])
        except DataError as error:
            return Examined(None, [Problem.of(error)])

    def problems(self) -> Iterator[Problem]:
        """All that is wrong with the data set, file by file; nothing where it is sound. Reads every file."""
        yield from self.strays()
        for index in range(len(self)):
            yield from self.examine(index).problems


def no_split(root: Path, split: str, splits: Sequence[str], expected: str) -> DataError:
    """The error that ``root`` has no split of that name; ``expected`` says what would make one."""
    there = f"splits here: {', '.join(splits)}" if splits else "no split is here"
    return DataError(f"{root}: there is no split {split!r}{suggest(split, splits)}; {there}; expected {expected}")


def find_split(root: Path, split: str, splits: Sequence[str], expected: str) -> str:
    """Which of ``splits`` is meant by ``split``: itself, or the only one of ``val``, ``valid`` and ``validation``.

    Raises:
        DataError: none is; ``expected`` says what would make one.
    """
    near = [name for name in splits if name == split] or [name for name in splits if {name, split} <= VALIDATION]
    if len(near) != 1:
        raise no_split(root, split, splits, expected)
    return near[0]
