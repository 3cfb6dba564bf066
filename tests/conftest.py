"""Shared by all tests: where the real data is, and one thread per process: sums are then taken in one order, and models
as small as the tests' take a tenth of the time that two threads take which wait for each other on busy cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--budget", action="store_true", help="print what each system costs, and what fifty more would")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--budget"):
        from scenewise.catalog import SYSTEMS
        from tests.budget import Budget

        config.pluginmanager.register(Budget(len(SYSTEMS)))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from a data set's name to its folder; skips the test where the folder is absent."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"needs the data set {name!r} in a folder shared/data beside the checkout")
        return path

    return folder
