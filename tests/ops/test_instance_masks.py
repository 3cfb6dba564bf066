import pytest
import torch
from scipy.ndimage import binary_erosion
from torchvision import ops
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from scenewise.ops.masks import crop_masks, mask_boundary, mask_boxes, mask_iou, paste_masks


def some_boxes(count, seed=0, side=40.0):
    draws = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * side
    return torch.cat((draws[:, :2] - 6, draws[:, :2] - 6 + draws[:, 2:]), dim=1)  # some reach over the border


@pytest.mark.parametrize("side", [1, 2, 7, 28])
def test_pasting_equals_torchvision(side):
    boxes = torch.cat((some_boxes(30), torch.tensor([[3.0, 4, 3, 4], [3, 4, 3.5, 4.5], [-3.7, -2.2, 60, 60]])))
    maps = torch.rand(len(boxes), side, side, generator=torch.Generator().manual_seed(1))
    maps[::2] = (maps[::2] > 0.5).float()  # binary maps meet the threshold exactly
    for threshold in (0.5, 0.4):
        wanted = paste_masks_in_image(maps[:, None], boxes, (33, 47))[:, 0] > threshold
        assert torch.equal(paste_masks(maps, boxes, (33, 47), threshold), wanted)


def test_pasting_outside_the_image_and_nothing():
    outside = torch.tensor([[-50.0, -50, -10, -10], [100, 3, 120, 9], [3, 100, 9, 120]])
    assert not paste_masks(torch.ones(3, 4, 4), outside, (33, 47)).any()
    assert paste_masks(torch.zeros(0, 4, 4), torch.zeros(0, 4), (33, 47)).shape == (0, 33, 47)
    assert paste_masks(torch.ones(1, 4, 4), torch.tensor([[-5.0, -5, 9, 9]]), (1, 1)).all()
    assert paste_masks(torch.rand(2, 4, 4).bfloat16(), some_boxes(2), (33, 47)).dtype == torch.bool


def test_cropping_equals_torchvision():
    masks = torch.rand(3, 33, 47, generator=torch.Generator().manual_seed(1)) > 0.5
    boxes, index = some_boxes(12), torch.arange(12) % 3
    found = crop_masks(masks, boxes, index, 7)
    assert torch.equal(found, project_masks_on_boxes(masks, boxes, index, 7))
    outside = torch.tensor([[200.0, 200, 220, 220]])
    assert not crop_masks(torch.ones(1, 33, 47, dtype=torch.bool), outside, index[:1], 7).any()
    assert torch.equal(
        crop_masks(masks, boxes, index, 7, sampling=2),
        ops.roi_align(masks[:, None].float(), torch.cat((index[:, None].float(), boxes), 1), 7, 1.0, 2)[:, 0],
    )
    none = torch.zeros(0, dtype=torch.int64)
    assert crop_masks(masks[:0], torch.zeros(0, 4), none, 7).shape == (0, 7, 7)
    assert crop_masks(masks, torch.zeros(0, 4), none, 7).shape == (0, 7, 7)


def test_boxes_of_masks():
    masks = torch.rand(6, 9, 11, generator=torch.Generator().manual_seed(1)) > 0.93
    masks[2] = False
    masks[3] = False
    masks[3, 8, 10] = True  # one pixel, the last
    masks[4] = True
    found = mask_boxes(masks)
    filled = masks.any(2).any(1)
    inclusive = ops.masks_to_boxes(masks[filled])
    assert torch.equal(found[filled], inclusive + torch.tensor([0.0, 0, 1, 1]))
    assert found[2].tolist() == [0, 0, 0, 0]
    assert found[3].tolist() == [10, 8, 11, 9]
    assert found.dtype == torch.float32
    assert mask_boxes(masks[:0]).shape == (0, 4)
    assert mask_boxes(torch.zeros(2, 0, 5, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]] * 2


def test_overlap_of_masks_against_counting():
    draws = torch.rand(9, 300, 301, generator=torch.Generator().manual_seed(1))  # more pixels than one piece
    masks = draws > torch.linspace(0.1, 0.9, 9)[:, None, None]
    masks[4] = False
    a, b = masks[:5], masks[4:]
    shared = (a[:, None] & b).flatten(2).sum(2)
    union = (a[:, None] | b).flatten(2).sum(2)
    torch.testing.assert_close(mask_iou(a, b), shared / union.clamp(min=1), atol=0, rtol=1e-6)
    assert mask_iou(a[:0], b).shape == (0, 5)
    assert mask_iou(a, b[:0]).shape == (5, 0)


@pytest.mark.parametrize("width", [1, 2])
def test_boundary_equals_erosion(width):
    masks = torch.rand(4, 12, 15, generator=torch.Generator().manual_seed(1)) > 0.1
    masks[1], masks[2] = False, True
    found = mask_boundary(masks, width)
    for mask, boundary in zip(masks, found, strict=True):
        core = binary_erosion(mask.numpy(), iterations=width, border_value=1)  # a cross of 3 x 3
        assert torch.equal(boundary, mask & ~torch.from_numpy(core))
    assert not found[2].any()  # what the image cuts off has no boundary there
    assert mask_boundary(masks[0, :1, :1]).shape == (1, 1)
    assert mask_boundary(masks[:0]).shape == (0, 12, 15)
