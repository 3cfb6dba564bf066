"""Reading and writing the YAML of recipes: nothing in it runs, grows or surprises.

Beside PyYAML's safe loader: a key that comes twice is an error, since programs differ in which one counts; dates and
times are texts, ``1e-3`` is a number, and ``1:20`` is none; tags such as ``!!python/name`` are refused; and so is what
would grow beyond any use when it is read, such as lists of references to lists of references.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from scenewise.errors import DataError, UsageError
from scenewise.files.text import read_text

MAX_LETTERS = 300_000  # of a file
MAX_VALUES = 20_000  # with each reference counted as often as it is used
MAX_DEPTH = 50
PLAIN = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge"))


class Strict:
    """What a loader of PyYAML does besides, named before it among the parents: a key that comes twice is an error, and
    so are lists within lists beyond any use, for which PyYAML takes quadratic time.

    Attributes:
        depth: the most brackets within each other.
    """

    depth = MAX_DEPTH
    flow_level: int  # PyYAML's: the brackets that are open
    get_mark: Any

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Begin a list or mapping in brackets."""
        if self.flow_level >= self.depth:
            raise yaml.scanner.ScannerError(None, None, f"more than {self.depth} brackets deep", self.get_mark())
        super().fetch_flow_collection_start(token)  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of ``node``."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{reprlib.repr(key.value)} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[misc, no-any-return]


class _Loader(Strict, yaml.SafeLoader):
    """The safe loader with the types above."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- filled below

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of ``node``."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            message = f"{reprlib.repr(node.value)} can't be read as {kind}"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads: a text that it would take for a number is put in quotes."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- filled below


NUMBER = r"(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+"
KINDS = {  # of plain values: what they look like, and the letters that they begin with
    "bool": (r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", [*"yYnNtTfFoO"]),
    "int": (r"[-+]?(?:0x[0-9a-fA-F]+|0|[1-9]\d*)", [*"-+0123456789"]),
    "float": (rf"[-+]?(?:{NUMBER}|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)", [*"-+0123456789."]),
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "merge": (r"<<", ["<"]),
}
for _class in (_Loader, _Dumper):
    for _kind, (_pattern, _letters) in KINDS.items():
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _letters)


def read_yaml(path: Path, *, what: str) -> Any:
    """The value in a YAML file; ``what`` is expected there, for messages.

    Raises:
        UsageError: the file can't be read or is not YAML of the kind above; names the line.
    """
    try:
        text = read_text(path, what=what)
    except DataError as error:
        raise UsageError(str(error)) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML ``text``. Errors as for :func:`read_yaml`; their messages begin with ``where``."""
    if len(text) > MAX_LETTERS:
        raise UsageError(f"{where}: not YAML of a recipe: {len(text):,} letters; expected at most {MAX_LETTERS:,}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise UsageError(f"{where}: not YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split()).replace('in "<unicode string>", line', "at line")
        raise UsageError(f"{where}: not YAML ({said if len(said) < 300 else said[:300] + '...'})") from None


def dump_yaml(value: Any) -> str:
    """``value``, of mappings, lists and plain values, as YAML; :func:`parse_yaml` reads it back."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _check(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """How many values ``node`` holds, references counted as often as they are used.

    Raises:
        yaml.YAMLError: they are too many or too deep, a list holds itself, or a tag is not one of ``PLAIN``.
    """
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise yaml.constructor.ConstructorError(None, None, "a value holds itself", node.start_mark)
        return sizes[id(node)]
    if node.tag not in PLAIN:
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag!r} is not known", node.start_mark)
    if depth > MAX_DEPTH:
        raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_DEPTH} values deep", node.start_mark)
    sizes[id(node)], size = -1, 1
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            size += _check(part, sizes, depth + 1)
            if size > MAX_VALUES:
                message = f"more than {MAX_VALUES:,} values, references counted as often as they are used"
                raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
    sizes[id(node)] = size
    return size
