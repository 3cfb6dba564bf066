"""CamVid in the SegNet layout: ``camvid:PATH``.

Brostow et al., Segmentation and recognition using structure from motion point clouds, ECCV 2008; the 360x480 version
with 11 classes of Badrinarayanan et al., SegNet, PAMI 2017.

``PATH`` holds for the split ``train`` a folder ``train/`` of images, a folder ``trainannot/`` of index PNGs of the same
names, and a list ``train.txt``; likewise for ``val`` and ``test``. A line of a list is

* the name of an image of that split, with or without its ending; or
* a pair "image label" of paths, as in SegNet's own lists. Their tail that exists below ``PATH`` counts:
  ``/SegNet/CamVid/train/0001TP_006690.png`` and ``train/0001TP_006690.png`` are both that file of ``PATH/train``.

Values 0 to 10 are the classes; 11, and 255 as everywhere, is void.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from scenewise.data.base import no_split
from scenewise.data.folders import images_in, key_of, read_lines
from scenewise.data.label_maps import LabelMapDataSet, value_table
from scenewise.types import IGNORE

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
COLORS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID = 11
DEEPEST = 30  # folders of a path that are looked for


class CamVid(LabelMapDataSet):
    """The 11-class CamVid."""

    format = "camvid"
    classes = CLASSES
    colors = COLORS
    table = value_table({**{label: label for label in range(len(CLASSES))}, VOID: IGNORE, IGNORE: IGNORE})

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        listing = root / f"{split}.txt"
        if not listing.is_file():
            raise no_split(root, split, self.splits(root), f"a list {split}.txt of its images")
        images = images_in(root / split)
        self.pairs = [self._pair(line, images) for line in read_lines(listing)]

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those of train, val and test that have a list."""
        return tuple(split for split in ("train", "val", "test") if (root / f"{split}.txt").is_file())

    @classmethod
    def sign(cls, path: Path) -> str:
        """A list and a folder of label maps of the same split."""
        found = [split for split in cls.splits(path) if (path / f"{split}annot").is_dir()]
        return f"{found[0]}.txt and {found[0]}annot" if found else ""

    def _pair(self, line: str, images: dict[str, str]) -> tuple[str, str]:
        """The image's and the label map's file, below root, that a line of a list names."""
        line = line.replace("\\", "/")
        paths = line.split()
        if len(paths) == 2 and all(key_of(path) is not None for path in paths):
            return self._below(paths[0]), self._below(paths[1])
        key = key_of(line) or line
        if "/" in line:
            image = self._below(line)
            return image, f"{self.split}annot/{PurePosixPath(key).name}.png"
        return f"{self.split}/{images.get(key, f'{key}.png')}", f"{self.split}annot/{key}.png"

    def _below(self, path: str) -> str:
        """The longest tail of ``path`` that exists below root; where none does, its folder and name."""
        parts = [part for part in path.split("/") if part not in ("", ".", "..")][-DEEPEST:]
        tails = ("/".join(parts[first:]) for first in range(len(parts)))
        return next((tail for tail in tails if os.path.isfile(self.root / tail)), "/".join(parts[-2:]) or path)
