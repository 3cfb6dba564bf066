"""Where images and XML files of boxes lie, and what their splits are: Pascal VOC's own layout and those of tools.

See :mod:`scenewise.data.readers.voc_boxes` for the layouts.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path

from scenewise.data.base import SPLITS, find_split
from scenewise.data.folders import key_of, names_in
from scenewise.data.names import Resolver
from scenewise.data.readers.voc import FIRST, list_names, year_of
from scenewise.errors import DataError
from scenewise.files.images import IMAGE_SUFFIXES

LISTS = Path("ImageSets") / "Main"
FOLDERS = (("JPEGImages", "Annotations"), ("images", "annotations"), ("images", "labels"), ("images", "xmls"))
PROBED = 20  # images of a list of which one must have an annotation, for the list to be a split


@dataclass(frozen=True)
class Place:
    """The images of a split: a list of names, or all XML files of a folder; and where both kinds of files lie."""

    images: Path
    annotations: Path
    listing: Path | None = None


@dataclass
class Layout:
    """The splits of a data set in ``root``, the data set's own folder."""

    root: Path
    places: dict[str, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Layout:
        """The layout of the data set in ``path``.

        Raises:
            DataError: no XML files of boxes are there, in any layout that is known.
        """
        try:
            root = year_of(path)
        except DataError:
            places = _without_lists(path)
            if not places:
                raise DataError(
                    f"{path}: no XML files beside images, and no folders such as JPEGImages and Annotations; expected "
                    "Pascal VOC's layout, or NAME.xml beside each NAME.jpg"
                ) from None
            return cls(path, places)
        lists = {file.stem: file for file in sorted((root / LISTS).glob("*.txt"))}
        if not lists:
            return cls(root, _without_lists(root))
        places = {name: Place(root / "JPEGImages", root / "Annotations", file) for name, file in lists.items()}
        return cls(root, places)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits with annotations, without the lists of single classes: train, val and trainval first."""
        whole = {name for name in self.places if not _of_a_class(name, self.places)}
        found = [name for name in whole if self._is_annotated(self.places[name])]
        return tuple(sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)))

    def find(self, path: Path, split: str) -> str:
        """The own name of the split that ``split`` names. Raises a DataError where there is none."""
        if split in self.places:
            return split
        lists = not self.places or any(place.listing for place in self.places.values())
        expected = f"a list {self.root / LISTS / split}.txt" if lists else f"a folder {split} of images and XML files"
        return find_split(path, split, self.splits, expected)

    def _is_annotated(self, place: Place) -> bool:
        if place.listing is None:
            return True
        annotated: dict[Path, set[str]] = {}
        for name in list_names(place.listing)[:PROBED]:
            parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or [name]
            file = f"{key_of(parts[-1]) or parts[-1]}.xml".lower()
            for inner in {"", "/".join(parts[:-1]), "/".join(parts[1:-1])}:
                folder = place.annotations / inner
                if folder not in annotated:
                    annotated[folder] = {name.lower() for name in names_in(folder)}
                if file in annotated[folder]:
                    return True
        return False

    def files(self, place: Place) -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
        """The image and XML file of each record of a split, in order, and what is wrong (file, message)."""
        return self._listed(place, place.listing) if place.listing else self._beside(place)

    def _listed(self, place: Place, listing: Path) -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
        names = list_names(listing)
        found, wrong = self._resolver(place.images, IMAGE_SUFFIXES, "an image").places(names)
        problems = [(str(listing), f"{reprlib.repr(names[index])}: {error}") for index, error in wrong.items()]
        images = [self.root / name for index, name in enumerate(found) if index not in wrong]
        keys = [f"{splitext(_below(image, place.images))[0]}.xml" for image in images]
        xml = self._resolver(place.annotations, {".xml"}, "the annotation of an image")
        annotations, lacking = xml.places(keys)
        problems += [(str(listing), f"{images[index]}: {error}") for index, error in lacking.items()]
        pairs = [
            (image, self.root / name)
            for index, (image, name) in enumerate(zip(images, annotations, strict=True))
            if index not in lacking
        ]
        return pairs, problems

    def _beside(self, place: Place) -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
        names = sorted(xml_below(place.annotations))
        keys = [splitext(name)[0] for name in names]
        found, wrong = self._resolver(place.images, IMAGE_SUFFIXES, "its image").places(keys)
        problems = [(str(place.annotations / names[index]), str(error)) for index, error in wrong.items()]
        pairs = [
            (self.root / image, place.annotations / names[index])
            for index, image in enumerate(found)
            if index not in wrong
        ]
        return pairs, problems

    def _resolver(self, folder: Path, suffixes: frozenset[str] | set[str], what: str) -> Resolver:
        return Resolver(self.root, folder.relative_to(self.root), suffixes=suffixes, what=what)


def _of_a_class(name: str, lists: dict[str, Place]) -> bool:
    """Whether ``name`` is that of a single class' list, such as ``dog_train``."""
    head, _, tail = name.rpartition("_")
    return bool(head) and tail in lists


def _without_lists(root: Path) -> dict[str, Place]:
    """The splits of a folder that has no lists, by sub-folders; all of it is ``train`` where it has none."""
    pair = _pair(root)
    if pair is not None:
        images, annotations = pair
        inner = {
            folder.name: Place(images / folder.name, folder)
            for folder in _folders(annotations)
            if annotations != root and folder.name in SPLITS and os.path.isdir(images / folder.name)
        }
        return inner or {"train": Place(images, annotations)}
    found = {folder.name: Place(*pair) for folder in _folders(root) if (pair := _pair(folder)) is not None}
    if len(found) == 1:  # a folder of XML files, and one of images, whatever they are called
        (place,) = found.values()
        others = [folder for folder in _folders(root) if folder != place.annotations and _has_images(folder)]
        if place.images == place.annotations and not _has_images(place.images) and len(others) == 1:
            return {"train": Place(others[0], place.annotations)}
    return found


def _has_images(folder: Path) -> bool:
    return any(key_of(name) is not None and not name.startswith(".") for name in names_in(folder))


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of XML files in ``folder``, which may be both; None where there are none."""
    if _has_xml(folder):
        return folder, folder
    inner = {path.name.lower(): path for path in _folders(folder)}
    for names in FOLDERS:
        images, files = (inner.get(name.lower()) for name in names)
        if images and files and any(_is_xml(name) for path in (files, *_folders(files)) for name in names_in(path)):
            return images, files
    return None


def _has_xml(folder: Path) -> bool:
    """Whether the first XML file in ``folder`` has VOC's root element."""
    name = next(iter(sorted(name for name in names_in(folder) if _is_xml(name))), None)
    return name is not None and is_annotation(folder / name)


def is_annotation(path: Path) -> bool:
    """Whether an XML file begins as VOC's do; broken ones may do so."""
    try:
        with open(path, "rb") as file:
            head = file.read(500).replace(b"\0", b"")
    except (OSError, ValueError):
        return False
    element = re.search(rb"<([A-Za-z_][\w.-]*)", head)
    return element is None or element[1] == b"annotation"


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def xml_below(folder: Path) -> Iterator[str]:
    """The XML files in ``folder`` and its sub-folders, relative to it."""
    for inner, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        below = _below(Path(inner), folder)
        yield from (f"{below}/{name}" if below != "." else name for name in names if _is_xml(name))


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for name in names_in(folder) if not name.startswith(".") and os.path.isdir(path := folder / name)
    )


def _below(path: Path, folder: Path) -> str:
    """``path`` relative to ``folder`` with ``/``; its name alone where it is elsewhere."""
    return path.relative_to(folder).as_posix() if path == folder or folder in path.parents else path.name
