"""JSON element by element: the same values as json.loads, wherever the file is cut into pieces."""

import json

import pytest

from scenewise.data.readers import json_stream
from scenewise.data.readers.json_stream import JsonStream, read_at
from scenewise.errors import DataError

CONTENT = {
    "info": {"a": [1, {"b": None}], "text": 'quotes " and \\ and ünïcode ☂'},
    "empty": [],
    "numbers": [1, -2.5e-3, 123456789012345678, True, None, "x", [], {}],
    "texts": [{"a": '"}]{', "b\\": "\\\\", "c": ['\\"', '"']}, {"]": "\\"}, [["["]], {"d": "{"}],
    "mixed": [{"a": 1}, 5, [2], "}", {"b": []}, None],
    "annotations": [{"id": i, "name": "ж" * (i % 3), "x": [i / 7, 1e9, -0.0], "o": {"k": [[]]}} for i in range(30)],
    "last": 1234567,
}


def read_all(path):
    result, places = {}, []
    with JsonStream(path) as stream:
        for key in stream.members():
            if stream.is_array():
                result[key] = []
                for starts, lengths, values in stream.elements():
                    assert len(starts) == len(lengths) == len(values)
                    result[key] += values
                    places += zip(starts, lengths, values, strict=True)
            else:
                result[key] = stream.value()
    return result, places


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("bom", [False, True])
def test_any_cut_gives_the_same_values(tmp_path, monkeypatch, chunk, indent, bom):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "a.json"
    text = json.dumps(CONTENT, ensure_ascii=chunk % 2 == 0, indent=indent)
    path.write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    found, places = read_all(path)
    assert found == CONTENT
    starts, lengths, values = zip(*places, strict=True)
    assert read_at(path, starts, lengths) == [*values]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected a JSON object"),
        ("[1]", "line 1, column 1: expected a JSON object"),
        ('{"a": [1, 2', r"column 12: expected a comma or \]. The file breaks off there"),
        ('{"a": [{"b": 1}, {"b": ', "The file breaks off there"),
        ('{"a": "no end', "Unterminated string"),
        ('{\n"a": [1,\n {"b" 2}]}' + " " * 50, "line 3, column 7: Expecting ':' delimiter"),
        ('{"a": 1} x', "the object is closed, and something follows"),
        ('{"a" 1}', "expected a colon"),
        ("{a: 1}", "expected a name in double quotes"),
        ('{"a": ' + "[" * 100_000, "nested too deeply|Expecting value"),
        ('{"a": [{"b": ' + "9" * 5000 + "}]}", r"column 8: a number can't be read \(Exceeds the limit"),
        ('{"a": ' + "9" * 5000 + "}", "column 7: a number can't be read"),
        ('{"a": [{}, {"b": 1}{}]}', r"column 20: expected a comma or \]"),
        ('{"a": [{}, {"b": 1},]}', "column 21: Expecting value"),
        ('{"a": [{"b": [1, 2}]]}', "column 19: Expecting ',' delimiter"),
        ('{"a": [1], "b": 2, "a": []}', "column 20: the key 'a' is there a second time; expected each once"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: (not valid JSON: )?.*{message}"):
        read_all(path)


def test_a_fault_is_found_without_reading_on(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b" 2}, ' + "1, " * 10_000 + "1]}")
    with JsonStream(path) as stream:
        assert next(stream.members()) == "a"
        with pytest.raises(DataError):
            [*stream.elements()]
    assert len(stream._text) < 1000


def test_not_utf8(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff\xfe\xff"}')
    with pytest.raises(DataError, match=r"a\.json: .*not UTF-8 text"):
        read_all(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding=encoding)
    with pytest.raises(DataError, match=r"a\.json: UTF-16 text; expected UTF-8\. Save the file again"):
        read_all(tmp_path / "a.json")


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match="was changed after it was opened"):
        read_at(path, [2], [3])


TWICE = {
    "in an element": '{"annotations": [{"id": 1}, {"id": 2, "b": 3, "id": 4}]}',
    "below": '{"annotations": [{"id": 1, "s": {"c": [1], "size": 2, "c": 3}}]}',
    "written otherwise": '{"annotations": [{"id": 1, "ab": 2, "a\\u0062": 3}]}',
    "in a value": '{"info": {"x": 1, "x": 2}, "annotations": []}',
    "in a list": '{"annotations": [[{"x": 1}, {"y": 1, "y": 2}]]}',
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_twice_in_one_object_is_named(tmp_path, case):
    path = tmp_path / "a.json"
    path.write_text(TWICE[case])
    with pytest.raises(DataError, match=r"a\.json: line 1, column \d+: the key '\w+' is there twice in one object"):
        read_all(path)


def test_colons_and_braces_in_texts_are_no_keys(tmp_path):
    element = {"a:b": 'x": {"y": 1, "y"', "c": {"d": ":", "e": [{"f": "\\"}]}, "é": "::"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"annotations": [element] * 50}, ensure_ascii=False), encoding="utf-8")
    assert read_all(path)[0] == {"annotations": [element] * 50}
