"""Transforms of torchvision's v2 move scenewise's own tensor types rightly."""

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scenewise.errors import UsageError
from scenewise.fields.dense import NormalMap
from scenewise.fields.keypoints import KeyPoints
from scenewise.types import Skeleton

HEIGHT, WIDTH = 5, 8  # not square, so that mixed-up axes show


@pytest.fixture
def normals():
    vectors = torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return NormalMap(vectors / vectors.norm(dim=0))


@pytest.mark.parametrize(("flip", "axis", "component"), [(F.horizontal_flip, -1, 0), (F.vertical_flip, -2, 1)])
def test_a_flip_negates_the_normals_across_it(normals, flip, axis, component):
    plain = normals.as_subclass(torch.Tensor).clone()
    expected = plain.flip(axis)
    expected[component] *= -1

    flipped = flip(normals)

    assert type(flipped) is NormalMap
    assert torch.equal(flipped.as_subclass(torch.Tensor), expected)
    assert torch.equal(flip(flipped).as_subclass(torch.Tensor), plain)  # twice is nothing
    assert torch.equal(normals.as_subclass(torch.Tensor), plain)  # the original is untouched


def test_two_flips_are_half_a_turn(normals):
    turned = F.rotate(normals, 180)
    flipped = F.vertical_flip(F.horizontal_flip(normals))
    assert type(turned) is NormalMap
    torch.testing.assert_close(turned, flipped, atol=1e-6, rtol=0)  # cos and sin of pi in float32


def test_a_quarter_turn_counter_clockwise_takes_right_to_up():
    right = torch.zeros(3, HEIGHT, WIDTH)
    right[0] = 1
    turned = F.rotate(NormalMap(right), 90, expand=True)
    assert turned.shape == (3, WIDTH, HEIGHT)
    torch.testing.assert_close(turned[:, 3, 2].as_subclass(torch.Tensor), torch.tensor([0.0, -1.0, 0.0]))


@pytest.mark.parametrize("transform", [v2.RandomAffine(20), v2.RandomPerspective(p=1), v2.ElasticTransform(sigma=0.2)])
def test_distortions_of_normals_are_refused(normals, transform):
    with pytest.raises(UsageError, match="normals can be cropped, resized, flipped and rotated"):
        transform(normals)


def test_transforms_of_whole_samples_reach_the_normals(normals):
    sample = {"normals": normals, "depth": tv_tensors.Mask(torch.ones(HEIGHT, WIDTH))}
    image = tv_tensors.Image(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8))
    _, target = v2.RandomHorizontalFlip(p=1)(image, sample)
    assert torch.equal(target["normals"][0].as_subclass(torch.Tensor), -normals[0].flip(-1).as_subclass(torch.Tensor))


@pytest.mark.parametrize("flip", [F.horizontal_flip, F.vertical_flip])
def test_flipped_keypoints_stay_on_their_pixels(flip):
    picture = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    picture[1, 2] = 1
    points = KeyPoints.of(Skeleton(pairs=()))(torch.tensor([[[2.5, 1.5]]]), canvas_size=(HEIGHT, WIDTH))
    box = tv_tensors.BoundingBoxes(torch.tensor([[2.0, 1, 3, 2]]), format="XYXY", canvas_size=(HEIGHT, WIDTH))

    row, column = flip(tv_tensors.Mask(picture)).nonzero()[0].tolist()
    flipped = flip(points)

    assert type(flipped) is type(points)
    assert flipped.canvas_size == (HEIGHT, WIDTH)
    assert flipped.tolist() == [[[column + 0.5, row + 0.5]]]
    assert flip(box).tolist() == [[column, row, column + 1, row + 1]]
    assert points.tolist() == [[[2.5, 1.5]]]


def test_other_transforms_keep_the_type_of_keypoints():
    points = KeyPoints(torch.tensor([[2.5, 1.5]]), canvas_size=(HEIGHT, WIDTH))
    resized = F.resize(points, [HEIGHT * 2, WIDTH * 2])
    assert type(resized) is KeyPoints
    assert resized.canvas_size == (HEIGHT * 2, WIDTH * 2)
    assert resized.tolist() == [[5.0, 3.0]]
