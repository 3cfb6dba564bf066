"""YAML of recipes: what it means, what is refused, and that it comes back."""

import pytest

from scenewise.errors import UsageError
from scenewise.files.yaml_file import dump_yaml, parse_yaml, read_yaml

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(7)
)


def test_plain_values():
    text = "a: 1e-3\nb: 017\nc: 12:30\nd: yes\ne: ~\nf:\ng: 2020-99-99\nh: 0x1f\ni: -.5e3\nj: '1'\nk: 12\nl: 1.0"
    assert parse_yaml(text, "r") == {
        "a": 0.001, "b": "017", "c": "12:30", "d": True, "e": None, "f": None, "g": "2020-99-99", "h": 31, "i": -500.0,
        "j": "1", "k": 12, "l": 1.0,
    }  # fmt: skip
    assert parse_yaml("a: &x {p: 1}\nb: {<<: *x, q: 2}", "r")["b"] == {"p": 1, "q": 2}
    assert parse_yaml("", "r") is None


REFUSED = {
    "a bomb": (LAUGHS, "more than 20,000 values, references counted"),
    "brackets": ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "more than 50 brackets deep at line 1"),
    "dashes": ("- " * 3000 + "a", "nested too deeply"),
    "depth": ("".join(" " * i + "a:\n" for i in range(60)), "more than 50 values deep"),
    "digits": ("a: 1\nlr: " + "9" * 5000, "can't be read as int at line 2, column 5"),
    "float": ("a: !!float abc", "'abc' can't be read as float at line 1"),
    "bool": ("a: !!bool abc", "'abc' can't be read as bool"),
    "timestamp": ("a: !!timestamp 2020-01-01", r"the tag 'tag:yaml\.org,2002:timestamp' is not known"),
    "python": ("a: !!python/object:os.system x", "is not known at line 1"),
    "twice": ("lr: 1\nb: 2\nlr: 3", "'lr' is there twice at line 3"),
    "itself": ("a: &a [*a]", "a value holds itself"),
    "a list as key": ("? [a]\n: 1", "a key is no text"),
    "zero byte": ("a: \0", "unacceptable character"),
    "large": ("a: b\n" * 70_000, "350,000 letters; expected at most 300,000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    text, message = REFUSED[case]
    with pytest.raises(UsageError, match=rf"^r\.yaml: not YAML.*{message}") as caught:
        parse_yaml(text, "r.yaml")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_files(tmp_path):
    (tmp_path / "r.yaml").write_bytes("a: é".encode("utf-16"))
    assert read_yaml(tmp_path / "r.yaml", what="a recipe") == {"a": "é"}
    with pytest.raises(UsageError, match=r"none\.yaml: not found; expected a recipe"):
        read_yaml(tmp_path / "none.yaml", what="a recipe")


def test_everything_comes_back():
    texts = [
        "1e3",
        "2020-01-01",
        "no",
        "12:30",
        "0x1f",
        "",
        "~",
        "1_000",
        "007",
        "é\u2028",
        "<<",
        "=",
        "1.",
        "!x",
        "*a",
    ]
    value = {"texts": texts, "numbers": [1e-5, 1e22, 10**30, -0.5, 0], "others": [None, True, [], {}]}
    assert parse_yaml(dump_yaml(value), "r") == value
