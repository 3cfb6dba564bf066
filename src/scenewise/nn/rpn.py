"""Region proposal network: boxes that may hold an object, of whatever class.

Ren et al., "Faster R-CNN", NIPS 2015, https://arxiv.org/abs/1506.01497, sec. 3.1; on a pyramid: Lin et al., FPN, CVPR
2017, sec. 4.1. Where we differ from the first: one sigmoid an anchor in place of two softmax outputs, as all later
detectors; the regression loss is divided by the number of sampled anchors, not of positions.

Shapes: N images, L levels, a anchors a position, A anchors of all levels together, P proposals of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.ops.anchors import AnchorSpec, anchors_per_cell, grid_anchors
from scenewise.ops.boxes import DetectionSpec, box_iou, decode_and_suppress, encode_boxes
from scenewise.ops.matching import BETWEEN, ignored_boxes, leave_out_crowds, match, real_boxes, sample_balanced
from scenewise.types import STRICT, Batch, Channels, Count, Layers, Share, Weight

PYRAMID_ANCHORS = AnchorSpec(sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)))  # Lin et al., sec. 4.1
ONE_MAP_ANCHORS = AnchorSpec(sizes=((128.0, 256.0, 512.0),))  # Ren et al., sec. 3.3
BETA = 1 / 9  # where the smooth L1 loss turns from square to straight: the release's sigma of 3


@dataclass(frozen=True)
class ProposalSpec:
    """How a region proposal network is trained and read out.

    Attributes:
        positive_iou: an anchor is an object where it overlaps one so much; the best anchor of an object is one always.
        negative_iou: an anchor is background where it overlaps all objects less; in between it is not trained on.
        samples: anchors of an image in the loss.
        positive_fraction: the largest part of them that are objects.
        train_before_nms, train_after_nms: the number of boxes of a level before, and of all levels after the
            suppression of overlapping ones, for training the second stage.
        before_nms, after_nms: the same for prediction.
        nms_iou: of two boxes that overlap more, the one with the lower score goes.
        min_side: boxes with a shorter side, in pixels, are dropped.
        border_anchors: whether anchors that cross the image's border are trained on; the first paper leaves them out.
        crowd_ioa: an anchor with a larger part of itself within an ignored object, which is a crowd or a difficult one,
            is not trained on as background; None: it is.
        convs: 3x3 convolutions of the network, one after the other; the paper's has one.
        channels: their width; None: that of the maps. The paper's is 512 on VGG16.
        dilation: of the 3x3 convolutions; 2 on the dilated maps of Huang et al., CVPR 2017.
    """

    __pydantic_config__ = STRICT
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    samples: Count = 256
    positive_fraction: Share = 0.5
    train_before_nms: Count = 2000
    train_after_nms: Count = 2000
    before_nms: Count = 1000
    after_nms: Count = 1000
    nms_iou: Share = 0.7
    min_side: Weight = 1e-3
    border_anchors: bool = True
    crowd_ioa: Share | None = 0.7
    convs: Layers = 1
    channels: Channels | None = None
    dilation: Count = 1


# Ren et al.'s on one map (sec. 3.3): anchors that cross the border are not trained on; 2,000 proposals train the second
# stage, 300 are looked at in the end. The numbers before suppression are those of their release.
ONE_MAP_PROPOSALS = ProposalSpec(
    train_before_nms=12000, before_nms=6000, after_nms=300, border_anchors=False, channels=512
)


@dataclass
class Scored:
    """The network's outputs for all anchors."""

    logits: list[Tensor]  # [N,h*w*a] a level
    deltas: list[Tensor]  # [N,h*w*a,4] a level
    anchors: list[Tensor]  # [h*w*a,4] a level


class RPN(nn.Module):
    """A small network that slides over feature maps and scores anchors.

    Args:
        in_channels: the width of the maps.
        anchors: their shapes, one entry per level.
        spec: its layers, how it is trained and read out.
        strides: of the maps.
    """

    def __init__(
        self, in_channels: int, anchors: AnchorSpec, spec: ProposalSpec | None = None, *, strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.anchors, self.spec = anchors, spec or ProposalSpec()
        self.strides = tuple(strides)
        count = anchors_per_cell(anchors, len(strides))
        width, dilation = self.spec.channels or in_channels, self.spec.dilation
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation)]
        for _ in range(self.spec.convs - 1):
            layers += [nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)]
        self.conv = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
        self.objectness = nn.Conv2d(width, count, 1)
        self.deltas = nn.Conv2d(width, 4 * count, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> Scored:
        """Scores and deltas of all anchors, from ``maps`` [N,C,h,w] of images on a canvas of ``image_size``."""
        logits, deltas = [], []
        for x in maps:
            hidden = F.relu(self.conv(x), inplace=True)
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float())  # [N,h*w*a]
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(x), -1, 4).float())  # [N,h*w*a,4]
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        anchors = grid_anchors(self.anchors, image_size, sizes, strides=self.strides, device=maps[0].device)
        return Scored(logits, deltas, anchors)

    def losses(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        """Terms ``objectness`` and ``rpn_box`` over sampled anchors (eq. 1)."""
        anchors = torch.cat(scored.anchors)
        logits, deltas = torch.cat(scored.logits, 1), torch.cat(scored.deltas, 1)  # [N,A], [N,A,4]
        wanted, chosen = [], []
        predicted, target = [], []
        for row, (truth, size) in enumerate(zip(batch.targets, batch.sizes, strict=True)):
            boxes = real_boxes(truth)
            matches = self._match(boxes, ignored_boxes(truth), anchors, size)
            positive, negative = sample_balanced(matches, self.spec.samples, self.spec.positive_fraction)
            chosen.append(logits[row, torch.cat([positive, negative])])
            wanted.append(torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]))
            predicted.append(deltas[row, positive])
            target.append(encode_boxes(boxes[matches[positive]], anchors[positive]))
        logits, labels = torch.cat(chosen), torch.cat(wanted).to(logits.dtype)
        count = max(1, len(labels))
        return {
            "objectness": F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / count,
            "rpn_box": F.smooth_l1_loss(torch.cat(predicted), torch.cat(target), beta=BETA, reduction="sum") / count,
        }

    def _match(self, boxes: Tensor, ignored: Tensor, anchors: Tensor, size: tuple[int, int]) -> Tensor:
        """For each anchor the index of its object among ``boxes``, BELOW for background or BETWEEN to leave it out."""
        spec, (height, width) = self.spec, size
        if spec.border_anchors:
            matches = match(box_iou(boxes, anchors), spec.positive_iou, spec.negative_iou)
        else:
            inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
            matches = torch.full((len(anchors),), BETWEEN, device=anchors.device)
            matches[inside] = match(box_iou(boxes, anchors[inside]), spec.positive_iou, spec.negative_iou)
        return leave_out_crowds(matches, anchors, ignored, spec.crowd_ioa)

    @torch.no_grad()
    def proposals(
        self, scored: Scored, sizes: Sequence[tuple[int, int]], *, training: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """For each image its best boxes [P,4] within its size and their scores [P] in 0..1, best first."""
        spec = self.spec
        before = spec.train_before_nms if training else spec.before_nms
        after = spec.train_after_nms if training else spec.after_nms
        rule = DetectionSpec(score=0.0, nms_iou=spec.nms_iou, count=after, min_side=spec.min_side)
        logits, deltas, places, levels = [], [], [], []
        for level, (scores, moves, anchors) in enumerate(
            zip(scored.logits, scored.deltas, scored.anchors, strict=True)
        ):
            best, index = scores.topk(min(before, scores.shape[1]), dim=1)  # [N,k]
            logits.append(best)
            deltas.append(moves.gather(1, index[..., None].expand(-1, -1, 4)))
            places.append(anchors[index])
            levels.append(torch.full_like(index[0], level))
        groups = torch.cat(levels)
        found = []
        for scores, moves, anchors, size in zip(
            torch.cat(logits, 1).sigmoid(), torch.cat(deltas, 1), torch.cat(places, 1), sizes, strict=True
        ):
            kept = decode_and_suppress(moves, anchors, scores, groups, size, rule)
            assert kept.boxes is not None
            assert kept.scores is not None
            found.append((kept.boxes, kept.scores))
        return found
