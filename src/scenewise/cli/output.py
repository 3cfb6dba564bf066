"""How commands say what they found and how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from scenewise.data import DataSet


def complain(message: str) -> None:
    """A message on standard error."""
    print(f"scenewise: {message}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    import json

    print(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False))


def print_table(table: Table) -> None:
    """A table on standard output."""
    from rich.console import Console

    Console().print(table)


def tell_repairs(data: DataSet) -> None:
    """Say what was left out or mended, on standard error."""
    from scenewise.data import describe_repairs

    for problem in data.repairs[:20]:
        complain(str(problem))
    if told := describe_repairs(data):
        complain(told)


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, or a line now and then where that is no terminal; gives the function that moves
    it on."""
    from rich.console import Console

    from scenewise.engine.progress import Lines, bars

    console = Console(stderr=True)
    if not console.is_terminal:
        lines, done = Lines(complain), 0

        def move(count: int) -> None:
            nonlocal done
            done += count
            lines.at(title, done, total)

        yield move
        return
    with bars(console, transient=True) as display:
        task = display.add_task(title, total=total, note="")
        yield lambda count: display.advance(task, count)


@contextmanager
def bar_to(title: str) -> Iterator[Callable[[int, int], None]]:
    """The same for work that says how much is done and how much there is."""
    from rich.console import Console

    from scenewise.engine.progress import Lines, bars

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines(complain)
        yield lambda done, total: lines.at(title, done, total)
        return
    with bars(console, transient=True) as display:
        task = display.add_task(title, total=None, note="")
        yield lambda done, total: display.update(task, completed=done, total=total)
