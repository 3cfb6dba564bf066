"""Shared by all tests: where the real data is, and two threads a process, so that sums are taken in one order."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """A function from a data set's name to its folder; skips the test where the folder is absent."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"needs the data set {name!r} in a folder shared/data beside the checkout")
        return path

    return folder
