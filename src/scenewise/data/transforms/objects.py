"""What happens to the objects of a sample when its image is cut or turned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.ops.masks import mask_boxes
from scenewise.types import Sample, Target

PER_OBJECT = ("boxes", "labels", "ignore", "masks", "keypoints", "visibility", "area")
MIN_SIDE = 1.0  # pixels


def drop_lost_objects(image: Tensor, target: Target) -> Sample:
    """The sample without the objects that its transforms have moved out of the image.

    Boxes are clipped to the image; an object goes whose box is then less than ``MIN_SIDE`` wide or high, or whose mask
    has no pixel left. Joints outside the image are no longer labelled (visibility 0).
    """
    if "boxes" not in target:
        return image, target  # type: ignore[return-value]
    height, width = int(image.shape[-2]), int(image.shape[-1])
    boxes = target["boxes"].as_subclass(Tensor)
    clipped = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    kept = ((clipped[:, 2:] - clipped[:, :2]) >= MIN_SIDE).all(1)
    if "masks" in target:
        kept &= target["masks"].as_subclass(Tensor).flatten(1).any(1)
    values: dict[str, Any] = dict(target)
    values["boxes"] = _like(target["boxes"], clipped)
    if "visibility" in target:
        points = target["keypoints"].as_subclass(Tensor)
        inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(-1)
        values["visibility"] = torch.where(inside, target["visibility"], 0)
    if not bool(kept.all()):
        for name in PER_OBJECT:
            if name in values:
                values[name] = _like(values[name], values[name].as_subclass(Tensor)[kept])
    return image, values  # type: ignore[return-value]


def _like(old: Tensor, new: Tensor) -> Tensor:
    return tv_tensors.wrap(new, like=old) if isinstance(old, tv_tensors.TVTensor) else new


class BoxesFromMasks:
    """Boxes drawn anew around the masks: after a crop or a turn they would be larger than what is left of the
    object."""

    def __call__(self, image: Tensor, target: Target) -> Sample:
        """The sample with boxes around its masks; objects without a pixel keep a box without area."""
        if "masks" not in target:
            return image, target  # type: ignore[return-value]
        boxes = mask_boxes(target["masks"].as_subclass(Tensor))
        return image, {**target, "boxes": _like(target["boxes"], boxes)}  # type: ignore[return-value, typeddict-item]
