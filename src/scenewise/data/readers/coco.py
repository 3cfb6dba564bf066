"""COCO's annotation files: ``coco:PATH`` or ``coco:PATH/TO/FILE.json``.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the format as https://cocodataset.org/#format-data has
it, and as CVAT, Label Studio, Roboflow and others write it. Where files are looked for is described in
:mod:`scenewise.data.readers.coco_layout`. A split is what stands for SPLIT there; ``train`` also finds ``train2017``,
and ``val`` finds ``valid``. The images of a single file are looked for beside it in the same way, from its own folder
and from the one above.

* Boxes are x, y, width, height from the image's upper left corner, not from the first pixel's centre.
* Keypoints count from the first pixel's centre; 0.5 is added on reading.
* Category ids may have gaps; classes are in the order of their ids, which are kept in ``class_ids``. Ids may be texts:
  where they are numbers, they count as such; else classes are in the order of the file and ``class_ids`` is 1, 2, ...
* A category that has no object in any split and is only the supercategory of others is no class.
* A mask is a list of polygons or a run-length code. ``iscrowd`` objects become ``ignore``.
* What is null, or left out, is not known: a box then is that of the outline (four zeros beside an outline count as
  left out), an area the box's where other objects have one. Objects without a mask or without keypoints stay: see
  :class:`~scenewise.data.instances.InstanceDataSet`.
* Categories may have keypoints of their own. Lists that differ stand one after the other in the skeleton; an object has
  visibility 0 in those that are not its own.

A file of a million annotations is read piece by piece (:mod:`scenewise.data.readers.json_stream`); outlines stay in the
file and are read again with their image. The file must not change while the data set is in use.
"""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scenewise.data.base import OnBadRecord, Problem
from scenewise.data.folders import ranges
from scenewise.data.instances import (
    BLOCK,
    CONTRADICTION,
    OVERHANG,
    Fault,
    Float32,
    Float64,
    InstanceDataSet,
    Int32,
    Int64,
    Records,
    box_ious,
    places_of,
)
from scenewise.data.readers.coco_content import BOX_FORM, ID_FORM, NO_ID, Content, Ids, without_empty
from scenewise.data.readers.coco_layout import ROBOFLOW, file_of, files_of, own_split, resolver_of, siblings
from scenewise.data.readers.coco_skeleton import Joints, joints_of
from scenewise.data.readers.json_stream import JsonStream, read_at
from scenewise.errors import DataError
from scenewise.ops.polygons import polygons_to_runs
from scenewise.ops.runs import Runs, runs_of_code

NEARLY_ALL = 0.95  # of image_ids, which are ids of images with 1 added or taken away: they are off by one
HEAD = 1 << 16  # bytes by which an annotation file is recognised
LISTS = re.compile(rb'"(?:images|categories)"\s*:\s*\[|"annotations"\s*:\s*\[[^\]]{0,999}"image_id"')


class Coco(InstanceDataSet):
    """Boxes and masks of a COCO annotation file.

    Args:
        root: the folder, or one annotation file.
        split: which of its annotation files. A single file answers to the split in its name (``instances_val2017.json``
            to ``val2017`` and ``val``) and to ``all``; to ``train`` as well where its name has neither val nor test.
        needs: the target fields that are wanted; records that are bad in others only are kept.
        on_bad_record: see :class:`~scenewise.data.instances.InstanceDataSet`.
        images: the folder of the images, below ``root`` or absolute; found by itself where it is as described above.
    """

    format = "coco"
    fields = frozenset({"boxes", "labels", "ignore", "area", "masks"})
    takes_file = True
    kinds: ClassVar[tuple[str, ...]] = ("instances",)  # what annotation files are called, the preferred kind first

    _file: Path
    _ids: Int64  # [A], numbers of the annotations' ids
    _starts: Int64  # [A], the first byte of each annotation in the file
    _lengths: Int32  # [A], and how many
    _class_numbers: Int64  # [C], numbers of the categories' ids
    _category_ids: Int64  # those that objects have
    _image_numbers: Int64  # [N], numbers of the images' ids
    _image_shift = 0  # what all image_ids lack to be those of images, where they are off by one
    _odd_areas: tuple[Problem, ...] = ()

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        needs: frozenset[str] = frozenset(),
        on_bad_record: OnBadRecord = "error",
        images: str | None = None,
    ) -> None:
        self.root = root
        self._file, self.split = file_of(root, split, self.kinds)
        content = Content(
            self._file,
            masks=not needs or "masks" in needs,
            points="keypoints" in self.fields,
            lenient=on_bad_record == "fix",
        )
        content.read()
        self._bytes = content.size
        self._policy = on_bad_record
        joints = self._set_classes(content, needs)
        self._note_images(content)
        place = self._place_images(content, images)
        self._set_image_ids(content, place)
        self._set_objects(self._records(content, place, joints), needs)

    # ---- files

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The splits with an annotation file: train, val and test first, then others."""
        return (own_split(root),) if root.is_file() else tuple(files_of(root, cls.kinds))

    @classmethod
    def sign(cls, path: Path) -> str:
        """An annotation file."""
        if path.is_file():
            return "a JSON file with images, annotations and categories" if _is_coco(path) else ""
        return next(
            (
                file.relative_to(path).as_posix()
                for file in files_of(path, ("instances", "person_keypoints")).values()
                if _is_coco(file)
            ),
            "",
        )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there is an annotation file."""
        return root.is_file() or bool(files_of(root, cls.kinds))

    # ---- tables

    def _set_classes(self, content: Content, needs: frozenset[str]) -> Joints | None:
        """Fill the classes, and the skeleton where it is wanted."""
        entries = self._categories(content)
        roots = self._roots(content, entries)
        for number in roots:
            name = entries.pop(number)["name"]
            message = (
                f"category {content.category_ids.text(number)} ({name!r}) is no class here: no object has it, and it "
                "is only what other categories belong to"
            )
            self.notes = (*self.notes, Problem(str(self.root), message, "suspicion"))
        if not entries:
            raise DataError(f"{self._file}: there are no categories; expected a list of ids and names")
        texts = any(content.category_ids.is_text(number) for number in entries)
        numbers = [*entries] if texts else sorted(entries)
        self._class_numbers = np.array(numbers, np.int64)
        self.class_ids = tuple(range(1, len(numbers) + 1)) if texts else tuple(numbers)
        self.classes = tuple(entries[number]["name"] for number in numbers)
        name, count = Counter(self.classes).most_common(1)[0]
        if count > 1:
            raise DataError(f"{self._file}: several categories have the name {name!r}; expected unique names")
        described = any(entry.get("keypoints") for entry in entries.values())
        if not content.points or not (described or "keypoints" in needs):
            self.fields = self.fields - {"keypoints", "visibility"}
            return None
        joints = joints_of([entries[number] for number in numbers], str(self._file))
        self.skeleton = joints.skeleton
        return joints

    def _categories(self, content: Content) -> dict[int, dict[str, Any]]:
        """The categories by the number of their id, in the file's order."""
        found: dict[int, dict[str, Any]] = {}
        for position, category in enumerate(content.categories):
            place = f"{self._file}: categories[{position}]"
            number, name = content.category_ids.number(category.get("id")), category.get("name")
            if number is None or not isinstance(name, (str, int)) or name == "":
                raise DataError(f"{place} is {reprlib.repr(category)}; expected an id ({ID_FORM}) and a name")
            if number in found:
                raise DataError(f"{place}: id {category['id']} is that of another category, too; expected unique ids")
            found[number] = {**category, "name": str(name)}
        return found

    def _roots(self, content: Content, entries: dict[int, dict[str, Any]]) -> list[int]:
        """The categories that only stand above others: no object has them, in no split."""
        above = {name for entry in entries.values() if (name := entry.get("supercategory")) != entry["name"]
                 and isinstance(name, str)}  # fmt: skip
        unused = set(entries) - set(np.unique(content.labels).tolist())
        roots = {number for number in unused if entries[number]["name"] in above}
        if self._file.name == ROBOFLOW and 0 in unused and entries[0].get("supercategory") in (None, "", "none"):
            roots.add(0)
        if len(roots) == len(entries):
            return []
        for file in siblings(self.root, self._file, self.kinds) if roots else ():
            roots -= _used_categories(file, content.category_ids)
        return sorted(roots)

    def _note_images(self, content: Content) -> None:
        """List the entries of images that are none."""
        how = "" if self._policy == "error" else "; left out, with its objects"
        listed = tuple(Problem(str(self._file), f"{message}{how}") for message in content.bad_images)
        if self._policy == "error":
            self.faults = listed
        else:
            self.repairs = listed

    def _place_images(self, content: Content, images: str | None) -> Int64:
        """Find the images and fill their table; the row of each in it, -1 for those that are left out."""
        resolver = resolver_of(self.root, self._file, self.split, images, content.names)
        folder, names, why = self._find_images(resolver, content.names)
        return self._set_images(folder, names, content.sizes, self._policy, why)

    def _set_image_ids(self, content: Content, place: Int64) -> None:
        """Fill the images' own numbers, where they are numbers."""
        numbers = np.array(content.image_ids, np.int64)[place >= 0]
        self._image_numbers = numbers
        self.image_ids = None if content.image_numbers.has_texts else numbers

    def _records(self, content: Content, place: Int64, joints: Joints | None) -> Records:
        """The annotations, their ids replaced by rows and labels; what the file itself makes wrong among them."""
        rows = places_of(np.array(content.image_ids, np.int64), content.images)
        images = np.append(place, -1).astype(np.int32)[rows]
        records = Records(images, content.boxes, places_of(self._class_numbers, content.labels), content.crowd)
        records.faults, records.mended = content.faults, content.mended
        records.columns |= {"_ids": content.ids, "_starts": content.starts, "_lengths": content.lengths}
        bad = set(content.bad_image_ids)
        for row in np.flatnonzero(rows < 0).tolist():
            if int(content.images[row]) not in bad:
                text = content.image_numbers.text(int(content.images[row]))
                records.faults.setdefault(row, Fault(f"image_id {text} is the id of no image"))
        self._image_shift = self._shift_of(np.array(content.image_ids, np.int64), content.images[rows < 0], content)
        self._find_unknown(records, content)
        content.let_go("images", "labels")
        self._find_doubles(records)
        self._set_areas(records, content)
        if content.masks:
            self._find_contradictions(records, content)
        else:
            self.fields = self.fields - {"masks"}
        if joints is not None:
            self._find_bad_points(records, content, joints)
        content.let_go("ids", "starts", "lengths", "boxes", "area", "crowd", *(["extents"] if content.masks else []))
        return records

    @staticmethod
    def _shift_of(known: Int64, unknown: Int64, content: Content) -> int:
        """What is to be added to the annotations' image_ids, some of which are ``unknown``, so that more of them, and
        nearly all, are ids of images: 1 or -1; else 0."""
        if content.image_numbers.has_texts or not (unknown != NO_ID).any():
            return 0
        used = np.unique(content.images[content.images != NO_ID])
        fitting = {shift: float(np.isin(used + shift, known).mean()) for shift in (0, 1, -1)}
        best = max(fitting, key=lambda shift: fitting[shift])
        return best if fitting[best] >= NEARLY_ALL else 0

    def _find_unknown(self, records: Records, content: Content) -> None:
        """Objects of no category. Where there is one class only, those that state none are of that."""
        if len(self.classes) == 1:
            records.labels[(content.labels == NO_ID) & (content.images != NO_ID)] = 0
        unknown = np.flatnonzero(records.labels < 0).tolist()
        known = _listed(self.class_ids) if unknown else ""
        for row in unknown:
            number = int(content.labels[row])
            if number == NO_ID:
                fault = f"has no category_id; expected one of the {len(self.classes)} categories"
            else:
                fault = f"category_id {content.category_ids.text(number)} is no category; known: {known}"
            records.faults.setdefault(row, Fault(fault))
        known_ones = self._class_numbers[np.bincount(records.labels[records.labels >= 0], minlength=1).nonzero()[0]]
        others = np.unique(content.labels[unknown])
        self._category_ids = np.concatenate([known_ones, others[others != NO_ID]])

    def _find_doubles(self, records: Records) -> None:
        """Annotation ids that came before. ``"fix"`` gives them new ones, unless the object is the same."""
        ids = records.columns["_ids"]
        if (ids[1:] > ids[:-1]).all():
            return
        ordered = np.sort(ids)
        doubled = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_ID)])
        first: dict[int, int] = {}
        for row in np.flatnonzero(places_of(doubled, ids) >= 0).tolist() if len(doubled) else ():
            if row in records.faults:
                continue
            earlier = first.setdefault(int(ids[row]), row)
            if earlier == row:
                continue
            same = (records.boxes[row] == records.boxes[earlier]).all() and (
                records.image[row] == records.image[earlier] and records.labels[row] == records.labels[earlier]
            )
            what = "the same object again" if same else "another object"
            fault = Fault(f"id {ids[row]} is also that of annotations[{earlier}], {what}; expected unique ids")
            if self._policy == "fix" and not same:
                records.mended[row] = f"{fault.message}; kept"
            else:
                records.faults[row] = fault

    def _set_areas(self, records: Records, content: Content) -> None:
        """Fill the column of areas, where objects have one: an object without has its box's."""
        stated = np.isfinite(content.area)
        if not stated.any():
            if len(stated):
                self.fields = self.fields - {"area"}
            return
        for row in np.flatnonzero(~stated).tolist() if not stated.all() else ():
            content.area[row] = np.prod(records.boxes[row, 2:] - records.boxes[row, :2])
        records.columns["area"] = content.area
        self._note_corners(records, content.area)

    def _note_corners(self, records: Records, area: Float64) -> None:
        """A note where areas are those of boxes whose sizes are corners."""
        x, y, x2, y2 = records.boxes[:BLOCK].T
        with np.errstate(invalid="ignore"):
            as_sizes = np.isclose(area[:BLOCK], (x2 - x) * (y2 - y), rtol=0.02)
            as_corners = np.isclose(area[:BLOCK], (x2 - 2 * x) * (y2 - 2 * y), rtol=0.02) & (x2 > 2 * x) & (y2 > 2 * y)
        odd = as_corners & ~as_sizes
        if odd.sum() > 2 and odd.mean() > 0.8:
            message = (
                "area is that of a bbox of x1, y1, x2, y2; expected x, y, width, height. Is bbox x1, y1, x2, y2? Then "
                "write x1, y1, x2 - x1, y2 - y1"
            )
            self._odd_areas = (Problem(str(self._file), message, "suspicion"),)
            self.notes = (*self.notes, *self._odd_areas)

    def _find_contradictions(self, records: Records, content: Content) -> None:
        """Objects without a mask where others have one, masks that are not of their image's size or of their box."""
        has = np.isfinite(content.extents[:, 0])
        if not has.any():
            self.fields = self.fields - {"masks"}
            return
        if not has.all():
            records.columns["_unmasked"] = ~has
            message = (
                f"{int((~has).sum()):,} of {len(has):,} objects have no mask; where masks are wanted, they are ignored"
            )
            self.notes = (*self.notes, Problem(str(self._file), message, "suspicion"))
        for row, size in content.mask_sizes.items():
            image = records.image[row]
            stated = tuple(self.sizes[image].tolist()) if image >= 0 else (0, 0)
            if stated[0] and size != stated:
                found = f"segmentation: the mask is {size[0]} x {size[1]} (height x width)"
                records.faults.setdefault(row, Fault(f"{found}; the image is {stated[0]} x {stated[1]}", "masks"))
        for start in range(0, len(has), BLOCK):
            part = slice(start, start + BLOCK)
            with np.errstate(invalid="ignore"):
                apart = has[part] & (box_ious(content.extents[part], records.boxes[part]) < CONTRADICTION)
            for row in (np.flatnonzero(apart) + start).tolist():
                x1, y1, x2, y2 = content.extents[row].tolist()
                if row not in records.faults and (records.boxes[row, 2:] > records.boxes[row, :2]).all():
                    found = self._box_text(records, row)[0]
                    extent = f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"
                    message = f"{found} and segmentation, whose own box is {extent}, contradict"
                    records.faults[row] = Fault(message, "masks")

    def _find_bad_points(self, records: Records, content: Content, joints: Joints) -> None:
        """Fill the column of keypoints [A,P,3], and list those that are none."""
        lengths = np.array(content.point_counts, np.int64)
        counts = 3 * np.where(records.labels >= 0, joints.counts[records.labels], 0)
        for row in np.flatnonzero((lengths != counts) & (lengths > 0) & (records.labels >= 0)).tolist():
            expected = f"expected x, y, visibility of each of {counts[row] // 3} keypoints, {counts[row]} numbers"
            if not counts[row]:
                expected = f"the category {self.classes[records.labels[row]]!r} has none"
            fault = Fault(f"keypoints has {lengths[row]} numbers; {expected}", "keypoints")
            records.faults.setdefault(row, fault)
        points = np.zeros((len(lengths), len(joints.skeleton.names), 3), np.float32)
        flat = np.frombuffer(content.point_values, np.float32) if content.point_values else np.zeros(0, np.float32)
        ends = np.cumsum(lengths)
        having = np.flatnonzero((lengths == counts) & (lengths > 0))
        for first in np.unique(joints.first[records.labels[having]]).tolist():
            rows = having[joints.first[records.labels[having]] == first]
            for count in np.unique(counts[rows]).tolist():
                some = rows[counts[rows] == count]
                numbers = flat[(ends[some] - count)[:, None] + np.arange(count)]
                points[some, first : first + count // 3] = numbers.reshape(len(some), -1, 3)
        self._check_points(records, points)
        records.columns["_points"] = points

    def _check_points(self, records: Records, points: Float32) -> None:
        """Move keypoints [A,P,3] to where the first pixel's centre is 0.5, and list those that can't be right."""
        known = points[..., 2]
        labelled = known > 0
        points[..., :2] += np.where(labelled, 0.5, 0)[..., None]
        size = self.sizes[np.maximum(records.image, 0)][:, None, ::-1] if len(self) else np.zeros((len(points), 1, 2))
        placed = (records.image >= 0)[:, None, None] & (size > 0)
        apart = (points[..., :2] < -OVERHANG) | (points[..., :2] > size + OVERHANG)  # [A,P,2]
        far = np.any(placed & apart, axis=-1) & labelled
        infinite = ~np.all(np.isfinite(points[..., :2]), axis=-1)
        for bad, message in (
            (~np.isin(known, (0, 1, 2)), "a visibility of {2:g}; expected 0, 1 or 2"),
            (infinite, "x, y of {0:g}, {1:g}; expected numbers that are finite"),
            (far, "x, y of {0:g}, {1:g}, outside the image"),
        ):
            for row in np.flatnonzero(bad.any(1)).tolist():
                joint = int(bad[row].argmax())
                x, y, seen = points[row, joint].tolist()
                text = message.format(x - 0.5 * (seen > 0), y - 0.5 * (seen > 0), seen)
                name = self.skeleton.names[joint] if self.skeleton else ""
                records.faults.setdefault(row, Fault(f"keypoint {joint} ({name}) has {text}", "keypoints"))

    # ---- what records are called

    def _file_of(self, records: Records, row: int) -> Path:
        return self._file

    def _record_name(self, records: Records, row: int) -> str:
        number = int(records.columns["_ids"][row])
        known = number != NO_ID and not Ids.is_text(number)
        name = f"annotation {number}" if known else f"annotations[{row}]"
        image = int(records.image[row])
        return f"{name} (image {self._names[image]})" if image >= 0 else name

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        places = (records.columns[name][row : row + 1] for name in ("_starts", "_lengths"))
        (annotation,) = read_at(self._file, *places, size=self._bytes)
        box = annotation.get("bbox") if isinstance(annotation, dict) else annotation
        return f"bbox {reprlib.repr(box)}", BOX_FORM

    def _size_stated_in(self, index: int) -> str:
        known = not Ids.is_text(int(self._image_numbers[index]))
        return f"{self._file}, image {self._image_numbers[index]}," if known else str(self._file)

    def suspicions(self) -> Iterator[Problem]:
        """Likely mistakes that all records together show; those of COCO's form first."""
        yield from self._odd_areas
        if self._many_outside:
            yield Problem(
                str(self._file),
                "many boxes leave their image; is bbox x1, y1, x2, y2? Expected x, y, width, height: then write "
                "x1, y1, x2 - x1, y2 - y1",
                "suspicion",
            )
        if self._image_shift:
            way = "low" if self._image_shift == 1 else "high"
            yield Problem(
                str(self._file),
                f"image_id of some annotations is the id of no image; are all one too {way}? Then "
                f"{'add 1 to' if self._image_shift == 1 else 'take 1 from'} each image_id",
                "suspicion",
            )
        used, known = set(self._category_ids.tolist()), set(self._class_numbers.tolist())
        for shift in (1, -1):
            if not used <= known and {number + shift for number in used} <= known:
                yield Problem(
                    str(self._file),
                    f"category_id is {_listed(sorted(used))}, categories are {_listed(self.class_ids)}; "
                    f"are all category ids one too {'low' if shift == 1 else 'high'}? Then "
                    f"{'add 1 to' if shift == 1 else 'take 1 from'} each category_id",
                    "suspicion",
                )
        yield from super().suspicions()

    # ---- samples

    def _masks(self, rows: Int64, size: tuple[int, int]) -> Runs:
        """The objects' masks, read from the annotation file."""
        masks = []
        for row, where, code in self._segmentations(rows):
            if isinstance(code, dict):
                masks.append(runs_of_code(code, size, where=where))
            elif code:
                masks.append(polygons_to_runs(code, size, where=where))
            else:  # not known: all of the box, which is to be ignored
                x1, y1, x2, y2 = self.boxes[row].tolist()
                masks.append(polygons_to_runs([[x1, y1, x2, y1, x2, y2, x1, y2]], size, where=where))
        return Runs.of(masks, size)

    def outlines(self, index: int, size: tuple[int, int]) -> list[list[Float64] | None]:
        """The polygons of each object, where it has any, unchanged from the file."""
        return [
            [np.array(polygon, np.float64) for polygon in code] if code and not isinstance(code, dict) else None
            for _, _, code in self._segmentations(self.rows(index))
        ]

    def _segmentations(self, rows: Int64) -> Iterator[tuple[int, str, Any]]:
        """For each of the objects ``rows`` its row, its place for messages, and its run-length code or list of
        polygons, which is empty where it has no mask."""
        annotations = read_at(self._file, self._starts[rows], self._lengths[rows], size=self._bytes)
        for row, annotation in zip(rows.tolist(), annotations, strict=True):
            name = f"annotation {self._ids[row]}" if not Ids.is_text(int(self._ids[row])) else "an annotation"
            where = f"{self._file}: {name}: segmentation"
            if not isinstance(annotation, dict) or not _is_still(annotation.get("id"), int(self._ids[row])):
                raise DataError(
                    f"{where}: another record stands there by now; the file was changed after it was opened"
                )
            code = without_empty(annotation.get("segmentation") or [])
            if isinstance(code, list) and self._policy == "fix":
                code = [polygon for polygon in code if len(polygon) >= 6]
            yield row, where, code

    def _keypoints(self, rows: Int64, size: tuple[int, int]) -> Float32:
        assert self._points is not None  # a reader of keypoints fills it
        return self._points[rows]


class CocoKeypoints(Coco):
    """Boxes, masks and keypoints of a COCO annotation file. Arguments as for :class:`Coco`."""

    fields = Coco.fields | {"keypoints", "visibility"}
    kinds = ("person_keypoints", "instances")


def _is_still(value: Any, number: int) -> bool:
    """Whether ``value`` is the id of the annotation whose number is ``number``, as far as it can be told."""
    return Ids.is_text(number) or number == (NO_ID if value is None else Ids().number(value))


def _is_coco(file: Path) -> bool:
    """Whether a file begins as an annotation file does; of a large one, only the beginning is looked at."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, which the reader names
        head = head[2:].replace(b"\0", b"")
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and LISTS.search(head) is not None


def _used_categories(file: Path, ids: Ids) -> set[int]:
    """The numbers of the categories that the objects of an annotation file have; none where it can't be read."""
    found: set[int] = set()
    try:
        with JsonStream(file) as stream:
            for key in stream.members():
                if key != "annotations" or not stream.is_array():
                    stream.value()
                    continue
                for elements in stream.elements():
                    for entry in elements.values:
                        number = ids.number(entry.get("category_id")) if isinstance(entry, dict) else None
                        if number is not None:
                            found.add(number)
    except DataError:  # is found when that split is opened
        pass
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ranges(numbers) if len(numbers) <= 200 else f"{numbers[0]} to {numbers[-1]}"
