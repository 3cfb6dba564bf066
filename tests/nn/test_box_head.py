"""The two orders that the first layer of a box's head may have its weights in give the same numbers."""

from __future__ import annotations

import pytest
import torch

from scenewise.nn.box_head import ConvolutionsThenLinear, FullyConnected, HeadSpec
from scenewise.nn.layers import GridLinear


@pytest.mark.parametrize("boxes", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ranks", [None, (4, 3)])
def test_weights_in_channels_last_order_give_the_same_numbers(boxes, dtype, ranks):
    torch.manual_seed(0)
    head = FullyConnected(6, 3, channels=7, ranks=ranks).to(dtype).eval()
    x = torch.randn(boxes, 6, 3, 3, dtype=dtype)
    with torch.no_grad():
        plain = head(x)
        (grid,) = [layer for layer in head.modules() if isinstance(layer, GridLinear)]
        before = grid.weight.clone()
        grid.put_channels_last()
        grid.put_channels_last()  # done once
        ordered, last = head(x), head(x.contiguous(memory_format=torch.channels_last))
    assert plain.shape == (boxes, 7)
    assert not torch.equal(grid.weight, before)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2  # sums are taken in another order
    for found in (ordered, last):
        torch.testing.assert_close(found, plain, atol=tolerance, rtol=tolerance)


def test_channels_last_boxes_are_multiplied_where_they_lie():
    layer = GridLinear(6, 3, 7)
    layer.put_channels_last()
    x = torch.randn(5, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    seen = []
    torch.nn.functional.linear, original = lambda *given: seen.append(given[0]), torch.nn.functional.linear
    try:
        layer(x)
    finally:
        torch.nn.functional.linear = original
    assert seen[0].data_ptr() == x.data_ptr()


def test_a_head_of_convolutions_is_the_same_in_either_order():
    torch.manual_seed(0)
    head = ConvolutionsThenLinear(6, 3, HeadSpec(kind="conv", convs=1, channels=7)).eval()
    x = torch.randn(5, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        plain = head(x)
        head.first.put_channels_last()
        torch.testing.assert_close(head(x), plain, atol=1e-6, rtol=1e-6)
