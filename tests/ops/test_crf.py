"""The fully connected CRF and the lattice, against the formulas, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from scenewise.errors import UsageError
from scenewise.ops.crf import DenseCRF, Exact, Separable, appearance, normalized, pixels
from scenewise.ops.lattice import Lattice


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picture(height, width, seed=0):
    """Smooth patches of colour with some noise, [3,H,W]."""
    coarse = random(1, 3, 4, 5, seed=seed)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")[0] * 0.9 + random(3, height, width) * 0.1


# ---- filters


def kernel_of(filter_, points):
    """The matrix of a filter, column by column."""
    return filter_(torch.eye(points, dtype=torch.float64))


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_a_lattice_filters_by_the_gaussian(dimensions, passes):
    points = random(300, dimensions, seed=dimensions) * 4
    found, wanted = (kernel_of(f, 300) for f in (Lattice(points, passes), Exact(points)))
    found, wanted = (k / k.sum(1, keepdim=True) for k in (found, wanted))
    assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.98
    values = points[:, :1] + random(300, 1)
    assert (found @ values - wanted @ values).abs().mean() < {1: 0.05, 2: 0.03}[passes]


def test_more_passes_are_nearer_to_the_gaussian():
    points = appearance(picture(20, 24), 10, 20)
    wanted = Exact(points)
    wanted = kernel_of(normalized(wanted, 480, points, "after"), 480)
    errors = [
        (kernel_of(normalized(Lattice(points, passes), 480, points, "after"), 480) - wanted).abs().sum(1).mean()
        for passes in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_far_points_do_not_meet_and_equal_ones_share():
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [50.0, -80.0]], dtype=torch.float64)
    kernel = kernel_of(Lattice(points), 3)
    assert kernel[0, 2] == kernel[2, 0] == 0
    torch.testing.assert_close(kernel[:2, :2], kernel[0, 0].expand(2, 2))


def test_the_gradient_of_a_lattice_is_its_transpose():
    points, values = random(40, 3) * 2, random(40, 2, seed=1)
    kernel = kernel_of(Lattice(points), 40)
    assert not torch.equal(kernel, kernel.T)
    lattice = Lattice(points)
    torch.testing.assert_close(lattice.transposed(values), kernel.T @ values)
    assert torch.autograd.gradcheck(lattice, values.requires_grad_())


def test_features_without_bounds_are_refused():
    with pytest.raises(UsageError, match="Give the kernel larger standard deviations"):
        Lattice(torch.rand(10, 5) * 1e6)


@pytest.mark.parametrize("sigma", [0.5, 3.0, 40.0])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (1, 300), (520, 3)])
def test_the_kernel_of_positions_is_exact(height, width, sigma):
    """Also where a side is filtered block by block."""
    positions = appearance(torch.zeros(0, height, width, dtype=torch.float64), sigma, 1)
    values = random(height * width, 2)
    torch.testing.assert_close(Separable(height, width, sigma)(values), Exact(positions)(values), rtol=1e-6, atol=1e-6)


# ---- mean field


def by_hand(logits, image, crf):
    """Marginals [C,H,W] by sums over all pairs of pixels."""
    unary = -logits.flatten(1).softmax(0).clamp(min=crf.min_probability).log().T
    places = [(row, column) for row in range(image.shape[1]) for column in range(image.shape[2])]
    kernels = []
    for weight, spread, colours in (
        (crf.appearance_weight, crf.position_sigma, crf.color_sigma),
        (crf.smoothness_weight, crf.smoothness_sigma, math.inf),
    ):
        kernel = torch.zeros(len(places), len(places), dtype=torch.float64)
        for i, p in enumerate(places):
            for j, q in enumerate(places):
                apart = ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / (2 * spread**2)
                unlike = ((255 * (image[:, p[0], p[1]] - image[:, q[0], q[1]])) ** 2).sum() / (2 * colours**2)
                kernel[i, j] = torch.exp(-apart - unlike)
        total = kernel.sum(1)
        if crf.normalization == "symmetric":
            kernel = kernel / (total[:, None] * total).sqrt()
        elif crf.normalization == "after":
            kernel = kernel / total[:, None]
        elif crf.normalization == "before":
            kernel = kernel / total
        else:
            kernel = kernel / total.mean()
        kernels.append(weight * kernel)
    beliefs = (-unary).softmax(1)
    for _ in range(crf.iterations):
        penalty = torch.zeros_like(unary)
        for own in range(unary.shape[1]):
            for other in range(unary.shape[1]):
                if own != other:
                    penalty[:, own] += sum(kernel @ beliefs[:, other] for kernel in kernels)
        beliefs = (-unary - penalty).softmax(1)
    return beliefs.T.reshape(logits.shape)


@pytest.mark.parametrize("normalization", ["symmetric", "before", "after", "none"])
def test_the_marginals_are_those_of_the_formula(normalization):
    logits, image = 4 * random(3, 5, 6), picture(5, 6)
    crf = DenseCRF(2.0, 3.0, 40.0, 1.5, 1.2, iterations=3, normalization=normalization, filter="exact")
    torch.testing.assert_close(crf(logits, image).exp(), by_hand(logits, image, crf))


@pytest.mark.parametrize("color_sigma", [10.0, 40.0])
def test_the_lattice_is_within_a_hundredth_of_the_exact_marginals(color_sigma):
    truth = F.one_hot((random(3, 30, 40) > 0.5).sum(0), 4).permute(2, 0, 1)
    logits, image = 2 * truth + random(4, 30, 40, seed=2), picture(30, 40, seed=1)
    crf = DenseCRF(4, 20, color_sigma)
    exact = DenseCRF(4, 20, color_sigma, filter="exact")(logits, image).exp()
    found = crf(logits, image).exp()
    assert (found - exact).abs().mean() < 0.01
    assert (found.argmax(0) == exact.argmax(0)).double().mean() > 0.98
    assert (exact.argmax(0) != logits.argmax(0)).double().mean() > 0.1  # it did something


def test_noise_goes_and_edges_stay():
    image = torch.zeros(3, 24, 32)
    image[:, :, 16:] = 1
    truth = (torch.arange(32) >= 16).long().expand(24, 32)
    noisy = torch.where(random(24, 32) < 0.2, 1 - truth, truth)
    logits = F.one_hot(noisy, 2).permute(2, 0, 1).float()
    found = DenseCRF()(logits, image).argmax(0)
    assert torch.equal(found, truth)
    assert (noisy != truth).any()


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels_and_half_precision(channels):
    logits = random(3, 8, 9).to(torch.bfloat16)
    found = DenseCRF(iterations=1)(logits, torch.rand(channels, 8, 9))
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_no_iterations_and_no_weights_leave_the_probabilities():
    logits, image = random(3, 4, 5), picture(4, 5)
    for crf in (DenseCRF(iterations=0), DenseCRF(appearance_weight=0, smoothness_weight=0)):
        torch.testing.assert_close(crf(logits, image), logits.log_softmax(0))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="the image has 4 x 6 pixels; expected 4 x 5, as the class scores have"):
        DenseCRF()(torch.rand(2, 4, 5), torch.rand(3, 4, 6))
    with pytest.raises(UsageError, match="the exact filter is for up to 16384 pixels, and the image has 130 x 130"):
        DenseCRF(filter="exact")(torch.rand(2, 130, 130), torch.rand(3, 130, 130))


def test_pixels_are_rows():
    maps = random(2, 3, 4)
    assert torch.equal(pixels(maps)[5], maps[:, 1, 1])
