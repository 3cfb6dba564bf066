"""Cityscapes: ``cityscapes:PATH``.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016, https://arxiv.org/abs/1604.01685.
``PATH`` holds

    leftImg8bit/SPLIT/CITY/CITY_000000_000019_leftImg8bit.png
    gtFine/SPLIT/CITY/CITY_000000_000019_gtFine_labelIds.png

with the splits train, val and test (all pixels of test are void). Of the 34 ids in the files, 19 are the classes of the
benchmark; the others, and the licence plate's -1 (255 in a file), are ignored. ``class_ids`` are the ids to write where
the benchmark's own scripts read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scenewise.data.base import no_split
from scenewise.data.folders import images_in
from scenewise.data.label_maps import LabelMapDataSet, value_table
from scenewise.errors import DataError
from scenewise.types import IGNORE

CLASSES: tuple[tuple[int, str, tuple[int, int, int]], ...] = (  # id in the files, name, colour; in train-id order
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LAST_ID = 33
IMAGES = "leftImg8bit"
SPLITS = ("train", "val", "test", "train_extra")


class Cityscapes(LabelMapDataSet):
    """Cityscapes' 19 classes.

    Args:
        labels: ``gtFine``, or ``gtCoarse`` for the coarse polygons of train, val and train_extra.
    """

    format = "cityscapes"
    image_ending = "_leftImg8bit.png"
    benchmarks = ("categories",)
    classes = tuple(name for _, name, _ in CLASSES)
    colors = tuple(color for _, _, color in CLASSES)
    table = value_table(
        {
            **dict.fromkeys((*range(LAST_ID + 1), IGNORE), IGNORE),
            **{value: label for label, (value, _, _) in enumerate(CLASSES)},
        }
    )

    def __init__(self, root: Path, split: str = "train", *, labels: Literal["gtFine", "gtCoarse"] = "gtFine") -> None:
        self.root, self.split = root, split
        self.label_ending = f"_{labels}_labelIds.png"
        folder = root / IMAGES / split
        if not folder.is_dir() or not (root / labels / split).is_dir():
            raise no_split(root, split, self.splits(root), f"folders {IMAGES}/{split} and {labels}/{split}")
        self.pairs = [
            (f"{IMAGES}/{split}/{city}/{name}", f"{labels}/{split}/{city}/{key}{self.label_ending}")
            for city in sorted(path.name for path in folder.iterdir() if path.is_dir())
            for key, name in images_in(folder / city, self.image_ending).items()
        ]
        if not self.pairs:
            raise DataError(f"{folder}: no image; expected CITY/CITY_000000_000019{self.image_ending}")

    @classmethod
    def sign(cls, path: Path) -> str:
        """The folders of images and label maps."""
        return f"{IMAGES} and gtFine or gtCoarse" if cls.splits(path) else ""

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those with a folder of images and one of fine or coarse label maps."""
        return tuple(
            split
            for split in SPLITS
            if (root / IMAGES / split).is_dir() and any((root / gt / split).is_dir() for gt in ("gtFine", "gtCoarse"))
        )
