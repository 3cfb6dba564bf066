"""InstanceDataSet: images with objects, in tables that loader processes share; and what happens to bad records.

A list of a million Python objects is copied into every loader process bit by bit, since reading an object changes its
reference count and with it its page of memory. Here everything is in a handful of numpy arrays: a row per image, a row
an object, the objects of an image side by side.

Shapes: N images, A objects in all, K objects in one image, P keypoints.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.context import get_spawning_popen
from os.path import split as split_path
from os.path import splitext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.data.base import DataSet, OnBadRecord, Problem
from scenewise.data.folders import counted, names_in
from scenewise.data.names import Resolver, printable
from scenewise.errors import DataError
from scenewise.fields.keypoints import KeyPoints, Visibility
from scenewise.fields.run_masks import RunMasks
from scenewise.fields.table import FIELDS
from scenewise.files.images import image_size
from scenewise.ops.runs import Runs
from scenewise.types import Sample, Skeleton

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

OVERHANG = 1.0  # pixels by which a box may leave its image: annotation tools round
# What fix cuts off, as parts of the image's side: a box that leaves it by more is of another unit or form.
MENDABLE = 0.2
BLOCK = 1 << 19  # objects that are looked at together
CONTRADICTION = 0.5  # a box and the box around its mask whose IoU is less, with a pixel of slack, are not of one object


class _Shared:
    """Attributes that are arrays go to new processes as tensors, in memory that all of them share.

    The tensors are kept: the new process takes their memory over only after this one has gone on.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_sent"}
        if get_spawning_popen() is None:  # copied, or written to a file
            return state
        sent: dict[str, tuple[Any, Tensor]] = vars(self).setdefault("_sent", {})
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                if name not in sent or sent[name][0] is not value:
                    sent[name] = value, torch.from_numpy(value)
                state[name] = sent[name][1]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({k: v.numpy() if isinstance(v, Tensor) else v for k, v in state.items()})


class Names(_Shared, Sequence[str]):
    """Strings in one array of bytes."""

    def __init__(self, names: Iterable[str]) -> None:
        texts, lengths = bytearray(), array("q", [0])
        for name in names:
            encoded = name.encode("utf-8", "surrogatepass")
            texts += encoded
            lengths.append(len(encoded))
        self._bytes = np.frombuffer(texts, np.uint8)
        self._ends = np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Fault:
    """What is wrong with one object: a sentence, and the target field that it spoils ("boxes" where all are)."""

    message: str
    spoils: str = "boxes"


@dataclass
class Records:
    """The objects that a reader found, in the file's order, before they are checked.

    Attributes:
        image: [A], the row of each object's image; -1 where a fault says that there is none.
        boxes: [A,4], x1, y1, x2, y2 in pixels.
        labels: [A]; -1 where a fault says that the class is unknown.
        ignore: [A], crowd or difficult.
        columns: more columns [A,...] that become attributes of the data set, such as ``area``.
        faults: what the reader itself found to be wrong, by row.
        mended: what was wrong and is no longer, by row.
    """

    image: Int32 | Int64
    boxes: Float64
    labels: Int32
    ignore: Bool
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    mended: dict[int, str] = field(default_factory=dict)


class InstanceDataSet(_Shared, DataSet):
    """Images with objects.

    A reader fills the tables with :meth:`_set_images` and then :meth:`_set_objects`, and says how a record is named
    (:meth:`_file_of`, :meth:`_record_name`, :meth:`_box_text`).

    What ``on_bad_record`` does to a record that can't be used as it is:

    * ``"error"``: :func:`scenewise.open_data` refuses the data set and names the first. (A data set that is constructed
      directly, as the checker does, leaves them out and lists them in ``faults``.)
    * ``"skip"``: the object is left out; an image that is missing or of another size than stated is, with its objects.
    * ``"fix"``: a box is cut off at the image's border where no more than half of its width or height is beyond it,
      and no more than a fifth of the image's (``MENDABLE``); a wrong image size is replaced by the true one. What can't
      be mended without guessing is left out; nothing becomes an object of another kind.

    All that was left out or mended is listed in ``repairs``. An image without objects is a sample like any other.

    An object that lacks one field, where others have it, stays. Without keypoints, all its joints have visibility 0.
    Without a mask, it is an object like others where masks are not wanted; where they are, it is to be ignored, and
    the area of its box is its mask: nothing that lies there is background, and nothing is learned from it.

    Attributes:
        class_ids: the format's own number of each class, in label order.
        image_ids: the format's own number of each image, int64 [N]; None where it has none.
        boxes: float64 [A,4], x1, y1, x2, y2 in pixels, exactly as annotated.
        labels: int32 [A].
        ignore: bool [A].
        area: float64 [A] in pixels, as annotated; None where the format states none.
        sizes: int32 [N,2], (height, width) of each image as stated; 0 where the format states none.
        skeleton: of the P keypoints, where there are any.
    """

    class_ids: tuple[int, ...]
    image_ids: Int64 | None = None
    boxes: Float64
    labels: Int32
    ignore: Bool
    area: Float64 | None = None
    sizes: Int32

    _overhang = OVERHANG  # by which a box may leave its image ...
    reads_files = True
    _unit = " pixels"  # ... and what boxes are measured in
    _folder: Path  # of the images
    _names: Names  # of the images' files, below _folder
    _first: Int64  # [N+1], the row of each image's first object
    _points: Float32 | None = None  # [A,P,3], x, y, visibility, where the format has keypoints
    _dropped = 0  # objects that were left out, with those of images that were ...
    _lost = 0  # ... and images
    _unmasked: Bool | None = None  # [A], the objects that have no mask, where others have one
    _resolved = False  # whether a Resolver has looked for the images; then ...
    _absent: Int64  # ... these are not found, ...
    _absent_why: Names  # ... and why
    _policy: OnBadRecord

    # ---- what a reader says of its records

    @abstractmethod
    def _file_of(self, records: Records, row: int) -> Path:
        """The file that object ``row`` of ``records`` stands in."""

    @abstractmethod
    def _record_name(self, records: Records, row: int) -> str:
        """What the object is called in messages, such as ``annotation 4512 (image 000123.jpg)``."""

    @abstractmethod
    def _box_text(self, records: Records, row: int) -> tuple[str, str]:
        """The object's box unchanged from the file, and what is expected of boxes there."""

    def _masks(self, rows: Int64, size: tuple[int, int]) -> Runs:
        """The K masks of the objects ``rows`` of one image of ``size``. Readers with the field ``masks`` have it."""
        raise NotImplementedError

    def _keypoints(self, rows: Int64, size: tuple[int, int]) -> Float32:
        """The keypoints [K,P,3] of the objects ``rows`` of one image. Readers with the field ``keypoints`` have it."""
        raise NotImplementedError

    def outlines(self, index: int, size: tuple[int, int]) -> list[list[Float64] | None]:
        """For each object of image ``index``, which is ``size`` (height, width), the polygons, each [2P] in pixels,
        whose union its mask is; None where the format tells it otherwise, or it has no mask."""
        return [None] * len(self.rows(index))

    # ---- samples

    def __len__(self) -> int:
        return len(self._names)

    def masked(self, index: int) -> Bool:
        """Which objects of image ``index`` have a mask, where the data set has masks, bool [K]."""
        rows = self.rows(index)
        return np.ones(len(rows), np.bool_) if self._unmasked is None else ~self._unmasked[rows]

    def image_path(self, index: int) -> Path:
        """The file of image ``index``."""
        found: Path = self._folder / self._names[index]
        return found

    def image_id(self, index: int) -> str:
        """The image file's name without its ending, with the folders that the format puts it in."""
        found: str = splitext(self._names[index])[0]
        return found

    def rows(self, index: int) -> Int64:
        """Which rows of the tables are the objects of image ``index``, int64 [K]."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source}: image {index} of {len(self)}")
        return np.arange(self._first[index], self._first[index + 1])

    def __getitem__(self, index: int) -> Sample:
        """The image and its target: ``image_id`` and those of boxes, labels, ignore, area, masks, keypoints and
        visibility that are in ``fields``."""
        rows = self.rows(index)
        image = self.read_image(self.image_path(index))
        height, width = (int(side) for side in image.shape[-2:])
        self._check_size(index, (height, width))
        target: dict[str, Any] = {"image_id": self.image_id(index)}
        if "boxes" in self.fields:
            boxes = torch.from_numpy(self._boxes(rows, (height, width)).astype(np.float32))
            target["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        if "labels" in self.fields:
            target["labels"] = torch.from_numpy(self.labels[rows].astype(np.int64))
        if "ignore" in self.fields:
            target["ignore"] = torch.from_numpy(self._ignored(rows))
        if "area" in self.fields and self.area is not None:
            target["area"] = torch.from_numpy(self.area[rows].astype(np.float32))
        if "masks" in self.fields:
            target["masks"] = RunMasks.of(self._masks(rows, (height, width)))
        if "keypoints" in self.fields:
            points = torch.from_numpy(self._keypoints(rows, (height, width)))
            skeleton = self.skeleton or Skeleton()
            target["keypoints"] = KeyPoints.of(skeleton)(points[..., :2].contiguous(), canvas_size=(height, width))
            target["visibility"] = Visibility.of(skeleton)(points[..., 2].long())
        return tv_tensors.Image(image), target  # type: ignore[return-value]

    def _ignored(self, rows: Int64) -> Bool:
        """Which of the objects ``rows`` are to be ignored, among them those without a mask where masks are wanted."""
        if self._unmasked is not None and "masks" in self.fields:
            return self.ignore[rows] | self._unmasked[rows]
        return self.ignore[rows]

    def _boxes(self, rows: Int64, size: tuple[int, int]) -> Float64:
        """The boxes of the objects ``rows`` in an image of ``size``."""
        return self.boxes[rows]

    def _check_size(self, index: int, found: tuple[int, int]) -> None:
        """That image ``index``, which is ``found`` (height, width), has the size that the format states."""
        height, width = (int(side) for side in self.sizes[index])
        if height == 0 or (height, width) == found:
            return
        hint = ". Was the image turned by its EXIF orientation?" if (width, height) == found else ""
        raise DataError(
            f"{self.image_path(index)}: the image is {found[1]} x {found[0]} pixels (width x height); "
            f"{self._size_stated_in(index)} says {width} x {height}{hint}"
        )

    def _size_stated_in(self, index: int) -> str:
        return str(self.root)

    # ---- opening

    def _find_images(self, resolver: Resolver, names: Sequence[str]) -> tuple[Path, Sequence[str], dict[int, str]]:
        """The folder of the images, their names below it, and why some are not found, by position.

        The folder is the first of the resolver's in which all are that are found, so that the images' names in samples
        are those that the format gives them, as far as that can be.
        """
        home = resolver.home_of(names)
        if home is not None:
            return resolver.root / home, names, {}
        places, why = resolver.look_up(names)
        found = [place for index, place in enumerate(places) if index not in why]
        starts = (f"{folder}/" if folder else "" for folder in (*resolver.folders, ""))
        start = next(start for start in starts if all(place.startswith(start) for place in found))
        below = [place if index in why else place[len(start) :] for index, place in enumerate(places)]
        return resolver.root / start, below, why

    def _set_images(
        self,
        folder: Path,
        names: Sequence[str],
        sizes: Int32,
        policy: OnBadRecord,
        why: Mapping[int, str] | None = None,
    ) -> Int64:
        """Fill the table of images; the row of each of ``names`` in it, -1 for those that are left out, int64 [N].

        With ``"skip"`` and ``"fix"`` every image is looked for and its header read. ``why`` some are not found is told
        by :meth:`_find_images`.
        """
        self._folder, self._policy = folder, policy
        absent = {} if why is None or policy != "error" else why
        self._absent, self._absent_why = np.array([*absent], np.int64), Names(absent.values())
        place = np.arange(len(names))
        if policy != "error":
            sizes = sizes.copy()
            repairs = []
            for index, name in enumerate(names):
                if why is not None and index in why:
                    message, sizes[index] = why[index], -1
                else:
                    message = self._mend_image(folder / name, sizes, index)
                if message:
                    out = sizes[index, 0] < 0
                    place[index] = -1 if out else index
                    how = "left out, with its objects" if out else "the file's size is taken"
                    repairs.append(Problem(str(folder / printable(name)), f"{message}; {how}"))
            kept = place >= 0
            self._lost += int((~kept).sum())
            place[kept] = np.arange(kept.sum())
            names, sizes = [name for name, keep in zip(names, kept, strict=True) if keep], sizes[kept]
            self.repairs = (*self.repairs, *repairs)
        self._names, self.sizes = names if isinstance(names, Names) else Names(names), sizes
        self._resolved = why is not None
        return place

    def _leave_out(self, file: str | Path, message: str) -> None:
        """List an image of ``_policy`` that can't be used, for itself or its file of objects."""
        if self._policy == "error":
            self.faults = (*self.faults, Problem(str(file), message))
        else:
            self._lost += 1
            self.repairs = (*self.repairs, Problem(str(file), f"{message}; left out"))

    def _mend_image(self, path: Path, sizes: Int32, index: int) -> str:
        """What is wrong with an image, "" where nothing is; row ``index`` of ``sizes`` becomes right, or -1 to leave it
        out."""
        height, width = (int(side) for side in sizes[index])
        try:
            found = image_size(path)
        except DataError as error:
            sizes[index] = -1
            return str(error).removeprefix(f"{path}: ")
        if height == 0 or (height, width) == found:
            return ""
        sizes[index] = found if self._policy == "fix" and (width, height) != found else -1
        return f"is {found[1]} x {found[0]} pixels (width x height), and {width} x {height} is stated"

    def _set_objects(self, records: Records, needs: frozenset[str]) -> Int32:
        """Fill the tables with the records that can be used; which rows of ``records`` they are, int32 [A].

        Faults in what ``needs`` does not ask for are no faults; where it is empty, everything counts.
        """
        faults = {row: fault for row, fault in records.faults.items() if self._matters(fault, needs)}
        mendable: dict[int, Fault] = {}  # boxes that leave their image, and nothing else
        for row, fault in self._box_faults(records):
            if row not in faults:
                mendable[row] = fault
            if row not in faults or faults[row].spoils != "boxes":
                faults[row] = fault
        usable = records.image >= 0  # else the image was left out, or a fault says that there is none
        listed: list[Problem] = []
        for row in sorted({*faults, *records.mended}):
            message = records.mended.get(row, "")
            if row in faults:
                usable[row] &= row in mendable and self._mend_box(records, row, faults[row])
                how = "cut off at the border" if usable[row] else "left out"
                message = faults[row].message + ("" if self._policy == "error" else f"; {how}")
            name = self._record_name(records, row)
            listed.append(Problem(str(self._file_of(records, row)), f"{name}: {message}"))
        if self._policy == "error":
            self.faults = (*self.faults, *listed)
        else:
            self.repairs = (*self.repairs, *listed)
        return self._keep(records, usable)

    def _keep(self, records: Records, usable: Bool) -> Int32:
        """Move the ``usable`` records to the tables, in the order of their images; which rows they are, int32 [A].

        Column by column, since there may be millions of rows: each is let go as soon as it has been put in order.
        """
        order = np.flatnonzero(usable).astype(np.int32)
        self._dropped = len(usable) - len(order)
        image = records.image[order]
        as_they_are = self._dropped == 0 and bool((image[1:] >= image[:-1]).all())
        if not as_they_are:
            order = order[np.argsort(image, kind="stable")]
            image = records.image[order]
        self._first = np.searchsorted(image, np.arange(len(self) + 1, dtype=image.dtype))
        records.columns |= {"boxes": records.boxes, "labels": records.labels, "ignore": records.ignore}
        del image, records.boxes, records.labels, records.ignore, records.image
        for name in [*records.columns]:
            column = records.columns.pop(name)
            if not as_they_are and column.ndim == 2 and not self._dropped:
                for part in column.T:  # in place
                    part[:] = part[order]
            elif not as_they_are:
                column = column[order]
            setattr(self, name, column)
        return order

    @staticmethod
    def _matters(fault: Fault, needs: frozenset[str]) -> bool:
        return not needs or fault.spoils == "boxes" or fault.spoils in needs

    def _mend_box(self, records: Records, row: int, fault: Fault) -> bool:
        """Cut off a box at the image's border, where that is what is wrong and is to be mended; whether it was."""
        if self._policy != "fix" or not fault.message.endswith(_OUTSIDE):
            return False
        bounds = np.tile(self._bounds(_part(records, slice(row, row + 1)))[0], 2)
        box = np.clip(records.boxes[row], 0, bounds)
        beyond, sides = np.abs(records.boxes[row] - box), records.boxes[row, 2:] - records.boxes[row, :2]
        if (beyond > MENDABLE * bounds + 1e-6).any() or (beyond > 0.5 * np.tile(sides, 2)).any():
            return False
        if (box[2:] - box[:2] < self._overhang).any():
            return False
        records.boxes[row] = box
        return True

    def _bounds(self, records: Records) -> Float64:
        """The width and height of each object's image, as boxes count, [A,2]; 0 where it is not known."""
        placed = records.image >= 0
        if not len(self):
            return np.zeros((len(placed), 2))
        return np.where(placed[:, None], self.sizes[np.where(placed, records.image, 0), ::-1], 0).astype(np.float64)

    def _box_faults(self, records: Records) -> Iterator[tuple[int, Fault]]:
        """The boxes that are none, and those that leave their image."""
        many = 0
        for start in range(0, len(records.boxes), BLOCK):
            for row, fault, outside in self._box_faults_of(_part(records, slice(start, start + BLOCK))):
                many += outside
                yield row + start, fault
        self._many_outside = many > max(3, len(records.boxes) // 3)

    def _box_faults_of(self, records: Records) -> Iterator[tuple[int, Fault, bool]]:
        """Their rows and faults, and whether they leave their image; of some of the records."""
        boxes = records.boxes
        sound = np.isfinite(boxes).all(1)
        with np.errstate(invalid="ignore"):
            sides = boxes[:, 2:] - boxes[:, :2]
            sound &= (sides > 0).all(1)
            bounds = self._bounds(records)
            beyond = (boxes[:, :2] < -self._overhang) | (boxes[:, 2:] > bounds + self._overhang)
            outside = (bounds > 0).all(1) & beyond.any(1)
        for row in np.flatnonzero(~sound).tolist():
            found, expected = self._box_text(records, row)
            yield row, Fault(f"{found} {_what_is_wrong(boxes[row])}; expected {expected}"), False
        for row in np.flatnonzero(sound & outside).tolist():
            found, _ = self._box_text(records, row)
            width, height = bounds[row]
            x1, y1, x2, y2 = boxes[row].tolist()
            yield (
                row,
                Fault(
                    f"{found} covers x {x1:g} to {x2:g} and y {y1:g} to {y2:g} of an image of "
                    f"{width:g} x {height:g}{self._unit} (width x height); {_OUTSIDE}"
                ),
                True,
            )

    _many_outside = False  # whether so many boxes leave their image that they may be of another form

    # ---- what is wrong

    def unlabelled(self, needs: frozenset[str] = frozenset()) -> str:
        """That there is no object, or no keypoint, or that most were left out."""
        if needs and not needs & OBJECT_FIELDS:
            return ""
        kept = len(self.labels)
        for dropped, left, what in ((self._lost, len(self), "images"), (self._dropped, kept, "objects")):
            if dropped > left and self._policy != "error":
                return (
                    f"on_bad_record: {self._policy} leaves out {dropped:,} of {dropped + left:,} {what}, more than "
                    f"half, such as {self.repairs[0]}. Mend the data set: so many are wrong for one reason"
                )
        if not len(self):
            return ""
        if self.ignore.all():
            what = f"{counted(kept, 'object')}, all marked as crowd or difficult," if kept else "no object is labelled"
            where = f"in {counted(len(self), 'image')}"
            return f"{what} {where}, so that nothing can be learned or measured{self._label_hint()}"
        if "keypoints" in needs and self._points is not None and not (self._points[..., 2] > 0).any():
            return f"no keypoint of {counted(kept, 'object')} is labelled, so that nothing can be learned or measured"
        return ""

    def _label_hint(self) -> str:
        """Where the labels were looked for, and what may be meant instead: the end of a sentence."""
        return ""

    def missing(self) -> Iterator[Problem]:
        """Images that are not there."""
        if self._resolved:
            for index, message in zip(self._absent.tolist(), self._absent_why, strict=True):
                yield Problem(str(self._folder / printable(self._names[index])), message)
            return
        present: dict[str, set[str]] = {}  # listing a folder once is far quicker than asking for each of its files
        for name in self._names:
            folder, file = split_path(name)
            if folder not in present:
                present[folder] = names_in(self._folder / folder)
            if file not in present[folder]:
                yield Problem(str(self._folder / name), "not found; expected an image")

    def strays(self) -> Iterator[Problem]:
        """The bad records that were found at opening, and what they look like together."""
        yield from self.faults
        yield from self.repairs
        yield from dict.fromkeys((*self.notes, *self.suspicions()))

    def suspicions(self) -> Iterator[Problem]:
        """Likely mistakes that all records together show."""
        seen: set[str] = set()
        for name in self._names:
            if name in seen:
                yield Problem(str(self._folder / name), f"is more than once in split {self.split!r}", "suspicion")
            seen.add(name)
        for first, second, why in near_equal(self.classes):
            message = f"classes {first!r} and {second!r} {why}. Are they one class? Then give both the same name"
            yield Problem(str(self.root), message, "suspicion")
        if self._unit and len(self.boxes) and self.boxes.max() <= 1:
            message = (
                f"no corner of {counted(len(self.boxes), 'object')} is beyond 1; expected pixels. Are these parts of "
                "the image's width and height, from 0 to 1? Then multiply them by the width and the height"
            )
            yield Problem(str(self.root), message, "suspicion")


MAX_TOLD, MAX_LOOKED_AT = 5, 100  # suspicions that are told when a data set is opened
OBJECT_FIELDS = frozenset(n for n, field in FIELDS.items() if field.per_instance and field.output and field.target)

_OUTSIDE = "expected a box inside the image"


def _part(records: Records, rows: slice) -> Records:
    """Some of the records, without their faults."""
    columns = {name: column[rows] for name, column in records.columns.items()}
    return Records(records.image[rows], records.boxes[rows], records.labels[rows], records.ignore[rows], columns)


def _what_is_wrong(box: Float64) -> str:
    if not np.isfinite(box).all():
        return "has a number that is not finite"
    width, height = box[2:] - box[:2]
    name, side = ("width", width) if width <= 0 else ("height", height)
    return f"has {name} {side:g}"


def near_equal(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Pairs of ``names`` that may be one name written in two ways, with what tells them apart.

    These are names that differ in upper and lower case, in spaces, hyphens and underscores, in a plural's s, or, from
    six letters on, by one letter more inside the name (``bicyle``, ``bicycle``).
    """
    spelt: dict[str, list[str]] = {}
    for name in names:
        spelt.setdefault(_plain(name), []).append(name)
    case = "differ in upper and lower case, spaces or hyphens only"
    pairs = [(group[0], other, case) for group in spelt.values() for other in group[1:]]
    for plain, group in spelt.items():
        if plain[:-1] in spelt and plain.endswith("s") and len(plain) > 3:
            pairs.append((spelt[plain[:-1]][0], group[0], "differ in the plural's s only"))
        inner = range(1, len(plain) - 1) if 6 <= len(plain) <= 40 else ()
        shorter = {plain[:place] + plain[place + 1 :] for place in inner if plain[place].isalpha()}
        pairs += [(spelt[other][0], group[0], "differ in one letter only") for other in sorted(shorter & spelt.keys())]
    return pairs


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def box_ious(a: Float32 | Float64, b: Float64) -> Float64:
    """The IoU of each box in ``a`` [A,4] with its counterpart in ``b``, each a pixel larger on all sides."""
    a, b = (boxes.astype(np.float64) + np.array([-0.5, -0.5, 0.5, 0.5]) for boxes in (a, b))
    overlap = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (a, b)]
    found: Float64 = overlap / np.maximum(areas[0] + areas[1] - overlap, 1e-9)
    return found


def describe_repairs(data: DataSet) -> str:
    """What was left out, mended or decided at the opening of ``data``, and what looks like a mistake, in one line;
    empty where there is nothing."""
    found = list(dict.fromkeys((*data.notes, *islice(data.suspicions(), MAX_LOOKED_AT))))
    parts = [f"{problem.file}: {problem.message}" for problem in found[:MAX_TOLD]]
    if len(found) > MAX_TOLD:
        parts.append(f"{len(found) - MAX_TOLD} more suspicions or more; scenewise data check lists them")
    if count := len(data.repairs):
        mended = f"{count:,} bad record{'s' if count > 1 else ''} skipped or mended"
        parts.insert(0, f"{data.source}, split {data.split}: {mended}")
    return ". ".join(parts)


def places_of(known: Int64, values: Int64) -> Int32:
    """The index in ``known``, unique numbers, of each of ``values``; -1 for those that are not in it. int32 [A]."""
    found = np.full(len(values), -1, np.int32)
    if not len(known):
        return found
    order = np.argsort(known, kind="stable").astype(np.int32)
    ordered = known[order]
    for start in range(0, len(values), BLOCK):
        part = values[start : start + BLOCK]
        place = np.minimum(np.searchsorted(ordered, part), len(known) - 1)
        found[start : start + BLOCK] = np.where(ordered[place] == part, order[place], np.int32(-1))
    return found
