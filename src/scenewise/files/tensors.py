"""Files of tensors: safetensors, and torch files that hold nothing but tensors. No pickle is ever run."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import CheckpointError
from scenewise.files.atomic import atomic_path

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` and ``metadata`` to the safetensors file ``path``, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        # clone: safetensors refuses tensors that share memory
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, dict(metadata))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors in ``path``: a safetensors file, or a torch file that holds nothing but tensors.

    A torch file is read with ``weights_only=True``, which runs no code from it.
    """
    path = Path(path)
    with _opened(path) as file:
        start = file.read(9)
    if _is_torch_file(start):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(
                f"{path}: not a torch file of plain tensors ({reason}); it was not unpickled"
            ) from None
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise CheckpointError(f"{path}: holds no plain dictionary of tensors")
        return dict(state)
    from safetensors.torch import load_file

    safetensors_header(path)
    return load_file(path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The free-text metadata of the safetensors file ``path``."""
    return safetensors_header(Path(path))[0]


def _opened(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; expected a .safetensors file")
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None


def _is_torch_file(start: bytes) -> bool:
    """Whether a file that starts with these 9 bytes is a zip archive or a pickle.

    A safetensors file may start with the same bytes: the length of its header. The header follows, with a brace.
    """
    return (start[:2] == b"PK" or start[:1] == b"\x80") and start[8:9] != b"{"


def safetensors_header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensor table of ``path``, after checking that the file is whole."""
    with _opened(path) as file:
        start = file.read(9)
        if _is_torch_file(start):
            raise CheckpointError(
                f"{path}: a pickle (a torch file), not a scenewise checkpoint; it was not unpickled. "
                "Published weights in torch's format are read with load(name, weights_file=...)"
            )
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path}: an empty file; expected a .safetensors checkpoint")
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else MAX_HEADER + 1
        if length > MAX_HEADER:
            raise CheckpointError(f"{path}: not a safetensors file")
        text = start[8:] + file.read(max(0, length - 1))
    if len(text) < length:
        raise CheckpointError(f"{path}: cut short within its header ({size} bytes)")
    try:
        table = json.loads(text)
        metadata = table.pop("__metadata__", {})
        end = 8 + length + max((entry["data_offsets"][1] for entry in table.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(f"{path}: not a safetensors file") from None
    if size != end:
        word = "cut short" if size < end else "longer than its header says"
        raise CheckpointError(f"{path}: {word}: {size} bytes; its header speaks of {end}")
    return metadata, table
