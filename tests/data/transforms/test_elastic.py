"""Elastic deformation: image, maps, boxes and keypoints stay together."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torchvision import tv_tensors
from torchvision.transforms import v2

from scenewise.data.transforms.by_name import build_transforms
from scenewise.data.transforms.elastic import ElasticDeformation
from scenewise.errors import UsageError
from scenewise.fields.dense import NormalMap
from scenewise.fields.keypoints import KeyPoints
from scenewise.fields.semantic import SemanticMask
from scenewise.types import IGNORE

HEIGHT, WIDTH = 180, 240


def discs(radius=10):
    """An image of discs, with everything that is known about them."""
    centers = torch.tensor([[60.3, 60.2], [130.5, 100.5], [180.0, 120.0], [100.0, 50.0]])
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    masks = torch.stack([(x - cx) ** 2 + (y - cy) ** 2 < radius**2 for cx, cy in centers])
    canvas = {"canvas_size": (HEIGHT, WIDTH)}
    target = {
        "image_id": "discs",
        "labels": torch.arange(4),
        "masks": tv_tensors.Mask(masks),
        "semantic": SemanticMask(masks.any(0).to(torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(torch.cat([centers - radius, centers + radius], 1), format="XYXY", **canvas),
        "keypoints": KeyPoints(centers[:, None], **canvas),
    }
    return tv_tensors.Image(masks.any(0).to(torch.uint8).mul(255).expand(3, -1, -1).contiguous()), target


@pytest.mark.parametrize("seed", range(4))
def test_everything_moves_together(seed):
    torch.manual_seed(seed)
    image, before = discs()
    moved, after = ElasticDeformation()(image, before)
    assert (after["keypoints"] - before["keypoints"]).abs().max() > 3  # it moves things
    bright = moved.float().mean(0) > 127
    assert (bright != after["masks"].any(0)).float().mean() < 0.002  # only along edges
    known = after["semantic"] != IGNORE
    assert torch.equal(after["semantic"][known] == 1, after["masks"].any(0)[known])
    for mask, box, [point] in zip(after["masks"], after["boxes"], after["keypoints"], strict=True):
        ys, xs = mask.nonzero().T
        center = torch.stack([xs.float().mean(), ys.float().mean()]) + 0.5
        # The centre of the deformed disc is not exactly the deformed centre, where the field is curved.
        assert (center - point).abs().max() < 1
        tight = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        inside = torch.cat([tight[:2] - box[:2], box[2:] - tight[2:]])  # the box holds the object, and not much more
        assert inside.min() > -1
        assert inside.max() < 6


@pytest.mark.parametrize("seed", range(3))
def test_keypoints_are_at_the_inverse_of_the_field(seed):
    torch.manual_seed(seed)
    transform = ElasticDeformation()
    points = KeyPoints(torch.rand(50, 1, 2) * torch.tensor([WIDTH, HEIGHT]), canvas_size=(HEIGHT, WIDTH))
    params = transform.make_params([points])
    moved = transform.transform(points, params)[:, 0].numpy()
    at = [moved[:, 1] - 0.5, moved[:, 0] - 0.5]  # row and column, as indices
    field = np.stack([map_coordinates(f, at, order=1, mode="nearest") for f in params["field"].numpy()], 1)
    np.testing.assert_allclose(moved + field, points[:, 0].numpy(), rtol=0, atol=0.01)  # the iteration has converged


@pytest.mark.parametrize("seed", range(3))
def test_a_box_holds_its_bent_sides(seed):
    """A large rectangle bends between its corners; its box is that of its mask."""
    torch.manual_seed(seed)
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 50:130, 50:190] = True
    box = torch.tensor([[50.0, 50.0, 190.0, 130.0]])
    canvas = {"canvas_size": (HEIGHT, WIDTH)}
    target = {"masks": tv_tensors.Mask(mask), "boxes": tv_tensors.BoundingBoxes(box, format="XYXY", **canvas)}
    _, after = ElasticDeformation()(tv_tensors.Image(mask.float()), target)
    ys, xs = after["masks"][0].nonzero().T
    tight = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert (after["boxes"][0] - tight).abs().max() < 1.2  # a pixel of the mask is in or out as a whole


def test_types_and_sizes_stay():
    image, before = discs()
    moved, after = ElasticDeformation()(image, before)
    for old, new in [(image, moved), *((before[k], after[k]) for k in ("masks", "semantic", "boxes", "keypoints"))]:
        assert type(old) is type(new)
        assert old.dtype == new.dtype
        assert old.shape == new.shape
    assert after["boxes"].format == before["boxes"].format
    assert after["labels"] is before["labels"]


def test_boxes_keep_their_format():
    torch.manual_seed(0)
    boxes = discs()[1]["boxes"]
    transform = ElasticDeformation()
    params = transform.make_params([boxes])
    wanted = transform.transform(boxes, params)
    other = transform.transform(v2.functional.convert_bounding_box_format(boxes, new_format="CXCYWH"), params)
    assert other.format == tv_tensors.BoundingBoxFormat.CXCYWH
    back = v2.functional.convert_bounding_box_format(other, new_format="XYXY")
    torch.testing.assert_close(back.as_subclass(torch.Tensor), wanted.as_subclass(torch.Tensor), rtol=0, atol=1e-3)


def test_no_displacement_is_the_identity():
    image, before = discs()
    moved, after = ElasticDeformation(sigma=0)(image, before)
    assert torch.equal(moved, image)
    for name in ("masks", "semantic"):
        assert torch.equal(after[name], before[name])
    for name in ("boxes", "keypoints"):
        torch.testing.assert_close(after[name], before[name])


def test_images_without_objects():
    canvas = {"canvas_size": (20, 30)}
    target = {
        "masks": tv_tensors.Mask(torch.zeros(0, 20, 30, dtype=torch.bool)),
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", **canvas),
        "keypoints": KeyPoints(torch.zeros(0, 5, 2), **canvas),
    }
    _, after = ElasticDeformation()(tv_tensors.Image(torch.zeros(3, 20, 30)), target)
    assert {k: tuple(v.shape) for k, v in after.items()} == {k: tuple(v.shape) for k, v in target.items()}


def test_the_field_is_drawn_from_torchs_generator():
    image, target = discs()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(ElasticDeformation()(image, target)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_strength_of_the_field():
    torch.manual_seed(0)
    transform = ElasticDeformation(sigma=10)
    corners = [transform.make_params([torch.zeros(3, 32, 48)])["field"][:, ::31, ::47] for _ in range(2000)]
    assert torch.stack(corners).std().item() == pytest.approx(10, rel=0.03)  # the corners are points of the grid


def test_fill():
    image, target = discs()
    target["masks"] = tv_tensors.Mask(torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool))
    depth = tv_tensors.Mask(torch.ones(HEIGHT, WIDTH))
    torch.manual_seed(0)
    _, after = ElasticDeformation(sigma=30)(image, {**target, "depth": depth})
    outside = ~after["masks"][0]
    assert outside.any()
    assert torch.equal(after["semantic"] == IGNORE, outside)
    assert torch.equal(after["depth"] == 0, outside)
    torch.manual_seed(0)
    fill = {tv_tensors.Mask: float("nan"), tv_tensors.Image: 7}
    moved, after = ElasticDeformation(sigma=30, fill=fill)(image, {"semantic": target["semantic"], "depth": depth})
    assert torch.equal(after["depth"].isnan(), outside)
    assert torch.equal(after["semantic"] == IGNORE, outside)
    assert (moved[:, outside] == 7).float().mean() > 0.9  # but for the blended edge


def test_normals_are_refused():
    """A distortion of the picture says nothing about the directions in it."""
    image, _ = discs()
    with pytest.raises(UsageError, match="not sheared or distorted"):
        ElasticDeformation()(image, {"normals": NormalMap(torch.zeros(3, HEIGHT, WIDTH))})


def test_by_name_in_a_recipe():
    transform = build_transforms([{"ElasticDeformation": {"sigma": 4, "grid": [4, 5], "fill": {"Image": 0.5}}}])
    step = transform.transforms[0]
    assert isinstance(step, ElasticDeformation)
    assert step.grid == (4, 5)
    with pytest.raises(UsageError, match=r"grid is \(1, 3\); expected 2 or more"):
        build_transforms([{"ElasticDeformation": {"grid": [1, 3]}}])
    with pytest.raises(UsageError, match="sigma is -1"):
        build_transforms([{"ElasticDeformation": {"sigma": -1}}])
