import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.normals import normal_difference

MEASURES = ("cosine", "squared", "euclidean", "angle")


def example():
    generator = torch.Generator().manual_seed(0)
    found, truth = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=generator)
    truth = F.normalize(truth, dim=1)
    truth[0, :, 0], truth[1, 1, 2, 2], truth[1, :, 3, 3] = math.nan, math.nan, 0.0
    return found, truth


def angles(found, truth):
    """The angle between the two at each known pixel, by its definition."""
    result = []
    for n in range(2):
        for i in range(4):
            for j in range(5):
                a, b = found[n, :, i, j].tolist(), truth[n, :, i, j].tolist()
                if any(map(math.isnan, b)) or not any(b):
                    continue
                cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
                result.append(math.acos(max(-1, min(1, cosine))))
    return result


def test_equal_loops():
    found, truth = example()
    all_angles = angles(found, truth)
    assert len(all_angles) == 40 - 7
    for measure, value in {
        "cosine": lambda a: 1 - math.cos(a),
        "squared": lambda a: 2 - 2 * math.cos(a),
        "euclidean": lambda a: math.sqrt(2 - 2 * math.cos(a)),
        "angle": lambda a: a,
    }.items():
        expected = sum(map(value, all_angles)) / len(all_angles)
        assert normal_difference(found, truth, measure=measure).item() == pytest.approx(expected), measure


def test_cosine_equals_torch():
    found, truth = example()
    known = ~truth.isnan().any(1) & (truth != 0).any(1)
    theirs = (1 - F.cosine_similarity(found, truth, dim=1))[known].mean()
    torch.testing.assert_close(normal_difference(found, truth), theirs)


def test_measures_are_functions_of_each_other():
    """At one pixel: 1 - cos a = d^2 / 2 and d = 2 sin(a / 2)."""
    found, truth = (x[1:, :, 1:2, 1:2] for x in example())
    cosine, squared, distance, angle = (normal_difference(found, truth, measure=m).item() for m in MEASURES)
    assert squared == pytest.approx(2 * cosine)
    assert distance == pytest.approx(math.sqrt(2 * cosine))
    assert distance == pytest.approx(2 * math.sin(angle / 2))


@pytest.mark.parametrize("measure", MEASURES)
def test_gradients(measure):
    found, truth = example()
    assert gradcheck(lambda x: normal_difference(x, truth, measure=measure), found.requires_grad_())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_finite_where_right_or_opposite(measure, sign):
    truth = F.normalize(torch.randn(1, 3, 2, 2), dim=1)
    found = (2 * sign * truth).requires_grad_()
    loss = normal_difference(found, truth, measure=measure)
    loss.backward()
    best, worst = 0, {"cosine": 2, "squared": 4, "euclidean": 2, "angle": math.pi}[measure]
    assert loss.item() == pytest.approx(best if sign > 0 else worst, abs=4e-3)
    assert found.grad.isfinite().all()


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_known(measure):
    found = torch.randn(2, 3, 4, 5).half().requires_grad_()
    loss = normal_difference(found, torch.full((2, 3, 4, 5), math.nan), measure=measure)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == 0
    assert not found.grad.any()


def test_errors():
    found, truth = example()
    with pytest.raises(UsageError, match=r"normals are \[2, 3, 4, 4\] and their truth \[2, 3, 4, 5\]"):
        normal_difference(found[..., :4], truth)
    with pytest.raises(UsageError, match="measure is 'l2'; expected 'cosine' or 'euclidean' or 'squared' or 'angle'"):
        normal_difference(found, truth, measure="l2")
