"""Mutated copies of valid data sets: whatever a file holds comes out as data or as one of scenewise's own errors.

A mutation knows the structure of texts: numbers, words, quoted texts, brackets and lines are replaced, left out,
doubled and exchanged; and bytes are flipped, cut off and put in. Half of the mutated PNGs get the checksums that their
chunks need, so that what they hold is looked at. From a reader's tests::

    def test_mutated_files(tmp_path):
        fuzz(f"yolo:{write(tmp_path)}", [tmp_path / "data.yaml", tmp_path / "labels" / "train" / "a.txt"])
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from scenewise.data import InstanceDataSet, open_data, splits_of
from scenewise.data.base import OnBadRecord
from scenewise.errors import ScenewiseError

CASES = 2000  # in all tests of a reader, those of a format together
SEED: int | None = None  # of the mutations; None, and not repeatable: another one each time
REPEATABLE = True
PNG = b"\x89PNG\r\n\x1a\n"
TOKEN = re.compile(rb"[-+.\w]+|\"[^\"]*\"|[\[\]{}():,=<>/]|\n")
VALUES = (
    b"", b"0", b"-1", b"1", b"2", b"0.5", b"-0.5", b"1e308", b"-1e999", b"nan", b"inf", b"9" * 40, b"9" * 5000,
    b"1_000", b"0x10", "\u0663".encode(), b"true", b"null", b"~", b"[]", b"{}", b"[[", b"]", b"{", b"}", b"\"", b"'",
    b"a", b"../..", b"/etc/passwd", b"C:\\x", b"%2e%2e%2f", b"a" * 300, b"x\0y", b"\xff\xfe", b"\xef\xbb\xbf",
    "\u00e9e\u0301\u2028".encode(), b"<", b">", b"&amp;", b"&x;", b"<!DOCTYPE x>", b"</annotation>",
    b"!!python/object:x", b"&a [*a]", b"*a", b"<<: 1", b": ", b"- ", b"#", b",", b"[" * 1500, b"<a>" * 3000,
    b"2001-01-01", b"1:2:3",
)  # fmt: skip
KINDS = (
    "replace",
    "replace",
    "replace",
    "drop",
    "insert",
    "exchange",
    "double line",
    "drop line",
    "flip",
    "cut",
    "wide",
)

Operation = tuple[str, int, int, bytes]
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(0, 2**16), st.sampled_from(VALUES)),
    min_size=1,
    max_size=3,
)


def mutate(raw: bytes, operations: Sequence[Operation]) -> bytes:
    """``raw`` after ``operations``."""
    png = raw.startswith(PNG)
    for operation in operations:
        raw = _mutated(raw, *operation)
    return _with_checksums(raw) if png and operations[0][1] % 2 else raw


def _with_checksums(png: bytes) -> bytes:
    """``png`` with the checksum that each of its chunks needs."""
    raw, place = bytearray(png), len(PNG)
    while place + 12 <= len(raw):
        end = place + 8 + int.from_bytes(raw[place : place + 4], "big")
        if end + 4 > len(raw):
            break
        raw[end : end + 4] = zlib.crc32(raw[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(raw)


@lru_cache(maxsize=8)
def _tokens(raw: bytes) -> list[tuple[int, int]]:
    return [match.span() for match in TOKEN.finditer(raw)] or [(0, 0)]


def _mutated(raw: bytes, kind: str, first: int, second: int, value: bytes) -> bytes:
    tokens = _tokens(raw)
    (a, b), (c, d) = sorted((tokens[first % len(tokens)], tokens[second % len(tokens)]))
    lines = raw.splitlines(keepends=True) or [b""]
    line = first % len(lines)
    if kind == "replace":
        return raw[:a] + value + raw[b:]
    if kind == "drop":
        return raw[:a] + raw[b:]
    if kind == "insert":
        return raw[:a] + value + raw[a:]
    if kind == "exchange" and b <= c:
        return raw[:a] + raw[c:d] + raw[b:c] + raw[a:b] + raw[d:]
    if kind == "double line":
        return b"".join([*lines[: line + 1], lines[line], *lines[line + 1 :]])
    if kind == "drop line":
        return b"".join([*lines[:line], *lines[line + 1 :]])
    if kind == "flip" and raw:
        place = first % len(raw)
        return raw[:place] + bytes([raw[place] ^ (1 << second % 8)]) + raw[place + 1 :]
    if kind == "cut" and raw:
        return raw[: first % len(raw)]
    if kind == "wide":
        return raw.decode("utf-8", "replace").encode(("utf-16", "utf-16-le", "utf-32", "cp037")[second % 4], "replace")
    return raw


def _overwrite(file: Path, content: bytes) -> None:
    """Write in place: many file systems write a file to the disk at once that was emptied and closed."""
    with file.open("r+b") as stream:
        stream.write(content)
        stream.truncate()


def fuzz(
    source: str,
    files: Sequence[Path],
    needs: Sequence[frozenset[str]] = (frozenset(),),
    share: float = 1,
    also: Callable[[], object] | None = None,
) -> None:
    """Open ``source`` and read all samples, each time with one of ``files`` mutated.

    Args:
        source: a ``format:path`` string, which opens as it is.
        files: small files of it, of text or not.
        needs: what is asked of the reader, one of these at a time.
        share: how much of ``CASES`` mutated copies are tried.
        also: further calls that may raise scenewise's own errors only.
    """
    originals = {file: file.read_bytes() for file in files}
    for fields in needs:
        data = open_data(source, needs=fields)
        assert len(data)
    policies = isinstance(data, InstanceDataSet)  # formats without objects have no bad ones
    cases, opened = round(CASES * share), 0

    def run(file: Path, operations: list[Operation], policy: OnBadRecord, fields: frozenset[str]) -> None:
        nonlocal opened
        message = ""
        _overwrite(file, mutate(originals[file], operations))
        try:
            options: dict[str, Any] = {"on_bad_record": policy} if policies else {}
            data = open_data(source, needs=fields, **options)
            with np.errstate(over="ignore", invalid="ignore"):  # of numbers beyond all measure that are no faults
                for index in range(len(data)):
                    data.sample(index)
            opened += 1
            splits_of(source, fields)
            if also is not None:
                also()
        except ScenewiseError as error:
            message = str(error)
        finally:
            _overwrite(file, originals[file])
        assert "\n" not in message
        assert len(message) < 3000, (len(message), message[:300], message[-300:])

    drawn = given(
        st.sampled_from(sorted(files)),
        OPERATIONS,
        st.sampled_from(("error", "skip", "fix")),
        st.sampled_from(sorted(needs, key=sorted)),
    )
    tried: Callable[[], None] = settings(
        max_examples=cases,
        deadline=None,
        derandomize=REPEATABLE,
        database=None,
        suppress_health_check=[*HealthCheck],
    )(drawn(run))
    (tried if SEED is None else seed(SEED)(tried))()
    assert cases * 0.02 < opened < cases * 0.98  # some mutations are harmless, and some are not
