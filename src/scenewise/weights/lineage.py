"""What a model descends from: the checkpoints that its training started with, their terms, and the lineage of these.

Both travel in the header of a checkpoint: ``terms``, a text, and ``lineage``, a line for each ancestor, the nearest
first, with the beginning of its file's SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenewise.weights.checkpoint import is_checkpoint, read_header
from scenewise.weights.load import best_of
from scenewise.weights.packaged import PACKAGED
from scenewise.weights.published import PUBLISHED

SHOWN = 12  # digits of a SHA-256


def inherited(sources: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The entries ``terms`` and ``lineage`` of a model that starts with the weights of ``sources``.

    Args:
        sources: the name or path of each checkpoint, and what it tells of itself (``model.info``).

    Returns:
        Only the entries that there are: no ``terms`` where no source states any.
    """
    terms: dict[str, None] = {}
    lines: dict[str, None] = {}
    for source, info in sources:
        own = info.get("terms")
        if own:
            terms[str(own) if source not in PACKAGED else f"{own}, as {source}"] = None
        lines[f"weights: {_called(source)}{f' ({own})' if own else ''}"] = None
        lines |= dict.fromkeys(map(str, info.get("lineage", ())))
    found: dict[str, Any] = {"lineage": [*lines]} if lines else {}
    return found | ({"terms": "; ".join(terms)} if terms else {})


def of_backbone(backbone: str, weights: str) -> dict[str, Any]:
    """The same of a model whose ``backbone`` starts with ``weights``: ``"imagenet"``, or a file."""
    if weights == "imagenet":
        return {"lineage": [f"backbone: ImageNet weights of {backbone}"]}
    if is_checkpoint(weights):
        name = next((n for n in PACKAGED if Path(weights).name == f"{n}.safetensors"), weights)
        known = {"terms": PACKAGED[name].terms, "lineage": PACKAGED[name].lineage} if name in PACKAGED else {}
        return inherited([(name, {**read_header(weights).get("info", {}), **known})])
    return {"lineage": [f"backbone: {_called(weights)}"]}


def _called(source: str) -> str:
    """The name of a checkpoint without the folders of a machine, and the beginning of its file's SHA-256."""
    if source in PUBLISHED:
        return f"{source}, sha256 {PUBLISHED[source].sha256[:SHOWN]}"
    if source in PACKAGED:
        with PACKAGED[source].file() as file:
            return f"{source}, sha256 {_digest(file)}"
    path = Path(source).expanduser()
    path = best_of(path) if path.is_dir() else path
    return f"{path.parent.name}/{path.name}, sha256 {_digest(path)}"


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:SHOWN]
