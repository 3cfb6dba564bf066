"""How much a pixel between two close objects should weigh in a loss: U-Net's border weights.

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, sec. 3, eq. 2. Needs one mask an object: in a class map, touching
objects have no border.

Shapes: K objects in an image of H x W pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]  # scipy fills this module at run time
from torch import Tensor

# A pixel that is this many sigmas from an object has a term below w0 * exp(-18) = 1.5e-8 w0 with it. That is lost when
# it is added to a class weight near 1 in float32, so distances need not be computed farther out.
REACH = 6.0


def border_weights(masks: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """w0 * exp(-(d1 + d2)^2 / (2 sigma^2)) on the background, 0 on the objects: the second term of eq. 2.

    Args:
        masks: bool [K,H,W], one an object. Objects without a pixel, such as a crop leaves behind, do not count.
        w0: the weight that a gap of no width would get.
        sigma: in pixels, how fast it falls with the width of the gap.

    Returns:
        float32 [H,W] on the device of ``masks``. 0 everywhere where there are fewer than two objects.

    The background is every pixel that no mask covers. d1 and d2 are the distances to the nearest and the second
    nearest object, from the pixel's centre to the centre of the object's nearest pixel: 1 for a pixel beside it.
    Computed on the CPU, object by object within its neighbourhood, so the cost follows the area of the objects and not
    K x H x W.
    """
    objects = masks.cpu().numpy()
    height, width = objects.shape[-2:]
    nearest = np.full((height, width), np.inf)
    second = nearest.copy()
    reach = math.ceil(REACH * sigma)
    for mask in objects:
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        if len(rows) == 0:
            continue
        window = (
            slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
            slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
        )
        distance = distance_transform_edt(~mask[window])
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    weights[objects.any(0)] = 0
    return torch.from_numpy(weights.astype(np.float32)).to(masks.device)


def separate_touching(masks: Tensor) -> Tensor:
    """``masks`` with a line of background, one pixel wide, between objects that touch.

    Args:
        masks: bool [K,H,W], one an object; they may overlap.

    Returns:
        bool [K,H,W]. No pixel of an object is one of the eight neighbours of another object's pixel. Of two that
        touch or overlap, the one with the lower index loses its pixels along the border (an object one pixel thin may
        lose all); objects that touch nothing stay as they are.

    The training data of U-Net is prepared so (sec. 3): without a gap there is no background for :func:`border_weights`
    to act on, and nothing in a class map that keeps two objects apart. In the class map, give the pixels
    ``masks.any(0) & ~separate_touching(masks).any(0)`` the label of the background.
    """
    separated = masks.clone()
    later = masks.new_zeros((1, *masks.shape[-2:]), dtype=torch.float32)  # the objects of higher index together
    for index in reversed(range(len(masks))):
        around = F.max_pool2d(later, 3, stride=1, padding=1)[0] > 0
        separated[index] &= ~around
        later = torch.maximum(later, separated[index].float())
    return separated
