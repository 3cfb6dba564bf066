"""Keypoints with sides: a mirror image exchanges left and right ones, or is refused."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scenewise.data import open_data
from scenewise.errors import UsageError
from scenewise.fields.keypoints import SKELETONS, KeyPoints, Visibility
from scenewise.types import Skeleton


@pytest.fixture
def scenes():
    return open_data("scenes:count=4,size=64x96")


def person(skeleton: Skeleton, points: int):
    """Keypoint j lies at (j, j) and has visibility 1 where j is odd."""
    places = torch.arange(float(points)).expand(2, points).T[None].contiguous()
    return {
        "keypoints": KeyPoints.of(skeleton)(places, canvas_size=(30, 30)),
        "visibility": Visibility.of(skeleton)(torch.arange(points)[None] % 2),
    }


@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip(p=1), v2.RandomVerticalFlip(p=1)])
def test_twice_is_the_identity(scenes, flip):
    image, target = scenes[2]
    again, back = flip(*flip(image, target))
    assert torch.equal(again, image)
    assert back.keys() == target.keys()
    for name in ("boxes", "masks", "keypoints", "visibility", "semantic", "labels"):
        assert type(back[name]) is type(target[name])
        torch.testing.assert_close(back[name], target[name], msg=name)


def test_left_and_right_change_places_and_stay_on_their_pixels(scenes):
    image, target = scenes[2]
    mirrored, found = v2.RandomHorizontalFlip(p=1)(image, target)
    assert torch.equal(mirrored, image.flip(-1))
    assert torch.equal(found["masks"], target["masks"].flip(-1))
    assert torch.equal(found["boxes"][:, 0], 96 - target["boxes"][:, 2])
    assert torch.equal(found["keypoints"][:, 0, 0], 96 - target["keypoints"][:, 0, 0])  # the head has no side
    for left, right in scenes.skeleton.pairs:
        assert torch.equal(found["keypoints"][:, left, 0], 96 - target["keypoints"][:, right, 0])
        assert torch.equal(found["keypoints"][:, right, 1], target["keypoints"][:, left, 1])
        assert torch.equal(found["visibility"][:, left], target["visibility"][:, right])


def test_cocos_sides_follow_from_their_names():
    """A left joint's index is odd, its right one follows; the nose is 0."""
    assert SKELETONS["coco"].sides() == tuple((i, i + 1) for i in range(1, 17, 2))
    found = F.horizontal_flip(person(SKELETONS["coco"], 17)["keypoints"])
    assert found[0, :, 1].tolist() == [0, *(j for i in range(1, 17, 2) for j in (i + 1, i))]
    assert SKELETONS["lsp"].sides() == ((3, 2), (4, 1), (5, 0), (9, 8), (10, 7), (11, 6))


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (("L_eye", "R_eye", "mouth"), ((0, 1),)),
        (("Left_Eye", "mouth", "Right_Eye"), ((0, 2),)),
        (("eye_l", "eye_r", "ear.L", "ear.R"), ((0, 1), (2, 3))),
        (("leftEye", "rightEye"), ((0, 1),)),
        (("left eye", "RIGHT EYE"), ((0, 1),)),
        (("lankle", "rankle", "rim", "lip"), ((0, 1),)),
        (("leftankle", "rightankle"), ((0, 1),)),
        (("front_left_paw", "front_right_paw", "back_left_paw", "back_right_paw"), ((0, 1), (2, 3))),
        (("nose", "tail"), ()),
        (("left_eye", "nose"), None),
        (("left_eye", "left eye", "right_eye"), None),
        ((), None),
    ],
)
def test_sides_in_names(names, sides):
    assert Skeleton(names).sides() == sides


@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip(p=1), v2.RandomVerticalFlip(p=1)])
@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (Skeleton(), "3 keypoints.*is not known: they have no names.*State pairs"),
        (Skeleton(("left_eye", "nose", "tail")), r"names \(left_eye\) have sides that don't pair up"),
        (Skeleton(pairs=((0, 7),)), "name keypoint 7; there are 3, counted from 0"),
    ],
)
def test_unknown_sides_are_not_mirrored(flip, skeleton, message):
    with pytest.raises(UsageError, match=message):
        flip(torch.zeros(3, 30, 30), person(skeleton, 3))


def test_stated_pairs_count_and_may_be_none():
    points = F.horizontal_flip(person(Skeleton(("left", "tail", "x"), pairs=((1, 2),)), 3)["keypoints"])
    assert points[0, :, 1].tolist() == [0, 2, 1]
    points = F.horizontal_flip(person(Skeleton(pairs=()), 3)["keypoints"])
    assert points[0, :, 1].tolist() == [0, 1, 2]


def test_visibility_goes_with_its_keypoint():
    found = F.horizontal_flip(person(Skeleton(pairs=((0, 1),)), 3)["visibility"])
    assert found.tolist() == [[1, 0, 0]]
    resized = v2.Resize((10, 10))(person(Skeleton(pairs=((0, 1),)), 3))
    assert type(resized["keypoints"]).skeleton.pairs == ((0, 1),)  # other transforms keep what is known
    assert resized["visibility"].tolist() == [[0, 1, 0]]


def test_a_skeleton_survives_json():
    for skeleton in (*SKELETONS.values(), Skeleton(), Skeleton(("a", "b"), ((0, 1),), ()), Skeleton(pairs=((1, 0),))):
        assert Skeleton.from_dict(skeleton.to_dict()) == skeleton


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pairs": ((0, 1), (1, 2))}, "expected each keypoint in one pair at most"),
        ({"names": ("a",), "links": ((0, 1),)}, "links has keypoint 1; there are 1, counted from 0"),
        ({"links": ((0, -1),)}, "expected pairs of indices of keypoints, from 0"),
    ],
)
def test_what_is_no_skeleton(values, message):
    with pytest.raises(UsageError, match=message):
        Skeleton(**values)
