"""Reading images and label maps, and writing files so that none is ever half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from scenewise.errors import DataError


def read_image(path: str | Path) -> Tensor:
    """The image in ``path`` as RGB, uint8 [3,H,W]."""
    with Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture)
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_label_map(path: str | Path) -> Tensor:
    """The index map in ``path`` (8-bit grey or palette PNG), uint8 [H,W]."""
    with Image.open(path) as picture:
        if picture.mode not in ("L", "P"):
            raise DataError(f"{path}: a label map of mode {picture.mode}; expected 8-bit grey or palette indices")
        return torch.from_numpy(np.array(picture))
