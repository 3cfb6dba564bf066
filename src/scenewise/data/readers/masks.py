"""A folder of images and label maps: ``masks:PATH``, the format for data of one's own.

    PATH/images/NAME.jpg          or any other image format
    PATH/labels/NAME.png          8-bit grey or palette: each pixel is the index of its class, 255 to ignore it; or RGB,
                                  each pixel in its class's colour, where classes.json states the colours
    PATH/classes.txt              a class name a line, in the order of the indices from 0
    PATH/classes.json             instead of classes.txt: ["road", "sky"] or
                                  {"classes": ["road", "sky"], "colors": [[128, 64, 128], [70, 130, 180]], "ignore": 0}

``ignore`` is one more value to ignore, beside 255. Where it is the index of a name in ``classes``, as for
``{"classes": ["unknown", "cell"], "ignore": 0}``, that name is no class, and the later ones move down.

Where ``labels`` has a folder of masks for each class instead, :mod:`scenewise.data.readers.class_masks` reads it.

A label map is a PNG, TIFF, BMP or another file without losses. Its name may have one more part than its image's, at the
beginning or the end, such as ``NAME_mask.png``: the same in all of them.

A split is, in this order:

1. a list ``PATH/SPLIT.txt``: a NAME a line, with or without its ending and folders;
2. sub-folders ``PATH/images/SPLIT`` and ``PATH/labels/SPLIT``;
3. where there is neither a list (train.txt, val.txt, test.txt) nor a sub-folder, the whole folder, called ``train`` or
   ``all``. It has no other split: whatever is measured on images that were trained on says nothing.

``val``, ``valid`` and ``validation`` name one split. What pixels mean: :mod:`scenewise.data.label_colors`.
"""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from scenewise.data.base import SPLITS, find_split
from scenewise.data.folders import images_in, key_of, names_in, read_lines
from scenewise.data.label_colors import Color, StatedColors
from scenewise.data.label_maps import MAX_CLASSES, LabelMapDataSet, value_table
from scenewise.data.names import Resolver, printable
from scenewise.errors import DataError, suggest
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.files.json_file import read_json
from scenewise.types import IGNORE

Colors = tuple[Color, ...]
WHOLE = ("train", "all")
EXPECTED = "a list {0}.txt, or folders images/{0} and labels/{0}"
LOSSY = frozenset({".jfif", ".jpe", ".jpeg", ".jpg"})  # a label map of that kind is refused when it is read
TRIED = 20  # images of which the name's additional part is told


class Masks(LabelMapDataSet):
    """Images and label maps of one's own."""

    format = "masks"
    affix: tuple[str, str] = ("", "")  # what the names of label maps have before and after their image's

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        check_folders(root)
        self.classes, self.colors, values, self.stated = read_classes(root)
        self.table = value_table(values)
        self._find_pairs()
        if not self.pairs:
            raise DataError(
                f"{root / 'images'}: no image of split {split!r}; expected files such as NAME.jpg or NAME.png"
            )
        self.settle_meaning()

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The lists train, val, test and the sub-folders that are there; where there is none, train and all."""
        lists = [split for split in SPLITS if (root / f"{split}.txt").is_file()]
        folders = subfolders(root / "images")
        labelled = [name for name in folders if (root / "labels" / name).is_dir()]
        found = dict.fromkeys([*lists, *sorted(labelled, key=lambda name: (_rank(name), name))])
        return tuple(found) or (() if folders else WHOLE)

    @classmethod
    def sign(cls, path: Path) -> str:
        """Folders of images and of label maps."""
        folders = [path / "labels", *(path / "labels" / name for name in subfolders(path / "labels")[:20])]
        ending = next((e for folder in folders for name in names_in(folder) if (e := _lossless(name))), "")
        return f"images and labels/*{ending}" if ending and (path / "images").is_dir() else ""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the label maps hold all classes; see :mod:`scenewise.data.readers.class_masks` for others."""
        return (root / "images").is_dir() and not class_folders(root)

    def label_key(self, name: str) -> str | None:
        """The name, without its ending, of the image that a label map belongs to; None of another kind of file."""
        key = key_of(name) if _lossless(name) else None
        before, after = self.affix
        if key is None or not key.startswith(before) or not key.endswith(after):
            return None
        return key[len(before) : len(key) - len(after)]

    def _find_pairs(self) -> None:
        """Fill ``pairs``, ``affix`` and ``unfound``."""
        images, self.unfound = find_images(self.root, self.split, self.splits(self.root))
        below: dict[str, list[str]] = {}  # folder below images -> the keys of its images
        keys = []
        for place in images:
            folder, name = os.path.split(place.removeprefix("images/"))
            keys.append((folder, key_of(name) or name))
            below.setdefault(folder, []).append(keys[-1][1])
        files = {folder: label_files(self.root / "labels" / folder) for folder in below}
        self.affix = _affix(below, files, self.root / "labels")
        before, after = self.affix
        resolver = Resolver(self.root, "labels", suffixes=IMAGE_SUFFIXES, what="a label map")
        self.pairs = []
        for image, (folder, key) in zip(images, keys, strict=True):
            wanted = f"{before}{key}{after}"
            there = files[folder].get(wanted)
            start = f"{folder}/" if folder else ""
            label = f"labels/{start}{there or f'{wanted}.png'}"
            if there is None and image not in self.unfound:
                found, why = resolver.look_up([f"{start}{wanted}"])
                label = label if why else found[0]
            self.pairs.append((image, label))


def check_folders(root: Path) -> None:
    """Raise a :class:`DataError` where the folders of images and labels are not there."""
    for folder in ("images", "labels"):
        if not (root / folder).is_dir():
            raise DataError(f"{root}: no folder {folder!r}; expected images/, labels/ and classes.txt or classes.json")


def find_images(root: Path, split: str, splits: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The images of a split as places below ``root``, and why those are not there that a list names in vain.

    Raises:
        DataError: there is no such split.
    """
    listing = root / f"{split}.txt"
    if split == "classes" or not listing.is_file():
        split = find_split(root, split, splits, EXPECTED.format(split))
        listing = root / f"{split}.txt"
    if split != "classes" and listing.is_file():
        names = read_lines(listing)
        found, why = Resolver(root, "images", suffixes=IMAGE_SUFFIXES, what="an image").look_up(names)
        places = [f"images/{name}" if index in why else name for index, name in enumerate(found)]
        return places, {places[index]: message for index, message in why.items()}
    folder = f"{split}/" if subfolders(root / "images") else ""
    return [f"images/{folder}{name}" for name in images_in(root / "images" / folder).values()], {}


def class_folders(root: Path) -> dict[str, list[str]]:
    """For each folder of images below ``images``, itself included as "", the folders of masks of a class each; nothing
    where ``labels`` has label maps of all classes."""
    found: dict[str, list[str]] = {}
    splits = [name for name in subfolders(root / "images") if (root / "labels" / name).is_dir()]
    for split in splits or [""]:
        folder = root / "labels" / split
        inner = subfolders(folder)
        if not inner or label_files(folder) or not any(label_files(folder / name) for name in inner):
            return {}
        found[split] = inner
    return found


def label_files(folder: Path) -> dict[str, str]:
    """The label maps in ``folder``, by name without ending: those without losses, where there are several.

    Raises:
        DataError: two without losses differ only in their ending.
    """
    found: dict[str, str] = {}
    for name in sorted(names_in(folder), key=lambda name: (not _lossless(name), name)):
        key = None if name.startswith(".") else key_of(name)
        if key is None:
            continue
        if key in found and _lossless(name):
            raise DataError(f"{folder / name}: {found[key]} has the same name but for the suffix; expected one of them")
        found.setdefault(key, name)
    return found


def _affix(
    below: Mapping[str, Collection[str]], files: Mapping[str, Mapping[str, str]], labels: Path
) -> tuple[str, str]:
    """What all label maps' names have more than their images', before and after it; nothing where any has the same
    name.

    Raises:
        DataError: several would do.
    """
    if any(key in files[folder] for folder, keys in below.items() for key in keys):
        return "", ""
    counts: Counter[tuple[str, str]] = Counter()
    tried = [(folder, key) for folder, keys in below.items() for key in keys][:TRIED]
    for folder, key in tried:
        for label in files[folder]:
            if label.startswith(key) and _parted(key[-1:], label[len(key) :][:1]):
                counts["", label[len(key) :]] += 1
            elif label.endswith(key) and _parted(label[: -len(key)][-1:], key[:1]):
                counts[label[: -len(key)], ""] += 1
    ranked = counts.most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        example = [f"{before}{tried[0][1]}{after}" for (before, after), _ in ranked]
        raise DataError(
            f"{labels}: names of label maps have more than their images' in two ways, such as {' and '.join(example)}; "
            "expected one"
        )
    return ranked[0][0] if ranked else ("", "")


def _parted(left: str, right: str) -> bool:
    """Whether a name may be parted between these two letters: image 1 is not the one of label map 12."""
    return not ((left.isdigit() and right.isdigit()) or (left.isalpha() and right.isalpha()))


def _lossless(name: str) -> str:
    """The ending of ``name``, where it is that of an image without losses; else empty."""
    ending = os.path.splitext(name)[1]
    return ending if ending.lower() in IMAGE_SUFFIXES - LOSSY else ""


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in ``folder`` that are not hidden, sorted."""
    return sorted(name for name in names_in(folder) if not name.startswith(".") and (folder / name).is_dir())


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def read_classes(root: Path) -> tuple[tuple[str, ...], Colors | None, dict[int, int], StatedColors | None]:
    """The classes and their colours, the label of each value in label maps, and the colours of the values, where the
    file of classes states some.

    Raises:
        DataError: there is no such file, or it does not fit.
    """
    text, described = root / "classes.txt", root / "classes.json"
    if text.is_file() and described.is_file():
        raise DataError(f"{root}: both classes.txt and classes.json; expected one of them")
    if described.is_file():
        names, colors, ignore = _read_json(described)
    elif text.is_file():
        names, colors, ignore = read_lines(text), None, IGNORE
    else:
        raise DataError(f"{root}: neither classes.txt nor classes.json; expected the names of the classes")
    check_names(names, described if described.is_file() else text)
    kept = [value for value in range(len(names)) if value != ignore]
    if not kept:
        raise DataError(f"{described}: no class is left beside the ignored {names[0]!r}; expected at least one")
    values = {ignore: IGNORE, IGNORE: IGNORE, **{value: label for label, value in enumerate(kept)}}
    stated = None
    if colors is not None:
        named = dict(enumerate(names))
        stated = StatedColors({color: value for value, color in enumerate(colors)}, named, str(described))
    classes = tuple(names[value] for value in kept)
    return classes, None if colors is None else tuple(colors[value] for value in kept), values, stated


def _read_json(path: Path) -> tuple[list[str], Colors | None, int]:
    """The names, colours and ignored value in a classes.json."""
    content: Any = read_json(path)
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict) or "classes" not in content:
        raise DataError(f'{path}: expected a list of names, or {{"classes": [...], "colors": [...], "ignore": 255}}')
    known = ("classes", "colors", "ignore")
    for key in content:
        if key not in known:
            raise DataError(f"{path}: unknown entry {printable(key)!r}{suggest(key, known)}; known: {', '.join(known)}")
    names, colors, ignore = content["classes"], content.get("colors"), content.get("ignore", IGNORE)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: classes is {reprlib.repr(names)}; expected a list of names")
    if colors is not None:
        colors = _checked_colors(colors, len(names), path)
    if isinstance(ignore, bool) or not isinstance(ignore, int) or not 0 <= ignore <= 255:
        raise DataError(f"{path}: ignore is {reprlib.repr(ignore)}; expected a pixel value, 0 to 255")
    return names, colors, ignore


def _checked_colors(colors: Any, count: int, path: Path) -> Colors:
    if not isinstance(colors, list) or len(colors) != count:
        found = f"has {len(colors)} entries" if isinstance(colors, list) else f"is {reprlib.repr(colors)}"
        raise DataError(f"{path}: colors {found}; expected one for each of the {count} names in classes")
    for index, color in enumerate(colors):
        if not (isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)):
            raise DataError(
                f"{path}: colors[{index}] is {reprlib.repr(color)}; expected red, green, blue, each 0 to 255"
            )
    checked = tuple((red, green, blue) for red, green, blue in colors)
    for index, color in enumerate(checked):
        if color in checked[:index]:
            raise DataError(
                f"{path}: colors[{checked.index(color)}] and colors[{index}] are both {list(color)}; expected "
                "different ones, by which label maps can be read"
            )
    return checked


def check_names(names: list[str], path: Path) -> None:
    """Raise a :class:`DataError` where ``names``, those of the file ``path``, are no names of classes."""
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{path}: {len(names)} classes; expected 1 to {MAX_CLASSES}")
    for index, name in enumerate(names):
        if not name.strip():
            raise DataError(f"{path}: the name of class {index} is empty")
        if name in names[:index]:
            raise DataError(
                f"{path}: classes {names.index(name)} and {index} are both {printable(name)!r}; expected unique names"
            )
