"""What the metrics of objects keep of each image, in few long columns.

Thousands of small arrays would lie scattered over the memory that images' dense masks leave behind, keep it from being
used for the next image's, and so hold a hundred times their own size.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

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
    """The detections or the truths of one image, K of them, without anything of the size of the image.

    Attributes:
        labels: int32 [K].
        scores: float32 [K], of detections.
        ignore: bool [K], of truths.
        area: float64 [K] in pixels, of truths.
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


@dataclass(frozen=True)
class Image:
    """What one image contributes."""

    name: str
    size: tuple[int, int]  # (height, width)
    detections: Objects
    truths: Objects


class ObjectTable:
    """The objects of many images; all have the same fields. ``table[i]`` are those of image i."""

    def __init__(self) -> None:
        self._first = array("q", [0])  # [N+1], the row of each image's first object
        self._columns: dict[str, array[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}  # of one row
        self._texts: bytearray | None = None  # the masks' codes, one after the other
        self._ends = array("q", [0])  # [rows+1], where each of them ends

    @property
    def rows(self) -> int:
        """The number of objects."""
        return self._first[-1]

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
        for place in range(len(other._first) - 1):
            self.append(other[place])

    def __getitem__(self, place: int) -> Objects:
        first, last = self._first[place], self._first[place + 1]
        fields: dict[str, Any] = {name: self._rows(name, first, last) for name in self._columns}
        if self._texts is not None:
            ends = self._ends[first : last + 1]
            fields["masks"] = [self._texts[a:b].decode("ascii") for a, b in pairwise(ends)]
        return Objects(**fields)

    def _rows(self, name: str, first: int, last: int) -> npt.NDArray[Any]:
        """A copy, as a column of which there are views can't grow."""
        shape, (dtype, _) = self._shapes[name], _COLUMNS[name]
        width = int(np.prod(shape, dtype=int))
        values = self._columns[name][first * width : last * width]
        return np.frombuffer(values, dtype).reshape(last - first, *shape)


class Images(Sequence[Image]):
    """Many images in the order of their arrival."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._sizes = array("q")
        self._detections, self._truths = ObjectTable(), ObjectTable()

    @property
    def num_truths(self) -> int:
        """The number of truths in all images."""
        return self._truths.rows

    def append(self, image: Image) -> None:
        """Add an image."""
        self.names.append(image.name)
        self._sizes.extend(image.size)
        self._detections.append(image.detections)
        self._truths.append(image.truths)

    def extend(self, other: Images) -> None:
        """Add the images that another process counted."""
        self.names += other.names
        self._sizes.extend(other._sizes)
        self._detections.extend(other._detections)
        self._truths.extend(other._truths)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image]: ...
    def __getitem__(self, place: int | slice) -> Image | list[Image]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        size = (self._sizes[2 * place], self._sizes[2 * place + 1])
        return Image(self.names[place], size, self._detections[place], self._truths[place])

    def in_order(self, numbers: Mapping[str, int] | None = None) -> list[int]:
        """The places of the images by their number; without numbers by their name, names that are numbers first."""

        def key(place: int) -> tuple[int, int, str]:
            name = self.names[place]
            if numbers is not None and name in numbers:
                return 0, int(numbers[name]), ""
            return (1, int(name), name) if name.isdecimal() else (2, 0, name)

        return sorted(range(len(self)), key=key)
