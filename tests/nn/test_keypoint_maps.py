import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from scenewise.nn.keypoint_head import decode_keypoints, keypoint_targets


def some_boxes(count, seed=0):
    draws = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * 40
    return torch.cat((draws[:, :2] - 6, draws[:, :2] - 5 + draws[:, 2:]), dim=1)


def some_points(boxes, points, seed=1):
    draws = torch.rand(len(boxes), points, 2, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    position = boxes[:, None, :2] + draws * (boxes[:, 2:] - boxes[:, :2])[:, None]  # some beside the box
    visibility = torch.randint(0, 3, (len(boxes), points, 1), generator=torch.Generator().manual_seed(seed))
    return torch.cat((position, visibility), dim=2)


def test_targets_equal_torchvision():
    boxes = some_boxes(20)
    points = some_points(boxes, 5)
    points[:, 0, :2] = boxes[:, 2:]  # on the lower right corner
    points[:, 1, :2] = boxes[:, :2]
    index, valid = keypoint_targets(points, boxes, 14)
    wanted_index, wanted_valid = keypoints_to_heatmap(points, boxes, 14)
    assert torch.equal(valid, wanted_valid.bool())
    assert torch.equal(index, wanted_index)
    assert valid.any()
    assert not valid.all()


def test_targets_in_boxes_without_area_and_without_points():
    box = torch.tensor([[3.0, 3, 3, 9]])
    index, valid = keypoint_targets(torch.tensor([[[3.0, 4, 2], [5, 5, 2]]]), box, 14)
    assert not valid.any()
    assert index.tolist() == [[0, 0]]
    index, valid = keypoint_targets(torch.zeros(0, 5, 3), torch.zeros(0, 4), 14)
    assert index.shape == valid.shape == (0, 5)


@pytest.mark.parametrize("side", [1, 7, 14])
def test_decoding_equals_torchvision(side):
    boxes = torch.cat((some_boxes(6), torch.tensor([[3.0, 3, 3, 3], [3.2, 4, 3.9, 90.5]])))
    maps = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1))
    wanted, wanted_scores = heatmaps_to_keypoints(maps, boxes)
    points, scores = decode_keypoints(maps, boxes)
    torch.testing.assert_close(points, wanted, atol=1e-5, rtol=1e-6)
    assert torch.equal(scores, wanted_scores)


def test_decoding_undoes_the_target():
    boxes = torch.tensor([[10.0, 20, 38, 76]])
    points = torch.tensor([[[11.5, 33.5, 2], [30.5, 70.5, 2]]])
    index, valid = keypoint_targets(points, boxes, 28)
    assert valid.all()
    maps = torch.zeros(1, 2, 28 * 28).scatter(2, index[..., None], 9.0).reshape(1, 2, 28, 28)
    found, scores = decode_keypoints(maps, boxes)
    # Cells are 1 x 2 pixels here: the peak lies in the right one.
    assert ((found - points).abs() <= torch.tensor([0.5, 1.0, 1.0])).all()
    assert (scores > 5).all()


def test_decoding_nothing_and_low_precision():
    points, scores = decode_keypoints(torch.zeros(0, 5, 7, 7), torch.zeros(0, 4))
    assert points.shape == (0, 5, 3)
    assert scores.shape == (0, 5)
    points, scores = decode_keypoints(torch.rand(2, 5, 7, 7).bfloat16(), some_boxes(2))
    assert points.dtype == scores.dtype == torch.float32
