"""Where the annotation files and the images of a COCO data set are, as COCO and other tools lay them out.

annotations/instances_SPLIT.json      images in SPLIT/, images/SPLIT/, images/ or beside the folder   COCO, CVAT
SPLIT/_annotations.coco.json          images beside the file                                          Roboflow
SPLIT.json, annotations/SPLIT.json    images in SPLIT/ or images/
result.json, labels.json, ...         images in images/ or data/, or beside the file                  Label Studio
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from scenewise.data.base import no_split
from scenewise.data.names import Resolver, printable, split_of
from scenewise.errors import DataError

YEAR = re.compile(r"\d{4}")
LISTED = ("train", "val", "test")
ROBOFLOW = "_annotations.coco.json"
ONE_FILE = (ROBOFLOW, "result.json", "labels.json", "annotations.json", "instances.json", "coco.json")
KINDS = ("person_keypoints", "instances")
FOLDERS = ("images", "data", "JPEGImages", "img")  # that hold the images of all splits
ASIDE = re.compile(r"annotation|label|json|coco", re.IGNORECASE)  # begins folders that hold annotation files only
TRIED = 50  # images by which the folder of all of them is found


def files_of(root: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """The annotation file of each split of a folder: train, val and test first, then others.

    Of several that fit, it is the one further up in the description of this module; of ``kinds``, the first.
    """
    found: dict[str, Path] = {}
    for kind in kinds:
        for file in _json_files(root / "annotations"):
            if file.stem.startswith(f"{kind}_"):
                found.setdefault(file.stem.removeprefix(f"{kind}_"), file)
    if not found:
        for folder in _folders(root):
            names = {file.name: file for file in _json_files(folder)}
            usual = [names[name] for name in ONE_FILE if name in names]
            if usual and (split_of(folder.name) or usual[0].name == ROBOFLOW):
                found[folder.name] = usual[0]
    for folder in (root / "annotations", root) if not found else ():
        for file in _json_files(folder):
            if split_of(file.stem):
                found.setdefault(file.stem, file)
    if not found:
        files = [folder / name for folder in (root, root / "annotations") for name in ONE_FILE]
        there = [file for file in files if file.is_file()]
        if there:
            found["train"] = there[0]
    ranks = {name: ([*(name.startswith(s) for s in LISTED), True].index(True), name) for name in found}
    return {name: found[name] for name in sorted(found, key=ranks.__getitem__)}


def file_of(root: Path, split: str, kinds: Sequence[str]) -> tuple[Path, str]:
    """The annotation file of a split, and the split's own name (``train2017`` where it is ``train`` that is asked for).

    Raises:
        DataError: there is none, or several may be meant.
    """
    if root.is_file():
        own = own_split(root)
        answers = {own, YEAR.sub("", own), split_of(own) or own, "all"}
        if not any(word in own for word in ("val", "test")):
            answers.add("train")
        if split not in answers:
            raise DataError(
                f"{root}: a single file, which is not split {split!r}; it can be opened as {', '.join(sorted(answers))}"
            )
        return root, own
    files = files_of(root, kinds)
    if split in files:
        return files[split], split
    near = [name for name in files if split_of(name) and split_of(name) == split_of(split)]
    if YEAR.search(split):
        near = []
    if not near and split == "train" and [*files] == ["default"]:  # CVAT, where no subset is named
        near = ["default"]
    if len(near) > 1:
        raise DataError(f"{root}: split {split!r} may be {' or '.join(near)}; name one of them")
    if near:
        return files[near[0]], near[0]
    raise no_split(
        root,
        split,
        [*files],
        f"an annotation file such as annotations/{kinds[0]}_{split}.json or {split}/{ROBOFLOW}",
    )


def own_split(file: Path) -> str:
    """The split that a file's own name tells of, or its folder's."""
    for kind in KINDS:
        if file.stem.startswith(f"{kind}_"):
            return file.stem.removeprefix(f"{kind}_")
    if file.name in ONE_FILE and split_of(file.parent.name):
        return file.parent.name
    return file.stem


def siblings(root: Path, file: Path, kinds: Sequence[str]) -> list[Path]:
    """The annotation files of the other splits of the data set that ``file`` belongs to."""
    folder = root
    if root.is_file():
        in_folder = file.parent.name == "annotations" or file.name == ROBOFLOW
        folder = file.parent.parent if in_folder else file.parent
    return [other for other in files_of(folder, kinds).values() if other != file]


def resolver_of(root: Path, file: Path, split: str, images: str | None, names: Sequence[str]) -> Resolver:
    """What finds the images ``names`` of a split: in the folder ``images`` where one is given, else where they are
    usually.

    Raises:
        DataError: the folder does not exist, or no image is found.
    """
    if images is not None:
        folder = root / images if root.is_dir() else root.parent / images
        if not folder.is_dir():
            raise DataError(f"{folder}: not found; expected the folder of the images")
        return Resolver(folder)
    tries = _likely(root, file, split)
    resolvers = []
    for base, folders in tries:
        there = [folder for folder in dict.fromkeys(folders) if os.path.isdir(base / folder)]
        if there:
            resolvers.append(Resolver(base, *there))
    sample = [names[i * len(names) // min(len(names), TRIED)] for i in range(min(len(names), TRIED))]
    for resolver in resolvers:
        if not names or len(resolver.look_up(sample)[1]) < len(sample):
            return resolver
    why = resolvers[0].look_up([names[0]])[1].get(0, "")
    if not why.startswith("not found"):
        raise DataError(f"{file}: the image {printable(names[0])}: {why}")
    listed = ", ".join(str(base / folder) for base, folders in tries for folder in folders)
    near = "; did" + why.rpartition("; did")[2] if "; did" in why else ". The option images names another folder"
    raise DataError(f"{file}: the image {printable(names[0])} is not found; expected it in one of {listed}{near}")


def _likely(root: Path, file: Path, split: str) -> list[tuple[Path, list[str]]]:
    """Folders that may be the data set's own, and those below each where images may be; the likeliest first."""
    aside = root.is_file() and ASIDE.match(file.parent.name) is not None
    base = root if root.is_dir() else file.parent.parent if aside else file.parent
    names = [split]
    if not any((base / above / split).is_dir() for above in ("", "images")):  # train, where it is train2017
        folders = [folder.name for above in ("", "images") for folder in _folders(base / above)]
        names += [name for name in dict.fromkeys(folders) if split_of(split) and split_of(name) == split_of(split)]
    parts = [f"{above}{name}" for name in names for above in ("", "images/")] + [*FOLDERS]
    beside = file.parent.name
    if root.is_dir():
        return [(base, [*parts, *([beside] if beside not in ("annotations", root.name) else []), ""])]
    if aside:
        return [(base, [*(f"{beside}/{part}" for part in parts), beside, *parts, ""])]
    return [(base, [*parts, ""]), (base.parent, parts)]


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []


def _json_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json" and path.is_file())
    except OSError:
        return []
