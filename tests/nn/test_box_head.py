"""The two ways that the head of a box computes its first layer give the same numbers."""

from __future__ import annotations

import pytest
import torch

from scenewise.nn.box_head import FullyConnected


@pytest.mark.parametrize("boxes", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_boxes_are_convolved_to_the_same_numbers(boxes, dtype):
    torch.manual_seed(0)
    head = FullyConnected(6 * 9, channels=7).to(dtype).eval()
    x = torch.randn(boxes, 6, 3, 3, dtype=dtype)
    with torch.no_grad():
        plain = head(x)
        last = head(x.contiguous(memory_format=torch.channels_last))
    trained = head(x.contiguous(memory_format=torch.channels_last))
    assert plain.shape == last.shape == (boxes, 7)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2  # sums are taken in another order
    torch.testing.assert_close(last, plain, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(trained.detach(), plain, atol=tolerance, rtol=tolerance)


def test_factored_layers_take_channels_last_boxes():
    head = FullyConnected(6 * 9, channels=7, ranks=(4, 3)).eval()
    x = torch.randn(5, 6, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(head(x.contiguous(memory_format=torch.channels_last)), head(x))
