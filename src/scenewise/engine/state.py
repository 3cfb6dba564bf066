"""The training state: all that is needed to go on as if nothing had happened. One safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenewise.errors import CheckpointError
from scenewise.files.tensors import read_metadata, read_tensors, write_tensors


def save_state(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor] | None,
    optimizers: Mapping[str, torch.optim.Optimizer],
    progress: dict[str, Any],
) -> None:
    """Write weights, their average, each player's optimizer and ``progress`` (JSON values) to ``path``, atomically."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in (average or {}).items()}
    plain: dict[str, dict[str, dict[str, Any]]] = {}
    for player, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{player}/{index}/{key}"] = value
                else:
                    plain.setdefault(player, {}).setdefault(str(index), {})[key] = value
    write_tensors(path, tensors, {"progress": json.dumps(progress), "optimizer": json.dumps(plain)})


def load_state(
    path: Path, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """Fill ``model`` and ``optimizers`` from ``path``; return the weights' average, if there is one, and the progress.

    Raises:
        CheckpointError: the file is missing, cut short, damaged, or of another model or other players.
    """
    tensors, metadata = read_tensors(path), read_metadata(path)
    try:
        progress, plain = json.loads(metadata["progress"]), json.loads(metadata["optimizer"])
    except (KeyError, ValueError):
        raise CheckpointError(f"{path}: not a training state") from None
    if set(progress.get("players", {})) != set(optimizers):
        raise CheckpointError(f"{path}: a training state of other players than this system has")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition("/")
        parts.setdefault(part, {})[rest] = value
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: a training state of another model ({str(error).splitlines()[1].strip()})"
        ) from None
    for player, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in plain.get(player, {}).items()}
        for key, value in parts["optimizer"].items():
            owner, index, name = key.split("/", 2)
            if owner == player:
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return parts["average"] or None, progress
