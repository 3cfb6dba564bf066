"""Elastic deformation of a sample: image, maps, boxes and keypoints alike.

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, Transform, query_size
from torchvision.transforms.v2 import functional as TF

from scenewise.errors import UsageError
from scenewise.fields.semantic import SemanticMask
from scenewise.types import IGNORE

FILL: dict[Any, float] = {SemanticMask: IGNORE, "others": 0}
STEPS = 20  # of the fixed-point iteration; each shrinks the error by the field's steepness, 0.2 or less as a rule
POINTS = 16  # along each side of a box


class ElasticDeformation(Transform):
    """Moves each pixel by a smooth random displacement.

    Displacements are drawn on a coarse grid that spans the image and interpolated bicubically to all pixels.
    The deformed image at p is the original at p + displacement(p).

    Args:
        sigma: the standard deviation of the grid's displacements, in pixels.
        grid: how many of them there are (along the height, along the width), each 2 or more.
        interpolation: of the image; maps take the nearest pixel.
        fill: the value of pixels from outside the image: a number, or one for each type as in torchvision's
            transforms. By default IGNORE in class maps and 0 elsewhere; a depth map wants NaN for its type.

    Keypoints are moved exactly, that is to the point p with p + displacement(p) = keypoint (torchvision's own
    ``functional.elastic`` takes -displacement there, which is off by several pixels at this strength, and rounds to
    whole pixels). A box becomes the box around its deformed outline, clamped to the image. Where the field is so
    steep that it folds over itself, on images of a few tens of pixels, one of several such points is taken.
    Random numbers are torch's global ones.

    Raises:
        UsageError: the sample has surface normals, whose directions a distortion of the picture does not tell.
    """

    def __init__(
        self,
        sigma: float = 10.0,
        grid: tuple[int, int] = (3, 3),
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
        fill: float | Mapping[Any, float] | None = None,
    ) -> None:
        super().__init__()
        if min(grid) < 2:
            raise UsageError(f"ElasticDeformation: grid is {tuple(grid)}; expected 2 or more points along each axis")
        if sigma < 0:
            raise UsageError(f"ElasticDeformation: sigma is {sigma}; expected 0 or more pixels")
        self.sigma, self.grid, self.interpolation = sigma, tuple(grid), interpolation
        self.fill = fill if isinstance(fill, int | float) else {**FILL, **(fill or {})}

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """``field``: float32 [2,H,W], the displacement along x and along y at each pixel's centre, in pixels."""
        coarse = torch.randn(1, 2, *self.grid) * self.sigma
        return {"field": F.interpolate(coarse, size=query_size(flat_inputs), mode="bicubic", align_corners=True)[0]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """``inpt`` deformed by ``field``."""
        field: Tensor = params["field"]
        if isinstance(inpt, tv_tensors.KeyPoints):
            return tv_tensors.wrap(_moved(inpt.as_subclass(Tensor), field), like=inpt)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return _deformed_boxes(inpt, field)
        if inpt.numel() == 0:  # no instance masks
            return inpt
        height, width = field.shape[-2:]
        normalized = field.permute(1, 2, 0)[None] * field.new_tensor([2 / width, 2 / height])
        return self._call_kernel(
            TF.elastic, inpt, displacement=normalized, interpolation=self.interpolation, fill=self._fill_of(type(inpt))
        )

    def _fill_of(self, kind: type) -> float:
        if not isinstance(self.fill, Mapping):
            return self.fill
        return self.fill.get(kind, self.fill["others"])


def _moved(points: Tensor, field: Tensor) -> Tensor:
    """Where ``points`` [...,2] (x, y) of the original lie in the deformed image."""
    target = points.to(field.dtype).reshape(-1, 2)
    moved = target
    for _ in range(STEPS):
        moved = target - _displacement(moved, field)
    return moved.reshape(points.shape).to(points.dtype)


def _displacement(points: Tensor, field: Tensor) -> Tensor:
    """``field`` [2,H,W] interpolated at ``points`` [P,2]; beyond the outermost centres it stays as there."""
    size = field.new_tensor([field.shape[-1], field.shape[-2]])
    at = (points / size * 2 - 1)[None, :, None]  # [1,P,1,2]
    found = F.grid_sample(field[None], at, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T  # [P,2]


def _deformed_boxes(boxes: tv_tensors.BoundingBoxes, field: Tensor) -> tv_tensors.BoundingBoxes:
    """The boxes around the deformed outlines of ``boxes``, in their own format."""
    form = tv_tensors.BoundingBoxFormat.XYXY
    x1, y1, x2, y2 = (
        TF.convert_bounding_box_format(boxes, new_format=form).as_subclass(Tensor).to(field.dtype).unbind(-1)
    )
    along = torch.linspace(0, 1, POINTS)
    xs, ys = torch.lerp(x1[:, None], x2[:, None], along), torch.lerp(y1[:, None], y2[:, None], along)  # [K,POINTS]
    sides = [(xs, y1[:, None]), (xs, y2[:, None]), (x1[:, None], ys), (x2[:, None], ys)]
    outline = torch.cat([torch.stack(torch.broadcast_tensors(x, y), -1) for x, y in sides], 1)  # [K,4*POINTS,2]
    low, high = _moved(outline, field).aminmax(dim=1)
    corners = tv_tensors.BoundingBoxes(torch.cat([low, high], 1), format=form, canvas_size=boxes.canvas_size)
    result = TF.convert_bounding_box_format(TF.clamp_bounding_boxes(corners), new_format=boxes.format)
    found: tv_tensors.BoundingBoxes = tv_tensors.wrap(result.to(boxes.dtype), like=boxes)
    return found
