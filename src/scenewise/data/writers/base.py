"""What writers of data sets share: what they are given, how they say what is lost, how images get to their place."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from scenewise.errors import DataError, UsageError
from scenewise.fields.run_masks import RunMasks
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.ops.runs import Runs
from scenewise.types import Skeleton, Target

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

MAX_CLASSES = 254  # of label maps: labels are 0 to 253
ROUNDED = 1.0  # pixels by which a number may move without being a loss: as far as readers let boxes leave their image


@dataclass(frozen=True)
class Whole:
    """What holds for all images of a data set that is written.

    Attributes:
        source: where it comes from, for messages.
        classes: names, in label order.
        class_ids: the numbers that stand for them at the source; None where it has none.
        colors: of the classes, or None.
        skeleton: of the keypoints, where there are any.
        fields: the target fields that are written.
    """

    source: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...] | None
    colors: tuple[tuple[int, int, int], ...] | None
    skeleton: Skeleton | None
    fields: frozenset[str]


@dataclass
class Record:
    """An image with its labels.

    Attributes:
        split: the split that it goes to.
        name: its name in the split, without ending; with ``/`` where it lies in a folder.
        number: the source's own number of the image, where it has one.
        file: its file; None where there is none, and the pixels are written.
        image: uint8 [3,H,W].
        target: a sample's. ``ignore`` is as the source states it.
        outlines: for each of K objects the polygons, each [2P] in pixels, whose union its mask is; None where the
            source tells it otherwise.
        masked: bool [K], the objects with a mask of their own.
    """

    split: str
    name: str
    number: int | None
    file: Path | None
    image: Tensor
    target: Target
    outlines: Sequence[Sequence[Float64] | None] = ()
    masked: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    @property
    def ending(self) -> str:
        """That of the image's file."""
        return ".png" if self.file is None else self.file.suffix

    @cached_property
    def runs(self) -> Runs:
        """The runs of the masks."""
        masks = self.target["masks"]
        return masks.runs() if isinstance(masks, RunMasks) else Runs.of_bitmaps(masks.as_subclass(Tensor).numpy())

    def boxes(self) -> Float64:
        """The boxes [K,4], x1, y1, x2, y2 in pixels."""
        return self.target["boxes"].numpy().astype(np.float64).reshape(-1, 4)

    def labels(self) -> list[int]:
        """The label of each object."""
        return [int(label) for label in self.target["labels"]]

    def ignored(self) -> Bool:
        """Which objects are marked as crowd or difficult, [K]."""
        if "ignore" not in self.target:
            return np.zeros(len(self.target["labels"]), np.bool_)
        return self.target["ignore"].numpy().astype(np.bool_)


class Losses:
    """What the target can't hold: refused, or counted where that is allowed; and what only has another form there."""

    def __init__(self, target: str, allowed: bool) -> None:
        self.target, self.allowed = target, allowed
        self._counts: dict[tuple[str, str], int] = {}
        self._notes: dict[str, tuple[int, float]] = {}

    def lose(self, what: str, outcome: str, count: int = 1, where: str = "") -> None:
        """Count a loss.

        Args:
            what: what has no place in the target, such as ``object{s} marked as crowd``; ``{s}`` is a plural's.
            outcome: what becomes of it, such as ``left out``.
            count: how many there are; 0 where there is nothing to count.
            where: the first place, for the error.

        Raises:
            UsageError: losses are not allowed.
        """
        if not self.allowed:
            found = _counted(count, what)
            place = f"{where}: " if where else ""
            raise UsageError(
                f"{place}{found}: {self.target} has no place for that. The option lossy (--lossy) goes on, and says "
                f"what is lost: {outcome}"
            )
        self._counts[what, outcome] = self._counts.get((what, outcome), 0) + count

    def note(self, what: str, count: int = 0, pixels: float = 0.0) -> None:
        """Count what changes no sample by more than ``ROUNDED``: ``count`` times, by ``pixels`` at most."""
        before = self._notes.get(what, (0, 0.0))
        self._notes[what] = before[0] + count, max(before[1], pixels)

    @property
    def lost(self) -> list[str]:
        """One line for each kind of loss."""
        return [f"{_counted(count, what)}: {outcome}" for (what, outcome), count in self._counts.items()]

    @property
    def notes(self) -> list[str]:
        """One line for each kind of note."""
        lines = []
        for what, (count, pixels) in self._notes.items():
            by = f", by {pixels:.2g} px at most" if pixels else ""
            lines.append(f"{_counted(count, what)}{by}")
        return lines


def _counted(count: int, what: str) -> str:
    words = what.format(s="" if count == 1 else "s", es="" if count == 1 else "es")
    return f"{count:,} {words}" if count else words


class Writer(ABC):
    """Writes a data set in one format.

    Args:
        folder: where to; it is empty.
        whole: what holds for all images.
        losses: takes what the format can't hold.
        link: images are links to their files, in place of copies.
    """

    format: ClassVar[str]
    holds: ClassVar[frozenset[str]]  # target fields
    one_of: ClassVar[tuple[frozenset[str], ...]] = ()  # fields of which only one of these groups can be held at a time
    stems: ClassVar[bool] = True  # images are told apart by their name without its ending

    def __init__(self, folder: Path, whole: Whole, losses: Losses, *, link: bool = False) -> None:
        self.folder, self.whole, self.losses, self.link = folder, whole, losses, link
        self._taken: dict[tuple[str, str], str] = {}
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Say what is lost of the data set as a whole."""

    @abstractmethod
    def add(self, record: Record) -> None:
        """Write one image with its labels."""

    @abstractmethod
    def finish(self) -> None:
        """Write what stands in one file for all images. Each split has at least one record."""

    # ---- what several formats share

    def lose_colors(self) -> None:
        """Colours of classes have no place."""
        if self.whole.colors is not None:
            self.losses.lose("colours of the classes", "left out", 0, self.whole.source)

    def renumbered(self, ids: Sequence[int]) -> None:
        """Note where the classes' own numbers are others than ``ids``."""
        own = self.whole.class_ids
        if own is not None and tuple(own) != tuple(ids):
            self.losses.note(
                f"the numbers of classes, {_few(own)} at the source, are {_few(ids)}; names and order are the same"
            )

    def plain_names(self, place: str) -> None:
        """Refuse names of classes that can't stand in a list of lines.

        Raises:
            UsageError: a name has a line break in it, or spaces around it, or is empty.
        """
        for name in self.whole.classes:
            if name != name.strip() or len(name.splitlines()) != 1:
                raise UsageError(
                    f"{self.whole.source}: class {name!r}: {place} has a name per line, without spaces around it; "
                    "rename the class"
                )

    def kept_objects(self, record: Record) -> list[int]:
        """The objects of ``record`` that are not marked as crowd or difficult; the others are lost."""
        ignored = record.ignored()
        if ignored.any():
            where = f"{record.split}, image {record.name}"
            self.losses.lose("object{s} marked as crowd or difficult", "left out", int(ignored.sum()), where)
        found: list[int] = np.flatnonzero(~ignored).tolist()
        return found

    def note_areas(self, record: Record) -> None:
        """Areas have no place; COCO's scores sort objects by them into small, medium and large ones."""
        if "area" in record.target and len(record.target["area"]):
            self.losses.note(
                "area{s} of objects left out, by which COCO's scores sort them", len(record.target["area"])
            )

    def place_image(self, record: Record, folder: str) -> str:
        """Copy or link the image of ``record`` into ``folder``, below the data set's own; its name with ending.

        Raises:
            DataError: an image of that name is there already, or can't be copied, or is of an ending that no reader
                takes for an image.
        """
        name = f"{record.name}{record.ending}"
        key = (folder, record.name if self.stems else name)
        other = self._taken.setdefault(key, name)
        if other != name or (self.folder / folder / name).exists():
            raise DataError(
                f"{self.whole.source}, split {record.split}: images {other} and {name} would be one; expected each "
                "image once, and names that differ in more than their ending"
            )
        if record.ending.lower() not in IMAGE_SUFFIXES:
            raise DataError(
                f"{record.file}: {record.ending or 'no ending'!r} is not the ending of an image; "
                f"expected one of {', '.join(sorted(IMAGE_SUFFIXES))}: rename the file"
            )
        copy_image(record, self.folder / folder / name, link=self.link)
        return name


def copy_image(record: Record, place: Path, *, link: bool) -> None:
    """Put the image of ``record`` to ``place``: a copy of its file or a link to it, or its pixels as PNG."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        if record.file is None:
            Image.fromarray(record.image.permute(1, 2, 0).contiguous().numpy()).save(place, format="PNG")
        elif link:
            os.symlink(record.file.resolve(), place)
        else:
            shutil.copyfile(record.file, place)
    except OSError as error:
        how = "linked" if link else "copied"
        raise DataError(f"{record.file or record.name}: can't be {how} to {place.parent} ({error.strerror})") from None


def short(values: npt.ArrayLike) -> list[float]:
    """``values``, which came as float32, with no more digits than that has."""
    return [float(str(value)) for value in np.asarray(values, np.float32).ravel()]


def _few(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:3]))
    return f"{shown}, ... {ids[-1]}" if len(ids) > 4 else ", ".join(map(str, ids))
