"""The branch of a two-stage network that finds keypoints: one-hot masks of each, a softmax over the cells of each map.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, sec. 5.

Shapes: N images, R boxes of all images together, P positive boxes, J keypoints, M x M the maps' grid.

All coordinates here are continuous, as everywhere in scenewise: the centre of pixel column j is x = j + 0.5. The
formulas are those of torchvision (``keypoints_to_heatmap``, ``heatmaps_to_keypoints``), and the same numbers in give
the same numbers out: floor takes a continuous coordinate to a cell, and the cell's middle, + 0.5, is where a point is
put back. What differs is what is fed. torchvision's references feed COCO's keypoints unchanged from the file, as
indices of pixels; scenewise's reader adds 0.5 to them first (and its writer takes it off again), as Detectron2 does. So
a network trained by torchvision finds points in index coordinates: x in scenewise is what it gives + 0.5.
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
from scenewise.types import STRICT, Channels, Count, Layers, Output, Side, Target


@dataclass(frozen=True)
class KeypointSpec:
    """The branch that finds keypoints.

    Attributes:
        count: J, the number of keypoints; COCO's person has 17.
        convs: 3x3 convolutions before the enlarging one.
        channels: their width.
        size: M, the side of a keypoint's map; a multiple of 4. The features are pooled on a grid of a quarter of it.
        shift: added to x and y of the keypoints found. Networks that were trained with COCO's numbers unchanged,
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
        found: Tensor = self(features.pool(boxes, self.spec.size // 4)).float()
        return found

    def _check_count(self, targets: Sequence[Target]) -> None:
        for target in targets:
            found = target["keypoints"].shape[1]
            if found != self.spec.count:
                raise UsageError(
                    f"image {target.get('image_id', '?')} has {found} keypoints per object; "
                    f"the model's keypoints.count is {self.spec.count}"
                )


def keypoint_targets(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cell of its box's map that each point lies in.

    Args:
        keypoints: float [K,P,3]: x, y, visibility.
        boxes: float [K,4]; the points of row k are sought in box k.
        size: M.

    Returns:
        (int64 [K,P], row * M + column; bool [K,P], whether there is such a cell). A point that is not labelled
        (visibility 0) or not within its box has none, its index is 0; nor has any in a box without area. A point on
        the right or lower border counts for the last cell.

    Source: He et al., "Mask R-CNN", ICCV 2017, sec. 5: a one-hot M x M mask for each point, softmax over the cells.
    """
    first, last = boxes[:, None, :2], boxes[:, None, 2:]  # [K,1,2]
    position = keypoints[..., :2]
    sides = last - first
    cell = ((position - first) * (size / sides)).floor()
    cell = torch.where(position == last, size - 1, cell)
    valid = ((cell >= 0) & (cell < size) & (sides > 0)).all(dim=-1) & (keypoints[..., 2] > 0)
    cell = torch.where(valid[..., None], cell, 0).to(torch.int64)  # before the cast: NaN and inf have no integer
    return cell[..., 1] * size + cell[..., 0], valid


def decode_keypoints(logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Where the maps have their peaks, when each is enlarged to its box by cubic interpolation.

    Args:
        logits: float [K,P,M,M].
        boxes: float [K,4]; sides below 1 count as 1.

    Returns:
        (float32 [K,P,3], x and y in pixels, third column 1; float32 [K,P], the enlarged map at the peak, a logit). Of
        equal peaks the first, row by row.
    """
    logits = logits.detach().float()
    boxes = boxes.detach().float()
    count, points = logits.shape[:2]
    keypoints = logits.new_ones((count, points, 3))
    scores = logits.new_zeros((count, points))
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    for k, (width, height) in enumerate(sides.ceil().to(torch.int64).tolist()):
        large = F.interpolate(logits[k][:, None], size=(height, width), mode="bicubic", align_corners=False)
        scores[k], peak = large.flatten(1).max(dim=1)
        cell = torch.stack((peak % width, peak // width), dim=1)  # [P,2], x and y
        keypoints[k, :, :2] = (cell + 0.5) * (sides[k] / sides.new_tensor((width, height))) + boxes[k, :2]
    return keypoints, scores
