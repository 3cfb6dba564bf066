"""The permutohedral lattice: Gaussian filtering in five or so dimensions, in time linear in the number of points.

Adams, Baek and Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice, Computer Graphics Forum 2010.

Shapes: N points, D dimensions, C channels, M vertices of the lattice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError

KEY_BITS = 62  # of one int64 that holds a vertex's coordinates


class Lattice:
    """Filters values at N points with the Gaussian ``exp(-|f_i - f_j|^2 / 2)`` of their features.

    Values are spread ("splatted") to the vertices of the simplex that holds each point, blurred along the lattice's
    D + 1 axes, and read back ("sliced"). Beyond the paper, the lattice also has those vertices' neighbours, since
    what is blurred into a hole is lost: that makes the largest errors a third to two thirds of the paper's.

    Args:
        features: float [N,D], each axis divided by its standard deviation.
        passes: how often each axis is blurred, on a lattice that is finer in proportion: the more, the nearer to the
            Gaussian, and the more vertices.

    Raises:
        UsageError: the features spread over more vertices than can be numbered.

    The filter is a matrix of N x N, and symmetric but for the order of the axes. The kernel is the Gaussian times a
    constant, which depends on D and the passes: divide by what ones are filtered to.
    """

    def __init__(self, features: Tensor, passes: int = 1) -> None:
        points, dims = features.shape
        keys, weights = _simplices(features, passes)
        packed, span = _pack(keys.reshape(-1, dims), margin=passes + 1)
        own, places = torch.unique(packed, return_inverse=True)
        vertices = own
        for _ in range(passes):
            vertices = torch.unique(torch.cat([vertices, *((vertices + step) for step in _steps(span))]))
        places = torch.searchsorted(vertices, own)[places]
        self.vertices, self.passes = len(vertices), passes
        self._corners = places.view(points, dims + 1)
        self._weights = weights.to(features)
        order = places.argsort(stable=True)
        self._sources = order // (dims + 1)  # the points at each vertex, vertex by vertex
        self._source_weights = self._weights.reshape(-1)[order]
        self._starts = torch.searchsorted(places[order], torch.arange(self.vertices, device=places.device))
        steps = _steps(span)
        self._axes = [_taps(vertices, before, after) for before, after in zip(steps[::2], steps[1::2], strict=True)]

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered ``values``, float [N,C]; gradients reach them, not the features."""
        found: Tensor = _Filtering.apply(values, self)
        return found

    def forwards(self, values: Tensor) -> Tensor:
        """``values`` [N,C] times the filter's matrix, without gradients."""
        return self._filter(values, self._axes)

    def transposed(self, values: Tensor) -> Tensor:
        """``values`` [N,C] times the transpose of the filter's matrix, without gradients."""
        return self._filter(values, self._axes[::-1])

    def _filter(self, values: Tensor, axes: list[tuple[Tensor, Tensor]]) -> Tensor:
        found = F.embedding_bag(
            self._sources, values, self._starts, mode="sum", per_sample_weights=self._source_weights.to(values)
        )
        for _ in range(self.passes):
            for places, weights in axes:
                found = F.embedding_bag(places, found, mode="sum", per_sample_weights=weights.to(values))
        return F.embedding_bag(self._corners, found, mode="sum", per_sample_weights=self._weights.to(values))


class _Filtering(torch.autograd.Function):
    """Filtering by a lattice, whose gradient is filtering by its transpose."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: Lattice) -> Tensor:
        ctx.lattice = lattice
        return lattice.forwards(values.contiguous())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice.transposed(gradients[0].contiguous()), None


def _simplices(features: Tensor, passes: int) -> tuple[Tensor, Tensor]:
    """The corners of each point's simplex, int64 [N,D+1,D] (a last coordinate follows from the others), and the point's
    barycentric weights for them, [N,D+1]. Adams et al., sec. 3.1 and 3.2.
    """
    _points, dims = features.shape
    steps = torch.arange(dims, dtype=torch.float64, device=features.device)
    # Splatting and slicing spread by (D+1)^2 / 6 in all, each blur along the axes by (D+1)^2 / 2.
    scale = (dims + 1) * math.sqrt(passes / 2 + 1 / 6) / ((steps + 1) * (steps + 2)).sqrt()
    scaled = features.double() * scale  # in float64: ranks decide between neighbouring simplices
    elevated = F.pad(scaled.flip(1).cumsum(1).flip(1), (0, 1))
    elevated[:, 1:] -= (steps + 1) * scaled  # on the plane where coordinates sum to 0

    rounded = (elevated / (dims + 1)).round() * (dims + 1)
    excess = (rounded.sum(1) / (dims + 1)).round().long()
    rank = _ranks(elevated - rounded) + excess[:, None]
    turn = (rank < 0).long() - (rank > dims).long()
    rank = rank + (dims + 1) * turn
    rounded = rounded + (dims + 1) * turn

    difference = (elevated - rounded) / (dims + 1)
    rising = torch.empty_like(difference).scatter_(1, dims - rank, difference)
    weights = torch.cat([rising[:, :1] + 1 - rising[:, -1:], rising.diff(dim=1)], 1)
    corners = torch.arange(dims + 1, device=features.device)[:, None]
    offsets = corners - (dims + 1) * (rank[:, None, :-1] > dims - corners)
    return rounded.long()[:, None, :-1] + offsets, weights


def _ranks(values: Tensor) -> Tensor:
    """The place of each of ``values`` [N,D] in its row, the largest first and of equals the first; int64 [N,D]."""
    ranks = torch.zeros(values.shape, dtype=torch.int64, device=values.device)
    for i in range(values.shape[1]):
        for j in range(i):
            below = values[:, i] > values[:, j]
            ranks[:, j] += below
            ranks[:, i] += ~below
    return ranks


def _pack(keys: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """One int64 for each of ``keys`` [K,D], and the stride of each coordinate in it, [D]; with room for ``margin``
    steps along any axis."""
    room = margin * (keys.shape[1] + 1)
    low = keys.amin(0) - room
    extents = (keys.amax(0) - low + room + 1).tolist()
    if math.prod(extents) >= 2**KEY_BITS:
        raise UsageError(
            f"lattice: the features reach over {' x '.join(map(str, extents))} vertices; expected fewer than "
            f"2^{KEY_BITS}. Give the kernel larger standard deviations"
        )
    strides = [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]
    span = torch.tensor(strides, device=keys.device)
    return ((keys - low) * span).sum(1), span


def _steps(span: Tensor) -> list[int]:
    """From a packed vertex to its two neighbours along each of the D + 1 axes."""
    whole = [int(span.sum())] * (len(span) + 1)
    along = [step - stride for step, stride in zip(whole, [*((len(span) + 1) * span).tolist(), 0], strict=True)]
    return [sign * step for step in along for sign in (-1, 1)]


def _taps(vertices: Tensor, before: int, after: int) -> tuple[Tensor, Tensor]:
    """What a blur along an axis reads for each of ``vertices`` [M] (sorted), whose neighbours are ``before`` and
    ``after`` away: places and weights [M,3], 1/4, 1/2, 1/4; a neighbour that is not there has the weight 0."""
    own = torch.arange(len(vertices), device=vertices.device)
    places, weights = [own], [torch.full(own.shape, 0.5, device=own.device)]
    for step in (before, after):
        wanted = vertices + step
        found = torch.searchsorted(vertices, wanted).clamp_(max=len(vertices) - 1)
        there = vertices[found] == wanted
        places.append(torch.where(there, found, own))
        weights.append(there * 0.25)
    return torch.stack(places, 1), torch.stack(weights, 1)
