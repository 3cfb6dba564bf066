"""A folder of images, and a folder of masks for each class: ``masks:PATH``, too.

    PATH/images/NAME.jpg          or any other image format
    PATH/labels/CLASS/NAME.png    a picture of two values, such as 0 and 255: where this class is not, and where it is
    PATH/classes.txt              optional: the order of the classes, a name a line

Without a file of classes they are the folders' names, sorted. A pixel that is in no mask is of the class
``background``, which comes first; or of that class of the file which has no folder, where it is the only one. An image
without a mask in a class's folder has no pixel of that class; one without any mask is an error. Splits are as in
:mod:`scenewise.data.readers.masks`, with the folders ``labels/SPLIT/CLASS``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scenewise.data.base import Problem
from scenewise.data.folders import key_of, names_in
from scenewise.data.label_maps import MAX_CLASSES, LabelMapDataSet, value_table
from scenewise.data.names import printable
from scenewise.data.readers.masks import (
    Masks,
    check_folders,
    class_folders,
    find_images,
    label_files,
    read_classes,
)
from scenewise.errors import DataError
from scenewise.files.images import read_label_picture

BACKGROUND = "background"

UInt8 = npt.NDArray[np.uint8]


class ClassMasks(LabelMapDataSet):
    """Images, and masks of one class each."""

    format = "masks"

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        check_folders(root)
        folders = class_folders(root)
        if not folders:
            raise DataError(f"{root / 'labels'}: no folders of masks; expected labels/CLASS/NAME.png")
        self.folders = sorted({name for inner in folders.values() for name in inner})
        self._set_classes()
        images, self.unfound = find_images(root, split, self.splits(root))
        if not images:
            raise DataError(f"{root / 'images'}: no image of split {split!r}; expected files such as NAME.jpg")
        self.masks: list[dict[str, str]] = []  # of each image: class -> place below root
        self.pairs = []
        files: dict[str, dict[str, str]] = {}
        for image in images:
            inner, name = os.path.split(image.removeprefix("images/"))
            start = "/".join(part for part in ("labels", inner) if part)
            key = key_of(name) or name
            found = {}
            for folder in self.folders:
                place = f"{start}/{folder}"
                if place not in files:
                    files[place] = label_files(root / place)
                if key in files[place]:
                    found[folder] = f"{place}/{files[place][key]}"
            self.masks.append(found)
            self.pairs.append((image, next(iter(found.values()), f"{start}/{self.folders[0]}/{key}.png")))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there are folders of masks of one class each."""
        return bool(class_folders(root))

    @classmethod
    def splits(cls, root: Path) -> tuple[str, ...]:
        """As for :class:`~scenewise.data.readers.masks.Masks`."""
        return Masks.splits(root)

    def label_key(self, name: str) -> str | None:
        """None: masks without an image are told by :meth:`strays`."""
        return None

    def strays(self) -> Iterator[Problem]:
        """Masks without an image, and images listed twice."""
        yield from super().strays()
        if (self.root / f"{self.split}.txt").is_file():
            return  # other images of the folders are of other splits
        known = {key_of(os.path.basename(image)) for image, _ in self.pairs}
        folders = {os.path.dirname(place) for masks in self.masks for place in masks.values()}
        for folder in sorted(folders):
            for name in sorted(names_in(self.root / folder)):
                key = None if name.startswith(".") else key_of(name)
                if key is not None and key not in known:
                    yield Problem(str(self.root / folder / name), "a mask without its image")

    def _set_classes(self) -> None:
        """Fill ``classes``, ``colors``, ``table`` and ``numbers`` from the file of classes, or the folders."""
        if any((self.root / name).is_file() for name in ("classes.txt", "classes.json")):
            self.classes, self.colors, _, _ = read_classes(self.root)
            rest = [name for name in self.classes if name not in self.folders]
            unknown = [name for name in self.folders if name not in self.classes]
            if unknown or len(rest) != 1:
                found = (
                    f"no class is called {printable(unknown[0])!r}"
                    if unknown
                    else f"{len(rest)} classes have no folder"
                )
                raise DataError(
                    f"{self.root / 'labels'}: {found}; the file of classes has {printable(', '.join(self.classes))}; "
                    "expected a folder for each of them but one, that of pixels in no mask"
                )
            self.outside = rest[0]
        elif BACKGROUND in self.folders:
            raise DataError(
                f"{self.root / 'labels' / BACKGROUND}: a folder of that name, and no file of classes; expected "
                "classes.txt with the classes, and a folder for each of them but one, that of pixels in no mask"
            )
        else:
            self.classes, self.outside = (BACKGROUND, *self.folders), BACKGROUND
            message = f"pixels that are in no mask are of the class {BACKGROUND!r}"
            self.notes = (*self.notes, Problem(str(self.root), message, "suspicion"))
        if len(self.classes) > MAX_CLASSES:
            raise DataError(f"{self.root / 'labels'}: {len(self.classes)} classes; expected up to {MAX_CLASSES}")
        self.table = value_table({label: label for label in range(len(self.classes))})

    def _values(self, index: int) -> Tensor:
        if not self.masks[index]:
            raise DataError(
                f"{self.label_path(index)}: not found; expected a mask of {self.image_path(index)} in at least one of "
                f"the folders {', '.join(self.folders)}"
            )
        found: UInt8 | None = None
        owner: dict[int, str] = {}
        outside = self.classes.index(self.outside)
        for name, place in self.masks[index].items():
            inside = _mask(self.root / place)
            if found is None:
                found = np.full(inside.shape, outside, np.uint8)
            if inside.shape != found.shape:
                raise DataError(
                    f"{self.root / place}: {inside.shape[1]} x {inside.shape[0]} pixels (width x height); the masks of "
                    f"other classes are {found.shape[1]} x {found.shape[0]}"
                )
            twice = inside & (found != outside)
            if twice.any():
                row, column = (int(i) for i in np.argwhere(twice)[0])
                raise DataError(
                    f"{self.root / place}: pixel (row {row}, column {column}) is in this mask and in "
                    f"{self.root / owner[int(found[row, column])]}, as are {int(twice.sum()) - 1:,} more; expected "
                    "each pixel in one mask"
                )
            label = self.classes.index(name)
            found[inside] = label
            owner[label] = place
        return torch.from_numpy(found)


def _mask(path: Path) -> npt.NDArray[np.bool_]:
    """Where the class of a mask is, bool [H,W].

    Raises:
        DataError: the file has more than two values, or two of which none is 0.
    """
    pixels = read_label_picture(path).pixels
    if pixels.ndim == 3:
        if (pixels[..., :1] != pixels[..., 1:]).any():
            raise DataError(f"{path}: a mask in colours; expected two values, such as 0 and 255")
        pixels = pixels[..., 0]
    values = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)).tolist()
    if len(set(values) - {0}) > 1:
        row, column = (int(i) for i in np.argwhere((pixels != 0) & (pixels != values[-1]))[0])
        raise DataError(
            f"{path}: pixel (row {row}, column {column}) has value {int(pixels[row, column])}, and others have 0 and "
            f"{values[-1]}; expected a mask of two values, where the class is not and where it is"
        )
    found: npt.NDArray[np.bool_] = pixels != 0
    return found
