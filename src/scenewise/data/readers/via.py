"""The VGG Image Annotator's files, JSON or CSV: ``via:PATH`` or ``via:PATH/TO/FILE``.

    PATH/FILE.json                       a project or exported annotations, with the images beside it or in images/
    PATH/SPLIT/FILE.json                 one such folder per split: train, val (or valid), test
    PATH/SPLIT.json                      or one file per split, with images in PATH/SPLIT, PATH/images or PATH

Any ``.json`` may be a ``.csv``. The class of a region is one of its attributes: the only one there is, else the one
that is called class, label, name, type, category or object; a check box counts where one is checked. Where no region
has any attribute, there is one class, ``object``. Classes are the sorted names of all splits. ``rect``, ``polygon``,
``circle`` and ``ellipse`` become objects as described in :mod:`scenewise.data.readers.shapes`; ``polyline`` and
``point`` are no objects. VIA 3 is not read: it exports COCO's files.
"""

from __future__ import annotations

import csv
import io
import reprlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenewise.data.base import OnBadRecord
from scenewise.data.names import split_of
from scenewise.data.readers.shapes import (
    Drawing,
    Drawn,
    Picture,
    ShapeDataSet,
    chosen_split,
    ellipse,
    points_of,
    split_folders,
)
from scenewise.errors import DataError, UsageError
from scenewise.files.json_file import as_number, parse_json, read_json
from scenewise.files.text import read_text

HEAD = 1 << 14  # bytes by which a file is recognised
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
NAMES = ("class", "label", "name", "type", "category", "object")
KINDS = "rect, polygon, circle or ellipse"
ONE_CLASS = "object"

Region = tuple[str, Any, Any]  # what it is called, its shape, its attributes


class Via(ShapeDataSet):
    """Boxes and masks of VIA's regions.

    Args:
        root: the folder, or one file.
        split: a sub-folder or a file of that name; a single file is ``train`` and the split in its name.
        needs: the target fields that are wanted.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
        attribute: the attribute that is the class, where it isn't found as described above.
    """

    format = "via"

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        needs: frozenset[str] = frozenset(),
        on_bad_record: OnBadRecord = "error",
        attribute: str | None = None,
    ) -> None:
        self._attribute = attribute
        super().__init__(root, split, needs=needs, on_bad_record=on_bad_record)

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The splits with a file of VIA."""
        return tuple(_files(root))

    @classmethod
    def sign(cls, path: Path) -> str:
        """A file of VIA."""
        try:
            file = next(iter(_files(path).values()), None)
        except DataError:
            return "files with regions"
        return f"{file.name} with regions" if file is not None and _is_via(file) else ""

    def _image_folders(self) -> list[Path]:
        file = _files(self.root)[self.split]
        beside, base = file.parent, self._own_folder()
        return [base / self.split, base / "images" / self.split, beside, beside / "images", base / "images"]

    def _read(self, root: Path, split: str) -> Drawing:
        files = _files(root)
        self.split = chosen_split(root, split, [*files], f"a JSON or CSV file of VIA, or a folder {split} with one")
        read = {name: [*_pictures(file)] for name, file in files.items()}
        regions = [region for pictures in read.values() for _, found in pictures for region in found]
        key = self._class_attribute([attributes for _, _, attributes in regions])
        drawings = {name: Drawing() for name in read}
        for name, pictures in read.items():
            for picture, found in pictures:
                objects = []
                for record, shape, attributes in found:
                    label, fault = _label(attributes, key)
                    thing = Drawn(-1, label, f"{record} ({label})" if label else record, fault=fault)
                    thing.fault = thing.fault or _draw(thing, shape)
                    objects.append(thing)
                drawings[name].add(picture, objects)
        labels = {thing.label for found in drawings.values() for thing in found.objects if thing.label}
        self.classes = tuple(sorted(labels)) or (ONE_CLASS,)
        self.class_ids = tuple(range(len(self.classes)))
        return drawings[self.split]

    def _class_attribute(self, attributes: list[Any]) -> str | None:
        """The attribute that is the class; None where no region has any.

        Raises:
            DataError: there are several, and none is called as classes usually are.
            UsageError: there is no such attribute as the user states.
        """
        counts = Counter(key for one in attributes if isinstance(one, dict) for key in one if isinstance(key, str))
        if self._attribute is not None:
            if self._attribute not in counts:
                known = ", ".join(map(repr, counts)) or "none"
                raise UsageError(f"via: no region has the attribute {self._attribute!r}; attributes: {known}")
            return self._attribute
        usual = [key for key in counts if key.strip().lower() in NAMES]
        if len(counts) > 1 and len(usual) != 1:
            raise DataError(
                f"{self.root}: regions have the attributes {', '.join(map(repr, counts))}; state which of them is the "
                "class by the option attribute, or call it class"
            )
        return next(iter(usual or counts), None)


def _files(root: Path) -> dict[str, Path]:
    """The file of each split.

    Raises:
        DataError: a folder has several that may be meant.
    """
    if root.is_file():
        name = root.parent.name if split_of(root.parent.name) else root.stem if split_of(root.stem) else "train"
        return {name: root}
    groups = {name: files for name, folder in split_folders(root).items() if (files := _via_files(folder))}
    if not groups:
        files = _via_files(root) or _via_files(root / "annotations")
        if all(split_of(file.stem) for file in files):
            groups = {file.stem: [file] for file in files}
        else:
            groups = {"train": files}
    for files in groups.values():
        if len(files) > 1:
            listed = ", ".join(map(str, files[:3]))
            raise DataError(
                f"{root}: there are several files of VIA, {listed}; expected one per split, or the path of one of them"
            )
    return {name: files[0] for name, files in groups.items()}


def _via_files(folder: Path) -> list[Path]:
    """The files of VIA in a folder; of a JSON and a CSV of one name, the JSON."""
    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in (".json", ".csv") and _is_via(path)]
    named: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: path.suffix.lower() == ".csv"):
        named.setdefault(path.stem, path)
    return sorted(named.values())


def _is_via(file: Path) -> bool:
    """Whether a file begins as VIA's do."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    if file.suffix.lower() == ".csv":
        return all(name.encode() in head for name in COLUMNS)
    return (
        b'"_via_img_metadata"' in head or b'"_via_settings"' in head or (b'"regions"' in head and b'"filename"' in head)
    )


def _pictures(file: Path) -> Iterator[tuple[Picture, list[Region]]]:
    """The images of a file and their regions.

    Raises:
        DataError: it is not one of VIA's.
    """
    if file.suffix.lower() == ".csv":
        yield from _csv_pictures(file)
        return
    content = read_json(file)
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = content["_via_img_metadata"]
    elif isinstance(content, dict) and {"metadata", "view"} <= set(content):
        raise DataError(f"{file}: a project of VIA 3, which is not read; export it there as COCO and open that file")
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds no images; expected a project or annotations of VIA")
    for key, entry in content.items():
        regions = entry.get("regions") if isinstance(entry, dict) else None
        if isinstance(regions, dict):  # VIA 1
            regions = [*regions.values()]
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not isinstance(regions, list):
            raise DataError(f"{file}: the entry {key[:80]!r} has no filename and regions; expected an image of VIA")
        found: list[Region] = []
        for index, region in enumerate(regions):
            parts = region if isinstance(region, dict) else {}
            found.append(
                (
                    f"{name[:200]}: region {index}",
                    parts.get("shape_attributes"),
                    parts.get("region_attributes"),
                )
            )
        yield Picture(name, (0, 0), file), found


def _csv_pictures(file: Path) -> Iterator[tuple[Picture, list[Region]]]:
    """The same of a CSV file: one line per region, or per image without any."""
    rows = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    found: dict[str, list[Region]] = {}
    try:
        header = [cell.lstrip("#\ufeff ") for cell in next(rows, [])]
        if not set(COLUMNS) <= set(header):
            raise DataError(f"{file}: line 1 is {','.join(header)[:100]!r}; expected columns {', '.join(COLUMNS)}")
        places = [header.index(name) for name in COLUMNS]
        for cells in rows:
            if not cells or cells[0].startswith("#"):
                continue
            if len(cells) <= max(places):
                raise DataError(f"{file}: line {rows.line_num} has {len(cells)} columns; expected {len(header)}")
            name, shape, attributes = (cells[place] for place in places)
            if not name:
                raise DataError(f"{file}: line {rows.line_num} has no filename")
            regions = found.setdefault(name, [])
            where = f"{file}: line {rows.line_num}"
            values = [
                parse_json(text or "{}", f"{where}: {what}")
                for text, what in zip((shape, attributes), COLUMNS[1:], strict=True)
            ]
            if values[0] != {}:
                regions.append((f"line {rows.line_num}", *values))
    except csv.Error as error:
        raise DataError(f"{file}: line {rows.line_num}: not valid CSV ({error})") from None
    for name, regions in found.items():
        yield Picture(name, (0, 0), file), regions


def _label(attributes: Any, key: str | None) -> tuple[str, str]:
    """The name of a region's class, and what is wrong with it."""
    if key is None:
        return ONE_CLASS, ""
    value = attributes.get(key) if isinstance(attributes, dict) else None
    if isinstance(value, dict):  # check boxes
        checked = [name for name, on in value.items() if on is True or on == "true"]
        if len(checked) > 1:
            return "", f"has several classes checked as {key!r}: {reprlib.repr(checked)}; expected one"
        value = checked[0] if checked else None
    if isinstance(value, (str, int)) and str(value).strip():
        return str(value).strip(), ""
    return "", f"has no {key!r} among its attributes, which is the class of others"


def _draw(thing: Drawn, shape: Any) -> str:
    """Fill the outline of ``thing``; what is wrong with it, "" where nothing is."""
    kind = shape.get("name") if isinstance(shape, dict) else None
    if not isinstance(kind, str):
        return f"has no shape_attributes with a name; expected a {KINDS}"
    if kind in ("polygon", "polyline") and isinstance(shape.get("all_points_x"), list):
        xs, ys = shape["all_points_x"], shape.get("all_points_y")
        points = None
        if isinstance(ys, list) and len(xs) == len(ys):
            points = points_of([[x, y] for x, y in zip(xs, ys, strict=True)])
        if points is None:
            return "has all_points_x and all_points_y that are no lists of equally many finite numbers"
        if kind == "polygon":
            if len(points) < 3:
                return f"is a polygon of {len(points)} points; expected at least 3"
            thing.rings.append(points)
            return ""
    keys = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    if kind not in keys:
        return f"is a {kind[:50]!r}, which is no object; expected a {KINDS}"
    found = points_of([[shape.get(key), 0] for key in keys[kind]])
    if found is None:
        return f"is a {kind} whose {', '.join(keys[kind])} are not all finite numbers"
    values = found[:, 0].tolist()
    if kind == "rect":
        x, y, width, height = values
        thing.boxes.append((x, y, x + width, y + height))
    elif kind == "circle":
        thing.rings.append(ellipse(values[0], values[1], values[2], values[2]))
    else:
        x, y, a, b = values
        thing.rings.append(ellipse(x, y, a, b, as_number(shape.get("theta")) or 0.0))
    return ""
