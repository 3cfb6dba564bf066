"""Masks of objects: from the frame of a box to the image and back.

Shapes: K boxes ``x1, y1, x2, y2`` in pixels, G objects, images of H x W, box frames of M x M. K and G may be 0.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import ops

_PIECE = 2**16  # pixels of each mask that are multiplied at a time


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """The masks in the image, of ``probabilities`` in the frames of ``boxes``.

    Args:
        probabilities: float [K,M,M], 0..1.
        boxes: float [K,4]. A box outside the image gives an empty mask.
        size: (H, W) of the image.
        threshold: a pixel is set where the enlarged map is above this.

    Returns:
        bool [K,H,W] on the device of ``probabilities``. Equal to torchvision's ``paste_masks_in_image`` above the
        threshold: the map gets a border of zeros and the box grows with it, so that the mask fades out at the box
        instead of ending; then corners are cut to whole pixels, of which the last counts.

    The map is enlarged within the box alone and compared there, so no float image of each object is made.
    """
    height, width = size
    side = probabilities.shape[-1]
    masks = torch.zeros((len(probabilities), height, width), dtype=torch.bool, device=probabilities.device)
    padded = F.pad(probabilities.detach().float(), (1, 1, 1, 1))
    for mask, small, (x1, y1, x2, y2) in zip(
        masks, padded, _grown(boxes.detach().float(), (side + 2) / side).to(torch.int64).tolist(), strict=True
    ):
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
        if left >= right or top >= bottom:
            continue
        box_size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        large = F.interpolate(small[None, None], size=box_size, mode="bilinear", align_corners=False)[0, 0]
        torch.gt(large[top - y1 : bottom - y1, left - x1 : right - x1], threshold, out=mask[top:bottom, left:right])
    return masks


def _grown(boxes: Tensor, factor: float) -> Tensor:
    """``boxes`` [K,4] with both sides ``factor`` times as long, around the same centres."""
    centers = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    return torch.cat((centers - half, centers + half), dim=1)


def crop_masks(
    masks: Tensor, boxes: Tensor, index: Tensor, size: int, *, sampling: int = 0, aligned: bool = False
) -> Tensor:
    """What a mask head is to learn: the objects' masks in the frames of ``boxes``.

    Args:
        masks: bool [G,H,W].
        boxes: float [K,4].
        index: int64 [K]: which object each box is for.
        size: M.
        sampling: samples a side of a cell; 0: as many as the cell is pixels wide, rounded up.
        aligned: whether a pixel's centre is half a pixel beyond its index, as it is; see ``ops.roi.roi_align``.

    Returns:
        float32 [K,M,M], the share of each cell that the object covers. With ``sampling`` 0 equal to torchvision's
        ``project_masks_on_boxes``, which takes a pixel's centre to be at its index (not ``aligned``). Zero where the
        box misses its object.
    """
    boxes = boxes.detach().float()
    rois = torch.cat((index[:, None].to(boxes), boxes), dim=1)
    if len(rois) == 0:
        return boxes.new_zeros((0, size, size))
    return ops.roi_align(masks[:, None].to(boxes), rois, size, 1.0, sampling, aligned)[:, 0]


def mask_boxes(masks: Tensor) -> Tensor:
    """The smallest boxes that hold ``masks`` bool [K,H,W]: float32 [K,4]; zeros for a mask without a pixel."""
    rows, columns = masks.any(dim=2), masks.any(dim=1)  # [K,H], [K,W]
    (y1, y2), (x1, x2) = _extent(rows), _extent(columns)
    return torch.stack((x1, y1, x2, y2), dim=1).float()


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First set place and the place after the last one, of each row of bool [K,L]; 0, 0 where none is set."""
    length = line.shape[1]
    place = torch.arange(length, device=line.device)
    if line.numel() == 0:
        return (zeros := line.new_zeros(len(line), dtype=torch.int64)), zeros
    end = torch.where(line, place + 1, 0).amax(dim=1)
    start = torch.where(line, place, length).amin(dim=1)
    return torch.minimum(start, end), end


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each of ``a`` bool [A,H,W] with each of ``b`` bool [B,H,W]: float32 [A,B].

    0 for two masks without a pixel.
    """
    a, b = a.flatten(1), b.flatten(1)
    shared = torch.zeros((len(a), len(b)), device=a.device)
    # Piece by piece: as numbers that can be multiplied, masks take four times their memory. Counts are exact in
    # float32 up to 2^24 pixels.
    for part_a, part_b in zip(a.split(_PIECE, dim=1), b.split(_PIECE, dim=1), strict=True):
        shared += part_a.float() @ part_b.float().T
    union = a.sum(dim=1)[:, None] + b.sum(dim=1) - shared
    return torch.where(union > 0, shared / union, 0)


def mask_boundary(mask: Tensor, width: int = 1) -> Tensor:
    """The pixels of ``mask`` within ``width`` steps (up, down, left, right) of a pixel that isn't in it.

    Args:
        mask: bool [...,H,W].
        width: in pixels, 1 or more.

    Returns:
        bool [...,H,W]. What lies outside the image counts as inside the mask: where the image cuts an object off, there
        is no boundary to be seen. So compute it in the whole image first, then crop.
    """
    core = mask
    for _ in range(width):
        eroded = core.clone()
        eroded[..., 1:, :] &= core[..., :-1, :]
        eroded[..., :-1, :] &= core[..., 1:, :]
        eroded[..., :, 1:] &= core[..., :, :-1]
        eroded[..., :, :-1] &= core[..., :, 1:]
        core = eroded
    return mask & ~core


def mask_nms(masks: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each group alone, by the overlap of masks instead of boxes.

    Args:
        masks: bool [K,H,W].
        scores: float [K].
        groups: int64 [K]; masks of different groups don't take each other away.
        iou_threshold: a mask goes where the IoU with one of higher score is above this.

    Returns:
        int64: indices of those left, the largest score first, of equal scores the first.
    """
    order = scores.sort(descending=True, stable=True).indices
    overlap = mask_iou(masks, masks) > iou_threshold
    overlap &= groups[:, None] == groups
    rival = overlap[order][:, order].cpu().numpy()
    gone = np.zeros(len(rival), dtype=bool)
    left = []
    for index in range(len(rival)):
        if not gone[index]:
            left.append(index)
            gone |= rival[index]
    return order[torch.tensor(left, dtype=torch.int64, device=order.device)]
