"""labelme's JSON files, one per image: ``labelme:PATH``.

    PATH/NAME.json, NAME.jpg             a folder with images beside their files, which is the split train; or
    PATH/SPLIT/NAME.json, NAME.jpg       one such folder per split: train, val (or valid), test
    PATH/labels.txt                      optional: one class name per line; those that begin with __ are passed over

JSON files may also be in sub-folders, and images in a folder ``images`` next to them. Without labels.txt, classes are
the sorted labels of all files in all splits. ``rectangle``, ``polygon`` (and ``rotation``), ``circle`` and ``mask``
become objects as described in :mod:`scenewise.data.readers.shapes`; ``point`` becomes a keypoint of the object with the
same group_id, named by its label; shapes of the same label and group_id are one object. Points count from the image's
upper left corner. ``line`` and ``linestrip`` are no objects.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenewise.data.folders import read_lines
from scenewise.data.instances import Float64
from scenewise.data.readers.shapes import (
    MAX_SIDE,
    Drawing,
    Drawn,
    Picture,
    ShapeDataSet,
    chosen_split,
    ellipse,
    points_of,
    split_folders,
    unite,
)
from scenewise.errors import DataError
from scenewise.files.json_file import as_side, read_json
from scenewise.types import Skeleton

HEAD = 1 << 16  # bytes by which a file is recognised
LOOKED_AT = 5  # files by which a folder is told, of ...
MAX_LISTED = 20_000  # ... about so many
BASES = ("annotations", "labels", "json", "labelme")  # folders in which those of the splits may be
KINDS = "rectangle, polygon, circle, mask or point"


class Labelme(ShapeDataSet):
    """Boxes, masks and keypoints of labelme's files.

    Args:
        root: the folder, or one JSON file.
        split: a sub-folder; without sub-folders of that kind, ``train`` is the whole folder.
        needs: the target fields that are wanted; bad keypoints are no fault where only boxes are.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
    """

    format = "labelme"

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The sub-folders with JSON files that are named after a split; else ``train``."""
        return tuple(name for name, folder in _folders(root).items() if next(_files(folder), None) is not None)

    @classmethod
    def sign(cls, path: Path) -> str:
        """A JSON file with shapes."""
        files = [path] if path.is_file() else islice(_some_files(path), LOOKED_AT)
        found = next((file for file in files if is_labelme(file)), None)
        return "" if found is None else f"{found.name} with shapes"

    def _image_folders(self) -> list[Path]:
        folder = _folders(self.root)[self.split]
        if folder.is_file():
            return [folder.parent]
        base = self._own_folder()
        return [folder, folder / "images", base / "images" / self.split, base / "images", base]

    def _read(self, root: Path, split: str) -> Drawing:
        folders = _folders(root)
        self.split = chosen_split(root, split, self.splits(root), f"JSON files of labelme in a folder {split}")
        labels: set[str] = set()
        joints: set[str] = set()
        drawing = Drawing()
        for name, folder in folders.items():
            found = Drawing()
            for file in _files(folder):
                try:
                    picture, objects = _read_file(file)
                except DataError as error:
                    found.bad_files.append((file, str(error).removeprefix(f"{file}: ")))
                    continue
                found.add(picture, objects)
            labels |= {thing.label for thing in found.objects if not thing.fault}
            joints |= {joint for thing in found.objects for joint in thing.joints}
            if name == self.split:
                drawing = found
        listing = self._own_folder() / "labels.txt"
        named = [name for name in read_lines(listing) if not name.startswith("__")] if listing.is_file() else []
        self.classes = tuple(dict.fromkeys(named)) or tuple(sorted(labels))
        self.class_ids = tuple(range(len(self.classes)))
        if joints:
            self.skeleton = Skeleton(tuple(sorted(joints)))
        return drawing


def is_labelme(file: Path) -> bool:
    """Whether a file begins or ends as labelme's do; the image that it may hold is passed over."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
            stream.seek(max(0, file.stat().st_size - HEAD))
            tail = stream.read(HEAD)
    except OSError:
        return False
    return b'"shapes"' in head and any(b'"imagePath"' in part or b'"imageHeight"' in part for part in (head, tail))


def _folders(root: Path) -> dict[str, Path]:
    """The folder of each split, or the one file; with no folders of splits, all of ``root`` is train.

    Raises:
        DataError: there are files beside the folders of splits.
    """
    if root.is_file():
        return {"train": root}
    for base in (root, *(root / name for name in BASES)):
        found = {name: folder for name, folder in split_folders(base).items() if any(True for _ in _files(folder))}
        if found:
            for file in sorted(base.glob("*.json")):
                if is_labelme(file):
                    raise DataError(f"{file}: is beside folders of splits; expected it in one of {', '.join(found)}")
            return found
    return {"train": root}


def _files(folder: Path) -> Iterator[Path]:
    """The JSON files in a folder and its sub-folders, or the one file that it is."""
    if folder.is_file():
        yield folder
        return
    for path in sorted(folder.rglob("*.json")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file():
            yield path


def _some_files(folder: Path) -> Iterator[Path]:
    """JSON files in a folder and its sub-folders, in any order; only some of its entries are looked at."""
    looked_at = 0
    for inner, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(inner, name) for name in names if name.endswith(".json") and not name.startswith("."))
        looked_at += len(names)
        if looked_at > MAX_LISTED:
            return


def _read_file(file: Path) -> tuple[Picture, list[Drawn]]:
    """The image and the objects of one file.

    Raises:
        DataError: it is not one of labelme's; what is wrong with single shapes is their own fault.
    """
    content = read_json(file)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{file}: has no list of shapes; expected a JSON file of labelme")
    height, width = as_side(content.get("imageHeight")), as_side(content.get("imageWidth"))
    if height is None or width is None:
        stated = f"{content.get('imageHeight')!r} and {content.get('imageWidth')!r}"
        raise DataError(f"{file}: imageHeight and imageWidth are {stated[:100]}; expected numbers of pixels")
    name = content.get("imagePath")
    if not isinstance(name, str) or not name:
        name = file.stem
    size = (height, width) if height and width else (0, 0)
    return Picture(name, size, file), _objects(shapes)


def _objects(shapes: list[Any]) -> list[Drawn]:
    objects: dict[Any, Drawn] = {}  # by what groups them
    points: list[tuple[int, Any, Drawn]] = []
    for index, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        label = str(label) if isinstance(label, (str, int)) and label != "" else ""
        thing = Drawn(-1, label, f"shape {index} ({label})" if label else f"shape {index}")
        group = shape.get("group_id") if isinstance(shape, dict) else None
        group = group if isinstance(group, (int, str)) else None
        if not label:
            thing.fault = "has no label; expected the name of its class"
        else:
            thing.fault = _draw(thing, shape)
        if thing.joints:
            points.append((index, group, thing))
        elif group is None or thing.fault:
            objects[f"shape {index}"] = thing
        else:
            unite(objects.setdefault((label, group), Drawn(-1, label, thing.record)), thing)
    for index, group, point in points:
        owners = [thing for key, thing in objects.items() if isinstance(key, tuple) and key[1] == group]
        if group is not None and len(owners) == 1 and point.label not in owners[0].joints:
            owners[0].joints |= point.joints
        else:
            found = (
                "no object has" if not owners else "several objects have" if len(owners) > 1 else "another point has"
            )
            point.fault = f"is a point, and {found} its group_id {group!r}; expected that of one rectangle or polygon"
            objects[f"shape {index}"] = point
    return [*objects.values()]


def _draw(thing: Drawn, shape: dict[str, Any]) -> str:
    """Fill the outline of ``thing``; what is wrong with it, "" where nothing is."""
    kind = shape.get("shape_type") or "polygon"  # the first versions had nothing else
    points = points_of(shape.get("points"))
    if points is None:
        return "has points that are no list of x, y with finite numbers"
    expected = {"rectangle": (2, 4), "circle": (2,), "point": (1,), "mask": (2,), "rotation": (4,)}.get(str(kind))
    if expected is not None and len(points) not in expected:
        return f"is a {kind} of {len(points)} points; expected {' or '.join(map(str, expected))}"
    if kind == "rectangle":
        thing.boxes.append((*points.min(0).tolist(), *points.max(0).tolist()))
    elif kind in ("polygon", "rotation"):
        if len(points) < 3:
            return f"is a polygon of {len(points)} points; expected at least 3"
        thing.rings.append(points)
    elif kind == "circle":
        radius = math.dist(points[0], points[1])
        thing.rings.append(ellipse(points[0, 0].item(), points[0, 1].item(), radius, radius))
    elif kind == "mask":
        return _draw_mask(thing, points, shape.get("mask"))
    elif kind == "point":
        thing.joints[thing.label] = (*points[0].tolist(), 2)
    else:
        return f"is a {str(kind)[:50]!r}, which is no object; expected a {KINDS}"
    return ""


def _draw_mask(thing: Drawn, points: Float64, text: Any) -> str:
    """A bitmap, PNG as base64, whose first pixel is at the first of two points."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            if max(picture.size) > MAX_SIDE:
                return f"has a mask of {picture.width} x {picture.height} pixels; expected at most {MAX_SIDE} per side"
            pixels = np.array(picture.convert("L")) > 0
    except (TypeError, ValueError, binascii.Error):
        return "has a mask that is no image as base64 text"
    except Exception as error:  # whatever broken bytes lead to: OSError, SyntaxError, struct.error, ...
        return f"has a mask that can't be decoded ({str(error)[:80]})"
    x, y = (math.floor(value + 0.5) for value in points.min(0).tolist())
    if max(abs(x), abs(y)) > MAX_SIDE:
        return f"has a mask at ({x}, {y}); expected a place in the image"
    if not pixels.any():
        return "has a mask without a pixel"
    thing.bitmap = pixels, x, y
    return ""
