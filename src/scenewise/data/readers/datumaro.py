"""Datumaro's own format: ``datumaro:PATH``, as CVAT and Datumaro export it.

    PATH/annotations/SPLIT.json          the classes, and all images of the split with their annotations
    PATH/images/SPLIT/NAME.jpg           or PATH/images/NAME.jpg

A single split that is called ``default`` is ``train``, too. ``bbox``, ``polygon``, ``mask``, ``ellipse`` and
``rotated_bbox`` become objects as described in :mod:`scenewise.data.readers.shapes`; annotations of the same label and
the same group, other than 0, are one object. ``points`` become the keypoints of the object of their group. ``label``
and ``caption`` speak of the whole image and are passed over; ``polyline``, ``cuboid`` and ``skeleton`` are no objects.
Classes are in the order of the file, and their keypoints as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scenewise.data.instances import Bool, Float64
from scenewise.data.names import split_of
from scenewise.data.readers.shapes import Drawing, Drawn, Picture, ShapeDataSet, chosen_split, ellipse, points_of, unite
from scenewise.errors import DataError
from scenewise.files.json_file import as_number, as_side, read_json
from scenewise.ops import rle
from scenewise.types import Skeleton

HEAD = 1 << 14  # bytes by which a file is recognised
KINDS = "bbox, polygon, mask, ellipse, rotated_bbox or points"
OF_IMAGES = ("label", "caption")  # annotations of the whole image

Joints = dict[str, tuple[str, ...]]  # the names of the keypoints of a class


class Datumaro(ShapeDataSet):
    """Boxes, masks and keypoints of Datumaro's files.

    Args:
        root: the folder, or one annotation file.
        split: the name of a file in annotations.
        needs: the target fields that are wanted.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
    """

    format = "datumaro"

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The files in annotations."""
        return tuple(_files(root))

    @classmethod
    def sign(cls, path: Path) -> str:
        """A file with items."""
        file = next(iter(_files(path).values()), None)
        return f"{file.name} with items" if file is not None and _is_datumaro(file) else ""

    def _own_folder(self) -> Path:
        if self.root.is_dir():
            return self.root
        return self.root.parent.parent if self.root.parent.name == "annotations" else self.root.parent

    def _image_folders(self) -> list[Path]:
        images = self._own_folder() / "images"
        return [images / self.split, images, self._own_folder()]

    def _read(self, root: Path, split: str) -> Drawing:
        files = _files(root)
        self.split = chosen_split(root, split, [*files], f"a file annotations/{split}.json")
        file = files[self.split]
        content = read_json(file)
        items = content.get("items") if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise DataError(f"{file}: has no list of items; expected a file of Datumaro")
        joints = self._set_classes(file, content.get("categories"))
        drawing = Drawing()
        for index, item in enumerate(items):
            name, size, fault = _picture(item)
            listed = (item.get("annotations") or []) if not fault else []
            if not fault and not isinstance(listed, list):
                fault = "has annotations that are no list"
            if fault:
                drawing.bad_files.append((file, f"items[{index}] {fault}"))
            else:
                drawing.add(Picture(name, size, file), _objects(name, listed, self.classes, joints))
        return drawing

    def _set_classes(self, file: Path, categories: Any) -> Joints:
        """Fill the classes and the skeleton; the names of the keypoints of each class."""
        labels = categories.get("label") if isinstance(categories, dict) else None
        listed = labels.get("labels") if isinstance(labels, dict) else None
        entries = listed if isinstance(listed, list) else []
        names = [str(entry["name"]) for entry in entries if isinstance(entry, dict) and entry.get("name")]
        if not names or len(names) < len(entries):
            raise DataError(f"{file}: categories.label.labels is not a list of names; expected the classes")
        double = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if double is not None:
            raise DataError(f"{file}: several labels have the name {double!r}; expected unique names")
        self.classes, self.class_ids = tuple(names), tuple(range(len(names)))
        points = categories.get("points")
        items = points.get("items") if isinstance(points, dict) else None
        joints: Joints = {}
        links: list[tuple[int, int]] = []
        for item in items if isinstance(items, list) else []:
            label, found = _joints(item, len(names), f"{file}: categories.points")
            joints[names[label]] = found
            links = _links(item, len(found))
        if joints:
            together = tuple(dict.fromkeys(name for found in joints.values() for name in found))
            self.skeleton = Skeleton(together, tuple(links) if len(joints) == 1 else ())
        return joints


def _joints(item: Any, labels: int, where: str) -> tuple[int, tuple[str, ...]]:
    """The label that an entry of categories.points is of, and the names of its keypoints."""
    label, names = (item.get("label_id"), item.get("labels")) if isinstance(item, dict) else (None, None)
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    if type(label) is not int or not 0 <= label < labels or not sound:
        raise DataError(f"{where}: {str(item)[:100]}; expected a label_id and unique names of keypoints as labels")
    return label, tuple(names or ())


def _links(item: dict[str, Any], count: int) -> list[tuple[int, int]]:
    """The links between the keypoints, which the file counts from 1; those that are none are left out of drawings."""
    joints = item.get("joints")
    pairs = [link for link in joints if isinstance(link, list) and len(link) == 2] if isinstance(joints, list) else []
    return [(a - 1, b - 1) for a, b in pairs if all(type(end) is int and 1 <= end <= count for end in (a, b))]


def _files(root: Path) -> dict[str, Path]:
    """The annotation file of each split; those with a split's name first."""
    if root.is_file():
        return {root.stem: root}
    files = [path for path in sorted((root / "annotations").glob("*.json")) if _is_datumaro(path)]
    ranks = {"train": 0, "val": 1, "test": 2, "": 3}
    files.sort(key=lambda path: ranks[split_of(path.stem)])
    return {path.stem: path for path in files}


def _is_datumaro(file: Path) -> bool:
    """Whether a file begins as Datumaro's do."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    return b'"categories"' in head and (b'"items"' in head or b'"labels"' in head) and b'"images"' not in head


def _picture(item: Any) -> tuple[str, tuple[int, int], str]:
    """The image's file and (height, width), and what is wrong with an item."""
    if not isinstance(item, dict):
        return "", (0, 0), "is no object; expected an image with annotations"
    image = item.get("image")
    path, stated = (image.get("path"), image.get("size")) if isinstance(image, dict) else (None, None)
    name = path if isinstance(path, str) and path else item.get("id")
    if not isinstance(name, str) or not name:
        return "", (0, 0), "has neither image.path nor an id; expected the name of its image"
    sides = [as_side(side) for side in stated] if isinstance(stated, list) and len(stated) == 2 else [0, 0]
    if None in sides:
        return "", (0, 0), f"has the size {str(stated)[:80]}; expected [height, width] in pixels"
    return name, (sides[0] or 0, sides[1] or 0), ""


def _objects(name: str, listed: Sequence[Any], classes: Sequence[str], joints: Joints) -> list[Drawn]:
    """The objects of one image."""
    objects: dict[Any, Drawn] = {}  # by what groups them
    points: list[tuple[int, Any, Drawn]] = []
    for index, entry in enumerate(listed):
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind in OF_IMAGES:
            continue
        label = entry.get("label_id") if isinstance(entry, dict) else None
        label_name = classes[label] if type(label) is int and 0 <= label < len(classes) else ""
        thing = Drawn(-1, label_name, f"{name[:200]}: annotations[{index}]")
        if label_name:
            thing.record += f" ({thing.label})"
            thing.fault = _draw(thing, entry, str(kind), joints)
        else:
            thing.fault = f"has the label_id {str(label)[:50]}; expected that of one of the {len(classes)} labels"
        attributes = entry.get("attributes") if isinstance(entry, dict) else None
        thing.ignore = isinstance(attributes, dict) and attributes.get("is_crowd") is True
        group = entry.get("group") if isinstance(entry, dict) else None
        group = group if type(group) is int else 0
        if kind == "points" and not thing.fault:
            points.append((index, group, thing))
        elif not group or thing.fault:
            objects[f"annotation {index}"] = thing
        elif (thing.label, group) in objects:
            unite(objects[thing.label, group], thing)
        else:
            objects[thing.label, group] = thing
    for index, group, point in points:
        owner = objects.get((point.label, group)) if group else None
        if owner is not None and not owner.joints:
            owner.joints = point.joints
        else:
            found = "no object" if owner is None else "an object that has keypoints already"
            point.fault = f"is of the group {group} of {found}; expected that of one object of its label"
            objects[f"annotation {index}"] = point
    return [*objects.values()]


def _draw(thing: Drawn, entry: dict[str, Any], kind: str, joints: Joints) -> str:
    """Fill the outline of ``thing``; what is wrong with it, "" where nothing is."""
    if kind == "mask":
        return _draw_code(thing, entry.get("rle"))
    if kind in ("bbox", "rotated_bbox"):
        return _draw_box(thing, entry, kind)
    if kind not in ("polygon", "ellipse", "points"):
        return f"is a {kind[:50]!r}, which is no object; expected a {KINDS}"
    flat = entry.get("points")
    pairs = [flat[i : i + 2] for i in range(0, len(flat), 2)] if isinstance(flat, list) else None
    points = points_of(pairs)
    if points is None or not len(points):
        return f"is a {kind} whose points are no list of x, y, x, y, ... with finite numbers"
    if kind == "points":
        return _draw_points(thing, points, entry.get("visibility"), joints.get(thing.label, ()))
    if kind == "ellipse":
        if len(points) != 2:
            return f"is an ellipse of {len(points)} points; expected the 2 corners of its box"
        (x, y), (a, b) = points.mean(0).tolist(), (np.ptp(points, axis=0) / 2).tolist()
        thing.rings.append(ellipse(x, y, a, b))
    elif len(points) < 3:
        return f"is a polygon of {len(points)} points; expected at least 3"
    else:
        thing.rings.append(points)
    return ""


def _draw_box(thing: Drawn, entry: dict[str, Any], kind: str) -> str:
    keys = ("x", "y", "w", "h") if kind == "bbox" else ("cx", "cy", "w", "h")
    stated = entry.get("bbox")
    if isinstance(stated, list) and len(stated) == 4:
        values = points_of([[value, 0] for value in stated])
    else:
        values = points_of([[entry.get(key), 0] for key in keys])
    if values is None:
        return f"is a {kind} without four finite numbers; expected {', '.join(keys)} in pixels"
    x, y, width, height = values[:, 0].tolist()
    if kind == "bbox":
        thing.boxes.append((x, y, x + width, y + height))
        return ""
    if isinstance(stated, list):  # the box that is not turned yet
        x, y = x + width / 2, y + height / 2
    attributes = entry.get("attributes")
    turned = entry.get("r", attributes.get("rotation") if isinstance(attributes, dict) else None)
    angle = math.radians(as_number(turned) or 0.0)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    thing.rings.append(corners @ turn + (x, y))
    return ""


def _draw_points(thing: Drawn, points: Float64, visibility: Any, names: Sequence[str]) -> str:
    """Keypoints, in the order of their names; visibility 0 absent, 1 hidden, 2 visible, as in COCO."""
    seen = visibility if isinstance(visibility, list) else [2] * len(points)
    if len(points) != len(names) or len(seen) != len(points) or not all(v in (0, 1, 2) for v in seen):
        return (
            f"has {len(points)} points and {len(seen)} values of visibility; expected {len(names)} of each, as many as "
            "categories.points names, with visibility 0, 1 or 2"
        )
    for name, (x, y), v in zip(names, points.tolist(), seen, strict=True):
        if v:
            thing.joints[name] = (x, y, int(v))
    return ""


def _draw_code(thing: Drawn, code: Any) -> str:
    """A mask from its run-length code."""
    try:
        size, counts = rle.parse(code if isinstance(code, dict) else {}, where="mask")
        pixels: Bool = rle.decode({"size": size, "counts": counts.tolist()}, size, where="mask")
    except DataError as error:
        return f"has a mask that is none: {error}"
    if not pixels.any():
        return "has a mask without a pixel"
    lines, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    y, x = int(lines[0]), int(columns[0])
    thing.bitmap = pixels[y : int(lines[-1]) + 1, x : int(columns[-1]) + 1], x, y
    return ""
