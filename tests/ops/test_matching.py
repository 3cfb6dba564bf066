import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

from scenewise.ops.matching import BELOW, BETWEEN, hardest, match, sample_balanced


def some_iou(objects, anchors, seed):
    # Few distinct values, so that ties abound. No row of zeros: there we differ on purpose.
    draws = torch.randint(0, 11, (objects, anchors), generator=torch.Generator().manual_seed(seed)) / 10
    draws[:, 0].clamp_(min=0.1)
    return draws


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("objects", "anchors"), [(1, 1), (1, 30), (5, 30), (30, 5)])
@pytest.mark.parametrize(("positive", "negative"), [(0.7, 0.3), (0.5, 0.5), (0.95, 0.1)])
def test_matching_equals_torchvision(objects, anchors, positive, negative, force):
    for seed in range(5):
        iou = some_iou(objects, anchors, seed)
        wanted = Matcher(positive, negative, allow_low_quality_matches=force)(iou.clone())
        assert torch.equal(match(iou, positive, negative, force=force), wanted)


def test_matching_by_hand():
    iou = torch.tensor([[0.8, 0.4, 0.1, 0.0, 0.2], [0.1, 0.45, 0.2, 0.0, 0.2]])
    assert match(iou, 0.7, 0.3, force=False).tolist() == [0, BETWEEN, BELOW, BELOW, BELOW]
    assert match(iou, 0.7, 0.3).tolist() == [0, 1, BELOW, BELOW, BELOW]


def test_without_objects_all_is_background():
    assert match(torch.zeros(0, 3), 0.7, 0.3).tolist() == [BELOW] * 3
    assert match(torch.zeros(2, 0), 0.7, 0.3).shape == (0,)


def test_an_object_that_overlaps_nothing_forces_nothing():
    assert match(torch.tensor([[0.0, 0.0], [0.8, 0.1]]), 0.7, 0.3).tolist() == [1, BELOW]


@pytest.mark.parametrize(
    ("anchors", "count", "fraction"), [(500, 64, 0.5), (500, 64, 0.25), (20, 256, 0.5), (0, 8, 0.5), (50, 0, 0.5)]
)
def test_sampling_draws_as_torchvision_does(anchors, count, fraction):
    matches = torch.randint(-2, 3, (anchors,), generator=torch.Generator().manual_seed(1))
    theirs = torch.where(matches == BELOW, 0, torch.where(matches == BETWEEN, -1, matches + 1))
    torch.manual_seed(7)
    wanted = [torch.where(side[0])[0] for side in BalancedPositiveNegativeSampler(count, fraction)([theirs])]
    torch.manual_seed(7)
    found = sample_balanced(matches, count, fraction)
    own = sample_balanced(matches, count, fraction, generator=torch.Generator().manual_seed(7))
    for a, b, c in zip(found, wanted, own, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_negatives_fill_up_for_missing_positives():
    matches = torch.tensor([0, BELOW, BETWEEN, BELOW, BELOW, BELOW])
    positive, negative = sample_balanced(matches, 4, 0.5)
    assert positive.tolist() == [0]
    assert len(negative) == 3
    assert 2 not in negative.tolist()
    positive, negative = sample_balanced(torch.zeros(9, dtype=torch.int64), 4, 0.5)
    assert (len(positive), len(negative)) == (2, 0)


def test_hardest():
    losses = torch.tensor([0.5, 2.0, 0.1, 2.0, 1.0], requires_grad=True)
    assert hardest(losses, 3).tolist() == [1, 3, 4]
    assert hardest(losses, 99).tolist() == [1, 3, 4, 0, 2]
    assert hardest(losses[:0], 3).shape == (0,)
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29], [40, 0, 49, 9], [20, 20, 29, 28], [0, 0, 9, 4]])
    assert hardest(losses, 3, boxes=boxes).tolist() == [1, 4, 0]  # 3 lies on 1, 4 covers less than 0.7 of 0
    assert hardest(losses, 9, boxes=boxes, iou_threshold=0.3).tolist() == [1, 4, 2]
