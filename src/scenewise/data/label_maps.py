"""LabelMapDataSet: the reader of images and label maps in pairs of files that several formats share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.data.base import DataSet, Examined, Problem
from scenewise.data.folders import counted, images_in, key_of, names_in, ranges
from scenewise.data.instances import near_equal
from scenewise.data.label_colors import (
    Color,
    Meaning,
    StatedColors,
    difference,
    is_colored,
    meaning_of,
    read_numbers,
    shown,
    used,
)
from scenewise.data.names import printable
from scenewise.errors import DataError
from scenewise.fields.semantic import SemanticMask
from scenewise.files.images import LabelPicture, read_label_palette, read_label_picture
from scenewise.types import IGNORE, Sample, Target

UInt8 = npt.NDArray[np.uint8]


class LabelMapDataSet(DataSet):
    """Images and label maps in pairs of files.

    A subclass fills ``pairs``, ``classes`` and ``table``; and, where label maps may be of colours or have palettes,
    ``stated``, and calls :meth:`settle_meaning`.
    """

    fields = frozenset({"semantic"})
    reads_files = True
    image_ending: str | None = None  # what the names of images end with; None: any image suffix
    label_ending: str = ".png"

    pairs: list[tuple[str, str]]  # the image's and the label map's file, below root
    table: UInt8  # [256]: the label of each value in a label map, see value_table
    stated: StatedColors | None = None  # the colours of these values
    meaning: Meaning = "numbers"  # what the pixels of grey and palette files are
    palette: tuple[str, bytes] | None = None  # one that label maps have, and a file that has it
    shown: Mapping[int, tuple[Color, str]] = {}  # the colour of each value that occurs there, and the file
    unfound: Mapping[str, str] = {}  # why a file of pairs is not there, where more is known than that

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

    def label_key(self, name: str) -> str | None:
        """The name, without its ending, of the image that a label map belongs to; None of another kind of file."""
        return key_of(name, self.label_ending)

    def __getitem__(self, index: int) -> Sample:
        """The image and ``{"image_id", "semantic"}``."""
        image = self.read_image(self.image_path(index))
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
        picture = read_label_picture(path)
        if self.meaning == "colors" and self.stated is not None:
            return torch.from_numpy(self.stated.read(picture, str(path)))
        values = read_numbers(picture, self.stated, str(path))
        self._compare_palette(picture, path)
        return torch.from_numpy(values)

    def settle_meaning(self) -> None:
        """Decide what the pixels of all label maps mean, from some of them.

        Raises:
            DataError: palettes contradict each other.
        """
        places = [self.label_path(index) for index in range(0, len(self), -(-len(self) // PROBED))]
        palettes = [(path, palette) for path in places if (palette := _palette(path)) is not None]
        colored = [(path, palette) for path, palette in palettes if is_colored(palette)]
        if self.stated is not None and not self._follow_stated([palette for _, palette in palettes]):
            pictures = [picture for path in places if (picture := _picture(path)) is not None]
            self.meaning = meaning_of(pictures, self.stated, self.table != INVALID)
            if self.meaning == "colors":
                message = f"the label maps are read by the colours of {self.stated.where}, not by their numbers"
                self.notes = (*self.notes, Problem(str(self.root), message, "suspicion"))
                return
        if not colored:
            pictures = [picture for path in places[:LOOKED_AT] if (picture := _picture(path)) is not None]
            numbers = {number for picture in pictures if picture.pixels.ndim == 2 for number in used(picture)}
            if (
                numbers
                and numbers <= {0, 255}
                and 255 in numbers
                and len(self.classes) > 1
                and self.table[255] == IGNORE
            ):
                self.notes = (*self.notes, saved_as_masks(self.root, len(self.classes)))
            return
        self.palette = (str(colored[0][0]), colored[0][1])
        for path, palette in colored:
            if palette != self.palette[1] and (picture := _picture(path)) is not None:
                self._compare_palette(picture, path)
                found = {number: (color, str(path)) for number, color in shown(picture).items()}
                self.shown = {**found, **self.shown}

    def _follow_stated(self, palettes: Sequence[bytes]) -> bool:
        """Whether all palettes show all classes in the stated colours: numbers and colours then say the same."""
        assert self.stated is not None
        wanted = {number: color for color, number in self.stated.numbers.items()}
        return bool(palettes) and all(
            palette and all(tuple(palette[3 * number : 3 * number + 3]) == color for number, color in wanted.items())
            for palette in palettes
        )

    def _compare_palette(self, picture: LabelPicture, path: Path) -> None:
        """Raise a :class:`DataError` where a value is shown in another colour than in other label maps."""
        if self.palette is None or picture.palette == self.palette[1] or not is_colored(picture.palette):
            return
        first, _ = self.palette
        if not self.shown and (reference := _picture(Path(first))) is not None:
            self.shown = {number: (color, first) for number, color in shown(reference).items()}
        if error := difference(picture, str(path), self.shown):
            raise error

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
        count = len(self.classes)
        from_1 = kinds == [count] and not (values == 0).any() and self.class_ids == tuple(range(count))
        hint = ". Are labels counted from 1? Then take 1 from each" if from_1 else ""
        return DataError(f"{path}: {found}; expected {describe_table(self.table)}{hint}")

    def examine(self, index: int) -> Examined:
        """Record ``index`` with all that is wrong with its two files."""
        files = [str(self.label_path(index)), str(self.image_path(index))]
        problems: list[Problem] = []
        image = values = sample = counts = None
        try:
            image = self.read_image(files[1])
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
                    message = self.unfound.get(file, f"not found; expected {what}")
                    yield Problem(str(self.root / printable(file)), message)

    def strays(self) -> Iterator[Problem]:
        """Label maps without an image, and images listed twice."""
        yield from dict.fromkeys((*self.notes, *self.suspicions()))
        seen: set[str] = set()
        for image, _ in self.pairs:
            if image in seen:
                yield Problem(str(self.root / image), f"is more than once in split {self.split!r}", "suspicion")
            seen.add(image)
        folders: dict[tuple[str, str], bool] = {}  # those of images and labels -> whether all pairs there share a name
        for image, label in self.pairs:
            (images, image_name), (labels, label_name) = os.path.split(image), os.path.split(label)
            same = key_of(image_name, self.image_ending) == self.label_key(label_name)
            folders[images, labels] = folders.get((images, labels), True) and same
        for (images, labels), same in folders.items():
            if same:
                yield from self._unmatched(self.root / images, self.root / labels)

    def suspicions(self) -> Iterator[Problem]:
        """Classes of one's own whose names are nearly equal."""
        for first, second, why in near_equal(self.classes if "classes" in vars(self) else ()):
            message = f"classes {first!r} and {second!r} {why}. Are they one class? Then give both the same number"
            yield Problem(str(self.root), message, "suspicion")

    def _unmatched(self, images: Path, labels: Path) -> Iterator[Problem]:
        """The label maps in one folder that have no image of the same name in another."""
        try:
            known = images_in(images, self.image_ending)
        except DataError as error:
            yield Problem.of(error)
            return
        for name in sorted(name for name in names_in(labels) if not name.startswith(".")):
            if (key := self.label_key(name)) is not None and key not in known:
                yield Problem(str(labels / name), f"a label map without its image in {images}")


def _picture(path: Path) -> LabelPicture | None:
    """A label map; None where it can't be read, which is told when it is needed."""
    try:
        return read_label_picture(path)
    except DataError:
        return None


def _palette(path: Path) -> bytes | None:
    """The palette of a label map, as for :func:`_picture`."""
    try:
        return read_label_palette(path)
    except DataError:
        return None


def saved_as_masks(root: Path, classes: int) -> Problem:
    """The suspicion that label maps are masks of 0 and 255."""
    return Problem(
        str(root),
        f"label maps hold only the values 0 and 255, of which 255 is ignored; expected indices 0 to {classes - 1} of "
        f"the {classes} classes. Were masks saved as 0 and 255? Then save 1 in place of 255, or state colors in "
        "classes.json",
        "suspicion",
    )


LOOKED_AT = 8  # label maps that are looked at for masks of 0 and 255
PROBED = 64  # label maps that tell what those of a data set mean
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
