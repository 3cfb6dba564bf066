"""The keypoints that the categories of a COCO file describe."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scenewise.data.instances import Int64
from scenewise.errors import DataError
from scenewise.types import Skeleton


@dataclass(frozen=True)
class Joints:
    """Where the keypoints of each class stand in the skeleton.

    Attributes:
        skeleton: of all classes.
        first, counts: int64 [C], the first keypoint of each class, and how many it has.
    """

    skeleton: Skeleton
    first: Int64
    counts: Int64


def joints_of(categories: Sequence[Mapping[str, Any]], where: str) -> Joints:
    """The keypoints of ``categories``, in label order.

    Categories with equal lists of names share them. Lists that differ stand one after the other, and a name that is in
    several of them gets its category's before it. Where all lists are equal, a category without any may have them, too.

    Raises:
        DataError: no category has keypoints, or a list of names or links is none; the message begins with ``where``.
    """
    lists: dict[tuple[str, ...], str] = {}  # the names -> the first category that has them
    links: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    own: list[tuple[str, ...]] = []
    for category in categories:
        names = _names(category, where) if category.get("keypoints") else ()
        own.append(names)
        if names:
            lists.setdefault(names, str(category["name"]))
            links[names] = links.get(names) or _links(category, len(names), where)
    if not lists:
        raise DataError(f"{where}: no category has keypoints; expected a list of their names")
    seen = Counter(name for names in lists for name in names)
    all_names: list[str] = []
    all_links: list[tuple[int, int]] = []
    starts: dict[tuple[str, ...], int] = {}
    for names, category_name in lists.items():
        start = starts[names] = len(all_names)
        all_names += [f"{category_name} {name}" if seen[name] > 1 else name for name in names]
        all_links += [(start + a, start + b) for a, b in links[names]]
    common = next(iter(lists)) if len(lists) == 1 else ()
    own = [names or common for names in own]
    return Joints(
        Skeleton(tuple(all_names), tuple(all_links)),
        np.array([starts.get(names, 0) for names in own], np.int64),
        np.array([len(names) for names in own], np.int64),
    )


def _names(category: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names = category["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{where}: category {category['name']!r}: keypoints is {reprlib.repr(names)}; expected a list of names"
        )
    double = next((name for name, count in Counter(names).items() if count > 1), None)
    if double is not None:
        raise DataError(f"{where}: category {category['name']!r}: several keypoints are called {double!r}")
    return tuple(names)


def _links(category: Mapping[str, Any], count: int, where: str) -> list[tuple[int, int]]:
    """The links, whose ends count from 1; or from 0, as some tools write them, where one of them is 0."""
    links = category.get("skeleton") or []
    sound = isinstance(links, list) and all(
        isinstance(link, list) and len(link) == 2 and all(type(end) is int for end in link) for link in links
    )
    ends = [end for link in links for end in link] if sound else []
    first = 0 if 0 in ends else 1
    if not sound or not all(first <= end < count + first for end in ends):
        raise DataError(
            f"{where}: category {category['name']!r}: skeleton is {reprlib.repr(links)}; expected pairs of 1 to {count}"
        )
    return [(a - first, b - first) for a, b in links]
