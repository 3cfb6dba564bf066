"""Objects that a crop moves out of the image leave the sample, with all that belongs to them."""

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from scenewise.data.transforms.objects import BoxesFromMasks
from scenewise.fields.keypoints import KeyPoints
from scenewise.fields.table import drop_lost


def drop_lost_objects(image, target):
    return image, drop_lost(image, target)


def sample():
    """A disc at the left, a square at the right, 20 x 40 pixels."""
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(40), indexing="ij")
    masks = torch.stack([(rows - 10) ** 2 + (columns - 8) ** 2 < 36, (rows > 4) & (rows < 12) & (columns >= 30)])
    boxes = tv_tensors.BoundingBoxes([[3.0, 5, 14, 16], [30, 5, 40, 12]], format="XYXY", canvas_size=(20, 40))
    target = {
        "boxes": boxes,
        "labels": torch.tensor([4, 7]),
        "ignore": torch.tensor([False, True]),
        "area": torch.tensor([90.0, 70.0]),
        "masks": tv_tensors.Mask(masks),
        "keypoints": KeyPoints(
            torch.tensor([[[8.5, 9.5], [13.5, 9.5]], [[31.5, 6.5], [39.5, 11.5]]]), canvas_size=(20, 40)
        ),
        "visibility": torch.tensor([[2, 1], [2, 2]]),
    }
    return tv_tensors.Image(torch.zeros(3, 20, 40, dtype=torch.uint8)), target


def crop(image, target, left, width):
    cut = {k: F.crop(v, 0, left, 20, width) if isinstance(v, tv_tensors.TVTensor) else v for k, v in target.items()}
    return F.crop(image, 0, left, 20, width), cut


def test_nothing_is_lost_where_nothing_moved():
    image, target = sample()
    same = drop_lost_objects(image, target)[1]
    assert all(torch.equal(same[k], target[k]) for k in target)


def test_an_object_outside_goes_with_all_its_fields():
    _, target = drop_lost_objects(*crop(*sample(), 20, 20))
    assert target["labels"].tolist() == [7]
    assert target["boxes"].tolist() == [[10, 5, 20, 12]]
    assert target["ignore"].tolist() == [True]
    assert target["area"].tolist() == [70]
    assert target["masks"].shape == (1, 20, 20)
    assert target["keypoints"].shape == (1, 2, 2)
    assert target["visibility"].tolist() == [[2, 2]]
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(target["masks"], tv_tensors.Mask)


def test_joints_outside_are_not_labelled():
    _, target = drop_lost_objects(*crop(*sample(), 0, 12))
    assert target["labels"].tolist() == [4]
    assert target["visibility"].tolist() == [[2, 0]]


def test_all_objects_may_go():
    _, target = drop_lost_objects(*crop(*sample(), 16, 10))
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 20, 10)


def test_boxes_hold_what_is_left_of_their_masks():
    image, target = crop(*sample(), 12, 28)  # two columns of the disc are left
    _, tight = BoxesFromMasks()(image, target)
    mask = target["masks"][0]
    rows, columns = mask.nonzero().unbind(1)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert tight["boxes"][0].tolist() == [float(v) for v in expected]
    assert tight["boxes"][0, 1] > target["boxes"][0, 1]


def test_boxes_end_at_the_image():
    """Not every transform cuts them itself."""
    image, target = sample()
    target["boxes"] = tv_tensors.wrap(torch.tensor([[-3.0, 5, 14, 16], [30, 5, 47, 25]]), like=target["boxes"])
    _, target = drop_lost_objects(image, target)
    assert target["boxes"].tolist() == [[0, 5, 14, 16], [30, 5, 40, 20]]


def test_masks_and_joints_outside_go_without_boxes():
    """What a crop leaves of objects that have no boxes, each kind by itself."""
    image, target = sample()
    for kept in ({"masks"}, {"keypoints", "visibility"}):
        _, found = drop_lost_objects(*crop(image, {k: v for k, v in target.items() if k in kept | {"labels"}}, 20, 20))
        assert found["labels"].tolist() == [7]
        assert all(len(found[name]) == 1 for name in kept)


def test_an_instance_without_labelled_joints_stays():
    image, target = sample()
    unlabelled = {"keypoints": target["keypoints"], "visibility": torch.zeros(2, 2).long()}
    assert len(drop_lost_objects(*crop(image, unlabelled, 0, 12))[1]["keypoints"]) == 2
