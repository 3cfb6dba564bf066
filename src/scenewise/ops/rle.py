"""Run-length codes: COCO's, column by column, for masks; a row-by-row one for label maps.

A mask's code is ``{"size": [height, width], "counts": ...}``. The counts are the lengths of runs that alternate between
0 and 1, starting with 0 (so the first count is 0 where the first pixel is set), down the columns from left to right.
They stand either as a list ("uncompressed") or as COCO's text: each count, from the fourth on less the count two
before it, in groups of five bits from low to high, sign-extended, a sixth bit set where more groups follow, plus 48.

Source: Lin et al., "Microsoft COCO", 2014; the text form follows the COCO API's ``maskApi.c: rleToString``, and equals
it character by character. A code is checked against its size before anything of that size is allocated, so that a
hostile file costs an error message, not memory.

Shapes: K masks of H x W pixels, R runs. All arrays are numpy's; tensors on the CPU are taken where arrays are.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scenewise.errors import DataError, UsageError

Code = Mapping[str, Any]  # {"size": [height, width], "counts": str, bytes or list of int}

MAX_PIXELS = 2**28  # more than Pillow opens (1.8e8); a code of 30 characters may otherwise ask for any amount of memory
_MAX_GROUPS = 7  # 35 bits: any difference of two 32-bit counts, which is what the COCO API holds


def encode(masks: npt.ArrayLike) -> list[dict[str, Any]]:
    """The codes of ``masks``, with their counts as COCO's text; :func:`decode` undoes it.

    Args:
        masks: bool [K,H,W], or [H,W] for one mask. K may be 0.

    Returns:
        K times ``{"size": [H, W], "counts": str}``, ready for JSON.

    Raises:
        UsageError: another dtype or number of dimensions, or H or W is 0.
    """
    array = np.asarray(masks)
    if array.dtype != np.bool_ or array.ndim not in (2, 3):
        raise UsageError(f"masks are {array.dtype} {list(array.shape)}; expected bool [K,H,W] or [H,W]")
    if array.ndim == 2:
        array = array[None]
    height, width = array.shape[1:]
    if height == 0 or width == 0:
        raise UsageError(f"masks are {list(array.shape)}: an image without pixels")
    return codes_of([changes_of(mask) for mask in array], (height, width))


def codes_of(changes: Sequence[npt.NDArray[np.int64]], size: tuple[int, int]) -> list[dict[str, Any]]:
    """The codes of masks of ``size`` (H, W) whose values change at ``changes``, see :func:`changes_of`."""
    texts = _to_texts(changes, size[0] * size[1])
    return [{"size": list(size), "counts": text} for text in texts]


def decode(
    codes: Code | Sequence[Code], size: tuple[int, int] | None = None, *, where: str = "run-length code"
) -> npt.NDArray[np.bool_]:
    """The masks that ``codes`` stand for.

    Args:
        codes: one code, or K of one size. The counts may be text, bytes or a list.
        size: the (height, width) that each code has to have; needed for the size of the result where K is 0.
        where: begins each error message: the file and record that the codes come from.

    Returns:
        bool [H,W] for one code, [K,H,W] for a sequence.

    Raises:
        DataError: a code is malformed, its counts do not sum to its size, or its size differs from ``size``.
        UsageError: the sequence is empty and ``size`` is not given.
    """
    if isinstance(codes, Mapping):
        found: npt.NDArray[np.bool_] = decode([codes], size, where=where)[0]
        return found
    if size is None:
        if not codes:
            raise UsageError(f"{where}: there are no codes to take a size from; give size=(height, width)")
        size, _ = parse(codes[0], where=where)
    checked = [parse(code, size, where=where) for code in codes]
    height, width = size
    masks = np.empty((len(checked), height, width), dtype=np.bool_)
    for mask, (_, counts) in zip(masks, checked, strict=True):
        mask[:] = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    return masks


def parse(
    code: Code, size: tuple[int, int] | None = None, *, where: str = "run-length code"
) -> tuple[tuple[int, int], npt.NDArray[np.int64]]:
    """The (height, width), which has to be ``size`` where that is given, and the counts int64 [R] of ``code``, checked;
    the mask itself is not made.

    Raises:
        DataError: as in :func:`decode`.
    """
    if not isinstance(code, Mapping) or "size" not in code or "counts" not in code:
        raise DataError(
            f"{where}: {reprlib.repr(code)} is not a run-length code; expected {{'size': [h, w], 'counts': ...}}"
        )
    height, width = _checked_size(code["size"], where)
    if size is not None and (height, width) != tuple(size):
        raise DataError(
            f"{where}: the mask's size is {height} x {width} (height x width); expected {size[0]} x {size[1]}"
        )
    counts = code["counts"]
    if isinstance(counts, (str, bytes)):
        runs = _from_text(counts, where)
    else:
        runs = _integers(counts, "counts", where)
    _check_sum(runs, height, width, where)
    return (height, width), runs


def area(code: Code, *, where: str = "run-length code") -> int:
    """The number of pixels in the mask that ``code`` stands for."""
    _, counts = parse(code, where=where)
    return int(counts[1::2].sum())


def bbox(code: Code, *, where: str = "run-length code") -> tuple[int, int, int, int]:
    """The smallest box x1, y1, x2, y2 around the mask that ``code`` stands for; four zeros for an empty mask.

    Pixel (row i, column j) covers [j,j+1) x [i,i+1), so that a single pixel has a box of width and height 1.
    """
    (height, _), counts = parse(code, where=where)
    return extent(height, counts)


def extent(height: int, counts: npt.NDArray[np.int64]) -> tuple[int, int, int, int]:
    """The same box for a code that :func:`parse` has read: its ``height`` and its counts int64 [R]."""
    ends = counts.cumsum()[1::2]
    starts = ends - counts[1::2]
    filled = ends > starts
    if not filled.any():
        return 0, 0, 0, 0
    first, last = starts[filled], ends[filled] - 1
    x1, x2 = int(first[0] // height), int(last[-1] // height) + 1
    if (first // height != last // height).any():  # a run that goes on in the next column touches bottom and top
        return x1, 0, x2, height
    return x1, int((first % height).min()), x2, int((last % height).max()) + 1


def extents_of_texts(texts: Sequence[bytes], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The box around the mask of each code, all codes at once, for many thousands of them.

    Args:
        texts: the counts of K codes in COCO's text form.
        sizes: int64 [K,2], the (height, width) of each.

    Returns:
        float64 [K,4], x1, y1, x2, y2; NaN where the mask is empty and where :func:`parse` would refuse the code.
    """
    boxes = np.full((len(texts), 4), np.nan)
    height, width = sizes.T
    lengths = np.array([len(text) for text in texts], np.int64)
    raw = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(texts)), lengths)  # the code of each byte
    more = (raw & 32) != 0
    good = (lengths > 0) & (sizes > 0).all(1) & (sizes <= MAX_PIXELS).all(1)
    good[good] &= (height * width <= MAX_PIXELS)[good]
    good[owner[(raw < 0) | (raw > 63)]] = False
    good[good] &= ~more[(np.cumsum(lengths) - 1)[good]]  # breaks off within a number
    inside = good[owner]
    raw, owner, more = raw[inside], owner[inside], more[inside]
    if not len(raw):
        return boxes
    lasts = np.flatnonzero(~more)  # [R], the last byte of each number
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    groups, code = lasts - firsts + 1, owner[lasts]
    good[code[groups > _MAX_GROUPS]] = False
    counts = np.zeros(len(lasts), np.int64)
    for group in range(min(int(groups.max()), _MAX_GROUPS)):
        has = groups > group
        counts[has] |= (raw[firsts[has] + group] & 31) << (5 * group)
    negative = (raw[lasts] & 16) != 0
    counts[negative] -= np.int64(1) << (5 * np.minimum(groups[negative], _MAX_GROUPS))
    heads = np.flatnonzero(np.diff(code, prepend=-1))  # the first number of each code
    place = np.arange(len(code)) - np.repeat(heads, np.diff(heads, append=len(code)))
    for parity in (0, 1):  # each count from the fourth on stands as the difference to the one two before it
        which = np.flatnonzero((place % 2 == parity) & (place > 0))
        if len(which):
            counts[which] = _sums_within(counts[which], code[which])
    pixels = (height * width)[code]
    good[code[(counts < 0) | (counts > pixels)]] = False
    ends = _sums_within(np.where(good[code], counts, 0), code)
    tails = np.append(heads[1:], len(code)) - 1
    good[code[tails]] &= ends[tails] == pixels[tails]
    filled = (place % 2 == 1) & (counts > 0) & good[code]
    code, high, first, last = code[filled], height[code[filled]], (ends - counts)[filled], (ends - 1)[filled]
    if not len(code):
        return boxes
    whole = first // high != last // high  # a run that goes on in the next column touches bottom and top
    heads = np.flatnonzero(np.diff(code, prepend=-1))
    corners = (
        np.minimum.reduceat(first // high, heads),
        np.minimum.reduceat(np.where(whole, 0, first % high), heads),
        np.maximum.reduceat(last // high, heads) + 1,
        np.maximum.reduceat(np.where(whole, high - 1, last % high), heads) + 1,
    )
    boxes[code[heads]] = np.stack(corners, 1)
    return boxes


def _sums_within(values: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The running sums of ``values`` within runs of equal ``groups``, both [R] with R > 0."""
    sums = np.cumsum(values)
    heads = np.flatnonzero(np.diff(groups, prepend=-1))
    before = np.append(0, sums)[heads]
    found: npt.NDArray[np.int64] = sums - np.repeat(before, np.diff(heads, append=len(values)))
    return found


def encode_labels(labels: npt.ArrayLike) -> dict[str, Any]:
    """The row-by-row code of a label map; :func:`decode_labels` undoes it.

    Args:
        labels: integers [H,W] of any value.

    Returns:
        ``{"size": [H, W], "values": [R], "counts": [R]}``, ready for JSON: from the upper left along the rows,
        ``counts[r]`` pixels have the label ``values[r]``. Runs go on from a row to the next; neighbours differ.

    Raises:
        UsageError: not integers, not two-dimensional, or without pixels.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.size == 0:
        raise UsageError(f"labels are {array.dtype} {list(array.shape)}; expected integers [H,W] with H, W > 0")
    flat = array.reshape(-1)
    starts = _starts_of(flat)
    counts = np.diff(starts, append=flat.size)
    return {"size": list(array.shape), "values": flat[starts].tolist(), "counts": counts.tolist()}


def decode_labels(code: Code, *, where: str = "label runs") -> npt.NDArray[np.int64]:
    """The label map int64 [H,W] that ``code`` stands for.

    Raises:
        DataError: the code is malformed or its counts do not sum to its size.
    """
    if not isinstance(code, Mapping) or not {"size", "values", "counts"} <= code.keys():
        raise DataError(
            f"{where}: {reprlib.repr(code)} is not a label map; expected {{'size': [h, w], 'values', 'counts'}}"
        )
    height, width = _checked_size(code["size"], where)
    values, counts = (_integers(code[name], name, where) for name in ("values", "counts"))
    if len(values) != len(counts):
        raise DataError(f"{where}: {len(values)} values and {len(counts)} counts; expected as many of both")
    _check_sum(counts, height, width, where)
    return np.repeat(values, counts).reshape(height, width)


def _starts_of(flat: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where the runs of equal values begin in ``flat`` [P], P > 0; the first is 0."""
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])


def changes_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where the value changes down the columns of ``mask`` [H,W], ascending; 0 among them if the first pixel is set.

    The array is read along its rows, eight pixels at a time, and only the few changes are put into column order.
    """
    height, width = mask.shape
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    changed = np.zeros(-(-mask.size // 8) * 8, dtype=np.uint8)
    rows = changed[: mask.size].reshape(height, width)
    np.bitwise_xor(pixels[1:], pixels[:-1], out=rows[1:])
    np.bitwise_xor(pixels[0, 1:], pixels[-1, :-1], out=rows[0, 1:])  # the top of a column follows the previous one
    rows[0, 0] = pixels[0, 0]
    words = np.flatnonzero(changed.view(np.uint64) != 0)
    word, byte = np.nonzero(changed.reshape(-1, 8)[words])
    row, column = np.divmod(words[word] * 8 + byte, width)
    changes: npt.NDArray[np.int64] = column * height + row
    changes.sort()
    return changes


def _to_texts(changes: Sequence[npt.NDArray[np.int64]], pixels: int) -> list[str]:
    """COCO's texts of masks of ``pixels`` pixels each, whose values change at ``changes``; all in one go."""
    if not changes:
        return []
    lengths = np.array([len(c) + 1 for c in changes])  # [K], the runs of each mask
    first = np.repeat(lengths.cumsum() - lengths, lengths)  # [R], where the runs of each run's mask begin
    place = np.arange(len(first)) - first  # [R], of each run in its mask
    ends = np.concatenate([part for c in changes for part in (c, [pixels])])
    counts = ends.copy()
    counts[1:] -= np.where(place[1:] > 0, ends[:-1], 0)
    rest = counts.copy()
    rest[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    groups, used = [], []
    active = np.ones(len(counts), dtype=np.bool_)
    while active.any():
        low = rest & 31
        rest >>= 5  # keeps the sign
        more = np.where(low & 16, rest != -1, rest != 0)  # the reader extends bit 4 of the last group as the sign
        groups.append(low + 32 * more + 48)
        used.append(active)
        active = active & more
    written = np.stack(used, 1)
    text = np.stack(groups, 1)[written].astype(np.uint8).tobytes().decode("ascii")
    stops = written.sum(1).cumsum()[lengths.cumsum() - 1].tolist()
    return [text[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _from_text(text: str | bytes, where: str) -> npt.NDArray[np.int64]:
    """The counts that COCO's ``text`` stands for; neither their signs nor their sum is checked here."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    values = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    bad = np.flatnonzero((values < 0) | (values > 63))
    if len(bad):
        raise DataError(
            f"{where}: byte {bad[0]} of the counts is {raw[bad[0]]}; expected 48 to 111 ('0' to 'o'), COCO's text form"
        )
    more = values >= 32
    if len(values) and more[-1]:
        raise DataError(f"{where}: the counts break off within a number")
    lasts = np.flatnonzero(~more)  # [R], the last group of each number
    firsts = np.concatenate([[0], lasts[:-1] + 1]) if len(lasts) else lasts
    lengths = lasts - firsts + 1
    if len(lasts) and lengths.max() > _MAX_GROUPS:
        raise DataError(f"{where}: a number in the counts has {lengths.max()} groups; expected at most {_MAX_GROUPS}")
    counts = np.zeros(len(lasts), dtype=np.int64)
    for group in range(int(lengths.max(initial=0))):
        has = lengths > group
        counts[has] |= (values[firsts[has] + group] & 31) << (5 * group)
    negative = (values[lasts] & 16) != 0
    counts[negative] -= np.int64(1) << (5 * lengths[negative])
    # each count from the fourth on stands as the difference to the one two before it
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts


def _checked_size(size: Any, where: str) -> tuple[int, int]:
    """``size`` as (height, width), both from 1 on and not more than MAX_PIXELS together."""
    expected = f"expected [height, width], both at least 1 and at most {MAX_PIXELS} pixels in all"
    if isinstance(size, (str, bytes)) or not hasattr(size, "__len__") or len(size) != 2:
        raise DataError(f"{where}: size is {reprlib.repr(size)}; {expected}")
    if any(isinstance(side, (bool, np.bool_)) or not isinstance(side, (int, np.integer)) for side in size):
        raise DataError(f"{where}: size is {reprlib.repr(size)}; {expected}")
    height, width = (int(side) for side in size)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(f"{where}: size is [{height}, {width}]; {expected}")
    return height, width


def _integers(values: Any, name: str, where: str) -> npt.NDArray[np.int64]:
    """``values`` as int64 [R]."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # a ragged list
        raise DataError(f"{where}: {name} is {reprlib.repr(values)}; expected a list of integers") from None
    if array.ndim == 1 and array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{where}: {name} is {reprlib.repr(values)}; expected a list of integers")
    if array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: {name} holds {array.max()}; expected numbers below 2^63")
    return array.astype(np.int64)


def _check_sum(counts: npt.NDArray[np.int64], height: int, width: int, where: str) -> None:
    """That ``counts`` are not negative and fill the image."""
    if len(counts) and counts.min() < 0:
        place = int(counts.argmin())
        raise DataError(f"{where}: count {place} is {counts[place]}; expected 0 or more")
    expected = f"expected {height * width} for the size [{height}, {width}]"
    if counts.max(initial=0) > height * width:  # apart, because the sum of such counts may overflow
        raise DataError(f"{where}: count {counts.argmax()} is {counts.max()}, more than all pixels; {expected} in all")
    if counts.sum() != height * width:
        raise DataError(f"{where}: the counts sum to {counts.sum()} pixels; {expected}")
