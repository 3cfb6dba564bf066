"""Keypoints as the peaks of maps in the frames of boxes.

Shapes: K boxes ``x1, y1, x2, y2``, P points each, maps of M x M; K may be 0.

All coordinates here are continuous, as everywhere in scenewise: the centre of pixel column j is x = j + 0.5. The
formulas are those of torchvision (``keypoints_to_heatmap``, ``heatmaps_to_keypoints``), and the same numbers in give
the same numbers out: floor takes a continuous coordinate to a cell, and the cell's middle, + 0.5, is where a point is
put back. What differs is what is fed. torchvision's references feed COCO's keypoints as they stand in the file, as
indices of pixels; scenewise's reader adds 0.5 to them first (and its writer takes it off again), as Detectron2 does. So
a network trained by torchvision finds points in index coordinates: x in scenewise is what it gives + 0.5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def keypoint_targets(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cell of its box's map that each point lies in.

    Args:
        keypoints: float [K,P,3]: x, y, visibility.
        boxes: float [K,4]; the points of row k are sought in box k.
        size: M.

    Returns:
        (int64 [K,P], row * M + column; bool [K,P], whether there is such a cell). A point that is not labelled
        (visibility 0) or not within its box has none, its index is 0; nor has any in a box without area. A point on
        the right or lower border counts for the last cell.

    Source: He et al., "Mask R-CNN", ICCV 2017, sec. 5: a one-hot M x M mask for each point, softmax over the cells.
    """
    first, last = boxes[:, None, :2], boxes[:, None, 2:]  # [K,1,2]
    position = keypoints[..., :2]
    sides = last - first
    cell = ((position - first) * (size / sides)).floor()
    cell = torch.where(position == last, size - 1, cell)
    valid = ((cell >= 0) & (cell < size) & (sides > 0)).all(dim=-1) & (keypoints[..., 2] > 0)
    cell = torch.where(valid[..., None], cell, 0).to(torch.int64)  # before the cast: NaN and inf have no integer
    return cell[..., 1] * size + cell[..., 0], valid


def decode_keypoints(logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Where the maps have their peaks, when each is enlarged to its box by cubic interpolation.

    Args:
        logits: float [K,P,M,M].
        boxes: float [K,4]; sides below 1 count as 1.

    Returns:
        (float32 [K,P,3], x and y in pixels, third column 1; float32 [K,P], the enlarged map at the peak, a logit). Of
        equal peaks the first, row by row.
    """
    logits = logits.detach().float()
    boxes = boxes.detach().float()
    count, points = logits.shape[:2]
    keypoints = logits.new_ones((count, points, 3))
    scores = logits.new_zeros((count, points))
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    for k, (width, height) in enumerate(sides.ceil().to(torch.int64).tolist()):
        large = F.interpolate(logits[k][:, None], size=(height, width), mode="bicubic", align_corners=False)
        scores[k], peak = large.flatten(1).max(dim=1)
        cell = torch.stack((peak % width, peak // width), dim=1)  # [P,2], x and y
        keypoints[k, :, :2] = (cell + 0.5) * (sides[k] / sides.new_tensor((width, height))) + boxes[k, :2]
    return keypoints, scores
