"""What a person may name in place of images and models: folders, globs, names."""

from __future__ import annotations

import glob
from pathlib import Path

from scenewise.errors import UsageError
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.model import Model
from scenewise.weights.load import load


def image_files(name: str | Path) -> list[Path] | None:
    """The image files that ``name`` stands for, sorted: those below a folder, or those that fit a glob; None where it
    names a single file.

    Raises:
        UsageError: there are none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
        if not found:
            raise UsageError(f"{path}: no image in this folder; known endings: {', '.join(sorted(IMAGE_SUFFIXES))}")
        return sorted(found)
    if path.exists() or not glob.has_magic(str(name)):
        return None
    found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
    if not found:
        raise UsageError(f"{name}: no file fits this pattern")
    return sorted(found)


def model_named(name: str | Path) -> Model:
    """The model that :func:`~scenewise.weights.load.load` gives for ``name``; kept, and the next time the same one as
    long as no other is asked for and its file does not change."""
    path = Path(name).expanduser()
    file = path / "best.safetensors" if path.is_dir() else path
    mark = (str(name), file.stat().st_mtime_ns if file.is_file() else 0)
    if mark not in _KEPT:
        loaded = load(name)
        _KEPT.clear()
        _KEPT[mark] = loaded
    return _KEPT[mark]


_KEPT: dict[tuple[str, int], Model] = {}  # the last one
