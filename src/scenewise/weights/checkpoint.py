"""Self-describing checkpoints: one safetensors file whose header says what the model is. No pickle is ever run.

The header holds one entry ``scenewise``: JSON with the system's name, the constructor's arguments, the class names,
the input spec, and what is known of the model (metrics, data, colours, terms). Where an argument is a model itself, as
those of a pipeline, its own such header stands there, and its tensors are in the file with the rest, their names behind
the argument's. Training state for resume is a file of its own (:mod:`scenewise.engine.state`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.catalog import SYSTEMS, build, is_model, name_of, options, plain_arguments
from scenewise.errors import CheckpointError, ScenewiseError, UsageError, suggest
from scenewise.files.tensors import read_tensors, safetensors_header, write_tensors
from scenewise.model import Model
from scenewise.types import InputSpec, Skeleton
from scenewise.version import VERSION
from scenewise.weights.older import todays_arguments, todays_tensors

FORMAT = 2
FORMER = (1,)  # read, too; see scenewise.weights.older


def save_checkpoint(
    model: Model, path: str | Path, *, half: bool = False, state: Mapping[str, Tensor] | None = None, **info: Any
) -> None:
    """Write ``model`` to ``path``.

    Args:
        model: of a system in the catalog, or the user's own.
        path: ends in ``.safetensors``.
        half: store floating-point tensors as float16; loading gives float32 again.
        state: weights to store in place of the model's own, such as their moving averages.
        info: entries to add to ``model.info``, such as ``metrics``; JSON values.

    Raises:
        UsageError: the system can't be found by its name.
        CheckpointError: the model has other tensors than its arguments make, as after a part of it was replaced;
        loading
            would refuse the file.
    """
    _check_buildable(model, Path(path))
    tensors = dict(model.state_dict() if state is None else state)
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    header = {"format": FORMAT, "scenewise": VERSION, **_described(model), "info": {**model.info, **info}}
    write_tensors(path, tensors, {"scenewise": json.dumps(header, ensure_ascii=False)})


def _described(model: Model) -> dict[str, Any]:
    """What a header says of ``model``, and of the models among its arguments."""
    described: dict[str, Any] = {
        "system": name_of(model),
        "arguments": plain_arguments(model, _described),
        "classes": list(model.classes),
        "input": model.input.to_dict(),
        "info": model.info,
    }
    return described if model.skeleton is None else {**described, "skeleton": model.skeleton.to_dict()}


def load_checkpoint(path: str | Path) -> Model:
    """The model in the file ``path``, in evaluation mode, float32.

    Raises:
        CheckpointError: the file is missing, cut short, not a scenewise checkpoint, or does not fit; says which.
    """
    header = read_header(path)
    tensors = read_tensors(path)  # first of all: what is damaged may describe another model
    model = _build(header, path)
    if header["format"] in FORMER:
        tensors = todays_tensors(header["system"], tensors)
    fill(model, tensors, str(path))
    model.info = dict(header.get("info", {}))
    model.skeleton = _skeleton(header, path)
    return model.eval()


def is_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` is a safetensors file with a header of scenewise's."""
    file = Path(path)
    return file.suffix == ".safetensors" and file.is_file() and "scenewise" in safetensors_header(file)[0]


def read_header(path: str | Path) -> dict[str, Any]:
    """What the checkpoint ``path`` says of itself."""
    metadata, _ = safetensors_header(Path(path))
    if "scenewise" not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file, but not a scenewise checkpoint (its header has no 'scenewise')"
        )
    try:
        header = json.loads(metadata["scenewise"])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its scenewise header is not JSON ({error})") from None
    except RecursionError:
        raise CheckpointError(f"{path}: its scenewise header is nested too deeply") from None
    if not isinstance(header, dict) or header.get("format") not in (*FORMER, FORMAT):
        found = header.get("format") if isinstance(header, dict) else header
        raise CheckpointError(f"{path}: header format {found!r}; this version of scenewise reads formats 1 to {FORMAT}")
    _check_description(header, path)
    return header


def _check_description(header: Mapping[str, Any], path: str | Path) -> None:
    for key, kind in (("system", str), ("arguments", dict), ("classes", list), ("input", dict)):
        if not isinstance(header.get(key), kind):
            raise CheckpointError(f"{path}: its header's {key!r} is {header.get(key)!r}; expected a {kind.__name__}")


def _skeleton(header: Mapping[str, Any], path: str | Path) -> Skeleton | None:
    if "skeleton" not in header:
        return None
    try:
        return Skeleton.from_dict(header["skeleton"])
    except (UsageError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: its header's skeleton does not fit: {error}") from None


def _build(header: dict[str, Any], path: str | Path) -> Model:
    name = header["system"]
    if name not in SYSTEMS and ":" not in name:
        raise CheckpointError(
            f"{path}: holds a {name!r}, which scenewise {VERSION} does not have{suggest(name, SYSTEMS)}"
        )
    arguments = header["arguments"]
    if header["format"] in FORMER:
        arguments = todays_arguments(name, arguments)
    try:
        return _made(name, header["classes"], arguments, header["input"], path)
    except CheckpointError:
        raise
    except RecursionError:  # models in models in models
        raise CheckpointError(f"{path}: its scenewise header is nested too deeply") from None
    except ScenewiseError as error:
        raise CheckpointError(
            f"{path}: its header does not fit this version of scenewise ({VERSION}): {error}"
        ) from None


def _made(
    name: str, classes: Sequence[str], arguments: Mapping[str, Any], spec: dict[str, Any], path: str | Path
) -> Model:
    """The model that a checkpoint's header describes, with random weights."""
    takes = options(name)
    arguments = {k: v for k, v in arguments.items() if k != "backbone_weights"}
    for key, value in arguments.items():
        if key in takes and is_model(takes[key]) and isinstance(value, Mapping):
            arguments[key] = _made_within(value, path)
    if "input" in takes:
        return build(name, classes, **{**arguments, "input": InputSpec.from_dict(spec)})
    model = build(name, classes, **arguments)
    model.input = InputSpec.from_dict(spec)
    return model


def _made_within(header: Mapping[str, Any], path: str | Path) -> Model:
    """The model that the header of a part describes, with random weights and all else that the header tells."""
    _check_description(header, path)
    model = _made(header["system"], header["classes"], header["arguments"], header["input"], path)
    model.info = dict(header.get("info", {}))
    model.skeleton = _skeleton(header, path)
    return model


def _check_buildable(model: Model, path: Path) -> None:
    """Raise a :class:`CheckpointError` unless loading would build a model with the tensors that ``model`` has."""
    described = _described(model)
    system, arguments, spec = described["system"], described["arguments"], described["input"]
    key = json.dumps([system, described["classes"], arguments, spec])
    if key not in _SHAPES:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # no memory, no random numbers
            twin = _made(system, model.classes, arguments, spec, path)
        _SHAPES[key] = {name: tuple(value.shape) for name, value in twin.state_dict().items()}
    expected = _SHAPES[key]
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            there = f"is {list(found[name])}" if name in found else "is missing"
            wanted = list(expected[name]) if name in expected else "nothing of that name"
            raise CheckpointError(
                f"{path}: {name} {there}, and a {system} built with the model's own arguments has {wanted}: loading "
                "would refuse the file. Make the change in a class of your own (model.system: module:Class), or save "
                "model.state_dict()"
            )


_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {}  # what the headers of this process' models build


def fill(model: Model, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put ``tensors`` into ``model``; every one must be there, with its shape.

    Raises:
        CheckpointError: names ``source`` and the first tensor that does not fit.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    if missing or extra:
        word, keys = ("lacks", missing) if missing else ("has unknown", extra)
        raise CheckpointError(f"{source}: {word} {len(keys)} tensors, the first {keys[0]!r}")
    for key, value in own.items():
        if tensors[key].shape != value.shape:
            raise CheckpointError(
                f"{source}: {key} has shape {list(tensors[key].shape)}; the model needs {list(value.shape)}"
            )
    model.load_state_dict(dict(tensors))
