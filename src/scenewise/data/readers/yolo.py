"""Images and text files of normalised boxes: ``yolo:PATH``.

    PATH/data.yaml                names: [cat, dog], or {0: cat, 1: dog}; train, val, test: folders of images (optional)
    PATH/classes.txt              instead of it: a class name a line
    PATH/images/SPLIT/NAME.jpg    or PATH/SPLIT/images/NAME.jpg
    PATH/labels/SPLIT/NAME.txt    or PATH/SPLIT/labels/NAME.txt: an object a line; no file: an image without objects

A line is ``class cx cy width height``, all but the class in parts of the image's width and height, or
``class x1 y1 x2 y2 x3 y3 ...``, a polygon: then the box is the one around it. Where all lines of a split are polygons,
samples have masks, too. The number of a class is its place in the list of names, from 0.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scenewise.data.base import OnBadRecord, Problem, images_in, names_in, no_split, read_lines
from scenewise.data.instances import Bool, Fault, Float64, InstanceDataSet, Int64, Names, Records
from scenewise.errors import DataError
from scenewise.ops.polygons import polygons_to_mask

SPLITS = ("train", "val", "valid", "test")
SLACK = 1e-3  # parts of an image by which a box may leave it: tools round to a few digits
BOX_FORM = "class cx cy width height, in parts of the image (0 to 1), with width and height > 0"


class Yolo(InstanceDataSet):
    """Boxes, or polygons, from text files.

    ``boxes`` of the table are in parts of the image; samples have them in pixels.

    Args:
        root: the folder.
        split: a sub-folder of images, such as ``train``; ``val`` also finds ``valid``.
        needs: the target fields that are wanted; bad polygons are no fault where only boxes are.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
    """

    format = "yolo"
    fields = frozenset({"boxes", "labels", "ignore", "masks"})
    _starts: Int64  # [A], where each object's polygon begins in _outlines
    _counts: Int64  # [A], and how many numbers it has
    _overhang = SLACK
    _unit = ""

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        needs: frozenset[str] = frozenset(),
        on_bad_record: OnBadRecord = "error",
    ) -> None:
        self.root = root
        described = _described(root)
        self.classes = _classes(root, described)
        self.class_ids = tuple(range(len(self.classes)))
        folders = _split_folders(root, described)
        self.split = "valid" if split == "val" and "val" not in folders and "valid" in folders else split
        if self.split not in folders:
            raise no_split(root, split, self.splits(root), f"a folder images/{split} or {split}/images")
        images = folders[self.split]
        self._labels = _labels_of(images)
        files = images_in(images)
        if not files:
            raise DataError(f"{images}: no image is there; expected files such as NAME.jpg")
        place = self._set_images(images, [*files.values()], np.zeros((len(files), 2), np.int32), on_bad_record)
        self._keys = Names(files)
        self._set_objects(self._records(place), needs)

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The splits whose images are there."""
        return tuple(_split_folders(root, _described(root)))

    def _records(self, place: Int64) -> Records:
        """The lines of all files."""
        there = names_in(self._labels)
        image: list[int] = []
        lines: list[int] = []
        labels: list[int] = []
        boxes: list[list[float]] = []
        outlines: list[float] = []
        counts: list[int] = []  # of the numbers of each line's polygon
        faults: dict[int, Fault] = {}
        for index, key in enumerate(self._keys):
            for number, words in _lines(self._labels / f"{key}.txt") if f"{key}.txt" in there else ():
                label, values, fault = _parse_line(words, len(self.classes))
                if fault:
                    faults[len(image)] = Fault(fault)
                image.append(index)
                lines.append(number)
                labels.append(label)
                boxes.append(_box_of(values))
                counts.append(len(values) if len(values) > 4 else 0)
                outlines.extend(values if len(values) > 4 else ())
        source = np.array(image, np.int64)
        table = np.array(boxes, np.float64).reshape(-1, 4)
        ignore = np.zeros(len(source), np.bool_)
        records = Records(place[source], table, np.array(labels, np.int32), ignore, faults=faults)
        amounts = np.array(counts, np.int64)
        starts = np.cumsum(amounts) - amounts
        if not amounts.all() or not len(amounts):
            self.fields = self.fields - {"masks"}
        self._outlines = np.array(outlines, np.float64)
        records.columns = {
            "_starts": starts,
            "_counts": amounts,
            "_lines": np.array(lines, np.int64),
            "_source": source,
        }
        return records

    def _bounds(self, records: Records) -> Float64:
        return np.ones((len(records.boxes), 2))

    def _file_of(self, records: Records, row: int) -> Path:
        return self._labels / f"{self._keys[int(records.columns['_source'][row])]}.txt"

    def _record_name(self, records: Records, row: int) -> str:
        return f"line {int(records.columns['_lines'][row])}"

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        lines = self._file_of(records, row).read_text(encoding="utf-8-sig").splitlines()
        return reprlib.repr(lines[int(records.columns["_lines"][row]) - 1].strip()), BOX_FORM

    def _suspicions(self) -> Iterator[Problem]:
        yield from super()._suspicions()
        known = set(self._keys)
        for name in sorted(names_in(self._labels)):
            if name.endswith(".txt") and name != "classes.txt" and name[:-4] not in known:
                yield Problem(str(self._labels / name), f"a file of labels without its image in {self._folder}")

    # ---- samples

    def _boxes(self, rows: Int64, size: tuple[int, int]) -> Float64:
        return self.boxes[rows] * (size[1], size[0], size[1], size[0])

    def _masks(self, rows: Int64, size: tuple[int, int]) -> Bool:
        masks = np.zeros((len(rows), *size), np.bool_)
        for mask, row in zip(masks, rows.tolist(), strict=True):
            start = int(self._starts[row])
            outline = self._outlines[start : start + int(self._counts[row])].reshape(-1, 2)
            mask[:] = polygons_to_mask([(outline * (size[1], size[0])).ravel()], size, where=str(self._labels))
        return masks


def _described(root: Path) -> dict[str, Any]:
    """What data.yaml says; empty where there is none."""
    path = root / "data.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {reprlib.repr(content)}; expected entries such as names: [cat, dog]")
    return content


def _classes(root: Path, described: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes, by number."""
    if "names" not in described:
        listing = root / "classes.txt"
        if not listing.is_file():
            raise DataError(f"{root}: neither data.yaml with names nor classes.txt; expected the names of the classes")
        names: Any = read_lines(listing)
        place = str(listing)
    else:
        names, place = described["names"], f"{root / 'data.yaml'}: names"
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{place} is {reprlib.repr(names)}; expected a list of names, or of 0, 1, 2, ... to names")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{place}: {name!r} is there more than once; expected unique names")
    return tuple(names)


def _split_folders(root: Path, described: dict[str, Any]) -> dict[str, Path]:
    """The folder of images of each split."""
    found: dict[str, Path] = {}
    for split in SPLITS:
        stated = described.get(split)
        if isinstance(stated, str):
            # tools write paths as seen from their own folder, so a path that leads nowhere is tried below root, too
            tried = [root / str(described.get("path") or "") / stated, root / stated.lstrip("./"), root / stated]
            folder = next((folder for folder in tried if folder.is_dir()), None)
            if folder is not None:
                found[split] = folder
    inner = sorted(path for path in (root / "images").glob("*") if path.is_dir())
    outer = sorted(path / "images" for path in root.glob("*") if (path / "images").is_dir())
    for folder in (*inner, *outer):
        found.setdefault(folder.name if folder in inner else folder.parent.name, folder)
    if not found and (root / "images").is_dir():
        found["train"] = root / "images"
    return dict(sorted(found.items(), key=lambda item: (_rank(item[0]), item[0])))


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _labels_of(images: Path) -> Path:
    """The folder of labels that belongs to a folder of images: the last ``images`` in its path becomes ``labels``."""
    parts = list(images.parts)
    if "images" not in parts:
        return images
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file of labels that are not empty, as words, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.split()


def _parse_line(words: list[str], classes: int) -> tuple[int, list[float], str]:
    """The label, the numbers after it, and what is wrong ("" where nothing is)."""
    line = reprlib.repr(" ".join(words))
    try:
        number, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return -1, [], f"{line} holds something that is no number; expected {BOX_FORM}"
    if number != int(number) if np.isfinite(number) else True:
        return -1, [], f"{line} begins with {words[0]}; expected the number of a class"
    if not 0 <= number < classes:
        known = f"0 to {classes - 1}" if classes > 1 else "0"
        return -1, [], f"class {words[0]} is unknown; expected {known}, as many as there are names"
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return (
            -1,
            [],
            f"{line} has {len(values)} numbers after the class; expected {BOX_FORM}, or a polygon of 3 points",
        )
    return int(number), values, ""


def _box_of(values: list[float]) -> list[float]:
    """x1, y1, x2, y2 of cx, cy, width, height or of a polygon; NaN where there is neither."""
    if len(values) == 4:
        x, y, width, height = values
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = values[::2], values[1::2]
    return [min(xs), min(ys), max(xs), max(ys)] if values else [np.nan] * 4
