"""Recipes: a training run as typed, validated settings, read from YAML.

A recipe says what differs from the defaults below. Any value can be overridden by its dotted path, such as
``trainer.epochs=30``. The block ``model`` holds ``system`` and the arguments of that system's constructor.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from scenewise.errors import UsageError, suggest
from scenewise.files.yaml_file import dump_yaml, parse_yaml, read_yaml
from scenewise.types import is_misplaced_bool

LONGEST = 1500  # letters of a message

SHORT = {  # words for the entries that are changed most
    "epochs": "trainer.epochs",
    "batch_size": "trainer.batch_size",
    "image_size": "model.input.short_side",
    "backbone": "model.backbone",
    "lr": "optimizer.lr",
    "name": "trainer.name",
}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if is_misplaced_bool(value, cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("true and false are not numbers")
        return value


class ClassWeightSettings(_Settings):
    """Weights of classes that follow from their pixels in the training labels."""

    mode: Literal["inverse", "median", "inverse-log", "effective"]
    beta: float = Field(0.9999, ge=0, lt=1)  # effective
    clip: tuple[float, float] | None = None  # the lowest and the highest weight of classes that occur
    renormalize: bool = False  # to a mean of 1 over the classes that occur


class DataSettings(_Settings):
    """Where the samples come from."""

    train: str  # format:path
    val: str | None = None  # format:path; None: the same as train
    train_split: str = "train"
    val_split: str | None = "val"  # None: no validation; the last checkpoint is then the best
    on_bad_record: Literal["error", "skip", "fix"] = "error"  # a box without an area, say: refuse, leave out, mend
    allow_unlabelled: bool = False  # take a split without usable labels, or one that lost most of them by on_bad_record
    inputs: dict[str, str] = {}  # files of what the system takes beside the training images, such as {proposals: FILE}
    val_inputs: dict[str, str] = {}  # the same of the validation images
    workers: int = Field(1, ge=0, le=1024)  # processes that load samples; changes the speed alone
    # counted over train: a mode, or a mode with its parameters
    class_weights: Literal["inverse", "median", "inverse-log", "effective"] | ClassWeightSettings | None = None


class PlayerSettings(_Settings):
    """How the weights of one player follow gradients, where that differs from the rest."""

    name: Literal["sgd", "adam", "adamw", "rmsprop"] | None = None
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    momentum: float | None = Field(None, ge=0, lt=1)
    nesterov: bool | None = None
    betas: tuple[float, float] | None = None
    alpha: float | None = Field(None, ge=0, lt=1)
    eps: float | None = Field(None, gt=0)
    groups: dict[str, float] | None = None
    decay_norm_and_bias: bool | None = None
    ema: float | None = Field(None, ge=0, lt=1)  # decay of its moving average, in place of trainer.ema


class OptimizerSettings(_Settings):
    """How weights follow gradients."""

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    lr: float = Field(1e-3, gt=0)  # or lr_per_16, in place of it: that of a batch of 16 images, see Recipe
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd and rmsprop
    nesterov: bool = False  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adam and adamw
    alpha: float = Field(0.99, ge=0, lt=1)  # rmsprop: of the mean of squared gradients
    eps: float = Field(1e-8, gt=0)  # adam, adamw and rmsprop; the TF Object Detection API's rmsprop has 1.0
    groups: dict[str, float] = {}  # a parameter name's beginning -> factor on lr, such as {backbone: 0.1}
    decay_norm_and_bias: bool = False  # whether weight decay also acts on biases and normalisation layers
    players: dict[
        str, PlayerSettings
    ] = {}  # of systems with several: what differs for one, such as {critic: {lr: 1e-4}}

    def of_player(self, name: str) -> OptimizerSettings:
        """The settings of one player."""
        own = self.players.get(name)
        changes = {} if own is None else {k: v for k, v in own if v is not None and k != "ema"}
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _fit(self) -> OptimizerSettings:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov is for sgd with a momentum above 0")
        if self.name != "rmsprop" and "alpha" in self.model_fields_set and self.alpha != 0.99:
            raise ValueError(f"alpha is for rmsprop; name is {self.name!r}")
        if self.name == "sgd" and self.eps != OptimizerSettings.model_fields["eps"].default:
            raise ValueError("eps is for adam, adamw and rmsprop; name is 'sgd'")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; expected two numbers from 0 to below 1")
        return self


class ScheduleSettings(_Settings):
    """How the learning rate changes: a factor on ``optimizer.lr`` that depends on the step alone."""

    name: Literal["constant", "step", "exponential", "poly", "cosine", "rates"] = "poly"
    power: float = Field(0.9, gt=0)  # poly: (1 - t) ** power, t the share of the horizon that is done
    horizon: int | None = Field(None, ge=1)  # poly and cosine: the epochs at which they reach 0; None: all of training
    milestones: tuple[float, ...] = ()  # step: in epochs
    gamma: float = Field(0.1, gt=0)  # step: factor at each milestone; exponential: factor per epoch, or per decay_steps
    decay_steps: int | None = Field(None, ge=1)  # exponential: the steps over which gamma applies; None: an epoch
    staircase: bool = True  # exponential: the factor falls at once, not with each step
    rates: tuple[tuple[int, float], ...] = ()  # rates: [step, learning rate], from that step on; the first step is 0
    warmup_steps: int = Field(0, ge=0)  # the factor rises linearly over these first steps ...
    warmup_factor: float = Field(0.001, ge=0, le=1)  # ... from this
    cooldown: int = Field(0, ge=0)  # the factor falls linearly to 0 over this many last epochs

    @model_validator(mode="after")
    def _fit(self) -> ScheduleSettings:
        if (self.name == "rates") != bool(self.rates):
            raise ValueError("rates: expected name 'rates' and a list of [step, learning rate], or neither")
        steps = [step for step, _ in self.rates]
        if steps and (steps[0] != 0 or steps != sorted(set(steps)) or any(rate <= 0 for _, rate in self.rates)):
            raise ValueError("rates: expected [0, rate] first, rising steps, and positive rates")
        if self.decay_steps is not None and self.name != "exponential":
            raise ValueError(f"decay_steps is for name 'exponential'; name is {self.name!r}")
        return self

    def factor(self, step: int, total: int, steps_per_epoch: int, lr: float = 1.0) -> float:
        """The factor at ``step`` (from 0) of ``total``, on the learning rate ``lr``."""
        horizon = total if self.horizon is None else self.horizon * steps_per_epoch
        if self.name == "constant":
            value = 1.0
        elif self.name == "rates":
            value = [rate for start, rate in self.rates if start <= step][-1] / lr
        elif self.name == "step":
            value = self.gamma ** sum(step >= round(m * steps_per_epoch) for m in self.milestones)
        elif self.name == "exponential":
            over = self.decay_steps or steps_per_epoch
            value = self.gamma ** (step // over if self.staircase else step / over)
        elif self.name == "poly":
            value = max(0.0, 1 - step / horizon) ** self.power
        else:
            done = max(0, step - self.warmup_steps) / max(1, horizon - self.warmup_steps)
            value = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if step < self.warmup_steps:
            value *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        if self.cooldown and step > total - self.cooldown * steps_per_epoch:
            value *= (total - step) / (self.cooldown * steps_per_epoch)
        return value


class TrainerSettings(_Settings):
    """How long, on what, and how carefully."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)  # images per batch, over all devices together
    accumulate: int = Field(1, ge=1)  # batches an optimizer step
    precision: Literal["32", "bf16", "16"] = "32"  # mixed precision for the latter two
    clip_norm: float | None = Field(None, gt=0)  # gradients are scaled down to this norm
    ema: float | None = Field(
        None, gt=0, lt=1
    )  # decay of the weights' moving average; it is what is validated and kept
    freeze: tuple[
        str, ...
    ] = ()  # parameters whose name begins so are not trained; their batch-norm keeps its statistics
    freeze_norm: Literal["none", "statistics", "all"] = "none"  # batch-norm: keep statistics; and scale and shift too
    turns: Literal["together", "in-turn"] = "together"  # several players: one forward pass for all, or one for each
    seed: int = Field(0, ge=0)
    deterministic: bool = True  # refuse operations whose result depends on chance
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1, le=1024)  # processes; each takes its share of every batch
    validate_every: int = Field(1, ge=1)  # epochs
    validation_loss: bool = True
    monitor: str | None = None  # the metric that chooses the best epoch; None: the task's usual one
    mode: Literal["max", "min"] | None = None  # whether more of it is better; None: min for losses and errors, else max
    patience: int | None = Field(None, ge=1)  # stop after this many validations without improvement
    save_every: int | None = Field(None, ge=1)  # steps between saved training states; None: every two minutes
    half: bool = False  # store checkpoints as float16
    folder: str = "runs"  # the run's own folder is made in it
    name: str | None = None  # the run's folder; None: made of the system's name and the time

    @field_validator("name")
    @classmethod
    def _one_folder(cls, name: str | None) -> str | None:
        if name is not None and (
            not name.strip(". ") or not name.isprintable() or {*"/\\"} & {*name} or len(name) > 200
        ):
            raise ValueError("expected the name of one folder, of up to 200 letters and without slashes")
        return name


class Recipe(_Settings):
    """A training run.

    ``optimizer.lr_per_16`` in place of ``optimizer.lr`` states the learning rate for steps of 16 images: it grows
    with ``trainer.batch_size`` times ``trainer.accumulate`` (Goyal et al. 2017, arXiv:1706.02677, sec. 2.1). The
    recipe itself only ever has the result; a ``lr`` that is given stays as it is.
    """

    model: dict[str, Any]
    data: DataSettings
    transforms: tuple[str | dict[str, Any], ...] = ()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    trainer: TrainerSettings = TrainerSettings()
    # of the validation besides the usual ones: names, module:Class, or one of them with its parameters
    metrics: tuple[str | dict[str, dict[str, Any]], ...] = ()
    # a checkpoint or a name, or several; their weights are started from where they fit, the others are named
    init: str | tuple[str, ...] | None = None
    init_weights_file: str | None = None  # where init is a published name: a local file in the publisher's format
    stages: tuple[dict[str, Any], ...] = ()  # runs one after the other; each says only what differs from the rest
    about: str | None = None  # free text: what this is, and what it reached

    @model_validator(mode="before")
    @classmethod
    def _scale_rate(cls, values: Any) -> Any:
        """``values`` with the learning rate that follows from ``optimizer.lr_per_16``."""
        optimizer = values.get("optimizer") if isinstance(values, Mapping) else None
        if not isinstance(optimizer, Mapping) or "lr_per_16" not in optimizer:
            return values
        rate, rest = optimizer["lr_per_16"], {k: v for k, v in optimizer.items() if k != "lr_per_16"}
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"optimizer.lr_per_16 is {rate!r}; expected a number above 0")
        trainer = values.get("trainer", {})
        if "lr" not in rest:
            settings = trainer if isinstance(trainer, TrainerSettings) else TrainerSettings.model_validate(trainer)
            rest["lr"] = rate * settings.batch_size * settings.accumulate / 16
        return {**values, "optimizer": rest}

    def staged(self) -> list[Recipe]:
        """A recipe for each stage; itself alone where there are none.

        A stage's entries take the place of those in the same block, a ``model`` with another ``system`` that of the
        whole block. A stage starts with the weights of the one before, unless it has an ``init`` of its own.
        """
        if not self.stages:
            return [self]
        whole = self.model_dump(mode="json", exclude={"stages"})
        found = []
        for number, changes in enumerate(self.stages, 1):
            values = _overlaid(whole, changes)
            if number > 1 and "init" not in changes:
                values["init"], values["init_weights_file"] = f"stage-{number - 1}", None
            found.append(Recipe.model_validate(values))
        return found

    @property
    def sources(self) -> tuple[str, ...]:
        """What it starts from."""
        return (self.init,) if isinstance(self.init, str) else self.init or ()

    @property
    def system(self) -> str:
        """The name of the system in the block ``model``."""
        return str(self.model["system"])

    @property
    def arguments(self) -> dict[str, Any]:
        """The other entries of the block ``model``."""
        return {k: v for k, v in self.model.items() if k != "system"}

    def to_yaml(self) -> str:
        """The whole recipe, defaults included; :func:`load_recipe` reads it back."""
        return dump_yaml(self.model_dump(mode="json"))


def load_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    architecture: Callable[[Any], dict[str, Any]] | None = None,
) -> Recipe:
    """The recipe in the YAML file (or mapping) ``source``, with ``overrides`` by dotted path.

    Where it has no block ``model`` but an ``init``, the block is what ``architecture`` makes of the latter.

    Relative paths in a file are looked up beside it and then in the working folder, those in a mapping and in
    ``overrides`` in the working folder; what is found becomes absolute, so that a run can go on from any folder.

    Raises:
        UsageError: names the file, the entry's dotted path, what was found and what is expected.
    """
    if isinstance(source, Mapping):
        place, values = "recipe", _copy(source)
    else:
        place, values = str(source), _read(Path(source))
        _locate(values, Path(source).absolute().parent)
    changes = spelled_out(overrides or {})
    init = changes.get("init", values.get("init"))
    if architecture is not None and init and "model" not in values and not {"model", "model.system"} & changes.keys():
        values["model"] = architecture(init)
    for path, value in changes.items():
        _set(values, path, value, place)
    _locate(values, Path.cwd())
    model = values.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("system"), str):
        raise UsageError(
            f"{place}: model.system is missing; expected the name of a system, as `scenewise models` lists them"
        )
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{place}: {_short(_explain(error))}") from None
    _check(recipe, place, 1)
    for number, changes in enumerate(recipe.stages, 1):
        _check_stage(recipe, number, changes, f"{place}: stages.{number - 1}")
    return recipe


def spelled_out(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``overrides`` by dotted paths alone, in place of the short words that there are for some (:data:`SHORT`).

    ``image_size`` is the length of the shorter side, or (height, width).

    Raises:
        UsageError: an entry is there by both its names.
    """
    found: dict[str, Any] = {}
    for word, value in overrides.items():
        path = SHORT.get(word, word)
        if word == "image_size" and isinstance(value, list | tuple):
            path = "model.input.size"
        if path in found:
            raise UsageError(f"{word} is {value!r}, and {path} is given, too; expected one of them")
        found[path] = value
    return found


def stage_number(name: str | None) -> int | None:
    """The number of the earlier stage that ``name`` refers to, as in ``stage-1``; None where it is something else."""
    found = re.fullmatch(r"stage-(\d+)", name or "")
    return int(found[1]) if found else None


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """``["trainer.epochs=3", ...]`` as a mapping; values are YAML."""
    result = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise UsageError(f"{word!r}: expected key=value, such as trainer.epochs=30")
        try:
            result[path] = parse_yaml(text, "") if text else None
        except UsageError as error:
            shown = reprlib.repr(word)
            raise UsageError(f"{shown}: the value is not a YAML value{str(error).removeprefix(': not YAML')}") from None
    return result


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path, what="a recipe")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: holds a {type(values).__name__}; expected a mapping with model, data, ...")
    return values


def _locate(values: dict[str, Any], *folders: Path) -> None:
    """Make the paths in a recipe's ``values`` absolute that are in one of ``folders``, or in the working folder."""
    places = [*folders, Path.cwd()]
    model, data = values.get("model"), values.get("data")
    if isinstance(model, dict) and isinstance(model.get("backbone_weights"), str):
        model["backbone_weights"] = _located(model["backbone_weights"], places, file=True)
    for block in (data.get("inputs"), data.get("val_inputs")) if isinstance(data, dict) else ():
        if isinstance(block, dict):
            block.update({k: _located(v, places) for k, v in block.items()})
    for entry in ("train", "val"):
        if isinstance(data, dict) and entry in data:
            data[entry] = _located(data[entry], places, formats=True)
    for entry in ("init", "init_weights_file"):
        value = values.get(entry)
        if isinstance(value, list | tuple):
            values[entry] = [_located(one, places, file=True, runs=True) for one in value]
        elif value is not None:
            values[entry] = _located(value, places, file=True, runs=True)
    stages = values.get("stages")
    if isinstance(stages, list | tuple):
        values["stages"] = [_copy(stage) if isinstance(stage, Mapping) else stage for stage in stages]
        for stage in values["stages"]:
            if isinstance(stage, dict):
                _locate(stage, *folders)


def _located(text: Any, folders: list[Path], *, file: bool = False, runs: bool = False, formats: bool = False) -> Any:
    """The absolute form of ``text``, a relative path that is there in one of ``folders``; else itself.

    Args:
        text: anything else than a text stays as it is.
        file: only a file counts; the folder of a checkpoint's name is none.
        runs: the folder of a training run counts, too.
        formats: a format and a colon may stand before the path.
    """
    if not isinstance(text, str) or not text or stage_number(text) is not None:
        return text
    start, path = "", text
    if formats and (head := re.match(r"\w+:", text)):
        start, path = head[0], text[head.end() :]
    if not path or "\0" in path or Path(path).expanduser().is_absolute():
        return text
    for folder in folders:
        place = os.path.abspath(folder / path)
        run = runs and os.path.isfile(os.path.join(place, "recipe.yaml"))
        if run or (os.path.isfile(place) if file else os.path.exists(place)):
            return f"{start}{place}"
    return text


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _set(values: dict[str, Any], path: str, value: Any, place: str) -> None:
    """Put ``value`` where ``path`` leads in ``values``, through mappings and lists, which are copied on the way."""
    here: Any = values
    names = path.split(".")
    for i, name in enumerate(names[:-1]):
        key = _key(here, names, i, place)
        below = here[key] if isinstance(here, list) else here.setdefault(key, {})
        if isinstance(below, Mapping):
            below = dict(below)
        elif isinstance(below, list | tuple):
            below = [*below]
        elif names[:2] == ["model", "loss"] and i == 2 and isinstance(below, int | float):
            below = {"weight": below}  # model.loss.focal.gamma=3, where focal was a weight alone
        elif names[0] == "transforms" and i == 1 and below == names[2]:
            below = {below: {}}  # transforms.0.RandomHorizontalFlip.p=0.3, where it was a name alone
        else:
            raise UsageError(f"{place}: {path}: {name!r} has the value {below!r} and no entries of its own")
        here[key] = below
        here = below
    here[_key(here, names, len(names) - 1, place)] = value


def _key(here: Any, names: list[str], position: int, place: str) -> Any:
    """The name at ``position`` as a key of ``here``: a number where that is a list."""
    name = names[position]
    if not isinstance(here, list):
        return name
    if not name.isdecimal() or int(name) >= len(here):
        path, count = ".".join(names[:position]), len(here)
        expected = f"a number from 0 to {count - 1}" if count else "none, for it is empty"
        raise UsageError(f"{place}: {'.'.join(names)}: {path} is a list and has no entry {name!r}; expected {expected}")
    return int(name)


def _overlaid(whole: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``whole`` with the entries of ``changes`` in each block."""
    values = _copy(whole)
    for name, value in changes.items():
        block = values.get(name)
        other_system = name == "model" and isinstance(value, Mapping) and "system" in value
        if isinstance(block, dict) and isinstance(value, Mapping) and not other_system:
            values[name] = {**block, **value}
        else:
            values[name] = value
    return values


def _explain(error: ValidationError) -> str:
    """The first fault, by its dotted path."""
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_entries(fault["loc"][:-1])
        known += SHORT if len(fault["loc"]) == 1 else ()
        return f"{path} is unknown{suggest(str(fault['loc'][-1]), known)}; known: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"{path} is missing"
    message = fault["msg"].replace("Input should be", "expected").replace("expected expected", "expected")
    message = message.replace("Value error, true", "expected a number; true").removeprefix("Value error, ")
    return f"{path} is {reprlib.repr(fault['input'])}; {message}"


def _short(message: str) -> str:
    """``message`` without the middle of it where a name in a recipe is thousands of letters long."""
    return message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"


def _known_entries(location: tuple[str | int, ...]) -> list[str]:
    settings: Any = Recipe
    for part in location:
        field = getattr(settings, "model_fields", {}).get(str(part))
        settings = field.annotation if field else None
    return list(getattr(settings, "model_fields", {}))


def _check_stage(recipe: Recipe, number: int, changes: Mapping[str, Any], place: str) -> None:
    """Raise a :class:`UsageError` about what stage ``number`` (from 1) says."""
    for path in ("stages", "about", "trainer.folder", "trainer.name"):
        block, _, entry = path.rpartition(".")
        within = changes.get(block) if block else changes
        if isinstance(within, Mapping) and entry in within:
            raise UsageError(f"{place}.{path} is given; it holds for the whole recipe")
    try:
        stage = recipe.model_copy(update={"stages": recipe.stages[:number]}).staged()[-1]
    except ValidationError as error:
        raise UsageError(f"{place}.{_short(_explain(error))}") from None
    _check(stage, place, number)


def _check(recipe: Recipe, place: str, number: int) -> None:
    """What holds for a recipe and for each of its stages, of which this is ``number`` (from 1)."""
    _check_model(recipe, place)
    if recipe.init_weights_file is not None and not isinstance(recipe.init, str):
        raise UsageError(f"{place}: init_weights_file needs init, the published name of those weights")
    named: list[tuple[str, str | None]] = [("init", name) for name in recipe.sources]
    for block, files in (("inputs", recipe.data.inputs), ("val_inputs", recipe.data.val_inputs)):
        named += [(f"data.{block}.{key}", file) for key, file in files.items()]
    for path, name in named:
        earlier = stage_number(name)
        if earlier is not None and not 1 <= earlier < number:
            raise UsageError(
                f"{place}: {path} is {name!r}; expected a file, a name, or an earlier stage "
                f"({f'stage-1 to stage-{number - 1}' if number > 1 else 'there is none'})"
            )


def _check_model(recipe: Recipe, place: str) -> None:
    from scenewise.catalog import check_arguments, with_classes

    if "classes" in recipe.arguments:
        raise UsageError(f"{place}: model.classes is given; the classes come from the data set")
    try:
        check_arguments(recipe.system, with_classes(recipe.system, ("any",), recipe.arguments))
    except UsageError as error:
        raise UsageError(f"{place}: model: {_short(str(error))}") from None
