"""A starting recipe from a data set alone: what ``scenewise train my-folder`` trains, and why.

The labels decide the system (:data:`ROWS`, one for each combination of target fields), the sizes of images and objects
the input, crop and anchors, the number of images and the machine's speed the batch and the length. Each choice is an
entry of an ordinary recipe, which the run keeps; what the user gives is taken as it is, and the rest follows from it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scenewise.catalog import build, find, interface_of, options
from scenewise.data import DataSet
from scenewise.data.base import UNIONS, VALIDATION
from scenewise.data.formats import all_readers, construct, find_reader, naming_what_is_here, open_data, splits_of
from scenewise.engine.building import memory_of_machine, model_block
from scenewise.engine.pace import Pace, measure
from scenewise.errors import DataError, UsageError
from scenewise.nn.backbone import OFFLINE, backbone_input
from scenewise.recipe import Recipe, load_recipe, spelled_out
from scenewise.types import InputSpec
from scenewise.weights.packaged import PACKAGED

BUDGET = 10.0  # minutes that training may take where its length is not given
HELD_BACK = 20  # per cent of the images: for validation, where there is no part for it
LOOKED_AT = 96  # images whose sizes and objects are looked at
BACKBONE = "efficientnet_lite0"  # its ImageNet weights come without a network ...
PACKAGED_BACKBONE = "blood-cells"  # ... where scenewise[offline] is installed; else those of this packaged model
VISIBLE = 24.0  # pixels: the input is so large that the median object of no class is smaller ...
OBJECT_INPUT = {"cpu": (288, 448), "cuda": (480, 800)}  # ... within these lengths of its shorter side
MAP_INPUT = {"cpu": 360, "cuda": 720}  # the longest shorter side for label maps
CROP, CROP_OF_ENLARGED = 0.85, 0.7  # of the input's sides: what training sees of it; less costs less
BATCH = {"cpu": 8, "cuda": 16}
SMALL_BATCH, FEW_STEPS = 4, 400  # where the time allows fewer steps than that, they are of so many images
FINE = 20.0  # pixels: where a tenth of the objects are seen smaller, the pyramid begins with the map of stride 4
MEMORY = 0.6  # of the machine's: what a step may take
MOST_EPOCHS, FEWEST_EPOCHS = 100, 3
VALIDATIONS = 4  # at most, if they take no more than ...
VALIDATING = 0.15  # ... this share of the time


@dataclass(frozen=True)
class Seen:
    """What some images of a data set show.

    Attributes:
        images: how many there are in all.
        short_side: the upper quartile of their shorter sides, in pixels.
        aspect: the median of width / height.
        objects: the most in one image.
        smallest: the name of the class whose objects are smallest; empty without boxes.
        side: the median side of its objects (the root of a box's area), in pixels.
        least: the side that a tenth of all objects fall short of.
        elongation: larger / smaller side of boxes, exceeded by a fifth of them.
        joints: keypoints of an object.
        mirrored: whether objects may be mirrored: no keypoints, or it is known which of them change sides.
    """

    images: int
    short_side: float
    aspect: float
    objects: int = 0
    smallest: str = ""
    side: float = 0.0
    least: float = 0.0
    elongation: float = 1.0
    joints: int = 0
    mirrored: bool = True


@dataclass(frozen=True)
class Row:
    """A system to start with.

    Attributes:
        labels: what the labels that it takes are called.
        system: its name in the catalog.
        size: the length of the input's shorter side and why, from what was seen and the kind of device.
        blocks: the recipe's other blocks, from what was seen and the input's size (height, width).
    """

    labels: str
    system: str
    size: Callable[[Seen, str], tuple[int, str]]
    blocks: Callable[[Seen, tuple[int, int]], dict[str, Any]]

    @property
    def needs(self) -> frozenset[str]:
        """The target fields that labels have to have."""
        return interface_of(self.system, {}).needs


@dataclass(frozen=True)
class Start:
    """A recipe to start with, and how it came about.

    Attributes:
        recipe: to train by.
        headline: what is trained on what, in one line.
        choices: what was chosen, its value, and why.
        minutes: that it will take.
        notes: what should be known besides.
    """

    recipe: Recipe
    headline: str
    choices: tuple[tuple[str, str, str], ...]
    minutes: float
    notes: tuple[str, ...] = ()


def starting_recipe(source: str, overrides: Mapping[str, Any]) -> Start:
    """The recipe to start with for the data set ``source``.

    Args:
        source: a ``format:path`` string, or a path alone.
        overrides: by short words or dotted paths, as :func:`scenewise.train` takes them; ``budget`` besides: the
            minutes that training may take.

    Raises:
        UsageError, DataError: the data is not recognised, or what is given does not fit it.
    """
    given = spelled_out(overrides)
    budget = _minutes(given.pop("budget", BUDGET))
    block = model_block(given["init"]) if given.get("init") and "model.system" not in given else {}
    system = given.get("model.system", block.get("system"))
    data, row = _recognised(source, system, given)
    splits, why_splits = _splits(data, given)
    opened = open_data(
        data, splits["data.train_split"], needs=row.needs, on_bad_record=given.get("data.on_bad_record", "error")
    )
    seen = look(opened.only(row.needs))
    values, choices = _blocks(row, seen, block, given)
    values["data"] = {"train": data, **values.get("data", {})}
    factor = values["optimizer"].pop("groups", {}).get("backbone")
    recipe = load_recipe(values, {**splits, **given})
    if factor and (backbone := _backbone_of(recipe)):  # by its own name in whichever system
        values["optimizer"]["groups"] = {backbone: factor}
        recipe = load_recipe(values, {**splits, **given})
    pace = measure(recipe)
    batch, why_batch = _batch(recipe, pace, budget, given)
    if batch != recipe.trainer.batch_size:
        splits["trainer.batch_size"] = batch
        recipe = load_recipe(values, {**splits, **given})
        pace = measure(recipe)
    recipe = load_recipe(values, {**splits, **_length(recipe, pace, budget, given), **given})
    settings, minutes = recipe.trainer, pace.seconds(recipe) / 60
    steps = pace.images // (settings.batch_size * settings.accumulate)
    rate = "given" if {"optimizer.lr", "optimizer.lr_per_16"} & given.keys() else _per_16(values)
    choices += [
        ("batch_size", str(settings.batch_size), why_batch),
        ("lr", f"{recipe.optimizer.lr:.3g}", rate),
        ("epochs", f"{settings.epochs} of {steps} steps", _why_length(pace, budget, given)),
        ("validation", _validation(pace.validated, settings.validate_every), why_splits),
    ]
    headline = (
        f"{data}: {pace.images} images with {row.labels}, {len(opened.classes)} classes. Starts with {recipe.system} "
        f"({find(recipe.system).task}), backbone {recipe.arguments.get('backbone', 'of its own')}, "
        f"image size {_size_told(recipe)}"
    )
    return Start(recipe, headline, tuple(choices), minutes, tuple(_notes(recipe, pace, budget, given)))


# ---- what the data is


def _recognised(source: str, system: str | None, given: Mapping[str, Any]) -> tuple[str, Row]:
    """The ``format:path`` string of the data set, and the first row whose fields its labels have."""
    cls, root = find_reader(source)
    rows = [*ROWS]
    if system is not None:
        needs = interface_of(system, {}).needs
        rows = [row for row in ROWS if needs <= row.needs]
        if not rows:
            raise UsageError(
                f"model.system is {system!r}, which needs {', '.join(sorted(needs))}; without a recipe training starts "
                f"from {'; '.join(row.labels for row in ROWS)}. Give a recipe, as in recipes/"
            )
    with naming_what_is_here(cls, root):
        readers = [reader for reader in all_readers()[cls.format] if reader.recognises(root)] or [cls]
        names = {reader: [s for s in reader.splits(root) if s not in UNIONS] for reader in readers}
    found: dict[str, frozenset[str]] = {}
    for reader in readers:
        if names[reader]:
            policy = given.get("data.on_bad_record", "error")
            found[reader.__name__] = construct(reader, root, names[reader][0], on_bad_record=policy).fields
    for row in rows:
        if any(row.needs <= fields for fields in found.values()):
            return f"{cls.format}:{root}", row
    seen = sorted({name for fields in found.values() for name in fields}) or ["no labels"]
    expected = "; ".join(f"{', '.join(sorted(row.needs))} ({row.system})" for row in rows)
    raise DataError(f"{root}: read as {cls.format}, it has {', '.join(seen)}; expected one of: {expected}")


def _splits(data: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The entries of the training and the validation part, and why the latter is what it is."""
    there = [name for name in splits_of(data) if name not in UNIONS]
    train = given.get("data.train_split")
    if train is None:
        usual = [name for name in there if name == "train"] or [n for n in there if n not in VALIDATION | {"test"}]
        if len(usual) != 1:
            raise UsageError(
                f"{data}: has the splits {', '.join(there) or 'none'}; which one to train on is not clear. Give "
                "data.train_split=NAME"
            )
        train = usual[0]
    if {"data.val", "data.val_split"} & given.keys():
        return {"data.train_split": train}, "given"
    own = [name for name in there if name in VALIDATION and name != train]
    if own:
        return {"data.train_split": train, "data.val_split": own[0]}, f"its split {own[0]!r}"
    if "[" in train:
        raise UsageError(f"data.train_split is {train!r}; give data.val_split, too: a part of it, or null for none")
    parts = {"data.train_split": f"{train}[:{100 - HELD_BACK}%]", "data.val_split": f"{train}[{100 - HELD_BACK}%:]"}
    return parts, f"{HELD_BACK} % of {train!r}, by the hash of their content: there is no split for it"


def look(data: DataSet) -> Seen:
    """What :data:`LOOKED_AT` images of ``data``, evenly spread over it, show."""
    count = min(LOOKED_AT, len(data))
    sizes: list[tuple[int, int]] = []
    sides: dict[int, list[float]] = {}
    elongations: list[float] = []
    objects = 0
    for index in np.linspace(0, len(data) - 1, count).round().astype(int).tolist():
        image, target = data[index]
        sizes.append((int(image.shape[-2]), int(image.shape[-1])))
        boxes = target.get("boxes")
        if boxes is None:
            continue
        objects = max(objects, len(boxes))
        for (width, height), label in zip(
            (boxes[:, 2:] - boxes[:, :2]).tolist(), target["labels"].tolist(), strict=True
        ):
            if width > 0 and height > 0:
                sides.setdefault(label, []).append(math.sqrt(width * height))
                elongations.append(max(width / height, height / width))
    small, side = min(((label, float(np.median(v))) for label, v in sides.items()), key=_second, default=(-1, 0.0))
    skeleton = data.skeleton if "keypoints" in data.fields else None
    return Seen(
        images=len(data),
        short_side=float(np.quantile([min(size) for size in sizes], 0.75)),
        aspect=float(np.median([width / height for height, width in sizes])),
        objects=objects,
        smallest=data.classes[small] if sides else "",
        side=side,
        least=float(np.quantile([one for of_class in sides.values() for one in of_class], 0.1)) if sides else 0.0,
        elongation=float(np.quantile(elongations, 0.8)) if elongations else 1.0,
        joints=0 if skeleton is None else len(skeleton.names),
        mirrored=skeleton is None or skeleton.sides() is not None,
    )


def _second(pair: tuple[int, float]) -> float:
    return pair[1]


# ---- what is made of it


def _blocks(
    row: Row, seen: Seen, block: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """The recipe's blocks without its length, and the choices in them."""
    spec = InputSpec.from_dict(block.get("input", {}))
    fixed = InputSpec.from_dict({k: v for k, v in _given_input(given).items() if v is not None})
    if fixed.size or fixed.short_side or fixed.scale:
        spec, why = fixed, "given"
    elif block:
        why = f"that of {given['init']}"
    else:
        side, why = row.size(seen, _device(given))
        spec = InputSpec(short_side=side)
    short, aspect = seen.short_side, seen.aspect
    native = (short, short * aspect) if aspect >= 1 else (short / aspect, short)
    size = spec.resized(round(native[0]), round(native[1]))
    values = row.blocks(seen, size)
    choices = [("image_size", f"{size[0]} x {size[1]}", why)]
    crop = next((e["RandomResizedCrop"] for e in values["transforms"] if "RandomResizedCrop" in e), None)
    if crop is not None and "transforms" not in given:
        (height, width), (low, high) = crop["size"], crop["scale"]
        choices.append(("crop", f"{height} x {width}", f"made of random {low:.0%} to {high:.0%} of the image"))
    model = dict(block)
    if not block:
        model, why = _model(row, values["model"], spec, given)
        choices.append(("weights", str(given.get("model.backbone_weights", model.get("backbone_weights"))), why))
        if "anchors" in model:
            told = ", ".join("/".join(f"{side:g}" for side in level) for level in model["anchors"]["sizes"])
            choices.append(("anchors", told, f"of objects; a fifth is longer than {seen.elongation:.2g} to 1"))
    else:
        choices.append(("weights", str(given["init"]), "given; class layers by the names of classes"))
    values["model"] = model
    if model.get("backbone_weights") is None and not block:
        values["optimizer"] = {k: v for k, v in values["optimizer"].items() if k != "groups"}
    values["trainer"] = {"batch_size": _first_batch(seen, given), "clip_norm": 5.0, "validation_loss": False}
    return values, choices


def _backbone_of(recipe: Recipe) -> str | None:
    """The name of the backbone within the model of ``recipe``; None where it has none."""
    arguments = {k: v for k, v in recipe.arguments.items() if not k.endswith("_weights")}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # no memory, no random numbers
        model = build(recipe.system, ("any",), **arguments)
    return next((name for name, _ in model.named_modules() if name.split(".")[-1] == "backbone"), None)


def _given_input(given: Mapping[str, Any]) -> dict[str, Any]:
    start = "model.input."
    return {path.removeprefix(start): value for path, value in given.items() if path.startswith(start)}


def _model(row: Row, model: Mapping[str, Any], spec: InputSpec, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The block ``model``, and where its weights come from."""
    system = given.get("model.system", row.system)
    takes = options(system)
    found: dict[str, Any] = {"system": system}
    if system == row.system:
        found |= model
    backbone = given.get("model.backbone", BACKBONE)
    weights, why = _weights(backbone) if "backbone" in takes else (None, "random: it has no backbone")
    if "model.backbone_weights" in given:
        why = "given"
    if "backbone" in takes:
        found |= {"backbone": backbone, "backbone_weights": weights}
    usual = backbone_input(backbone) if "backbone" in takes else InputSpec()
    divisor = model.get("input", {}).get("size_divisor", 1)
    if "input" in takes:
        found["input"] = {**spec.to_dict(), "mean": list(usual.mean), "std": list(usual.std), "size_divisor": divisor}
    return found, why


def _weights(backbone: str) -> tuple[str | None, str]:
    """What a backbone starts with that needs no network, and why."""
    if backbone not in OFFLINE:
        return None, "random; model.backbone_weights=imagenet fetches them, or give a file"
    offline = OFFLINE[backbone]
    if importlib.util.find_spec(offline.module) is not None:
        return "imagenet", "ImageNet's, which are installed"
    missing = f"{offline.install} has ImageNet's"
    if backbone == BACKBONE:
        with PACKAGED[PACKAGED_BACKBONE].file() as file:
            return str(file), f"the backbone of {PACKAGED_BACKBONE}; {missing}"
    return None, f"random, which needs far more images; {missing}"


def _object_size(seen: Seen, device: str) -> tuple[int, str]:
    """The input's shorter side for objects: as long as the smallest need it, within what the machine takes."""
    low, high = OBJECT_INPUT[device]
    wanted = VISIBLE / seen.side * seen.short_side if seen.side else float(low)
    side = min(high, max(low, 32 * math.ceil(wanted / 32 - 0.25)))
    shown = seen.side * side / seen.short_side
    why = f"{seen.smallest}, the smallest, is {seen.side:.0f} pixels wide in {seen.short_side:.0f}, {shown:.0f} so"
    return side, why + (f"; more would be slow on {device}" if wanted > high else "")


def _map_size(seen: Seen, device: str) -> tuple[int, str]:
    """The input's shorter side for label maps: that of the images, within what the machine takes."""
    high = MAP_INPUT[device]
    if seen.short_side <= high:
        return round(seen.short_side), "that of three quarters of the images"
    return high, f"images have {seen.short_side:.0f}; more would be slow on {device}"


def _crop(seen: Seen, size: tuple[int, int]) -> dict[str, Any]:
    """A random part of the image, of 0.4 to 1.6 times the area of the crop: objects have their own size on average."""
    share = CROP if min(size) <= seen.short_side else CROP_OF_ENLARGED
    sides = [min(max(64, 32 * round(share * side / 32)), max(32, side)) for side in size]
    area, ratio = sides[0] * sides[1] / (size[0] * size[1]), sides[1] / sides[0]
    return {
        "RandomResizedCrop": {
            "size": sides,
            "scale": [round(0.4 * area, 2), round(min(1.0, 1.6 * area), 2)],
            "ratio": [round(ratio / 1.25, 2), round(ratio * 1.25, 2)],
        }
    }


def _boxes(seen: Seen, size: tuple[int, int]) -> dict[str, Any]:
    """A detector on a light pyramid, its anchors by what was seen."""
    strides = [8, 16, 32] if seen.least * min(size) / seen.short_side >= FINE else [4, 8, 16, 32]
    ratio = round(min(2.5, max(1.3, seen.elongation)), 2)
    transforms: list[Any] = [_crop(seen, size), "RandomHorizontalFlip"] if seen.mirrored else [_crop(seen, size)]
    return {
        "model": {
            "features": {"channels": 112, "strides": strides, "frozen_levels": 0, "frozen_norm": False},
            "anchors": {
                "sizes": [[3 * stride, 4.25 * stride] for stride in [*strides, 2 * strides[-1]]],
                "ratios": [round(1 / ratio, 2), 1.0, ratio],
            },
            "proposals": {"before_nms": 500, "after_nms": 300, "train_before_nms": 600, "train_after_nms": 600},
            "head": {"aligned": True, "channels": 256},
            "sampler": {"samples": 128, "positive_fraction": 0.35},
            "detections": {"count": min(500, max(100, 50 * math.ceil(1.5 * seen.objects / 50)))},
            "input": {"size_divisor": 32},
        },
        "transforms": [*transforms, _JITTER],
        "optimizer": {"name": "adamw", "lr_per_16": 0.0012, "weight_decay": 0.02, "groups": {"backbone": 0.4}},
        "schedule": {"name": "cosine"},
    }


_JITTER = {"ColorJitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}}


def _masks(seen: Seen, size: tuple[int, int]) -> dict[str, Any]:
    """The detector with a light branch for masks."""
    values = _boxes(seen, size)
    values["model"]["mask"] = {"convs": 3, "channels": 64, "class_agnostic": True}
    values["transforms"] = [*values["transforms"], "BoxesFromMasks"]
    return values


def _keypoints(seen: Seen, size: tuple[int, int]) -> dict[str, Any]:
    """The detector with a light branch for keypoints."""
    values = _boxes(seen, size)
    values["model"]["keypoints"] = {"count": seen.joints, "convs": 4, "channels": 128}
    return values


def _maps(seen: Seen, size: tuple[int, int]) -> dict[str, Any]:
    """A light encoder and decoder."""
    return {
        "model": {
            "aspp_channels": 160,
            "decoder_strides": [8, 4],
            "skip_channels": [32, 24],
            "decoder_channels": 128,
            "separable": False,
            "loss": {"cross-entropy": 1.0, "jaccard": 0.5},
        },
        "data": {"class_weights": "inverse-log"},
        "transforms": [_crop(seen, size), "RandomHorizontalFlip", _JITTER],
        "optimizer": {"name": "adamw", "lr_per_16": 0.002, "weight_decay": 0.02, "groups": {"backbone": 0.3}},
        "schedule": {"name": "poly"},
    }


ROWS = (  # the first whose fields the labels have
    Row("boxes and keypoints", "keypoint-rcnn", _object_size, _keypoints),
    Row("masks of objects", "mask-rcnn", _object_size, _masks),
    Row("label maps", "deeplab-v3-plus", _map_size, _maps),
    Row("boxes", "faster-rcnn", _object_size, _boxes),
)


# ---- how many, how long


def _device(given: Mapping[str, Any]) -> str:
    wanted = given.get("trainer.accelerator", "auto")
    return "cuda" if wanted in ("auto", "cuda") and torch.cuda.is_available() else "cpu"


def _first_batch(seen: Seen, given: Mapping[str, Any]) -> int:
    """The usual batch of the device, and no more than an eighth of the images."""
    return max(2, min(BATCH[_device(given)], 1 << int(math.log2(max(2, seen.images / 8)))))


def _batch(recipe: Recipe, pace: Pace, budget: float, given: Mapping[str, Any]) -> tuple[int, str]:
    """The batch that fits the machine's memory, and why."""
    there, batch = memory_of_machine(recipe.trainer.accelerator), recipe.trainer.batch_size
    needed = f"{pace.memory * batch / 2**30:.1f} GiB"
    if "trainer.batch_size" in given:
        return batch, f"given; a step takes {needed}"
    if there is not None and pace.memory * batch > MEMORY * there:
        fitting = max(1, int(MEMORY * there / pace.memory))
        return fitting, f"{batch} would take {needed} of the machine's {there / 2**30:.0f}"
    steps = int(60 * budget / pace.step)
    if batch > SMALL_BATCH and steps < FEW_STEPS and "trainer.epochs" not in given:
        return SMALL_BATCH, f"{budget:g} minutes allow only {steps} steps of {batch}"
    return batch, f"usual for {_device(given)} and {pace.images} images; a step takes {needed}"


def _length(recipe: Recipe, pace: Pace, budget: float, given: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that depend on how long training is: epochs, validations, warm-up and average."""
    steps = max(1, pace.images // (recipe.trainer.batch_size * recipe.trainer.accumulate))
    each = pace.validated * pace.image  # seconds of a validation
    count = VALIDATIONS if not each else max(1, min(VALIDATIONS, int(VALIDATING * budget * 60 / each)))
    one = recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"epochs": 1, "validate_every": 1})})
    epoch = pace.seconds(one) - pace.seconds(one) * each / (each + steps * pace.step)
    epochs = given.get("trainer.epochs")
    if not isinstance(epochs, int):
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, int((budget * 60 - 1.1 * count * each) / epoch)))
    total = steps * max(1, epochs)
    return {
        "trainer.epochs": epochs,
        "trainer.validate_every": math.ceil(max(1, epochs) / count),
        "trainer.ema": round(min(0.998, max(0.5, 1 - 6 / total)), 4),
        "schedule.warmup_steps": min(50, total // 6),
    }


def _why_length(pace: Pace, budget: float, given: Mapping[str, Any]) -> str:
    step = f"{pace.step:.2g} s a step"
    return f"given; {step}" if "trainer.epochs" in given else f"what {budget:g} minutes allow (budget), at {step}"


def _validation(images: int, epochs: int) -> str:
    return f"{images} images, every {f'{epochs} epochs' if epochs > 1 else 'epoch'}" if images else "none"


def _per_16(values: Mapping[str, Any]) -> str:
    return f"{values['optimizer']['lr_per_16']:g} per 16 images"


def _minutes(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"budget is {value!r}; expected minutes, a number above 0")
    return float(value)


def _size_told(recipe: Recipe) -> str:
    spec = InputSpec.from_dict(recipe.arguments.get("input") or {})
    if spec.size:
        return f"{spec.size[0]} x {spec.size[1]}"
    if spec.short_side:
        return f"{spec.short_side} (the shorter side)"
    return f"times {spec.scale:g}" if spec.scale else "as it is"


def _notes(recipe: Recipe, pace: Pace, budget: float, given: Mapping[str, Any]) -> Sequence[str]:
    minutes = pace.seconds(recipe) / 60
    if minutes > 1.2 * budget and "trainer.epochs" not in given:
        return [
            f"{FEWEST_EPOCHS} epochs take {minutes:.0f} minutes on this machine, more than the budget of {budget:g}; "
            "a smaller image_size is faster"
        ]
    return []
