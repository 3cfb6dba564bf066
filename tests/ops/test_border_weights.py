"""Border weights against a brute-force computation, and the line between touching objects."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from scenewise.ops.border_weights import border_weights, separate_touching


def squares(count, size=40, seed=0):
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), dtype=bool)
    for mask in masks:
        y, x = generator.integers(0, size - 4, 2)
        h, w = generator.integers(2, 12, 2)
        mask[y : y + h, x : x + w] = True
    return torch.from_numpy(masks)


def brute_force(masks, w0, sigma):
    """Eq. 2 pixel by pixel, from the distances to every pixel of every object."""
    objects = [m.nonzero().double() for m in masks if m.any()]
    weights = torch.zeros(masks.shape[-2:])
    if len(objects) < 2:
        return weights
    for pixel in (~masks.any(0)).nonzero():
        near = sorted(torch.linalg.norm(o - pixel, dim=1).min().item() for o in objects)
        weights[tuple(pixel)] = w0 * np.exp(-((near[0] + near[1]) ** 2) / (2 * sigma**2))
    return weights


def test_the_middle_of_a_gap_of_five_pixels():
    masks = torch.zeros(2, 9, 15, dtype=torch.bool)
    masks[0, :, :5] = True
    masks[1, :, 10:] = True
    weights = border_weights(masks)
    assert weights[4, 7].item() == pytest.approx(10 * np.exp(-36 / 50), rel=1e-6) == pytest.approx(4.868, abs=5e-4)
    assert not weights[masks.any(0)].any()


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("sigma", [0.8, 2.0, 5.0])
def test_equals_brute_force(count, sigma):
    masks = squares(count, seed=count)
    found = border_weights(masks, w0=10, sigma=sigma)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, brute_force(masks, 10, sigma), rtol=1e-5, atol=1e-6)  # 1.5e-7 is cut off


def test_far_objects_have_no_border():
    masks = torch.zeros(2, 10, 200, dtype=torch.bool)
    masks[0, :, :3] = True
    masks[1, :, 190:] = True
    assert border_weights(masks).max() < 1e-6


def test_fewer_than_two_objects_have_no_border():
    for masks in (squares(0), squares(1), torch.zeros(2, 6, 6, dtype=torch.bool)):
        assert not border_weights(masks).any()
    with_an_empty_one = torch.cat([squares(1), torch.zeros(1, 40, 40, dtype=torch.bool)])
    assert not border_weights(with_an_empty_one).any()


def test_the_order_of_the_objects_is_of_no_account():
    masks = squares(5)
    assert torch.equal(border_weights(masks), border_weights(masks.flip(0)))


def test_touching_halves_get_a_line_of_one_pixel():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    masks[1, :, 4:] = True
    separated = separate_touching(masks)
    line = masks.any(0) & ~separated.any(0)
    assert line.sum(1).tolist() == [1] * 6
    assert torch.equal(separated[1], masks[1])


@pytest.mark.parametrize("seed", range(4))
def test_no_separated_objects_are_neighbours(seed):
    masks = squares(8, seed=seed)
    separated = separate_touching(masks).numpy()
    assert not (separated & ~masks.numpy()).any()
    for k, mask in enumerate(separated):
        around = binary_dilation(mask, np.ones((3, 3)))
        others = np.delete(separated, k, 0).any(0)
        assert not (around & others).any()
        if not (binary_dilation(masks[k], np.ones((3, 3))) & np.delete(masks.numpy(), k, 0).any(0)).any():
            assert np.array_equal(mask, masks[k])  # it touched nothing


def test_nothing_to_separate():
    assert separate_touching(squares(0)).shape == (0, 40, 40)
    assert torch.equal(separate_touching(squares(1)), squares(1))
