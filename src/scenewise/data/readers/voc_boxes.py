"""Pascal VOC's boxes: ``voc:PATH``, where its detection part is what is needed.

Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010. ``PATH`` is a year's folder
(``VOC2007``), the ``VOCdevkit`` above it where it holds one year, or any folder of the same layout:

    VOC2007/JPEGImages/NAME.jpg
    VOC2007/Annotations/NAME.xml
    VOC2007/ImageSets/Main/SPLIT.txt      a NAME a line; a line of a class' own list (NAME -1) counts by its name
    VOC2007/classes.txt                   optional: a class name a line

* VOC counts pixels from 1 and includes the last: xmin, ymin, xmax, ymax become xmin - 1, ymin - 1, xmax, ymax.
* ``difficult`` objects become ``ignore``.
* Classes are those of classes.txt; without it VOC's 20 where all names are among them, else the names that occur in
  the annotations of any split, sorted.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scenewise.data.base import OnBadRecord, images_in, names_in, no_split, read_lines
from scenewise.data.instances import Fault, InstanceDataSet, Names, Records
from scenewise.data.readers.voc import CLASSES as WITH_BACKGROUND
from scenewise.data.readers.voc import FIRST, color_map, year_of
from scenewise.errors import DataError, suggest

CLASSES = WITH_BACKGROUND[1:]
LISTS = Path("ImageSets") / "Main"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
BOX_FORM = "xmin < xmax and ymin < ymax, counted from 1"


@dataclass
class _Found:
    """The objects of the images of a split, in the order of its list."""

    image: list[int] = field(default_factory=list)
    corners: list[tuple[float, ...]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    place: list[int] = field(default_factory=list)  # of the object in its file, from 0
    faults: dict[int, Fault] = field(default_factory=dict)


class VOCBoxes(InstanceDataSet):
    """Boxes from Pascal VOC's XML files.

    Args:
        root: the folder.
        split: a list in ImageSets/Main.
        needs: does nothing here: boxes are all there is.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
    """

    format = "voc"
    fields = frozenset({"boxes", "labels", "ignore"})

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        needs: frozenset[str] = frozenset(),
        on_bad_record: OnBadRecord = "error",
    ) -> None:
        self.root, self.split = root, split
        year = year_of(root)
        listing = year / LISTS / f"{split}.txt"
        if not listing.is_file():
            raise no_split(root, split, self.splits(root), f"a list {listing}")
        names = _names_of(listing)
        self._annotations = year / "Annotations"
        files = images_in(year / "JPEGImages")
        sizes = np.zeros((len(names), 2), np.int32)
        found = _Found()
        for index, name in enumerate(names):
            sizes[index] = _read_objects(self._annotations / f"{name}.xml", index, found)
        self._set_classes(year, found.names)
        pictures = [files.get(name, f"{name}.jpg") for name in names]
        place = self._set_images(year / "JPEGImages", pictures, sizes, on_bad_record)
        self._xml = Names(names)
        self._set_objects(self._records(found, place), needs)

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The lists in ImageSets/Main whose first image has an annotation, without those of single classes."""
        year = year_of(root)
        annotated = names_in(year / "Annotations")
        lists = {path.stem: path for path in sorted((year / LISTS).glob("*.txt"))}
        whole = {name for name in lists if not (name.rpartition("_")[0] and name.rpartition("_")[2] in lists)}
        return tuple(
            name
            for name in sorted(whole, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
            if f"{next(iter(_names_of(lists[name])))}.xml" in annotated
        )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there are lists of images with boxes."""
        try:
            return (year_of(root) / LISTS).is_dir()
        except DataError:
            return False

    def _set_classes(self, year: Path, present: Iterable[str]) -> None:
        listing = year / "classes.txt"
        if listing.is_file():
            self.classes = tuple(read_lines(listing))
        elif set(present) <= set(CLASSES):
            self.classes, self.colors = CLASSES, color_map(len(WITH_BACKGROUND))[1:]
        else:
            self.classes = _all_names(self._annotations)
        self.class_ids = tuple(range(1, len(self.classes) + 1))  # 0 is the background, as VOC counts

    def _records(self, found: _Found, place: np.ndarray) -> Records:
        corners = np.array(found.corners, np.float64).reshape(-1, 4)
        boxes = corners - [1, 1, 0, 0]
        known = {name: label for label, name in enumerate(self.classes)}
        labels = np.array([known.get(name, -1) for name in found.names], np.int32)
        image = np.array(found.image, np.int64)
        records = Records(place[image], boxes, labels, np.array(found.difficult, np.bool_), faults=found.faults)
        records.columns = {"_places": np.array(found.place, np.int64), "_source": image, "_corners": corners}
        for row in np.flatnonzero(labels < 0).tolist():
            name = found.names[row]
            hint = f"{suggest(name, self.classes)}; known: {', '.join(self.classes)}"
            records.faults.setdefault(row, Fault(f"the class {name!r} is unknown{hint}"))
        self._names_found = Names(found.names)
        degenerate = (corners[:, 2:] <= corners[:, :2]).any(1)  # a click without a drag: for VOC, one pixel
        for row in np.flatnonzero(degenerate & np.isfinite(corners).all(1)).tolist():
            text = _corner_text(corners[row])
            records.faults.setdefault(row, Fault(f"{text} has no area; expected {BOX_FORM}"))
        return records

    def _file_of(self, records: Records, row: int) -> Path:
        return self._annotations / f"{self._xml[int(records.columns['_source'][row])]}.xml"

    def _record_name(self, records: Records, row: int) -> str:
        return f"object {int(records.columns['_places'][row]) + 1} ({self._names_found[row]})"

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        return _corner_text(records.columns["_corners"][row]), BOX_FORM

    def _size_stated_in(self, index: int) -> str:
        return str(self._annotations / f"{self.image_id(index)}.xml")


def _corner_text(corners: np.ndarray) -> str:
    return "bndbox " + ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS, corners, strict=True))


def _names_of(listing: Path) -> list[str]:
    """The images that a list names."""
    return [line.split()[0] for line in read_lines(listing)]


def _all_names(folder: Path) -> tuple[str, ...]:
    """The class names that occur in any annotation of a folder, sorted."""
    found: set[str] = set()
    for file in sorted(names_in(folder)):
        if file.endswith(".xml") and not file.startswith("."):
            found.update(_text(item, "name") for item in _parse(folder / file).findall("object"))
    return tuple(sorted(found - {""}))


def _parse(path: Path) -> ElementTree.Element:
    """The root of an XML file without a document type and entities, which may be made to exhaust the memory."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: not found; expected the annotation of an image") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    head = raw[:2]
    if head in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:4]:
        raise DataError(f"{path}: UTF-16; expected XML as UTF-8")
    declared = re.search(rb"<!(DOCTYPE|ENTITY)", raw, re.IGNORECASE)
    if declared:
        raise DataError(
            f"{path}: byte {declared.start()}: {declared[0].decode()}, which is not read; expected plain XML"
        )
    try:
        return ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not valid XML ({error})") from None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _read_objects(path: Path, index: int, found: _Found) -> tuple[int, int]:
    """Append the objects of one annotation; the (height, width) that it states, zeros where it states none."""
    root = _parse(path)
    for place, item in enumerate(root.findall("object")):
        row = len(found.image)
        texts = [_text(item, f"bndbox/{corner}") for corner in CORNERS]
        corners = tuple(_number(text) for text in texts)
        if None in corners:
            stated = ", ".join(f"{name} {text!r}" for name, text in zip(CORNERS, texts, strict=True))
            found.faults[row] = Fault(f"bndbox has {stated}; expected four numbers")
        if not _text(item, "name"):
            found.faults.setdefault(row, Fault("has no name; expected the name of its class"))
        found.image.append(index)
        found.corners.append(tuple(np.nan if value is None else value for value in corners))
        found.names.append(_text(item, "name"))
        found.difficult.append(_text(item, "difficult") == "1")
        found.place.append(place)
    height, width = (_number(_text(root, f"size/{side}")) or 0 for side in ("height", "width"))
    known = all(np.isfinite(side) and 0 < side < 2**31 for side in (height, width))
    return (int(height), int(width)) if known else (0, 0)  # many tools write 0 x 0


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
