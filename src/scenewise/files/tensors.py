"""Files of tensors: safetensors, and torch files that hold nothing but tensors. No pickle is ever run.

The header of a safetensors file that scenewise writes holds a checksum of all that the file says: its metadata, and
name, type, shape and bytes of each tensor. It is compared when tensors are read. Files whose tensors are read one by
one hold a checksum for each of them. Files without one, such as older ones, are read without.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import CheckpointError, StorageError
from scenewise.files.atomic import as_it_was, atomic_path

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
CHECKSUM = "checksum"  # its entry in the metadata
CHECKSUMS = "checksums"  # those of tensors that are read one by one: a JSON object by their names


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, one_by_one: bool = False
) -> None:
    """Write ``tensors`` and ``metadata``, and their checksum, to the safetensors file ``path``, atomically.

    ``one_by_one`` is for files whose tensors are read so: each has a checksum of its own.

    Raises:
        StorageError: it can't be written, as where the disk is full; an older file of that name is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # clone: safetensors refuses tensors that share memory
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    if one_by_one:
        sums = {CHECKSUMS: json.dumps({name: tensor_checksum(name, value) for name, value in plain.items()})}
    else:
        sums = {CHECKSUM: checksum(plain, metadata)}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, {**metadata, **sums})
        except SafetensorError as error:
            raise StorageError(f"{path}: can't be written ({reason_of(error)}); {as_it_was(path)}") from None


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A checksum of the content, in hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for key in sorted(metadata.keys() - {CHECKSUM}):
        digest.update(f"{len(key)} {key} {len(metadata[key])} {metadata[key]}\n".encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        _take(digest, name, tensors[name])
    return digest.hexdigest()


def _take(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{len(name)} {name} {value.dtype} {list(value.shape)}\n".encode("utf-8", "surrogatepass"))
    digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def tensor_checksum(name: str, value: Tensor) -> str:
    """A checksum of one tensor and its name, in hexadecimal digits."""
    digest = blake2b(digest_size=8)
    _take(digest, name, value)
    return digest.hexdigest()


def checksums_of(metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    """The checksum of each tensor that a file's ``metadata`` states; None where it states none.

    Raises:
        ValueError: they are damaged.
    """
    if CHECKSUMS not in (metadata or {}):
        return None
    sums = json.loads(metadata[CHECKSUMS])  # type: ignore[index]
    if not isinstance(sums, dict):
        raise ValueError("the checksums are none")
    return sums


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

    metadata, _ = safetensors_header(path)
    try:
        tensors = load_file(path)
    except Exception as error:  # whatever a damaged header leads to: SafetensorError, KeyError, OverflowError, ...
        raise CheckpointError(f"{path}: damaged: its tensors can't be read ({reason_of(error)}). {CURE}") from None
    if CHECKSUM in metadata and metadata[CHECKSUM] != (found := checksum(tensors, metadata)):
        raise CheckpointError(
            f"{path}: damaged: its content has the checksum {found}, and its header says {metadata[CHECKSUM][:40]!r}. "
            f"{CURE}"
        )
    return tensors


CURE = "Copy or download the file again, or use another checkpoint of the run"


def reason_of(error: BaseException) -> str:
    """The first line of what ``error`` says, or its kind."""
    lines = str(error).strip().removeprefix("Error while serializing: I/O error: ").splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


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
        if length > size:
            raise CheckpointError(f"{path}: cut short within its header ({size} bytes)")
        text = start[8:] + file.read(max(0, length - 1))
    if len(text) < length:
        raise CheckpointError(f"{path}: cut short within its header ({size} bytes)")
    try:
        table = json.loads(text)
        metadata = table.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata of other kinds")
        end = 8 + length + max((entry["data_offsets"][1] for entry in table.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise CheckpointError(f"{path}: not a safetensors file") from None
    if size != end:
        word = "cut short" if size < end else "longer than its header says"
        raise CheckpointError(f"{path}: {word}: {size} bytes; its header announces {end}")
    return metadata, table
