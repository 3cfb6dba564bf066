"""Model: the contract that every system signs."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.types import OF_CLASSES, Batch, InputSpec, Interface, Output, Skeleton


class Model(nn.Module, ABC):
    """A system: a network, its losses and its prediction.

    ``losses`` and ``predict`` work alike in training and evaluation mode; what differs between the modes is only what
    torch's own layers (batch-norm, dropout) do. Resizing, devices, precision, averaging, schedules, checkpoints,
    evaluation and drawing belong to the engine.

    A subclass's constructor takes ``classes`` and then plain, typed, keyword-only arguments with the paper's values as
    defaults. Its signature is the schema of recipes and checkpoints; the arguments of each instance are kept in
    ``arguments``. A ``**shared`` in it stands for the arguments of its parent's constructor, which it passes on; an
    argument whose name begins with an underscore is for subclasses and no option.
    """

    classes: tuple[str, ...]  # names, in label order; empty for systems that know no classes
    input: InputSpec
    skeleton: Skeleton | None  # of the keypoints that it fills, where it is known
    arguments: dict[str, Any]  # what the constructor was called with, defaults included
    info: dict[str, Any]  # what else travels with a checkpoint: metrics, data, colors, terms; JSON values

    def __new__(cls, *args: Any, **kwargs: Any) -> Model:
        """Keep the constructor's arguments: they are the model's configuration."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls).bind(*args, **kwargs)
        except TypeError as error:
            if args or kwargs:
                raise UsageError(f"{cls.__name__}: {error}") from None
            return self  # a copy is made, which takes the arguments of the original
        bound.apply_defaults()
        object.__setattr__(self, "arguments", dict(bound.arguments))
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = [parameter for parameter, _ in declared_arguments(cls).values()]
        cls.__signature__ = inspect.Signature(declared)  # type: ignore[attr-defined]

    def __init__(self, classes: tuple[str, ...] | list[str] = (), input: InputSpec | None = None) -> None:
        super().__init__()
        self.classes = tuple(classes)
        labelled = sorted(self.fills & OF_CLASSES)
        if not self.classes and labelled:
            raise UsageError(
                f"{type(self).__name__}: classes is empty; it fills {', '.join(labelled)}, which takes at least one "
                "class name"
            )
        doubled = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if doubled:
            raise UsageError(f"{type(self).__name__}: classes has {doubled[0]!r} more than once")
        self.input = input or InputSpec()
        self.skeleton = None
        self.info = {}

    @classmethod
    @abstractmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What a model reads and returns that is built with these arguments of the constructor.

        Arguments that are left out are at their defaults.
        """

    @classmethod
    def defaults(cls, **arguments: Any) -> dict[str, Any]:
        """The specs that arguments left out become, by name, where they depend on others of the ``arguments``.

        A recipe that gives a part of a spec leaves the rest to the one here. Nothing in most systems.
        """
        return {}

    @property
    def needs(self) -> frozenset[str]:
        """The target fields that :meth:`losses` reads."""
        return self.interface(**self.arguments).needs

    @property
    def fills(self) -> frozenset[str]:
        """The fields of :class:`~scenewise.types.Output` that :meth:`predict` fills."""
        return self.interface(**self.arguments).fills

    @property
    def takes(self) -> frozenset[str]:
        """Further inputs beside the image, such as proposals."""
        return self.interface(**self.arguments).takes

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms; training minimises their sum. Reads the target fields in ``needs``."""

    @abstractmethod
    def predict(self, batch: Batch) -> list[Output]:
        """One output per image, in the coordinates of the batch's images."""

    def forward(self, batch: Batch) -> list[Output]:
        """:meth:`predict`, so that hooks, profilers and exporters find their door."""
        return self.predict(batch)

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Who trains which parameters, where several networks play against each other; nothing in most systems.

        With ``{"generator": ..., "discriminator": ...}`` the keys of :meth:`losses` are ``generator/term`` and
        ``discriminator/term``, and each player minimises the sum of its own terms over its own parameters alone: no
        gradient reaches the others, whatever a term was computed from. What one player is to see of the other as
        given (the discriminator's pictures) is best detached, which saves time. Each parameter belongs to one player.
        """
        return {}

    def finish(self, batches: Iterable[Batch]) -> None:
        """What remains to be done after gradient descent, such as closed-form fits; nothing in most systems.

        Training calls it once, after the last epoch's steps and before its validation, on the weights that are kept
        (their moving average, where there is one). ``batches`` are the training images in order, resized but not
        augmented, one per batch; they can be gone through more than once. What is found goes into buffers, so that a
        checkpoint holds it.
        """

    def probe(self, batch: Batch) -> Tensor:
        """All that the network computes of ``batch``, flat: by it the engine finds whether a faster form of the model
        is equal.

        A system that makes discrete choices (which boxes stay) returns here what it computes before them.
        """
        found = [getattr(p, f.name) for p in self.predict(batch) for f in dataclasses.fields(p)]
        return torch.cat([v.float().flatten() for v in found if isinstance(v, Tensor)])

    def pixels(self, batch: Batch, name: str | None = None) -> Tensor:
        """What the network is fed: the batch's images [N,3,H,W], normalised by ``input``, the padding zero.

        With the ``name`` of a further input that is an image, that one.
        """
        images = batch.images if name is None else batch.further_images(name)
        if images.shape[1] != self.input.channels:
            raise UsageError(f"the images have {images.shape[1]} channels; the model takes {self.input.channels}")
        mean = images.new_tensor(self.input.mean).view(-1, 1, 1)
        std = images.new_tensor(self.input.std).view(-1, 1, 1)
        images = (images - mean) / std
        if batch.padded:
            for row, (height, width) in zip(images, batch.sizes, strict=True):
                row[:, height:] = 0
                row[:, :, width:] = 0
        weight = next(self.parameters(), None)
        if weight is not None and weight.dtype in (torch.bfloat16, torch.float16):
            images = images.to(weight.dtype)
        return images.contiguous(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a model without any."""
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    def extra_repr(self) -> str:
        """The number of classes and parameters."""
        count = sum(p.numel() for p in self.parameters())
        return f"classes={len(self.classes)}, parameters={count:,}"


@functools.cache
def declared_arguments(cls: type[Model]) -> dict[str, tuple[inspect.Parameter, type[Model]]]:
    """The arguments of ``cls``, by name, each with the class whose constructor declares it; see :class:`Model`."""
    declaring, *parents = [base for base in cls.__mro__ if "__init__" in vars(base)]
    found: dict[str, tuple[inspect.Parameter, type[Model]]] = {}
    shared: dict[str, tuple[inspect.Parameter, type[Model]]] = {}
    for parameter in list(inspect.signature(vars(declaring)["__init__"]).parameters.values())[1:]:  # without self
        if parameter.kind is parameter.VAR_KEYWORD and issubclass(parents[0], Model):
            shared = declared_arguments(parents[0])
        elif not parameter.name.startswith("_"):
            found[parameter.name] = (parameter, declaring)
    return {**found, **{name: entry for name, entry in shared.items() if name not in found}}
