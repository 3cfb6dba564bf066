"""Keypoints: x, y and visibility of the joints of each instance, and well-known skeletons.

Shapes: K instances, P keypoints.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from scenewise.draw.colors import Array, Color
from scenewise.draw.look import Scene
from scenewise.draw.strokes import Strokes
from scenewise.errors import DataError
from scenewise.fields.base import Cut, Field, Size, decimals, decode_rows, kernel_of, not_finite
from scenewise.ops.views import View
from scenewise.types import Described, Skeleton

MAX_KEYPOINTS = 10_000  # of an instance; what a file says beyond that is a mistake

SKELETONS: dict[str, Skeleton] = {
    "coco": Skeleton(
        (
            "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
            "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
            "left_ankle", "right_ankle",
        ),
        (
            (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
            (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
        ),
    ),
    "lsp": Skeleton(
        (
            "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
            "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
        ),
        (
            (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (8, 12), (9, 12),
            (12, 13), (8, 2), (9, 3),
        ),
    ),
}  # fmt: skip


class KeyPoints(tv_tensors.KeyPoints):
    """Points [K,P,2] of a sample, in scenewise's coordinates (the centre of column j is j + 0.5).

    A type of its own for reflections: torchvision's map x to W - 1 - x, a pixel away from where they put boxes and
    pixels; here x becomes W - x. And in a mirror image a left hand is a right one: keypoints change places as their
    ``skeleton`` says. Make them as ``KeyPoints.of(skeleton)(points, canvas_size=...)``.
    """

    skeleton: ClassVar[Skeleton] = Skeleton()

    @classmethod
    def of(cls, skeleton: Skeleton) -> type[KeyPoints]:
        """The type of keypoints of a ``skeleton``."""
        return _keypoints_of(skeleton)


class Visibility(tv_tensors.TVTensor):
    """The visibility [K,P] of keypoints, which changes places as they do. Make it as ``Visibility.of(skeleton)(v)``."""

    skeleton: ClassVar[Skeleton] = Skeleton()

    def __new__(cls, data: Any) -> Visibility:
        """From anything that is a tensor, or becomes one."""
        return torch.as_tensor(data).as_subclass(cls)

    @classmethod
    def of(cls, skeleton: Skeleton) -> type[Visibility]:
        """The type of the visibility of a ``skeleton``."""
        return _visibility_of(skeleton)


@functools.lru_cache(maxsize=64)
def _keypoints_of(skeleton: Skeleton) -> type[KeyPoints]:
    return type("KeyPoints", (KeyPoints,), {"skeleton": skeleton})


@functools.lru_cache(maxsize=64)
def _visibility_of(skeleton: Skeleton) -> type[Visibility]:
    return type("Visibility", (Visibility,), {"skeleton": skeleton})


@kernel_of(functional.horizontal_flip, KeyPoints)
def _mirror_keypoints(points: KeyPoints) -> KeyPoints:
    return _reflected(points, 0, points.canvas_size[1])


@kernel_of(functional.vertical_flip, KeyPoints)
def _upend_keypoints(points: KeyPoints) -> KeyPoints:
    return _reflected(points, 1, points.canvas_size[0])


def _reflected(points: KeyPoints, axis: int, length: int) -> KeyPoints:
    plain = points.as_subclass(Tensor)
    flipped = plain[:, points.skeleton.mirrored_order(plain.shape[1])] if plain.numel() else plain.clone()
    flipped[..., axis] = length - flipped[..., axis]
    return type(points)(flipped, canvas_size=points.canvas_size)


def _exchanged(visibility: Visibility) -> Visibility:
    plain = visibility.as_subclass(Tensor)
    if not plain.numel():
        return visibility
    return type(visibility)(plain[:, visibility.skeleton.mirrored_order(plain.shape[1])])


for _reflection in (functional.horizontal_flip, functional.vertical_flip):
    kernel_of(_reflection, Visibility)(_exchanged)


@kernel_of(functional.resize, Visibility)
def _as_visible(visibility: Visibility, size: Any, *options: Any, **named: Any) -> Visibility:
    """Visibility has no size."""
    return visibility


class Keypoints(Field):
    """x, y and visibility (0 not labelled, 1 hidden, 2 visible) of each joint."""

    name = "keypoints"
    shape = "KP3"
    fusion = "union"
    storage = "json"
    layer = "over"
    depth = 40
    told_apart = True

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """Points that are not finite, or of another number than the skeleton's."""
        names = whole.skeleton.names if whole.skeleton is not None else ()
        if names and value.shape[1] != len(names):
            return f"keypoints has {value.shape[1]} points per instance; its skeleton has {len(names)}"
        return not_finite(value, self.name)

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Scaled."""
        return value * value.new_tensor([size[1] / old[1], size[0] / old[0], 1])

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored; left and right joints of a mirrored view change places."""
        moved = torch.cat((view.points_back(value[..., :2]), value[..., 2:]), -1)
        if not view.flip:
            return moved
        return moved[:, (skeleton or Skeleton()).mirrored_order(value.shape[1])]

    def shift(self, value: Tensor, left: int, top: int, size: Size) -> Tensor:
        """Shifted."""
        return value + value.new_tensor([left, top, 0])

    def encode(self, value: Tensor, whole: Described) -> Any:
        """K lists of P lists of three numbers."""
        return decimals(value.float().numpy())

    def extras(self, value: Tensor, whole: Described) -> dict[str, Any]:
        """How many there are of each instance, which no record would tell where there are no instances."""
        return {"num_keypoints": value.shape[1]}

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """See :class:`~scenewise.fields.base.Field`."""
        points = record.get("num_keypoints")
        if type(points) is not int:
            raise DataError(f"{where}: num_keypoints is {points!r}; expected an integer")
        if not 0 <= points <= MAX_KEYPOINTS:
            raise DataError(f"{where}: num_keypoints is {points}; expected 0 to {MAX_KEYPOINTS}")
        expected = f"finite numbers of shape [{points}, 3]"
        return decode_rows(values, self.key, torch.float32, (points, 3), expected, where)

    def stroke(self, strokes: Strokes, value: Array, color: Color, scene: Scene) -> None:
        """Joints and limbs."""
        factor = scene.pen.factor
        points = value * np.array([factor, factor, 1], dtype=np.float32)
        strokes.pose(points, scene.checked_links(len(value)), color, scene.pen.line)

    def tag_boxes(self, value: Tensor, reach: float) -> Array | None:
        """A flat box through each instance's topmost known joint."""
        boxes = np.full((len(value), 4), np.nan)
        for box, points in zip(boxes, value.numpy(), strict=True):
            known = points[points[:, 2] > 0, :2]
            if len(known):
                x, y = known[known[:, 1].argmin()]
                box[:] = (x, y - reach, x, y + reach)
        return boxes

    def make_plain(self, target: dict[str, Any]) -> None:
        """Positions [K,P,2] joined with their visibility [K,P]."""
        if "visibility" in target:
            seen = target.pop("visibility")
            target["keypoints"] = torch.cat([target["keypoints"].float(), seen[..., None].float()], -1)

    def cut(self, target: Mapping[str, Any], size: Size) -> Cut:
        """Joints outside the image are no longer labelled; without boxes and masks to tell, an instance is gone that
        had labelled joints and has none left."""
        points = target["keypoints"].as_subclass(Tensor)
        visibility = target["visibility"].as_subclass(Tensor)
        height, width = size
        inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(-1)
        left = torch.where(inside, visibility, 0)
        kept = None
        if "boxes" not in target and "masks" not in target:
            kept = (left > 0).any(1) | ~(visibility > 0).any(1)
        seen = target["visibility"]
        return Cut({"visibility": type(seen)(left) if isinstance(seen, Visibility) else left}, kept)


class KeypointVisibility(Field):
    """int64: the visibility of keypoints in a sample, where their positions are [K,P,2]."""

    name = "visibility"
    shape = "KP"
    output = False
    storage = "never"
    companions: ClassVar[frozenset[str]] = frozenset({"keypoints"})
