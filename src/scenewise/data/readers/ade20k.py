"""ADE20K's scene parsing benchmark, SceneParse150: ``ade20k:PATH``.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017. ``PATH`` is ``ADEChallengeData2016`` or the folder above:

    images/training/ADE_train_00000001.jpg        annotations/training/ADE_train_00000001.png
    images/validation/ADE_val_00000001.jpg        annotations/validation/ADE_val_00000001.png
    objectInfo150.txt

In the PNGs 0 is "other" and 1 to 150 are the classes; here 0 is ignored and the labels are 0 to 149. The splits are
called train and val; the labels of test were never published. Names come from ``objectInfo150.txt``, the first word of
each list of synonyms; where that file is absent, they are the same names as built in. The colours are VOC's map.
"""

from __future__ import annotations

import reprlib
from pathlib import Path

from scenewise.data.base import no_split
from scenewise.data.folders import images_in, read_lines
from scenewise.data.label_colors import voc_colors
from scenewise.data.label_maps import LabelMapDataSet, value_table
from scenewise.data.names import printable
from scenewise.errors import DataError
from scenewise.types import IGNORE

NUM_CLASSES = 150
FOLDERS = {"train": "training", "val": "validation"}
CLASSES = tuple(
    """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck,
tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade
name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic
light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
""".replace("\n", " ")
    .strip()
    .split(", ")
)


class ADE20K(LabelMapDataSet):
    """SceneParse150."""

    format = "ade20k"
    benchmarks = ("ade20k",)
    colors = voc_colors(NUM_CLASSES + 1)[1:]
    table = value_table({0: IGNORE, **{value: value - 1 for value in range(1, NUM_CLASSES + 1)}})

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        base = base_of(root)
        if split not in self.splits(root):
            folders = (
                f"folders images/{FOLDERS.get(split, 'training')} and annotations/{FOLDERS.get(split, 'training')}"
            )
            raise no_split(root, split, self.splits(root), folders)
        information = base / "objectInfo150.txt"
        self.classes = read_names(information) if information.is_file() else CLASSES
        folder, below = FOLDERS[split], base.relative_to(root)
        self.pairs = [
            (
                (below / "images" / folder / name).as_posix(),
                (below / "annotations" / folder / f"{key}.png").as_posix(),
            )
            for key, name in images_in(base / "images" / folder).items()
        ]
        if not self.pairs:
            raise DataError(f"{base / 'images' / folder}: no image; expected ADE_{split}_00000001.jpg and so on")

    @classmethod
    def sign(cls, path: Path) -> str:
        """The folders of images and label maps of a split."""
        try:
            found = cls.splits(path)
        except DataError:
            return ""
        return f"images/{FOLDERS[found[0]]} and annotations/{FOLDERS[found[0]]}" if found else ""

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """Those of train and val whose folders are there."""
        base = base_of(root)
        return tuple(
            split
            for split, folder in FOLDERS.items()
            if (base / "images" / folder).is_dir() and (base / "annotations" / folder).is_dir()
        )


def base_of(root: Path) -> Path:
    """The folder with ``images`` and ``annotations``, which ``root`` is or holds."""
    for base in (root, root / "ADEChallengeData2016"):
        if (base / "images").is_dir() and (base / "annotations").is_dir():
            return base
    raise DataError(f"{root}: no folders images/ and annotations/; expected the layout of ADEChallengeData2016")


def read_names(path: Path) -> tuple[str, ...]:
    """The class names in an ``objectInfo150.txt``: the first of each row's synonyms, or all where two rows share it.

    Raises:
        DataError: it has no columns Idx and Name, or its rows are not 1 to 150 in order.
    """
    header, *rows = [[cell.strip() for cell in line.split("\t")] for line in read_lines(path)]
    if "Idx" not in header or "Name" not in header:
        raise DataError(
            f"{path}: columns {printable(', '.join(header))}; expected a tab-separated table with Idx and Name"
        )
    index, name = header.index("Idx"), header.index("Name")
    for number, row in enumerate(rows, 1):
        if len(row) <= max(index, name) or row[index] != str(number) or not row[name]:
            raise DataError(f"{path}: row {number} is {reprlib.repr(row)}; expected Idx {number} and a name")
    if len(rows) != NUM_CLASSES:
        raise DataError(f"{path}: {len(rows)} rows; expected the {NUM_CLASSES} classes")
    first = [row[name].split(",")[0].split(";")[0].strip() for row in rows]
    return tuple(short if first.count(short) == 1 else row[name] for short, row in zip(first, rows, strict=True))
