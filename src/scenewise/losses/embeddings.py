"""Metric learning: losses that bring embeddings of one object (or class) together and keep those of others apart.

Shapes: P embeddings of D numbers, float [P,D]; ``ids`` are int64 [P], equal where two embeddings belong together.
Sampled pixels of an image are such embeddings, with the indices of their objects as ids. Every loss is a scalar, and 0
(with a gradient of zeros) where there is no pair to learn from. All pairs are compared: sample before.

The losses are those of the embeddings at hand, in several processes those of each process; the mean over processes is
trained.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.losses.base import one_of, wide

Mining = Literal["semi-hard", "hard", "all"]


def contrastive(embeddings: Tensor, ids: Tensor, *, margin: float = 1.0) -> Tensor:
    """The mean over pairs of d^2 / 2 for those that belong together, of max(0, margin - d)^2 / 2 for the others.

    Args:
        embeddings: [P,D]; d is their Euclidean distance.
        ids: [P].
        margin: others are pushed apart up to this distance.

    Source: Hadsell, Chopra and LeCun, Dimensionality reduction by learning an invariant mapping, CVPR 2006, eq. 4.
    """
    squared = squared_distances(embeddings)
    same, other = _pairs(ids)
    first = torch.ones_like(same).triu(1)  # each pair once
    apart = (margin - _root(squared)).relu() ** 2
    terms = torch.where(same, squared, apart) * (first & (same | other))
    return terms.sum() / 2 / (first.sum()).clamp(min=1)


def triplet(embeddings: Tensor, ids: Tensor, *, margin: float = 0.2, mining: Mining = "semi-hard") -> Tensor:
    """The mean over triplets of max(0, d_ap^2 - d_an^2 + margin): an anchor a, a positive p, a negative n.

    Args:
        embeddings: [P,D].
        ids: [P].
        margin: by how much the squared distance to negatives should be larger.
        mining: which triplets. ``"semi-hard"``: for each a and p, the nearest negative that is farther than p, or where
            none is, the farthest negative; ``"hard"``: for each a, the farthest p and the nearest n; ``"all"``: all.

    Source: Schroff, Kalenichenko and Philbin, FaceNet, CVPR 2015, https://arxiv.org/abs/1503.03832, sec. 3.1 and 3.2;
    hard: Hermans, Beyer and Leibe, 2017, https://arxiv.org/abs/1703.07737, eq. 5.
    """
    one_of("mining", mining, ("semi-hard", "hard", "all"))
    squared = squared_distances(embeddings)
    same, other = _pairs(ids)
    if not same.any():
        return squared.sum() * 0
    far = squared.new_tensor(torch.inf)
    if mining == "hard":
        usable = same.any(1) & other.any(1)
        positive = torch.where(same, squared, -far).max(1).values[usable]
        negative = torch.where(other, squared, far).min(1).values[usable]
        terms = (positive - negative + margin).relu()
        return terms.sum() / max(1, len(terms))
    anchors, positives = (same & other.any(1, keepdim=True)).nonzero(as_tuple=True)  # [T]
    near, others = squared[anchors, positives], squared[anchors]  # [T], [T,P]
    negatives = other[anchors]
    if mining == "all":
        terms = (near[:, None] - others + margin).relu() * negatives
        return terms.sum() / negatives.sum().clamp(min=1)
    farther = negatives & (others > near[:, None])
    nearest = torch.where(farther, others, far).min(1).values
    farthest = torch.where(negatives, others, -far).max(1).values
    terms = (near - torch.where(farther.any(1), nearest, farthest) + margin).relu()
    return terms.sum() / max(1, len(terms))


def n_pair(
    embeddings: Tensor,
    ids: Tensor,
    *,
    draws: int = 1,
    similarity: Literal["dot", "logistic"] = "dot",
    regularization: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean of -log softmax(s)_i: of an anchor of object i, and one other embedding of each object, whose
    similarities to the anchor are s.

    Args:
        embeddings: [P,D].
        ids: [P]. Objects of a single embedding are compared with, and have no anchor of their own.
        draws: how often an anchor of each object is drawn, and with it the others.
        similarity: ``"dot"``, the inner product; ``"logistic"``, 2 / (1 + exp(d^2)), as in :func:`pair_logistic`.
        regularization: the weight of the mean squared length of the embeddings.
        generator: of the draws; None for torch's own.

    Source: Sohn, Improved deep metric learning with multi-class N-pair loss objective, NIPS 2016, eq. 6 and 7.
    """
    one_of("similarity", similarity, ("dot", "logistic"))
    if draws < 1:
        raise UsageError(f"draws is {draws}; expected 1 or more")
    e = wide(embeddings)
    terms = []
    for anchor, chosen, own in n_pairs(ids, draws, generator):
        others = e[chosen]  # [K,D]
        if similarity == "dot":
            scores = (others * e[anchor]).sum(1)
        else:
            scores = 2 * (-((others - e[anchor]) ** 2).sum(1)).sigmoid()
        terms.append(F.cross_entropy(scores[None], scores.new_tensor([own], dtype=torch.int64)))
    loss = torch.stack(terms).mean() if terms else e.sum() * 0
    return loss + regularization * (e**2).sum(1).sum() / max(1, len(e)) if regularization else loss


def n_pairs(ids: Tensor, draws: int, generator: torch.Generator | None = None) -> list[tuple[int, list[int], int]]:
    """What :func:`n_pair` compares: the index of an anchor, one of each object, and which of these is its own."""
    labels = ids.tolist()
    members = {label: [i for i, other in enumerate(labels) if other == label] for label in sorted(set(labels))}

    def drawn(choices: list[int]) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    found = []
    if len(members) > 1:
        for _ in range(draws):
            for own, (label, mine) in enumerate(members.items()):
                if len(mine) > 1:
                    anchor = drawn(mine)
                    left = {**members, label: [i for i in mine if i != anchor]}
                    found.append((anchor, [drawn(choices) for choices in left.values()], own))
    return found


def lifted_structure(embeddings: Tensor, ids: Tensor, *, margin: float = 1.0) -> Tensor:
    """The mean over pairs that belong together of max(0, J)^2 / 2, J = d_ij + log(sum exp(margin - d)), the sum being
    over all distances d of i and of j to embeddings that don't.

    Args:
        embeddings: [P,D].
        ids: [P].
        margin: others are pushed apart up to this distance, softly.

    Source: Song et al., Deep metric learning via lifted structured feature embedding, CVPR 2016,
    https://arxiv.org/abs/1511.06452, eq. 4.
    """
    distances = _root(squared_distances(embeddings))
    same, other = _pairs(ids)
    if not same.any():
        return distances.sum() * 0
    # log of the sum over the negatives of each embedding; one without any has -inf, and no pair is made of it.
    spread = (margin - distances).masked_fill(~other, -torch.inf)
    usable = other.any(1)
    pushed = torch.zeros_like(distances[0]).masked_scatter(usable, spread[usable].logsumexp(1))
    first, second = (same.triu(1) & usable[:, None] & usable).nonzero(as_tuple=True)
    terms = (distances[first, second] + torch.logaddexp(pushed[first], pushed[second])).relu() ** 2
    return terms.sum() / (2 * max(1, len(terms)))


def pair_logistic(embeddings: Tensor, ids: Tensor, *, eps: float = 1e-4) -> Tensor:
    """The weighted mean over pairs of -log s where the two belong together, else -log(1 - s), s = 2 / (1 + exp(d^2)).

    Args:
        embeddings: [P,D]; d is their Euclidean distance.
        ids: [P].
        eps: 1 - s is held above it: two equal embeddings would cost infinitely much.

    A pair's weight is inversely proportional to the sizes (numbers of embeddings) of both its objects; the weights sum
    to 1.

    Source: Fathi et al., Semantic instance segmentation via deep metric learning, 2017,
    https://arxiv.org/abs/1703.10277, eq. 1 and 2.
    """
    squared = squared_distances(embeddings)
    same, other = _pairs(ids)
    sizes = (ids[:, None] == ids).sum(1)
    weights = (same | other) / (sizes[:, None] * sizes).to(squared.dtype)
    together = F.softplus(squared) - torch.log(squared.new_tensor(2.0))  # -log s
    apart = -torch.tanh(squared / 2).clamp(min=eps).log()  # 1 - s = (exp(d^2) - 1) / (exp(d^2) + 1)
    terms = torch.where(same, together, apart) * weights
    return terms.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def squared_distances(embeddings: Tensor) -> Tensor:
    """[P,P] of ``embeddings`` [P,D], as sums of squared differences, which are exact where they are small."""
    e = wide(embeddings)
    return ((e[:, None] - e) ** 2).sum(2)


def _pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs belong together (none with itself) and which do not: bool [P,P] each."""
    equal = ids[:, None] == ids
    return equal & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device), ~equal


def _root(squared: Tensor) -> Tensor:
    """The distances, whose slope at 0 is held finite."""
    return squared.clamp(min=1e-12).sqrt()
