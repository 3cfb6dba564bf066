"""YOLO: ``data.yaml``, ``images/SPLIT/NAME.jpg`` and ``labels/SPLIT/NAME.txt``, as Ultralytics trains on.

A data set has boxes, polygons, or boxes with keypoints; which it is stands in ``data.yaml`` as ``task``. A mask is one
polygon: parts that lie apart and holes are joined by lines there and back, which enclose nothing, so that its pixels
are the same. The box is then the one around the polygon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from scenewise.data.writers.base import ROUNDED, Float64, Record, Writer
from scenewise.ops.outlines import joined, loops_around
from scenewise.ops.polygons import SCALE, polygons_to_runs
from scenewise.ops.runs import united
from scenewise.types import Skeleton

DIGITS = 8  # after the point: a ten-thousandth of a pixel in an image of 20,000
NEAR = 1e-3  # pixels by which boxes may differ without being named
BORDER = 1e-7  # fifths of a pixel; more than the error of a product


class YoloWriter(Writer):
    """Writes text files of boxes, polygons or keypoints."""

    format = "yolo"
    holds = frozenset({"boxes", "labels", "ignore", "area", "masks", "keypoints", "visibility"})
    one_of = (frozenset({"masks"}), frozenset({"keypoints", "visibility"}))

    def begin(self) -> None:
        """Say what is lost of the data set as a whole."""
        self._splits: dict[str, None] = {}
        self._points = 0
        fields = self.whole.fields
        self._task = "pose" if "keypoints" in fields else "segment" if "masks" in fields else "detect"
        self.lose_colors()
        self.renumbered(range(len(self.whole.classes)))
        skeleton = self.whole.skeleton
        if self._task == "pose" and skeleton is not None and skeleton.links:
            self.losses.lose("links of the skeleton", "left out", 0, self.whole.source)

    def add(self, record: Record) -> None:
        """Write one image with its labels."""
        self._splits[record.split] = None
        self.note_areas(record)
        name = self.place_image(record, f"images/{record.split}")
        kept = self.kept_objects(record)
        labels, lines = record.labels(), []
        boxes = self._inside(record, record.boxes())
        for k in kept:
            if self._task == "segment":
                values = self._outline(record, k)
                if values is None:
                    continue
            else:
                values = self._box(record, boxes[k])
                if self._task == "pose":
                    values += self._keypoints(record, k)
            lines.append(" ".join([str(labels[k]), *map(_text, values)]))
        path = self.folder / _labels_of(f"images/{record.split}/{name}"[: -len(record.ending)] + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def finish(self) -> None:
        """Write data.yaml."""
        content: dict[str, Any] = {split: f"images/{split}" for split in self._splits}
        content |= {"nc": len(self.whole.classes), "names": list(self.whole.classes), "task": self._task}
        if self._task == "pose":
            content["kpt_shape"] = [self._points, 3]
            skeleton = self.whole.skeleton or Skeleton()
            if skeleton.sides() is not None:
                content["flip_idx"] = skeleton.mirrored_order(self._points)
            if skeleton.names:
                content["kpt_names"] = {label: list(skeleton.names) for label in range(len(self.whole.classes))}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")

    # ---- objects

    def _inside(self, record: Record, boxes: Float64) -> Float64:
        """``boxes`` cut off at the image's border."""
        height, width = record.size
        cut = np.clip(boxes, 0, [width, height, width, height])
        by = np.abs(boxes - cut).max(1, initial=0)
        if (by > 0).any():
            self._moved("box{es} beyond the image's border", "cut off there", by, record)
        return cut

    def _moved(self, what: str, outcome: str, by: Float64, record: Record) -> None:
        """Note, or count as a loss, what is moved by ``by`` [K] pixels; ``outcome`` is what becomes of it."""
        far = by > ROUNDED
        if far.any():
            where = f"{record.split}, image {record.name}"
            self.losses.lose(f"{what} by more than {ROUNDED:g} pixel", outcome, int(far.sum()), where)
        near = (by > NEAR) & ~far
        if near.any():
            self.losses.note(f"{what}: {outcome}", int(near.sum()), float(by[near].max()))

    def _box(self, record: Record, box: Float64) -> list[float]:
        height, width = record.size
        x1, y1, x2, y2 = box.tolist()
        return [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]

    def _outline(self, record: Record, k: int) -> list[float] | None:
        """The polygon of an object in parts of the image; None where it has none, which is a loss."""
        where = f"{record.split}, image {record.name}"
        if not record.masked[k]:
            self.losses.lose("object{s} without a mask, where others have one", "left out", 1, where)
            return None
        size = np.array(record.size[::-1], np.float64)
        polygon = self._polygon(record, k)
        if polygon is None:
            self.losses.lose("object{s} whose mask has no pixel", "left out", 1, where)
            return None
        extent = np.concatenate([polygon.min(0), polygon.max(0)])
        by = np.abs(extent - record.boxes()[k]).max(keepdims=True)
        self._moved("box{es} other than the one around the mask", "replaced by that", by, record)
        return [float(value) for value in _parts(polygon, size).ravel()]

    def _polygon(self, record: Record, k: int) -> Float64 | None:
        """A polygon [P,2] in pixels whose pixels are the mask's: that of the source where it can be, else the border of
        the mask's pixels."""
        runs = record.runs.select(np.array([k]))
        outline = record.outlines[k]
        if outline is not None:
            whole = joined([polygon.reshape(-1, 2) for polygon in outline])
            whole = np.clip(whole, 0, record.size[::-1])
            starts, ends = united(*polygons_to_runs([whole.ravel()], record.size, where=record.name))
            if np.array_equal(starts, runs.starts) and np.array_equal(ends, runs.ends):
                return whole
        if not len(runs.starts):
            return None
        x1, y1, x2, y2 = runs.boxes()[0].tolist()
        bitmap = runs.bitmaps(np.arange(y1, y2), np.arange(x1, x2))[0]
        found: Float64 | None = joined(loops_around(bitmap)) + [x1, y1]
        return found

    def _keypoints(self, record: Record, k: int) -> list[float]:
        """x, y, visibility of each keypoint."""
        size = np.array(record.size[::-1], np.float64)
        points = record.target["keypoints"][k].numpy().astype(np.float64)  # [P,2]
        seen = record.target["visibility"][k].numpy()
        self._points = len(seen)
        cut = np.clip(points, 0, size)
        by = np.where(seen > 0, np.abs(points - cut).max(1), 0)
        if (by > 0).any():
            self._moved("keypoint{s} beyond the image's border", "moved to it", by, record)
        parts = np.where(seen[:, None] > 0, cut / size, 0)
        return [float(value) for value in np.column_stack([parts, seen]).ravel()]


def _labels_of(path: str) -> str:
    """The text file's path: ``labels`` in place of the last folder ``images``, where readers look for it."""
    folders = path.split("/")
    last = len(folders) - 2 - folders[-2::-1].index("images")
    return "/".join([*folders[:last], "labels", *folders[last + 1 :]])


def _parts(polygon: Float64, size: Float64) -> Float64:
    """``polygon`` [P,2] in parts of the image, rounded so that it has the same pixels again: those follow from the
    fifths of a pixel that its numbers fall into."""
    unit = 10.0**-DIGITS
    parts = np.round(polygon / size, DIGITS)
    fifths = SCALE * parts * size + 0.5 - np.trunc(SCALE * polygon + 0.5)  # from 0 to below 1 where it is right
    found: Float64 = parts + unit * (fifths < BORDER) - unit * (fifths > 1 - BORDER)
    return found


def _text(value: float) -> str:
    text = f"{value:.{DIGITS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
