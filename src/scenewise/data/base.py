"""DataSet: what every reader gives, and the reader of image and label-map pairs that several formats share."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.errors import DataError, suggest
from scenewise.fields.semantic import SemanticMask
from scenewise.fields.table import find_input, with_companions
from scenewise.files.images import IMAGE_SUFFIXES, read_image, read_label_map
from scenewise.files.text import read_text
from scenewise.types import IGNORE, Sample, Skeleton, Target

UInt8 = npt.NDArray[np.uint8]

UNIONS = frozenset({"trainval", "all"})  # the names of splits that hold the images of others by design

SPLITS = ("train", "val", "valid", "validation", "test")  # usual names
VALIDATION = frozenset({"val", "valid", "validation"})  # names of one and the same split

OnBadRecord = Literal["error", "skip", "fix"]


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set: which file (and record of it), and a sentence with what was found and expected.

    An ``error`` makes the record unusable as it is; a ``suspicion`` is a likely mistake that only a person can judge.
    """

    file: str
    message: str
    severity: Literal["error", "suspicion"] = "error"

    def __str__(self) -> str:
        mark = "" if self.severity == "error" else "suspicious: "
        return f"{self.file}: {mark}{self.message}"

    @classmethod
    def of(cls, error: DataError, files: Sequence[str] = ()) -> Problem:
        """The problem that ``error`` tells of; ``files`` are those that its message may start with."""
        text = str(error)
        for file in files:
            if text.startswith(f"{file}: "):
                return cls(file, text[len(file) + 2 :])
        file, _, message = text.partition(": ")
        return cls(file, message) if message else cls(next(iter(files), ""), text)


@dataclass
class Examined:
    """One record of a data set, looked at closely: see :meth:`DataSet.examine`."""

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
        benchmarks: names of metrics by which the set is measured besides the usual ones.
    """

    format: ClassVar[str]
    fields: frozenset[str]
    needs_folder: ClassVar[bool] = True
    takes_file: ClassVar[bool] = False

    faults: tuple[Problem, ...] = ()
    repairs: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    inputs: Mapping[str, Any] = {}
    skeleton: Skeleton | None = None
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

    @property
    def source(self) -> str:
        """The ``format:path`` string that opens this data set."""
        return f"{self.format}:{self.root}"

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


class LabelMapDataSet(DataSet):
    """Images and label maps in pairs of files.

    A subclass fills ``pairs``, ``classes`` and ``table``.
    """

    fields = frozenset({"semantic"})
    image_ending: str | None = None  # what the names of images end with; None: any image suffix
    label_ending: str = ".png"

    pairs: list[tuple[str, str]]  # the image's and the label map's file, below root
    table: UInt8  # [256]: the label of each value in a label map, see value_table

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The number that stands for each class in the format's own files."""
        return tuple(int(np.flatnonzero(self.table == label)[0]) for label in range(len(self.classes)))

    def image_path(self, index: int) -> Path:
        """The file of image ``index``."""
        return self.root / self.pairs[index][0]

    def label_path(self, index: int) -> Path:
        """The file of the label map of image ``index``."""
        return self.root / self.pairs[index][1]

    def image_id(self, index: int) -> str:
        """The image file's name without its ending."""
        name = Path(self.pairs[index][0]).name
        return key_of(name, self.image_ending) or name

    def __getitem__(self, index: int) -> Sample:
        """The image and ``{"image_id", "semantic"}``."""
        image = read_image(self.image_path(index))
        if "semantic" not in self.fields:
            return tv_tensors.Image(image), {"image_id": self.image_id(index)}
        return self._sample(index, image, self._values(index))

    def unlabelled(self, needs: frozenset[str] = frozenset()) -> str:
        """That each pixel of all label maps is to be ignored. Reads them up to the first one with a class."""
        if not len(self) or (needs and "semantic" not in needs):
            return ""
        for index in range(len(self)):
            try:
                if (self.table[np.unique(self._values(index).numpy())] != IGNORE).any():
                    return ""
            except DataError:  # is found when it is read
                return ""
        return (
            f"no pixel of its {counted(len(self), 'label map')} has a class, so that nothing can be learned or "
            f"measured; expected {describe_table(self.table)}"
        )

    def _values(self, index: int) -> Tensor:
        path = self.label_path(index)
        if not path.is_file():
            raise DataError(f"{path}: not found; expected the label map of {self.image_path(index)}")
        return read_label_map(path)

    def _sample(self, index: int, image: Tensor, values: Tensor) -> Sample:
        """The sample of an image [3,H,W] and the values [H,W] in its label map's file, if they fit."""
        label_path = self.label_path(index)
        if values.shape != image.shape[-2:]:
            (height, width), (rows, columns) = image.shape[-2:], values.shape
            hint = ". Was the image turned by its EXIF orientation?" if (rows, columns) == (width, height) else ""
            raise DataError(
                f"{label_path}: the label map is {columns} x {rows} pixels (width x height); "
                f"its image {self.image_path(index).name} is {width} x {height}{hint}"
            )
        found = bytearray(values.numpy()).translate(self.table.tobytes())  # a third of the time of indexing the table
        labels = torch.frombuffer(found, dtype=torch.uint8).view(values.shape)
        if INVALID in found:
            raise self._wrong_label(labels.numpy(), values.numpy(), label_path)
        target: Target = {"image_id": self.image_id(index), "semantic": SemanticMask(labels)}
        return tv_tensors.Image(image), target

    def _wrong_label(self, labels: UInt8, values: UInt8, path: Path) -> DataError:
        """The error that tells of the first of the values that stand for nothing."""
        wrong = labels == INVALID
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        found = f"pixel (row {row}, column {column}) has value {values[row, column]}"
        count, kinds = int(wrong.sum()), np.unique(values[wrong]).tolist()
        if count > 1:
            found += f", and {count - 1:,} more are wrong" + (f", of values {ranges(kinds)}" if len(kinds) > 1 else "")
        return DataError(f"{path}: {found}; expected {describe_table(self.table)}")

    def examine(self, index: int) -> Examined:
        """Record ``index`` with all that is wrong with its two files."""
        files = [str(self.label_path(index)), str(self.image_path(index))]
        problems: list[Problem] = []
        image = values = sample = counts = None
        try:
            image = read_image(files[1])
        except DataError as error:
            problems.append(Problem.of(error, files))
        try:
            values = self._values(index)
            counts = np.bincount(values.numpy().ravel(), minlength=256)
            if image is not None:
                sample = self._sample(index, image, values)
        except DataError as error:
            problems.append(Problem.of(error, files))
        return Examined(sample, problems, counts)

    def missing(self) -> Iterator[Problem]:
        """Images and label maps that are not there."""
        present: dict[str, set[str]] = {}  # listing a folder once is far quicker than asking for each of its files
        for index, (image, label) in enumerate(self.pairs):
            for file, what in ((image, "an image"), (label, f"the label map of {self.image_path(index)}")):
                folder, name = os.path.split(file)
                if folder not in present:
                    present[folder] = names_in(self.root / folder)
                if name not in present[folder]:
                    yield Problem(str(self.root / file), f"not found; expected {what}")

    def strays(self) -> Iterator[Problem]:
        """Label maps without an image, and images listed twice."""
        seen: set[str] = set()
        for image, _ in self.pairs:
            if image in seen:
                yield Problem(str(self.root / image), f"is more than once in split {self.split!r}", "suspicion")
            seen.add(image)
        folders: dict[tuple[str, str], bool] = {}  # those of images and labels -> whether all pairs there share a name
        for image, label in self.pairs:
            (images, image_name), (labels, label_name) = os.path.split(image), os.path.split(label)
            same = key_of(image_name, self.image_ending) == key_of(label_name, self.label_ending)
            folders[images, labels] = folders.get((images, labels), True) and same
        for (images, labels), same in folders.items():
            if same:
                yield from self._unmatched(self.root / images, self.root / labels)

    def _unmatched(self, images: Path, labels: Path) -> Iterator[Problem]:
        """The label maps in one folder that have no image of the same name in another."""
        try:
            known, found = images_in(images, self.image_ending), images_in(labels, self.label_ending)
        except DataError as error:
            yield Problem.of(error)
            return
        for key in sorted(found.keys() - known.keys()):
            yield Problem(str(labels / found[key]), f"a label map without its image in {images}")


INVALID = 254  # in a table: the value stands for nothing
MAX_CLASSES = INVALID  # labels are 0 to 253; 255 is IGNORE


def value_table(labels: Mapping[int, int]) -> UInt8:
    """The table [256] that gives each value in a label map its label; values that ``labels`` lacks are ``INVALID``."""
    table = np.full(256, INVALID, np.uint8)
    for value, label in labels.items():
        table[value] = label
    return table


def describe_table(table: UInt8) -> str:
    """The values that ``table`` knows, in words."""
    classes, ignored = np.flatnonzero(table < INVALID).tolist(), np.flatnonzero(table == IGNORE).tolist()
    count = len(set(table[classes].tolist()))
    words = f"{ranges(classes)} for the {count} classes" if count > 1 else f"{ranges(classes)} for the one class"
    return f"{words}, or {ranges(ignored)} to ignore the pixel" if ignored else words


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
