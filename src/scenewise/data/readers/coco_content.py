"""What is in an annotation file of COCO, read piece by piece: numbers in arrays, outlines as their extents only.

The records' faults are found on the way, so that what does not fit a table is named before it is dropped. See
:mod:`scenewise.data.readers.coco` for the format.
"""

from __future__ import annotations

import reprlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scenewise.data.instances import Fault, Float64, Int32, Int64
from scenewise.data.readers.json_stream import JsonStream
from scenewise.errors import DataError
from scenewise.ops import rle

BOX_FORM = "x, y, width, height in pixels, with width and height > 0"
FLUSH = 1 << 20  # numbers of polygons that are kept before their extents are taken
NO_ID = -(2**63)  # in a table: the annotation has no id


@dataclass
class Content:
    """What is in an annotation file, in its order: numbers in arrays, outlines as their extents only.

    Attributes:
        masks, points: whether segmentations and keypoints are wanted.
        lenient: whether polygons of fewer than 3 points are passed over where there are others.
        integers: [6A], id, image_id, category_id, iscrowd, first byte and number of bytes of each annotation.
        floats: [5A], bbox and area; NaN where there is no area.
        extents: [4A], the box around each mask; NaN without one.
        mask_sizes: (height, width) of run-length codes, by row.
        point_values, point_counts: all numbers of keypoints, and how many each annotation has.
        bad_images: what is wrong with entries of images, which are left out.
    """

    path: Path
    masks: bool
    points: bool
    lenient: bool
    names: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    image_sizes: array[int] = field(default_factory=lambda: array("i"))
    bad_images: list[str] = field(default_factory=list)
    bad_image_ids: list[int] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    integers: array[int] = field(default_factory=lambda: array("q"))
    floats: array[float] = field(default_factory=lambda: array("d"))
    extents: array[float] = field(default_factory=lambda: array("d"))
    mask_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    point_values: array[float] = field(default_factory=lambda: array("f"))
    point_counts: array[int] = field(default_factory=lambda: array("i"))
    faults: dict[int, Fault] = field(default_factory=dict)
    mended: dict[int, str] = field(default_factory=dict)

    @property
    def sizes(self) -> Int32:
        """[N,2], (height, width) of the images; 0 where they are not stated."""
        return np.array(self.image_sizes, np.int32).reshape(-1, 2)

    def integers_table(self) -> Int64:
        """[A,6]."""
        return np.frombuffer(self.integers, np.int64).reshape(-1, 6)

    def floats_table(self) -> Float64:
        """[A,5]."""
        return np.frombuffer(self.floats, np.float64).reshape(-1, 5)

    def read(self) -> None:
        """Read the file."""
        seen = set()
        with JsonStream(self.path) as stream:
            for key in stream.members():
                if key in ("images", "annotations", "categories") and not stream.is_array():
                    raise DataError(f"{self.path}: {key} is no list; expected a list of objects")
                if key == "images":
                    self._read_images(stream)
                elif key == "annotations":
                    self._read_annotations(stream)
                elif key == "categories":
                    self.categories.extend(stream.value())
                else:
                    stream.value()
                seen.add(key)
        for key in ("images", "annotations", "categories"):
            if key not in seen:
                raise DataError(f"{self.path}: there is no {key!r}; expected images, annotations and categories")
        if not all(isinstance(category, dict) for category in self.categories):
            raise DataError(f"{self.path}: categories is {reprlib.repr(self.categories)}; expected objects")

    def _read_images(self, stream: JsonStream) -> None:
        known = set(self.image_ids)
        for position, (_, _, entry) in enumerate(stream.elements()):
            fault = _image_fault(entry, known)
            if fault:
                self.bad_images.append(f"images[{position}] {fault}")
                if isinstance(entry, dict) and is_integer(entry.get("id")):
                    self.bad_image_ids.append(entry["id"])
                continue
            known.add(entry["id"])
            self.image_ids.append(entry["id"])
            self.names.append(entry["file_name"])
            self.image_sizes.extend((entry.get("height") or 0, entry.get("width") or 0))

    def _read_annotations(self, stream: JsonStream) -> None:
        outlines = Outlines(self.extents)
        integers, floats = self.integers, self.floats
        row = -1
        for row, (start, length, entry) in enumerate(stream.elements()):
            try:
                x, y, width, height = entry["bbox"]
                floats.extend((x, y, width, height, entry.get("area", np.nan)))
                integers.extend(
                    (entry["id"], entry["image_id"], entry["category_id"], entry.get("iscrowd", 0), start, length)
                )
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
                self.faults[row] = Fault(_annotation_fault(entry))
                del integers[6 * row :], floats[5 * row :]
                number = entry.get("id") if isinstance(entry, dict) else None
                integers.extend(
                    (number if type(number) is int and is_integer(number) else NO_ID, NO_ID, NO_ID, 0, start, length)
                )
                floats.extend((np.nan,) * 5)
                entry = {}
            if self.masks:
                self._read_outline(outlines, row, entry.get("segmentation"))
            if self.points:
                self._read_points(row, entry.get("keypoints") or ())
        if self.masks:
            outlines.flush(row + 1)
            self.mask_sizes = outlines.sizes
            for bad, message in outlines.broken.items():
                self.faults.setdefault(bad, Fault(f"segmentation: {message}", "masks"))

    def _read_outline(self, outlines: Outlines, row: int, code: Any) -> None:
        """Check a segmentation and note its extent."""
        if not code:
            return
        if isinstance(code, dict):
            outlines.add_code(row, code)
            return
        fault, good = _polygon_fault(code)
        if fault and self.lenient and good:
            self.mended[row] = f"segmentation: {fault}; that polygon is left out"
            code = good
        elif fault:
            self.faults.setdefault(row, Fault(f"segmentation: {fault}", "masks"))
            return
        try:
            for polygon in code:
                outlines.add(row, polygon)
        except (TypeError, OverflowError):
            self.faults.setdefault(row, Fault("segmentation: a polygon holds something that is no number", "masks"))

    def _read_points(self, row: int, values: Any) -> None:
        before = len(self.point_values)
        try:
            self.point_values.extend(values)
        except TypeError:
            del self.point_values[before:]
            fault = Fault(f"keypoints is {reprlib.repr(values)}; expected a flat list of numbers", "keypoints")
            self.faults.setdefault(row, fault)
        self.point_counts.append(len(self.point_values) - before)


class Outlines:
    """Takes polygons and run-length codes, and keeps the box around the mask of each row. It works on many at a time,
    which is far quicker, and never touches a code that is not sound."""

    def __init__(self, extents: array[float]) -> None:
        self.extents = extents  # [4A], filled up to the rows that were flushed
        self.sizes: dict[int, tuple[int, int]] = {}  # the (height, width) of each code
        self.broken: dict[int, str] = {}  # what is wrong with the outline of a row
        self._values: array[float] = array("d")
        self._starts: array[int] = array("q")
        self._rows: array[int] = array("q")
        self._codes: dict[int, dict[str, Any]] = {}
        self._letters = 0  # in the texts of all codes

    def add(self, row: int, polygon: Sequence[float]) -> None:
        """Take x1, y1, x2, y2, ...; raises TypeError for what is no number."""
        if len(self._values) > FLUSH and row != self._rows[-1]:
            self.flush(row)
        before = len(self._values)
        try:
            self._values.extend(polygon)
        except TypeError:
            del self._values[before:]
            raise
        self._starts.append(before)
        self._rows.append(row)

    def add_code(self, row: int, code: dict[str, Any]) -> None:
        """Take a run-length code."""
        if self._letters > FLUSH:
            self.flush(row)
        self._codes[row] = code
        self._letters += len(counts) if isinstance(counts := code.get("counts"), (str, list)) else 0

    def flush(self, row: int) -> None:
        """Fill the extents of all rows before ``row``."""
        done = len(self.extents) // 4
        boxes = np.full((row - done, 4), np.nan)
        if len(self._rows):
            points = np.array(self._values, np.float64).reshape(-1, 2)
            starts, rows = np.array(self._starts) // 2, np.array(self._rows)
            heads = np.flatnonzero(np.diff(rows, prepend=-1))  # the first polygon of each row
            low = np.minimum.reduceat(np.minimum.reduceat(points, starts), heads)
            high = np.maximum.reduceat(np.maximum.reduceat(points, starts), heads)
            boxes[rows[heads] - done] = np.concatenate([low, high], 1)
            for bad in rows[heads][~np.isfinite(low + high).all(1)].tolist():
                self.broken[bad] = "a polygon has a number that is not finite"
        if self._codes:
            self._measure_codes(boxes, done)
        self.extents.frombytes(boxes.tobytes())
        del self._values[:], self._starts[:], self._rows[:]
        self._codes, self._letters = {}, 0

    def _measure_codes(self, boxes: Float64, done: int) -> None:
        texts = {row: code["counts"] for row, code in self._codes.items() if _is_text_code(code)}
        rows = np.array([*texts], np.int64)
        if len(rows):
            sizes = np.array([self._codes[row]["size"] for row in texts], np.int64)
            boxes[rows - done] = rle.extents_of_texts([text.encode() for text in texts.values()], sizes)
        for row, code in self._codes.items():
            if np.isfinite(boxes[row - done, 0]):
                self.sizes[row] = (code["size"][0], code["size"][1])
                continue
            try:
                size, counts = rle.parse(code, where="run-length code")
            except DataError as error:
                self.broken[row] = str(error)
            else:
                if counts[1::2].any():
                    self.sizes[row], boxes[row - done] = size, rle.extent(size[0], counts)
                else:
                    self.broken[row] = "the mask is empty"


def _is_text_code(code: dict[str, Any]) -> bool:
    """Whether a run-length code has its counts as text, and a size that is one."""
    size = code.get("size")
    return (
        isinstance(code.get("counts"), str)
        and isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and 0 < side < 2**31 for side in size)
    )


def is_integer(value: Any) -> bool:
    """Whether a JSON value is a whole number that fits 64 bits."""
    return type(value) is int and abs(value) < 2**63


def _image_fault(entry: Any, known: set[int]) -> str:
    """What makes an entry of images unusable; "" where nothing does."""
    if not isinstance(entry, dict):
        return f"is {reprlib.repr(entry)}; expected an object with id, file_name, height and width"
    if not is_integer(entry.get("id")):
        return f"has the id {reprlib.repr(entry.get('id'))}; expected an integer"
    if entry["id"] in known:
        return f"has the id {entry['id']}, which another image has, too; expected unique ids"
    if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        return f"(id {entry['id']}) has the file_name {reprlib.repr(entry.get('file_name'))}; expected a file's name"
    for side in ("height", "width"):
        value = entry.get(side)
        if value is not None and not (is_integer(value) and 0 < value < 2**31):
            return f"(id {entry['id']}) has the {side} {reprlib.repr(value)}; expected a number of pixels"
    return ""


def _annotation_fault(entry: Any) -> str:
    """Which part of an annotation is missing or of the wrong kind."""
    if not isinstance(entry, dict):
        return f"is {reprlib.repr(entry)}; expected an object"
    for key in ("id", "image_id", "category_id"):
        if key not in entry:
            return f"has no {key}; expected an integer"
        if not is_integer(entry[key]):
            return f"{key} is {reprlib.repr(entry[key])}; expected an integer"
    if "bbox" not in entry:
        return f"has no bbox; expected {BOX_FORM}"
    box = entry["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)):
        return f"bbox is {reprlib.repr(box)}; expected {BOX_FORM}"
    if not is_integer(entry.get("iscrowd", 0)):
        return f"iscrowd is {reprlib.repr(entry['iscrowd'])}; expected 0 or 1"
    return f"area is {reprlib.repr(entry.get('area'))}, bbox {reprlib.repr(box)}; expected finite numbers"


def _polygon_fault(code: Any) -> tuple[str, list[list[float]]]:
    """What is wrong with a list of polygons, "" where nothing is, and those that are sound."""
    if isinstance(code, list):
        for polygon in code:
            if type(polygon) is not list or len(polygon) < 6 or len(polygon) & 1:
                break
        else:
            return "", code
    if not isinstance(code, list) or not all(isinstance(polygon, list) for polygon in code):
        return f"{reprlib.repr(code)} is neither a list of polygons nor a run-length code", []
    good = [polygon for polygon in code if len(polygon) >= 6 and len(polygon) % 2 == 0]
    index = next(i for i, polygon in enumerate(code) if polygon not in good)
    count = len(code[index])
    if count % 2:
        return f"polygon {index} has {count} numbers, an odd count; expected x1, y1, x2, y2, ...", good
    return f"polygon {index} has {count // 2} points; expected at least 3", good
