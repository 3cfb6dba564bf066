"""Where the suite's time goes: what each system costs and what fifty more of them would make of the whole."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

MORE = 50  # systems to come


def lines(reports: Iterable[Any], systems: int) -> Iterator[str]:
    """The seconds of a run's ``reports``, summed up; ``systems`` are in the catalog now."""
    contract: dict[str, float] = defaultdict(float)
    learning: dict[str, float] = defaultdict(float)
    own = rest = 0.0
    for report in reports:
        file, _, test = report.nodeid.partition("::")
        seconds = float(report.duration)
        if file.endswith("test_contract.py") and (row := re.search(r"\[(?:one-|all-)?([\w:.-]+)\]", test)):
            contract[row[1]] += seconds
        elif "/systems/" in file or "/weights/test_published" in file:
            own += seconds
        else:
            rest += seconds
        if "/systems/" in file and "learn" in test:
            learning[report.nodeid] += seconds
    for name, seconds in sorted(contract.items(), key=lambda item: -item[1]):
        yield f"{seconds:7.1f} s  contract of {name}"
    for name, seconds in sorted(learning.items(), key=lambda item: -item[1]):
        yield f"{seconds:7.1f} s  {name}"
    each = (own + sum(contract.values())) / systems
    now = own + sum(contract.values()) + rest
    yield f"{now:7.1f} s  in all; {rest:.1f} s whatever the systems, and {each:.1f} s for each of {systems} systems"
    yield f"{now + MORE * each:7.1f} s  with {MORE} more systems"
