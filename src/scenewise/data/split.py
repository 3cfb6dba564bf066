"""Splits: which images of a data set are trained on, and which are for validation and test.

Where an image belongs follows from a hash, of its file's content or its name: the same everywhere, and images that are
added move none. Shares are therefore met on average, not exactly. Images of one sequence, such as the frames of a film,
are alike; grouped, they stay together. Stratified splits have each class in every split where they can; there an added
image may move others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from scenewise.data.base import OnBadRecord
from scenewise.data.convert import Item, Source, open_source, write_items
from scenewise.data.folders import counted
from scenewise.data.instances import InstanceDataSet
from scenewise.data.label_maps import LabelMapDataSet
from scenewise.data.part import content_key, place_of
from scenewise.data.readers.voc_boxes import VOCBoxes
from scenewise.errors import UsageError
from scenewise.files.atomic import write_text
from scenewise.types import IGNORE

By = Literal["content", "name"]
TRAILING = re.compile(r"[-_. ]*(?:frame|image|img)?[-_. ]*\d+$", re.IGNORECASE)  # what numbers the images of a sequence


@dataclass(frozen=True)
class Split:
    """What :func:`split_data` made.

    Attributes:
        target: the ``format:path`` string that opens it.
        images: how many each split has.
        groups: how many groups of images each split has.
        classes: for each class, how many images of each split have it.
        lost, notes: as those of a :class:`~scenewise.data.convert.Conversion`.
    """

    target: str
    images: dict[str, int]
    groups: dict[str, int]
    classes: dict[str, dict[str, int]]
    lost: list[str]
    notes: list[str]


def split_data(
    source: str,
    target: str | None = None,
    *,
    parts: Mapping[str, float] | None = None,
    by: By = "content",
    group: str | None = None,
    stratify: bool = False,
    splits: Sequence[str] | None = None,
    fields: Iterable[str] = (),
    background: str | None = None,
    lossy: bool = False,
    link: bool = False,
    on_bad_record: OnBadRecord = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Split:
    """Give each image of ``source`` to a split.

    Args:
        source: a ``format:path`` string, or a path alone.
        target: a ``format:path`` string of a new folder, to which the data set is written with its new splits, as
            :func:`~scenewise.data.convert.convert_data` does it. Without it lists are written into the data set
            itself, where its format knows lists and none is there yet: ``masks`` and ``voc``.
        parts: the share of each split, in any unit; by default 80 for train and 20 for val.
        by: what is hashed: the bytes of the image's file, so that equal images are in one split, or its name.
        group: what images stay together: those of one ``folder``; of one ``prefix``, the name without the number at its
            end; or a regular expression that finds the group in the image's name (its first bracket, else all of it).
            The hash is then that of the group.
        stratify: meet the shares among the images of each class, the rarest class of an image counting.
        splits: of the source, whose images are taken; without it all.
        fields, background, lossy, link, on_bad_record, progress: as for a conversion.

    Raises:
        UsageError: the parts don't fit, a split would be empty, or the format knows no lists or has some.
        DataError: a record of the source is bad.
    """
    shares = _shares(parts)
    opened = open_source(source, splits, fields, on_bad_record)
    items = opened.items()
    keys = [_key(item, by, group) for item in items]
    having = [_classes_in(item) for item in items] if stratify else []
    where = _stratified(keys, having, shares) if stratify else {key: _part(key, shares) for key in keys}
    for item, key in zip(items, keys, strict=True):
        item.split = where[key]
    images = {name: sum(item.split == name for item in items) for name in shares}
    for name, count in images.items():
        if not count:
            found = counted(len(set(keys)), "image" if group is None else "group")
            raise UsageError(
                f"{source}: split {name!r} would get none of {found}, since the hash decides; give it a larger share, "
                "or stratify (--stratify), which meets shares as nearly as can be"
            )
    lost, notes = list(opened.lost), list(opened.notes)
    if target is None:
        target = _write_lists(opened, items, list(shares))
    else:
        order = {name: place for place, name in enumerate(shares)}
        done = write_items(
            opened,
            sorted(items, key=lambda item: order[item.split]),
            target,
            background=background,
            lossy=lossy,
            link=link,
            progress=progress,
        )
        lost, notes = done.lost, done.notes
    groups = {name: len({key for item, key in zip(items, keys, strict=True) if item.split == name}) for name in shares}
    return Split(target, images, groups, _table(items, having or [_classes_in(i) for i in items], shares), lost, notes)


def _shares(parts: Mapping[str, float] | None) -> dict[str, float]:
    """The share of each split, of 1 in all."""
    parts = {"train": 80.0, "val": 20.0} if parts is None else parts
    total = sum(parts.values())
    if len(parts) < 2 or any(not (0 < share < float("inf")) for share in parts.values()):
        raise UsageError(f"parts is {dict(parts)}; expected two splits or more with shares above 0")
    for name in parts:
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise UsageError(f"parts: {name!r} is not a valid name of a split; expected letters, digits, hyphens")
    return {name: share / total for name, share in parts.items()}


# ---- what images have in common


def _key(item: Item, by: By, group: str | None) -> bytes:
    """The hash of an image or its group."""
    if group is not None:
        return blake2b(_group(item, group).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if by == "name":
        name = item.data.image_id(item.index)
        return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return content_key(item.data, item.index)


def _group(item: Item, group: str) -> str:
    """The name of the group of an image."""
    name = item.data.image_id(item.index)
    if group == "folder":
        return str(item.file.parent) if item.file is not None and "/" not in name else name.rpartition("/")[0]
    if group == "prefix":
        return TRAILING.sub("", name)
    try:
        found = re.search(group, name)
    except re.error as error:
        raise UsageError(f"group {group!r}: not a regular expression ({error})") from None
    if found is None:
        raise UsageError(f"group {group!r}: nothing in the image's name {name!r} fits; expected a part of every name")
    return found[1] if found.re.groups and found[1] is not None else found[0]


def _classes_in(item: Item) -> list[int]:
    """The labels that an image has."""
    data, index = item.data, item.index
    if isinstance(data, InstanceDataSet):
        rows = data.rows(index)
        return sorted({int(label) for label in data.labels[rows][~data.ignore[rows]]})
    target = data[index][1]
    if "labels" in target:
        return sorted({int(label) for label in target["labels"]})
    if "semantic" in target:
        return [int(label) for label in np.unique(target["semantic"].numpy()) if label != IGNORE]
    return []


def _table(
    items: Sequence[Item], having: Sequence[list[int]], shares: Mapping[str, float]
) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[int]] = {name: Counter() for name in shares}
    for item, labels in zip(items, having, strict=True):
        counts[item.split].update(labels)
    classes = items[0].data.classes if items else ()
    return {name: {split: counts[split][label] for split in shares} for label, name in enumerate(classes)}


# ---- which split


def _part(key: bytes, shares: Mapping[str, float]) -> str:
    """The split of a hash: of a number from 0 to 1 that follows from it."""
    number = place_of(key)
    reached = 0.0
    for name, share in shares.items():
        reached += share
        if number < reached:
            return name
    return name


def _stratified(keys: Sequence[bytes], having: Sequence[list[int]], shares: Mapping[str, float]) -> dict[bytes, str]:
    """The split of each key. Those whose rarest class is the same are dealt out in the order of their hash, each to the
    split that lacks most of its share."""
    labels: dict[bytes, set[int]] = {}
    sizes = Counter(keys)
    for key, found in zip(keys, having, strict=True):
        labels.setdefault(key, set()).update(found)
    counts = Counter(label for found in labels.values() for label in found)
    strata: dict[int, list[bytes]] = {}
    for key, held in labels.items():
        strata.setdefault(min(held, key=lambda label: (counts[label], label), default=-1), []).append(key)
    where: dict[bytes, str] = {}
    total: Counter[str] = Counter()
    for label in sorted(strata, key=lambda label: (counts[label], label)):
        own: Counter[str] = Counter()
        for key in sorted(strata[label]):
            seen, all_seen = own.total() + sizes[key], total.total() + sizes[key]
            name = max(shares, key=lambda s: (round(shares[s] * seen - own[s], 9), shares[s] * all_seen - total[s]))
            where[key] = name
            own[name] += sizes[key]
            total[name] += sizes[key]
    return where


# ---- lists in the data set itself


def _write_lists(source: Source, items: Sequence[Item], names: list[str]) -> str:
    """Write a list for each split into the data set.

    Raises:
        UsageError: its format knows none, or one is there.
    """
    data = source.opened[0]
    if len(source.opened) > 1:
        there = ", ".join(one.split for one in source.opened)
        raise UsageError(f"{source.name}: has the splits {there}; give a target, to which it is written with others")
    if isinstance(data, VOCBoxes) and data.lists_folder is not None:
        folder = data.lists_folder
        lines = [f"{data.image_id(item.index)}{data.image_path(item.index).suffix}" for item in items]
    elif isinstance(data, LabelMapDataSet) and data.format == "masks":
        folder = data.root
        lines = [data.pairs[item.index][0] for item in items]
    else:
        raise UsageError(
            f"{source.name}: {data.format} has no lists that could be written into the data set; give a target, such "
            f"as {data.format if data.format in ('coco', 'yolo') else 'coco'}:NEW-FOLDER"
        )
    for name in names:
        if (folder / f"{name}.txt").exists():
            raise UsageError(f"{folder / f'{name}.txt'}: is there already; remove it, or give a target to write to")
    for name in names:
        text = "".join(f"{line}\n" for line, item in zip(lines, items, strict=True) if item.split == name)
        write_text(folder / f"{name}.txt", text)
    return f"{data.format}:{source.root}"
