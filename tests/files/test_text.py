"""Text files of any system."""

import os

import pytest

from scenewise.errors import DataError
from scenewise.files.text import decode, read_file, read_text

TEXT = "Straße 1.jpg\r\nдва\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT
    path.write_bytes("".encode(encoding))
    assert read_text(path) == ""


def test_utf16_and_utf32_of_either_byte_order(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert decode(("\ufeff" + TEXT).encode(encoding), tmp_path) == TEXT
        with pytest.raises(DataError, match=f": {encoding[:6].upper()} without a byte order mark; expected UTF-8"):
            decode(TEXT.replace("два", "two").encode(encoding), tmp_path)


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Straße".encode("cp1252"))
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8 text \(byte 4 is 0xdf\)\. Save the file as UTF-8"):
        read_text(path)
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match=r"begins as UTF-16 and is not valid from byte \d on"):
        read_text(path)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: not found; expected the list of images"):
        read_text(tmp_path / "a.txt", what="the list of images")
    with pytest.raises(DataError, match="is a folder; expected a file"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="can't be read"):
        read_text(tmp_path / ("a" * 300))
    with pytest.raises(DataError, match="not a file's name"):
        read_text(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is no regular file"):
        read_file(tmp_path / "pipe")
