"""Optical flow: how far each pixel has moved in the next image.

Shapes: H x W pixels of the image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from scenewise.draw.colors import flow_color
from scenewise.draw.legends import beside, flow_key
from scenewise.draw.look import Scene
from scenewise.draw.pages import enlarged
from scenewise.errors import UsageError
from scenewise.fields.base import Size, kernel_of
from scenewise.fields.dense import DenseField
from scenewise.ops.resize import resize_map
from scenewise.ops.views import View
from scenewise.types import Skeleton


class FlowMap(tv_tensors.Mask):
    """Flow ``[2,H,W]`` of a sample. Flips and resizing change the vectors with the image; other distortions of it,
    which would have to move both images alike, are refused."""


@kernel_of(functional.horizontal_flip, FlowMap)
def _mirror_flow(flow: FlowMap) -> FlowMap:
    flipped = functional.horizontal_flip_mask(flow.as_subclass(Tensor))
    flipped[0].neg_()
    return FlowMap(flipped)


@kernel_of(functional.vertical_flip, FlowMap)
def _upend_flow(flow: FlowMap) -> FlowMap:
    flipped = functional.vertical_flip_mask(flow.as_subclass(Tensor))
    flipped[1].neg_()
    return FlowMap(flipped)


@kernel_of(functional.resize, FlowMap)
def _resize_flow(flow: FlowMap, size: list[int] | None, max_size: int | None = None, **kwargs: Any) -> FlowMap:
    old = flow.shape[-2:]
    resized = functional.resize_mask(flow.as_subclass(Tensor), size, max_size=max_size)  # the nearest pixel's vector
    return FlowMap(_scaled(resized, (old[0], old[1]), (resized.shape[-2], resized.shape[-1])))


def _refuse_flow(flow: FlowMap, *args: Any, **kwargs: Any) -> FlowMap:
    raise UsageError(
        "transforms: optical flow can be cropped, resized and flipped, but not rotated or distorted; leave that "
        "transform out"
    )


for _transform in (functional.rotate, functional.affine, functional.perspective, functional.elastic):
    kernel_of(_transform, FlowMap)(_refuse_flow)


class Flow(DenseField):
    """float32 [2,H,W]: x and y in pixels, from a pixel's place to its place in the next image; NaN where unknown."""

    name = "flow"
    blank = math.nan
    title = "flow"
    shape = "2HW"

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Bilinear, the vectors scaled with the image."""
        return value if old == size else _scaled(resize_map(value, size), old, size)

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored, the vectors with the image."""
        return view.vectors_back(view.map_back(value))

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """The direction as a hue, the length as its strength, with a wheel that explains them."""
        vectors = value.float().permute(1, 2, 0).numpy()
        length = np.hypot(vectors[..., 0], vectors[..., 1])
        known = np.isfinite(length)
        longest = max(float(np.percentile(length[known], 99)) if known.any() else 1.0, 1e-3)
        painted = Image.fromarray(enlarged(flow_color(vectors / longest), scene.pen.factor))
        if not scene.look.legend:
            return painted
        return beside(painted, flow_key(painted.height, longest, scene.pen))


def _scaled(flow: Tensor, old: Size, size: Size) -> Tensor:
    return (
        flow * torch.tensor([size[1] / old[1], size[0] / old[0]], dtype=flow.dtype, device=flow.device)[:, None, None]
    )
