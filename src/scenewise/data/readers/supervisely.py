"""A Supervisely project: ``supervisely:PATH``.

    PATH/meta.json                       the classes
    PATH/DATASET/ann/a.jpg.json          one file per image; a split is what a data set is called
    PATH/DATASET/img/a.jpg

A project with one data set is ``train`` by whatever name. ``rectangle``, ``polygon`` (with holes), ``bitmap`` and
``ellipse`` become objects as described in :mod:`scenewise.data.readers.shapes`; ``point``, ``line``, ``graph``,
``cuboid`` do not. Supervisely counts pixels: the last one belongs to a rectangle, which is x2 + 1, y2 + 1 here, and a
vertex is the centre of a pixel, to which 0.5 is added. Classes are in the order of meta.json.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenewise.data.readers.shapes import (
    MAX_SIDE,
    Drawing,
    Drawn,
    Picture,
    ShapeDataSet,
    chosen_split,
    ellipse,
    points_of,
)
from scenewise.errors import DataError
from scenewise.files.json_file import as_number, as_side, read_json

KINDS = "rectangle, polygon, bitmap or ellipse"
MAX_BYTES = 1 << 28  # of a bitmap after decompression


class Supervisely(ShapeDataSet):
    """Boxes and masks of a Supervisely project.

    Args:
        root: the folder of the project, or of one data set in it.
        split: the name of a data set.
        needs: the target fields that are wanted.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
    """

    format = "supervisely"
    takes_file = False

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The data sets of the project."""
        return tuple(_data_sets(root))

    @classmethod
    def sign(cls, path: Path) -> str:
        """meta.json and folders of annotations."""
        found = _data_sets(path) if path.is_dir() else {}
        return f"meta.json and {next(iter(found))}/ann" if found and _meta_of(path).is_file() else ""

    def _image_folders(self) -> list[Path]:
        return [_data_sets(self.root)[self.split] / "img"]

    def _read(self, root: Path, split: str) -> Drawing:
        sets = _data_sets(root)
        self.split = chosen_split(root, split, [*sets], f"a folder {split} with folders ann and img")
        shapes = self._set_classes(_meta_of(root))
        drawing = Drawing()
        for file in sorted((sets[self.split] / "ann").glob("*.json")):
            if file.name.startswith("."):
                continue
            try:
                picture, objects = _read_file(file, shapes)
            except DataError as error:
                drawing.bad_files.append((file, str(error).removeprefix(f"{file}: ")))
            else:
                drawing.add(picture, objects)
        return drawing

    def _set_classes(self, meta: Path) -> dict[str, str]:
        """Fill the classes; the usual shape of each."""
        content = read_json(meta, what="the classes of a Supervisely project")
        listed = content.get("classes") if isinstance(content, dict) else None
        if not isinstance(listed, list) or not listed:
            raise DataError(f"{meta}: has no list of classes; expected entries with a title and a shape")
        shapes: dict[str, str] = {}
        for index, entry in enumerate(listed):
            title = entry.get("title") if isinstance(entry, dict) else None
            if not isinstance(title, str) or not title:
                raise DataError(f"{meta}: classes[{index}] has no title; expected the name of a class")
            if title in shapes:
                raise DataError(f"{meta}: several classes have the title {title!r}; expected unique titles")
            shapes[title] = str(entry.get("shape"))
        self.classes, self.class_ids = tuple(shapes), tuple(range(len(shapes)))
        return shapes


def _meta_of(root: Path) -> Path:
    """The project's meta.json, where ``root`` is the project or one data set of it."""
    return next(
        (path for path in (root / "meta.json", root.parent / "meta.json") if path.is_file()), root / "meta.json"
    )


def _data_sets(root: Path) -> dict[str, Path]:
    """The folders of a project that hold annotations, by name, those in the folder ``datasets`` of another one as
    ``outer/inner``; or the one that ``root`` itself is."""
    if (root / "ann").is_dir():
        return {root.name: root}
    found: dict[str, Path] = {}
    for folder in _folders(root):
        if (folder / "ann").is_dir():
            found[folder.name] = folder
        inner = _data_sets(folder / "datasets") if (folder / "datasets").is_dir() else {}
        found |= {f"{folder.name}/{name}": place for name, place in inner.items()}
    return found


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())
    except OSError:
        return []


def _read_file(file: Path, shapes: dict[str, str]) -> tuple[Picture, list[Drawn]]:
    content = read_json(file)
    listed = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"{file}: has no list of objects; expected an annotation of Supervisely")
    stated = content.get("size")
    sides = [as_side(stated.get(side)) if isinstance(stated, dict) else None for side in ("height", "width")]
    if None in sides:
        raise DataError(f"{file}: size is {str(stated)[:80]}; expected height and width in pixels")
    objects = [*_objects(listed, shapes)]
    return Picture(file.name.removesuffix(".json"), (sides[0] or 0, sides[1] or 0), file), objects


def _objects(listed: list[Any], shapes: dict[str, str]) -> Iterator[Drawn]:
    for index, entry in enumerate(listed):
        title = entry.get("classTitle") if isinstance(entry, dict) else None
        label = title if isinstance(title, str) else ""
        thing = Drawn(-1, label, f"object {index} ({label})" if label else f"object {index}")
        if label not in shapes:
            thing.fault = f"has the classTitle {str(title)[:80]!r}, which is no class of meta.json"
        else:
            kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else shapes[label])
            thing.fault = _draw(thing, entry, str(kind))
        yield thing


def _draw(thing: Drawn, entry: dict[str, Any], kind: str) -> str:
    """Fill the outline of ``thing``; what is wrong with it, "" where nothing is."""
    if kind == "bitmap":
        return _draw_bitmap(thing, entry.get("bitmap"))
    if kind == "ellipse":
        found = points_of([[entry.get(name), 0] for name in ("x", "y", "radiusX", "radiusY")])
        values = (entry.get("center") or entry.get("points") or {}) if found is None else {}
        if found is None and isinstance(values, dict):
            found = points_of([[values.get(name), 0] for name in ("x", "y", "rx", "ry")])
        if found is None:
            return "is an ellipse whose centre and radii are not all finite numbers"
        x, y, a, b = found[:, 0].tolist()
        thing.rings.append(ellipse(x + 0.5, y + 0.5, a, b, np.radians(as_number(entry.get("angle")) or 0.0).item()))
        return ""
    if kind not in ("rectangle", "polygon"):
        return f"is a {kind[:50]!r}, which is no object; expected a {KINDS}"
    points = entry.get("points")
    outer = points_of(points.get("exterior")) if isinstance(points, dict) else None
    if outer is None:
        return f"is a {kind} whose points.exterior is not a list of x, y with finite numbers"
    if kind == "rectangle":
        if len(outer) != 2:
            return f"is a rectangle of {len(outer)} points; expected 2"
        (x1, y1), (x2, y2) = outer.min(0).tolist(), outer.max(0).tolist()
        thing.boxes.append((x1, y1, x2 + 1, y2 + 1))
        return ""
    inner = (points or {}).get("interior") or []
    holes = [points_of(hole) for hole in inner] if isinstance(inner, list) else [None]
    if len(outer) < 3 or any(hole is None or len(hole) < 3 for hole in holes):
        return "is a polygon that has, or whose hole has, fewer than 3 points with finite numbers"
    thing.rings.append(outer + 0.5)
    thing.holes += [hole + 0.5 for hole in holes if hole is not None]
    return ""


def _draw_bitmap(thing: Drawn, entry: Any) -> str:
    """A bitmap: a PNG, compressed, as base64; ``origin`` is its first pixel."""
    data, origin = (entry.get("data"), entry.get("origin")) if isinstance(entry, dict) else (None, None)
    place = points_of([origin])
    if not isinstance(data, str) or place is None or np.abs(place).max() > MAX_SIDE:
        return "is a bitmap without data and an origin of x, y; expected both"
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(data, validate=True), MAX_BYTES)
        with Image.open(io.BytesIO(raw)) as picture:
            if max(picture.size) > MAX_SIDE:
                return f"is a bitmap of {picture.width} x {picture.height} pixels; expected at most {MAX_SIDE} per side"
            bands = np.array(picture.convert("RGBA"))
    except (binascii.Error, zlib.error):
        return "is a bitmap whose data is no compressed base64 text"
    except Exception as error:  # whatever broken bytes lead to: OSError, SyntaxError, struct.error, ...
        return f"is a bitmap that can't be decoded ({str(error)[:80]})"
    pixels = (bands[..., 3] > 0) & (bands[..., :3] > 0).any(-1)
    if not pixels.any():
        return "is a bitmap without a pixel"
    x, y = place[0].tolist()
    thing.bitmap = pixels, int(x), int(y)
    return ""
