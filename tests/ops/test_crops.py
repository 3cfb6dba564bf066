"""Warped crops: equal to interpolation and to plain slicing where those apply."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scenewise.ops.crops import warp_crops, with_context


@pytest.fixture
def image():
    return torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [7, 24, 50])
def test_the_box_of_the_whole_image_is_an_interpolation(image, size):
    crop = warp_crops(image, torch.tensor([[0.0, 0.0, 40.0, 24.0]]), size)
    torch.testing.assert_close(crop[0], F.interpolate(image[None], (size, size), mode="bilinear")[0])


def test_a_box_of_the_output_size_is_a_slice(image):
    boxes = torch.tensor([[5.0, 3.0, 13.0, 11.0], [32.0, 16.0, 40.0, 24.0]])
    crops = warp_crops(image, boxes, 8)
    torch.testing.assert_close(crops[0], image[:, 3:11, 5:13], atol=1e-5, rtol=0)
    torch.testing.assert_close(crops[1], image[:, 16:24, 32:40], atol=1e-5, rtol=0)


def test_outside_the_image_is_zero_and_inside_is_not_touched(image):
    crop = warp_crops(image + 1, torch.tensor([[-4.0, -2.0, 4.0, 6.0]]), 8)[0]
    assert not crop[:, :2].any()
    assert not crop[:, :, :4].any()
    torch.testing.assert_close(crop[:, 2:, 4:], image[:, :6, :4] + 1, atol=1e-5, rtol=0)


def test_no_boxes_give_no_crops(image):
    assert warp_crops(image, torch.zeros(0, 4), 8).shape == (0, 3, 8, 8)


def test_the_crop_of_a_box_with_context_holds_the_box_within_it(image):
    box = torch.tensor([[10.0, 8.0, 22.0, 16.0]])
    grown = with_context(box, 16, 2)
    torch.testing.assert_close(warp_crops(image, grown, 16)[..., 2:14, 2:14], warp_crops(image, box, 12))
    x1, y1, x2, y2 = with_context(box, 16, 2, square=True)[0].tolist()
    assert x2 - x1 == pytest.approx(y2 - y1) == pytest.approx(12 * 16 / 12)
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((16, 12))
