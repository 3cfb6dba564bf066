"""What a training run is made of: the data, what is done to its samples, and the model."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scenewise.catalog import (
    build,
    check_arguments,
    interface_of,
    name_of,
    options,
    plain_arguments,
    with_classes,
)
from scenewise.data import DataSet, open_data
from scenewise.data.formats import path_of
from scenewise.data.inputs import with_inputs
from scenewise.data.loader import Transform, mix_seed
from scenewise.data.transforms.by_name import ResizeToInput, build_transforms
from scenewise.engine.predict import check_inputs
from scenewise.errors import UsageError
from scenewise.fields.run_masks import know_run_masks
from scenewise.losses.weighted import WeightedLoss
from scenewise.metrics.table import truth_for
from scenewise.model import Model
from scenewise.recipe import Recipe
from scenewise.types import InputSpec
from scenewise.weights.load import load

ALIKE = 1.6  # how many times larger or smaller than in prediction objects may be in training, on average


@dataclass  # not frozen: Fabric goes through what it sends to other processes
class InHand:
    """What the user passed in place of a recipe's entries."""

    model: Model | None = None
    data: DataSet | None = None
    validation: DataSet | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return self.model is not None or self.data is not None or self.validation is not None


def model_block(init: str | Sequence[str]) -> dict[str, Any]:
    """The block ``model`` of a recipe that says nothing of it: system and arguments of the checkpoint ``init``, of the
    first of several. Weights of its own classes are left out."""
    model = load(init if isinstance(init, str) else init[0])
    kept = {k: v for k, v in plain_arguments(model).items() if k not in ("class_weights", "backbone_weights")}
    return {"system": name_of(model), **kept}


def check_paths(recipe: Recipe, source: str | Path | Mapping[str, Any] | Recipe | None) -> None:
    """Name both places where a data set was looked for that a recipe names by a relative path, and that is in neither.

    Args:
        recipe: as loaded.
        source: what it was loaded from.

    Raises:
        UsageError: there is such a data set.
    """
    for stage in recipe.staged():
        for entry, text in (("train", stage.data.train), ("val", stage.data.val)):
            path = None if text is None else path_of(text)
            if path is None or path.expanduser().is_absolute() or path.exists():
                continue
            places = [f"in the working folder ({path.absolute()})"]
            if isinstance(source, str | Path):
                places.insert(0, f"beside the recipe ({Path(source).absolute().parent / path})")
            raise UsageError(f"data.{entry} is {text!r}: not found {' or '.join(places)}; expected it in one of them")


def open_training_data(recipe: Recipe) -> DataSet:
    """The training split that the recipe names, with the fields that its system needs."""
    data, interface = recipe.data, interface_of(recipe.system, recipe.arguments)
    check_inputs(interface.takes, data.inputs)
    opened = open_data(
        data.train,
        data.train_split,
        needs=interface.needs,
        on_bad_record=data.on_bad_record,
        allow_unlabelled=data.allow_unlabelled,
    )
    return with_inputs(opened, data.inputs)


def open_validation_data(recipe: Recipe) -> DataSet | None:
    """The validation split, with what predictions and losses are held against; None where the recipe has none."""
    data, interface = recipe.data, interface_of(recipe.system, recipe.arguments)
    if data.val_split is None:
        return None
    check_inputs(interface.takes, data.val_inputs)
    needs = interface.needs | truth_for(interface.fills, recipe.metrics)
    source = data.val or data.train
    opened = open_data(
        source,
        data.val_split,
        needs=needs,
        on_bad_record=data.on_bad_record,
        allow_unlabelled=data.allow_unlabelled,
    )
    return with_inputs(opened.only(needs), data.val_inputs)


def _stated_input(recipe: Recipe) -> InputSpec:
    """The input of the recipe's model; where it states none, one as systems have it by themselves."""
    stated = recipe.arguments.get("input")
    if stated is None:
        return InputSpec()
    checked: InputSpec = check_arguments(recipe.system, with_classes(recipe.system, ("any",), {"input": stated}))[
        "input"
    ]
    return checked


class InputThen:
    """First the model's own resizing, then the augmentation."""

    def __init__(self, fit: ResizeToInput, augment: Transform | None) -> None:
        self.fit, self.augment = fit, augment
        know_run_masks(augment)

    def __call__(self, image: Any, target: Any) -> Any:
        """The sample as the model is fed it."""
        image, target = self.fit(image, target)
        if self.augment is None:
            return image, target
        try:
            return self.augment(image, target)
        except TypeError as error:
            if image.shape[0] == 3:
                raise
            raise UsageError(
                f"transforms: {error}; the images have {image.shape[0]} channels (input.channels), which transforms of "
                "colours don't take. Leave these out"
            ) from None


def training_transform(recipe: Recipe, spec: InputSpec, transform: Transform | None = None) -> InputThen:
    """What is done to training samples for a model with the input ``spec``: ``transform``, where one is given, is in
    place of the recipe's."""
    augment = transform if transform is not None else build_transforms(recipe.transforms)
    return InputThen(ResizeToInput(spec), augment)


def disagreement(transforms: Sequence[str | Mapping[str, Any]], spec: InputSpec, image: tuple[int, int]) -> str:
    """That training sees objects of another size than prediction does, since a transform resizes what the model's input
    has resized; empty where it does not, or by little.

    Args:
        transforms: as recipes write them.
        spec: the model's input.
        image: the size (height, width) of an image of the data set.
    """
    height, width = spec.resized(*image)
    for position, entry in enumerate(transforms):
        name, options = next(iter(entry.items())) if isinstance(entry, Mapping) else (entry, None)
        size = options.get("size") if isinstance(options, Mapping) else None
        if name not in ("RandomResizedCrop", "Resize") or size is None:
            continue
        sides = [float(side) for side in (size if isinstance(size, list | tuple) else [size, size])]
        sides = sides * 2 if len(sides) == 1 else sides
        low, high = (options or {}).get("scale", (0.08, 1.0)) if name == "RandomResizedCrop" else (1.0, 1.0)
        if name == "Resize" and not isinstance(size, list | tuple):
            sides = [sides[0] * side / min(height, width) for side in (height, width)]
        factor = math.sqrt(sides[0] * sides[1] / (0.5 * (low + high) * height * width))
        if not 1 / ALIKE <= factor <= ALIKE:
            fitting = " x ".join(f"{side / factor:.0f}" for side in sides)
            return (
                f"transforms.{position}: {name} makes {sides[0]:.0f} x {sides[1]:.0f} of what the input feeds at "
                f"{height} x {width}: training sees objects {factor:.2g} times as large as prediction does. A size of "
                f"about {fitting}, or another image_size, sees them alike"
            )
    return ""


def build_model(recipe: Recipe, data: DataSet, validation: DataSet | None, in_hand: Model | None = None) -> Model:
    """The recipe's model for the classes of ``data``, its weights a function of the seed; or the one ``in_hand``."""
    if validation is not None and validation.classes != data.classes:
        raise UsageError(f"the classes of {data.source} and {validation.source} differ")
    model = in_hand
    if model is None:
        arguments = recipe.arguments
        if recipe.data.class_weights is not None:
            if "class_weights" not in options(recipe.system):
                raise UsageError(f"data.class_weights is given, but {recipe.system} takes no class_weights")
            from scenewise.losses.class_weights import class_weights, count_classes

            chosen = recipe.data.class_weights
            settings = {"mode": chosen} if isinstance(chosen, str) else chosen.model_dump()
            arguments["class_weights"] = tuple(
                class_weights(count_classes(data.seen_as(_stated_input(recipe))), **settings).tolist()
            )
        _check_memory(recipe, data.classes, arguments)
        torch.manual_seed(mix_seed(recipe.trainer.seed))
        model = build(recipe.system, data.classes, **arguments)
    elif model.classes and model.classes != data.classes:
        raise UsageError(
            f"the model has the classes {', '.join(model.classes)}; {data.source} has {', '.join(data.classes)}"
        )
    for module in model.modules():
        if isinstance(module, WeightedLoss):
            module.resolve()  # losses of one's own, before the first step needs them
    lacking = model.needs - data.fields
    if lacking:
        raise UsageError(
            f"{recipe.system} needs {', '.join(sorted(lacking))}, which {data.source} does not have "
            f"(it has {', '.join(sorted(data.fields))})"
        )
    if "keypoints" in model.fills and data.skeleton is not None:
        model.skeleton = data.skeleton
    return model


def _check_memory(recipe: Recipe, classes: tuple[str, ...], arguments: dict[str, Any]) -> None:
    """Raise a :class:`UsageError` where the network's weights and what training keeps of each are beyond the memory of
    the machine. What a step needs besides depends on the images."""
    arguments = {k: v for k, v in arguments.items() if k != "backbone_weights"}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # no memory, no random numbers
        twin = build(recipe.system, classes, **arguments)
    size = sum(value.numel() * value.element_size() for value in twin.state_dict().values())
    copies = 2 + (2 if recipe.optimizer.name.startswith("adam") else 1) + (recipe.trainer.ema is not None)
    there = memory_of_machine(recipe.trainer.accelerator)
    if there is not None and size * copies > there:
        count = sum(value.numel() for value in twin.parameters())
        raise UsageError(
            f"model: {recipe.system} with these options has {count:,} weights; training keeps {copies} numbers for "
            f"each, {size * copies / 2**30:,.0f} GiB in all, and this machine has {there / 2**30:,.0f} GiB. Give it "
            "fewer channels or layers"
        )


def memory_of_machine(accelerator: str) -> int | None:
    """The bytes of memory that weights are kept in; None where that is not known."""
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
