"""Pascal VOC 2012, its segmentation part: ``voc:PATH``.

Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015. ``PATH`` is a year's folder
(``VOC2012``), or the ``VOCdevkit`` above it (or the folder of that) where it holds one year:

    VOC2012/JPEGImages/NAME.jpg
    VOC2012/SegmentationClass/NAME.png            palette indices: 0 background, 1 to 20, 255 void
    VOC2012/ImageSets/Segmentation/SPLIT.txt      a NAME per line, or the path of an image

The 21 classes include the background, as the challenge counts it. A split is any list of that folder whose images have
label maps, so not VOC's own ``test``.

CVAT ("Segmentation mask") and Datumaro write the same layout with classes of one's own, which ``labelmap.txt`` states
with their colours::

    # label:color_rgb:parts:actions
    background:0,0,0::
    cat:48,112,32::

The classes are those, in that order; label maps are read by these colours. Their list ``default`` is ``train``, too,
where there is no other. What pixels mean: :mod:`scenewise.data.label_colors`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from scenewise.data.base import find_split
from scenewise.data.folders import key_of, read_lines
from scenewise.data.label_colors import VOC_VOID, Color, StatedColors, voc_colors
from scenewise.data.label_maps import MAX_CLASSES, LabelMapDataSet, value_table
from scenewise.data.names import Resolver, printable
from scenewise.errors import DataError
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.types import IGNORE

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
FIRST = ("train", "val", "trainval")
LISTS = Path("ImageSets") / "Segmentation"
FLAG = re.compile(r"\s+-?[01]$")  # of a list of a single class: whether an image has it


WITHOUT = ("default",)  # the list that tools write where there are no splits


class VOC(LabelMapDataSet):
    """Pascal VOC's semantic segmentation.

    Args:
        labels: the folder of the label maps. With the augmented annotations of Hariharan et al. (SBD, ICCV 2011) as
            PNGs it is ``SegmentationClassAug``, for a list such as ``trainaug``.
    """

    format = "voc"
    classes: tuple[str, ...] = CLASSES
    colors = voc_colors(len(CLASSES))
    table = value_table({**{label: label for label in range(len(CLASSES))}, IGNORE: IGNORE})
    stated = StatedColors(
        {**{color: label for label, color in enumerate(voc_colors(len(CLASSES)))}, VOC_VOID: IGNORE},
        {**dict(enumerate(CLASSES)), IGNORE: "void"},
        "Pascal VOC",
    )

    def __init__(self, root: Path, split: str = "train", *, labels: str = "SegmentationClass") -> None:
        self.root = root
        year = year_of(root)
        own = split
        if not (year / LISTS / f"{split}.txt").is_file():
            there = self.splits(root)
            own = "default" if split == "train" and there == WITHOUT else ""
            own = own or find_split(root, split, there, f"a list {year / LISTS / split}.txt")
        self.split = own
        described = year / "labelmap.txt"
        if described.is_file():
            self._take_labelmap(described)
        listing = year / LISTS / f"{own}.txt"
        names = list_names(listing)
        folder = year.relative_to(root).as_posix().removeprefix(".")
        start = f"{folder}/" if folder else ""
        images, no_image = _places(year, "JPEGImages", names, "an image")
        keys = [
            name if index in no_image else os.path.splitext(image.removeprefix("JPEGImages/"))[0]
            for index, (name, image) in enumerate(zip(names, images, strict=True))
        ]
        maps, no_map = _places(year, labels, keys, "the label map of an image")
        if len(no_map) == len(names):
            raise DataError(
                f"{listing}: none of its {len(names)} images has a label map in {year / labels}"
                f"{' (VOC keeps those of its test images)' if split == 'test' else ''}; "
                f"splits with label maps: {', '.join(self.splits(root)) or 'none'}"
            )
        self.pairs = [(f"{start}{image}", f"{start}{label}") for image, label in zip(images, maps, strict=True)]
        self.unfound = {
            **{f"{start}{images[index]}": message for index, message in no_image.items()},
            **{
                f"{start}{maps[index]}": message.replace("of an image", f"of {year / images[index]}")
                for index, message in no_map.items()
            },
        }
        self.settle_meaning()

    def _take_labelmap(self, path: Path) -> None:
        """The classes, their colours and the label of each number, as a ``labelmap.txt`` states them."""
        entries = read_labelmap(path)
        void = [name for name, color in entries if color == VOC_VOID and name.lower() in ("ignored", "void")]
        kept = [(number, name, color) for number, (name, color) in enumerate(entries) if name not in void]
        if not kept:
            raise DataError(f"{path}: states no class beside {void[0]!r}; expected at least one")
        self.classes = tuple(name for _, name, _ in kept)
        self.colors = tuple(color for _, _, color in kept)
        labels = {number: label for label, (number, _, _) in enumerate(kept)}
        ignored = dict.fromkeys((number for number in range(len(entries)) if number not in labels), IGNORE)
        self.table = value_table({IGNORE: IGNORE, **ignored, **labels})
        named = {number: name for number, (name, _) in enumerate(entries)}
        self.stated = StatedColors({color: number for number, (_, color) in enumerate(entries)}, named, str(path))

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
        labelled = {
            folder.name: {os.path.splitext(name)[0] for _, _, names in os.walk(folder) for name in names}
            for folder in year.glob("SegmentationClass*")
        }
        lists = {path.stem: path for path in sorted((year / LISTS).glob("*.txt"))}
        names = sorted(lists, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        return tuple(name for name in names if _is_labelled(lists[name], labelled))


def _is_labelled(listing: Path, labelled: dict[str, set[str]]) -> bool:
    try:
        first = _name(list_names(listing)[0])
    except DataError:  # is found when the list is read
        return True
    return any(first in there for there in labelled.values())


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


def _places(year: Path, folder: str, names: list[str], what: str) -> tuple[list[str], dict[int, str]]:
    """Where the files are that ``names`` mean, below ``year``, and why those are not found, by position."""
    if not (year / folder).is_dir():
        raise DataError(f"{year / folder}: not found; expected the folder of {what.removeprefix('the ')}s")
    found, why = Resolver(year, folder, suffixes=IMAGE_SUFFIXES, what=what).look_up(names)
    for index in why:
        ending = ".jpg" if what == "an image" else ".png"
        found[index] = f"{folder}/{names[index] if key_of(names[index]) else names[index] + ending}"
    return found, why


def read_labelmap(path: Path) -> list[tuple[str, Color]]:
    """The labels in a ``labelmap.txt`` and their colours, in order.

    Raises:
        DataError: a line is not ``label:red,green,blue:parts:actions``; a label or a colour is there twice; or there is
            none.
    """
    found: list[tuple[str, Color]] = []
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#"):
            continue
        name, *rest = line.rsplit(":", 3) if line.count(":") >= 3 else line.split(":")
        parts = rest[0].split(",") if rest else []
        color = [int(part) for part in parts if part.strip().isascii() and part.strip().isdigit() and len(part) < 9]
        if not name.strip() or len(parts) != 3 or len(color) != 3 or max(color) > 255:
            raise DataError(
                f"{path}: line {number} is {printable(line)!r}; expected label:red,green,blue:parts:actions, each "
                "colour 0 to 255"
            )
        entry = (name.strip(), (color[0], color[1], color[2]))
        for other, known in found:
            if other == entry[0] or known == entry[1]:
                raise DataError(
                    f"{path}: line {number}: {printable(line)!r} has the name or the colour of {other!r} {known}; "
                    "expected different ones"
                )
        found.append(entry)
    if not 1 <= len(found) <= MAX_CLASSES:
        raise DataError(f"{path}: {len(found)} labels; expected 1 to {MAX_CLASSES}")
    return found


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
