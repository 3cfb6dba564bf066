"""What is in an annotation file of COCO, read piece by piece: numbers in arrays, outlines as their extents only.

The records' faults are found on the way, so that what does not fit a table is named before it is dropped. See
:mod:`scenewise.data.readers.coco` for the format, and for what other tools than COCO's own write in its name.

Most files have whole numbers for ids and all that an annotation can have; of those some thousand annotations at a time
go straight into arrays. What does not fit there is looked at one by one.
"""

from __future__ import annotations

import gc
import math
import reprlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scenewise.data.instances import Bool, Fault, Float32, Float64, Int32, Int64, Names
from scenewise.data.readers.json_stream import Elements, JsonStream
from scenewise.errors import DataError
from scenewise.files.json_file import as_number, as_side
from scenewise.ops import rle

BOX_FORM = "x, y, width, height in pixels, with width and height > 0"
ID_FORM = "an integer or a text"
NO_ID = -(2**63)  # in a table: the annotation has no id
TEXTS = -(2**62)  # ids that are texts are numbered from here


class Ids:
    """Numbers for ids: ``7``, ``7.0`` and ``"7"`` are 7; texts that are no number get numbers of their own."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    @property
    def has_texts(self) -> bool:
        """Whether some ids are texts that are no number."""
        return bool(self._texts)

    def number(self, value: Any) -> int | None:
        """The number of an id; None where ``value`` is none."""
        if type(value) is int:
            return value if abs(value) < -TEXTS // 2 else None
        if type(value) is float:
            return int(value) if value.is_integer() and abs(value) < 2**53 else None
        if type(value) is not str or not value:
            return None
        number = _whole(value)
        return self._texts.setdefault(value, TEXTS + len(self._texts)) if number is None else number

    @staticmethod
    def is_text(number: int) -> bool:
        """Whether ``number`` is that of a text that is no number."""
        return TEXTS <= number < TEXTS // 2

    def text(self, number: int) -> str:
        """The id of a number, for messages."""
        if self.is_text(number):
            return repr([*self._texts][number - TEXTS])
        return str(number)


@dataclass
class Content:
    """What is in an annotation file, in its order.

    Attributes:
        masks, points: whether segmentations and keypoints are wanted.
        lenient: whether polygons of fewer than 3 points are passed over where there are others.
        names, image_ids, sizes: of the images: file names, numbers, (height, width) int32 [N,2], 0 where not stated.
        bad_images: what is wrong with entries of images, which are left out, and their ids.
        categories: the entries, unchecked.
        size: of the file, in bytes.
        ids, images, labels: int64 [A], the number of each annotation, its image and its category; ``NO_ID`` for none.
        crowd: bool [A].
        starts, lengths: the first byte and the number of bytes of each annotation in the file.
        boxes: float64 [A,4], x1, y1, x2, y2; of the outline where there is no bbox.
        area: float64 [A]; NaN where there is none.
        extents: float32 [A,4], the box around each mask; NaN without one. Empty where no masks are wanted.
        mask_sizes: (height, width) of run-length codes, by row.
        point_values, point_counts: all numbers of keypoints, and how many each annotation has.
        annotation_ids, image_numbers, category_ids: from ids to numbers.
        faults, mended: what is wrong with annotations, and what was and is no longer, by row.
    """

    path: Path
    masks: bool
    points: bool
    lenient: bool
    names: Names = field(default_factory=lambda: Names(()))
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    bad_images: list[str] = field(default_factory=list)
    bad_image_ids: list[int] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    mask_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    point_values: array[float] = field(default_factory=lambda: array("f"))
    point_counts: array[int] = field(default_factory=lambda: array("i"))
    annotation_ids: Ids = field(default_factory=Ids)
    image_numbers: Ids = field(default_factory=Ids)
    category_ids: Ids = field(default_factory=Ids)
    faults: dict[int, Fault] = field(default_factory=dict)
    mended: dict[int, str] = field(default_factory=dict)
    size: int = field(init=False)
    sizes: Int32 = field(init=False)
    ids: Int64 = field(init=False)
    images: Int64 = field(init=False)
    labels: Int64 = field(init=False)
    crowd: Bool = field(init=False)
    starts: Int64 = field(init=False)
    lengths: Int32 = field(init=False)
    boxes: Float64 = field(init=False)
    area: Float64 = field(init=False)
    extents: Float32 = field(init=False)

    def read(self) -> None:
        """Read the file.

        Raises:
            DataError: it can't be read, is not JSON, or lacks one of its three lists.
        """
        tables = _Tables()
        sizes = array("i")
        seen = set()
        with JsonStream(self.path) as stream, _without_garbage_collection():
            self.size = stream.size
            for key in stream.members():
                if key in ("images", "annotations", "categories") and not stream.is_array():
                    raise DataError(f"{self.path}: {key} is not a list; expected a list of objects")
                if key == "images":
                    self.names = Names(self._read_images(stream, sizes))
                elif key == "annotations":
                    self._read_annotations(stream, tables)
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
        self.sizes = np.array(sizes, np.int32).reshape(-1, 2)
        for name in _Tables.DTYPES:
            setattr(self, name, tables.table(name))
        self.crowd = self.crowd.view(np.bool_)

    def let_go(self, *names: str) -> None:
        """Drop columns, which may be large, where others have taken them over."""
        for name in names:
            delattr(self, name)

    def _read_images(self, stream: JsonStream, sizes: array[int]) -> Iterator[str]:
        """Take the entries of images; their names."""
        known: set[int] = set()
        entries = chain.from_iterable(found.values for found in stream.elements())
        for position, entry in enumerate(entries):
            number = self.image_numbers.number(entry.get("id")) if isinstance(entry, dict) else None
            height, width = (as_side(entry.get(s)) for s in ("height", "width")) if number is not None else (None, None)
            name = entry.get("file_name") if number is not None else ""
            if number is None or number in known or height is None or width is None or not _is_name(name):
                self.bad_images.append(f"images[{position}] {_image_fault(entry, number, known)}")
                if number is not None:
                    self.bad_image_ids.append(number)
                continue
            known.add(number)
            self.image_ids.append(number)
            sizes.extend((height, width))
            yield str(name)

    def _read_annotations(self, stream: JsonStream, tables: _Tables) -> None:
        row = 0
        for found in stream.elements():
            columns = _plain_columns(found) or self._one_by_one(row, found)
            columns |= {"starts": found.starts, "lengths": found.lengths}
            self._read_outlines(row, found.values, columns)
            if self.points:
                for index, entry in enumerate(found.values):
                    self._read_points(row + index, entry.get("keypoints") if isinstance(entry, dict) else None)
            tables.add(columns)
            row += len(found.values)

    def _one_by_one(self, row: int, found: Elements) -> dict[str, Any]:
        """The columns of annotations that are not all of the usual kind, and their faults."""
        columns: dict[str, list[Any]] = {name: [] for name in ("ids", "images", "labels", "crowd", "boxes", "area")}
        for index, entry in enumerate(found.values):
            fault, values = self._annotation(entry)
            if fault:
                self.faults[row + index] = Fault(fault)
                number = self.annotation_ids.number(entry.get("id")) if isinstance(entry, dict) else None
                found.values[index] = None  # nothing else of it is read
                values = (NO_ID if number is None else number, NO_ID, NO_ID, 0, (math.nan,) * 4, math.nan)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        return {name: np.array(column, _Tables.DTYPES[name]) for name, column in columns.items()}

    def _annotation(self, entry: Any) -> tuple[str, tuple[Any, ...]]:
        """What is wrong with an annotation, "" where nothing is; its id, image, category, crowd, box and area.

        The box is zeros where there is none: then it is that of the outline.
        """
        if not isinstance(entry, dict):
            return f"is {reprlib.repr(entry)}; expected an object", ()
        numbers = []
        for key, ids in (
            ("id", self.annotation_ids),
            ("image_id", self.image_numbers),
            ("category_id", self.category_ids),
        ):
            value = entry.get(key)
            number = NO_ID if value is None else ids.number(value)
            if number is None:
                return f"{key} is {reprlib.repr(value)}; expected {ID_FORM}", ()
            if value is None and key == "image_id":
                return f"has no image_id; expected {ID_FORM}", ()
            numbers.append(number)
        crowd = as_number(entry.get("iscrowd") or 0)
        if crowd is None:
            return f"iscrowd is {reprlib.repr(entry['iscrowd'])}; expected 0 or 1", ()
        box, area = entry.get("bbox"), entry.get("area")
        corners = (0.0,) * 4
        if box is not None and box != []:
            sides = [as_number(value) for value in box] if isinstance(box, list) else []
            if len(sides) != 4 or None in sides:
                return f"bbox is {reprlib.repr(box)}; expected {BOX_FORM}", ()
            x, y, width, height = sides
            corners = (x, y, x + width, y + height)  # type: ignore[operator, assignment]
        size = math.nan if area is None else as_number(area)
        if size is None:
            return f"area is {reprlib.repr(area)}; expected a number of pixels", ()
        return "", (*numbers, crowd != 0, corners, size)

    # ---- outlines

    def _read_outlines(self, row: int, entries: Sequence[Any], columns: dict[str, Any]) -> None:
        """Check the segmentations that are wanted, note their extents, and put boxes where there are none."""
        boxless = ~columns["boxes"].any(1)
        wanted: Iterator[int] = iter(range(len(entries)) if self.masks else np.flatnonzero(boxless).tolist())
        outlines = Outlines()
        for index in wanted:
            entry = entries[index]
            if entry is not None and (code := entry.get("segmentation")):
                self._read_outline(outlines, row + index, index, code)
        extents = outlines.extents(len(entries))
        self.mask_sizes |= {row + index: size for index, size in outlines.sizes.items()}
        for index, message in outlines.broken.items():
            spoils = "boxes" if boxless[index] else "masks"
            self.faults.setdefault(row + index, Fault(f"segmentation: {message}", spoils))
        known = boxless & np.isfinite(extents[:, 0])
        columns["boxes"][known] = extents[known]
        for index in np.flatnonzero(boxless & ~known).tolist():
            fault = self.faults.get(row + index)
            if entries[index].get("bbox") or (fault is not None and fault.spoils == "boxes"):
                continue  # four zeros, which are named like other boxes without an area; or the outline is named
            self.faults[row + index] = Fault(f"has neither bbox nor segmentation; expected {BOX_FORM}")
        if self.masks:
            columns["extents"] = extents

    def _read_outline(self, outlines: Outlines, row: int, index: int, code: Any) -> None:
        """Check one segmentation and hand it over to ``outlines``."""
        if isinstance(code, dict):
            outlines.add_code(index, code)
            return
        code = without_empty(code)
        if code == []:
            return
        fault, good = _polygon_fault(code)
        if fault and self.lenient and good:
            self.mended[row] = f"segmentation: {fault}; that polygon is left out"
            code = good
        elif fault:
            outlines.broken[index] = fault
            return
        try:
            for polygon in code:
                outlines.add(index, polygon)
        except (TypeError, OverflowError):
            outlines.broken[index] = "a polygon holds something that is no number"

    # ---- keypoints

    def _read_points(self, row: int, values: Any) -> None:
        before = len(self.point_values)
        try:
            self.point_values.extend(values or ())
        except (TypeError, OverflowError):
            del self.point_values[before:]
            fault = Fault(f"keypoints is {reprlib.repr(values)}; expected a flat list of numbers", "keypoints")
            self.faults.setdefault(row, fault)
        self.point_counts.append(len(self.point_values) - before)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of small objects come and go here, none of them in a circle; to look for circles takes half the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Tables:
    """Columns that grow by some thousand rows at a time."""

    DTYPES: ClassVar[dict[str, type[np.generic]]] = {
        "ids": np.int64,
        "images": np.int64,
        "labels": np.int64,
        "crowd": np.uint8,
        "starts": np.int64,
        "lengths": np.int32,
        "boxes": np.float64,
        "area": np.float64,
        "extents": np.float32,
    }

    def __init__(self) -> None:
        # arrays that grow in place: parts that are put together at the end would take twice the memory
        self._columns = {name: array(np.dtype(kind).char) for name, kind in self.DTYPES.items()}

    def add(self, columns: dict[str, Any]) -> None:
        """Take the columns of further rows."""
        with np.errstate(over="ignore"):
            for name, column in columns.items():
                self._columns[name].frombytes(np.ascontiguousarray(column, self.DTYPES[name]).tobytes())

    def table(self, name: str) -> Any:
        """The column of that name, without a copy."""
        column = np.frombuffer(self._columns[name], self.DTYPES[name])
        return column.reshape(-1, 4) if name in ("boxes", "extents") else column


def _plain_columns(found: Elements) -> dict[str, Any] | None:
    """The columns of annotations of the usual kind; None where one of them is not."""
    entries = found.values
    try:
        boxes = [*map(itemgetter("bbox"), entries)]
        if [*map(len, boxes)].count(4) < len(boxes):
            return None
        table = np.array(array("d", chain.from_iterable(boxes))).reshape(-1, 4)
        ids = map(itemgetter("id", "image_id", "category_id"), entries)
        numbers = np.array(array("q", chain.from_iterable(ids))).reshape(-1, 3)
        try:
            more = array("d", chain.from_iterable(map(itemgetter("iscrowd", "area"), entries)))
        except KeyError:  # which many files lack; looking for them is slower
            pairs = ((entry.get("iscrowd", 0), entry.get("area", math.nan)) for entry in entries)
            more = array("d", chain.from_iterable(pairs))
        others = np.array(more).reshape(-1, 2)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None
    if (np.abs(numbers) >= -TEXTS // 2).any():
        return None
    table[:, 2:] += table[:, :2]
    columns = {"ids": numbers[:, 0], "images": numbers[:, 1], "labels": numbers[:, 2]}
    return {**columns, "crowd": others[:, 0] != 0, "boxes": table, "area": others[:, 1]}


class Outlines:
    """Takes polygons and run-length codes of some thousand annotations, and finds the box around the mask of each. It
    works on many at a time, which is far quicker, and never touches a code that is not sound."""

    def __init__(self) -> None:
        self.sizes: dict[int, tuple[int, int]] = {}  # the (height, width) of each code
        self.broken: dict[int, str] = {}  # what is wrong with the outline of a row
        self._values: array[float] = array("d")
        self._starts: array[int] = array("q")
        self._rows: array[int] = array("q")
        self._codes: dict[int, dict[str, Any]] = {}

    def add(self, row: int, polygon: Sequence[float]) -> None:
        """Take x1, y1, x2, y2, ...; raises TypeError or OverflowError for what is no number."""
        before = len(self._values)
        try:
            self._values.extend(polygon)
        except (TypeError, OverflowError):
            del self._values[before:]
            raise
        self._starts.append(before)
        self._rows.append(row)

    def add_code(self, row: int, code: dict[str, Any]) -> None:
        """Take a run-length code."""
        self._codes[row] = code

    def extents(self, rows: int) -> Float64:
        """The box around the mask of each of ``rows`` rows, float64 [rows,4]; NaN where there is none."""
        boxes = np.full((rows, 4), np.nan)
        if len(self._rows):
            points = np.array(self._values, np.float64).reshape(-1, 2)
            starts, owners = np.array(self._starts) // 2, np.array(self._rows)
            heads = np.flatnonzero(np.diff(owners, prepend=-1))  # the first polygon of each row
            low = np.minimum.reduceat(np.minimum.reduceat(points, starts), heads)
            high = np.maximum.reduceat(np.maximum.reduceat(points, starts), heads)
            boxes[owners[heads]] = np.concatenate([low, high], 1)
            for bad in owners[heads][~np.isfinite(low + high).all(1)].tolist():
                self.broken[bad] = "a polygon has a number that is not finite"
        self._measure_codes(boxes)
        boxes[[*self.broken]] = np.nan
        return boxes

    def _measure_codes(self, boxes: Float64) -> None:
        texts = {row: code["counts"] for row, code in self._codes.items() if _is_text_code(code)}
        rows = np.array([*texts], np.int64)
        if len(rows):
            sizes = np.array([self._codes[row]["size"] for row in texts], np.int64)
            boxes[rows] = rle.extents_of_texts([text.encode() for text in texts.values()], sizes)
        for row, code in self._codes.items():
            if np.isfinite(boxes[row, 0]):
                self.sizes[row] = (code["size"][0], code["size"][1])
                continue
            try:
                size, counts = rle.parse(code, where="run-length code")
            except DataError as error:
                self.broken[row] = str(error)
            else:
                if counts[1::2].any():
                    self.sizes[row], boxes[row] = size, rle.extent(size[0], counts)
                else:
                    self.broken[row] = "the mask is empty"


def _is_text_code(code: dict[str, Any]) -> bool:
    """Whether a run-length code has its counts as text, and a size that is one."""
    size, counts = code.get("size"), code.get("counts")
    return (
        isinstance(counts, str)
        and counts.isascii()
        and isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and 0 < side < 2**31 for side in size)
    )


def without_empty(code: Any) -> Any:
    """A list of polygons without those that have no numbers at all, as some tools write them; others as they are."""
    if isinstance(code, list) and not all(code):
        return [polygon for polygon in code if polygon or type(polygon) in (int, float)]
    return code


def _whole(text: str) -> int | None:
    """The whole number that ``text`` is, written as Python would; None where it is another text."""
    if len(text) > 18 or not text.lstrip("-").isdecimal():
        return None
    number = int(text)
    return number if str(number) == text else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _image_fault(entry: Any, number: int | None, known: set[int]) -> str:
    """What makes an entry of images unusable."""
    if not isinstance(entry, dict):
        return f"is {reprlib.repr(entry)}; expected an object with id, file_name, height and width"
    if number is None:
        return f"has the id {reprlib.repr(entry.get('id'))}; expected {ID_FORM}"
    if number in known:
        return f"has the id {reprlib.repr(entry['id'])}, which another image has, too; expected unique ids"
    name = f"(id {reprlib.repr(entry['id'])})"
    if not _is_name(entry.get("file_name")):
        return f"{name} has the file_name {reprlib.repr(entry.get('file_name'))}; expected a file's name"
    side = next(side for side in ("height", "width") if as_side(entry.get(side)) is None)
    return f"{name} has the {side} {reprlib.repr(entry[side])}; expected a number of pixels"


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
