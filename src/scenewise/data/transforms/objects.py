"""Boxes of objects after their image was cut or turned."""

from __future__ import annotations

import torch
from torch import Tensor

from scenewise.fields.base import like
from scenewise.fields.run_masks import RunMasks
from scenewise.ops.masks import mask_boxes
from scenewise.types import Sample, Target


class BoxesFromMasks:
    """Boxes drawn anew around the masks: after a crop or a turn they would be larger than what is left of the
    object."""

    def __call__(self, image: Tensor, target: Target) -> Sample:
        """The sample with boxes around its masks; objects without a pixel keep a box without area."""
        if "masks" not in target:
            return image, target  # type: ignore[return-value]
        masks = target["masks"]
        if isinstance(masks, RunMasks) and masks.is_runs:
            boxes = torch.from_numpy(masks.runs().boxes()).float()
        else:
            boxes = mask_boxes(masks.as_subclass(Tensor))
        return image, {**target, "boxes": like(target["boxes"], boxes)}  # type: ignore[return-value]
