"""Branches of a two-stage network beside its boxes, such as a mask head; systems pass them to the network.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, sec. 3 and 5.

Shapes: N images, R boxes of all images together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from scenewise.nn.box_head import HeadSpec
from scenewise.nn.features import Features
from scenewise.nn.roi_heads import RoISampler, Sampled
from scenewise.nn.rpn import ProposalSpec
from scenewise.ops.anchors import AnchorSpec
from scenewise.ops.boxes import DetectionSpec
from scenewise.ops.roi import roi_align
from scenewise.types import Interface, Output, Target

ONE_MAP: dict[str, Any] = {  # sec. 3.1, without a pyramid: 15 anchors, 300 proposals, 64 boxes per image
    "anchors": AnchorSpec(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),)),
    "proposals": ProposalSpec(train_before_nms=12000, before_nms=6000, after_nms=300),
    "sampler": RoISampler(samples=64),
    "detections": DetectionSpec(),
    "resize": {"short_side": 800, "long_side": 1333},  # the longer side and the numbers before suppression: the release
}


@dataclass(frozen=True)
class BranchFeatures:
    """What a branch finds the features of its boxes by.

    Attributes:
        maps: of the batch, from fine to coarse; the intermediate one, where there is one, is last.
        pool_from: pools the features of boxes from the maps, given the side of the grid.
        spec: how they are pooled.
        stage: a ResNet's last stage, through which the features of all boxes go (design ``c4``); None: there is none.
        intermediate: the stride of the intermediate map; None: there is none.
    """

    maps: Sequence[Tensor]
    pool_from: Callable[[Sequence[Tensor], Sequence[Tensor], int], Tensor]
    spec: HeadSpec
    stage: nn.Module | None = None
    intermediate: int | None = None

    def pool(self, boxes: Sequence[Tensor], size: int) -> Tensor:
        """The features [R,channels,size,size] of ``boxes``."""
        return self.pool_from(self.maps, boxes, size)

    def pool_intermediate(self, boxes: Sequence[Tensor], size: int) -> Tensor:
        """Those of the intermediate map, by RoIAlign."""
        assert self.intermediate is not None
        spec, scale = self.spec, 1 / self.intermediate
        reduce = spec.reduce or "mean"
        return roi_align(self.maps[-1], boxes, size, scale, sampling=spec.sampling, aligned=spec.aligned, reduce=reduce)


class Branch(nn.Module, ABC):
    """A head of a two-stage network beside its boxes, trained on the positive boxes and run on the detections."""

    @abstractmethod
    def losses(self, features: BranchFeatures, sampled: Sampled, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Its loss terms, those that its spec names."""

    @abstractmethod
    def predict(self, features: BranchFeatures, found: Sequence[Output]) -> list[Output]:
        """``found``, one for each image, with the fields that its spec names; there may be fewer detections in them."""

    @abstractmethod
    def probe(self, features: BranchFeatures, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Its logits for ``boxes``."""


class BranchSpec(Protocol):
    """A branch before it is built: how a system passes it to the network.

    Attributes:
        branch: the name of the module that it becomes.
        needs: the target fields that its losses read.
        fills: the fields that it fills.
    """

    branch: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    fills: ClassVar[frozenset[str]]

    @property
    def terms(self) -> tuple[str, ...]:
        """The branch's loss terms."""

    @property
    def intermediate(self) -> int | None:
        """The stride of a map of the backbone that it pools from besides; None for none."""

    def build(self, features: Features, stage_channels: int | None, classes: int) -> Branch:
        """The branch on ``features``, or on a ResNet's last stage of ``stage_channels`` where there is one."""


def with_branches(*branches: type[BranchSpec]) -> Interface:
    """What a two-stage network with ``branches`` reads and returns: boxes with labels, and what each branch adds."""
    return Interface(
        needs=frozenset({"boxes", "labels"}).union(*(branch.needs for branch in branches)),
        fills=frozenset({"boxes", "labels", "scores"}).union(*(branch.fills for branch in branches)),
    )
