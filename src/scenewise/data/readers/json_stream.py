"""Reading a JSON file of any size element by element, in little memory.

``json.load`` of COCO's training annotations (450 MB) makes several GB of Python objects. Here one element of an array
exists at a time. Each comes with its place in the file, so that a part that is rarely wanted (an outline, say) can be
read again later by :func:`read_at` and need not be kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from scenewise.errors import DataError

CHUNK = 1 << 22  # bytes a read
_SPACE = " \t\n\r"
_TAIL = 16  # a fault so near the end of what has been read may be a token that goes on; the longest is -Infinity
_BOM = "\xef\xbb\xbf"

_decoder = json.JSONDecoder()


class JsonStream:
    """The members of the JSON object in a file, one at a time, in the file's order.

    Use::

        with JsonStream(path) as stream:
            for key in stream.members():
                if key == "annotations":
                    for start, length, value in stream.elements(): ...
                else:
                    value = stream.value()

    The file is decoded as Latin-1, so that a character is a byte and places in the text are places in the file. Text
    beyond ASCII inside a value is decoded as the UTF-8 that it is, at the price of reading that value twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = ""
        self._base = 0  # of _text[0] in the file
        self._at = 0  # in _text
        self._ended = False
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror})") from None

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def members(self) -> Iterator[str]:
        """Each key; its value has to be taken, by :meth:`value` or :meth:`elements`, before the next one."""
        while len(self._text) < len(_BOM) and not self._ended:
            self._more()
        if self._text.startswith(_BOM):
            self._at = len(_BOM)
        if self._peek() != "{":
            raise self._error("expected a JSON object, which begins with {")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                if self._peek() != '"':
                    raise self._error("expected a name in double quotes")
                key = self.value()
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

    def elements(self) -> Iterator[tuple[int, int, Any]]:
        """The elements of the array to come: its first byte in the file, its length in bytes, and the value."""
        if self._peek() != "[":
            raise self._error("expected an array, which begins with [")
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            self._peek()
            value, start, end = self._decode()
            yield self._base + start, end - start, value
            if self._separator("]"):
                return

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
            raise self._error("not UTF-8 text", start + error.start) from None

    def _error(self, expected: str, at: int | None = None) -> DataError:
        place = self._base + (self._at if at is None else at)
        with self.path.open("rb") as file:
            before = file.read(place)
        line, column = before.count(b"\n") + 1, place - before.rfind(b"\n")
        ended = " The file breaks off there" if place >= self.path.stat().st_size else ""
        return DataError(f"{self.path}: not valid JSON: line {line}, column {column}: {expected}.{ended}".rstrip("."))


def read_at(path: Path, starts: Iterable[int], lengths: Iterable[int]) -> list[Any]:
    """The values that :meth:`JsonStream.elements` found at those places.

    Raises:
        DataError: the file is gone or has another content there by now.
    """
    values = []
    try:
        with path.open("rb") as file:
            for start, length in zip(starts, lengths, strict=True):
                file.seek(int(start))
                values.append(json.loads(file.read(int(length))))
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError:
        raise DataError(
            f"{path}: byte {start}: another content is there; the file was changed after it was opened"
        ) from None
    return values
