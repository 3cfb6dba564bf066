"""ASPP: equal to torchvision's, and to the sum of its taps; one image alone."""

import pytest
import torch
from torchvision.models.segmentation.deeplabv3 import ASPP as TorchvisionASPP

from scenewise.errors import UsageError
from scenewise.nn.aspp import ASPP, ImagePooling


@pytest.mark.parametrize("rates", [(6, 12, 18), (12, 24, 36)])
def test_equals_torchvisions(rates):
    torch.manual_seed(0)
    reference = TorchvisionASPP(8, list(rates), 6).eval()
    aspp = ASPP(8, 6, rates=rates).eval()
    aspp.load_state_dict(reference.state_dict())
    x = torch.randn(2, 8, 9, 13)
    torch.testing.assert_close(aspp(x), reference(x))


def test_image_pooling_is_the_mean_everywhere():
    torch.manual_seed(0)
    pooling = ImagePooling(4, 3).eval()
    x = torch.randn(2, 4, 5, 6)
    expected = pooling[3](pooling[2](pooling[1](x.mean((2, 3), keepdim=True))))
    found = pooling(x)
    assert found.shape == (2, 3, 5, 6)
    torch.testing.assert_close(found, expected.expand(-1, -1, 5, 6))


def test_without_image_pooling_far_pixels_are_not_seen():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 9)
    y = x.clone()
    y[..., 8, 8] += 10
    for image_pooling in (True, False):
        aspp = ASPP(4, 4, rates=(2,), image_pooling=image_pooling).eval()
        seen = not torch.equal(aspp(x)[..., :6, :6], aspp(y)[..., :6, :6])
        assert seen == image_pooling


def test_separable_has_fewer_parameters_and_the_same_size():
    plain, separable = ASPP(64, 16).eval(), ASPP(64, 16, separable=True).eval()
    assert sum(p.numel() for p in separable.parameters()) < sum(p.numel() for p in plain.parameters()) / 2
    assert separable(torch.zeros(1, 64, 4, 5)).shape == (1, 16, 4, 5)


def test_training_on_one_image_is_refused_and_says_what_helps():
    aspp = ASPP(4, 4, rates=(2,))
    with pytest.raises(UsageError, match=r"can't be trained on a batch of one image.*Raise the batch size"):
        aspp(torch.zeros(1, 4, 5, 5))
    aspp(torch.zeros(2, 4, 5, 5))
    ASPP(4, 4, rates=(2,), image_pooling=False)(torch.zeros(1, 4, 5, 5))
    for module in aspp.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # frozen batch-norm
    aspp(torch.zeros(1, 4, 5, 5))
