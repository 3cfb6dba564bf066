"""The data-set checker: what is wrong in a data set, file by file, and what looks like a mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scenewise.data.base import UNIONS, DataSet, Problem
from scenewise.data.formats import all_readers, construct, find_reader, naming_what_is_here
from scenewise.data.instances import InstanceDataSet
from scenewise.data.label_maps import INVALID, LabelMapDataSet, saved_as_masks
from scenewise.data.names import split_of
from scenewise.data.recognise import describe
from scenewise.data.repeats import CURE
from scenewise.errors import DataError
from scenewise.files.images import count_pages
from scenewise.files.tiffs import tiff_layout
from scenewise.types import IGNORE, InputSpec, Sample

Counts = npt.NDArray[np.int64]
FILED = (LabelMapDataSet, InstanceDataSet)  # whose images are files


FEW = 20  # objects of a class; of fewer, a network learns little, and a score of them says little


@dataclass(frozen=True)
class Group:
    """Problems of one kind: equal but for names and numbers.

    Attributes:
        first: the first of them.
        count: how many there are.
        files: those of the first few, without repetition.
    """

    first: Problem
    count: int
    files: tuple[str, ...]

    @property
    def severity(self) -> Literal["error", "suspicion"]:
        """That of all of them."""
        return self.first.severity


@dataclass(frozen=True)
class DataReport:
    """What :func:`check_data` found.

    Attributes:
        source: the ``format:path`` string.
        splits: the number of images in each split that could be opened.
        problems: errors and suspicions, split by split, then those of the data set as a whole.
        class_pixels: for each class, in label order, its pixels in all sound label maps; empty where the data set has
            no label maps.
        class_objects: for each class, in label order, its objects in each split, those to ignore left out; empty where
            the data set has no objects.
        class_images: for each class, in label order, how many images of each split have it.
        sizes: how many images have each (height, width).
    """

    source: str
    splits: dict[str, int]
    problems: list[Problem]
    class_pixels: dict[str, int]
    class_objects: dict[str, dict[str, int]]
    class_images: dict[str, dict[str, int]]
    sizes: dict[tuple[int, int], int]

    @property
    def ok(self) -> bool:
        """Whether there is no error; suspicions are for the user to judge."""
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def few(self) -> dict[str, int]:
        """The classes with fewer than ``FEW`` objects in the splits to learn from, and how many those are, the rarest
        first. A class without any object is a problem of its own, not one of these."""
        there = {name: counts for name, counts in self.class_objects.items() if any(counts.values())}
        learned = {name: sum(counts[split] for split in self.learned_from) for name, counts in there.items()}
        return dict(sorted(((n, count) for n, count in learned.items() if count < FEW), key=lambda item: item[1]))

    @property
    def learned_from(self) -> list[str]:
        """The splits that are trained on by their names, such as ``train2017``; all where none is."""
        return [split for split in self.splits if split_of(split) == "train" and split not in UNIONS] or list(
            self.splits
        )

    def groups(self, places: int = 3) -> list[Group]:
        """The problems, equal ones together: errors first, in the order in which they were found.

        Args:
            places: how many files a group names.
        """
        found: dict[tuple[str, str], list[Problem]] = {}
        for problem in sorted(self.problems, key=lambda problem: problem.severity != "error"):
            found.setdefault((problem.severity, _kind(problem.message)), []).append(problem)
        return [
            Group(same[0], len(same), tuple(dict.fromkeys(problem.file for problem in same))[:places])
            for same in found.values()
        ]


def _kind(message: str) -> str:
    """``message`` without the names and numbers that differ from one record to the next."""
    for pattern, mark in _PARTS:
        message = pattern.sub(mark, message)
    return message


_PARTS = (
    (re.compile(r"^(?:object|line|annotation|annotations|shape|region|figure)\b[^:]*: "), ""),
    (re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""), "'...'"),
    (re.compile(r"\S*/\S*"), "FILE"),
    (re.compile(r"[-+]?\b\d[\d.,]*(?:e[-+]?\d+)?(?<![.,])"), "#"),
    (re.compile(r"\[[#, .]*\]"), "#"),
)


def check_data(
    source: str,
    splits: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    needs: frozenset[str] = frozenset(),
) -> DataReport:
    """All problems of the data set ``source``. Reads every file once.

    Args:
        source: a ``format:path`` string, or a path alone.
        splits: which to check; without it all that there are. VOC's trainval is then left out, since its images are
            those of train and val.
        progress: called after each image with the number of images that are done and that there are.
        needs: target fields, where a format has several readers.

    Errors are missing and broken files, label maps without images, sizes that differ, values that are no class.
    With objects, also boxes without an area or outside their image, unknown classes, ids that occur twice, masks and
    keypoints that are none, masks that contradict their box. Suspicions are the same picture twice, in one split or in
    two; masks saved as 0 and 255; labels counted from 1; boxes whose corners are read as sizes; classes that never
    occur, or not in train.

    Raises:
        UsageError, DataError: as for :func:`scenewise.data.formats.open_data`; the path is not of that format at all.
    """
    reader, root = find_reader(source, needs)
    if splits is None:
        with naming_what_is_here(reader, root):
            there = reader.splits(root)
        splits = [split for split in there if split not in UNIONS] or there[:1]
    problems: list[Problem] = []
    if not splits:
        hint = "" if reader.sign(root) else f"; {describe(root, all_readers(), reader.format)}"
        problems.append(Problem(str(root), f"no split is there that could be checked{hint}"))
    opened: list[DataSet] = []
    for split in splits:
        try:
            data, told = _as_stored(construct(reader, root, split, needs=needs))
            opened.append(data)
            problems.extend(told)
        except DataError as error:
            problems.append(Problem.of(error))
    check = _Check(sum(len(data) for data in opened), progress)
    for data in opened:
        problems.extend(check.split(data))
        if (reason := data.unlabelled(needs)) and not data.faults:
            severity: Literal["error", "suspicion"] = "error" if isinstance(data, InstanceDataSet) else "suspicion"
            problems.append(Problem(str(root), f"split {data.split!r}: {reason}", severity))
    problems.extend(check.whole(root, opened))
    classes = opened[0].classes if opened and "semantic" in opened[0].fields else ()
    totals = sum(check.labels.values(), np.zeros(256, np.int64))
    return DataReport(
        source,
        {data.split: len(data) for data in opened},
        list(dict.fromkeys(problems)),  # splits that share folders tell of the same strays
        {name: int(totals[label]) for label, name in enumerate(classes)},
        check.by_class(opened, check.objects, objects=True),
        check.by_class(opened, check.images),
        dict(sorted(check.sizes.items(), key=lambda item: (-item[1], item[0]))),
    )


def _as_stored(data: DataSet) -> tuple[DataSet, list[Problem]]:
    """``data``, its images read with the channels that the first one has, and what training by them takes."""
    layout = tiff_layout(data.image_path(0)) if isinstance(data, FILED) and len(data) else None
    if layout is None or not layout.many:
        return data, []
    bits = ", and input.bits: 16 where all their bits are to be kept" if layout.deep else ""
    message = f"images have {layout.channels} channels; training takes input.channels: {layout.channels}{bits}"
    spec = InputSpec(channels=layout.channels, bits=16 if layout.deep else 8)
    return data.seen_as(spec), [Problem(str(data.root), message, "suspicion")]


@dataclass
class _Check:
    """What is counted while the splits of one data set are read."""

    total: int
    progress: Callable[[int, int], None] | None
    done: int = 0
    labels: dict[str, Counts] = field(default_factory=dict)  # split -> [256], pixels of each label
    values: Counts = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels of each value in the files
    pictures: dict[bytes, tuple[str, str]] = field(default_factory=dict)  # hash of an image -> its split and file
    objects: dict[str, Counter[int]] = field(default_factory=dict)  # split -> objects of each label
    images: dict[str, Counter[int]] = field(default_factory=dict)  # split -> images with each label
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # images of each (height, width)

    def split(self, data: DataSet) -> Iterator[Problem]:
        """The problems of one split, record by record."""
        yield from data.strays()
        labels = self.labels[data.split] = np.zeros(256, np.int64)
        self.objects[data.split], self.images[data.split] = Counter(), Counter()
        for index in range(len(data)):
            found = data.examine(index)
            yield from found.problems
            yield from _pages(data, index)
            self._count(data, index, found.sample)
            if found.values is not None:
                self.values += found.values
            if found.sample is not None:
                labels += _label_counts(found.sample)
                yield from self._seen(data, index, found.sample)
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)

    def _seen(self, data: DataSet, index: int, sample: Sample) -> Iterator[Problem]:
        """A suspicion where the image of ``sample`` came before, pixel by pixel."""
        image = np.ascontiguousarray(sample[0].numpy())
        digest = blake2b(image.data, digest_size=16)
        digest.update(str(image.shape).encode())
        file = str(data.image_path(index)) if isinstance(data, FILED) else data.image_id(index)
        split, first = self.pictures.setdefault(digest.digest(), (data.split, file))
        if split != data.split and not {split, data.split} & UNIONS:
            same = "is also" if first == file else f"the same picture as {first}"
            message = f"{same} in split {split!r}; here it is in {data.split!r}. Scores are then too good: {CURE}"
            yield Problem(file, message, "suspicion")
        elif split == data.split and first != file:
            yield Problem(file, f"the same picture as {first}, in the same split {split!r}", "suspicion")

    def _count(self, data: DataSet, index: int, sample: Sample | None) -> None:
        """Count the objects and classes of an image; those of tables even where the image is broken."""
        target: Mapping[str, Any] = {} if sample is None else sample[1]
        if sample is not None:
            self.sizes[int(sample[0].shape[-2]), int(sample[0].shape[-1])] += 1
        found: list[int] = []
        if isinstance(data, InstanceDataSet):
            rows = data.rows(index)
            found = data.labels[rows][~data.ignore[rows]].tolist()
        elif "labels" in target:
            kept = ~target["ignore"] if "ignore" in target else slice(None)
            found = target["labels"][kept].tolist()
        self.objects[data.split].update(found)
        seen = set(found)
        if sample is not None and "semantic" in target:
            seen |= set(np.flatnonzero(_label_counts(sample)).tolist()) - {IGNORE}
        self.images[data.split].update(seen)

    def by_class(
        self, opened: Sequence[DataSet], counts: dict[str, Counter[int]], *, objects: bool = False
    ) -> dict[str, dict[str, int]]:
        """``counts`` by the name of the class and the split; nothing where ``objects`` are asked for and there are
        none."""
        if not opened or (objects and "labels" not in opened[0].fields):
            return {}
        return {
            name: {data.split: counts[data.split][label] for data in opened}
            for label, name in enumerate(opened[0].classes)
        }

    def whole(self, root: Path, opened: Sequence[DataSet]) -> Iterator[Problem]:
        """The suspicions that only all label maps, or all objects, together show."""
        counts = self.by_class(
            [data for data in opened if isinstance(data, InstanceDataSet)], self.objects, objects=True
        )
        never_seen = [repr(name) for name, found in counts.items() if not any(found.values())]
        if never_seen:
            where = " and ".join(repr(data.split) for data in opened)
            yield Problem(str(root), f"no object of class {', '.join(never_seen)} in split {where}", "suspicion")
        if not opened or "semantic" not in opened[0].fields:
            return
        if isinstance(opened[0], LabelMapDataSet):
            yield from self._odd_values(root, opened[0])
        total = sum(self.labels.values(), np.zeros(256, np.int64))
        if not total.any():
            return  # no sound label map at all: the errors say why
        never = [label for label in range(len(opened[0].classes)) if total[label] == 0]
        train = self.labels.get("train", total)
        elsewhere = [label for label in range(len(opened[0].classes)) if total[label] and train[label] == 0]
        for labels, where in ((never, _listed(self.labels)), (elsewhere, "split 'train', where others have some")):
            if labels:
                names = ", ".join(f"{label} ({opened[0].classes[label]!r})" for label in labels)
                yield Problem(str(root), f"no pixel of class {names} in {where}", "suspicion")

    def _odd_values(self, root: Path, data: LabelMapDataSet) -> Iterator[Problem]:
        present = np.flatnonzero(self.values).tolist()
        count = len(data.classes)
        if present == [0, 255] and count > 1 and data.table[255] in (IGNORE, INVALID):
            yield saved_as_masks(root, count)
        if data.table[0] == 0 and data.table[count] == INVALID and self.values[count] and not self.values[0]:
            yield Problem(
                str(root),
                f"no pixel has value 0, and some have {count}; expected indices 0 to {count - 1} of the {count} "
                "classes. Are all labels one too high?",
                "suspicion",
            )


def _pages(data: DataSet, index: int) -> Iterator[Problem]:
    """A suspicion where an image has several pages, of which the first is read."""
    if isinstance(data, FILED) and data.image_form[0] == 3:
        path = data.image_path(index)
        if path.suffix.lower() in (".tif", ".tiff") and (count := count_pages(path)) > 1:
            hint = "Grey pages are channels where input.channels is their number"
            message = f"has {count} pages; the first is read. {hint}"
            yield Problem(str(path), message, "suspicion")


def _label_counts(sample: Sample) -> Counts:
    if "semantic" not in sample[1]:
        return np.zeros(256, np.int64)
    return np.bincount(sample[1]["semantic"].numpy().ravel(), minlength=256)


def _listed(splits: dict[str, Counts]) -> str:
    return f"split {next(iter(splits))!r}" if len(splits) == 1 else f"any of the splits {', '.join(splits)}"
