"""Losses of depth maps against loops over pixels."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.depth import berhu, depth_l1, depth_l2, scale_invariant, ssim

LOSSES = {
    "l1": depth_l1,
    "l1-log": lambda d, t: depth_l1(d, t, log=True),
    "l2": depth_l2,
    "l2-log": lambda d, t: depth_l2(d, t, log=True),
    "berhu": lambda d, t: berhu(d, t, threshold=1.0),  # a limit that follows from the errors has no gradient
    "scale-invariant": scale_invariant,
    "scale-invariant-2014": lambda d, t: scale_invariant(d, t, gradient=0.0, images="by-size"),
    "ssim": lambda d, t: ssim(d, t, window=3),
}


def example(size=(5, 6)):
    """Depths of 1 to 9 m; of the true ones some are unknown, in each of the ways there are."""
    generator = torch.Generator().manual_seed(0)
    depth, truth = 1 + 8 * torch.rand(2, 2, *size, dtype=torch.float64, generator=generator)
    truth[0, 0], truth[0, 4, 1], truth[0, 4, 2], truth[1, 4, 5] = math.nan, 0.0, -1.0, math.inf
    return depth, truth


def known(depth, truth):
    """(image, row, column, depth, truth) of each pixel that is known."""
    return [
        (n, i, j, depth[n, i, j].item(), truth[n, i, j].item())
        for n, i, j in (truth > 0).logical_and(truth.isfinite()).nonzero().tolist()
    ]


def mean(values):
    values = list(values)
    return pytest.approx(sum(values) / len(values))


def test_l1_and_l2_equal_loops():
    depth, truth = example()
    pixels = known(depth, truth)
    assert len(pixels) == 60 - 9
    assert depth_l1(depth, truth).item() == mean(abs(d - t) for *_, d, t in pixels)
    assert depth_l2(depth, truth).item() == mean((d - t) ** 2 for *_, d, t in pixels)
    assert depth_l1(depth, truth, log=True).item() == mean(abs(math.log(d / t)) for *_, d, t in pixels)
    assert depth_l2(depth, truth, log=True).item() == mean(math.log(d / t) ** 2 for *_, d, t in pixels)


def reverse_huber(error, limit):
    return abs(error) if abs(error) <= limit else (error**2 + limit**2) / (2 * limit)


@pytest.mark.parametrize("log", [False, True])
def test_berhu_equals_loop(log):
    depth, truth = example()
    errors = [math.log(d / t) if log else d - t for *_, d, t in known(depth, truth)]
    limit = 0.2 * max(map(abs, errors))
    assert berhu(depth, truth, log=log).item() == mean(reverse_huber(e, limit) for e in errors)
    assert berhu(depth, truth, log=log, threshold=0.3).item() == mean(reverse_huber(e, 0.3) for e in errors)
    assert berhu(truth.nan_to_num(1.0), truth).item() == 0


def test_no_gradient_flows_through_the_limit_of_berhu():
    depth, truth = example()
    depth.requires_grad_()
    limit = 0.2 * max(abs(d - t) for *_, d, t in known(depth, truth))
    (a,), (b,) = (torch.autograd.grad(berhu(depth, truth, **o), depth) for o in ({}, {"threshold": limit}))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("images", ["equal", "by-size"])
@pytest.mark.parametrize(("variance", "gradient"), [(0.5, 1.0), (1.0, 0.0), (0.0, 0.3)])
def test_scale_invariant_equals_loop(images, variance, gradient):
    depth, truth = example()
    losses, counts = [], []
    for image in range(2):
        d = {(i, j): math.log(a / b) for n, i, j, a, b in known(depth, truth) if n == image}
        slopes = [d[i + a, j + b] - v for (i, j), v in d.items() for a, b in ((1, 0), (0, 1)) if (i + a, j + b) in d]
        n = len(d)
        squares = sum(v * v for v in d.values()) / n
        losses.append(squares - variance * (sum(d.values()) / n) ** 2 + gradient * sum(s * s for s in slopes) / n)
        counts.append(n * n if images == "by-size" else 1)
    expected = sum(w * v for w, v in zip(counts, losses, strict=True)) / sum(counts)
    ours = scale_invariant(depth, truth, variance=variance, gradient=gradient, images=images)
    assert ours.item() == pytest.approx(expected)


def test_a_common_factor_costs_nothing_with_all_of_the_variance():
    _, truth = example()
    depth = truth.nan_to_num(1.0).clamp(min=0.1, max=100) * 1.7
    assert scale_invariant(depth, truth, variance=1.0).item() == pytest.approx(0, abs=1e-12)
    expected = math.log(1.7) ** 2 / 2
    assert scale_invariant(depth, truth, variance=0.5).item() == pytest.approx(expected)


def test_ssim_equals_a_reference():
    from torchmetrics.functional.image import structural_similarity_index_measure as reference

    generator = torch.Generator().manual_seed(3)
    a, b = 1 + 8 * torch.rand(2, 1, 1, 24, 26, dtype=torch.float64, generator=generator)
    _, everywhere = reference(a, b, sigma=1.5, data_range=10.0, return_full_image=True)
    whole = everywhere[..., 5:-5, 5:-5]  # the others see a padded border
    assert ssim(a[:, 0], b[:, 0]).item() == pytest.approx((1 - whole.mean().item()) / 2)
    assert ssim(a[:, 0], a[:, 0]).item() == pytest.approx(0, abs=1e-12)


def test_ssim_leaves_out_windows_with_unknown_pixels():
    generator = torch.Generator().manual_seed(3)
    a, b = 1 + 8 * torch.rand(2, 1, 6, 9, dtype=torch.float64, generator=generator)
    b[0, :, 4] = math.nan
    halves = [ssim(a[..., part], b[..., part], window=3) for part in (slice(0, 4), slice(5, 9))]
    torch.testing.assert_close(ssim(a, b, window=3), sum(halves) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_unknown_pixels(name):
    depth, truth = example()
    loss = LOSSES[name]
    assert gradcheck(lambda d: loss(d, truth), depth.requires_grad_())
    value = loss(depth, truth)
    value.backward()
    unknown = ~(truth.isfinite() & (truth > 0))
    assert not depth.grad[unknown].any()
    assert loss(depth.masked_fill(unknown, 77.0), truth).item() == pytest.approx(value.item())
    half = (depth.detach()).half().requires_grad_()
    value = loss(half, torch.full_like(truth, math.nan).float())
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == 0
    assert torch.equal(half.grad, torch.zeros_like(half))


@pytest.mark.parametrize("loss", [depth_l1, depth_l2, berhu, scale_invariant, lambda *a, **o: ssim(*a, window=3, **o)])
def test_logarithms_may_come_in(loss):
    depth, truth = example()
    torch.testing.assert_close(loss(depth.log(), truth, log_input=True), loss(depth, truth))


def test_depths_of_0_are_held_above_it():
    _, truth = example()
    depth = torch.zeros_like(truth, requires_grad=True)
    loss = scale_invariant(depth, truth)
    loss.backward()
    assert loss.isfinite()
    assert depth.grad.isfinite().all()


def test_errors():
    depth, truth = example()
    with pytest.raises(UsageError, match=r"depth is \[1, 5, 6\] and its truth \[2, 5, 6\]; expected equal shapes"):
        depth_l1(depth[:1], truth)
    with pytest.raises(UsageError, match="berhu: share is 0 and threshold None; expected numbers above 0"):
        berhu(depth, truth, share=0)
    with pytest.raises(UsageError, match="ssim: window is 4; expected an odd number"):
        ssim(depth, truth, window=4)
    with pytest.raises(UsageError, match=r"ssim: the maps are \[5, 6\]; expected at least the window's 11 pixels"):
        ssim(depth, truth)
    with pytest.raises(UsageError, match="images is 'all'; expected 'equal' or 'by-size'"):
        scale_invariant(depth, truth, images="all")
