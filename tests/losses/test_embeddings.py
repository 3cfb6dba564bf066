"""Metric learning against loops over pairs and triplets."""

import math
from itertools import combinations

import pytest
import torch
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.embeddings import contrastive, lifted_structure, n_pair, n_pairs, pair_logistic, triplet

LOSSES = {
    "contrastive": lambda e, i: contrastive(e, i, margin=2.0),
    "semi-hard": triplet,
    "hard": lambda e, i: triplet(e, i, mining="hard"),
    "all": lambda e, i: triplet(e, i, mining="all", margin=1.0),
    "n-pair": lambda e, i: n_pair(e, i, draws=3, regularization=0.1, generator=torch.Generator().manual_seed(0)),
    "n-pair-logistic": lambda e, i: n_pair(e, i, similarity="logistic", generator=torch.Generator().manual_seed(0)),
    "lifted-structure": lifted_structure,
    "pair-logistic": pair_logistic,
}
IDS = [4, 4, 4, 7, 7, 0, 9, 9, 9, 9]  # object 0 has a single embedding


def example(ids=IDS, size=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(ids), size, dtype=torch.float64, generator=generator), torch.tensor(ids)


def distance(embeddings, a, b):
    return math.dist(embeddings[a].tolist(), embeddings[b].tolist())


def test_contrastive_equals_loop():
    e, ids = example()
    terms = []
    for a, b in combinations(range(len(e)), 2):
        d = distance(e, a, b)
        terms.append(d**2 / 2 if ids[a] == ids[b] else max(0, 2 - d) ** 2 / 2)
    assert contrastive(e, ids, margin=2.0).item() == pytest.approx(sum(terms) / len(terms))


@pytest.mark.parametrize("margin", [0.2, 2.0])
def test_triplets_equal_loops(margin):
    e, ids = example()
    semi, hard, every = [], [], []
    for a in range(len(e)):
        positives = [distance(e, a, p) ** 2 for p in range(len(e)) if p != a and ids[p] == ids[a]]
        negatives = [distance(e, a, n) ** 2 for n in range(len(e)) if ids[n] != ids[a]]
        for near in positives:
            farther = [far for far in negatives if far > near]
            semi.append(max(0, near - (min(farther) if farther else max(negatives)) + margin))
            every += [max(0, near - far + margin) for far in negatives]
        if positives:
            hard.append(max(0, max(positives) - min(negatives) + margin))
    for mining, terms in (("semi-hard", semi), ("hard", hard), ("all", every)):
        assert triplet(e, ids, margin=margin, mining=mining).item() == pytest.approx(sum(terms) / len(terms)), mining


def test_semi_hard_falls_back_to_the_farthest_negative():
    e, ids = torch.tensor([[0.0], [5.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 2])
    # anchor 0: d = 25, no negative is farther than that, the farthest has 4; anchor 1: 16 likewise
    assert triplet(e, ids, margin=0.5).item() == pytest.approx(((25 - 4) + (25 - 16) + 1) / 2)


@pytest.mark.parametrize("similarity", ["dot", "logistic"])
def test_n_pair_equals_loop(similarity):
    e, ids = example()
    terms = []
    for anchor, chosen, own in n_pairs(ids, 4, torch.Generator().manual_seed(5)):
        if similarity == "dot":
            scores = [sum(x * y for x, y in zip(e[anchor].tolist(), e[i].tolist(), strict=True)) for i in chosen]
        else:
            scores = [2 / (1 + math.exp(distance(e, anchor, i) ** 2)) for i in chosen]
        terms.append(-math.log(math.exp(scores[own]) / sum(map(math.exp, scores))))
    lengths = [sum(x * x for x in row) for row in e.tolist()]
    expected = sum(terms) / len(terms) + 0.3 * sum(lengths) / len(lengths)
    generator = torch.Generator().manual_seed(5)
    ours = n_pair(e, ids, draws=4, similarity=similarity, regularization=0.3, generator=generator)
    assert ours.item() == pytest.approx(expected)


def test_n_pairs_are_what_they_should_be():
    pairs = n_pairs(torch.tensor(IDS), 50, torch.Generator().manual_seed(0))
    assert len(pairs) == 150  # an anchor of each object but the one with a single embedding
    for anchor, chosen, own in pairs:
        assert [IDS[i] for i in chosen] == [0, 4, 7, 9]
        assert IDS[chosen[own]] == IDS[anchor]
        assert chosen[own] != anchor
    assert len({(anchor, *chosen) for anchor, chosen, _ in pairs}) > 20
    assert n_pairs(torch.tensor([3, 3, 3]), 5) == []


def test_lifted_structure_equals_loop():
    e, ids = example()
    terms = []
    for i, j in combinations(range(len(e)), 2):
        if ids[i] == ids[j]:
            others = [math.exp(1 - distance(e, a, k)) for a in (i, j) for k in range(len(e)) if ids[k] != ids[a]]
            terms.append(max(0, distance(e, i, j) + math.log(sum(others))) ** 2 / 2)
    assert lifted_structure(e, ids).item() == pytest.approx(sum(terms) / len(terms))


def test_pair_logistic_equals_loop():
    e, ids = example()
    total, weights = 0.0, 0.0
    for a in range(len(e)):
        for b in range(len(e)):
            if a != b:
                s = 2 / (1 + math.exp(distance(e, a, b) ** 2))
                weight = 1 / (IDS.count(IDS[a]) * IDS.count(IDS[b]))
                total -= weight * math.log(s if ids[a] == ids[b] else 1 - s)
                weights += weight
    assert pair_logistic(e, ids).item() == pytest.approx(total / weights)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    e, ids = example()
    assert gradcheck(lambda x: LOSSES[name](x, ids), e.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ids", [[], [2], [2, 2, 2], [1, 2, 3]])
def test_few_objects(name, ids):
    """Without a pair, or with pairs of one sort alone, the loss is finite, and so is its gradient."""
    e = torch.zeros(len(ids), 3, requires_grad=True)  # equal embeddings besides
    loss = LOSSES[name](e, torch.tensor(ids, dtype=torch.int64))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert e.grad.isfinite().all()
    if len(ids) < 2:
        assert loss.item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_apart_is_better_than_mixed(name):
    centres = 2.0 * torch.eye(4)
    ids = torch.arange(4).repeat(3)
    apart = LOSSES[name](centres.repeat(3, 1) + 0.01 * torch.randn(12, 4), ids)
    mixed = LOSSES[name](centres.repeat_interleave(3, 0) + 0.01 * torch.randn(12, 4), ids)
    assert apart < mixed


def test_errors():
    e, ids = example()
    with pytest.raises(UsageError, match="mining is 'easy'; expected 'semi-hard' or 'hard' or 'all'"):
        triplet(e, ids, mining="easy")
    with pytest.raises(UsageError, match="draws is 0; expected 1 or more"):
        n_pair(e, ids, draws=0)
    with pytest.raises(UsageError, match="similarity is 'cosine'; expected 'dot' or 'logistic'"):
        n_pair(e, ids, similarity="cosine")
