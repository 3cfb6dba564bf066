"""The branch of a two-stage network that finds keypoints: one-hot masks of each, a softmax over the cells of each map.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, sec. 5.

Shapes: N images, R boxes of all images together, P positive boxes, J keypoints, M x M the maps' grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.branches import Branch, BranchFeatures
from scenewise.nn.features import Features
from scenewise.nn.roi_heads import Sampled
from scenewise.ops.keypoints import decode_keypoints, keypoint_targets
from scenewise.types import STRICT, Channels, Count, Layers, Output, Side, Target


@dataclass(frozen=True)
class KeypointSpec:
    """The branch that finds keypoints.

    Attributes:
        count: J, the number of keypoints; COCO's person has 17.
        convs: 3x3 convolutions before the enlarging one.
        channels: their width.
        size: M, the side of a keypoint's map; a multiple of 4. The features are pooled on a grid of a quarter of it.
        shift: added to x and y of the keypoints found. Networks that were trained with COCO's numbers as they stand,
            which count from the centre of the first pixel, need 0.5.
    """

    __pydantic_config__ = STRICT
    branch: ClassVar[str] = "keypoint_head"
    needs: ClassVar[frozenset[str]] = frozenset({"keypoints"})
    fills: ClassVar[frozenset[str]] = frozenset({"keypoints"})

    count: Count = 17
    convs: Layers = 8
    channels: Channels = 512
    size: Side = 56
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.size % 4:
            raise UsageError(f"keypoints: size is {self.size}; expected a multiple of 4")

    @property
    def terms(self) -> tuple[str, ...]:
        """The branch's loss terms."""
        return ("keypoints",)

    @property
    def intermediate(self) -> None:
        """None: no map of the backbone's middle is pooled from."""
        return None

    def build(self, features: Features, stage_channels: int | None, classes: int) -> KeypointHead:
        """The head on the maps of ``features``, also where boxes go through a last stage."""
        return KeypointHead(features.channels, self)


class KeypointHead(Branch):
    """Logits of each keypoint's place from the features of a box: [R,C,M/4,M/4] -> [R,J,M,M]."""

    def __init__(self, in_channels: int, spec: KeypointSpec) -> None:
        super().__init__()
        self.spec = spec
        layers: list[nn.Module] = []
        width = in_channels
        for _ in range(spec.convs):
            layers += [nn.Conv2d(width, spec.channels, 3, padding=1), nn.ReLU(inplace=True)]
            width = spec.channels
        self.layers = nn.Sequential(*layers)
        self.keypoint_logits = nn.ConvTranspose2d(width, spec.count, 4, 2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The logits; the last doubling is bilinear."""
        return F.interpolate(self.keypoint_logits(self.layers(x)), scale_factor=2, mode="bilinear")

    # ---- the branch

    def losses(self, features: BranchFeatures, sampled: Sampled, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``keypoints``, the mean cross-entropy over the labelled keypoints that lie in a positive box; 0 without."""
        self._check_count(targets)
        boxes, truth, _ = sampled.objects()
        logits = self._logits(features, boxes)
        cells, valid = [], []
        for b, t, target in zip(boxes, truth, targets, strict=True):
            cell, known = keypoint_targets(target["keypoints"][t], b, self.spec.size)
            cells.append(cell)
            valid.append(known)
        chosen = torch.cat(valid).flatten()
        if not chosen.any():
            return {"keypoints": logits.sum() * 0}
        rows = logits.flatten(0, 1).flatten(1)[chosen]  # [labelled keypoints, M*M]
        return {"keypoints": F.cross_entropy(rows, torch.cat(cells).flatten()[chosen])}

    def predict(self, features: BranchFeatures, found: Sequence[Output]) -> list[Output]:
        """``found`` with the keypoints [K,J,3] of each box; the third number is 1."""
        boxes = [one.boxes for one in found if one.boxes is not None]
        logits = self._logits(features, boxes).split([len(b) for b in boxes])
        filled = []
        for one, b, x in zip(found, boxes, logits, strict=True):
            points = decode_keypoints(x, b)[0]
            points[..., :2] += self.spec.shift
            filled.append(dataclasses.replace(one, keypoints=points))
        return filled

    def probe(self, features: BranchFeatures, boxes: Sequence[Tensor]) -> list[Tensor]:
        """The keypoint logits of ``boxes``."""
        return [self._logits(features, boxes)]

    def _logits(self, features: BranchFeatures, boxes: Sequence[Tensor]) -> Tensor:
        """Keypoint logits [R,J,M,M] of ``boxes``."""
        return self(features.pool(boxes, self.spec.size // 4)).float()

    def _check_count(self, targets: Sequence[Target]) -> None:
        for target in targets:
            found = target["keypoints"].shape[1]
            if found != self.spec.count:
                raise UsageError(
                    f"image {target.get('image_id', '?')} has {found} keypoints per object; "
                    f"the model's keypoints.count is {self.spec.count}"
                )
