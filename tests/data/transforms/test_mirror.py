"""Mirrored people: twice is the identity, left and right change places, and all that is in the image moves alike."""

from __future__ import annotations

import pytest
import torch

from scenewise.data import open_data
from scenewise.data.transforms.by_name import build_transforms
from scenewise.data.transforms.mirror import COCO_PAIRS, MirrorPeople
from scenewise.errors import UsageError
from scenewise.types import KeyPoints


@pytest.fixture
def scenes():
    return open_data("scenes:count=4,size=64x96")


def always(scenes):
    return MirrorPeople(p=1.0, pairs=scenes.flip_pairs)


def test_twice_is_the_identity(scenes):
    mirror, (image, target) = always(scenes), scenes[2]
    again, back = mirror(*mirror(image, target))
    assert torch.equal(again, image)
    assert back.keys() == target.keys()
    for name in ("boxes", "masks", "keypoints", "visibility", "semantic", "labels"):
        assert type(back[name]) is type(target[name])
        torch.testing.assert_close(back[name], target[name], msg=name)


def test_left_and_right_change_places_and_stay_on_their_pixels(scenes):
    image, target = scenes[2]
    mirrored, found = always(scenes)(image, target)
    assert torch.equal(mirrored, image.flip(-1))
    assert torch.equal(found["masks"], target["masks"].flip(-1))
    assert torch.equal(found["boxes"][:, 0], 96 - target["boxes"][:, 2])
    assert torch.equal(found["keypoints"][:, 0, 0], 96 - target["keypoints"][:, 0, 0])  # the head has no side
    for left, right in scenes.flip_pairs:
        assert torch.equal(found["keypoints"][:, left, 0], 96 - target["keypoints"][:, right, 0])
        assert torch.equal(found["keypoints"][:, right, 1], target["keypoints"][:, left, 1])
        assert torch.equal(found["visibility"][:, left], target["visibility"][:, right])


def test_it_happens_as_often_as_it_says(scenes):
    image, target = scenes[2]
    assert MirrorPeople(p=0.0)(image, target)[0] is image
    torch.manual_seed(0)
    mirror = MirrorPeople(pairs=scenes.flip_pairs)
    assert 10 < sum(not torch.equal(mirror(image, target)[0], image) for _ in range(40)) < 30


def test_the_usual_pairs_are_cocos(scenes):
    """A left joint's index is odd, its right one follows; the nose is 0."""
    assert tuple((i, i + 1) for i in range(1, 17, 2)) == COCO_PAIRS
    points = torch.arange(17.0).expand(2, 17).T[None].contiguous()  # joint j lies at (j, j)
    target = {"keypoints": KeyPoints(points, canvas_size=(20, 20)), "visibility": torch.ones(1, 17)}
    _, found = MirrorPeople(p=1.0)(scenes[0][0], target)
    assert found["keypoints"][0, :, 1].tolist() == [0, *(j for i in range(1, 17, 2) for j in (i + 1, i))]


def test_a_recipe_names_it():
    transform = build_transforms([{"MirrorPeople": {"p": 1.0, "pairs": [[2, 3]]}}])
    assert transform.transforms[0].pairs == ((2, 3),)


def test_errors(scenes):
    with pytest.raises(UsageError, match=r"transforms\.0: MirrorPeople: p is 2; expected 0 to 1|MirrorPeople: p is 2"):
        build_transforms([{"MirrorPeople": {"p": 2}}])
    with pytest.raises(UsageError, match=r"pairs is .*expected pairs of indices, each index once"):
        MirrorPeople(pairs=[(1, 2), (2, 3)])
    with pytest.raises(UsageError, match="one has keypoint 16, there are 14"):
        MirrorPeople(p=1.0)(*scenes[2])
