"""Reading small JSON files, whichever system wrote them, and the numbers in them."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from scenewise.errors import DataError
from scenewise.files.text import read_text


def read_json(path: Path, *, what: str = "") -> Any:
    """The value in a JSON file.

    Args:
        path: the file, in any encoding that :func:`~scenewise.files.text.read_text` reads.
        what: what is expected there, for the message where nothing is.

    Raises:
        DataError: it can't be read, is not JSON (names line and column), or an object in it has a key twice: programs
            differ in which one counts.
    """
    return parse_json(read_text(path, what=what), str(path))


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON ``text``. Errors as for :func:`read_json`; their messages begin with ``where``."""
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{where}: not valid JSON: nested too deeply") from None
    except KeyTwice as error:
        raise DataError(
            f"{where}: the key {reprlib.repr(error.args[0])} is there twice in one object; expected once"
        ) from None
    except ValueError as error:  # Python's limit to the digits of an integer
        raise DataError(f"{where}: a number can't be read ({str(error).partition(';')[0]})") from None


def as_number(value: Any) -> float | None:
    """A JSON value as a number, also where it is one in quotes; None where it is none. It may be infinite or NaN."""
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, str) and len(value) < 40 and value.isascii() and "_" not in value:
        try:
            return float(value)
        except ValueError:
            return None
    return None


def as_side(value: Any) -> int | None:
    """A JSON value as a number of pixels, 0 where it is null (not stated); None where it is neither."""
    if type(value) is int and 0 <= value < 2**31:
        return value
    if value is None:
        return 0
    number = as_number(value)
    return int(number) if number is not None and 0 <= number < 2**31 and number.is_integer() else None


class KeyTwice(Exception):
    """An object has a key twice; programs differ in which one counts. The argument is the key."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of ``pairs``, for ``json``'s ``object_pairs_hook``. Raises :class:`KeyTwice`."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise KeyTwice(key)
            seen.add(key)
    return found
