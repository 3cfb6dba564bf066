"""The words beside the instances of a picture: what they say and where they stand."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from scenewise.draw.colors import Array, Color, readable_on
from scenewise.draw.legends import Pen, shortened

_MAX_TAG_SHARE = 0.12  # of the picture; with more of them, tags hide what they speak of
_MAX_HIDDEN = 0.3  # of any instance's box below one tag
_CROWD = 12  # instances; among more, one without a tag is one less to read


def paint_tags(
    picture: Image.Image, boxes: Array, texts: list[str], colors: list[Color], order: list[int], pen: Pen
) -> None:
    """Draw the tags of the instances onto ``picture``, as :func:`place_tags` lays them out."""
    ink = ImageDraw.Draw(picture)
    for i, text, (x1, y1, x2, y2) in place_tags(boxes, texts, order, picture.size, pen):
        ink.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colors[i])
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
        ink.text(middle, text, fill=readable_on(colors[i]), font=pen.font, anchor="mm")


def place_tags(
    boxes: Array, texts: list[str], order: list[int], size: tuple[int, int], pen: Pen
) -> list[tuple[int, str, tuple[int, int, int, int]]]:
    """The index, the words and the place x1, y1, x2, y2 of each tag, in ``order`` of importance.

    A tag stands beside or in its box, where it covers no tag before it and hides no instance. There is none for an
    empty text, for an instance without a place, for one smaller than two tags in a crowd, where no room is left, and
    once the tags take up too much of the picture. Nor is there a tag where it would seem to be that of another
    instance, which has none of its own.
    """
    bare: set[int] = set()  # instances that stay without
    while True:
        placed = _placed(boxes, texts, [i for i in order if i not in bare], size, pen, sorted(bare))
        left = set(range(len(boxes))) - {i for i, _, _ in placed}
        if left <= bare:
            return placed
        bare |= left


def _placed(
    boxes: Array, texts: list[str], order: list[int], size: tuple[int, int], pen: Pen, bare: list[int]
) -> list[tuple[int, str, tuple[int, int, int, int]]]:
    """The tags of the instances in ``order``, none of which seems to be that of an instance in ``bare``."""
    ascent, descent = pen.font.getmetrics()
    pad = max(2, pen.em // 4)
    tall = ascent + descent + pad
    placed: list[tuple[int, str, tuple[int, int, int, int]]] = []
    room = _MAX_TAG_SHARE * size[0] * size[1]
    for i in order:
        if not texts[i] or np.isnan(boxes[i]).any():
            continue
        text = shortened(texts[i], pen.font, size[0] / 2)
        wide = math.ceil(pen.font.getlength(text)) + 2 * pad
        if wide * tall > room and placed:
            break
        x1, y1, x2, y2 = boxes[i]
        if len(boxes) > _CROWD and (x2 - x1) * (y2 - y1) < 2 * wide * tall:
            continue
        for x, y in _tag_places(boxes[i], wide, tall, size):
            spot = (x, y, x + wide, y + tall)
            free = not any(_touch(spot, other) for _, _, other in placed) and not _hides(spot, boxes)
            if free and not _seems(spot, boxes[i], boxes[bare]):
                placed.append((i, text, spot))
                room -= wide * tall
                break
    return placed


def _tag_places(box: Array, wide: int, tall: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Upper left corners for a tag of ``box``, best first, all within the picture."""
    width, height = size
    x1, y1, x2, y2 = (round(float(v)) for v in np.clip(box, 0, (width, height, width, height)))
    middle = (x1 + x2 - wide) // 2
    xs = (x1, x2 - wide, middle) if x2 > x1 else (middle, x1 - wide, x1)
    ys = [y1 - tall, y1, y2, y2 - tall, *range(y1 + tall, y2 - 2 * tall, tall)]
    places = []
    for y, x in ((y, x) for y in ys for x in xs):
        x = min(max(0, x), width - wide)
        if x >= 0 and 0 <= y <= height - tall:
            places.append((x, y))
    return places


def _hides(spot: tuple[int, int, int, int], boxes: Array) -> bool:
    """Whether ``spot`` covers too much of any of ``boxes`` [K,4]."""
    x1, y1, x2, y2 = boxes.T
    return bool((_shared(spot, boxes) > _MAX_HIDDEN * (x2 - x1) * (y2 - y1)).any())  # False where a box is NaN


def _seems(spot: tuple[int, int, int, int], own: Array, others: Array) -> bool:
    """Whether a tag at ``spot`` is nearer to one of the boxes ``others`` [K,4] than to its ``own``: whether more of it,
    or as much where it is not in its own, is in that box or within half its height of it."""
    near = (spot[3] - spot[1]) / 2
    reached = _shared(spot, others + np.array([-near, -near, near, near]))
    its = float(_shared(spot, own + np.array([-near, -near, near, near])))
    return bool((reached > its if _shared(spot, own) > 0 else reached >= its).any())  # False where a box is NaN


def _shared(spot: tuple[int, int, int, int], boxes: Array) -> Array:
    """How many pixels of ``spot`` are in each of ``boxes`` [...,4]."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    wide, tall = np.minimum(x2, spot[2]) - np.maximum(x1, spot[0]), np.minimum(y2, spot[3]) - np.maximum(y1, spot[1])
    found: Array = np.maximum(wide, 0) * np.maximum(tall, 0)
    return found


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two places overlap or have no pixel between them."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
