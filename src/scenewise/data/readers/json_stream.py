"""Reading a JSON file of any size piece by piece, in little memory.

``json.load`` of COCO's training annotations (450 MB) makes several GB of Python objects. Here some thousand elements of
an array exist at a time. Each comes with its place in the file, so that a part that is rarely wanted (an outline, say)
can be read again later by :func:`read_at` and need not be kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from scenewise.data.names import printable
from scenewise.errors import DataError
from scenewise.files.json_file import KeyTwice, unique_keys

CHUNK = 1 << 20  # bytes a read
_SPACE = " \t\n\r"
_TAIL = 16  # a fault so near the end of what has been read may be a token that goes on; the longest is -Infinity
_BOM = "\xef\xbb\xbf"

_decoder = json.JSONDecoder(object_pairs_hook=unique_keys)

_QUOTE, _OPEN, _CLOSE, _BACKSLASH, _COLON = 1, 2, 3, 4, 5
_KINDS = bytearray(256)  # of the bytes that tell where a value ends, and how many keys an object has
for _byte, _kind in zip(b'"[{]}\\:', (_QUOTE, _OPEN, _OPEN, _CLOSE, _CLOSE, _BACKSLASH, _COLON), strict=True):
    _KINDS[_byte] = _kind


class Elements(NamedTuple):
    """Elements of an array, one after the other: the first byte of each in the file, its number of bytes, its value."""

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    values: list[Any]


class JsonStream:
    """The members of the JSON object in a file, one at a time, in the file's order.

    Use::

        with JsonStream(path) as stream:
            for key in stream.members():
                if key == "annotations":
                    for starts, lengths, values in stream.elements(): ...
                else:
                    value = stream.value()

    The file is decoded as Latin-1, so that a character is a byte and places in the text are places in the file. Text
    beyond ASCII inside a value is decoded as the UTF-8 that it is, at the price of reading that value twice.

    Raises (here, and while it is read):
        DataError: the file can't be read, or is not JSON: names the line and column.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = ""
        self._base = 0  # of _text[0] in the file
        self._at = 0  # in _text
        self._ended = False
        try:
            self._file: BinaryIO = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size  # bytes
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror})") from None

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def members(self) -> Iterator[str]:
        """Each key; its value has to be taken, by :meth:`value` or :meth:`elements`, before the next one. A key that
        was there before is an error: programs differ in which one counts."""
        while len(self._text) < len(_BOM) and not self._ended:
            self._more()
        if self._text.startswith(_BOM):
            self._at = len(_BOM)
        elif self._text.startswith(("\xff\xfe", "\xfe\xff")) or "\0" in self._text[:2]:
            raise DataError(f"{self.path}: UTF-16 text; expected UTF-8. Save the file again with the encoding UTF-8")
        seen: set[str] = set()
        if self._peek() != "{":
            raise self._error("expected a JSON object, which begins with {")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                if self._peek() != '"':
                    raise self._error("expected a name in double quotes")
                at = self._at
                key = self.value()
                if key in seen:
                    raise self._error(f"the key {key!r} is there a second time; expected each once", at, valid=True)
                seen.add(key)
                if self._peek() != ":":
                    raise self._error("expected a colon")
                self._at += 1
                yield key
                if self._separator("}"):
                    break
        if self._peek():
            raise self._error("the object is closed, and something follows")

    def is_array(self) -> bool:
        """Whether the value to come is an array."""
        return self._peek() == "["

    def elements(self) -> Iterator[Elements]:
        """The elements of the array to come, some thousand at a time."""
        if self._peek() != "[":
            raise self._error("expected an array, which begins with [")
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        single, failed = 0, 0  # how many elements are taken one by one before it is tried again to take many
        while True:
            self._peek()
            found = None
            if single == 0:
                found = self._decode_many() or (self._decode_many() if self._more() else None)
                if found is None:
                    single, failed = 100 << min(failed, 20), failed + 1
            if found is None:
                single -= 1
                value, start, end = self._decode()
                found = Elements(np.array([self._base + start]), np.array([end - start]), [value])
            yield found
            if self._separator("]"):
                return

    def _decode_many(self) -> Elements | None:
        """All whole elements in what has been read, where they are objects and arrays without a fault; then they are
        passed. None where they are not: one at a time, they are read with an error that tells the place."""
        start = self._at
        begins, ends, keys, inner = _bounds(self._text[start:].encode("latin-1"))
        if not len(ends):
            return None
        stop = start + int(ends[-1])
        raw = self._text[start:stop]
        try:
            if not raw.isascii():
                raw = raw.encode("latin-1").decode("utf-8")
            values = json.loads(f"[{raw}]")
        except (ValueError, RecursionError):
            return None
        if len(values) != len(ends):  # there are numbers or texts among them
            return None
        found = sum(len(value) for value in values if type(value) is dict)
        if found != keys or (inner and _keys_below(values) != inner):
            return None  # an object has a key twice
        self._at = stop
        return Elements(self._base + start + begins, ends - begins, values)

    def value(self) -> Any:
        """The value to come, whole."""
        self._peek()
        return self._decode()[0]

    def _separator(self, closing: str) -> bool:
        """Pass a comma or ``closing``; whether it was that."""
        found = self._peek()
        if found not in (",", closing) or not found:
            raise self._error(f"expected a comma or {closing}")
        self._at += 1
        return found == closing

    def _peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                found = self._text[self._at]
                if found not in _SPACE:
                    return found
                self._at += 1
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, dropping what is done; whether there was more."""
        before = len(self._text) - self._at
        size = max(CHUNK, before)  # a long value is tried again at each doubling, not at each chunk
        read = self._file.read(size)
        self._ended = len(read) < size
        self._text, self._base, self._at = self._text[self._at :] + read.decode("latin-1"), self._base + self._at, 0
        return bool(read)

    def _decode(self) -> tuple[Any, int, int]:
        """The value at the present place, its start and its end in the text, which is passed."""
        while True:
            start = self._at
            try:
                value, end = _decoder.raw_decode(self._text, start)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _TAIL
                if self._ended or not cut:
                    raise self._error(error.msg, error.pos) from None
            except RecursionError:
                raise self._error("nested too deeply") from None
            except KeyTwice as error:
                message = f"the key {printable(str(error.args[0]))!r} is there twice in one object; expected once"
                raise self._error(message, valid=True) from None
            except ValueError as error:  # Python's limit to the digits of an integer
                raise self._error(f"a number can't be read ({str(error).partition(';')[0]})", valid=True) from None
            else:
                if end < len(self._text) - _TAIL or self._ended:
                    break
            self._more()  # the value may go on: a number has no end of its own
        self._at = end
        raw = self._text[start:end]
        if not raw.isascii():
            value = self._unicode(raw, start)
        return value, start, end

    def _unicode(self, raw: str, start: int) -> Any:
        try:
            return json.loads(raw.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._error(
                "not UTF-8 text; save the file again with the encoding UTF-8", start + error.start
            ) from None

    def _error(self, expected: str, at: int | None = None, *, valid: bool = False) -> DataError:
        place = self._base + (self._at if at is None else at)
        line, column, left = 1, place + 1, place
        with self.path.open("rb") as file:
            while left > 0 and (before := file.read(min(left, CHUNK))):
                left -= len(before)
                line += before.count(b"\n")
                if b"\n" in before:
                    column = left + len(before) - before.rfind(b"\n")
            ended = " The file breaks off there" if not file.read(1) else ""
        what = "" if valid else "not valid JSON: "
        return DataError(f"{self.path}: {what}line {line}, column {column}: {expected}.{ended}".rstrip("."))


def _bounds(raw: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, int]:
    """Where the objects and arrays in ``raw``, the inside of an array, begin and end, without the last if it is cut;
    how many keys these objects have, and how many the objects inside them."""
    kinds = np.frombuffer(raw.translate(_KINDS), np.uint8)
    places = np.flatnonzero(kinds != 0)
    kinds = kinds[places]
    if (kinds == _BACKSLASH).any():
        slashes = places[kinds == _BACKSLASH]
        first = np.flatnonzero(np.diff(slashes, prepend=-2) != 1)  # of each run of backslashes
        counts = np.diff(first, append=len(slashes))
        after = slashes[first] + counts  # where an odd count escapes what stands there
        kept = (kinds != _BACKSLASH) & ~np.isin(places, after[counts % 2 == 1])
        places, kinds = places[kept], kinds[kept]
    inside = np.cumsum(kinds == _QUOTE, dtype=np.uint8) & 1  # a text, after an odd count of quotes
    outside = 1 - inside.view(np.int8)
    steps = ((kinds == _OPEN).view(np.int8) - (kinds == _CLOSE).view(np.int8)) * outside
    depth = np.cumsum(steps, dtype=np.int32)
    beyond = np.flatnonzero(depth < 0)  # from the end of the array itself on
    stop = int(beyond[0]) if len(beyond) else len(places)
    ends = np.flatnonzero((steps[:stop] == -1) & (depth[:stop] == 0))
    if not len(ends):
        return places[:0], places[:0], 0, 0
    whole = slice(int(ends[-1]) + 1)
    begins = places[whole][(steps[whole] == 1) & (depth[whole] == 1)]
    colons = depth[whole][(kinds[whole] == _COLON) & (outside[whole] == 1)]
    keys = int((colons == 1).sum())
    return begins[: len(ends)], places[ends] + 1, keys, len(colons) - keys


def _keys_below(values: list[Any]) -> int:
    """How many keys the objects inside ``values``, objects and arrays themselves, have."""
    count = 0
    waiting = [part for value in values for part in (value.values() if type(value) is dict else value)]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            count += len(value)
            waiting.extend(value.values())
        elif type(value) is list and value and type(value[0]) in (dict, list):
            waiting.extend(value)
    return count


def read_at(path: Path, starts: Iterable[int], lengths: Iterable[int], *, size: int | None = None) -> list[Any]:
    """The values that :meth:`JsonStream.elements` found at those places.

    Raises:
        DataError: the file is gone, has another ``size`` in bytes than it had (where that is given), or another content
            there by now.
    """
    values = []
    changed = "another content is there; the file was changed after it was opened"
    try:
        with path.open("rb") as file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                raise DataError(f"{path}: {changed}")
            for start, length in zip(starts, lengths, strict=True):
                file.seek(int(start))
                values.append(json.loads(file.read(int(length)).decode("utf-8")))
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: byte {start}: {changed}") from None
    return values
