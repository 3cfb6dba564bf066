"""What is made of losses: adversarial terms, several maps against one target, weights of tasks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.adversarial import discriminator_loss, generator_loss
from scenewise.losses.cross_entropy import cross_entropy
from scenewise.losses.supervision import reduced_labels, supervise
from scenewise.losses.tasks import GradNorm, UncertaintyWeights


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


# ---- adversarial


def test_adversarial_terms_equal_loops():
    real, fake = torch.randn(2, 1, 3, 4, dtype=torch.float64), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    r, f = real.flatten().tolist(), fake.flatten().tolist()
    expected = mean(-math.log(sigmoid(z)) for z in r) + mean(-math.log(1 - sigmoid(z)) for z in f)
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert discriminator_loss(real, fake, factor=0.5).item() == pytest.approx(expected / 2)
    expected = mean((z - 1) ** 2 for z in r) + mean(z**2 for z in f)
    assert discriminator_loss(real, fake, kind="least-squares").item() == pytest.approx(expected)
    assert generator_loss(fake).item() == pytest.approx(mean(-math.log(sigmoid(z)) for z in f))
    assert generator_loss(fake, kind="minimax").item() == pytest.approx(mean(math.log(1 - sigmoid(z)) for z in f))
    assert generator_loss(fake, kind="least-squares").item() == pytest.approx(mean((z - 1) ** 2 for z in f))


def test_discriminator_loss_equals_torch():
    real, fake = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4)
    theirs = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    theirs = theirs + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_loss(real, fake), theirs)


def test_gradients_of_adversarial_terms():
    real, fake = (torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for kind in ("cross-entropy", "least-squares"):
        assert gradcheck(lambda r, f, kind=kind: discriminator_loss(r, f, kind=kind), (real, fake))
    for kind in ("non-saturating", "minimax", "least-squares"):
        assert gradcheck(lambda f, kind=kind: generator_loss(f, kind=kind), fake)
        (gradient,) = torch.autograd.grad(generator_loss(fake.sigmoid(), kind=kind), fake)
        assert (gradient < 0).all(), kind  # all want to be taken for real


def test_adversarial_errors():
    with pytest.raises(UsageError, match="kind is 'hinge'; expected 'cross-entropy' or 'least-squares'"):
        discriminator_loss(torch.ones(1), torch.ones(1), kind="hinge")
    with pytest.raises(UsageError, match="kind is 'hinge'; expected 'non-saturating' or 'minimax'"):
        generator_loss(torch.ones(1), kind="hinge")


# ---- several maps


def test_supervised_maps_equal_composition_by_hand():
    target = torch.randint(0, 3, (2, 8, 12))
    maps = {"main": torch.randn(2, 3, 8, 12), "coarse": torch.randn(2, 3, 4, 6), "odd": torch.randn(2, 3, 3, 5)}
    terms = supervise(cross_entropy, maps, target, weights={"coarse": 0.4})
    assert list(terms) == ["main", "coarse", "odd"]
    assert torch.equal(terms["main"], cross_entropy(maps["main"], target))
    enlarged = F.interpolate(maps["coarse"], (8, 12), mode="bilinear")
    assert torch.equal(terms["coarse"], 0.4 * cross_entropy(enlarged, target))
    terms = supervise(lambda z, t: {"a": cross_entropy(z, t), "b": z.sum()}, maps, target, resize="labels")
    for name, size in (("coarse", (4, 6)), ("odd", (3, 5))):
        nearest = F.interpolate(target[:, None].float(), size, mode="nearest-exact")[:, 0].long()
        expected = cross_entropy(maps[name], nearest) + maps[name].sum()
        torch.testing.assert_close(terms[name], expected)


def test_labels_are_reduced_to_those_at_the_centres():
    target = torch.arange(10)[None, None]
    assert reduced_labels(target, (1, 5)).tolist() == [[[1, 3, 5, 7, 9]]]
    assert reduced_labels(target, (1, 10)).tolist() == target.tolist()
    assert reduced_labels(target.expand(1, 4, 10)[None], (2, 3)).shape == (1, 1, 2, 3)


def test_errors_of_several_maps():
    maps, target = {"main": torch.zeros(1, 2, 3, 3)}, torch.zeros(1, 3, 3, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"weights: there is no map 'mian'; did you mean 'main'\?; known: main"):
        supervise(cross_entropy, maps, target, weights={"mian": 2.0})
    with pytest.raises(UsageError, match="resize is 'both'; expected 'logits' or 'labels'"):
        supervise(cross_entropy, maps, target, resize="both")


# ---- several tasks


def test_uncertainty_weights():
    weights = UncertaintyWeights(["depth", "normals"])
    terms = {"depth": torch.tensor(3.0), "normals": torch.tensor(0.5)}
    assert {k: v.item() for k, v in weights(terms).items()} == {"depth": 3.0, "normals": 0.5}
    with torch.no_grad():
        weights.log_variance.copy_(torch.tensor([1.0, -2.0]))
    found = weights(terms)
    assert found["depth"].item() == pytest.approx(3 * math.exp(-1) + 0.5)
    assert found["normals"].item() == pytest.approx(0.5 * math.exp(2) - 1)
    assert list(weights({"normals": torch.tensor(1.0)})) == ["normals"]
    optimizer = torch.optim.SGD(weights.parameters(), 0.1)
    for _ in range(500):
        optimizer.zero_grad()
        sum(weights(terms).values()).backward()
        optimizer.step()
    # the best s has exp(-s) L = 1 / 2
    torch.testing.assert_close(
        weights.log_variance.detach(), torch.log(2 * torch.tensor([3.0, 0.5])), atol=1e-3, rtol=0
    )
    with pytest.raises(UsageError, match="there is a loss term 'flow'; expected depth, normals"):
        weights({"flow": torch.tensor(1.0)})


def test_grad_norm_equalises_the_pulls():
    """Two tasks whose gradients at the shared weight differ a hundredfold; with alpha 0 their weights even that out."""
    shared = nn.Parameter(torch.tensor([2.0, -1.0]))
    balancer = GradNorm(["small", "large"], alpha=0.0)
    optimizer = torch.optim.Adam(balancer.parameters(), 0.01)

    def terms():
        return {"small": 0.1 * shared.sum() ** 2 + 1, "large": 10 * shared.sum() ** 2 + 1}

    for _ in range(400):
        optimizer.zero_grad()
        balancer.balance(terms(), [shared]).backward()
        optimizer.step()
        balancer.renormalize()
    small, large = balancer.weights.tolist()
    assert small + large == pytest.approx(2)
    assert small / large == pytest.approx(100, rel=0.2)
    assert shared.grad is None
    weighted = balancer(terms())
    assert weighted["small"].item() == pytest.approx(small * 1.1, rel=1e-5)
    sum(weighted.values()).backward()
    assert balancer.weights.grad is None or not balancer.weights.grad.any() or shared.grad is not None


def test_grad_norm_equals_its_formula():
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    balancer = GradNorm(["a", "b"], alpha=1.5)
    terms = {"a": (shared**2).sum(), "b": 3 * shared.sum()}
    balancer.balance(terms, [shared])  # keeps 5 and 9
    with torch.no_grad():
        shared.copy_(torch.tensor([0.5, 1.0]))
        balancer.weights.copy_(torch.tensor([0.5, 1.5]))
    terms = {"a": (shared**2).sum(), "b": 3 * shared.sum()}  # 1.25 and 4.5
    norms = [0.5 * math.hypot(1, 2), 1.5 * math.hypot(3, 3)]
    progress = [1.25 / 5, 4.5 / 9]
    rates = [p / mean(progress) for p in progress]
    aims = [mean(norms) * r**1.5 for r in rates]
    loss = balancer.balance(terms, [shared])
    assert loss.item() == pytest.approx(sum(abs(n - a) for n, a in zip(norms, aims, strict=True)))
    loss.backward()
    signs = [math.copysign(1, n - a) for n, a in zip(norms, aims, strict=True)]
    expected = [signs[0] * math.hypot(1, 2), signs[1] * math.hypot(3, 3)]
    assert balancer.weights.grad.tolist() == pytest.approx(expected)
    with pytest.raises(UsageError, match="the loss term 'b' is missing; expected a, b"):
        balancer({"a": terms["a"]})
