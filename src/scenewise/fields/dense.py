"""Measures of each pixel: boundaries, depth, surface normals, embeddings.

Shapes: H x W pixels of the image, D numbers of an embedding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from scenewise.draw.colors import UNKNOWN, depth_color, normal_color
from scenewise.draw.legends import PAGE, beside, depth_scale, normal_key
from scenewise.draw.look import Scene
from scenewise.draw.pages import enlarged
from scenewise.errors import UsageError
from scenewise.fields.base import Field, Size, kernel_of
from scenewise.ops.resize import resize_map
from scenewise.ops.views import View
from scenewise.types import Described, Skeleton


class NormalMap(tv_tensors.Mask):
    """Surface normals ``[3,H,W]``. Flips and rotations of the image turn the vectors with it; transforms that have no
    counterpart for a camera (affine, perspective, elastic) are refused."""


@kernel_of(functional.horizontal_flip, NormalMap)
def _mirror_normals(normals: NormalMap) -> NormalMap:
    flipped = functional.horizontal_flip_mask(normals.as_subclass(Tensor))
    flipped[..., 0, :, :].neg_()
    return NormalMap(flipped)


@kernel_of(functional.vertical_flip, NormalMap)
def _upend_normals(normals: NormalMap) -> NormalMap:
    flipped = functional.vertical_flip_mask(normals.as_subclass(Tensor))
    flipped[..., 1, :, :].neg_()
    return NormalMap(flipped)


@kernel_of(functional.rotate, NormalMap)
def _rotate_normals(normals: NormalMap, angle: float, *args: Any, **kwargs: Any) -> NormalMap:
    kwargs.pop("interpolation", None)  # the mask's kernel takes the nearest pixel always
    x, y, z = functional.rotate_mask(normals.as_subclass(Tensor), angle, *args, **kwargs).unbind(-3)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))  # counter-clockwise, and y points down
    return NormalMap(torch.stack((cos * x + sin * y, cos * y - sin * x, z), -3))


def _refuse_normals(normals: NormalMap, *args: Any, **kwargs: Any) -> NormalMap:
    raise UsageError(
        "transforms: surface normals can be cropped, resized, flipped and rotated, "
        "but not sheared or distorted (affine, perspective, elastic); leave that transform out"
    )


for _transform in (functional.affine, functional.perspective, functional.elastic):
    kernel_of(_transform, NormalMap)(_refuse_normals)


class DenseField(Field):
    """A map of floats: resized bilinearly, averaged over views, kept in arrays, painted as a panel of its own."""

    shape = "HW"
    fusion = "mean"
    layer = "panel"

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Bilinear; unknown pixels stay unknown."""
        return resize_map(value, size)

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored."""
        return view.map_back(value)

    def summary(self, value: Tensor, whole: Described) -> list[str]:
        """That it is there."""
        return [self.title]


class Boundary(DenseField):
    """float32 0..1: how sure it is that a pixel lies on a boundary."""

    name = "boundary"
    title = "boundaries"

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """Pixels that are not finite."""
        return unknown_pixel(value, self.name)

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """Boundaries in dark red over a pale grey copy of ``picture``, as opaque as they are strong."""
        pale = Image.blend(ImageOps.grayscale(picture).convert("RGB"), Image.new("RGB", picture.size, PAGE), 0.6)
        strength = enlarged(value.float().clamp(0, 1).nan_to_num(0).numpy(), scene.pen.factor)
        pale.paste((190, 20, 50), mask=Image.fromarray((strength * 255).round().astype(np.uint8)))
        return pale


class Depth(DenseField):
    """float32: metres, NaN where unknown."""

    name = "depth"
    blank = math.nan
    title = "depth"

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """Depth in colours, near ones light, with a scale in metres."""
        metres = value.float().numpy()
        known = np.isfinite(metres)
        if scene.look.depth_range is not None:
            near, far = scene.look.depth_range
        elif known.any():
            near, far = (float(v) for v in np.percentile(metres[known], (1, 99)))
        else:
            near, far = 0.0, 1.0
        if far - near < 1e-3:  # a flat wall
            near, far = near - 0.5, far + 0.5
        place = np.clip((far - np.where(known, metres, far)) / (far - near), 0, 1)
        colors = np.where(known[..., None], depth_color(place), np.uint8(UNKNOWN[0])).astype(np.uint8)
        painted = Image.fromarray(enlarged(colors, scene.pen.factor))
        if not scene.look.legend:
            return painted
        return beside(painted, depth_scale(painted.height, near, far, not known.all(), scene.pen))


class Normals(DenseField):
    """float32 [3,H,W]: unit vectors, x right, y down, z forward."""

    name = "normals"
    blank = math.nan
    title = "normals"
    shape = "3HW"

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Bilinear, and of length 1 again."""
        return value if old == size else self.finish(resize_map(value, size))

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored, the vectors with the image."""
        return view.vectors_back(view.map_back(value))

    def finish(self, mean: Tensor) -> Tensor:
        """The mean vector at length 1."""
        found: Tensor = mean / mean.norm(dim=0, keepdim=True).clamp(min=1e-12)
        return found

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """Normals as colours: red to the right, green up, blue towards the camera."""
        colors = normal_color(value.float().permute(1, 2, 0).numpy())
        painted = Image.fromarray(enlarged(colors, scene.pen.factor))
        return beside(painted, normal_key(painted.height, scene.pen)) if scene.look.legend else painted


class Embedding(Field):
    """float32 [D] of the image, or [D,H,W] of its pixels."""

    name = "embedding"
    target = False
    shape = "D"  # or DHW: see table.misfit
    fusion = "mean"

    def summary(self, value: Tensor, whole: Described) -> list[str]:
        """How long it is."""
        return [f"embedding of {len(value)} numbers"]

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Bilinear, where there is one for each pixel."""
        return resize_map(value, size) if value.dim() == 3 else value

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored, where there is one for each pixel."""
        return view.map_back(value) if value.dim() == 3 else value


def unknown_pixel(value: Tensor, name: str) -> str | None:
    """Which pixel of ``value`` is not finite, as a sentence; None where all are."""
    finite = value.isfinite()
    if bool(finite.all()):
        return None
    place = (~finite).nonzero()[0].tolist()
    return f"{name} has a value that is not finite at pixel (row {place[-2]}, column {place[-1]})"
