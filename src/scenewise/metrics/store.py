"""What the metrics of objects keep of each image, in few long columns.

Thousands of small arrays would lie scattered over the memory that images' dense masks leave behind, keep it from being
used for the next image's, and so hold a hundred times their own size.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

# Each field of Objects but the masks: its dtype and the array module's code for it.
_COLUMNS = {
    "labels": (np.dtype(np.int32), "i"),
    "scores": (np.dtype(np.float32), "f"),
    "ignore": (np.dtype(np.bool_), "B"),
    "area": (np.dtype(np.float64), "d"),
    "boxes": (np.dtype(np.float32), "f"),
    "keypoints": (np.dtype(np.float32), "f"),
}


@dataclass(frozen=True)
class Objects:
    """The K detections or ground-truth objects of one image, without anything of the size of the image.

    Attributes:
        labels: int32 [K].
        scores: float32 [K], of detections.
        ignore: bool [K], of ground truth.
        area: float64 [K] in pixels, of ground truth.
        boxes: float32 [K,4], or None where they are not measured.
        keypoints: float32 [K,P,3], or None.
        masks: K run-length codes' texts, or None.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32] | None = None
    ignore: npt.NDArray[np.bool_] | None = None
    area: Float64 | None = None
    boxes: npt.NDArray[np.float32] | None = None
    keypoints: npt.NDArray[np.float32] | None = None
    masks: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class ObjectTable:
    """The objects of many images, which all have the same fields."""

    def __init__(self) -> None:
        self._first = array("q", [0])  # [N+1], the row of each image's first object
        self._columns: dict[str, array[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}  # of one row
        self._texts: bytearray | None = None  # the masks' codes, one after the other
        self._ends = array("q", [0])  # [rows+1], where each of them ends

    @property
    def rows(self) -> int:
        """The number of objects."""
        return int(self._first[-1])

    def append(self, objects: Objects) -> None:
        """Add the objects of the next image."""
        for name, (dtype, code) in _COLUMNS.items():
            values = getattr(objects, name)
            if values is not None:
                self._shapes[name] = values.shape[1:]
                self._columns.setdefault(name, array(code)).frombytes(values.astype(dtype, copy=False).tobytes())
        if objects.masks is not None:
            self._texts = bytearray() if self._texts is None else self._texts
            for text in objects.masks:
                self._texts += text.encode("ascii")
                self._ends.append(len(self._texts))
        self._first.append(self.rows + len(objects))

    def extend(self, other: ObjectTable) -> None:
        """Add the images of another table."""
        for name, column in other._columns.items():
            self._shapes[name] = other._shapes[name]
            self._columns.setdefault(name, array(column.typecode)).extend(column)
        if other._texts is not None:
            shift = 0 if self._texts is None else len(self._texts)
            self._texts = (self._texts or bytearray()) + other._texts
            self._ends.extend(end + shift for end in other._ends[1:])
        shift = self.rows
        self._first.extend(first + shift for first in other._first[1:])

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of one object's ``name``; None before the first image."""
        return self._shapes.get(name)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A copy of the field ``name`` of all objects, [rows,...]: a column of which there are views can't grow."""
        values = np.frombuffer(self._columns[name], _COLUMNS[name][0]).copy()
        found: npt.NDArray[Any] = values.reshape(self.rows, *self._shapes[name])
        return found

    def reader(self, *fields: str) -> Callable[[int], Objects]:
        """A function from an image's place to its objects, with ``labels`` and ``fields`` where there are any."""
        columns = {name: self.column(name) for name in ("labels", *fields) if name in self._columns}
        texts = self._texts if "masks" in fields else None

        def read(place: int) -> Objects:
            first, last = self._first[place], self._first[place + 1]
            values: dict[str, Any] = {name: column[first:last] for name, column in columns.items()}
            if texts is not None:
                ends = pairwise(self._ends[first : last + 1])
                values["masks"] = [texts[start:end].decode("ascii") for start, end in ends]
            return Objects(**values)

        return read


class Images:
    """Many images in the order of their arrival."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []  # (height, width)
        self.detections, self.truths = ObjectTable(), ObjectTable()

    def __len__(self) -> int:
        return len(self.names)

    def append(self, name: str, size: tuple[int, int], detections: Objects, truths: Objects) -> None:
        """Add an image."""
        self.names.append(name)
        self.sizes.append(size)
        self.detections.append(detections)
        self.truths.append(truths)

    def extend(self, other: Images) -> None:
        """Add the images that another process counted."""
        self.names += other.names
        self.sizes += other.sizes
        self.detections.extend(other.detections)
        self.truths.extend(other.truths)

    def in_order(self, numbers: Mapping[str, int] | None = None) -> list[int]:
        """The places of the images by their number; without numbers by their name, names that are numbers first."""

        def key(place: int) -> tuple[int, int, str]:
            name = self.names[place]
            if numbers is not None and name in numbers:
                return 0, int(numbers[name]), ""
            return (1, int(name), name) if name.isdecimal() else (2, 0, name)

        return sorted(range(len(self)), key=key)
