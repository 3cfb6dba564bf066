"""The user's own systems, metrics, losses and transforms, found by ``module:name``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
    found = _find(location, what)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(f"{what} {location}: found {_shown(found)}; expected a subclass of scenewise.{base.__name__}")
    return found


def own_function(location: str, what: str) -> Callable[..., Any]:
    """The function, or the class to be called, at ``location``, ``module:function``.

    Args:
        location: where it is; it may lie within a class.
        what: what it is to be, for messages: ``"loss"``, ``"transforms.1"``.

    Raises:
        UsageError: the module or the function is not there, or can't be called.
    """
    found = _find(location, what)
    if not callable(found):
        raise UsageError(f"{what} {location}: found {_shown(found)}; expected a function or a class")
    return found  # type: ignore[no-any-return]


def _find(location: str, what: str) -> Any:
    """What lies at ``location``; None where its module has nothing of that name."""
    module, _, name = location.partition(":")
    if not module or not name:
        raise UsageError(f"{what} {location}: expected module:name, such as my_package.my_module:MyName")
    try:
        found: Any = importlib.import_module(module)
    except (ImportError, TypeError) as error:  # TypeError: a relative name, such as .module
        raise UsageError(
            f"{what} {location}: the module {module!r} can't be imported ({error}); it has to be on Python's path, as "
            "when the command runs in its folder with PYTHONPATH=."
        ) from None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _shown(found: Any) -> str:
    return "nothing" if found is None else repr(found)
