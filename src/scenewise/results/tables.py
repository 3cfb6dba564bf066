"""Scores as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

BY_CLASS = "per_"  # per_class, per_joint: how the entries begin that have a row for each


class Name:
    """A name in a table, which loses its middle where there is no room for all of it: ``DSC_2024…_0042.jpg``."""

    def __init__(self, text: str, least: int = 12) -> None:
        self.text, self.least = text, least

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        length = cell_len(self.text)
        return Measurement(min(length, self.least), min(length, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        yield Text(folded(self.text, options.max_width), no_wrap=True, overflow="ignore")


def folded(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells of a terminal: the whole, or its two ends."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    head, tail = (width - 1) - (width - 1) // 2, (width - 1) // 2
    return f"{set_cell_size(text, head)}…{set_cell_size(text[::-1], tail)[::-1]}"


def score_tables(scores: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of what :func:`~scenewise.engine.evaluate.evaluate` returned.

    One of the scores by class, one for each set of scores that groups such as ``box`` and ``mask`` share, one of the
    first score of each class in each group, and one of the single scores.
    """
    from rich.table import Table

    by_class = scores.get("per_class", {})
    if by_class:
        names = list(next(iter(by_class.values())))
        table = Table("class", *names)
        for name, row in by_class.items():
            table.add_row(Name(name), *(_number(row[n]) for n in names))
        yield table
    groups = {name: values for name, values in scores.items() if isinstance(values, Mapping) and name != "per_class"}
    if groups:
        yield from _group_tables(groups)
        yield from _row_tables(groups)
    single = Table("score", "value")
    for name, value in scores.items():
        if not isinstance(value, Mapping):
            single.add_row(name, _number(value))
    yield single


def _group_tables(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Table]:
    """A table for each set of scores, a row per group.

    Boxes and masks share a set; the last three of their twelve scores are left to JSON, and the tables have no edge, to
    fit into 80 columns.
    """
    from rich.table import Table

    tables: dict[tuple[str, ...], Table] = {}
    for group, values in groups.items():
        names = tuple(name for name, value in values.items() if not isinstance(value, Mapping))
        if names[6:9] == ("AR1", "AR10", "AR100"):
            names = names[:9]
        if names not in tables:
            tables[names] = Table("", *names, collapse_padding=True, pad_edge=False, show_edge=False)
        tables[names].add_row(group, *(_short(values[name]) for name in names))
    yield from tables.values()


def _row_tables(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Table]:
    """A table with a row per class, or joint, and a column per group that has a score for each."""
    from rich.table import Table

    kinds: dict[str, dict[str, Mapping[str, Any]]] = {}
    for group, values in groups.items():
        for name, rows in values.items():
            if name.startswith(BY_CLASS) and rows:
                kinds.setdefault(name.removeprefix(BY_CLASS), {})[group] = rows
    for kind, columns in kinds.items():
        table = Table(kind, *(_heading(group, rows) for group, rows in columns.items()))
        for name in dict.fromkeys(name for rows in columns.values() for name in rows):
            table.add_row(Name(name), *(_number(_first(rows.get(name))) for rows in columns.values()))
        yield table


def _heading(group: str, rows: Mapping[str, Any]) -> str:
    some = next(iter(rows.values()))
    return f"{group} {next(iter(some))}" if isinstance(some, Mapping) else group


def _first(value: Any) -> Any:
    """A row's score, or the first of its scores."""
    return next(iter(value.values())) if isinstance(value, Mapping) else value


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _short(value: float | None) -> str:
    """A score as COCO's own evaluation prints it."""
    return "-" if value is None else f"{value:.3f}"
