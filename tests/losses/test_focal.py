import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torchvision.ops import sigmoid_focal_loss

from scenewise.losses.cross_entropy import cross_entropy
from scenewise.losses.focal import focal, sigmoid_focal
from scenewise.types import IGNORE


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.25] = IGNORE
    return logits, target


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("weights", [None, [0.25, 2.0, 0.0]])
def test_focal_equals_loop(gamma, normalized, weights):
    logits, target = example()
    total, factors, count = 0.0, 0.0, 0
    for n, i, j in (target != IGNORE).nonzero().tolist():
        label = int(target[n, i, j])
        q = float(logits[n, :, i, j].softmax(0)[label])
        total += (weights[label] if weights else 1) * (1 - q) ** gamma * -math.log(q)
        factors += (1 - q) ** gamma
        count += 1
    ours = focal(
        logits, target, gamma=gamma, class_weights=torch.tensor(weights) if weights else None, normalized=normalized
    )
    assert ours.item() == pytest.approx(total / (factors if normalized else count))


def test_gamma_0_is_the_cross_entropy():
    logits, target = example()
    torch.testing.assert_close(focal(logits, target, gamma=0), cross_entropy(logits, target), rtol=0, atol=0)
    truth = (torch.rand(30) < 0.5).float()
    terms = F.binary_cross_entropy_with_logits(torch.linspace(-5, 5, 30), truth, reduction="none")
    assert torch.equal(sigmoid_focal(torch.linspace(-5, 5, 30), truth, alpha=None, gamma=0), terms)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.8])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("soft", [False, True])
def test_sigmoid_focal_equals_torchvision(alpha, gamma, soft):
    logits = 3 * torch.randn(7, 11, dtype=torch.float64)
    target = torch.rand(7, 11, dtype=torch.float64)
    target = target if soft else target.round()
    theirs = sigmoid_focal_loss(logits, target, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(sigmoid_focal(logits, target, alpha=alpha, gamma=gamma), theirs)


def test_sigmoid_focal_of_two_classes_is_the_softmax_focal():
    logits, target = example()
    target = torch.where(target == IGNORE, IGNORE, target % 2)
    z = logits[:, 0]
    terms = sigmoid_focal(z, target, alpha=None)
    counted = target != IGNORE
    assert not terms[~counted].any()
    torch.testing.assert_close(focal(torch.stack([torch.zeros_like(z), z], 1), target), terms.sum() / counted.sum())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients(gamma):
    logits, target = example()
    logits, target = logits[:1, :, :2, :2].requires_grad_(), target[:1, :2, :2]
    assert (target != IGNORE).any()
    assert gradcheck(lambda z: focal(z, target, gamma=gamma), logits)
    assert gradcheck(lambda z: sigmoid_focal(z[:, 0], target % 2, gamma=gamma).sum(), logits)


def test_no_gradient_flows_through_the_divisor():
    logits, target = example()
    logits.requires_grad_()
    plain, normalized = (focal(logits, target, normalized=choice) for choice in (False, True))
    (a,), (b,) = (torch.autograd.grad(loss, logits) for loss in (plain, normalized))
    torch.testing.assert_close(a / plain, b / normalized)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_are_finite_where_certain(gamma, dtype):
    sure = torch.tensor([1e4, 200.0, 30.0, 0.0, -30.0, -200.0, -1e4], dtype=dtype, requires_grad=True)
    for target in (torch.zeros(7), torch.ones(7)):
        terms = sigmoid_focal(sure, target, gamma=gamma)
        (gradient,) = torch.autograd.grad(terms.sum(), sure)
        assert terms.isfinite().all()
        assert gradient.isfinite().all()
        both = torch.stack([torch.zeros_like(sure), sure])[None, :, None]  # [1,2,1,7]
        loss = focal(both, target.long()[None, None], gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, sure)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_certain_answers_keep_their_digits():
    """1 - q of an element that is nearly right is 1e-9, where in float32 the difference of 1 and q is 0."""
    value = sigmoid_focal(torch.tensor([math.log(1e9)]), torch.ones(1), alpha=None, gamma=1).item()
    assert value == pytest.approx(1e-9 * 1e-9, rel=1e-5, abs=0)


def test_nothing_counts():
    logits = torch.randn(4, requires_grad=True)
    loss = sigmoid_focal(logits, torch.full((4,), IGNORE)).sum()
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
