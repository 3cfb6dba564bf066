import math

import pytest
import torch
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder

from scenewise.ops.boxes import (
    at_least,
    box_area,
    box_ioa,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
)

SECOND_STAGE = (10.0, 10.0, 5.0, 5.0)


def some_boxes(count, seed=0, side=60.0):
    draws = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * side
    return torch.cat((draws[:, :2] - 5, draws[:, :2] - 4 + draws[:, 2:]), dim=1)  # some reach over the border


@pytest.mark.parametrize(("a", "b"), [(7, 9), (0, 4), (4, 0), (0, 0)])
def test_overlaps_equal_torchvision(a, b):
    a, b = some_boxes(a, 1), some_boxes(b, 2)
    assert torch.equal(box_iou(a, b), ops.box_iou(a, b))
    assert torch.equal(box_area(a), ops.box_area(a))
    torch.testing.assert_close(generalized_box_iou(a, b), ops.generalized_box_iou(a, b))


def test_overlaps_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2]])
    b = torch.tensor([[1.0, 1, 3, 3], [2, 2, 3, 3], [0, 0, 2, 1], [0, 0, 2, 2]])
    torch.testing.assert_close(box_iou(a, b), torch.tensor([[1 / 7, 0, 0.5, 1]]))
    torch.testing.assert_close(box_ioa(a, b), torch.tensor([[0.25, 0, 0.5, 1]]))
    torch.testing.assert_close(box_ioa(b, a).T, torch.tensor([[0.25, 0, 1, 1]]))
    torch.testing.assert_close(generalized_box_iou(a, b), torch.tensor([[1 / 7 - 2 / 9, -4 / 9, 0.5, 1]]))


def test_boxes_without_area_overlap_nothing():
    points = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 8]])
    around = torch.tensor([[0.0, 0, 9, 9], [3, 3, 3, 3]])
    for overlap in (box_iou, box_ioa):
        assert torch.equal(overlap(points, around), torch.zeros(2, 2))
    assert generalized_box_iou(points[:1], around[1:]).item() == 0


def test_legacy_area_and_overlap_count_the_last_pixel():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 1, 2, 2]])  # two pixels a side, one shared
    assert box_area(a, plus_one=True).item() == 4
    assert box_iou(a, b, plus_one=True).item() == pytest.approx(1 / 7)
    inclusive = some_boxes(5).round()
    continuous = inclusive + torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(box_iou(inclusive, inclusive, plus_one=True), box_iou(continuous, continuous))


def test_overlaps_carry_gradients():
    a = some_boxes(3, 1).double().requires_grad_()
    b = some_boxes(2, 2).double()
    for overlap in (box_iou, generalized_box_iou, box_ioa):
        assert torch.autograd.gradcheck(lambda x, overlap=overlap: overlap(x, b), a)


def test_clipping():
    boxes = some_boxes(20)
    assert torch.equal(clip_boxes(boxes, (30, 50)), ops.clip_boxes_to_image(boxes, (30, 50)))
    assert torch.equal(clip_boxes(boxes.reshape(4, 5, 4), (30, 50)).reshape(-1, 4), clip_boxes(boxes, (30, 50)))
    outside = torch.tensor([[60.0, -9, 70, -2], [-5, -5, 99, 99]])
    assert clip_boxes(outside, (30, 50)).tolist() == [[50, 0, 50, 0], [0, 0, 50, 30]]
    assert clip_boxes(outside, (30, 50), plus_one=True).tolist() == [[49, 0, 49, 0], [0, 0, 49, 29]]
    assert clip_boxes(torch.zeros(0, 4), (30, 50)).shape == (0, 4)


def test_small_boxes_are_told():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [0, 0, 0, 9], [5, 5, 3, 9]])
    assert at_least(boxes, 2).tolist() == [True, False, False, False]
    assert torch.where(at_least(boxes, 2))[0].tolist() == ops.remove_small_boxes(boxes, 2).tolist()
    assert at_least(torch.zeros(0, 4), 1).shape == (0,)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), SECOND_STAGE])
def test_code_equals_torchvision(weights):
    coder = BoxCoder(weights)
    boxes, anchors = some_boxes(30, 1), some_boxes(30, 2)
    assert torch.equal(encode_boxes(boxes, anchors, weights), coder.encode([boxes], [anchors])[0])
    deltas = torch.randn(30, 3 * 4, generator=torch.Generator().manual_seed(0)) * 4  # some above the cap
    ours = decode_boxes(deltas.reshape(30, 3, 4), anchors[:, None], weights)
    assert torch.equal(ours, coder.decode(deltas, [anchors]))


@pytest.mark.parametrize("plus_one", [False, True])
def test_decoding_undoes_encoding(plus_one):
    boxes, anchors = some_boxes(30, 1), some_boxes(30, 2)
    deltas = encode_boxes(boxes, anchors, SECOND_STAGE, plus_one=plus_one)
    # 1e-3 pixels: float32 keeps about 1e-5 of coordinates near 100
    torch.testing.assert_close(decode_boxes(deltas, anchors, SECOND_STAGE, plus_one=plus_one), boxes, atol=1e-3, rtol=0)
    still = decode_boxes(torch.zeros(30, 4), anchors, plus_one=plus_one)
    torch.testing.assert_close(still, anchors, atol=1e-4, rtol=0)


def test_legacy_code_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 15, 15]]), torch.tensor([[8.0, 0, 39, 15]])  # 16 x 16 and 32 x 16 pixels
    deltas = encode_boxes(box, anchor, plus_one=True)
    torch.testing.assert_close(deltas, torch.tensor([[1.0, 0, math.log(2), 0]]))


def test_an_untrained_network_cannot_overflow():
    decoded = decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 16, 16]]))
    assert (decoded[0, 2:] - decoded[0, :2]).tolist() == pytest.approx([1000, 1000], rel=1e-3)


def test_low_precision_deltas_give_float32_boxes():
    deltas = torch.tensor([[0.1, -0.3, 0.2, 0.7]], dtype=torch.bfloat16)
    anchors = torch.tensor([[500.3, 700.7, 900.1, 801.9]])
    decoded = decode_boxes(deltas, anchors, SECOND_STAGE)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, decode_boxes(deltas.float(), anchors, SECOND_STAGE))


def test_no_boxes():
    assert encode_boxes(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert decode_boxes(torch.zeros(2, 0, 4), torch.zeros(0, 4)).shape == (2, 0, 4)
