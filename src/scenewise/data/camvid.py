"""CamVid in the SegNet layout: ``camvid:PATH``.

Brostow et al., Segmentation and recognition using structure from motion point clouds, ECCV 2008; the 360x480 version
with 11 classes of Badrinarayanan et al., SegNet, PAMI 2017. ``PATH`` holds ``train/``, ``val/``, ``test/`` with the
images, ``trainannot/`` and so on with index PNGs of the same names, and lists ``train.txt`` and so on: an image's name
a line, or SegNet's own "image label" pairs of paths. Index 11 is void.
"""

from __future__ import annotations

from pathlib import Path

import torch

from scenewise.data.base import LabelMapDataSet
from scenewise.errors import DataError
from scenewise.types import IGNORE

CLASSES = (
    "sky building pole road pavement tree sign_symbol fence car pedestrian bicyclist"
).split()  # fmt: skip
COLORS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID = 11


class CamVid(LabelMapDataSet):
    """The 11-class CamVid."""

    format = "camvid"
    invalid = frozenset(range(12, 255))

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        self.classes, self.colors = tuple(CLASSES), COLORS
        self.lookup = torch.full((256,), IGNORE, dtype=torch.uint8)
        self.lookup[: len(CLASSES)] = torch.arange(len(CLASSES), dtype=torch.uint8)
        listing = root / f"{split}.txt"
        if not listing.is_file():
            raise DataError(f"{listing}: not found; expected the list of the images of split {split!r}")
        names = [line.split()[0] for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not names:
            raise DataError(f"{listing}: the list is empty; expected an image's name a line")
        images = {p.stem: p for p in (root / split).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")}
        self.pairs = []
        for name in (Path(n).stem for n in names):
            label = root / f"{split}annot" / f"{name}.png"
            self.pairs.append((images.get(name, root / split / f"{name}.png"), label))

    def _expected_values(self) -> str:
        return f"0 to 10 for the 11 classes, or {VOID} or {IGNORE} for void"
