"""Pascal VOC's boxes: ``voc:PATH``, where its detection part is what is needed.

Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010. ``PATH`` is a year's folder
(``VOC2007``), the ``VOCdevkit`` above it where it holds one year, or any folder of the same layout:

    VOC2007/JPEGImages/NAME.jpg
    VOC2007/Annotations/NAME.xml
    VOC2007/ImageSets/Main/SPLIT.txt      a NAME per line, or the path of an image; in a class' own list (NAME -1)
                                          a line counts by its name
    VOC2007/classes.txt                   optional: a class name per line

Without lists, as annotation tools save them, all images with an XML file are ``train``: those of a folder with
NAME.xml beside NAME.jpg (LabelImg), of folders ``images`` and ``annotations``, or of ``JPEGImages`` and
``Annotations``. Where such a folder has sub-folders ``train``, ``valid`` and ``test``, or the data set consists of
such folders (Roboflow), each is a split.

* VOC counts pixels from 1 and includes the last: xmin, ymin, xmax, ymax become xmin - 1, ymin - 1, xmax, ymax.
* ``difficult`` objects become ``ignore``.
* Classes are those of classes.txt; without it VOC's 20 where all names are among them, else the names that occur in
  the annotations of any split, sorted.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path

import numpy as np

from scenewise.data.base import OnBadRecord, Problem
from scenewise.data.folders import counted, key_of, names_in, read_lines
from scenewise.data.instances import Fault, InstanceDataSet, Names, Records
from scenewise.data.label_colors import voc_colors
from scenewise.data.readers.voc import CLASSES as WITH_BACKGROUND
from scenewise.data.readers.voc_layout import LISTS, Layout, xml_below
from scenewise.errors import DataError, suggest
from scenewise.files.text import decode, read_file

CLASSES = WITH_BACKGROUND[1:]
DECLARED = re.compile(rb"""\s*<\?xml[^>]*encoding\s*=\s*["']([^"'>]*)""")
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
    benchmarks = ("voc",)
    fields = frozenset({"boxes", "labels", "ignore"})

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
        self.split = layout.find(root, split)
        place = layout.places[self.split]
        pairs, wrong = layout.files(place)
        for file, message in wrong:
            self._leave_out(file, message)
        sizes: list[tuple[int, int]] = []
        found = _Found()
        kept: list[tuple[Path, Path]] = []
        for image, annotation in pairs:
            try:
                sizes.append(_read_objects(annotation, len(kept), found))
            except DataError as error:
                self._leave_out(annotation, str(error).removeprefix(f"{annotation}: "))
                continue
            kept.append((image, annotation))
        if not kept and not self.faults and not self.repairs:
            raise DataError(f"{place.annotations}: no XML file is there; expected NAME.xml of each NAME.jpg")
        self._images, self._annotations = place.images, place.annotations
        self._is_listed = place.listing is not None
        self._set_classes(layout, found.names)
        names = [os.path.relpath(image, place.images).replace(os.sep, "/") for image, _ in kept]
        self._xml = Names(str(annotation) for _, annotation in kept)
        rows = self._set_images(place.images, names, np.array(sizes, np.int32).reshape(-1, 2), on_bad_record)
        self._set_objects(self._records(found, rows), needs)
        in_layout = place.images == layout.root / "JPEGImages" and place.annotations == layout.root / "Annotations"
        self.lists_folder = layout.root / LISTS if in_layout else None  # where lists of splits are looked for

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The lists in ImageSets/Main whose images have annotations, without those of single classes; or folders."""
        return Layout.of(root).splits

    @classmethod
    def sign(cls, path: Path) -> str:
        """Lists of images with annotations, or XML files beside images."""
        try:
            layout = Layout.of(path) if os.path.isdir(path) else None
        except DataError:
            return ""
        if layout is None or not layout.places:
            return ""
        annotations = next(iter(layout.places.values())).annotations
        return "XML files of boxes" if annotations == path else f"XML files in {annotations.relative_to(path)}"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there are images with boxes."""
        try:
            return bool(Layout.of(root).places)
        except DataError:
            return False

    def suspicions(self) -> Iterator[Problem]:
        """Likely mistakes that all records together show, and files of objects without an image."""
        yield from super().suspicions()
        if self._is_listed:
            return
        known = {splitext(name)[0].lower() for name in xml_below(self._annotations)}
        others = sorted(name for name in names_in(self._images) if (key := key_of(name)) and key.lower() not in known)
        if others:
            message = f"{counted(len(others), 'image')} without an XML file in no split, such as {others[0]}"
            yield Problem(str(self._images), message, "suspicion")

    def _set_classes(self, layout: Layout, present: Iterable[str]) -> None:
        listing = layout.root / "classes.txt"
        if listing.is_file():
            self.classes = tuple(read_lines(listing))
        elif self._is_listed and set(present) <= set(CLASSES):  # folders without lists are data of one's own
            self.classes, self.colors = CLASSES, voc_colors(len(WITH_BACKGROUND))[1:]
        else:
            self.classes = _all_names({place.annotations for place in layout.places.values()})
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
        return Path(self._xml[int(records.columns["_source"][row])])

    def _record_name(self, records: Records, row: int) -> str:
        return f"object {int(records.columns['_places'][row]) + 1} ({self._names_found[row]})"

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        return _corner_text(records.columns["_corners"][row]), BOX_FORM

    def _size_stated_in(self, index: int) -> str:
        return str(self._xml[index])


def _corner_text(corners: np.ndarray) -> str:
    return "bndbox " + ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS, corners, strict=True))


def _all_names(folders: Iterable[Path]) -> tuple[str, ...]:
    """The class names that occur in any annotation of some folders, sorted; broken ones are found when they are
    read."""
    found: set[str] = set()
    for folder in sorted(folders):
        for name in sorted(xml_below(folder)):
            try:
                found.update(_text(item, "name") for item in _parse(folder / name).findall("object"))
            except DataError:
                continue
    return tuple(sorted(found - {""}))


def _parse(path: Path) -> ElementTree.Element:
    """The root of an XML file without a document type and entities, which may be made to exhaust the memory."""
    raw = read_file(path, what="the annotation of an image")
    stated = DECLARED.match(raw)
    if stated is None or stated[1].lower().startswith(b"utf"):  # Windows' tools state UTF-8 and write UTF-16, too
        text = decode(raw, path)
    else:
        try:
            text = raw.decode(stated[1].decode("ascii", "replace"))
        except (LookupError, ValueError) as error:
            raise DataError(f"{path}: can't be read in the encoding that it states ({error})") from None
    declared = re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE)
    if declared:
        raise DataError(f"{path}: {declared[0]} at character {declared.start()}, which is not read; expected plain XML")
    try:
        root = ElementTree.fromstring(text.encode("utf-8", "replace"), ElementTree.XMLParser(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not valid XML ({error})") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: the root element is <{root.tag[:40]}>; expected <annotation>, as Pascal VOC has it")
    return root


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
            what = f"bndbox has {stated}"
            if item.find("bndbox") is None:
                what = "has an oriented box (robndbox)" if item.find("robndbox") is not None else "has no bndbox"
                what += f" and no {', '.join(CORNERS)}"
            found.faults[row] = Fault(f"{what}; expected four numbers")
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
        return None if "_" in text else float(text)  # Python reads 1_000 as a number
    except ValueError:
        return None
