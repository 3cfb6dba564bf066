"""The package as a whole: its public names, what importing costs, and which way imports run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import scenewise
from scenewise.catalog import SYSTEMS
from scenewise.data.formats import FORMATS
from scenewise.losses.table import LOSSES
from scenewise.metrics.table import ROWS

SOURCE = Path(scenewise.__file__).parent

ROOMS = {  # a room or a file at the top -> what of the package it may import; each room may import itself
    "cli": {
        "engine", "recipe", "weights", "catalog", "data", "results", "metrics", "draw", "fields", "model", "types",
        "files",
    },
    "engine": {
        "weights", "recipe", "data", "catalog", "model", "metrics", "results", "losses", "nn", "fields", "draw", "ops",
        "types", "files",
    },
    "weights": {"catalog", "model", "systems", "types", "files"},
    "results": {"model", "fields", "draw", "ops", "types", "files"},
    "recipe": {"catalog", "types", "files"},
    "catalog": {"own", "systems", "model", "types"},
    "systems": {"model", "nn", "losses", "fields", "ops", "types"},
    "nn": {"losses", "ops", "types", "files"},
    "losses": {"own", "data", "ops", "types"},
    "metrics": {"own", "fields", "ops", "types"},
    "pipeline": {"model", "fields", "ops", "types"},
    "model": {"types"},
    "data": {"own", "fields", "ops", "types", "files"},
    "fields": {"draw", "ops", "types", "files"},
    "draw": {"files"},
    "ops": {"types"},
    "types": set(),
    "files": set(),
    "errors": set(),
    "own": set(),
    "version": set(),
    "__init__": {"catalog", "data", "draw", "engine", "metrics", "model", "pipeline", "results", "types", "weights"},
}  # fmt: skip
ANYWHERE = {"errors", "version"}


INNER = {  # a room in a room -> what of its own house it may import; of others what the house may
    "data/writers": {"data.writers", "data.label_colors"},
}


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


def test_the_oldest_python_reads_every_file():
    """By its grammar alone; CONTRIBUTING.md says how to run all tests with another Python."""
    root = SOURCE.parents[1]
    oldest = re.search(r'^requires-python = ">=3\.(\d+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    files = [path for folder in ("src", "tests", "benchmarks") for path in (root / folder).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, int(oldest[1])))


def test_every_library_that_is_imported_is_declared():
    """As dependency or as an optional one: elsewhere nothing else is installed."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = sum(
        (v for k, v in project["optional-dependencies"].items() if k not in ("test", "dev")), project["dependencies"]
    )
    declared = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in lines}
    homes = metadata.packages_distributions()
    found = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {str(module).split(".")[0]: path.relative_to(SOURCE) for module in modules}
    libraries = found.keys() - sys.stdlib_module_names - {"scenewise"}
    assert {"torch", "yaml", "PIL"} <= libraries
    for library in libraries:
        homes_of = {re.sub(r"[-_.]+", "-", home).lower() for home in homes.get(library, [library])}
        assert homes_of & declared, f"{found[library]} imports {library}, which pyproject.toml does not declare"


def test_every_room_is_listed():
    rooms = {path.stem if path.is_file() else path.name for path in SOURCE.iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"__pycache__"} == set(ROOMS)
    assert sum(path.suffix == ".py" for path in SOURCE.iterdir()) <= 10


def test_imports_run_one_way():
    """Of a system, only a stated parent's file is imported by another; and no room imports one above it."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").parts[0]
        for module in imported(path):
            target = module.split(".")[1]
            if target != room and target not in ROOMS[room] | ANYWHERE:
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_rooms_in_rooms_import_what_is_listed():
    wrong = []
    for folder, allowed in INNER.items():
        house = folder.split("/")[0]
        for path in (SOURCE / folder).rglob("*.py"):
            for module in imported(path):
                inner = module.removeprefix("scenewise.")
                if inner.split(".")[0] == house and not any(f"{inner}.".startswith(f"{name}.") for name in allowed):
                    wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)
    assert all((SOURCE / folder).is_dir() for folder in INNER)


def test_there_are_no_import_circles():
    """Imports inside functions, for types alone, and through the tables of systems, readers and metrics included."""
    graph = {name: {target for target in found if target in MODULES} for name, found in edges().items()}
    on_path: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        if name in on_path:
            raise AssertionError(" -> ".join([*on_path[on_path.index(name) :], name]))
        if name in done:
            return
        on_path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        on_path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


MODULES = {
    ".".join(("scenewise", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
FACES = {name for name, path in MODULES.items() if path.name == "__init__.py"}  # gather what lies below them


def edges() -> dict[str, set[str]]:
    """For each module the modules that it imports, and those that its tables name."""
    found = {name: {target for target in imported(path) if target not in FACES} for name, path in MODULES.items()}
    found["scenewise.catalog"] |= {f"scenewise.systems.{s.location.split(':')[0]}" for s in SYSTEMS.values()}
    found["scenewise.data.formats"] |= {
        f"scenewise.data.{location.split(':')[0]}" for locations in FORMATS.values() for location in locations
    }
    found["scenewise.losses.table"] |= {f"scenewise.losses.{loss.location.split(':')[0]}" for loss in LOSSES.values()}
    found["scenewise.metrics.table"] |= {f"scenewise.metrics.{row.location.split(':')[0]}" for row in ROWS}
    return {name: targets - {name} for name, targets in found.items() if name not in FACES}


def test_a_system_is_read_with_few_files():
    """What importing a system reads of the package, tables and faces aside."""
    graph = {name: imported(path, at_once=True) - FACES for name, path in MODULES.items()}
    for system in SYSTEMS.values():
        read: set[str] = set()
        waiting = [f"scenewise.systems.{system.location.split(':')[0]}"]
        while waiting:
            name = waiting.pop()
            waiting += graph[name] - read
            read |= graph[name]
        assert len(read) <= 17, f"{system.name} reads {len(read)} files: {', '.join(sorted(read))}"


def imported(path: Path, at_once: bool = False) -> set[str]:
    """The modules of the package that a file imports, anywhere in it; or those that it imports ``at_once``, when it is
    imported itself."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("scenewise."):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & set(MODULES)) or {node.module}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("scenewise.")}
    return found
