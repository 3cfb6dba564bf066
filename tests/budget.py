"""Where the suite's time goes: what each system costs, and what fifty more of them would make of the whole.

Counted is CPU time, of all threads and of the processes that a test starts: other work on the machine does not change
it, and the tests, which run one after the other, take less than that on the clock.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping

import pytest

MORE = 50  # systems to come


class Budget:
    """A plugin that counts what each test costs."""

    def __init__(self, systems: int) -> None:
        self.systems, self.seconds = systems, dict[str, float]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        before = sum(os.times()[:4])
        done = yield
        self.seconds[item.nodeid] = sum(os.times()[:4]) - before
        return done

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("budget, in seconds of CPU time")
        for line in lines(self.seconds, self.systems):
            terminalreporter.write_line(line)


def lines(seconds: Mapping[str, float], systems: int) -> Iterator[str]:
    """The ``seconds`` by a test's id, summed up; ``systems`` are in the catalog now."""
    contract: dict[str, float] = defaultdict(float)
    learning: dict[str, float] = {}
    own = rest = 0.0
    for identity, value in seconds.items():
        file, _, test = identity.partition("::")
        row = re.search(r"\[(?:one-|all-)?([\w:.-]+)\]", test)
        if file.endswith("test_contract.py") and row:
            contract[row[1]] += value
        elif "/systems/" in file or "/weights/test_published" in file:
            own += value
        else:
            rest += value
        if "/systems/" in file and "learn" in test:
            learning[identity] = value
    for name, value in sorted([*contract.items(), *learning.items()], key=lambda item: -item[1]):
        yield f"{value:7.1f}  {'' if name in learning else 'contract of '}{name}"
    each = (own + sum(contract.values())) / systems
    now = own + sum(contract.values()) + rest
    yield f"{now:7.1f}  in all: {rest:.1f} whatever the systems, and {each:.1f} for each of {systems} systems"
    yield f"{now + MORE * each:7.1f}  with {MORE} more systems"
