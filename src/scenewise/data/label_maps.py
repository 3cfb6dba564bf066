"""LabelMapDataSet: the reader of images and label maps in pairs of files that several formats share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.data.base import DataSet, Examined, Problem
from scenewise.data.folders import counted, images_in, key_of, names_in, ranges
from scenewise.errors import DataError
from scenewise.fields.semantic import SemanticMask
from scenewise.files.images import read_image, read_label_map
from scenewise.types import IGNORE, Sample, Target

UInt8 = npt.NDArray[np.uint8]


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
