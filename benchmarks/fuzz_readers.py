"""Mutated annotation files, as many as wanted: each comes out as data or as one of scenewise's own errors.

    python benchmarks/fuzz_readers.py --cases 1000000 --only voc

Runs the tests of mutated files (tests/data/readers/test_fuzz.py) with more cases, and other ones each time; with --seed
the same ones again. What goes wrong is printed with the smallest mutation that shows it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run pytest on the tests of mutated files; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000, help="in all tests of a reader")
    parser.add_argument("--only", default="", help="tests whose name holds this, such as voc or yolo")
    parser.add_argument("--seed", type=int, help="of the mutations; without it another one each time")
    arguments = parser.parse_args()
    import pytest

    sys.path.insert(0, str(REPO))
    from tests.data import fuzz

    fuzz.CASES, fuzz.SEED, fuzz.REPEATABLE = arguments.cases, arguments.seed, False
    return int(pytest.main([str(REPO / "tests/data/readers/test_fuzz.py"), "-q", "--timeout=0", "-k", arguments.only]))


if __name__ == "__main__":
    sys.exit(main())
