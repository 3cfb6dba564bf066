"""Starting a model with the weights of another one: what fits by name and shape, class layers by the names of classes.

In a class layer a dimension of a tensor is that of the classes, or several are: the rows of each class lie together, in
the order of the classes, those of the background before them. That holds for every system here; a test of all of them
lets the classes change places. Which layers these are is found by comparing a model with one that has a class more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scenewise.catalog import build, name_of, options, plain_arguments
from scenewise.errors import CheckpointError, UsageError
from scenewise.model import Model


@dataclass(frozen=True)
class Transferred:
    """What became of a model's tensors and classes.

    Attributes:
        left: a line for each tensor that stays as it was, by its name: its shape, and why.
        carried: the classes whose rows were taken over.
        new: those that the other model does not have; their rows are as they were built.
        dropped: those that the other model has alone.
    """

    left: dict[str, str]
    carried: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    by_name: bool = field(default=False)  # whether the classes differ, or their order does


@dataclass(frozen=True)
class ClassAxis:
    """How the rows along dimension ``dim`` of a tensor belong to classes: ``rows`` of each, after ``before`` of the
    background."""

    dim: int
    rows: int
    before: int

    def places(self, names: Iterable[str], classes: tuple[str, ...]) -> Tensor:
        """The rows of the background and of the classes ``names``, of a tensor for ``classes``."""
        starts = [self.before + self.rows * classes.index(name) for name in names]
        return torch.tensor([*range(self.before), *(start + row for start in starts for row in range(self.rows))])


ClassLayer = tuple[ClassAxis, ...]


def transfer(model: Model, other: Model, source: str) -> Transferred:
    """Start ``model`` with those tensors of ``other`` that have the name and shape of one of its own.

    Where the classes differ, or their order, class layers are carried by the names of the classes; the rows of new
    classes, and class layers as a whole where no class is in both, stay as they were built.

    Raises:
        CheckpointError: no tensor fits, or which rows belong to which class can't be found.
    """
    own, tensors = model.state_dict(), other.state_dict()
    by_name = model.classes != other.classes
    layers: dict[str, ClassLayer] = {}
    if by_name and model.classes and other.classes:
        mine, theirs = class_layers(model, source), class_layers(other, source)
        if set(model.classes) & set(other.classes):
            layers = {name: layer for name, layer in mine.items() if theirs.get(name) == layer}
        unlike = [name for name in {**mine, **theirs} if name not in layers]
    else:
        unlike = []
    values: dict[str, Tensor] = {}
    for name, value in own.items():
        there = tensors.get(name)
        if there is None or name in unlike:
            continue
        if name in layers:
            if _others(value, layers[name]) == _others(there, layers[name]):
                values[name] = _carried(value, there, layers[name], model.classes, other.classes)
        elif there.shape == value.shape:
            values[name] = there
    if not values:
        raise CheckpointError(f"{source}: none of its {len(tensors)} tensors fits a {type(model).__name__}")
    model.load_state_dict(values, strict=False)
    left = {
        name: f"{name} {list(value.shape)} ({f'there {list(tensors[name].shape)}' if name in tensors else 'not there'})"
        for name, value in own.items()
        if name not in values
    }
    return Transferred(
        left,
        tuple(name for name in model.classes if name in other.classes),
        tuple(name for name in model.classes if name not in other.classes),
        tuple(name for name in other.classes if name not in model.classes),
        by_name,
    )


def class_layers(model: Model, source: str = "model") -> dict[str, ClassLayer]:
    """The tensors of ``model`` that have dimensions of its classes, by name.

    Raises:
        CheckpointError: a model with another number of classes can't be built, or has other dimensions that differ.
    """
    system = name_of(model)
    if "classes" not in options(system):
        return {}
    arguments = {k: v for k, v in plain_arguments(model).items() if k != "class_weights"}
    more = next(name for name in map(str, range(len(model.classes) + 1)) if name not in model.classes)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # no memory, no random numbers
            twin = build(system, (*model.classes, more), **_without_weights(arguments)).state_dict()
    except UsageError as error:
        raise CheckpointError(f"{source}: which rows belong to which class can't be found: {error}") from None
    count, found = len(model.classes), {}
    for name, value in model.state_dict().items():
        if name not in twin or twin[name].shape == value.shape:
            continue
        shapes = list(zip(value.shape, twin[name].shape, strict=False))
        axes = [
            ClassAxis(dim, more - own, own - (more - own) * count)
            for dim, (own, more) in enumerate(shapes)
            if own != more
        ]
        if value.dim() != twin[name].dim() or any(a.rows < 1 or a.before not in (0, a.rows) for a in axes):
            raise CheckpointError(
                f"{source}: which rows of {name} {list(value.shape)} belong to which class can't be found; with one "
                f"class more it is {list(twin[name].shape)}"
            )
        found[name] = tuple(axes)
    return found


def _without_weights(arguments: dict[str, object]) -> dict[str, object]:
    """``arguments`` without those that would fetch or read weights: all that counts is shapes."""
    return {k: v for k, v in arguments.items() if not k.endswith("_weights")}


def _others(value: Tensor, layer: ClassLayer) -> list[int]:
    """The sizes of the dimensions that are not of classes."""
    return [size for dim, size in enumerate(value.shape) if dim not in {axis.dim for axis in layer}]


def _carried(
    value: Tensor, there: Tensor, layer: ClassLayer, classes: tuple[str, ...], others: tuple[str, ...]
) -> Tensor:
    """``value`` with the rows of ``there`` for the background and for each class that both have."""
    if not layer:
        return there
    axis, *rest = layer
    both = [name for name in classes if name in others]
    to, start = axis.places(both, classes), axis.places(both, others)
    part = _carried(value.index_select(axis.dim, to), there.index_select(axis.dim, start), tuple(rest), classes, others)
    return value.index_copy(axis.dim, to, part)
