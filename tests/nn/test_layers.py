"""Small layers: sizes, equality with the obvious computation."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.segmentation.fcn import FCNHead

from scenewise.nn.layers import conv_bn_relu, fcn_head, upsample


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 6), (5, 2)])
@pytest.mark.parametrize("separable", [False, True])
def test_conv_keeps_the_size(kernel, dilation, separable):
    layer = conv_bn_relu(4, 6, kernel, dilation=dilation, separable=separable).eval()
    assert layer(torch.zeros(2, 4, 7, 11)).shape == (2, 6, 7, 11)


def test_separable_has_a_kernel_a_channel():
    plain, separable = conv_bn_relu(8, 16), conv_bn_relu(8, 16, separable=True)
    assert sum(p.numel() for p in plain.parameters()) == 8 * 16 * 9 + 2 * 16
    assert sum(p.numel() for p in separable.parameters()) == 8 * 9 + 2 * 8 + 8 * 16 + 2 * 16
    assert len(conv_bn_relu(8, 16, 1, separable=True)) == 3  # a 1x1 convolution has nothing to separate


def test_upsample_aligns_pixel_areas():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    torch.testing.assert_close(upsample(x, (5, 3)), F.interpolate(x, (5, 3), mode="bilinear", align_corners=False))
    torch.testing.assert_close(upsample(x, (4, 4))[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1]))
    assert upsample(x, (2, 2)) is x


def test_fcn_head_equals_torchvisions():
    torch.manual_seed(0)
    reference, head = FCNHead(16, 5).eval(), fcn_head(16, 5).eval()
    head.load_state_dict(reference.state_dict())
    x = torch.randn(2, 16, 6, 7)
    assert torch.equal(head(x), reference(x))
    assert head[3].p == reference[3].p == 0.1
