"""From one format to another: any data set that can be read is written as COCO, YOLO, VOC or masks.

Images are copied or linked as they are; labels are written anew. What the target can't hold is an error, or, where that
is allowed, counted and said in one line for each kind of loss. The result is read back before it is kept.

VOC holds both, and gets objects as objects and label maps as label maps, unless the background is stated.

* **Objects to label maps:** the pixels of each object get its class, smaller objects over larger ones; what is to be
  ignored gets 255. What pixels of no object are has to be said: a class of its own, or to be ignored.
* **Label maps to objects:** each class of an image is one object, whose mask is all its pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from scenewise.data.base import UNIONS, DataSet, OnBadRecord
from scenewise.data.folders import counted
from scenewise.data.formats import all_readers, construct, find_reader, naming_what_is_here, open_data, open_reader
from scenewise.data.instances import InstanceDataSet
from scenewise.data.label_maps import LabelMapDataSet
from scenewise.data.writers.base import Losses, Record, Whole, Writer
from scenewise.data.writers.table import WRITERS
from scenewise.errors import DataError, UsageError, suggest
from scenewise.fields.run_masks import RunMasks
from scenewise.fields.semantic import SemanticMask
from scenewise.fields.table import FIELDS, with_companions
from scenewise.files.atomic import new_folder
from scenewise.ops.runs import Runs
from scenewise.types import IGNORE, Target

IGNORED = "ignore"  # as the background: pixels of no object are to be ignored
OBJECTS = frozenset({"boxes", "labels"})  # what every object has


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert_data` wrote.

    Attributes:
        target: the ``format:path`` string that opens it.
        images, objects: how many each split has; label maps have no objects.
        lost: one line for each kind of loss, bad records that were left out or mended among them.
        notes: one line for each thing that has another form now, and changes no sample by more than a pixel.
    """

    target: str
    images: dict[str, int]
    objects: dict[str, int]
    lost: list[str]
    notes: list[str]


@dataclass
class Item:
    """An image of an opened data set, and the split that it goes to."""

    data: DataSet
    index: int
    split: str

    @property
    def file(self) -> Path | None:
        """The image's file; None where there is none."""
        return self.data.image_path(self.index) if isinstance(self.data, InstanceDataSet | LabelMapDataSet) else None


@dataclass
class Source:
    """An opened data set, all its splits that count.

    Attributes:
        notes: what it has besides, and is not read; and what was decided when it was read.
        lost: its bad records that were left out or mended, a line for each split that has some.
    """

    name: str
    root: Path
    opened: list[DataSet]
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def items(self) -> list[Item]:
        """All its images, each in its own split."""
        return [Item(data, index, data.split) for data in self.opened for index in range(len(data))]


def convert_data(
    source: str,
    target: str,
    *,
    splits: Sequence[str] | None = None,
    fields: Iterable[str] = (),
    background: str | None = None,
    lossy: bool = False,
    link: bool = False,
    on_bad_record: OnBadRecord = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write the data set ``source`` as ``target``, a ``format:path`` string whose folder does not exist yet.

    Args:
        source: a ``format:path`` string, or a path alone.
        target: its format is one of ``coco``, ``masks``, ``voc`` and ``yolo``.
        splits: which; without it all that there are, without those that hold the images of others (VOC's trainval).
        fields: the target fields that are written, such as ``boxes`` and ``masks``; without it all.
        background: from objects to label maps, the class of pixels of no object (a new one, or one of the classes), or
            ``"ignore"``.
        lossy: go on where the target can't hold something, and count it.
        link: images are links to the source's files, in place of copies.
        on_bad_record: what becomes of bad records: see :class:`~scenewise.data.instances.InstanceDataSet`.
        progress: called after each image with the number of images that are done and that there are.

    Raises:
        UsageError: the target is there already, its format is not known, or it can't hold something.
        DataError: a record of the source is bad.
    """
    opened = open_source(source, splits, fields, on_bad_record)
    return write_items(opened, opened.items(), target, background=background, lossy=lossy, link=link, progress=progress)


# ---- reading


def open_source(
    source: str, splits: Sequence[str] | None, fields: Iterable[str], on_bad_record: OnBadRecord = "error"
) -> Source:
    """The splits of ``source`` with all their fields, or with ``fields`` alone.

    Where several readers of its format find something there, it is the first one's, unless another one has more of the
    same objects; what else there is is noted.

    Raises:
        UsageError: a field is unknown, or nothing there has it.
        DataError: as for :func:`~scenewise.data.formats.open_data`.
    """
    if isinstance(fields, str):
        raise UsageError(f"fields is the text {fields!r}; expected names of fields, such as ['boxes', 'masks']")
    fields = frozenset(fields)
    for name in sorted(fields):
        if name not in FIELDS or name not in Target.__annotations__:
            known = [key for key in FIELDS if key in Target.__annotations__]
            raise UsageError(f"fields: there is no field {name!r}{suggest(name, known)}; known: {', '.join(known)}")
    wanted = fields | (OBJECTS if any(FIELDS[name].per_instance for name in fields) else frozenset())
    reader, root = find_reader(source, wanted)
    named = splits
    if named is None:
        with naming_what_is_here(reader, root):
            there = reader.splits(root)
            named = [split for split in there if split not in UNIONS] or list(there[:1])
            if not named:
                raise DataError(f"{root}: no split is there that could be read")
    result = Source(source, root, [])
    if not fields:
        reader = _fullest(reader, root, named[0], on_bad_record, result.notes)
    for split in named:
        data = open_reader(reader, root, split, needs=wanted, on_bad_record=on_bad_record, allow_unlabelled=True)
        if missing := wanted - data.fields:
            raise UsageError(
                f"{data.source}: has no {', '.join(sorted(missing))}; it has {', '.join(sorted(data.fields))}"
            )
        result.opened.append(data.only(wanted) if fields else data)
        result.notes += [line for one in data.notes if (line := f"{one.file}: {one.message}") not in result.notes]
        if data.repairs:
            number = counted(len(data.repairs), "bad record")
            result.lost.append(f"split {data.split}: {number} left out or mended, such as {data.repairs[0]}")
    first = result.opened[0]
    for data in result.opened[1:]:
        if data.classes != first.classes:
            raise DataError(
                f"{source}: split {data.split} has the classes {', '.join(data.classes)}, and {first.split} has "
                f"{', '.join(first.classes)}; expected one list. Convert them one by one"
            )
    return result


def _fullest(
    reader: type[DataSet], root: Path, split: str, on_bad_record: OnBadRecord, notes: list[str]
) -> type[DataSet]:
    """``reader``, or another one of its format that has more of the same objects."""
    others = [one for one in all_readers()[reader.format] if one is not reader and one.recognises(root)]
    if not others:
        return reader
    data = construct(reader, root, split, on_bad_record=_policy(reader, on_bad_record))
    for other in others:
        try:
            more = construct(other, root, split, on_bad_record=_policy(other, on_bad_record))
        except DataError:
            continue
        if more.fields > data.fields and _same_objects(data, more):
            reader, data = other, more
        elif names := sorted(more.fields - data.fields):
            notes.append(
                f"{data.source} has {', '.join(names)}, too, in files of their own, which are not read; "
                f"fields (--fields {'+'.join(names[:2])}) takes them"
            )
    return reader


def _policy(reader: type[DataSet], wanted: OnBadRecord) -> OnBadRecord:
    return wanted if issubclass(reader, InstanceDataSet) else "error"


def _same_objects(a: DataSet, b: DataSet) -> bool:
    both = isinstance(a, InstanceDataSet) and isinstance(b, InstanceDataSet)
    return both and len(a) == len(b) and len(a.labels) == len(b.labels)  # type: ignore[attr-defined]


# ---- writing


def write_items(
    source: Source,
    items: Sequence[Item],
    target: str,
    *,
    background: str | None = None,
    lossy: bool = False,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write ``items`` of ``source`` as the data set ``target``. Arguments and errors as for :func:`convert_data`."""
    cls, folder = _find_writer(target)
    inside = source.root.resolve() in [folder.resolve(), *folder.resolve().parents]
    if inside and source.opened[0].needs_folder:
        raise UsageError(f"{folder}: is in the data set that is read, {source.root}; expected a folder outside of it")
    losses = Losses(cls.format, lossy)
    for note in source.notes:
        losses.note(note.replace("{", "{{").replace("}", "}}"))  # may hold any name
    plan = _Plan.of(source, cls, background, losses)
    images: dict[str, int] = {}
    objects: dict[str, int] = {}
    with new_folder(folder) as temporary:
        writer = cls(temporary, plan.whole, losses, link=link)
        for done, item in enumerate(items, 1):
            record = plan.record(item)
            writer.add(record)
            images[item.split] = images.get(item.split, 0) + 1
            if progress is not None:
                progress(done, len(items))
        writer.finish()
        for split, count in images.items():
            objects |= _read_back(cls, temporary, split, count, plan.whole, folder)
    return Conversion(f"{cls.format}:{folder}", images, objects, [*source.lost, *losses.lost], losses.notes)


def _find_writer(target: str) -> tuple[type[Writer], Path]:
    name, colon, path = target.partition(":")
    if not colon or not path or name not in WRITERS:
        raise UsageError(
            f"target {target!r}: expected format:FOLDER, with a format of {', '.join(WRITERS)}{suggest(name, WRITERS)}"
        )
    return WRITERS[name], Path(path).expanduser()


def _read_back(cls: type[Writer], written: Path, split: str, images: int, whole: Whole, folder: Path) -> dict[str, int]:
    """The number of objects of a split that was written.

    Raises:
        DataError: it is not read as it was written.
    """
    needs = frozenset(name for name in whole.fields if not FIELDS[name].companions)
    try:
        data = open_data(f"{cls.format}:{written}", split, needs=needs, allow_unlabelled=True)
        same = len(data) == images and data.classes == whole.classes
        wrong = "" if same else f"{counted(len(data), 'image')} and the classes {', '.join(data.classes)} are read"
    except DataError as error:
        wrong = str(error).replace(str(written), str(folder))
    if wrong:
        raise DataError(
            f"{folder}: split {split} of {counted(images, 'image')} was written, and is not read back: {wrong}. "
            "Nothing of it is kept. Are names of files, splits or classes unusual? Else this is a fault of scenewise"
        )
    return {split: len(data.labels)} if isinstance(data, InstanceDataSet) else {}


@dataclass
class _Plan:
    """What becomes of each sample.

    Attributes:
        whole: of the data set that is written.
        paints: whether objects become label maps, and ...
        background: ... the label of pixels of no object.
        parts: whether label maps become objects.
    """

    whole: Whole
    losses: Losses
    source: Source
    paints: bool = False
    parts: bool = False
    background: int = IGNORE
    numbered: bool = True

    @classmethod
    def of(cls, source: Source, writer: type[Writer], background: str | None, losses: Losses) -> _Plan:
        """What becomes of the samples of ``source``; what is lost of all of them is said.

        Raises:
            UsageError: nothing of them has a place in the format of ``writer``, or it is not said what becomes of it.
        """
        data = source.opened[0]
        has = data.fields - {"image_id"}
        maps, boxes = ("semantic" in writer.holds, "boxes" in writer.holds)
        paints = maps and "semantic" not in has and (not boxes or background is not None)
        parts = boxes and "boxes" not in has and not (maps and "semantic" in has)
        if (paints and "masks" not in has) or (parts and "semantic" not in has):
            raise UsageError(
                f"{source.name}: has {', '.join(sorted(has))}; {writer.format} holds "
                f"{'masks as label maps, or label maps' if paints else 'objects or label maps'}"
            )
        given = has
        if paints:
            given = has - with_companions(OBJECTS | {"masks"}) | {"semantic"}
            losses.lose("objects, which label maps don't tell apart", "only their classes stay", 0, source.name)
        elif parts:
            given = has - {"semantic"} | OBJECTS | {"masks"}
            losses.note("label maps as objects: one for each class of an image")
        written = given & writer.holds
        for group in writer.one_of:
            others = frozenset().union(*writer.one_of) - group
            if written & group and written & others:
                a, b = sorted(next(iter(sorted(names & written))) for names in writer.one_of)
                ways = [f"boxes+{name}" if name in ("masks", "keypoints") else name for name in (a, b)]
                raise UsageError(
                    f"{source.name}: has {a} and {b}, and {writer.format} holds one of them; choose with fields "
                    f"(--fields {ways[0]} or --fields {ways[1]})"
                )
        lost = sorted(given - writer.holds)
        if lost:
            hint = (
                f"{', '.join(lost)} (choose what is written with fields, --fields {'+'.join(sorted(written & given))})"
            )
            losses.lose(hint if not losses.allowed else ", ".join(lost), "left out", 0, source.name)
        plan = cls(_whole(source.name, data, written), losses, source, paints, parts)
        if paints:
            plan.set_background(background)
        elif background is not None:
            raise UsageError(f"background is {background!r}; it is for objects that become label maps")
        return plan

    def set_background(self, name: str | None) -> None:
        """Take what is said of pixels of no object."""
        classes = self.whole.classes
        if name is None:
            raise UsageError(
                f"{self.source.name}: has objects, and label maps say what all other pixels are, too. Give background "
                f"(--background): the name of a class, such as background, or {IGNORED} to ignore them"
            )
        if name in classes:
            self.background = classes.index(name)
        elif name != IGNORED:
            self.background = 0
            colors = self.whole.colors
            self.whole = Whole(
                self.whole.source,
                (name, *classes),
                None,
                None if colors is None else ((0, 0, 0), *colors),
                None,
                self.whole.fields,
            )
            self._shift = 1

    _shift = 0  # of labels, where a class was put before them

    def record(self, item: Item) -> Record:
        """An image with the labels that are written."""
        data, index = item.data, item.index
        image, target = data[index]
        record = Record(item.split, _name(data.image_id(index)), self._number(item), item.file, image, target)
        if self.parts:
            self._part(record)
            return record
        if "boxes" in target:
            count = len(target["labels"])
            record.outlines, record.masked = [None] * count, np.full(count, "masks" in target)
            if isinstance(data, InstanceDataSet):
                record.target["ignore"] = torch.from_numpy(data.ignore[data.rows(index)].copy())
                if "masks" in target:
                    record.outlines, record.masked = data.outlines(index, record.size), data.masked(index)
        if self.paints:
            record.target = {"image_id": item.data.image_id(index), "semantic": self._painted(record)}
        return record

    def _number(self, item: Item) -> int | None:
        numbers = getattr(item.data, "image_ids", None) if self.numbered else None
        return None if numbers is None else int(numbers[item.index])

    def _part(self, record: Record) -> None:
        """An object for each class of a label map."""
        values = record.target["semantic"].as_subclass(torch.Tensor).numpy()
        labels = [int(label) for label in np.unique(values) if label != IGNORE]
        if ignored := int((values == IGNORE).sum()):
            where = f"{record.split}, image {record.name}"
            self.losses.lose("pixel{s} to be ignored", "of no object, like a background", ignored, where)
        runs = Runs.of_bitmaps(values == np.array(labels, values.dtype).reshape(-1, 1, 1))
        boxes = torch.from_numpy(runs.boxes().astype(np.float32))
        target: dict[str, Any] = {
            "image_id": record.name,
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=record.size),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": RunMasks.of(runs),
        }
        record.target = target  # type: ignore[assignment]
        record.outlines, record.masked = [None] * len(labels), np.ones(len(labels), np.bool_)

    def _painted(self, record: Record) -> SemanticMask:
        """The label map of an image's objects."""
        values = np.full(record.size, self.background, np.uint8)
        runs, labels = record.runs, record.labels()
        ignored = record.ignored() | ~record.masked
        owners = np.zeros(record.size, np.uint8)
        rows, columns = (np.arange(side) for side in record.size)
        areas = runs.areas()
        for k in sorted(range(len(labels)), key=lambda k: (not ignored[k], -areas[k])):
            mask = runs.select(np.array([k])).bitmaps(rows, columns)[0]
            if not ignored[k]:
                owners += mask & (owners < 2)
            values[mask] = IGNORE if ignored[k] else labels[k] + self._shift
        if shared := int((owners > 1).sum()):
            where = f"{record.split}, image {record.name}"
            self.losses.lose("pixel{s} of several objects", "the smallest has it", shared, where)
        return SemanticMask(torch.from_numpy(values))


def _whole(name: str, data: DataSet, fields: frozenset[str]) -> Whole:
    ids = getattr(data, "class_ids", None)
    skeleton = data.skeleton if "keypoints" in fields else None
    return Whole(name, data.classes, None if ids is None else tuple(ids), data.colors, skeleton, fields)


def _name(image_id: str) -> str:
    """The name of an image as a path below a folder."""
    parts = [part for part in image_id.replace(os.sep, "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or image_id
