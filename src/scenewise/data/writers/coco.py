"""COCO: ``annotations/instances_SPLIT.json`` with its images in ``SPLIT/``.

Boxes, masks and keypoints of a split stand in one file, which the reader takes for both. Masks are polygons where the
source has them as polygons, else run-length codes, which are exact. Areas are the source's, else those of the mask or
the box. Annotations are written one by one, so that memory does not grow with them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from scenewise.data.writers.base import Float64, Record, Writer, short
from scenewise.ops.polygons import SCALE
from scenewise.types import Skeleton

DIGITS = 3  # after the point, where the pixels of the polygon are the same


@dataclass
class _Split:
    """The file of a split that is being written."""

    path: Path
    stream: IO[str]
    images: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0  # of annotations


class CocoWriter(Writer):
    """Writes COCO's annotation files."""

    format = "coco"
    holds = frozenset({"boxes", "labels", "ignore", "area", "masks", "keypoints", "visibility"})
    stems: ClassVar[bool] = False

    def begin(self) -> None:
        """Say what is lost of the data set as a whole."""
        self._files: dict[str, _Split] = {}
        self._images = self._annotations = 0
        self._posed: set[int] = set()  # labels of objects with keypoints
        own = self.whole.class_ids
        rising = own is not None and list(own) == sorted(set(own))
        self._ids = tuple(own) if own is not None and rising else tuple(range(1, len(self.whole.classes) + 1))
        self.renumbered(self._ids)
        self.lose_colors()
        skeleton = self.whole.skeleton
        stated = None if skeleton is None or "keypoints" not in self.whole.fields else skeleton.pairs
        if stated is not None and skeleton is not None and Skeleton(skeleton.names).sides() != tuple(sorted(stated)):
            what = "pairs of left and right keypoints, which the keypoints' names don't tell"
            self.losses.lose(what, "left out", 0, self.whole.source)

    def add(self, record: Record) -> None:
        """Write one image with its labels."""
        split = self._files.get(record.split) or self._open(record.split)
        self._images += 1
        number = self._images if record.number is None else record.number
        height, width = record.size
        name = self.place_image(record, record.split)
        split.images.append({"id": number, "file_name": name, "height": height, "width": width})
        for annotation in self._objects(record, number):
            split.stream.write(",\n" if split.count else "\n")
            json.dump(annotation, split.stream, ensure_ascii=False, allow_nan=False)
            split.count += 1

    def finish(self) -> None:
        """Write images and categories to the files of all splits."""
        categories = [self._category(label) for label in range(len(self.whole.classes))]
        for split in self._files.values():
            split.stream.write('\n],\n"images": ' + json.dumps(split.images, ensure_ascii=False))
            split.stream.write(',\n"categories": ' + json.dumps(categories, ensure_ascii=False, indent=1) + "}\n")
            split.stream.close()

    def _open(self, name: str) -> _Split:
        path = self.folder / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        split = self._files[name] = _Split(path, path.open("w", encoding="utf-8"))
        split.stream.write('{"annotations": [')
        return split

    def _category(self, label: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": self._ids[label], "name": self.whole.classes[label]}
        if "keypoints" in self.whole.fields and (label in self._posed or not self._posed):
            skeleton = self.whole.skeleton or Skeleton()
            entry["keypoints"] = list(skeleton.names) or [f"keypoint {i + 1}" for i in range(self._points)]
            entry["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.links]
        return entry

    _points = 0

    def _objects(self, record: Record, image: int) -> list[dict[str, Any]]:
        """The annotations of an image."""
        boxes, labels, ignored = record.boxes(), record.labels(), record.ignored()
        corners = np.array(short(boxes)).reshape(-1, 4)
        sides = _sides(corners)
        masks = _masks(record) if "masks" in self.whole.fields else [None] * len(labels)
        areas = self._areas(record, boxes)
        found = []
        for k, label in enumerate(labels):
            self._annotations += 1
            entry: dict[str, Any] = {
                "id": self._annotations,
                "image_id": image,
                "category_id": self._ids[label],
                "bbox": [*corners[k, :2].tolist(), *sides[k].tolist()],
                "area": areas[k],
                "iscrowd": int(ignored[k]),
            }
            if masks[k] is not None:
                entry["segmentation"] = masks[k]
            elif "masks" in self.whole.fields and record.masked[k]:
                where = f"{record.split}, image {record.name}"
                self.losses.lose("object{s} whose mask has no pixel", "written without a mask", 1, where)
            if "keypoints" in self.whole.fields:
                entry |= self._keypoints(record, k, label)
            found.append(entry)
        return found

    def _areas(self, record: Record, boxes: Float64) -> list[float]:
        target = record.target
        if "area" in target:
            return short(target["area"].numpy())
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if "masks" in self.whole.fields:
            areas = np.where(record.masked, record.runs.areas(), areas)
        return [float(area) for area in areas]

    def _keypoints(self, record: Record, k: int, label: int) -> dict[str, Any]:
        points = record.target["keypoints"][k].numpy()  # [P,2]
        seen = record.target["visibility"][k].numpy()
        self._points = len(seen)
        if seen.any():
            self._posed.add(label)
        numbers: list[float] = []
        for (x, y), visibility in zip(points - np.float32(0.5), seen.tolist(), strict=True):
            numbers += [*short([x, y]), visibility] if visibility else [0, 0, 0]
        return {"keypoints": numbers, "num_keypoints": int((seen > 0).sum())}


def _sides(corners: Float64) -> Float64:
    """Width and height [K,2] of boxes [K,4] with as few digits as give the same corners again."""
    exact = corners[:, 2:] - corners[:, :2]
    sides: Float64 = exact.copy()
    todo = np.ones(exact.shape, np.bool_)
    for digits in (1, 2, 3, 4, 6, 8):
        tried = np.round(exact, digits)
        right = todo & ((corners[:, :2] + tried).astype(np.float32) == corners[:, 2:].astype(np.float32))
        sides[right & (tried > 0)] = tried[right & (tried > 0)]
        todo &= ~right
    return sides


def _masks(record: Record) -> list[Any]:
    """The segmentation of each object; None where it has no mask, or one without a pixel that no polygon tells."""
    codes, empty = record.runs.codes(), record.runs.areas() == 0
    found: list[Any] = []
    for k, code in enumerate(codes):
        outline = record.outlines[k]
        if not record.masked[k]:
            found.append(None)
        elif outline is not None:
            found.append([_tidy(polygon).tolist() for polygon in outline])
        else:
            found.append(None if empty[k] else code)
    return found


def _tidy(polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``polygon`` with fewer digits, where its pixels are the same: those are told by fifths of a pixel."""
    rounded = np.round(polygon, DIGITS)
    same = np.array_equal(np.trunc(SCALE * rounded + 0.5), np.trunc(SCALE * polygon + 0.5))
    return rounded if same else polygon
