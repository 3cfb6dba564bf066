"""COCO's annotation files: ``coco:PATH`` or ``coco:PATH/TO/FILE.json``.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the format as https://cocodataset.org/#format-data has
it. In a folder ``PATH`` the annotations and images of a split are

    PATH/annotations/instances_SPLIT.json             boxes, masks
    PATH/annotations/person_keypoints_SPLIT.json      read instead where keypoints are needed
    PATH/SPLIT/, PATH/images/SPLIT/, PATH/images/ or PATH/, whichever holds the first image

A split is what stands for SPLIT in the files' names; ``train`` also finds ``train2017``. The images of a single file
are looked for beside it in the same way, from its own folder and from the one above.

* Boxes are x, y, width, height from the image's upper left corner, not from the first pixel's centre.
* Keypoints count from the first pixel's centre; 0.5 is added on reading.
* Category ids may have gaps; classes are in the order of their ids, which are kept in ``class_ids``.
* A mask is a list of polygons or a run-length code. ``iscrowd`` objects become ``ignore``.

A file of a million annotations is read piece by piece (:mod:`scenewise.data.readers.json_stream`); outlines stay in the
file and are read again with their image. The file must not change while the data set is in use.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scenewise.data.base import OnBadRecord, Problem, no_split
from scenewise.data.folders import ranges
from scenewise.data.instances import (
    CONTRADICTION,
    OVERHANG,
    Fault,
    Float32,
    InstanceDataSet,
    Int64,
    Records,
    box_ious,
    class_mapping,
)
from scenewise.data.readers.coco_content import BOX_FORM, NO_ID, Content
from scenewise.data.readers.json_stream import read_at
from scenewise.errors import DataError
from scenewise.ops.polygons import polygons_to_runs
from scenewise.ops.runs import Runs, runs_of_code
from scenewise.types import Skeleton

YEAR = re.compile(r"\d{4}")
LISTED = ("train", "val", "test")


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
    _ids: Int64  # [A], annotation ids
    _starts: Int64  # [A], the first byte of each annotation in the file
    _lengths: Int64  # [A], and how many
    _points: Float32  # [A,P,3]

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
        self._file, self.split = self._find_file(root, split)
        content = Content(
            self._file,
            masks=not needs or "masks" in needs,
            points="keypoints" in self.fields,
            lenient=on_bad_record == "fix",
        )
        content.read()
        self._policy = on_bad_record
        self._set_classes(content.categories)
        self._note_images(content)
        folder = self._image_folder(root, images, content.names[0] if content.names else "")
        place = self._set_images(folder, content.names, content.sizes, on_bad_record)
        self._set_image_ids(content, place)
        self._set_objects(self._records(content, place), needs)
        self._set_fields(content)

    # ---- files

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The splits with an annotation file: train, val and test first, then others."""
        if root.is_file():
            return (_own_split(root, cls.kinds),)
        found = dict.fromkeys(name for kind in cls.kinds for name in _files(root, kind))
        return tuple(sorted(found, key=lambda name: ([name.startswith(s) for s in (*LISTED, "")].index(True), name)))

    @classmethod
    def sign(cls, path: Path) -> str:
        """An annotation file."""
        if path.suffix.lower() == ".json" and path.is_file():
            return "a JSON file"
        found = [file for kind in cls.kinds for file in _files(path, kind).values()]
        return f"annotations/{found[0].name}" if found else ""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there is an annotation file."""
        return root.is_file() or any(_files(root, kind) for kind in cls.kinds)

    def _find_file(self, root: Path, split: str) -> tuple[Path, str]:
        if root.is_file():
            own = _own_split(root, self.kinds)
            answers = {own, YEAR.sub("", own), "all"}
            if not any(word in own for word in ("val", "test")):
                answers.add("train")
            if split not in answers:
                raise DataError(
                    f"{root}: a single file, which is no split {split!r}; it answers to {', '.join(sorted(answers))}"
                )
            return root, own
        if not (root / "annotations").is_dir():
            raise DataError(
                f"{root}: no folder annotations; expected annotations/{self.kinds[0]}_SPLIT.json and images"
            )
        for kind in self.kinds:
            files = _files(root, kind)
            near = [name for name in files if YEAR.sub("", name) == split]
            if split in files or len(near) == 1:
                name = split if split in files else near[0]
                return files[name], name
            if near:
                raise DataError(f"{root}: split {split!r} may be {' or '.join(near)}; name one of them")
        raise no_split(root, split, self.splits(root), f"annotations/{self.kinds[0]}_{split}.json")

    def _image_folder(self, root: Path, images: str | None, first: str) -> Path:
        """The folder that holds the image file ``first``."""
        if images is not None:
            folder = root / images if root.is_dir() else root.parent / images
            if not folder.is_dir():
                raise DataError(f"{folder}: not found; expected the folder of the images")
            return folder
        bases = [root] if root.is_dir() else [root.parent, root.parent.parent]
        parts = dict.fromkeys((self.split, f"images/{self.split}", "images", ""))
        folders = [base / part for base in bases for part in parts]
        if not first:
            return folders[-1]
        for folder in folders:
            if (folder / first).is_file():
                return folder
        listed = ", ".join(str(folder) for folder in folders)
        raise DataError(f"{self._file}: the image {first} is not found; expected it in one of {listed}")

    # ---- tables

    def _set_classes(self, categories: list[dict[str, Any]]) -> None:
        ids: list[int] = []
        for position, category in enumerate(categories):
            place = f"{self._file}: categories[{position}]"
            if not isinstance(category.get("id"), int) or not isinstance(category.get("name"), str):
                raise DataError(f"{place} is {reprlib.repr(category)}; expected an integer id and a name")
            if category["id"] in ids:
                raise DataError(f"{place}: id {category['id']} is that of another category, too; expected unique ids")
            ids.append(category["id"])
        if not ids:
            raise DataError(f"{self._file}: there are no categories; expected a list of ids and names")
        categories = sorted(categories, key=lambda category: category["id"])
        names = [category["name"] for category in categories]
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"{self._file}: several categories have the name {name!r}; expected unique names")
        self.classes, self.class_ids = tuple(names), tuple(sorted(ids))
        if "keypoints" in self.fields:
            self._set_skeleton(categories)

    def _set_skeleton(self, categories: list[dict[str, Any]]) -> None:
        """Fill the skeleton; which keypoints a mirrored image exchanges follows from their names."""
        described = [category for category in categories if category.get("keypoints")]
        lists = {tuple(category["keypoints"]) for category in described}
        if len(lists) != 1:
            found = "no category has keypoints" if not lists else "the categories have different keypoints"
            raise DataError(f"{self._file}: {found}; expected one list of names")
        names = next(iter(lists))
        self._posed = frozenset(category["id"] for category in described)
        links = described[0].get("skeleton") or ()
        if not all(len(link) == 2 and all(1 <= end <= len(names) for end in link) for link in links):
            raise DataError(f"{self._file}: skeleton is {reprlib.repr(links)}; expected pairs of 1 to {len(names)}")
        self.skeleton = Skeleton(names, tuple((a - 1, b - 1) for a, b in links))

    def _note_images(self, content: Content) -> None:
        """List the entries of images that are none."""
        how = "" if self._policy == "error" else "; left out, with its objects"
        listed = tuple(Problem(str(self._file), f"{message}{how}") for message in content.bad_images)
        if self._policy == "error":
            self.faults = listed
        else:
            self.repairs = listed

    def _set_image_ids(self, content: Content, place: Int64) -> None:
        self.image_ids = np.asarray(content.image_ids, np.int64)[place >= 0]

    def _records(self, content: Content, place: Int64) -> Records:
        """The annotations, their ids replaced by rows and labels; what the file itself makes wrong among them."""
        ids, image_ids, category_ids, crowd, starts, lengths = content.integers_table().T
        x, y, width, height, area = content.floats_table().T
        order = np.argsort(np.asarray(content.image_ids, np.int64))
        rows = class_mapping({content.image_ids[i]: int(i) for i in order}, image_ids)
        images = np.where(rows >= 0, np.append(place, -1)[rows], -1)
        labels = class_mapping({number: label for label, number in enumerate(self.class_ids)}, category_ids)
        records = Records(images, np.stack([x, y, x + width, y + height], 1), labels, crowd != 0)
        records.faults, records.mended = content.faults, content.mended
        columns = {"_ids": ids, "_starts": starts, "_lengths": lengths, "area": area}
        records.columns.update({name: np.ascontiguousarray(column) for name, column in columns.items()})
        for row in np.flatnonzero((rows < 0) & ~np.isin(image_ids, content.bad_image_ids)).tolist():
            records.faults.setdefault(row, Fault(f"image_id {image_ids[row]} is the id of no image"))
        for row in np.flatnonzero(labels < 0).tolist():
            records.faults.setdefault(
                row, Fault(f"category_id {category_ids[row]} is no category; known: {_listed(self.class_ids)}")
            )
        self._find_doubles(records, ids)
        if content.masks:
            self._find_contradictions(records, content)
        if content.points:
            self._find_bad_points(records, content, category_ids)
        self._category_ids = np.unique(category_ids)
        return records

    def _find_doubles(self, records: Records, ids: Int64) -> None:
        """Annotation ids that came before. ``"fix"`` gives them new ones, unless the object is the same."""
        first: dict[int, int] = {}
        _, starts, counts = np.unique(ids, return_index=True, return_counts=True)
        doubled = set(ids[starts[counts > 1]].tolist())
        for row in np.flatnonzero(np.isin(ids, list(doubled))).tolist() if doubled else ():
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

    def _find_contradictions(self, records: Records, content: Content) -> None:
        """Objects without a mask where others have one, masks that are not of their image's size or of their box."""
        extents = np.frombuffer(content.extents, np.float64).reshape(-1, 4)
        has = np.isfinite(extents[:, 0])
        if not has.any():
            return
        for row in np.flatnonzero(~has).tolist():
            records.faults.setdefault(row, Fault("has no segmentation, where others have one", "masks"))
        for row, size in content.mask_sizes.items():
            image = records.image[row]
            stated = tuple(self.sizes[image].tolist()) if image >= 0 else (0, 0)
            if stated[0] and size != stated:
                found = f"segmentation: the mask is {size[0]} x {size[1]} (height x width)"
                records.faults.setdefault(row, Fault(f"{found}; the image is {stated[0]} x {stated[1]}", "masks"))
        with np.errstate(invalid="ignore"):
            apart = has & (box_ious(extents, records.boxes) < CONTRADICTION)
        for row in np.flatnonzero(apart).tolist():
            x1, y1, x2, y2 = extents[row].tolist()
            if row not in records.faults and (records.boxes[row, 2:] > records.boxes[row, :2]).all():
                found = self._box_text(records, row)[0]
                extent = f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"
                records.faults[row] = Fault(f"{found} and segmentation, whose own box is {extent}, contradict", "masks")

    def _find_bad_points(self, records: Records, content: Content, category_ids: Int64) -> None:
        """Fill the column of keypoints [A,P,3], and list those that are none."""
        assert self.skeleton is not None
        names = self.skeleton.names
        count = 3 * len(names)
        lengths = np.frombuffer(content.point_counts, np.int32)
        posed = np.isin(category_ids, list(self._posed))
        right = (lengths == count) | ((lengths == 0) & ~posed)
        for row in np.flatnonzero(~right).tolist():
            found = f"keypoints has {lengths[row]} numbers" if lengths[row] else "has no keypoints"
            expected = f"expected x, y, visibility of each of {count // 3} keypoints, {count} numbers"
            records.faults.setdefault(row, Fault(f"{found}; {expected}", "keypoints"))
        points = np.zeros((len(lengths), count // 3, 3), np.float32)
        flat = np.frombuffer(content.point_values, np.float32)
        ends = np.cumsum(lengths, dtype=np.int64)
        rows = np.flatnonzero(lengths == count)
        if len(rows):
            points[rows] = flat[(ends[rows] - count)[:, None] + np.arange(count)].reshape(len(rows), -1, 3)
        known = points[..., 2]
        labelled = known > 0
        points[..., :2] += np.where(labelled, 0.5, 0)[..., None]  # to where the first pixel's centre is 0.5
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
                records.faults.setdefault(row, Fault(f"keypoint {joint} ({names[joint]}) has {text}", "keypoints"))
        records.columns["_points"] = points

    def _set_fields(self, content: Content) -> None:
        """Leave out the fields that the file has no values of, and masks that were not looked at."""
        lacking: set[str] = set()
        if not np.isfinite(np.frombuffer(content.extents, np.float64)).any():
            lacking.add("masks")
        if self.area is not None and not np.isfinite(self.area).all():
            self.area = None
            lacking.add("area")
        self.fields = self.fields - lacking

    # ---- what records are called

    def _file_of(self, records: Records, row: int) -> Path:
        return self._file

    def _record_name(self, records: Records, row: int) -> str:
        number = int(records.columns["_ids"][row])
        name = f"annotation {number}" if number != NO_ID else f"annotations[{row}]"
        image = int(records.image[row])
        return f"{name} (image {self._names[image]})" if image >= 0 else name

    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        places = (records.columns[name][row : row + 1] for name in ("_starts", "_lengths"))
        (annotation,) = read_at(self._file, *places)
        box = annotation.get("bbox") if isinstance(annotation, dict) else annotation
        return f"bbox {reprlib.repr(box)}", BOX_FORM

    def _size_stated_in(self, index: int) -> str:
        return f"{self._file}, image {self.image_ids[index]}," if self.image_ids is not None else str(self._file)

    def _suspicions(self) -> Iterator[Problem]:
        yield from super()._suspicions()
        if self._many_outside:
            yield Problem(
                str(self._file),
                "many boxes leave their image; is bbox x1, y1, x2, y2? Expected x, y, width, height",
                "suspicion",
            )
        used, known = set(self._category_ids.tolist()), set(self.class_ids)
        for shift in (1, -1):
            if not used <= known and {number + shift for number in used} <= known:
                yield Problem(
                    str(self._file),
                    f"category_id is {_listed(sorted(used))}, categories are {_listed(self.class_ids)}; "
                    f"are all category ids one too {'low' if shift == 1 else 'high'}?",
                    "suspicion",
                )

    # ---- samples

    def _masks(self, rows: Int64, size: tuple[int, int]) -> Runs:
        """The objects' masks, read from the annotation file."""
        masks = []
        annotations = read_at(self._file, self._starts[rows], self._lengths[rows])
        for row, annotation in zip(rows, annotations, strict=True):
            where = f"{self._file}: annotation {self._ids[row]}: segmentation"
            code = annotation.get("segmentation") if isinstance(annotation, dict) else None
            if not isinstance(annotation, dict) or annotation.get("id") != self._ids[row]:
                raise DataError(
                    f"{where}: another record stands there by now; the file was changed after it was opened"
                )
            if isinstance(code, dict):
                masks.append(runs_of_code(code, size, where=where))
            else:
                polygons = [p for p in code if len(p) >= 6] if code and self._policy == "fix" else code or []
                masks.append(polygons_to_runs(polygons, size, where=where))
        return Runs.of(masks, size)

    def _keypoints(self, rows: Int64, size: tuple[int, int]) -> Float32:
        return self._points[rows]


class CocoKeypoints(Coco):
    """Boxes, masks and keypoints of a COCO annotation file. Arguments as for :class:`Coco`."""

    fields = Coco.fields | {"keypoints", "visibility"}
    kinds = ("person_keypoints", "instances")


def _files(root: Path, kind: str) -> dict[str, Path]:
    """The annotation files of a kind, by split."""
    found = sorted((root / "annotations").glob(f"{kind}_*.json"))
    return {path.stem.removeprefix(f"{kind}_"): path for path in found}


def _own_split(file: Path, kinds: Sequence[str]) -> str:
    """The split that a file's own name tells of."""
    for kind in (*kinds, "person_keypoints", "instances"):
        if file.stem.startswith(f"{kind}_"):
            return file.stem.removeprefix(f"{kind}_")
    return file.stem


def _listed(numbers: Sequence[int]) -> str:
    return ranges(numbers) if len(numbers) <= 200 else f"{numbers[0]} to {numbers[-1]}"
