"""The lines of YOLO's text files: which kind of labels a data set has, and what a line says.

Boxes, polygons and keypoints are all written as ``class number number ...``, so a line alone does not tell what it is:
``0 0.2 0.3 0.3 0.3 0.1 0.1 0.4 0.4`` is a quadrangle in one data set and a box with two keypoints in another. The kind
is therefore decided once for the data set, by what its YAML file states or by lines of all splits together; a line that
does not fit it is a fault.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scenewise.data.instances import Fault
from scenewise.data.readers.yolo_layout import Layout
from scenewise.errors import DataError, UsageError
from scenewise.files.images import image_size
from scenewise.files.text import read_text
from scenewise.types import Skeleton

Kind = Literal["detect", "segment", "pose"]
KINDS = ("detect", "segment", "pose", "obb")
BOX_FORM = "class cx cy width height, in parts of the image (0 to 1), with width and height > 0"
POLYGON_FORM = "class x1 y1 x2 y2 x3 y3 ..., a polygon in parts of the image"
POINT_SLACK = 0.01  # parts of the image by which a keypoint may leave it: tools round, and people click at the border
CORNER_SLACK = 0.05  # parts of the diagonal by which the corners of an oriented box may be off a rectangle
SKEW = 0.02  # parts of the image by which corners differ from those of an upright box, for the box to be oriented
MAX_POINTS = 10_000  # keypoints of an object


@dataclass(frozen=True)
class Line:
    """A line of a text file that is read to decide the kind."""

    image: Path
    file: Path
    number: int
    values: list[float]  # after the class

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{self.file}: line {self.number}"


@dataclass(frozen=True)
class Dialect:
    """What the lines of a data set are.

    Attributes:
        kind: boxes, polygons, or boxes with keypoints.
        points, numbers: how many keypoints an object has, and whether each is x, y or x, y, visibility.
        why: what decided it, for messages: "of the 60 lines looked at, 57 are polygons".
    """

    kind: Kind
    points: int = 0
    numbers: int = 2
    why: str = ""

    @property
    def form(self) -> str:
        """What a line is expected to be."""
        if self.kind == "pose":
            each = "x y" if self.numbers == 2 else "x y visibility"
            return f"class cx cy width height and {each} of each of {self.points} keypoints, in parts of the image"
        return BOX_FORM if self.kind == "detect" else POLYGON_FORM


# ---- the kind of labels


def stated_dialect(layout: Layout) -> Dialect | None:
    """What the YAML file states: ``kpt_shape``, or ``task``; None where it states nothing.

    Raises:
        DataError: an entry is not understood, or states oriented boxes.
    """
    task, shape = layout.content.get("task", ""), layout.content.get("kpt_shape", "")
    if task and task not in KINDS:
        raise DataError(f"{layout.named('task')} is {reprlib.repr(task)}; expected detect, segment or pose")
    if task == "obb":
        raise DataError(f"{layout.named('task')} is 'obb': oriented boxes, which are not read; {OBB_CURE}")
    if shape and task in ("", "pose"):
        points, numbers = _integers(shape, 2) or (0, 0)
        if not 1 <= points <= MAX_POINTS or numbers not in (2, 3):
            raise DataError(
                f"{layout.named('kpt_shape')} is {reprlib.repr(shape)}; expected [P, 2] for x, y of P keypoints, or "
                "[P, 3] for x, y, visibility"
            )
        return Dialect("pose", points, numbers, f"kpt_shape: [{points}, {numbers}] in {layout.file}")
    if task == "pose":
        raise DataError(f"{layout.named('task')} is 'pose'; expected kpt_shape: [P, 2] or [P, 3] beside it")
    return Dialect(task, why=f"task: {task} in {layout.file}") if task else None


def dialect_of(lines: Sequence[Line], described: str) -> Dialect:
    """The kind of labels that ``lines``, taken from all splits, are.

    Args:
        lines: some of each split.
        described: the YAML file, for messages.

    Raises:
        DataError: they are oriented boxes; or boxes with keypoints whose number is not stated.
    """
    counts = Counter(len(line.values) for line in lines)
    total = len(lines)
    if len(counts) == 1:
        _refuse_points(lines, described)
        if 8 in counts:
            _refuse_oriented(lines, described)
    boxes = counts[4]
    polygons = sum(count for length, count in counts.items() if _is_polygon(length))
    kind: Kind = "segment" if polygons > boxes else "detect"
    words = f"{max(boxes, polygons)} are {'polygons' if kind == 'segment' else 'boxes'}"
    return Dialect(kind, why=f"of {total} line{'' if total == 1 else 's'} looked at in all splits, {words}")


def _refuse_points(lines: Sequence[Line], described: str) -> None:
    """Raise where all lines are boxes with keypoints in them."""
    length = len(lines[0].values)
    for numbers in (3, 2):
        points, rest = divmod(length - 4, numbers)
        enough = points >= 2 or (points == 1 and len(lines) >= 3)
        if enough and rest == 0 and all(_holds_points(line.values, numbers) for line in lines):
            cure = "" if length % 2 else ". If they are polygons, state task: segment there"
            raise DataError(
                f"{lines[0].where}: has {length} numbers after the class, as all lines have, which look like a box "
                f"with {points} keypoint{'s' if points > 1 else ''} in it; expected kpt_shape: [{points}, {numbers}] "
                f"in {described}{cure}"
            )


def _holds_points(values: list[float], numbers: int) -> bool:
    """Whether ``values`` are a box in the image and keypoints in the box, or not labelled."""
    x, y, width, height = values[:4]
    inside = all(
        side > 0 and side / 2 - POINT_SLACK <= center <= 1 - side / 2 + POINT_SLACK
        for center, side in ((x, width), (y, height))
    )
    points = [values[start : start + numbers] for start in range(4, len(values), numbers)]
    labelled = [point for point in points if point[0] or point[1]]
    if numbers == 3:
        inside = inside and all(point[2] in (0, 1, 2) for point in points)
        labelled = [point for point in labelled if point[2]]
    return (
        inside
        and bool(labelled)
        and all(
            abs(point[0] - x) <= 0.55 * width + POINT_SLACK and abs(point[1] - y) <= 0.55 * height + POINT_SLACK
            for point in labelled
        )
    )


OBB_CURE = "save upright boxes, or state task: segment to read the four corners as a polygon"


def _refuse_oriented(lines: Sequence[Line], described: str) -> None:
    """Raise where most lines are the four corners of a rectangle that is turned."""
    turned: list[Line] = []
    rectangles = 0
    sizes: dict[Path, tuple[int, int]] = {}
    for line in lines[:200]:
        try:
            size = sizes.setdefault(line.image, image_size(line.image))
        except DataError:
            return  # is found when the image is read
        corners = np.array(line.values).reshape(4, 2)
        rectangles += _is_rectangle(corners * (size[1], size[0]))
        apart = [np.abs(values[:, None] - [values.min(), values.max()]).min(1).max() for values in corners.T]
        turned += [line] if max(apart) > SKEW else []
    if turned and rectangles >= 0.9 * len(lines[:200]):
        raise DataError(
            f"{turned[0].where}: the four corners of an oriented box, as all lines have, which are not read; "
            f"{OBB_CURE} (in {described})"
        )


def _is_rectangle(corners: np.ndarray) -> bool:
    """Whether four corners [4,2] in pixels, in order, are those of a rectangle: its diagonals halve each other and are
    equally long."""
    if not np.isfinite(corners).all():
        return False
    diagonals = np.hypot(*(corners[2:] - corners[:2]).T)
    longest = float(diagonals.max())
    middles = corners[:2] + corners[2:]
    apart = float(np.hypot(*(middles[0] - middles[1]))) / 2
    return longest > 0 and max(apart, abs(float(diagonals[0] - diagonals[1]))) <= CORNER_SLACK * longest


def _is_polygon(length: int) -> bool:
    return length >= 6 and length % 2 == 0


# ---- lines


def lines_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file of labels that are not empty, as words, with their numbers from 1.

    Raises:
        DataError: it can't be read as text.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if words:
            yield number, words


def some_lines(image: Path, file: Path, count: int) -> Iterator[Line]:
    """Up to ``count`` lines of a text file that are a class and finite numbers."""
    try:
        for number, words in lines_of(file):
            try:
                values = [float(word) for word in words[1:]]
            except ValueError:
                continue
            if values and all(map(math.isfinite, values)):
                yield Line(image, file, number, values)
                count -= 1
            if count == 0:
                return
    except DataError:  # is found when the file is read
        return


def parse_line(words: list[str], classes: int, dialect: Dialect) -> tuple[int, list[float], Fault | None]:
    """The label, the numbers after it, and what is wrong."""
    try:
        _, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return -1, [], Fault(f"{_text(words)} holds something that is no number; expected {dialect.form}")
    number = class_number(words[0])
    if number is None:
        return -1, [], Fault(f"{_text(words)} begins with {_short(words[0])}; expected the number of a class")
    if not 0 <= number < classes:
        known = f"0 to {classes - 1}" if classes > 1 else "0"
        return -1, [], Fault(f"class {_short(words[0])} is unknown; expected {known}, as many as there are names")
    fault = _misfit(words, len(values), dialect)
    if fault is not None and fault.spoils == "boxes":
        return -1, [], fault
    if fault is None and dialect.kind == "pose":
        fault = _point_fault(values[4:], dialect)
    return number, values, fault


def class_number(word: str) -> int | None:
    """The number of a class, which some tools write as ``3.0``; None where it is none."""
    try:
        number = float(word)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None


def _text(words: list[str]) -> str:
    return reprlib.repr(" ".join(words))


def _short(word: str) -> str:
    return word if len(word) <= 24 else f"{word[:10]}...{word[-10:]}"


def _misfit(words: list[str], length: int, dialect: Dialect) -> Fault | None:
    """What is wrong with a line of ``length`` numbers after the class; a box or polygon where the other is expected
    spoils what is beyond its box."""
    if dialect.kind == "pose":
        if length == 4 + dialect.points * dialect.numbers:
            return None
        spoils = "keypoints" if length == 4 else "boxes"
    else:
        if length == 4 if dialect.kind == "detect" else _is_polygon(length):
            return None
        spoils = "masks" if length == 4 or _is_polygon(length) else "boxes"
    found = f"{_text(words)} has {length} number{'' if length == 1 else 's'} after the class"
    if length == 4:
        found += ", a box"
    elif spoils == "masks":
        found += ", a polygon"
    why = f" ({dialect.why})" if spoils != "boxes" or dialect.kind == "pose" else ""
    hint = ". Is the last number a confidence or an angle?" if length == 5 else ""
    return Fault(f"{found}; expected {dialect.form}{why}{hint}", spoils)


def _point_fault(values: list[float], dialect: Dialect) -> Fault | None:
    """What is wrong with the keypoints of an object."""
    for place, (x, y, seen) in enumerate(points_of(values, dialect)):
        if seen not in (0, 1, 2):
            found, expected = f"visibility {seen:g}", "0 (not labelled), 1 (hidden) or 2 (visible)"
        elif seen and not (-POINT_SLACK <= x <= 1 + POINT_SLACK and -POINT_SLACK <= y <= 1 + POINT_SLACK):
            found, expected = f"x {x:g} and y {y:g}", "parts of the image, 0 to 1"
        else:
            continue
        return Fault(f"keypoint {place} has {found}; expected {expected}", "keypoints")
    return None


def points_of(values: list[float], dialect: Dialect) -> list[tuple[float, float, float]]:
    """x, y, visibility of each keypoint. Without a visibility it is 2, and 0 at (0, 0) and where both are negative,
    as tools write what is not labelled."""
    if dialect.numbers == 3:
        return [(values[i], values[i + 1], values[i + 2]) for i in range(0, len(values), 3)]
    pairs = [(values[i], values[i + 1]) for i in range(0, len(values), 2)]
    return [(x, y, 0.0 if (x == 0 and y == 0) or (x < 0 and y < 0) else 2.0) for x, y in pairs]


# ---- skeleton


def skeleton_of(layout: Layout, points: int) -> Skeleton:
    """What ``flip_idx`` and ``kpt_names`` state of ``points`` keypoints.

    Raises:
        DataError: flip_idx does not exchange keypoints in pairs, or there are not as many names.
    """
    pairs = None
    stated = layout.content.get("flip_idx", "")
    if stated:
        order = _integers(stated, points)
        if order is None or max(order) >= points or any(order[i] != at for at, i in enumerate(order)):
            raise DataError(
                f"{layout.named('flip_idx')} is {reprlib.repr(stated)}; expected for each of {points} keypoints the "
                "number, from 0, of the one that it changes places with in a mirrored image, or its own"
            )
        pairs = tuple((at, i) for at, i in enumerate(order) if at < i)
    names = layout.content.get("kpt_names", "")
    if isinstance(names, dict) and names:  # by class; one skeleton is for all
        lists = [*names.values()]
        names = lists[0] if all(other == lists[0] for other in lists) else ""
    if names and not (isinstance(names, list) and len(names) == points and all(isinstance(n, str) for n in names)):
        raise DataError(f"{layout.named('kpt_names')} is {reprlib.repr(names)}; expected {points} names")
    try:
        return Skeleton(tuple(names or ()), pairs=pairs)
    except UsageError as error:
        raise DataError(f"{layout.file}: {error}") from None


def _integers(values: Any, count: int) -> list[int] | None:
    """``count`` whole numbers that stand in a YAML file; None where these are none."""
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 9 for value in values):
        return None
    return [int(value) for value in values]
