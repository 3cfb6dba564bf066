"""ShapeDataSet: images with objects that are drawn shapes, as labelling tools for single images keep them.

What the readers of labelme, VIA, Supervisely and Datumaro share: they turn each shape into a :class:`Drawn` object, and
here these become tables. What a shape becomes:

* a rectangle: a box, without a mask;
* a polygon, with holes where the format has them, or a bitmap: a mask, and the box around it;
* a circle or an ellipse: the polygon of ``ROUND`` points on it;
* parts of one object that the format groups: one object, the union of their masks; a rectangle among them is its box;
* a point: a keypoint of the object that it is grouped with.

What is nothing of this (lines, cuboids) is a bad record, named by its kind: see ``on_bad_record``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenewise.data.base import OnBadRecord, Problem
from scenewise.data.instances import Bool, Fault, Float32, Float64, InstanceDataSet, Int64, Names, Records
from scenewise.data.names import Resolver, split_of
from scenewise.errors import DataError
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.files.json_file import as_number
from scenewise.ops.polygons import polygons_to_runs
from scenewise.ops.runs import Runs, without

ROUND = 64  # points of the polygon that stands for a circle
MAX_SIDE = 2**15  # pixels of a bitmap's side


@dataclass
class Drawn:
    """One object.

    Attributes:
        image: the place of its image in the list of images.
        label: the name of its class.
        record: what it is called in messages, such as ``shape 3 (cat)``.
        boxes: x1, y1, x2, y2 of its rectangles; where there are none, its box is that around its mask.
        rings, holes: polygons [V,2] whose union is its mask, and what is left out of it.
        bitmap: a part of its mask, bool [h,w], and the x and y of its first pixel.
        joints: x, y and visibility of its keypoints, by name.
        ignore: whether it is not to be counted.
        fault: what makes it unusable; "" where nothing does.
    """

    image: int
    label: str
    record: str
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    rings: list[Float64] = field(default_factory=list)
    holes: list[Float64] = field(default_factory=list)
    bitmap: tuple[Bool, int, int] | None = None
    joints: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    ignore: bool = False
    fault: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether its outline is known."""
        return bool(self.rings) or self.bitmap is not None

    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of its rectangles, else of its mask; NaN where it has neither."""
        corners = list(self.boxes)
        if not corners:
            corners += [(*ring.min(0).tolist(), *ring.max(0).tolist()) for ring in self.rings]
            if self.bitmap is not None:
                corners.append(_bitmap_box(*self.bitmap))
        if not corners:
            return (math.nan,) * 4
        x1, y1, x2, y2 = zip(*corners, strict=True)
        return min(x1), min(y1), max(x2), max(y2)


@dataclass
class Picture:
    """An image as its annotation names it: the file's name, (height, width) or zeros, and the annotation's file."""

    name: str
    size: tuple[int, int]
    file: Path


@dataclass
class Drawing:
    """What a reader finds in one split."""

    pictures: list[Picture] = field(default_factory=list)
    objects: list[Drawn] = field(default_factory=list)
    bad_files: list[tuple[Path, str]] = field(default_factory=list)  # that can't be used, and why

    def add(self, picture: Picture, objects: Iterable[Drawn]) -> None:
        """Take an image and its objects, whose ``image`` is set here."""
        for thing in objects:
            thing.image = len(self.pictures)
            self.objects.append(thing)
        self.pictures.append(picture)


class ShapeDataSet(InstanceDataSet):
    """Boxes, masks and keypoints of drawn shapes.

    A reader has :meth:`_read`; it sets ``split``, ``classes`` and ``class_ids``, and ``skeleton`` where there are
    keypoints, and says where images are.
    """

    fields = frozenset({"boxes", "labels", "ignore", "masks", "keypoints", "visibility"})
    takes_file = True

    _vertices: Float64  # [V,2], of all polygons
    _ring_starts: Int64  # [R+1], the first vertex of each polygon
    _ring_is_hole: Bool  # [R]
    _rings: Int64  # [A,2], the first polygon of each object, and how many it has
    _bits: npt.NDArray[np.uint8]  # of all bitmaps, eight pixels per byte
    _bitmaps: Int64  # [A,5], the first byte of each object's bitmap, its x, y, height and width; 0 x 0 for none
    _places: Int64  # [A], the place of each object among those that were read
    _files: Names  # of the annotation of each image that was read
    _record_names: Names
    _labels_read: Names

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        needs: frozenset[str] = frozenset(),
        on_bad_record: OnBadRecord = "error",
    ) -> None:
        self.root, self.split, self._policy = root, split, on_bad_record
        self._fill(self._read(root, split), needs)

    @abstractmethod
    def _read(self, root: Path, split: str) -> Drawing:
        """The images and objects of a split; sets ``split``, ``classes``, ``class_ids`` and ``skeleton``."""

    @abstractmethod
    def _image_folders(self) -> list[Path]:
        """The folders, below :meth:`_own_folder`, where images may be, the likeliest first."""

    def _own_folder(self) -> Path:
        """The folder of the data set."""
        return self.root if self.root.is_dir() else self.root.parent

    # ---- opening

    def _fill(self, drawing: Drawing, needs: frozenset[str]) -> None:
        for file, message in drawing.bad_files:
            self._leave_out(file, message)
        self._files = Names(str(picture.file) for picture in drawing.pictures)
        folders = [folder for folder in self._image_folders() if folder.is_dir()]
        resolver = Resolver(self._own_folder(), *folders, suffixes=IMAGE_SUFFIXES)
        folder, names, why = self._find_images(resolver, [picture.name for picture in drawing.pictures])
        sizes = np.array([picture.size for picture in drawing.pictures], np.int32).reshape(-1, 2)
        place = self._set_images(folder, names, sizes, self._policy, why)
        self._image_place = place
        objects = drawing.objects
        self._set_outlines(objects)
        records = self._records(objects, place)
        self._drop_empty_fields(objects)
        self._set_objects(records, needs)

    def _records(self, objects: Sequence[Drawn], place: Int64) -> Records:
        known = {name: label for label, name in enumerate(self.classes)}
        image = np.array([thing.image for thing in objects], np.int64)
        records = Records(
            place[image],
            np.array([thing.box() for thing in objects], np.float64).reshape(-1, 4),
            np.array([known.get(thing.label, -1) for thing in objects], np.int32),
            np.array([thing.ignore for thing in objects], np.bool_),
        )
        self._record_names = Names(thing.record for thing in objects)
        for row, thing in enumerate(objects):
            if thing.fault:
                records.faults[row] = Fault(thing.fault)
            elif not np.isfinite(records.boxes[row]).all():
                records.faults[row] = Fault("has no outline with finite numbers; expected a rectangle or a polygon")
            elif records.labels[row] < 0:
                records.faults[row] = Fault(f"the class {thing.label!r} is unknown; known: {', '.join(self.classes)}")
        masked = np.array([thing.has_mask for thing in objects], np.bool_)
        records.columns = {
            "_places": np.arange(len(objects)),
            "_source": image,
            "_rings": self._rings,
            "_bitmaps": self._bitmaps,
        }
        if masked.any() and not masked.all():
            records.columns["_unmasked"] = ~masked
            message = (
                f"{int((~masked).sum()):,} of {len(masked):,} objects have no mask; where masks are wanted, they are "
                "ignored"
            )
            self.notes = (*self.notes, Problem(str(self.root), message, "suspicion"))
        if self.skeleton is not None and self.skeleton.names:
            records.columns["_points"] = self._joint_table(objects, records)
        return records

    def _joint_table(self, objects: Sequence[Drawn], records: Records) -> Float32:
        """[A,P,3]; zeros for joints that an object has not."""
        assert self.skeleton is not None
        names = {name: index for index, name in enumerate(self.skeleton.names)}
        points = np.zeros((len(objects), len(names), 3), np.float32)
        for row, thing in enumerate(objects):
            for name, joint in thing.joints.items():
                if name in names and np.isfinite(joint).all():
                    points[row, names[name]] = joint
                else:
                    fault = f"the keypoint {name!r} is {joint}; expected one of {', '.join(names)} with finite numbers"
                    records.faults.setdefault(row, Fault(fault, "keypoints"))
        return points

    def _set_outlines(self, objects: Sequence[Drawn]) -> None:
        rings = [(ring, hole) for thing in objects for ring, hole in _all_rings(thing)]
        counts = np.array([len(thing.rings) + len(thing.holes) for thing in objects], np.int64)
        self._vertices = np.concatenate([np.zeros((0, 2)), *(ring for ring, _ in rings)])
        self._ring_starts = np.cumsum([0, *(len(ring) for ring, _ in rings)], dtype=np.int64)
        self._ring_is_hole = np.array([hole for _, hole in rings], np.bool_)
        self._rings = np.stack([np.cumsum(counts) - counts, counts], 1)
        bits: list[npt.NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        table = np.zeros((len(objects), 5), np.int64)
        done = 0
        for row, thing in enumerate(objects):
            if thing.bitmap is not None:
                pixels, x, y = thing.bitmap
                bits.append(np.packbits(pixels))
                table[row] = done, x, y, *pixels.shape
                done += len(bits[-1])
        self._bits, self._bitmaps = np.concatenate(bits), table

    def _drop_empty_fields(self, objects: Sequence[Drawn]) -> None:
        if not any(thing.has_mask for thing in objects):
            self.fields = self.fields - {"masks"}
        if self.skeleton is None or not self.skeleton.names:
            self.fields = self.fields - {"keypoints", "visibility"}

    # ---- what records are called

    def _file_of(self, records: Records, row: int) -> Path:
        return Path(self._files[int(records.columns["_source"][row])])

    def _record_name(self, records: Records, row: int) -> str:
        return str(self._record_names[int(records.columns["_places"][row])])

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        x1, y1, x2, y2 = records.boxes[row].tolist()
        return f"the box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})", "a width and a height > 0"

    def _size_stated_in(self, index: int) -> str:
        read = int(np.flatnonzero(self._image_place == index)[0])
        return str(self._files[read])

    # ---- samples

    def _masks(self, rows: Int64, size: tuple[int, int]) -> Runs:
        masks = []
        for row in rows.tolist():
            first, count = self._rings[row].tolist()
            rings = [
                (
                    self._vertices[self._ring_starts[ring] : self._ring_starts[ring + 1]].ravel(),
                    self._ring_is_hole[ring],
                )
                for ring in range(first, first + count)
            ]
            outer, holes = ([ring for ring, hole in rings if hole == which] for which in (False, True))
            if not outer and not self._bitmaps[row, 3]:  # not known: all of the box, which is to be ignored
                x1, y1, x2, y2 = self.boxes[row].tolist()
                outer = [np.array([x1, y1, x2, y1, x2, y2, x1, y2])]
            where = f"{self.root}: a shape of class {self.classes[int(self.labels[row])]}"
            starts, ends = polygons_to_runs(outer, size, where=where)
            more = self._bitmap_runs(row, size)
            found = (np.concatenate([starts, more[0]]), np.concatenate([ends, more[1]]))
            if holes:
                found = without(found, polygons_to_runs(holes, size, where=where))
            masks.append(found)
        return Runs.of(masks, size)

    def _bitmap_runs(self, row: int, size: tuple[int, int]) -> tuple[Int64, Int64]:
        """The runs of an object's bitmap in an image of ``size``; what lies outside the image is cut off."""
        first, x, y, height, width = self._bitmaps[row].tolist()
        bits = self._bits[first : first + -(-height * width // 8)]
        pixels = np.unpackbits(bits, count=height * width).astype(np.bool_).reshape(height, width)
        columns, lines = (places + start for places, start in zip(np.nonzero(pixels.T), (x, y), strict=True))
        inside = (columns >= 0) & (columns < size[1]) & (lines >= 0) & (lines < size[0])
        flat = (columns * size[0] + lines)[inside]
        heads = np.flatnonzero(np.diff(flat, prepend=-2) != 1)
        tails = np.append(heads[1:] - 1, len(flat) - 1) if len(flat) else heads
        return flat[heads], flat[tails] + 1

    def _keypoints(self, rows: Int64, size: tuple[int, int]) -> Float32:
        assert self._points is not None
        return self._points[rows]


# ---- shapes from numbers


def points_of(value: Any) -> Float64 | None:
    """[[x, y], ...] as float64 [V,2]; None where it is something else, or a number is not finite."""
    if not isinstance(value, list):
        return None
    numbers = [[as_number(v) for v in point] for point in value if isinstance(point, list) and len(point) == 2]
    if len(numbers) != len(value) or any(v is None or not math.isfinite(v) for point in numbers for v in point):
        return None
    return np.array(numbers, np.float64).reshape(-1, 2)


def ellipse(x: float, y: float, a: float, b: float, angle: float = 0.0) -> Float64:
    """The polygon [``ROUND``,2] of the ellipse around (x, y) with half axes ``a`` and ``b``.

    It is turned by ``angle`` (radians, from the x axis to the y axis), and touches the ellipse's four vertices, so that
    without an angle its box is exact.
    """
    turn = np.arange(ROUND) * (2 * np.pi / ROUND)
    u, v = a * np.cos(turn), b * np.sin(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + u * cos - v * sin, y + u * sin + v * cos], 1)


def _bitmap_box(pixels: Bool, x: int, y: int) -> tuple[float, float, float, float]:
    lines, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(lines):
        return (math.nan,) * 4
    return x + columns[0].item(), y + lines[0].item(), x + columns[-1].item() + 1.0, y + lines[-1].item() + 1.0


def _all_rings(thing: Drawn) -> Iterator[tuple[Float64, bool]]:
    yield from ((ring, False) for ring in thing.rings)
    yield from ((hole, True) for hole in thing.holes)


def unite(thing: Drawn, part: Drawn) -> None:
    """Add a further part to an object."""
    thing.boxes += part.boxes
    thing.rings += part.rings
    thing.holes += part.holes
    if thing.bitmap is not None and part.bitmap is not None:
        thing.bitmap = _joined(thing.bitmap, part.bitmap)
    else:
        thing.bitmap = thing.bitmap or part.bitmap


def _joined(a: tuple[Bool, int, int], b: tuple[Bool, int, int]) -> tuple[Bool, int, int]:
    x, y = min(a[1], b[1]), min(a[2], b[2])
    width = max(part[1] + part[0].shape[1] for part in (a, b)) - x
    height = max(part[2] + part[0].shape[0] for part in (a, b)) - y
    pixels = np.zeros((height, width), np.bool_)
    for part, left, top in (a, b):
        pixels[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] |= part
    return pixels, x, y


# ---- splits


def split_folders(root: Path) -> dict[str, Path]:
    """The folders in ``root`` that are named after a split, train first."""
    ranks = {"train": 0, "val": 1, "test": 2}
    try:
        names = sorted(path.name for path in root.iterdir() if split_of(path.name) and path.is_dir())
    except OSError:
        names = []
    names.sort(key=lambda name: ranks[split_of(name)])
    return {name: root / name for name in names}


def chosen_split(root: Path, split: str, splits: Sequence[str], expected: str) -> str:
    """Which of ``splits`` is meant by ``split``: itself, or the only one of that meaning (``val``, ``valid``).

    Raises:
        DataError: none is, or several are.
    """
    near = [name for name in splits if name == split] or [
        name for name in splits if split_of(name) and split_of(name) == split_of(split)
    ]
    if not near and split == "train" and len(splits) == 1 and not split_of(splits[0]):
        near = [*splits]
    if len(near) != 1:
        there = f"splits here: {', '.join(splits)}" if splits else "no split is here"
        raise DataError(f"{root}: there is no split {split!r}; {there}; expected {expected}")
    return near[0]
