"""Images and text files of boxes, polygons or keypoints: ``yolo:PATH``.

``PATH`` is a folder, or the YAML file that describes it:

    PATH/data.yaml                names: [cat, dog], or {0: cat, 1: dog}; train, val, test: see below. Any name will do
    PATH/classes.txt              instead of it: a class name per line
    PATH/images/SPLIT/NAME.jpg    or PATH/SPLIT/images/NAME.jpg
    PATH/labels/SPLIT/NAME.txt    or PATH/SPLIT/labels/NAME.txt: one object per line; no file: an image without objects

* ``train``, ``val`` (or ``valid``) and ``test`` are a folder of images with its sub-folders, a text file with an image
  file per line, or a list of these. They are looked for below the data set's own folder first (that of the YAML file,
  then its ``path``), with ``../`` left out, and then exactly where they say. A list's lines are relative to the list,
  to ``path`` or to the folder.
* Where the YAML file states no split, all sub-folders of ``images`` and all folders with a folder ``images`` are one;
  where there are none, the images in ``images``, or beside their text files in ``PATH`` (as LabelImg saves them), are
  ``train``.
* Darknet's ``obj.data`` with ``obj.names`` and lists such as ``train.txt`` is read, too, from the folder or as
  ``PATH`` itself.
* The last folder ``images`` in an image's path becomes ``labels`` in that of its text file; where there is no such
  folder, the text file is beside the image.

A line is one of

    class cx cy width height                  a box, all but the class in parts of the image's width and height
    class x1 y1 x2 y2 x3 y3 ...               a polygon: the box is the one around it, and samples have masks, too
    class cx cy width height x y x y ...      a box and P keypoints, where ``kpt_shape: [P, 2]`` is in the YAML file;
                                              x y visibility each with ``kpt_shape: [P, 3]``

``flip_idx`` in the YAML file states which keypoints change places in a mirrored image. Which of the three it is holds
for the whole data set: a line of another kind is a bad record. ``task: detect``, ``segment`` or ``pose`` in the YAML
file decides where lines may be either. Oriented boxes are not read. The number of a class is its place in the list of
names, from 0.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scenewise.data.base import OnBadRecord, Problem
from scenewise.data.folders import ranges
from scenewise.data.instances import Fault, Float32, Float64, InstanceDataSet, Int64, Names, Records
from scenewise.data.readers.yolo_layout import Labels, Layout, expected_labels, near_folder, sign, without_image
from scenewise.data.readers.yolo_lines import (
    Dialect,
    class_number,
    dialect_of,
    lines_of,
    parse_line,
    points_of,
    skeleton_of,
    some_lines,
    stated_dialect,
)
from scenewise.errors import DataError
from scenewise.ops.polygons import polygons_to_runs
from scenewise.ops.runs import Runs

SLACK = 1e-3  # parts of an image by which a box may leave it: tools round to a few digits
SAMPLED = 64  # text files of each split that decide what kind of labels the data set has ...
SAMPLED_LINES = 10  # ... and lines of each


@dataclass
class _Found:
    """The lines of the text files of a split, in its order."""

    image: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    outlines: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # of the numbers of each line's polygon
    points: list[list[tuple[float, float, float]]] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)  # of classes, as they are written


class Yolo(InstanceDataSet):
    """Boxes, polygons, or boxes with keypoints, from text files.

    ``boxes`` of the table are in parts of the image; samples have them in pixels.

    Args:
        root: the folder, or the YAML file or ``obj.data`` that describes it.
        split: such as ``train``; ``val``, ``valid`` and ``validation`` are one.
        needs: the target fields that are wanted; bad polygons are no fault where only boxes are.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
    """

    format = "yolo"
    fields = frozenset({"boxes", "labels", "ignore", "masks", "keypoints", "visibility"})
    takes_file = True
    _starts: Int64  # [A], where each object's polygon begins in _outlines
    _counts: Int64  # [A], and how many numbers it has
    _overhang = SLACK
    _unit = ""
    _used: set[int]  # the numbers of classes in all lines, of classes that are not known among them
    _like_corners = False  # whether all lines would do as corners in place of centres and sizes

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        needs: frozenset[str] = frozenset(),
        on_bad_record: OnBadRecord = "error",
    ) -> None:
        self.root, self._policy = root, on_bad_record
        layout = Layout.of(root)
        self.classes = layout.classes
        self.class_ids = tuple(range(len(self.classes)))
        self.split = layout.find_split(root, split)
        images = layout.images(self.split)
        for file, message in images.problems:
            self._leave_out(file, message)
        if not images.files:
            raise DataError("{}: {}".format(*images.problems[0]))
        labels = Labels(layout.root)
        texts = [labels.of(image) for image in images.files]
        self._dialect = stated_dialect(layout) or self._decide(layout, labels)
        self.fields = _fields(self._dialect)
        if self._dialect.kind == "pose":
            self.skeleton = skeleton_of(layout, self._dialect.points)
        self._set_places(layout, labels, images.files)
        self._same = tuple(
            name for name, other in layout.same.items() if other == self.split and name in layout.content
        )
        self._read(images.files, texts, needs)

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The splits that are stated, and those whose images are there."""
        return tuple(Layout.of(root).splits)

    @classmethod
    def sign(cls, path: Path) -> str:
        """A YAML file with names, obj.data, or text files of numbers that belong to images."""
        return sign(path)

    @staticmethod
    def _decide(layout: Layout, labels: Labels) -> Dialect:
        """The kind of labels that the data set has, by lines of all its splits."""
        lines = []
        for split in layout.splits:
            try:
                images = layout.images(split).files
            except DataError:  # is found when that split is opened
                continue
            read = 0
            for image in images[:: max(1, len(images) // SAMPLED)]:
                text = labels.of(image)
                if text is not None and read < SAMPLED:
                    found = [*some_lines(image, text, SAMPLED_LINES)]
                    lines += found
                    read += bool(found)
        return dialect_of(lines, str(layout.file or layout.root / "data.yaml"))

    def _set_places(self, layout: Layout, labels: Labels, images: list[Path]) -> None:
        """Note the folders of images and labels, and those without any."""
        used = dict.fromkeys(image.parent for image in images)
        self._folders = [(str(folder), str(labels.folders[folder])) for folder in used if labels.folders[folder]]
        self._bare: list[tuple[str, str]] = []  # folders of images without labels, and what was looked for
        for folder in used:
            if labels.folders[folder] is None:
                expected = expected_labels(folder, layout.root)
                self._bare.append((str(folder), str(expected)))

    def _read(self, images: list[Path], texts: list[Path | None], needs: frozenset[str]) -> None:
        """Fill the tables from the text files."""
        found = _Found()
        kept: list[int] = []
        for index, text in enumerate(texts):
            try:
                lines = [] if text is None else [*lines_of(text)]
            except DataError as error:
                self._leave_out(str(text), str(error).removeprefix(f"{text}: "))
                if self._policy != "error":
                    continue
                lines = []
            self._add(found, len(kept), lines)
            kept.append(index)
        folder = Path(os.path.commonpath([image.parent for image in images]))
        names = [images[index].relative_to(folder).as_posix() for index in kept]
        self._texts = Names(str(texts[index] or "") for index in kept)
        place = self._set_images(folder, names, np.zeros((len(names), 2), np.int32), self._policy)
        self._used = {number for word in found.numbers if (number := class_number(word)) is not None}
        self._set_objects(self._records(found, place), needs)

    def _add(self, found: _Found, index: int, lines: list[tuple[int, list[str]]]) -> None:
        """Take the lines of the text file of image ``index``."""
        dialect = self._dialect
        found.numbers.update(words[0] for _, words in lines)
        nowhere = [(0.0, 0.0, 0.0)] * dialect.points
        for number, words in lines:
            label, values, fault = parse_line(words, len(self.classes), dialect)
            if fault is not None:
                found.faults[len(found.image)] = fault
            is_polygon = dialect.kind != "pose" and len(values) > 4
            found.image.append(index)
            found.lines.append(number)
            found.labels.append(label)
            found.boxes.append(_box_of(values, is_polygon))
            found.counts.append(len(values) if is_polygon else 0)
            found.outlines.extend(values if is_polygon else ())
            if dialect.kind == "pose":
                found.points.append(points_of(values[4:], dialect) if len(values) > 4 else nowhere)

    def _records(self, found: _Found, place: Int64) -> Records:
        source = np.array(found.image, np.int64)
        table = np.array(found.boxes, np.float64).reshape(-1, 4)
        labels = np.array(found.labels, np.int32)
        records = Records(place[source], table, labels, np.zeros(len(source), np.bool_), faults=found.faults)
        counts = np.array(found.counts, np.int64)
        self._outlines = np.array(found.outlines, np.float64)
        records.columns = {
            "_starts": np.cumsum(counts) - counts,
            "_counts": counts,
            "_lines": np.array(found.lines, np.int64),
            "_source": source,
        }
        if self._dialect.kind == "pose":
            with np.errstate(over="ignore"):
                points = np.array(found.points, np.float64).reshape(-1, self._dialect.points, 3).astype(np.float32)
            records.columns["_points"] = points
        return records

    def _bounds(self, records: Records) -> Float64:
        return np.ones((len(records.boxes), 2))

    def _file_of(self, records: Records, row: int) -> Path:
        return Path(self._texts[int(records.columns["_source"][row])])

    def _record_name(self, records: Records, row: int) -> str:
        return f"line {int(records.columns['_lines'][row])}"

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        number = int(records.columns["_lines"][row])
        words = next((words for place, words in lines_of(self._file_of(records, row)) if place == number), [])
        return reprlib.repr(" ".join(words)), self._dialect.form

    # ---- what is wrong

    def unlabelled(self, needs: frozenset[str] = frozenset()) -> str:
        """That a folder of images has no labels, there is no object, or most were left out."""
        if self._bare and len(self.labels):
            images, labels = self._bare[0]
            expected = f"expected {labels}" if labels != images else "expected NAME.txt beside each NAME.jpg"
            return (
                f"no text file belongs to the images in {images}; {expected}{near_folder(Path(labels), of_labels=True)}"
            )
        return super().unlabelled(needs)

    def _label_hint(self) -> str:
        if not self._bare:
            folders = [labels for _, labels in self._folders]
            return f"; labels are expected in {', '.join(folders[:3])}{' and more' if len(folders) > 3 else ''}"
        images, labels = self._bare[0]
        if labels == images:
            return f"; expected NAME.txt beside each NAME.jpg in {images}, or folders images and labels"
        hint = near_folder(Path(labels), of_labels=True)
        return f"; {labels} has no text files: expected the labels of {images} there{hint}"

    def suspicions(self) -> Iterator[Problem]:
        """Likely mistakes that all records together show, and labels without an image."""
        yield from self._counted_from_1()
        yield from super().suspicions()
        if self._many_outside:
            message = "many boxes leave their image; expected parts of its width and height, 0 to 1. Are these pixels?"
            if self._like_corners:
                message = (
                    "many boxes leave their image; are the four numbers x1, y1, x2, y2? Expected the centre's x and y, "
                    "width, height: then write (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1"
                )
            yield Problem(str(self.root), message, "suspicion")
        for name in self._same:
            message = f"splits {self.split} and {name} are the same images; what is measured on those says nothing"
            yield Problem(str(self.root), message, "suspicion")
        for images, labels in dict.fromkeys(self._folders):
            for name in without_image(Path(images), Path(labels)):
                yield Problem(str(Path(labels) / name), f"a file of labels without its image in {images}")

    def _counted_from_1(self) -> Iterator[Problem]:
        """That no line of any split has class 0, while there are lines of all other classes, or of one more."""
        count = len(self.classes)
        if not self._used or 0 in self._used or not {*range(1, count)} <= self._used:
            return
        beyond = count in self._used
        if not beyond and (count == 1 or self._has_zero_elsewhere()):
            return
        first = repr(self.classes[0])
        background = "" if beyond else f". Is {first} the background? Then leave it out of the names, too"
        message = (
            f"lines have class {ranges(range(1, count + beyond))}, and none has 0 ({first}); expected "
            f"{ranges(range(count))}, the place of each name in the list. Are classes counted from 1? Then take 1 from "
            f"the first number of each line{background}"
        )
        yield Problem(str(self.root), message, "suspicion")

    def _has_zero_elsewhere(self) -> bool:
        """Whether another split has a line of class 0."""
        layout = Layout.of(self.root)
        labels = Labels(layout.root)
        for split in layout.splits:
            with suppress(DataError):  # is found when that split is opened
                for image in layout.images(split).files if split != self.split else ():
                    text = labels.of(image)
                    if text is not None and any(class_number(words[0]) == 0 for _, words in lines_of(text)):
                        return True
        return False

    def _box_faults(self, records: Records) -> Iterator[tuple[int, Fault]]:
        """As for all readers; afterwards it is known whether all lines would do as corners, in parts of the image."""
        yield from super()._box_faults(records)
        corners = records.boxes.reshape(-1, 2, 2)
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are no places are faults already
            sides, centers = np.diff(corners, axis=1)[:, 0], corners.mean(1)
        self._like_corners = len(sides) > 0 and bool(((sides > centers) & (sides <= 1 + 1e-6)).all())

    # ---- samples

    def _boxes(self, rows: Int64, size: tuple[int, int]) -> Float64:
        return self.boxes[rows] * (size[1], size[0], size[1], size[0])

    def _masks(self, rows: Int64, size: tuple[int, int]) -> Runs:
        masks = []
        for row in rows.tolist():
            where = f"{self.root}: a polygon of class {self.classes[int(self.labels[row])]}"
            masks.append(polygons_to_runs(self._polygons(row, size), size, where=where))
        return Runs.of(masks, size)

    def outlines(self, index: int, size: tuple[int, int]) -> list[list[Float64] | None]:
        """The polygon of each object."""
        return [self._polygons(row, size) or None for row in self.rows(index).tolist()]

    def _polygons(self, row: int, size: tuple[int, int]) -> list[Float64]:
        start = int(self._starts[row])
        outline = self._outlines[start : start + int(self._counts[row])].reshape(-1, 2)
        return [(outline * (size[1], size[0])).ravel()] if len(outline) else []

    def _keypoints(self, rows: Int64, size: tuple[int, int]) -> Float32:
        assert self._points is not None
        return self._points[rows] * np.array((size[1], size[0], 1), np.float32)


def _fields(dialect: Dialect) -> frozenset[str]:
    """The target fields of samples of that kind."""
    more = {"detect": (), "segment": ("masks",), "pose": ("keypoints", "visibility")}[dialect.kind]
    return frozenset({"boxes", "labels", "ignore", *more})


def _box_of(values: list[float], is_polygon: bool) -> list[float]:
    """x1, y1, x2, y2 of cx, cy, width, height or of a polygon; NaN where there is neither."""
    if not values:
        return [np.nan] * 4
    if is_polygon:
        xs, ys = values[::2], values[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]
    x, y, width, height = values[:4]
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
