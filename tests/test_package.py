"""The package as a whole: its public names, what importing costs, and which way imports run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import scenewise

SOURCE = Path(scenewise.__file__).parent

LAYERS = {  # a room -> the rooms that it may import
    "cli": {"engine", "recipe", "loading", "catalog", "data", "results", "draw", "types", "model", "files"},
    "engine": {
        "loading", "recipe", "data", "checkpoint", "catalog", "model", "metrics", "losses", "nn", "ops", "types",
        "files", "results",
    },
    "systems": {"model", "nn", "losses", "ops", "types", "systems"},
    "nn": {"ops", "types", "nn", "checkpoint", "download"},
    "losses": {"ops", "types", "losses"},
    "metrics": {"ops", "types", "metrics"},
    "data": {"ops", "types", "data", "files"},
    "ops": {"types", "ops"},
    "types": {"draw", "results", "ops"},
}  # fmt: skip
ANYWHERE = {"errors", "version"}


def test_every_public_name_is_there():
    for name in scenewise.__all__:
        assert getattr(scenewise, name) is not None
    assert set(scenewise.__all__) - {"__version__"} == set(scenewise._HOMES)
    assert dir(scenewise) == scenewise.__all__


def test_importing_is_light():
    code = "import sys, scenewise; print('torch' in sys.modules, 'numpy' in sys.modules, 'typer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
    code = "import sys, scenewise.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_imports_run_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        room = parts[0]
        if room not in LAYERS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _imported(node):
                target = module.split(".")[1]
                if target != room and target not in LAYERS[room] | ANYWHERE:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("scenewise."):
        return [node.module]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("scenewise.")]
    return []
