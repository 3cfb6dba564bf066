"""The pyramid equals torchvision's; its ablations leave out what they say."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from scenewise.nn.features import FPN

WIDTHS = [3, 4, 5]


def maps():
    generator = torch.Generator().manual_seed(0)
    sizes = [(17, 22), (9, 11), (5, 6)]  # odd sides: the maps above are not exactly doubled
    return [torch.randn(2, width, *size, generator=generator) for width, size in zip(WIDTHS, sizes, strict=True)]


def test_it_equals_torchvisions():
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(WIDTHS, 6, LastLevelMaxPool())
    ours = FPN(WIDTHS, 6)
    state = theirs.state_dict()
    names = {"lateral": "inner_blocks", "output": "layer_blocks"}
    ours.load_state_dict(
        {k: state[f"{names[k.split('.')[0]]}.{k.split('.')[1]}.0.{k.split('.')[2]}"] for k in ours.state_dict()}
    )
    expected = list(theirs(OrderedDict(enumerate(maps()))).values())
    found = ours(maps())
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("coarser", "width"), [("c5", 5), ("p5", 6)])
def test_two_coarser_levels_equal_torchvisions(coarser, width):
    """From the backbone's last map or, where the widths say so, from the pyramid's."""
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(WIDTHS, 6, LastLevelP6P7(width, 6))
    ours = FPN(WIDTHS, 6, coarser=coarser)
    names = {"lateral": "inner_blocks.{}.0", "output": "layer_blocks.{}.0", "coarser": "extra_blocks.p{}"}
    state, taken = theirs.state_dict(), {}
    for key in ours.state_dict():
        part, number, kind = key.split(".")
        number = int(number) + 6 if part == "coarser" else number
        taken[key] = state[f"{names[part].format(number)}.{kind}"]
    ours.load_state_dict(taken)
    found = ours(maps())
    assert len(found) == 5
    for a, b in zip(found, theirs(OrderedDict(enumerate(maps()))).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_bottom_up_levels_see_their_own_map_alone():
    pyramid = FPN(WIDTHS, 6, pathway="bottom-up")
    changed = maps()
    changed[2] = changed[2] + 1
    assert torch.equal(pyramid(maps())[0], pyramid(changed)[0])
    assert not torch.equal(pyramid(maps())[2], pyramid(changed)[2])


def test_without_laterals_all_levels_see_the_deepest_map_alone():
    pyramid = FPN(WIDTHS, 6, pathway="no-lateral")
    changed = maps()
    changed[0], changed[1] = changed[0] + 1, changed[1] + 1
    for a, b in zip(pyramid(maps()), pyramid(changed), strict=True):
        assert torch.equal(a, b)
    assert [tuple(m.shape[-2:]) for m in pyramid(maps())] == [(17, 22), (9, 11), (5, 6), (3, 3)]
    assert sum(p.numel() for p in pyramid.lateral.parameters()) == 5 * 6 + 6


@pytest.mark.parametrize("pathway", ["top-down", "bottom-up", "no-lateral"])
def test_every_parameter_is_used(pathway):
    pyramid = FPN(WIDTHS, 6, pathway=pathway)
    sum(m.sum() for m in pyramid(maps())).backward()
    assert all(p.grad is not None for p in pyramid.parameters())
