"""Masks of objects: at each pixel of the image, and in the frames of boxes.

Shapes: K instances, H x W pixels of the image, M x M cells of a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from scenewise.draw.colors import Array
from scenewise.draw.look import Scene
from scenewise.draw.pages import enlarged, grown, mask_box
from scenewise.fields.base import Cut, Field, Size
from scenewise.fields.run_masks import areas_of, bitmap_of, codes_of
from scenewise.ops import rle
from scenewise.ops.masks import paste_masks
from scenewise.ops.views import View
from scenewise.types import Described, Skeleton


class Masks(Field):
    """bool: where each object is."""

    name = "masks"
    shape = "KHW"
    fusion = "union"
    storage = "json"
    layer = "over"
    depth = 20
    told_apart = True
    key = "mask"

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Resized to the nearest pixel."""
        return value if old == size else F.resize(value, list(size), InterpolationMode.NEAREST_EXACT)

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored."""
        return view.map_back(value)

    def shift(self, value: Tensor, left: int, top: int, size: Size) -> Tensor:
        """Laid into an empty image; what lies outside of it is cut off."""
        whole = value.new_zeros((len(value), *size))
        y1, x1 = max(0, top), max(0, left)
        y2, x2 = (min(side, at + n) for side, at, n in zip(size, (top, left), value.shape[-2:], strict=True))
        if y1 < y2 and x1 < x2:
            whole[:, y1:y2, x1:x2] = value[:, y1 - top : y2 - top, x1 - left : x2 - left]
        return whole

    def encode(self, value: Tensor, whole: Described) -> Any:
        """K run-length codes, as COCO has them."""
        return codes_of(value)

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """See :class:`~scenewise.fields.base.Field`."""
        decoded = [
            rle.decode(code, size, where=f"{where}: instances[{index}].mask") for index, code in enumerate(values)
        ]
        return torch.from_numpy(np.stack(decoded)) if decoded else torch.zeros((0, *size), dtype=torch.bool)

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """Each mask's colour and outline over ``picture``, larger ones below."""
        factor = scene.pen.factor
        alpha = scene.look.alpha
        canvas = np.array(picture)
        for i in np.argsort(-areas_of(value), kind="stable").tolist():
            whole = bitmap_of(value, i)
            box = mask_box(whole)
            if box is None:
                continue
            x1, y1, x2, y2 = box
            # a margin shows the outline where its sides are; beyond the image's edge there is nothing to outline
            rows, columns = slice(max(0, y1 - 1), y2 + 1), slice(max(0, x1 - 1), x2 + 1)
            mask = enlarged(whole[rows, columns], factor)
            part = canvas[
                rows.start * factor : rows.start * factor + mask.shape[0],
                columns.start * factor : columns.start * factor + mask.shape[1],
            ]
            color = np.asarray(scene.instance_colors[i], dtype=np.float32)
            part[mask] = (part[mask] * np.float32(1 - alpha) + color * np.float32(alpha)).round()
            part[mask & grown(~mask, scene.pen.line)] = scene.instance_colors[i]
        return Image.fromarray(canvas)

    def tag_boxes(self, value: Tensor, reach: float) -> Array | None:
        """The boxes around the masks."""
        boxes = [mask_box(bitmap_of(value, index)) or (np.nan,) * 4 for index in range(len(value))]
        return np.array(boxes).reshape(-1, 4)

    def make_plain(self, target: dict[str, Any]) -> None:
        """As bool."""
        if target["masks"].dtype != torch.bool:
            target["masks"] = target["masks"].to(torch.bool)

    def cut(self, target: Mapping[str, Any], size: Size) -> Cut:
        """An object without a pixel is gone."""
        return Cut(kept=target["masks"].as_subclass(Tensor).flatten(1).any(1))


class RoIMasks(Field):
    """float32: the probability of the object in each cell of its box; the user receives masks made from it."""

    name = "roi_masks"
    gives = "masks"
    target = False
    shape = "KMM"
    fusion = "union"
    storage = "never"

    def restore(self, value: Tensor, old: Size, size: Size, done: Mapping[str, Tensor]) -> Tensor:
        """Pasted into the image, at the restored boxes: bool [K,H,W]."""
        return paste_masks(value, done["boxes"], size)

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored, within the box."""
        return view.map_back(value)
