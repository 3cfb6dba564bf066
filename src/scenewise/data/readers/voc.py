"""Pascal VOC 2012, its segmentation part: ``voc:PATH``.

Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015. ``PATH`` is a year's folder
(``VOC2012``), or the ``VOCdevkit`` above it (or the folder of that) where it holds one year:

    VOC2012/JPEGImages/NAME.jpg
    VOC2012/SegmentationClass/NAME.png            palette indices: 0 background, 1 to 20, 255 void
    VOC2012/ImageSets/Segmentation/SPLIT.txt      a NAME per line, or the path of an image

The 21 classes include the background, as the challenge counts it. A split is any list of that folder whose images have
label maps, so not VOC's own ``test``.
"""

from __future__ import annotations

import re
from pathlib import Path

from scenewise.data.base import no_split
from scenewise.data.folders import images_in, key_of, names_in, read_lines
from scenewise.data.label_maps import LabelMapDataSet, value_table
from scenewise.errors import DataError
from scenewise.types import IGNORE

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
FIRST = ("train", "val", "trainval")
LISTS = Path("ImageSets") / "Segmentation"
FLAG = re.compile(r"\s+-?[01]$")  # of a list of a single class: whether an image has it


def color_map(count: int) -> tuple[tuple[int, int, int], ...]:
    """VOC's colours for labels 0 to ``count`` - 1, at most 256; all differ.

    Bits 0, 3, 6 of the label become the highest bits of red, bits 1, 4, 7 those of green, bits 2, 5 those of blue, from
    the highest down. Source: the VOC devkit's ``VOClabelcolormap``.
    """

    def channel(label: int, first: int) -> int:
        return sum(((label >> (3 * place + first)) & 1) << (7 - place) for place in range(3))

    return tuple((channel(label, 0), channel(label, 1), channel(label, 2)) for label in range(count))


class VOC(LabelMapDataSet):
    """Pascal VOC's semantic segmentation.

    Args:
        labels: the folder of the label maps. With the augmented annotations of Hariharan et al. (SBD, ICCV 2011) as
            PNGs it is ``SegmentationClassAug``, for a list such as ``trainaug``.
    """

    format = "voc"
    classes = CLASSES
    colors = color_map(len(CLASSES))
    table = value_table({**{label: label for label in range(len(CLASSES))}, IGNORE: IGNORE})

    def __init__(self, root: Path, split: str = "train", *, labels: str = "SegmentationClass") -> None:
        self.root, self.split = root, split
        year = year_of(root)
        folder = year.relative_to(root)
        listing = year / LISTS / f"{split}.txt"
        if not listing.is_file():
            raise no_split(root, split, self.splits(root), f"a list {listing}")
        names = [_name(line) for line in list_names(listing)]
        labelled = images_in(year / labels, self.label_ending)
        if not any(name in labelled for name in names):
            raise DataError(
                f"{listing}: none of its {len(names)} images has a label map in {year / labels}"
                f"{' (VOC keeps those of its test images)' if split == 'test' else ''}; "
                f"splits with label maps: {', '.join(self.splits(root)) or 'none'}"
            )
        images = images_in(year / "JPEGImages")
        self.pairs = [
            (
                (folder / "JPEGImages" / images.get(name, f"{name}.jpg")).as_posix(),
                (folder / labels / f"{name}.png").as_posix(),
            )
            for name in names
        ]

    @classmethod
    def sign(cls, path: Path) -> str:
        """Lists of images with label maps."""
        return str(LISTS) if cls.recognises(path) else ""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there are lists of images with label maps."""
        try:
            return (year_of(root) / LISTS).is_dir()
        except DataError:
            return False

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The lists whose first image has a label map, and empty ones: train, val and trainval first, then others."""
        year = year_of(root)
        labelled = {folder.name: names_in(folder) for folder in year.glob("SegmentationClass*")}
        lists = {path.stem: path for path in sorted((year / LISTS).glob("*.txt"))}
        names = sorted(lists, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        return tuple(name for name in names if _is_labelled(lists[name], labelled))


def _is_labelled(listing: Path, labelled: dict[str, set[str]]) -> bool:
    try:
        first = _name(list_names(listing)[0])
    except DataError:  # is found when the list is read
        return True
    return any(f"{first}.png" in there for there in labelled.values())


def list_names(listing: Path) -> list[str]:
    """The images that a list names, one per line, in quotes where a tool put them there; in a list of a single class
    without the number after the name.

    Raises:
        DataError: as for :func:`~scenewise.data.base.read_lines`.
    """
    return [FLAG.sub("", line).strip("\"'") for line in read_lines(listing)]


def _name(line: str) -> str:
    """The name that an entry of a list, which may be a path, has in the folders of the year."""
    name = line.replace("\\", "/").rpartition("/")[2]
    return key_of(name) or name


def year_of(root: Path) -> Path:
    """The year's folder (``VOC2012``), which ``root`` is or holds.

    Raises:
        DataError: there is none, or more than one.
    """
    if (root / "JPEGImages").is_dir():
        return root
    years = sorted(path for base in (root, root / "VOCdevkit") for path in base.glob("VOC*") if path.is_dir())
    years = [year for year in years if (year / "JPEGImages").is_dir()]
    if not years:
        raise DataError(f"{root}: no folder JPEGImages, and no VOC2012/JPEGImages; expected Pascal VOC's layout")
    if len(years) > 1:
        raise DataError(f"{root}: holds {', '.join(y.name for y in years)}; expected the path of one of them")
    return years[0]
