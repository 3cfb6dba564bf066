"""A folder of images and index PNGs: ``masks:PATH``, the format for data of one's own.

    PATH/images/NAME.jpg          or any other image format
    PATH/labels/NAME.png          8-bit grey or palette: each pixel is the index of its class, 255 to ignore it
    PATH/classes.txt              a class name a line, in the order of the indices from 0
    PATH/classes.json             instead of classes.txt: ["road", "sky"] or
                                  {"classes": ["road", "sky"], "colors": [[128, 64, 128], [70, 130, 180]], "ignore": 0}

``ignore`` is one more value to ignore, beside 255. Where it is the index of a name in ``classes``, as for
``{"classes": ["unknown", "cell"], "ignore": 0}``, that name is no class, and the later ones move down.

A split is, in this order:

1. a list ``PATH/SPLIT.txt``: a NAME a line, with or without its ending; a path counts from its last folder ``images``;
2. sub-folders ``PATH/images/SPLIT`` and ``PATH/labels/SPLIT``;
3. where there is neither a list (train.txt, val.txt, test.txt) nor a sub-folder, the whole folder, called ``train`` or
   ``all``. It has no other split: whatever is measured on images that were trained on says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scenewise.data.base import no_split
from scenewise.data.folders import images_in, key_of, names_in, read_lines
from scenewise.data.label_maps import MAX_CLASSES, LabelMapDataSet, value_table
from scenewise.errors import DataError, suggest
from scenewise.types import IGNORE

Colors = tuple[tuple[int, int, int], ...]
LISTED = ("train", "val", "test")
WHOLE = ("train", "all")
EXPECTED = "a list {0}.txt, or folders images/{0} and labels/{0}"


class Masks(LabelMapDataSet):
    """Images and index PNGs of one's own."""

    format = "masks"

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        for folder in ("images", "labels"):
            if not (root / folder).is_dir():
                raise DataError(
                    f"{root}: no folder {folder!r}; expected images/, labels/ and classes.txt or classes.json"
                )
        self._set_classes()
        self.pairs = self._pairs()
        if not self.pairs:
            raise DataError(
                f"{root / 'images'}: no image of split {split!r}; expected files such as NAME.jpg or NAME.png"
            )

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """The lists train, val, test and the sub-folders that are there; where there is none, train and all."""
        lists = [split for split in LISTED if (root / f"{split}.txt").is_file()]
        folders = _subfolders(root / "images")
        labelled = [name for name in folders if (root / "labels" / name).is_dir()]
        found = dict.fromkeys([*lists, *sorted(labelled, key=lambda name: (_rank(name), name))])
        return tuple(found) or (() if folders else WHOLE)

    @classmethod
    def sign(cls, path: Path) -> str:
        """Folders of images and of label maps."""
        folders = [path / "labels", *(path / "labels" / name for name in _subfolders(path / "labels")[:20])]
        found = any(name.endswith(".png") for folder in folders for name in names_in(folder))
        return "images and labels/*.png" if found and (path / "images").is_dir() else ""

    def _pairs(self) -> list[tuple[str, str]]:
        listing = self.root / f"{self.split}.txt"
        if listing.is_file() and self.split != "classes":
            return self._listed(listing)
        splits = self.splits(self.root)
        if self.split not in splits:
            raise no_split(self.root, self.split, splits, EXPECTED.format(self.split))
        return self._inside(f"{self.split}/" if _subfolders(self.root / "images") else "")

    def _inside(self, folder: str) -> list[tuple[str, str]]:
        """All images in a sub-folder ("name/") or in images itself ("")."""
        images = images_in(self.root / "images" / folder)
        return [(f"images/{folder}{name}", f"labels/{folder}{key}.png") for key, name in images.items()]

    def _listed(self, listing: Path) -> list[tuple[str, str]]:
        """The images that a list names."""
        folders: dict[str, dict[str, str]] = {}
        pairs = []
        for line in read_lines(listing):
            parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".")]
            if "images" in parts[:-1]:
                parts = parts[len(parts) - parts[::-1].index("images") :]
            folder = "".join(f"{part}/" for part in parts[:-1])
            if folder not in folders:
                folders[folder] = images_in(self.root / "images" / folder)
            key = parts[-1] if parts[-1] in folders[folder] else key_of(parts[-1]) or parts[-1]
            pairs.append((f"images/{folder}{folders[folder].get(key, parts[-1])}", f"labels/{folder}{key}.png"))
        return pairs

    def _set_classes(self) -> None:
        """Fill ``classes``, ``colors`` and ``table`` from the file of classes."""
        text, described = self.root / "classes.txt", self.root / "classes.json"
        if text.is_file() and described.is_file():
            raise DataError(f"{self.root}: both classes.txt and classes.json; expected one of them")
        if described.is_file():
            names, colors, ignore = _read_json(described)
        elif text.is_file():
            names, colors, ignore = read_lines(text), None, IGNORE
        else:
            raise DataError(f"{self.root}: neither classes.txt nor classes.json; expected the names of the classes")
        _check_names(names, described if described.is_file() else text)
        kept = [value for value in range(len(names)) if value != ignore]
        if not kept:
            raise DataError(f"{described}: no class is left beside the ignored {names[0]!r}; expected at least one")
        self.classes = tuple(names[value] for value in kept)
        self.colors = None if colors is None else tuple(colors[value] for value in kept)
        self.table = value_table({ignore: IGNORE, IGNORE: IGNORE, **{value: label for label, value in enumerate(kept)}})


def _subfolders(folder: Path) -> list[str]:
    return sorted(name for name in names_in(folder) if not name.startswith(".") and (folder / name).is_dir())


def _rank(split: str) -> int:
    return LISTED.index(split) if split in LISTED else len(LISTED)


def _read_json(path: Path) -> tuple[list[str], Colors | None, int]:
    """The names, colours and ignored value in a classes.json."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict) or "classes" not in content:
        raise DataError(f'{path}: expected a list of names, or {{"classes": [...], "colors": [...], "ignore": 255}}')
    known = ("classes", "colors", "ignore")
    for key in content:
        if key not in known:
            raise DataError(f"{path}: unknown entry {key!r}{suggest(key, known)}; known: {', '.join(known)}")
    names, colors, ignore = content["classes"], content.get("colors"), content.get("ignore", IGNORE)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: classes is {names!r}; expected a list of names")
    if colors is not None:
        colors = _checked_colors(colors, len(names), path)
    if isinstance(ignore, bool) or not isinstance(ignore, int) or not 0 <= ignore <= 255:
        raise DataError(f"{path}: ignore is {ignore!r}; expected a pixel value, 0 to 255")
    return names, colors, ignore


def _checked_colors(colors: Any, count: int, path: Path) -> Colors:
    if not isinstance(colors, list) or len(colors) != count:
        found = f"has {len(colors)} entries" if isinstance(colors, list) else f"is {colors!r}"
        raise DataError(f"{path}: colors {found}; expected one for each of the {count} names in classes")
    for index, color in enumerate(colors):
        if not (isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)):
            raise DataError(f"{path}: colors[{index}] is {color!r}; expected red, green, blue, each 0 to 255")
    return tuple((red, green, blue) for red, green, blue in colors)


def _check_names(names: list[str], path: Path) -> None:
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{path}: {len(names)} classes; expected 1 to {MAX_CLASSES}")
    for index, name in enumerate(names):
        if not name.strip():
            raise DataError(f"{path}: the name of class {index} is empty")
        if name in names[:index]:
            raise DataError(f"{path}: classes {names.index(name)} and {index} are both {name!r}; expected unique names")
