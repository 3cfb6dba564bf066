"""Reading text files, whichever system wrote them: UTF-8, and UTF-16 or UTF-32 with a byte order mark."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

from scenewise.errors import DataError

MARKS = (  # UTF-32's begins with that of UTF-16, so it comes first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
HEAD = 1024  # bytes by which UTF-16 without a byte order mark is recognised


def read_text(path: Path, *, what: str = "") -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 that begin with a byte order mark, as Windows' tools write them.

    Args:
        path: the file.
        what: what is expected there, for the message where nothing is, such as "the annotation of an image".

    Raises:
        DataError: it is not there, is no regular file, can't be read, or is text of another encoding (UTF-16 without
            a byte order mark is named as such) or no text; the message says how to convert it.
    """
    return decode(read_file(path, what=what), path)


def read_file(path: Path, *, what: str = "") -> bytes:
    """The bytes of a file.

    Raises:
        DataError: it is not there, can't be read, or is no regular file: a named pipe would be waited for without end.
    """
    expected = f"; expected {what}" if what else ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}; expected a file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: not found{expected}") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}){expected}") from None
    except ValueError:  # a name that no file can have, such as one with a zero byte
        raise DataError(f"{str(path)!r}: not a file's name{expected}") from None


def decode(raw: bytes, path: Path) -> str:
    """The text that ``raw``, the content of ``path``, holds, as :func:`read_text` returns it. Errors as there."""
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    if encoding == "utf-8" and (wide := _unmarked(raw[:HEAD])):
        raise DataError(f"{path}: {wide} without a byte order mark; expected UTF-8. Save the file as UTF-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith("utf-8"):
            found = f"not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x})"
        else:
            found = f"begins as {encoding.upper()} and is not valid from byte {error.start} on"
        raise DataError(f"{path}: {found}. Save the file as UTF-8") from None


def _unmarked(head: bytes) -> str:
    """``UTF-16`` or ``UTF-32`` where every other byte of ``head``, or three of four, are zero; else empty.

    Most letters of Western texts are below 256, so that one byte of each has the value 0 in UTF-16.
    """
    if b"\0" not in head:
        return ""
    zeros = [head[place::4].count(0) / max(1, len(head[place::4])) for place in range(4)]
    if sum(share > 0.9 for share in zeros) == 3:
        return "UTF-32"
    even, odd = max(zeros[0], zeros[2]), max(zeros[1], zeros[3])
    return "UTF-16" if max(even, odd) > 0.5 and min(even, odd) < 0.1 else ""
