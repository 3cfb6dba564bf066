import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from scenewise.errors import UsageError
from scenewise.ops.anchors import AnchorSpec, grid_anchors, legacy_anchors, shift_anchors
from scenewise.ops.boxes import box_iou, encode_boxes

RELEASED = [  # as the release lists them, from its MATLAB version: pixels are counted from 1
    [-83, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]


@pytest.mark.parametrize(
    ("sizes", "ratios", "image", "maps"),
    [
        (((32,), (64,)), (0.5, 1.0, 2.0), (64, 96), [(16, 24), (8, 12)]),
        (((32, 45.3, 57), (128,)), (0.3, 1.7), (70, 100), [(9, 13), (5, 7)]),  # strides that don't divide
        (((16,),), (1.0,), (1, 1), [(1, 1)]),
        (((16,), (32,)), (1.0,), (8, 8), [(8, 8), (0, 0)]),
    ],
)
def test_equals_torchvision(sizes, ratios, image, maps):
    spec = AnchorSpec(sizes, ratios)
    found = grid_anchors(spec, image, maps)
    assert [len(a) for a in found] == [h * w * a for (h, w), a in zip(maps, spec.per_cell, strict=True)]
    if all(h and w for h, w in maps):
        reference = AnchorGenerator(sizes, (ratios,) * len(sizes))
        features = [torch.zeros(1, 1, *size) for size in maps]
        wanted = reference(ImageList(torch.zeros(1, 3, *image), [image]), features)[0]
        assert torch.equal(torch.cat(found), wanted)
        assert spec.per_cell == reference.num_anchors_per_location()


def test_offset_and_exact_corners():
    anchors = grid_anchors(AnchorSpec(((10,),), (2.0,), offset=0.5, rounded=False), (32, 48), [(2, 3)])[0]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers.tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.full((6,), 2.0))
    torch.testing.assert_close(sides.prod(1), torch.full((6,), 100.0))


def test_inverse_ratios_mirror_each_other():
    anchors = grid_anchors(AnchorSpec(((32, 64),), (0.5, 1.0, 2.0)), (8, 8), [(1, 1)])[0]
    assert torch.equal(anchors[:2], anchors[4:][:, [1, 0, 3, 2]])


def test_legacy_anchors_are_those_of_the_release():
    assert torch.equal(legacy_anchors(), torch.tensor(RELEASED, dtype=torch.float32) - 1)
    moved = shift_anchors(legacy_anchors(), (2, 3), (16, 16))
    assert torch.equal(moved[9 * 4 : 9 * 5], legacy_anchors() + torch.tensor([16.0, 16, 16, 16]))


def test_legacy_anchors_of_a_network_are_the_releases_in_continuous_coordinates():
    """The first and the last pixel (inclusive) of each, so a box is one pixel wider and higher than their distance."""
    anchors = grid_anchors(AnchorSpec(((128, 256, 512),), legacy=True), (32, 48), [(2, 3)], strides=[16])[0]
    released = torch.tensor(RELEASED, dtype=torch.float32) - 1  # counted from 0
    continuous = released + torch.tensor([0.0, 0, 1, 1])
    assert torch.equal(anchors[:9], continuous)
    assert torch.equal(anchors[9 * 4 : 9 * 5], continuous + 16)
    truth = torch.tensor([[3.0, 5, 80, 60], [-20, 0, 200, 90]])  # of both kinds, so that overlaps and deltas agree
    inclusive = truth - torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(box_iou(truth, continuous), box_iou(inclusive, released, plus_one=True))
    torch.testing.assert_close(
        encode_boxes(truth[:1].expand(9, 4), continuous),
        encode_boxes(inclusive[:1].expand(9, 4), released, plus_one=True),
    )


def test_legacy_anchors_are_rounded_at_each_maps_stride():
    """At stride 8, ratio boxes of 11 x 6 and 6 x 12 pixels, four times as large for a size of 32."""
    fine = grid_anchors(AnchorSpec(((32,), (64,)), legacy=True), (64, 64), [(8, 8), (4, 4)], strides=[8, 16])[0]
    assert (fine[:3, 2:] - fine[:3, :2]).tolist() == [[44, 24], [32, 32], [24, 48]]
    assert ((fine[:3, :2] + fine[:3, 2:]) / 2).tolist() == [[4, 4]] * 3


def test_legacy_anchors_that_have_no_place_are_refused():
    with pytest.raises(UsageError, match=r"legacy fixes where anchors lie .* offset is 0\.5 and rounded is True"):
        AnchorSpec(((32,),), offset=0.5, legacy=True)
    with pytest.raises(UsageError, match="legacy anchors are rounded at the stride of each map; give the strides"):
        grid_anchors(AnchorSpec(((32,),), legacy=True), (64, 96), [(4, 6)])


def test_a_spec_is_hashable_also_from_lists():
    assert hash(AnchorSpec([[32], [64]], [1.0])) == hash(AnchorSpec(((32,), (64,)), (1.0,)))


@pytest.mark.parametrize(
    ("sizes", "ratios", "message"),
    [
        ((), (1.0,), "at least one size"),
        (((),), (1.0,), "at least one size"),
        (((8,),), (), "one ratio"),
        (((8, -2),), (1.0,), "-2 is not a valid size"),
        (((8,),), (0.0,), "0.0 is not a valid size or ratio"),
    ],
)
def test_a_wrong_spec_is_refused(sizes, ratios, message):
    with pytest.raises(UsageError, match=message):
        AnchorSpec(sizes, ratios)


def test_levels_must_agree():
    with pytest.raises(UsageError, match=r"2 feature maps, but the network has 1"):
        grid_anchors(AnchorSpec(((8,), (16,))), (8, 8), [(1, 1)])
