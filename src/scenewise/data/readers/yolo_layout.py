"""Where the images of a YOLO data set lie, what their splits and classes are, and which text file belongs to an image.

See :mod:`scenewise.data.readers.yolo` for the layouts.
"""

from __future__ import annotations

import difflib
import os
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from scenewise.data.base import SPLITS, VALIDATION, find_split
from scenewise.data.folders import images_in, names_in, read_lines
from scenewise.data.names import Resolver
from scenewise.errors import DataError, suggest
from scenewise.files.images import IMAGE_SUFFIXES
from scenewise.files.text import read_text
from scenewise.files.yaml_file import Strict

YAML = (".yaml", ".yml")
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels")
KNOWN = ("path", "train", "val", "test", "names", "nc", "kpt_shape", "flip_idx", "kpt_names", "task")
NO_LABELS = frozenset({"classes.txt", "notes.txt", *(f"{split}.txt" for split in SPLITS)})  # texts beside images
MAX_DEPTH = 20  # of brackets in a YAML file
EXPECTED_ENTRY = "a folder of images, a text file that lists images, or several of these"


@dataclass(frozen=True)
class Images:
    """The images of a split: their files, and what is wrong with the lists that name them (file, message)."""

    files: list[Path]
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Layout:
    """What a YOLO data set is made of.

    Attributes:
        root: the data set's own folder.
        file: the YAML file, or obj.data, that describes it; None where there is none.
        content: its entries, all values as texts or lists or mappings of texts.
        splits: the places of each split's images: texts as they are stated, or folders that were found.
        same: other names of splits, such as ``valid`` where ``val`` is the same folder.
    """

    root: Path
    file: Path | None = None
    content: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, tuple[str | Path, ...]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Layout:
        """The layout of the data set at ``path``, its folder or the file that describes it.

        Raises:
            DataError: an entry of that file is not understood.
        """
        root = path.parent if os.path.isfile(path) else path
        file, content = _description(path)
        layout = cls(root, file, content)
        for split, entries in layout._stated():
            layout._add(split, entries)
        layout._add_folders()
        layout.splits = dict(sorted(layout.splits.items(), key=lambda item: (_rank(item[0]), item[0])))
        return layout

    def find_split(self, path: Path, split: str) -> str:
        """The own name of the split that ``split`` names.

        Raises:
            DataError: there is none of that name, at ``path``.
        """
        expected = f"a folder images/{split} or {split}/images"
        if self.file is not None:
            expected += f", or an entry {split} in {self.file.name}"
        return self.same.get(split) or find_split(path, split, tuple(self.splits), expected)

    def images(self, split: str) -> Images:
        """The image files of a split, each folder's sorted, those of lists in their order.

        Raises:
            DataError: an entry leads nowhere, or there is no image.
        """
        files: list[Path] = []
        problems: list[tuple[str, str]] = []
        for entry in self.splits[split]:
            place = self._place(split, entry)
            if os.path.isdir(place):
                found = list(_images_below(place))
                if not found:
                    raise DataError(f"{place}: no image is there; expected files such as NAME.jpg")
                files += found
            else:
                listed, wrong = self._listed(place)
                files += listed
                problems += wrong
        return Images(list(dict.fromkeys(files)) if len(self.splits[split]) > 1 else files, problems)

    def named(self, entry: str) -> str:
        """An entry of the describing file, for messages."""
        return f"{self.file}: {entry}"

    # ---- classes

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by number.

        Raises:
            DataError: they are not there, not unique, or not as many as stated.
        """
        place, names = self._names()
        if isinstance(names, dict):
            numbers = {str(number): number for number in range(len(names))}
            if set(names) == set(numbers):
                names = [names[number] for number in numbers]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise DataError(f"{place} is {reprlib.repr(names)}; expected a list of names, or of 0, 1, 2, ... to names")
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise DataError(f"{place}: {reprlib.repr(name)} is there more than once; expected unique names")
            seen.add(name)
        count = self.content.get("nc", "")
        if count and count != str(len(names)):
            raise DataError(f"{self.named('nc')} is {reprlib.repr(count)}; {place} has {len(names)}; expected as many")
        return tuple(names)

    def _names(self) -> tuple[str, Any]:
        """Where the names of the classes stand, and what stands there."""
        stated = self.content.get("names", "")
        if isinstance(stated, str) and stated:
            try:
                place = self._first(stated) or Resolver(self.root, ".").find(stated)
            except DataError:
                return self.named("names"), stated
            return str(place), read_lines(place)
        if stated:
            return self.named("names"), stated
        listings = _class_files(self.root)
        if not listings:
            raise DataError(
                f"{self.root}: neither data.yaml with names nor classes.txt; expected the names of the classes"
            )
        found = {listing: read_lines(listing) for listing in listings}
        first, *others = found
        for other in others:
            if found[other] != found[first]:
                raise DataError(f"{other}: other names than in {first}; expected one list of the classes")
        return str(first), found[first]

    # ---- places

    def _stated(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The splits that the describing file states."""
        for key, value in self.content.items():
            known = key in SPLITS
            if not known and (key in KNOWN or not self._is_split(key, value)):
                continue
            if value in ("", "null", "~", "Null", "NULL"):
                continue
            entries = value if isinstance(value, list) else [value]
            if not entries or not all(isinstance(entry, str) and entry for entry in entries):
                raise DataError(f"{self.named(key)} is {reprlib.repr(value)}; expected {EXPECTED_ENTRY}")
            yield key, tuple(entries)

    def _is_split(self, key: str, value: Any) -> bool:
        """Whether an entry of a name of one's own is a split.

        Raises:
            DataError: it looks like a misspelt one of those that are known.
        """
        near = difflib.get_close_matches(key.lower(), KNOWN, n=1, cutoff=0.8)
        if near and near[0] not in self.content and near[0] not in ("path", "task", "nc"):
            raise DataError(f"{self.named(key)}: unknown entry{suggest(key.lower(), KNOWN)}")
        entries = value if isinstance(value, list) else [value]
        return all(
            isinstance(entry, str)
            and entry
            and any(
                os.path.isdir(place) or (place.suffix == ".txt" and os.path.isfile(place))
                for place in self._places(entry)
            )
            for entry in entries
        ) and bool(entries)

    def _add(self, split: str, entries: tuple[str | Path, ...]) -> None:
        """Take a split, or note that it is one that is there by another name."""
        places = self._real(entries)
        for other, there in self.splits.items():
            if places is not None and self._real(there) == places:
                self.same[split] = other
                return
        twin = next((other for other in self.splits if {other, split} <= VALIDATION), None)
        if twin is not None and self.file is not None and split in self.content:
            raise DataError(f"{self.file}: both {twin} and {split}, and they differ; expected one of them")
        self.splits[split] = entries

    def _real(self, entries: Sequence[str | Path]) -> frozenset[str] | None:
        """The places of a split's images, free of links; None where an entry leads nowhere."""
        found = [self._first(entry) for entry in entries]
        return frozenset(os.path.realpath(place) for place in found if place) if all(found) else None

    def _first(self, entry: str | Path) -> Path | None:
        """The first place of an entry that is there: as it says, else without leading folders that are not here, the
        fewest possible, which are those of another machine."""
        if isinstance(entry, Path):
            return entry
        inner = _plain_parts(entry)
        own = (self.root.joinpath(*inner[dropped:]) for dropped in range(1, len(inner)))
        return next(filter(os.path.exists, chain(self._places(entry), own)), None)

    def _place(self, split: str, entry: str | Path) -> Path:
        """The folder or list that an entry of a split means.

        Raises:
            DataError: it leads nowhere, or to a picture.
        """
        place = self._first(entry)
        if place is None:
            try:
                place = Resolver(self.root, ".", what=EXPECTED_ENTRY).find(str(entry))
            except DataError as error:
                hint = near_folder(self.root.joinpath(*_plain_parts(str(entry)))) if "did you" not in str(error) else ""
                raise DataError(f"{self.named(split)} is {reprlib.repr(entry)}: {error}{hint}") from None
        if not os.path.isdir(place) and place.suffix.lower() in IMAGE_SUFFIXES:
            raise DataError(f"{self.named(split)} is {reprlib.repr(entry)}, a picture; expected {EXPECTED_ENTRY}")
        return place

    def _places(self, stated: str) -> Iterator[Path]:
        """Where a stated path may lead, in order: in the data set's own folder, where ``..`` does not leave it; then
        exactly there. Tools write ``../train/images`` as seen from their own folder."""
        base = self.content.get("path") or ""
        inner = _plain_parts(stated)
        for own in (_plain_parts(base), []):
            yield self.root.joinpath(*own, *inner)
        slashed = stated.replace("\\", "/")
        yield Path(os.path.normpath(self.root / base / slashed))
        yield Path(os.path.normpath(self.root / slashed))

    def _listed(self, listing: Path) -> tuple[list[Path], list[tuple[str, str]]]:
        """The images that a list names, and what is wrong with its lines."""
        lines = read_lines(listing)
        base = Path(os.path.normpath(self.root / (self.content.get("path") or "")))
        folders = [Path(os.path.normpath(folder)) for folder in (listing.parent, base, self.root)]
        own = [folder for folder in (folders[2], base, folders[0]) if _is_below(folders[0], folder)]
        roots = dict.fromkeys([own[0], *([base] if os.path.isdir(base) else [])])
        files: list[Path | None] = [None] * len(lines)
        errors: dict[int, DataError] = {}
        for root in roots:
            left = [index for index, file in enumerate(files) if file is None]
            if not left:
                break
            inside = [folder.relative_to(root) for folder in dict.fromkeys(folders) if _is_below(folder, root)]
            resolver = Resolver(root, *inside, suffixes=IMAGE_SUFFIXES)
            places, wrong = resolver.places([lines[index] for index in left])
            for position, (index, place) in enumerate(zip(left, places, strict=True)):
                if position in wrong:
                    errors.setdefault(index, wrong[position])
                else:
                    files[index] = root / place
        problems = [
            (str(listing), f"{reprlib.repr(lines[index])}: {errors[index]!s}")
            for index, file in enumerate(files)
            if file is None
        ]
        return [file for file in files if file is not None], problems

    def _add_folders(self) -> None:
        """Take the folders that look like splits; beside those that are stated only such as are named as one, and that
        share no image with them."""
        stated = [self._first(entry) for entries in self.splits.values() for entry in entries]
        if any(place is None or not os.path.isdir(place) for place in stated):
            return
        taken = [os.path.realpath(place) for place in stated if place is not None]
        for split, folder in _folders(self.root):
            real = os.path.realpath(folder)
            twin = {split, *(VALIDATION if split in VALIDATION else ())} & self.splits.keys()
            if taken and (split not in SPLITS or twin or any(_overlap(real, place) for place in taken)):
                if real in taken and split not in self.splits:
                    self._add(split, (folder,))
                continue
            self.splits.setdefault(split, (folder,))


# ---- files that describe a data set


def _description(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """The file that describes the data set at ``path``, and its entries."""
    if os.path.isfile(path):
        if path.suffix.lower() in YAML:
            return path, _read_yaml(path)
        if path.suffix.lower() == ".data":
            return path, _read_data(path)
        raise DataError(f"{path}: expected the folder of the data set, or its YAML file such as data.yaml, or obj.data")
    if os.path.isfile(path / "data.yaml"):
        return path / "data.yaml", _read_yaml(path / "data.yaml")
    found: dict[Path, dict[str, Any]] = {}
    broken: list[DataError] = []
    for name in sorted(names_in(path)):
        if name.lower().endswith(YAML) and not name.startswith(".") and os.path.isfile(path / name):
            try:
                content = _read_yaml(path / name)
            except DataError as error:
                broken.append(error)
                continue
            if "names" in content or {"train", "val"} & content.keys():
                found[path / name] = content
    if len(found) > 1:
        listed = ", ".join(file.name for file in found)
        raise DataError(f"{path}: {listed} may each describe the data set; expected one, or the path of the one meant")
    if found:
        return next(iter(found.items()))
    data = [path / name for name in sorted(names_in(path)) if name.lower().endswith(".data")]
    if data:
        return data[0], _read_data(data[0])
    if broken and not _class_files(path):
        raise broken[0]
    return None, {}


class _Loader(Strict, yaml.BaseLoader):
    """YAML whose plain values all are texts, so that ``no`` and ``007`` may be names."""

    depth = MAX_DEPTH


def _read_yaml(path: Path) -> dict[str, Any]:
    """The entries of a YAML file, all plain values as texts."""
    text = read_text(path)
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {reprlib.repr(content)}; expected entries such as names: [cat, dog]")
    if not isinstance(content.get("path", ""), str):
        raise DataError(f"{path}: path is {reprlib.repr(content['path'])}; expected a folder")
    return content


def _read_data(path: Path) -> dict[str, Any]:
    """The entries of Darknet's ``obj.data``: ``classes``, ``train``, ``valid``, ``names``."""
    content: dict[str, Any] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals:
            raise DataError(f"{path}: line {number}: {reprlib.repr(line)}; expected KEY = VALUE")
        if key in content:
            raise DataError(f"{path}: line {number}: {reprlib.repr(key)} is there twice")
        content[key] = value
    if "classes" in content:
        content["nc"] = content.pop("classes")
    content.pop("backup", None)
    return content


def _class_files(root: Path) -> list[Path]:
    """The files with names of classes: that in the data set's folder, else those in sub-folders."""
    folders = [root]
    for _ in range(3):
        found = [folder / name for folder in folders for name in CLASS_FILES if os.path.isfile(folder / name)]
        if found:
            return found
        folders = [Path(entry) for folder in folders for entry in _inner(folder)]
    return []


# ---- folders


def _folders(root: Path) -> Iterator[tuple[str, Path]]:
    """The folders of images that look like splits, with their names."""
    images = _child(root, "images")
    inner = _inner(images) if images else []
    count = 0
    for folder in inner:
        yield folder.name, folder
        count += 1
    for folder in _inner(root):
        own = _child(folder, "images")
        if os.path.isfile(folder / "data.yaml"):  # a data set of its own
            continue
        if own is not None:
            yield folder.name, own
        elif folder.name in SPLITS and _has_images(folder):
            yield folder.name, folder
        else:
            continue
        count += 1
    if not count and images is not None:
        yield "train", images
    elif not count and _has_images(root):
        yield "train", root


def _inner(folder: Path) -> list[Path]:
    """The folders in ``folder``, sorted."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names]


def _child(folder: Path, name: str) -> Path | None:
    """The folder ``name`` in ``folder``, in upper or lower case."""
    if os.path.isdir(folder / name):
        return folder / name
    return next((inner for inner in _inner(folder) if inner.name.lower() == name), None)


def _has_images(folder: Path) -> bool:
    return any(
        os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names_in(folder) if not name.startswith(".")
    )


def _images_below(folder: Path) -> Iterator[Path]:
    """The images in ``folder`` and its sub-folders, sorted; those of a folder ``labels`` are none."""
    for inner, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if name.lower() != "labels" and not name.startswith((".", "__")))
        for name in images_in(Path(inner)).values():
            yield Path(inner) / name


def _plain_parts(stated: str) -> list[str]:
    """The parts of a path that do not leave the data set: without ``.``, leading ``..``, drive and root."""
    parts: list[str] = []
    for part in stated.replace("\\", "/").split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", "..") and not (len(part) == 2 and part[1] == ":"):
            parts.append(part)
    return parts


def _is_below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _overlap(a: str, b: str) -> bool:
    return _is_below(Path(a), Path(b)) or _is_below(Path(b), Path(a))


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


# ---- the text files of images


class Labels:
    """Finds the text file of an image.

    The last folder ``images`` of an image's path becomes ``labels``; where there is no such folder of text files, the
    file is beside the image. The case of the ending and the Unicode form of accented letters may differ.

    Attributes:
        folders: the folder of labels of each folder of images; None where there is none.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[Path, dict[str, str]] = {}
        self.folders: dict[Path, Path | None] = {}

    def of(self, image: Path) -> Path | None:
        """The text file of ``image``; None where there is none, for an image without objects."""
        images = image.parent
        if images not in self.folders:
            self.folders[images] = self._folder(images)
        folder = self.folders[images]
        if folder is None:
            return None
        stem = os.path.splitext(image.name)[0]
        texts = self._texts(folder)
        name = texts.get(stem) or texts.get(_key(stem))
        return None if name is None else folder / name

    def _folder(self, images: Path) -> Path | None:
        swapped = expected_labels(images, self._root)
        if swapped != images and os.path.isdir(swapped) and self._texts(swapped):
            return swapped
        keys = {_key(os.path.splitext(name)[0]) for name in names_in(images) if not name.lower().endswith(".txt")}
        if keys & self._texts(images).keys():
            return images
        return swapped if swapped != images and os.path.isdir(swapped) else None

    def _texts(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            names = sorted(name for name in names_in(folder) if name.lower().endswith(".txt"))
            self._names[folder] = {_key(name[:-4]): name for name in names} | {name[:-4]: name for name in names}
        return self._names[folder]


def expected_labels(images: Path, root: Path) -> Path:
    """The folder of labels that belongs to a folder of images: the last ``images`` in its path becomes ``labels``, in
    the data set's own folder if it is there; ``images`` itself where its path has none."""
    parts = list(images.parts)
    first = len(root.parts) if _is_below(images, root) else 0
    places = [place for place in range(first, len(parts)) if parts[place].lower() == "images"]
    if not places:
        return images
    last = places[-1]
    above = Path(*parts[:last])
    labels = _child(above, "labels") or above / "labels"
    return labels.joinpath(*parts[last + 1 :])


def near_folder(missing: Path, of_labels: bool = False) -> str:
    """The folder that may be meant where ``missing`` is not there: a clause for messages, empty where none is."""
    while not os.path.isdir(missing.parent) and missing.parent != missing:
        missing = missing.parent
    there = [folder for folder in _inner(missing.parent) if not of_labels or folder.name.lower() != "images"]
    near = difflib.get_close_matches(missing.name[:255], [folder.name for folder in there], n=1, cutoff=0.6)
    found = [missing.parent / name for name in near]
    found = found or [folder for folder in there if of_labels and _has_texts(folder)]
    return f"; did you mean {found[0]}?" if found else ""


def _has_texts(folder: Path) -> bool:
    return any(name.endswith(".txt") for inner in (folder, *_inner(folder)[:20]) for name in names_in(inner))


def without_image(images: Path, labels: Path) -> Iterable[str]:
    """The names of the text files in ``labels`` that have no image in ``images``."""
    known = {_key(os.path.splitext(name)[0]) for name in names_in(images) if not name.lower().endswith(".txt")}
    for name in sorted(names_in(labels)):
        is_label = name.lower().endswith(".txt") and name not in NO_LABELS and not name.startswith((".", "README"))
        if is_label and _key(name[:-4]) not in known:
            yield name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


# ---- recognition


def sign(path: Path) -> str:
    """What marks ``path`` as a YOLO data set; empty where nothing does."""
    try:
        file, content = _description(path)
    except DataError:
        return "data.yaml" if os.path.isfile(path / "data.yaml") else ""
    if file is not None and file.suffix == ".data":
        return f"{file.name}" if {"train", "names"} & content.keys() else ""
    if file is not None and "names" in content and {"nc", "path", "kpt_shape", *SPLITS} & content.keys():
        return f"{file.name} with names of classes"
    if not os.path.isdir(path):
        return ""
    labels = Labels(path)
    for _, folder in _folders(path):
        for images in (folder, *_inner(folder)[:3]):
            image = next((name for name in sorted(names_in(images)) if _is_image(name)), None)
            texts = labels.of(images / image) if image else None
            where = labels.folders.get(images)
            if texts is None and where is not None and where != images:
                texts = next(
                    (where / n for n in sorted(names_in(where)) if n.endswith(".txt") and n not in NO_LABELS), None
                )
            if texts is not None and _is_label(texts):
                return f"{texts.parent.relative_to(path).as_posix()}/{texts.name}".removeprefix("./")
    return ""


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _is_label(path: Path) -> bool:
    """Whether a text file holds lines of a class and numbers, or nothing."""
    try:
        words = next((line.split() for line in read_text(path).splitlines() if line.strip()), ["0"] * 5)
        return len(words) >= 5 and all(float(word) is not None for word in words)
    except (DataError, ValueError):
        return False
