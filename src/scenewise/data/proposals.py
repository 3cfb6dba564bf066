"""Files of proposals: boxes that one system found in the images of a data set, for another to look at.

A file is safetensors: for each image, under its name in the data set, its boxes float32 [P,4], best first, x1, y1, x2,
y2 in pixels of the image. :func:`scenewise.engine.proposals.write_proposals` makes one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.data.base import DataSet
from scenewise.errors import DataError
from scenewise.files.atomic import atomic_path


class ProposalFile:
    """The proposals in the file ``path``, by the image's name; read when they are asked for.

    Raises:
        DataError: the file can't be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.file: Any = None
        self.names = frozenset(self._opened().keys())

    def __getitem__(self, name: str) -> Tensor:
        """The boxes [P,4] of the image ``name``."""
        if name not in self.names:
            raise DataError(f"{self.path}: has no proposals for image {name!r}; expected those of every image")
        boxes: Tensor = self._opened().get_tensor(name)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all():
            raise DataError(f"{self.path}: {name}: found {list(boxes.shape)}; expected finite boxes [P,4]")
        return boxes.float()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"file": None}  # each process opens the file for itself

    def _opened(self) -> Any:
        if self.file is None:
            from safetensors import SafetensorError, safe_open

            if not self.path.is_file():
                raise DataError(f"{self.path}: not found; expected a file of proposals")
            try:
                self.file = safe_open(self.path, framework="pt")  # type: ignore[no-untyped-call]
            except SafetensorError as error:
                raise DataError(f"{self.path}: not a safetensors file ({error})") from None
        return self.file


def with_proposals(data: DataSet, path: str | Path) -> DataSet:
    """The same data set, its samples with the target field ``proposals`` from the file ``path``.

    Raises:
        DataError: the file can't be read, or lacks an image; names the first.
    """
    proposals = ProposalFile(path)
    missing = [name for index in range(len(data)) if (name := data.image_id(index)) not in proposals.names]
    if missing:
        raise DataError(
            f"{path}: has no proposals for {len(missing)} of the {len(data)} images of {data.source}, the first "
            f"{missing[0]!r}"
        )
    changed = copy.copy(data)
    changed.proposals = proposals
    return changed


def save_proposals(proposals: Mapping[str, Tensor], path: str | Path) -> None:
    """Write ``proposals``, boxes [P,4] by the image's name, to the file ``path``."""
    from safetensors.torch import save_file

    boxes = {name: b.detach().to("cpu", torch.float32).contiguous() for name, b in proposals.items()}
    with atomic_path(path) as temporary:
        save_file(boxes, temporary)
