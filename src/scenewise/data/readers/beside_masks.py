"""Label maps beside their images, as Roboflow writes them ("Semantic Segmentation Masks"): ``masks:PATH``, too.

    PATH/SPLIT/NAME.jpg           or any other image format
    PATH/SPLIT/NAME_mask.png      each pixel is the number of its class
    PATH/SPLIT/_classes.csv       the numbers and names: Pixel Value, Class

``PATH`` may be one such folder, too. All splits state the same classes.
"""

from __future__ import annotations

import csv
from pathlib import Path

from scenewise.data.base import SPLITS, find_split
from scenewise.data.folders import images_in
from scenewise.data.label_maps import MAX_CLASSES, LabelMapDataSet, value_table
from scenewise.data.readers.masks import check_names, subfolders
from scenewise.errors import DataError
from scenewise.files.text import read_text
from scenewise.types import IGNORE

CLASSES_FILE = "_classes.csv"
ENDING = "_mask"


class BesideMasks(LabelMapDataSet):
    """Images, and index PNGs beside them."""

    format = "masks"
    label_ending = f"{ENDING}.png"

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root = root
        folders = split_folders(root)
        self.split = find_split(root, split, tuple(folders), f"a folder {split} with {CLASSES_FILE}")
        stated = {name: read_numbers_of(folder / CLASSES_FILE) for name, folder in folders.items()}
        numbers = stated[self.split]
        for name, other in stated.items():
            if other != numbers:
                raise DataError(
                    f"{folders[name] / CLASSES_FILE}: other classes than in {folders[self.split] / CLASSES_FILE}; "
                    "expected the same ones in all splits"
                )
        self.classes = tuple(numbers.values())
        self.table = value_table({IGNORE: IGNORE, **{number: label for label, number in enumerate(numbers)}})
        folder = folders[self.split]
        start = "" if folder == root else f"{folder.name}/"
        names = images_in(folder)
        self.pairs = [
            (f"{start}{name}", f"{start}{key}{ENDING}.png") for key, name in names.items() if not key.endswith(ENDING)
        ]
        if not self.pairs:
            raise DataError(f"{folder}: no image; expected NAME.jpg and NAME{ENDING}.png")
        self.settle_meaning()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The folders with a file of classes: train, val and test first."""
        return tuple(split_folders(root))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there is a file of classes in a folder of a split."""
        return bool(split_folders(root))

    @classmethod
    def sign(cls, path: Path) -> str:
        """A file of classes beside images."""
        folder = next(iter(split_folders(path).values()), None)
        return "" if folder is None else f"{(folder / CLASSES_FILE).relative_to(path)}"


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits, by name; ``root`` itself, as ``train``, where it has a file of classes."""
    if _has_classes(root):
        return {root.name if root.name in SPLITS else "train": root}
    names = [name for name in subfolders(root) if _has_classes(root / name)]
    return {name: root / name for name in sorted(names, key=lambda name: (name not in SPLITS, _place(name), name))}


def _place(name: str) -> int:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS)


def _has_classes(folder: Path) -> bool:
    """Whether there is a file of classes that tells of pixels; Roboflow calls that of whole images the same."""
    try:
        with (folder / CLASSES_FILE).open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf").lower().startswith(b"pixel value")
    except (OSError, ValueError):
        return False


def read_numbers_of(path: Path) -> dict[int, str]:
    """The names of the classes by their number, in the order of the numbers.

    Raises:
        DataError: a row is not a number and a name, or a number or a name is there twice.
    """
    found: dict[int, str] = {}
    rows = csv.reader(read_text(path).splitlines()[1:])
    try:
        for row in rows:
            words = [word.strip() for word in row]
            if not any(words):
                continue
            number = int(words[0]) if words[0].isascii() and words[0].isdigit() and len(words[0]) < 4 else IGNORE
            if len(words) != 2 or number >= MAX_CLASSES or number in found:
                raise DataError(
                    f"{path}: line {rows.line_num + 1} is {', '.join(words)[:80]!r}; expected a pixel value, 0 to "
                    f"{MAX_CLASSES - 1}, each once, and the name of its class"
                )
            found[number] = words[1]
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num + 1}: not valid CSV ({error})") from None
    found = dict(sorted(found.items()))
    check_names(list(found.values()), path)
    return found
