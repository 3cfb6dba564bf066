"""Features of a fixed size for boxes of any size, and the pyramid level that a box is pooled from.

Shapes: N images, C channels, H x W feature maps; boxes are a list with one [K_i,4] an image, ``x1, y1, x2, y2`` in
pixels of the image; K = sum K_i, which may be 0, as may N. Results follow the images, then the boxes of each.

Coordinates are float32 and sums are taken in float32 at least; the result has the features' type. ``scale`` is feature
map side / image side, such as 1/16.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import ops

from scenewise.errors import UsageError
from scenewise.ops.boxes import box_area

RoITransform = Literal["align", "pool", "warp"]
Reduce = Literal["mean", "max"]
PSRule = Literal["torchvision", "release"]


def roi_align(
    features: Tensor,
    boxes: Sequence[Tensor],
    size: int,
    scale: float,
    *,
    sampling: int = 2,
    aligned: bool = False,
    reduce: Reduce = "mean",
) -> Tensor:
    """RoIAlign: bilinear samples at exact places in each cell of ``size`` x ``size``, nothing rounded.

    Args:
        features: [N,C,H,W].
        boxes: N times [K_i,4].
        size: cells a side.
        scale: of the feature map to the image.
        sampling: samples a side of a cell; 0: as many as the cell is feature pixels wide, rounded up.
        aligned: whether the centre of feature pixel j is at j + 0.5, as in the image (right), or at j, and boxes are at
            least one feature pixel large (what published weights were trained with).
        reduce: mean of a cell's samples, or their maximum (not with ``sampling`` 0).

    Returns:
        [K,C,size,size]. Samples more than a pixel outside the map are 0.

    Maps in channels-last order on the CPU are read by :func:`gather_align`, some thirty times as fast as torchvision's
    operator. No gradient reaches the boxes. Source: He et al., "Mask R-CNN", ICCV 2017, sec. 3.
    """
    if reduce == "max":
        if sampling < 1:
            raise UsageError(f"roi_align: reduce='max' with sampling {sampling}; expected 1 or more samples a side")
        # A grid `sampling` times as fine with one sample a cell has the same samples: their maximum is a pooling.
        fine = roi_align(features, boxes, size * sampling, scale, sampling=1, aligned=aligned)
        return F.max_pool2d(fine, sampling)
    if _can_gather(features, sampling):
        return gather_align(features, boxes, size, scale, sampling=sampling, aligned=aligned)
    maps, rois = _prepared(features, boxes)
    return ops.roi_align(maps, rois, size, scale, sampling, aligned).to(features.dtype)


def _can_gather(features: Tensor, sampling: int) -> bool:
    """Whether :func:`gather_align` has all it needs, and is worth it: other orders would have to be copied first."""
    return (
        sampling > 0
        and features.device.type == "cpu"
        and features.dtype in (torch.float32, torch.bfloat16)
        and features.is_contiguous(memory_format=torch.channels_last)
        # sums of gradients would be rounded to bfloat16 at each step
        and not (features.dtype == torch.bfloat16 and features.requires_grad and torch.is_grad_enabled())
    )


def gather_align(
    features: Tensor, boxes: Sequence[Tensor], size: int, scale: float, *, sampling: int = 2, aligned: bool = False
) -> Tensor:
    """:func:`roi_align` as weighted sums of whole feature vectors, which are contiguous in channels-last maps.

    Each cell is the sum of (2 ``sampling``)^2 pixels' vectors: the four around each sample, weighted bilinearly. In
    bfloat16 the weights are rounded, too, which costs less than rounding the result does.

    Args:
        features: [N,C,H,W], channels-last.
        boxes: N times [K_i,4].
        size: cells a side.
        scale: of the feature map to the image.
        sampling: samples a side of a cell, 1 or more.
        aligned: see :func:`roi_align`.

    Returns:
        [K,C,size,size], channels-last.
    """
    channels, height, width = features.shape[1:]
    rois = _rois(boxes, features.new_empty(0, dtype=torch.float32)).detach()
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0)
    rows, above = _touched(corners[:, 1], corners[:, 3], size, sampling, height, aligned)  # [K,size,2 sampling]
    columns, beside = _touched(corners[:, 0], corners[:, 2], size, sampling, width, aligned)
    rows = rows + rois[:, 0].to(torch.int64)[:, None, None] * height
    count = (2 * sampling) ** 2
    index = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]  # [K,size,size,2 sampling,2 sampling]
    weight = above[:, :, None, :, None] * beside[:, None, :, None, :]
    vectors = features.permute(0, 2, 3, 1).reshape(-1, channels)  # no copy: channels are last already
    pooled = F.embedding_bag(
        index.view(-1, count), vectors, per_sample_weights=weight.view(-1, count).to(vectors.dtype), mode="sum"
    )
    return pooled.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _touched(first: Tensor, last: Tensor, size: int, sampling: int, limit: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """The pixels that each of ``size`` cells reads along one side of boxes: int64 [K,size,2 sampling] and weights.

    Positions are summed in the order of torchvision's kernel, so that both fall on the same side of whole numbers.
    """
    side = last - first if aligned else (last - first).clamp(min=1)
    step = (side / size)[:, None, None]
    cell = torch.arange(size, dtype=first.dtype)[:, None]
    sample = torch.arange(sampling, dtype=first.dtype) + 0.5
    place = first[:, None, None] + cell * step + sample * step / sampling  # [K,size,sampling]
    inside = (place >= -1) & (place <= limit)
    place = place.clamp(0, limit - 1)
    lower = place.floor()
    upper_share = torch.where(inside, place - lower, 0)
    lower_share = torch.where(inside, 1 - (place - lower), 0)
    # NaN and infinite places are weighted 0 but must be indices all the same
    lower = torch.where(inside, lower, 0).to(torch.int64)
    shares = torch.cat((lower_share, upper_share), -1) / sampling
    return torch.cat((lower, (lower + 1).clamp(max=limit - 1)), -1), shares


def _prepared(features: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features in float32 at least (torchvision has no bfloat16 on the CPU); boxes as [K,5], the image first."""
    assert len(features) == len(boxes), f"{len(features)} images, boxes of {len(boxes)}"
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return features, _rois(boxes, features)


def _rois(boxes: Sequence[Tensor], like: Tensor) -> Tensor:
    """[K,5]: index of the image, x1, y1, x2, y2, in type and device of ``like``."""
    if not boxes:
        return like.new_zeros((0, 5))
    counts = torch.tensor([len(b) for b in boxes])
    index = torch.repeat_interleave(torch.arange(len(boxes)), counts)
    return torch.cat((index.to(like)[:, None], torch.cat(list(boxes)).to(like)), dim=1)


def assign_levels(
    boxes: Tensor, lowest: int, highest: int, *, canonical_size: float = 224, canonical_level: int = 4
) -> Tensor:
    """The pyramid level that each box takes its features from: floor(k0 + log2(sqrt(w h) / size)).

    Args:
        boxes: [K,4].
        lowest: the finest level; level k has stride 2^k.
        highest: the coarsest.
        canonical_size: a box of this side, in pixels, ...
        canonical_level: ... is at this level.

    Returns:
        int64 [K], ``lowest`` to ``highest``. A box without area is at the lowest.

    1e-6 is added before rounding down, as all implementations do. Source: Lin et al., "Feature Pyramid Networks",
    CVPR 2017, eq. 1.
    """
    side = box_area(boxes.float()).clamp(min=0).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(lowest, highest).to(torch.int64)


def pool_levels(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    size: int,
    scales: Sequence[float],
    *,
    method: RoITransform = "align",
    sampling: int = 2,
    aligned: bool = False,
    reduce: Reduce | None = None,
    canonical_size: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Features of each box from the pyramid level that suits its size; see :func:`assign_levels`.

    Args:
        features: [N,C,H,W] for each level, finest first, each half the size of the one before.
        boxes: N times [K_i,4].
        size: cells a side.
        scales: of each level to the image, such as 1/4, 1/8, 1/16, 1/32. With one level, all boxes use it.
        method: how a box's features are taken; ``sampling`` and ``aligned`` are for "align".
        sampling: see :func:`roi_align`.
        aligned: see :func:`roi_align`.
        reduce: what becomes of a cell's samples or pixels, their mean or maximum; None: as the method was published,
            the mean with "align", the maximum with "pool" and "warp".
        canonical_size: see :func:`assign_levels`.
        canonical_level: see :func:`assign_levels`.

    Returns:
        [K,C,size,size]. With "align", not ``aligned``: equal to torchvision's ``MultiScaleRoIAlign``.
    """
    assert len(features) == len(scales), f"{len(features)} levels, {len(scales)} scales"
    pool = _pooling(method, sampling, aligned, reduce)
    if len(features) == 1:
        return pool(features[0], boxes, size, scales[0])
    lowest = round(-math.log2(scales[0]))
    levels = [
        assign_levels(
            b, lowest, lowest + len(scales) - 1, canonical_size=canonical_size, canonical_level=canonical_level
        )
        for b in boxes
    ]
    pooled = []
    for index, (maps, scale) in enumerate(zip(features, scales, strict=True), start=lowest):
        chosen = [b[level == index] for b, level in zip(boxes, levels, strict=True)]
        pooled.append(pool(maps, chosen, size, scale))
    if not boxes:
        return torch.cat(pooled)
    # `pooled` is sorted by level and, within one, by box: a stable sort of the levels is where each box has gone.
    order = torch.cat(levels).sort(stable=True).indices
    joined = torch.cat([part for part in pooled if len(part)] or pooled)  # an empty one could be in another order
    # Rows are moved whole, in the order that they have in memory; index_select would turn channels-last around.
    return joined[order.argsort()]


def _pooling(
    method: RoITransform, sampling: int, aligned: bool, reduce: Reduce | None
) -> Callable[[Tensor, Sequence[Tensor], int, float], Tensor]:
    """The function of features, boxes, size and scale that pools by ``method``."""
    if method == "align":
        return functools.partial(roi_align, sampling=sampling, aligned=aligned, reduce=reduce or "mean")
    if method == "pool":
        return functools.partial(roi_pool, reduce=reduce or "max")
    if method == "warp":
        return functools.partial(roi_warp, reduce=reduce or "max")
    raise UsageError(f"RoI transform {method!r}; expected 'align', 'pool' or 'warp'")


def roi_pool(features: Tensor, boxes: Sequence[Tensor], size: int, scale: float, *, reduce: Reduce = "max") -> Tensor:
    """RoIPool: the maximum of each of ``size`` x ``size`` cells, box and cells rounded to whole feature pixels.

    Args:
        features: [N,C,H,W].
        boxes: N times [K_i,4].
        size: cells a side.
        scale: of the feature map to the image.
        reduce: maximum of a cell's pixels (the paper's) or their mean.

    Returns:
        [K,C,size,size]; cells outside the map are 0.

    Corners are rounded half away from zero and the last pixel counts, so a box from 1 to 3 covers three pixels: the
    legacy rule, which torchvision keeps. Source: Girshick, "Fast R-CNN", ICCV 2015, sec. 2.1.
    """
    maps, rois = _prepared(features, boxes)
    if reduce == "max":
        return ops.roi_pool(maps, rois, size, scale).to(features.dtype)
    height, width = maps.shape[-2:]
    top, bottom = _whole_cells(rois[:, 2], rois[:, 4], size, scale, height)
    left, right = _whole_cells(rois[:, 1], rois[:, 3], size, scale, width)
    sums = _sums(maps)
    image = rois[:, 0].to(torch.int64)[:, None, None, None]
    channel = torch.arange(maps.shape[1], device=maps.device)[:, None, None]
    top, bottom = top[:, None, :, None], bottom[:, None, :, None]  # [K,1,size,1]
    left, right = left[:, None, None, :], right[:, None, None, :]
    total = sums[image, channel, bottom, right] - sums[image, channel, top, right]  # [K,C,size,size]
    total = total - sums[image, channel, bottom, left] + sums[image, channel, top, left]
    count = (bottom - top).clamp(min=0) * (right - left).clamp(min=0)
    return torch.where(count > 0, total / count.clamp(min=1), 0).to(features.dtype)


def _whole_cells(first: Tensor, last: Tensor, size: int, scale: float, limit: int) -> tuple[Tensor, Tensor]:
    """RoIPool's first pixel, and the pixel after the last, of each of ``size`` cells on one side: int64 [K,size]."""
    start = _round_half_away(first * scale)[:, None]
    step = (_round_half_away(last * scale)[:, None] - start + 1).clamp(min=1) / size
    cell = torch.arange(size, device=first.device)
    lower, upper = torch.floor(cell * step) + start, torch.ceil((cell + 1) * step) + start
    return lower.clamp(0, limit).to(torch.int64), upper.clamp(0, limit).to(torch.int64)


def _sums(maps: Tensor) -> Tensor:
    """float64 [N,C,H+1,W+1]: the sums of all pixels of ``maps`` above and left of a place.

    Any rectangle takes four look-ups; in float64, as they are differences of large numbers.
    """
    return F.pad(maps.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0))


def roi_warp(features: Tensor, boxes: Sequence[Tensor], size: int, scale: float, *, reduce: Reduce = "max") -> Tensor:
    """RoIWarp: the box is rounded to whole feature pixels as in RoIPool, but its cells are sampled bilinearly.

    Args:
        features: [N,C,H,W].
        boxes: N times [K_i,4].
        size: cells a side.
        scale: of the feature map to the image.
        reduce: maximum (as released) or mean of the 2 x 2 samples of a cell.

    Returns:
        [K,C,size,size].

    The paper crops to 28 x 28 by bilinear sampling and then takes the maximum of 2 x 2; the mean is the variant that
    Mask R-CNN compares with (its table 2c). Samples lie in the middle of cells here; the released layer has them on
    the cells' borders, as many as the cell is pixels wide. No gradient reaches the boxes. Source: Dai, He and Sun,
    "Instance-aware Semantic Segmentation via Multi-task Network Cascades", CVPR 2016, sec. 3.2.
    """
    whole = []
    for b in boxes:
        corners = _round_half_away(b.detach().float() * scale)
        first, last = corners[:, :2], torch.maximum(corners[:, 2:], corners[:, :2])
        whole.append(torch.cat((first, last + 1), dim=1))  # the last pixel counts
    return roi_align(features, whole, size, 1.0, sampling=2, aligned=True, reduce=reduce)


def _round_half_away(values: Tensor) -> Tensor:
    """Rounding as C's ``round``: halves away from zero. torch's own takes halves to the even neighbour."""
    whole = values.trunc()
    return whole + torch.where((values - whole).abs() >= 0.5, values.sign(), torch.zeros_like(values))


def ps_roi_pool(
    features: Tensor, boxes: Sequence[Tensor], size: int, groups: int, scale: float, *, rule: PSRule = "torchvision"
) -> Tensor:
    """Position-sensitive RoIPool: each of ``size`` x ``size`` cells is the mean of its own group of channels.

    Args:
        features: [N, C*groups*groups, H, W]; channel (c*groups + i)*groups + j is for the cells of row i, column j.
        boxes: N times [K_i,4].
        size: cells a side. Where it is larger than ``groups`` (FCIS: 21 and 7), neighbouring cells share a group.
        groups: groups a side.
        scale: of the feature map to the image.
        rule: how a box becomes pixels. "torchvision": corners times scale, rounded, at least one pixel a side; the last
            row and column of the map are never read. "release": corners rounded to whole image pixels, then times
            scale, at least 0.1 a side, and the whole map is read. Boxes are continuous in both: the 1 that the release
            adds to a corner is in x2 and y2 already.

    Returns:
        [K,C,size,size]; cells outside the map are 0. Equal to torchvision's ``ps_roi_pool``, which has ``groups`` equal
        to ``size`` always.

    Source: Dai et al., "R-FCN", NIPS 2016, eq. 1; Li et al., "Fully Convolutional Instance-aware Semantic
    Segmentation", CVPR 2017, for size and groups that differ.
    """
    channels = features.shape[1] // groups**2
    if channels * groups**2 != features.shape[1]:
        raise UsageError(
            f"ps_roi_pool: {features.shape[1]} channels for {groups} x {groups} groups; "
            f"expected a multiple of {groups**2}"
        )
    maps, rois = _prepared(features, boxes)
    if rule == "torchvision" and size == groups:
        return ops.ps_roi_pool(maps, rois, size, scale).to(features.dtype)
    height, width = maps.shape[-2:]
    top, bottom = (edge[:, None, :, None] for edge in _cell_edges(rois[:, 2], rois[:, 4], size, scale, height, rule))
    left, right = (edge[:, None, None, :] for edge in _cell_edges(rois[:, 1], rois[:, 3], size, scale, width, rule))
    sums = _sums(maps).reshape(len(maps), channels, groups, groups, height + 1, width + 1)
    image = rois[:, 0].to(torch.int64)[:, None, None, None]
    channel = torch.arange(channels, device=maps.device)[:, None, None]
    group = torch.arange(size, device=maps.device) * groups // size
    row, column = group[:, None], group
    total = sums[image, channel, row, column, bottom, right] - sums[image, channel, row, column, top, right]
    total = total - sums[image, channel, row, column, bottom, left] + sums[image, channel, row, column, top, left]
    count = (bottom - top).clamp(min=0) * (right - left).clamp(min=0)
    return torch.where(count > 0, total / count.clamp(min=1), 0).to(features.dtype)


def _cell_edges(
    first: Tensor, last: Tensor, size: int, scale: float, limit: int, rule: PSRule
) -> tuple[Tensor, Tensor]:
    """First pixel, and the pixel after the last, of each of ``size`` cells along one side of boxes: int64 [K,size]."""
    cell = torch.arange(size, device=first.device)
    if rule == "release":
        start = _round_half_away(first)[:, None] * scale
        step = (_round_half_away(last)[:, None] * scale - start).clamp(min=0.1) / size
        lower, upper = torch.floor(cell * step + start), torch.ceil((cell + 1) * step + start)
    else:
        start = _round_half_away(first * scale)[:, None]
        step = (_round_half_away(last * scale)[:, None] - start).clamp(min=1) / size
        lower, upper = torch.floor(cell * step) + start, torch.ceil((cell + 1) * step) + start
        limit = limit - 1
    return lower.clamp(0, limit).to(torch.int64), upper.clamp(0, limit).to(torch.int64)


def crop_and_resize(features: Tensor, boxes: Sequence[Tensor], size: int, scale: float) -> Tensor:
    """One bilinear sample a cell, the first and the last on the box's borders: TensorFlow's ``crop_and_resize``.

    Args:
        features: [N,C,H,W].
        boxes: N times [K_i,4], x1 <= x2 and y1 <= y2.
        size: samples a side; with 1, the middle of the box.
        scale: of the feature map to the image. The image's borders fall on the centres of the map's outermost pixels.

    Returns:
        [K,C,size,size]; samples outside the image are 0.

    Source: Huang et al., "Speed/accuracy trade-offs for modern convolutional object detectors", CVPR 2017, sec. 3.1.3,
    and the definition of ``tf.image.crop_and_resize``.
    """
    height, width = features.shape[-2:]
    side = features.new_tensor((width, height, width, height), dtype=torch.float32)
    grids, inside = [], [features.new_zeros((0, size, size), dtype=torch.bool)]
    for b in boxes:
        # In units of the image first: its border is then 1 exactly, and W - 1 on the map.
        corners = b.detach().float() * scale / side * (side - 1)
        first, last = corners[:, :2], corners[:, 2:]
        if size == 1:
            first = last = (first + last) / 2
        step = (last - first) / max(size - 1, 1)
        # RoIAlign puts its samples in the middle of cells, and the centre of a pixel at + 0.5.
        grids.append(torch.cat((first - step / 2, last + step / 2), dim=1) + 0.5)
        samples = first[:, None] + step[:, None] * torch.arange(size, device=b.device)[:, None]  # [K,size,2]
        # A sample on the border may be out by rounding; 1e-4 of a pixel is more than that.
        x, y = ((samples >= -1e-4) & (samples <= side[:2] - 1 + 1e-4)).unbind(-1)
        inside.append(y[:, :, None] & x[:, None, :])
    pooled = roi_align(features, grids, size, 1.0, sampling=1, aligned=True)
    return torch.where(torch.cat(inside)[:, None], pooled, 0)
