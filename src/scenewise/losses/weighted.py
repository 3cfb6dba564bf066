"""A weighted sum of losses by name, as a module that a system holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.losses.table import Takes, Term, Terms, read_terms


class WeightedLoss(nn.Module):
    """The terms of a loss, such as ``{"cross-entropy": 1.0, "focal": {"weight": 0.5, "gamma": 3}}``.

    Args:
        terms: the weight of each loss by its name, or a mapping of ``weight`` and the loss's own parameters.
        takes: what the system's output is: see :class:`~scenewise.losses.table.Loss`.
        classes: their number, where there are any.
        class_weights: the weight of each class in the losses that are means over pixels, unless a term has
            ``class_weights`` of its own. Losses that are means over classes weigh all classes alike.

    Own functions, ``module:function``, are imported by :meth:`resolve` or when first used, so that a checkpoint can be
    loaded, and predict, where they are not installed.

    Raises:
        UsageError: a name, a weight or a parameter does not fit; or not one class weight per class.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        terms: Terms,
        takes: Takes,
        *,
        classes: int | None = None,
        class_weights: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.terms: dict[str, Term] = read_terms(terms, takes)
        self.classes = classes
        self.register_buffer("class_weights", self._per_class(class_weights, "class_weights"), persistent=False)
        for name, term in self.terms.items():
            if not term.own:
                self.weights_of(name)  # checks their number

    def resolve(self) -> None:
        """Import own functions, and check their parameters.

        Raises:
            UsageError: one can't be imported, or has no such parameter.
        """
        for term in self.terms.values():
            term.arguments  # noqa: B018 -- checks them

    def forward(
        self,
        predicted: Tensor,
        target: Tensor,
        *,
        inputs: Mapping[str, Tensor | None] | None = None,
        of_term: Mapping[str, Mapping[str, Tensor | None]] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            predicted: what the system's output is, such as logits [N,C,H,W].
            target: what it is compared with.
            inputs: further tensors by the name of the argument; each loss gets those that it has an argument for.
            of_term: further arguments of single terms, by the term's name. They take the place of others.
        """
        found = {}
        for name, term in self.terms.items():
            arguments = dict(term.arguments)
            if (class_weights := self.weights_of(name)) is not None:
                arguments["class_weights"] = class_weights
            arguments |= {k: v for k, v in (inputs or {}).items() if k in term.accepted}
            arguments |= (of_term or {}).get(name, {})
            found[name] = term.weight * term.function(predicted, target, **arguments)
        return found

    def weights_of(self, name: str) -> Tensor | None:
        """The class weights of the term ``name``, float32 [C]; None where it has none."""
        term = self.terms[name]
        if "class_weights" in term.arguments:
            return self._per_class(term.arguments["class_weights"], f"loss: {name}: class_weights")
        return self.class_weights if term.over_pixels else None

    def _per_class(self, weights: Sequence[float] | None, place: str) -> Tensor | None:
        """float32 [C]."""
        if weights is None:
            return None
        if self.classes is not None and len(weights) != self.classes:
            raise UsageError(f"{place} has {len(weights)} numbers; expected one for each of {self.classes} classes")
        return torch.tensor(weights, dtype=torch.float32)
