"""The table of every loss: its name in recipes, its function, what it takes; and how terms by name become functions.

A recipe names losses by their weight, or by a mapping of ``weight`` (1 where it is left out) and the loss's own
parameters, which are the keyword-only arguments of its function, with its defaults::

    loss: {cross-entropy: 1.0, focal: {weight: 0.5, gamma: 3}}

A loss of one's own is ``module:function``, a function of the same arguments.
"""

from __future__ import annotations

import importlib
import inspect
import re
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Generator, Tensor

from scenewise.errors import UsageError, suggest
from scenewise.own import own_function
from scenewise.types import is_misplaced_bool

LARGEST = 1e38  # of a weight: beyond it float32 is infinite

Takes = Literal["class maps", "boundaries", "depth", "normals", "embeddings", "discriminator"]
Terms = Mapping[str, float | Mapping[str, Any]]


@dataclass(frozen=True)
class Loss:
    """A row of the table.

    Attributes:
        name: in recipes.
        location: ``module:function`` below ``scenewise.losses``, imported when needed.
        takes: what it compares: ``"class maps"``: logits [N,C,H,W] and labels or memberships; ``"boundaries"``: logits
            [N,C,H,W] and boundary maps; ``"depth"`` and ``"normals"``: the predicted map and the true one;
            ``"embeddings"``: embeddings [P,D] and ids [P]; ``"discriminator"``: logits of a discriminator.
        over_pixels: whether it is a mean over pixels, in which frequent classes dominate, so that a model's
            ``class_weights`` reach it. Means over classes weigh all classes alike by their nature.
    """

    name: str
    location: str
    takes: Takes
    over_pixels: bool = False

    @property
    def function(self) -> Callable[..., Tensor]:
        """Its keyword-only arguments are the loss's parameters."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(f"scenewise.losses.{module}"), name)  # type: ignore[no-any-return]


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross-entropy", "cross_entropy:cross_entropy", "class maps", over_pixels=True),
        Loss("balanced-cross-entropy", "cross_entropy:balanced_cross_entropy", "class maps"),
        Loss("edge-cross-entropy", "cross_entropy:edge_cross_entropy", "class maps", over_pixels=True),
        Loss("binary-cross-entropy", "cross_entropy:binary_cross_entropy", "class maps", over_pixels=True),
        Loss("focal", "focal:focal", "class maps", over_pixels=True),
        Loss("sigmoid-focal", "focal:binary_focal", "class maps"),
        Loss("ohem", "cross_entropy:ohem_cross_entropy", "class maps", over_pixels=True),
        Loss("jaccard", "overlap:jaccard", "class maps"),
        Loss("dice", "overlap:dice", "class maps"),
        Loss("generalized-dice", "overlap:generalized_dice", "class maps"),
        Loss("tversky", "overlap:tversky", "class maps"),
        Loss("lovasz", "lovasz:lovasz_softmax", "class maps"),
        Loss("lovasz-hinge", "lovasz:lovasz_hinge", "class maps"),
        Loss("total-variation", "smoothness:smoothness", "class maps"),
        Loss("balanced-edges", "edges:balanced_edges", "boundaries"),
        Loss("edge-dice", "edges:edge_dice", "boundaries"),
        Loss("depth-l1", "depth:depth_l1", "depth"),
        Loss("depth-l2", "depth:depth_l2", "depth"),
        Loss("berhu", "depth:berhu", "depth"),
        Loss("scale-invariant", "depth:scale_invariant", "depth"),
        Loss("ssim", "depth:ssim", "depth"),
        Loss("normals", "normals:normal_difference", "normals"),
        Loss("contrastive", "embeddings:contrastive", "embeddings"),
        Loss("triplet", "embeddings:triplet", "embeddings"),
        Loss("n-pair", "embeddings:n_pair", "embeddings"),
        Loss("lifted-structure", "embeddings:lifted_structure", "embeddings"),
        Loss("pair-logistic", "embeddings:pair_logistic", "embeddings"),
        Loss("discriminator", "adversarial:discriminator_loss", "discriminator"),
        Loss("generator", "adversarial:generator_loss", "discriminator"),
    )
}


def losses_for(takes: Takes) -> dict[str, Loss]:
    """The rows that compare ``takes``. Boundary maps are memberships, which the losses of class maps take, too."""
    also = ("class maps",) if takes == "boundaries" else ()
    return {name: loss for name, loss in LOSSES.items() if loss.takes in (takes, *also)}


@dataclass(frozen=True)
class Parameter:
    """An argument of a loss that a recipe may give."""

    name: str
    type: Any
    default: Any  # inspect.Parameter.empty where it must be given

    def checked(self, value: Any, place: str) -> Any:
        """``value`` as the loss takes it; a :class:`UsageError` that begins with ``place`` where it does not fit."""
        from pydantic import TypeAdapter, ValidationError

        try:
            if is_misplaced_bool(value, self.type):
                raise ValueError("true and false are not numbers")
            return TypeAdapter(self.type, config={"allow_inf_nan": False}).validate_python(value)
        except ValueError as error:  # pydantic's own is one, too
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            found = reprlib.repr(value)
            raise UsageError(f"{place}: {self.name} is {found}; expected {self.describe()} ({reason})") from None

    def describe(self) -> str:
        """Its type in the words of a signature."""
        plain = isinstance(self.type, type) and not typing.get_args(self.type)
        return re.sub(r"\b(?:\w+\.)+(?=\w)", "", self.type.__name__ if plain else str(self.type))


def parameters(function: Callable[..., Tensor]) -> dict[str, Parameter]:
    """The keyword-only arguments of ``function`` that are plain values, and ``class_weights``, a number per class.

    Other tensors, such as ``pixel_weights``, come with the batch.
    """
    hints = typing.get_type_hints(function)
    found = {}
    for p in inspect.signature(function).parameters.values():
        kind = hints.get(p.name, Any)
        if p.name == "class_weights":
            kind = tuple[float, ...] | None
        elif p.kind is not p.KEYWORD_ONLY or {Tensor, Generator} & {kind, *typing.get_args(kind)}:
            continue
        found[p.name] = Parameter(p.name, kind, p.default)
    return found


@dataclass(frozen=True)
class Term:
    """A loss with its weight and those of its parameters that are given. Own functions are imported when first used."""

    name: str
    weight: float
    given: Mapping[str, Any]

    @cached_property
    def function(self) -> Callable[..., Tensor]:
        """The loss.

        Raises:
            UsageError: ``module:function`` can't be imported or is no function.
        """
        return LOSSES[self.name].function if self.name in LOSSES else own_function(self.name, "loss")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """``given``, checked against the function's signature.

        Raises:
            UsageError: names the loss and the parameter that it does not have, or whose value does not fit.
        """
        known = parameters(self.function)
        place = f"loss: {self.name}"
        for key in self.given:
            if key not in known:
                names = ["weight", *known]
                raise UsageError(f"{place} has no parameter {key!r}{suggest(key, names)}; known: {', '.join(names)}")
        for parameter in known.values():
            if parameter.default is inspect.Parameter.empty and parameter.name not in self.given:
                raise UsageError(f"{place}: {parameter.name} is missing; expected {parameter.describe()}")
        return {key: known[key].checked(value, place) for key, value in self.given.items()}

    @cached_property
    def accepted(self) -> frozenset[str]:
        """The names of the function's arguments."""
        return frozenset(inspect.signature(self.function).parameters)

    @property
    def own(self) -> bool:
        """Whether it is the user's function rather than a row of the table."""
        return self.name not in LOSSES

    @property
    def over_pixels(self) -> bool:
        """Whether a model's class weights reach it; own losses get them where they have that argument."""
        return "class_weights" in self.accepted if self.own else LOSSES[self.name].over_pixels


def read_terms(terms: Terms, takes: Takes) -> dict[str, Term]:
    """The losses that ``terms`` name, by name, which compare ``takes``; all but own functions checked in full.

    Raises:
        UsageError: there is no such loss, it takes something else, or its weight or a parameter does not fit.
    """
    if not isinstance(terms, Mapping):
        raise UsageError(f"loss is {terms!r}; expected losses with their weights, such as {{cross-entropy: 1.0}}")
    if not terms:
        raise UsageError("loss is empty; expected at least one loss with its weight, such as {cross-entropy: 1.0}")
    known = losses_for(takes)
    found = {}
    for name, value in terms.items():
        if not isinstance(name, str) or (name not in LOSSES and ":" not in name):
            near = suggest(str(name), known)
            raise UsageError(
                f"loss: there is no {name!r}{near}; known: {', '.join(known)}, "
                "or a function of your own as module:function"
            )
        if name in LOSSES and name not in known:
            raise UsageError(
                f"loss: {name} compares {LOSSES[name].takes}, and the model needs one for {takes}; "
                f"known: {', '.join(known)}"
            )
        found[name] = term = _term(name, value)
        if not term.own:
            term.arguments  # noqa: B018 -- checks them
    if not any(term.weight for term in found.values()):
        raise UsageError("loss: all weights are 0, so that there is nothing to minimise; expected one above 0")
    return found


def _term(name: str, value: Any) -> Term:
    given = {k: v for k, v in value.items() if k != "weight"} if isinstance(value, Mapping) else {}
    weight = value.get("weight", 1.0) if isinstance(value, Mapping) else value
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= LARGEST:
        raise UsageError(
            f"loss: the weight of {name} is {reprlib.repr(weight)}; expected a number, 0 or more, or a mapping of "
            "weight and parameters, such as {weight: 0.5, ...}"
        )
    return Term(name, float(weight), given)
