import numpy as np
import pytest
import torch

from scenewise.ops.mirror import mirrored_window


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 3), (5, 7)])
def test_equals_numpys_reflection(shape):
    image = torch.rand(3, *shape)
    top, left, bottom, right = 9, 12, 11, 8  # wider than the image
    wanted = np.pad(image.numpy(), ((0, 0), (top, bottom), (left, right)), mode="reflect")
    found = mirrored_window(image, -top, -left, (top + shape[0] + bottom, left + shape[1] + right))
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_a_window_within_the_image_is_a_view():
    image = torch.rand(2, 3, 8, 9)
    window = mirrored_window(image, 2, 3, (4, 5))
    assert torch.equal(window, image[..., 2:6, 3:8])
    assert window.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


def test_a_window_may_lie_outside():
    line = torch.arange(4.0)[None]  # 0 1 2 3 | 2 1 0 1 2 3
    assert mirrored_window(line, 0, 5, (1, 4)).tolist() == [[1, 0, 1, 2]]
