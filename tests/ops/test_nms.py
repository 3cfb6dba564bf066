import pytest
import torch
from torchvision import ops

from scenewise.ops.nms import batched_nms, nms


def some_boxes(count, seed=0, side=40.0):
    draws = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed))
    corners = draws[:, :2] * side
    return torch.cat((corners, corners + 4 + draws[:, 2:4] * 20), dim=1), draws[:, 4]


def test_nms_equals_torchvision():
    boxes, scores = some_boxes(60)
    assert torch.equal(nms(boxes, scores, 0.4), ops.nms(boxes, scores, 0.4))
    assert torch.equal(nms(boxes, scores.bfloat16(), 0.4), ops.nms(boxes, scores.bfloat16().float(), 0.4))


def test_the_threshold_itself_survives():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])  # IoU 0.5
    assert nms(boxes, torch.tensor([0.1, 0.9]), 0.5).tolist() == [1, 0]
    assert nms(boxes, torch.tensor([0.1, 0.9]), 0.499).tolist() == [1]


@pytest.mark.parametrize("count", [0, 1, 60, 1500])  # torchvision takes another way above 1000 boxes
def test_batched_nms_equals_nms_group_by_group(count):
    boxes, scores = some_boxes(count)
    groups = torch.arange(count) % 3
    found = batched_nms(boxes, scores, groups, 0.4)
    assert torch.equal(found, ops.batched_nms(boxes, scores, groups, 0.4))
    left = [torch.where(groups == g)[0] for g in range(3)]
    left = torch.cat([index[nms(boxes[index], scores[index], 0.4)] for index in left])
    assert torch.equal(found, left[scores[left].argsort(descending=True)])


def test_groups_stay_apart_also_left_of_the_image():
    boxes = torch.tensor([[1.0, 0, 9, 9], [-9, -10, -1, -1]])
    assert batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.3).tolist() == [0, 1]
