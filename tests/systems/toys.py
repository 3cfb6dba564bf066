"""A toy system of a kind that the catalog does not have yet: with such, the contract's tests show that they fit any."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.model import Model
from scenewise.types import Batch, Interface, Output


class Poses(Model):
    """The joints of one figure per image, from the image's mean colour: instances without boxes, masks or classes."""

    def __init__(self, joints: int = 14) -> None:
        super().__init__()
        self.joints = joints
        self.net = nn.Linear(3, joints * 2 + 1)

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        return Interface(frozenset({"keypoints"}), frozenset({"keypoints", "scores"}))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        points, sure = self._points(batch)
        wrong = points.new_zeros(())
        for found, target in zip(points, batch.targets, strict=True):
            truth = target["keypoints"]
            seen = truth[..., 2] > 0
            scale = truth.new_tensor([batch.images.shape[-1], batch.images.shape[-2]])
            wrong = wrong + ((found - truth[..., :2] / scale).abs().sum(-1) * seen).sum()
        there = sure.new_tensor([float(len(target["keypoints"]) > 0) for target in batch.targets])
        return {"joints": wrong, "figure": F.binary_cross_entropy_with_logits(sure, there)}

    def predict(self, batch: Batch) -> list[Output]:
        outputs = []
        for (h, w), points, sure in zip(batch.sizes, *self._points(batch), strict=True):
            xy = points * points.new_tensor([w, h])
            seen = torch.full_like(xy[:, :1], 2.0)
            outputs.append(Output((h, w), keypoints=torch.cat([xy, seen], 1)[None], scores=sure.sigmoid()[None]))
        return outputs

    def _points(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Places [N,P,2] in 0..1 of the image, and the logits [N] of there being a figure."""
        sums = self.pixels(batch).sum((-2, -1))  # padding is zero
        colors = sums / sums.new_tensor([h * w for h, w in batch.sizes])[:, None]
        found: Tensor = self.net(colors).float()
        return found[:, 1:].sigmoid().unflatten(1, (self.joints, 2)), found[:, 0]
