"""Losses of boundary maps against loops over pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.edges import balanced_edges, edge_dice
from scenewise.losses.overlap import dice
from scenewise.types import IGNORE


def example(kinds=2, images=3):
    """Logits and shares of annotators in 0, 0.2, ... 1 with void, by IGNORE and by NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, kinds, 4, 5, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 6, logits.shape, generator=generator).double() / 5
    target[torch.rand(target.shape, generator=generator) < 0.5] = 0
    target[torch.rand(target.shape, generator=generator) < 0.1] = IGNORE
    target[torch.rand(target.shape, generator=generator) < 0.1] = math.nan
    return logits, target


def answers(target, positive, negative):
    """1, 0, or None where ignored, for each entry."""

    def one(value):
        if math.isnan(value) or value == IGNORE:
            return None
        if value >= positive:
            return 1
        return 0 if negative is None or value <= negative else None

    return [[[[one(v) for v in row] for row in m] for m in image] for image in target.tolist()]


def terms(logits, truth, n, c):
    """(answer, -log of its probability) of each pixel of a map that counts."""
    found = []
    for i, row in enumerate(truth[n][c]):
        for j, answer in enumerate(row):
            if answer is not None:
                z = logits[n, c, i, j].item()
                found.append((answer, math.log1p(math.exp(-z if answer else z))))
    return found


@pytest.mark.parametrize(("positive", "negative"), [(0.5, None), (0.5, 0.0), (0.6, 0.2)])
@pytest.mark.parametrize("balance", ["map", "image", "batch"])
def test_balanced_edges_equals_loop(positive, negative, balance):
    logits, target = example()
    truth = answers(target, positive, negative)
    every = {(n, c): terms(logits, truth, n, c) for n in range(3) for c in range(2)}
    total = 0.0
    for (n, _), pixels in every.items():
        if balance == "map":
            beta = sum(not y for y, _ in pixels) / len(pixels)
        elif balance == "image":
            places = [(truth[n][0][i][j], truth[n][1][i][j]) for i in range(4) for j in range(5)]
            known = [p for p in places if None not in p]
            beta = sum(p == (0, 0) for p in known) / len(known)
        else:
            joint = [y for ps in every.values() for y, _ in ps]
            beta = sum(not y for y in joint) / len(joint)
        total += sum((beta if y else 1 - beta) * loss for y, loss in pixels)
    options = {"positive": positive, "negative": negative, "balance": balance}
    assert balanced_edges(logits, target, **options).item() == pytest.approx(total / 3)
    count = sum(len(pixels) for pixels in every.values())
    assert balanced_edges(logits, target, **options, norm="pixels").item() == pytest.approx(total / count)


def test_balanced_edges_equals_torch_with_weights():
    logits = torch.randn(2, 1, 6, 7)
    target = (torch.rand(2, 6, 7) < 0.2).float()
    beta = 1 - target.mean((1, 2), keepdim=True)
    weights = torch.where(target == 1, beta, 1 - beta)
    theirs = F.binary_cross_entropy_with_logits(logits[:, 0], target, weight=weights, reduction="sum") / 2
    torch.testing.assert_close(balanced_edges(logits, target), theirs)


def test_balanced_edges_without_a_positive():
    logits = torch.randn(1, 1, 3, 3, requires_grad=True)
    loss = balanced_edges(logits, torch.zeros(1, 1, 3, 3))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_edge_dice_equals_loop():
    logits, target = example()
    target[0, 1][target[0, 1] <= 1] = 0  # a map without a boundary is left out
    truth = answers(target, 0.5, None)
    ratios = []
    for n in range(3):
        for c in range(2):
            hit = called = total = 0.0
            for i, row in enumerate(truth[n][c]):
                for j, answer in enumerate(row):
                    if answer is not None:
                        q = 1 / (1 + math.exp(-logits[n, c, i, j].item()))
                        hit, called, total = hit + q * answer, called + q * q, total + answer
            if total:
                ratios.append((called + total) / (2 * hit))
    assert len(ratios) == 5
    assert edge_dice(logits, target).item() == pytest.approx(sum(ratios) / 5)


def test_edge_dice_is_the_inverse_of_the_squared_dice():
    logits, truth = torch.randn(1, 1, 5, 6), (torch.rand(1, 1, 5, 6) < 0.3).float()
    torch.testing.assert_close(edge_dice(logits, truth), 1 / (1 - dice(logits, truth, squared=True)))


@pytest.mark.parametrize(
    "loss",
    [
        balanced_edges,
        lambda z, t: balanced_edges(z, t, balance="image", norm="pixels"),
        edge_dice,
        lambda z, t: edge_dice(z, t, negative=0.2),
    ],
)
def test_gradients_void_and_nothing_to_count(loss):
    logits, target = example()
    assert gradcheck(lambda z: loss(z, target), logits.requires_grad_())
    void = (target == IGNORE) | target.isnan()
    assert loss(torch.where(void, 50.0, logits), target).item() == pytest.approx(loss(logits, target).item())
    half = logits.detach().half().requires_grad_()
    value = loss(half, torch.full_like(target, math.nan))
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == 0
    assert not half.grad.any()
    sure = (1e4 * logits.detach()).float().requires_grad_()
    value = loss(sure, target)
    value.backward()
    assert value.isfinite()
    assert sure.grad.isfinite().all()


def test_errors():
    logits, target = example()
    with pytest.raises(UsageError, match=r"negative is 0.5 and positive 0.5; expected negative below positive"):
        balanced_edges(logits, target, negative=0.5)
    with pytest.raises(UsageError, match=r"the target is \[3, 1, 4, 5\]; expected \[3, 2, 4, 5\]"):
        edge_dice(logits, target[:, :1])
    with pytest.raises(UsageError, match="balance is 'class'; expected 'map' or 'image' or 'batch'"):
        balanced_edges(logits, target, balance="class")
