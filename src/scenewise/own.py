"""The user's own systems and metrics, found by ``module:Class``."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from scenewise.errors import UsageError

T = TypeVar("T")


def own_class(location: str, what: str, base: type[T]) -> type[T]:
    """The class at ``location``, ``module:Class``.

    Args:
        location: where it is; the class may lie within another.
        what: what it is to be, for messages: ``"system"``, ``"metric"``.
        base: of scenewise's public names, what it has to be a subclass of.

    Raises:
        UsageError: the module or the class is not there, or is no subclass of ``base``.
    """
    module, _, name = location.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{what} {location}: the module {module!r} can't be imported ({error}); it has to be on Python's path, as "
            "when the command runs in its folder with PYTHONPATH=."
        ) from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        shown = "nothing" if found is None else repr(found)
        raise UsageError(f"{what} {location}: found {shown}; expected a subclass of scenewise.{base.__name__}")
    return found
