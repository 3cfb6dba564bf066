"""Synthetic twins: functions that write a tiny valid copy of a format's layout on disk, with the format's quirks.

Each takes the folder to write to and returns the path that ``format:path`` takes. A pixel has the colour of its class,
with a little noise, so that a network can learn a twin by heart. From other folders of tests:
``from tests.data.twins import write_camvid``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from scenewise.data.label_colors import voc_colors
from scenewise.data.readers import ade20k, camvid, cityscapes

VOC_PALETTE = [channel for color in voc_colors(256) for channel in color]


def blocks(values: Sequence[int], size: tuple[int, int], seed: int) -> np.ndarray:
    """A label map uint8 [H,W], a grid of rectangles; every one of ``values`` occurs where there are enough pixels."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(len(values))))
    order = rng.permutation(np.resize(np.asarray(values), side * side))
    rows = np.arange(size[0]) * side // size[0]
    columns = np.arange(size[1]) * side // size[1]
    found: np.ndarray = order.astype(np.uint8)[rows[:, None] * side + columns]
    return found


def painted(values: np.ndarray, colors: dict[int, tuple[int, int, int]], seed: int) -> np.ndarray:
    """The image uint8 [H,W,3] of a label map: its colours (grey where it has none), with noise."""
    table = np.full((256, 3), 90)
    for value, color in colors.items():
        table[value] = color
    noise = np.random.default_rng(seed).integers(-8, 9, (*values.shape, 3))
    found: np.ndarray = np.clip(table[values] + noise, 0, 255).astype(np.uint8)
    return found


def save(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """Write uint8 [H,W,3] or [H,W] as the format that the name tells; with ``palette`` as indices into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture = picture.convert("P") if picture.mode != "L" else picture
        picture.putpalette(palette)
    picture.save(path, quality=95, subsampling=0) if path.suffix == ".jpg" else picture.save(path)


def write_camvid(root: Path, size: tuple[int, int] = (24, 32)) -> Path:
    """CamVid: 3 + 2 + 2 images; JPEG and PNG, one of another size; void; val's list has SegNet's pairs of paths."""
    colors = dict(enumerate(camvid.COLORS)) | {camvid.VOID: (0, 0, 0)}
    names = {
        "train": ["0001TP_000", "0001TP_001", "0001TP_002"],
        "val": ["0016E5_0", "0016E5_1"],
        "test": ["S_1", "S_2"],
    }
    for number, (split, stems) in enumerate(names.items()):
        lines = []
        for index, stem in enumerate(stems):
            at = (size[0] + 3, size[1] - 5) if index == 1 else size
            values = blocks(range(12), at, seed=10 * number + index)
            ending = ".png" if index == 1 else ".jpg"
            save(root / split / f"{stem}{ending}", painted(values, colors, 10 * number + index))
            save(root / f"{split}annot" / f"{stem}.png", values)
            pair = f"/SegNet/CamVid/{split}/{stem}{ending} /SegNet/CamVid/{split}annot/{stem}.png"
            lines.append(pair if split == "val" else stem)
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_masks(
    root: Path,
    layout: Literal["lists", "folders", "flat"] = "folders",
    classes: Literal["txt", "json"] = "json",
    size: tuple[int, int] = (24, 32),
) -> Path:
    """``masks:``: 4 images (flat) or 3 + 2; grey and palette PNGs, a grey image, names with spaces and umlauts.

    Classes road, grass and sky; with "json" they have colours, and value 9 is to be ignored as well as 255.
    """
    colors = {0: (128, 64, 128), 1: (90, 160, 60), 2: (70, 130, 180)}
    splits = {"train": ["Straße 1.jpg", "b.c.png", "grau.jpeg"], "val": ["tür.png", "é e.jpg"]}
    if layout == "flat":
        splits = {"": [name for names in splits.values() for name in names][:4]}
    ignored = [255, 9] if classes == "json" else [255]
    for number, (split, names) in enumerate(splits.items()):
        folder = split if layout == "folders" else ""
        for index, name in enumerate(names):
            values = blocks([0, 1, 2, *ignored], (size[0] + index, size[1]), seed=10 * number + index)
            image = painted(values, colors, 10 * number + index)
            save(root / "images" / folder / name, image[..., 0] if name == "grau.jpeg" else image)
            label = root / "labels" / folder / f"{name.rpartition('.')[0]}.png"
            save(label, values, VOC_PALETTE if index == 1 else None)
        if layout == "lists":
            lines = [name if index else name.rpartition(".")[0] for index, name in enumerate(names)]
            (root / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    if classes == "txt":
        (root / "classes.txt").write_text("road\ngrass\nsky\n")
    else:
        described = {"classes": ["road", "grass", "sky"], "colors": [list(c) for c in colors.values()], "ignore": 9}
        (root / "classes.json").write_text(json.dumps(described))
    return root


def write_voc(root: Path, size: tuple[int, int] = (30, 40)) -> Path:
    """Pascal VOC: a VOCdevkit with 3 + 2 labelled images, a test list without labels; palette PNGs with void strips."""
    year = root / "VOCdevkit" / "VOC2012"
    splits = {"train": ["2007_000032", "2007_000039", "2011_003276"], "val": ["2007_000033", "2007_000042"]}
    colors = dict(enumerate(voc_colors(21)))
    lists = {**splits, "trainval": sorted(splits["train"] + splits["val"]), "test": ["2008_000006"]}
    for split, names in lists.items():
        for index, name in enumerate(names if split != "trainval" else []):
            seed = len(split) * 10 + index
            values = blocks(range(21), size if index else size[::-1], seed)
            values[:, values.shape[1] // 2] = 255
            save(year / "JPEGImages" / f"{name}.jpg", painted(values, colors, seed))
            if split != "test":
                save(year / "SegmentationClass" / f"{name}.png", values, VOC_PALETTE)
        listing = year / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names) + "\n")
    return root / "VOCdevkit"


def write_cityscapes(root: Path, size: tuple[int, int] = (32, 64)) -> Path:
    """Cityscapes: 2 cities in train, 1 in val; all 34 ids and the licence plate's 255; the other files of gtFine."""
    cities = {"train": ["aachen", "bochum"], "val": ["frankfurt"]}
    colors = {value: color for value, _, color in cityscapes.CLASSES}
    for split, names in cities.items():
        for number, city in enumerate(names):
            for frame in ("000000_000019", "000001_000019"):
                seed = 2 * number + int(frame[:6]) + 10 * (split == "val")
                values = blocks([*range(34), 255], size, seed)
                save(
                    root / "leftImg8bit" / split / city / f"{city}_{frame}_leftImg8bit.png",
                    painted(values, colors, seed),
                )
                start = root / "gtFine" / split / city / f"{city}_{frame}_gtFine"
                save(Path(f"{start}_labelIds.png"), values)
                save(Path(f"{start}_instanceIds.png"), values)
                save(Path(f"{start}_color.png"), painted(values, colors, seed))
                Path(f"{start}_polygons.json").write_text("{}")
    return root


def write_ade20k(root: Path, size: tuple[int, int] = (39, 52), information: bool = True) -> Path:
    """SceneParse150: 2 + 2 images of several sizes, all values 0 to 150; with ``information`` an objectInfo150.txt."""
    base = root / "ADEChallengeData2016"
    colors = dict(enumerate(ade20k.ADE20K.colors, 1))
    for folder, short in (("training", "train"), ("validation", "val")):
        for index in (1, 2):
            seed = index + 10 * (short == "val")
            values = blocks(range(151), (size[0] + 2 * index, size[1]), seed)
            name = f"ADE_{short}_{index:08d}"
            save(base / "images" / folder / f"{name}.jpg", painted(values, colors, seed))
            save(base / "annotations" / folder / f"{name}.png", values)
    if information:
        rows = [f"{i}\t0.01\t5\t5\t{name}, {name} too" for i, name in enumerate(ade20k.CLASSES, 1)]
        (base / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    return base
