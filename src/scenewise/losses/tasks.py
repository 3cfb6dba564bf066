"""How the losses of several tasks are weighed against each other while they train.

Fixed weights need nothing of this: they are numbers in a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError


class UncertaintyWeights(nn.Module):
    """Weighs each term by a learned uncertainty: exp(-s) L + s / 2.

    Args:
        names: of the terms.

    The s start at 0, so that all weights start at 1; they are parameters and belong into the optimizer.

    Source: Kendall, Gal and Cipolla, Multi-task learning using uncertainty to weigh losses, CVPR 2018,
    https://arxiv.org/abs/1705.07115, sec. 3.2.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_variance = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms. Those that ``terms`` lacks, for want of a truth in the batch, are left alone."""
        _check(terms, self.names)
        return {
            name: torch.exp(-s) * terms[name] + s / 2
            for name, s in zip(self.names, self.log_variance, strict=True)
            if name in terms
        }


class GradNorm(nn.Module):
    """Weighs the terms so that all of them pull on shared parameters with like strength, and slow ones more.

    Args:
        names: of the terms.
        alpha: how strongly a task that learns more slowly than the others is favoured; 0 for equal strength.

    The weights start at 1 and are parameters with an own optimizer: after each of its steps call :meth:`renormalize`.
    The first call keeps the values of the terms, which the rates of learning are measured against.

    Source: Chen et al., GradNorm, ICML 2018, https://arxiv.org/abs/1711.02257, sec. 3.2 and algorithm 1.
    """

    first: Tensor

    def __init__(self, names: Sequence[str], *, alpha: float = 1.5) -> None:
        super().__init__()
        self.names, self.alpha = tuple(names), alpha
        self.weights = nn.Parameter(torch.ones(len(self.names)))
        self.register_buffer("first", torch.full((len(self.names),), torch.nan))

    def forward(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms for the network's own step; no gradient flows to the weights."""
        _check(terms, self.names, complete=True)
        return {name: w * terms[name] for name, w in zip(self.names, self.weights.detach(), strict=True)}

    def balance(self, terms: Mapping[str, Tensor], shared: Iterable[Tensor]) -> Tensor:
        """The loss of the weights: sum |G_i - mean(G) r_i^alpha|, in which only the G_i have a gradient.

        Args:
            terms: the plain terms, with their graph, which stays.
            shared: the parameters at which the gradients' norms G_i are taken, such as the last shared layer's.
        """
        _check(terms, self.names, complete=True)
        parameters = list(shared)
        norms = []
        for name, weight in zip(self.names, self.weights, strict=True):
            pulls = torch.autograd.grad(terms[name], parameters, retain_graph=True, allow_unused=True)
            squares = [pull.detach().float().square().sum() for pull in pulls if pull is not None]
            norms.append(weight * torch.stack(squares).sum().sqrt() if squares else weight * 0)
        values = torch.stack([terms[name].detach().float() for name in self.names])
        if self.first.isnan().any():
            self.first.copy_(values)
        progress = values / self.first.clamp(min=1e-12)
        rates = progress / progress.mean().clamp(min=1e-12)
        found = torch.stack(norms)
        aims = (found.mean() * rates**self.alpha).detach()
        return (found - aims).abs().sum()

    @torch.no_grad()
    def renormalize(self) -> None:
        """Hold the weights above 0, and their sum at their number."""
        self.weights.clamp_(min=1e-3)
        self.weights.mul_(len(self.names) / self.weights.sum())


def _check(terms: Mapping[str, Tensor], names: tuple[str, ...], complete: bool = False) -> None:
    for name in terms:
        if name not in names:
            raise UsageError(f"there is a loss term {name!r}; expected {', '.join(names)}")
    missing = [name for name in names if name not in terms]
    if complete and missing:
        raise UsageError(f"the loss term {missing[0]!r} is missing; expected {', '.join(names)}")
