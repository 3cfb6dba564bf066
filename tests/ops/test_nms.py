import math

import pytest
import torch
from torchvision import ops

from scenewise.errors import UsageError
from scenewise.ops.boxes import batched_nms, nms, soft_nms, vote_boxes
from scenewise.ops.masks import mask_nms


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


def soft_by_the_book(boxes, scores, method, sigma, threshold, floor):
    """Figure 2 of the paper, on lists."""
    left, found = list(range(len(boxes))), {}
    scores = [float(s) for s in scores]
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        if scores[best] >= floor:
            found[best] = scores[best]
        for i in left:
            overlap = float(ops.box_iou(boxes[best][None], boxes[i][None]))
            if method == "gaussian":
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap
    return found


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_nms_against_the_papers_loop(method):
    boxes, scores = some_boxes(24)
    groups = torch.arange(24) % 2
    index, lowered = soft_nms(boxes, scores, groups, method=method, iou_threshold=0.2, floor=0.2)
    wanted = {}
    for g in range(2):
        own = torch.where(groups == g)[0]
        found = soft_by_the_book(boxes[own], scores[own], method, 0.5, 0.2, 0.2)
        wanted |= {int(own[i]): score for i, score in found.items()}
    assert dict(zip(index.tolist(), lowered.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-5)
    assert 0 < len(index) < 24  # the floor takes some
    assert lowered.tolist() == sorted(lowered.tolist(), reverse=True)


def test_soft_nms_of_nothing_and_of_a_wrong_method():
    none = torch.zeros(0, 4)
    index, lowered = soft_nms(none, torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert index.shape == lowered.shape == (0,)
    with pytest.raises(UsageError, match="'hard'"):
        soft_nms(none, torch.zeros(0), torch.zeros(0, dtype=torch.int64), method="hard")


def test_box_voting_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 8], [50, 50, 60, 60], [5, 5, 5, 5]])
    scores = torch.tensor([0.6, 0.2, 0.2, 0.0, 0.5])
    groups = torch.tensor([0, 0, 1, 0, 0])
    keep = torch.tensor([4, 0, 3])
    found = vote_boxes(boxes, scores, groups, keep)
    wanted = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 9.5], [50, 50, 60, 60]])
    torch.testing.assert_close(found, wanted)
    assert vote_boxes(boxes, scores, groups, keep[:0]).shape == (0, 4)


def test_mask_nms_of_rectangles_equals_nms():
    boxes, scores = some_boxes(40)
    boxes = boxes.round()
    groups = torch.arange(40) % 2
    rows, columns = torch.arange(70), torch.arange(70)
    down = (rows >= boxes[:, 1:2]) & (rows < boxes[:, 3:])
    right = (columns >= boxes[:, :1]) & (columns < boxes[:, 2:3])
    masks = down[:, :, None] & right[:, None]
    assert torch.equal(mask_nms(masks, scores, groups, 0.3), batched_nms(boxes, scores, groups, 0.3))
    assert mask_nms(masks[:0], scores[:0], groups[:0], 0.3).shape == (0,)
    twice = masks[[0, 0]]
    assert mask_nms(twice, torch.tensor([0.5, 0.5]), groups[:1].expand(2), 0.9).tolist() == [0]  # of equals the first
