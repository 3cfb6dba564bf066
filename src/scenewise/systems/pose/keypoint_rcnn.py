"""Keypoint R-CNN: Mask R-CNN's branch, with a one-hot mask for each of a person's keypoints.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, sec. 5.
The detector is Faster R-CNN, its stated parent. The branch, its loss (a softmax over the cells of each keypoint's map)
and how a keypoint is put back into the image are in ``nn/keypoint_head.py``. Mask R-CNN
with ``keypoints`` has both branches.
"""

from __future__ import annotations

from typing import Any

from scenewise.nn.branches import ONE_MAP, with_branches
from scenewise.nn.features import Design
from scenewise.nn.keypoint_head import KeypointSpec
from scenewise.systems.detection.faster_rcnn import FasterRCNN
from scenewise.types import Interface


class KeypointRCNN(FasterRCNN):
    """Boxes of people and their keypoints.

    With its defaults and one class it is torchvision's ``keypointrcnn_resnet50_fpn``.

    Args:
        keypoints: the branch that finds keypoints.
    """

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What it reads and returns, whatever its arguments."""
        return with_branches(KeypointSpec)

    def __init__(self, classes: tuple[str, ...], *, keypoints: KeypointSpec | None = None, **shared: Any) -> None:
        super().__init__(classes, [keypoints or KeypointSpec()], **shared)

    @classmethod
    def defaults(cls, *, design: Design = "fpn", **shared: Any) -> dict[str, Any]:
        """The specs of ``design`` in the paper, as for Mask R-CNN."""
        found = super().defaults(design=design, **shared) | {"keypoints": KeypointSpec()}
        return found if design == "fpn" else found | ONE_MAP
