"""Mirrored images of people: a left hand becomes a right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from scenewise.errors import UsageError
from scenewise.types import Sample, Target

# Of COCO's 17 joints: nose, then left and right of eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))


class MirrorPeople:
    """Mirrors a sample left to right with probability ``p``: image, boxes, masks and all maps, and keypoints whose left
    and right joints change places.

    In place of ``RandomHorizontalFlip``, which leaves a joint the name it had. Twice is the identity.

    Args:
        p: the probability, 0 to 1.
        pairs: the indices of a left and a right joint each; by default those of COCO's 17 joints.

    Raises:
        UsageError: ``p`` is no probability, or a joint is in more than one pair; and when it is called, a pair names a
            joint that the sample does not have.
    """

    def __init__(self, p: float = 0.5, pairs: Sequence[Sequence[int]] = COCO_PAIRS) -> None:
        joints = [joint for pair in pairs for joint in pair]
        if not 0 <= p <= 1:
            raise UsageError(f"MirrorPeople: p is {p}; expected 0 to 1")
        if any(len(pair) != 2 for pair in pairs) or len(set(joints)) < len(joints) or min(joints, default=0) < 0:
            raise UsageError(f"MirrorPeople: pairs is {pairs}; expected pairs of indices, each index once")
        self.p, self.pairs = p, tuple((int(left), int(right)) for left, right in pairs)

    def __call__(self, image: Tensor, target: Target) -> Sample:
        """The sample, mirrored or as it was."""
        if torch.rand(()) >= self.p:
            return image, target  # type: ignore[return-value]
        mirrored: dict[str, Any] = {
            name: F.horizontal_flip(value) if isinstance(value, tv_tensors.TVTensor) else value
            for name, value in target.items()
        }
        if "keypoints" in mirrored:
            order = mirrored_order(mirrored["keypoints"].shape[1], self.pairs)
            points = mirrored["keypoints"]
            mirrored["keypoints"] = tv_tensors.wrap(points.as_subclass(Tensor)[:, order], like=points)
            mirrored["visibility"] = mirrored["visibility"][:, order]
        return F.horizontal_flip(image), mirrored  # type: ignore[return-value]


def mirrored_order(joints: int, pairs: Sequence[Sequence[int]]) -> list[int]:
    """For each of the ``joints`` of a mirrored person the index of the one that it was.

    Raises:
        UsageError: a pair names a joint that there is not.
    """
    last = max((joint for pair in pairs for joint in pair), default=-1)
    if last >= joints:
        raise UsageError(
            f"pairs of left and right keypoints: one has keypoint {last}, there are {joints} (counted from 0); "
            "give the pairs of this data set"
        )
    order = list(range(joints))
    for left, right in pairs:
        order[left], order[right] = right, left
    return order
