"""Selective search: boxes that may hold an object, found by merging the regions of an over-segmentation.

Uijlings, van de Sande, Gevers and Smeulders, "Selective Search for Object Recognition", IJCV 2013,
https://doi.org/10.1007/s11263-013-0620-5. The initial regions: Felzenszwalb and Huttenlocher, "Efficient Graph-Based
Image Segmentation", IJCV 2004. In order of the paper: colour spaces (sec. 4.1), similarities (sec. 4.2), hierarchical
grouping (sec. 3, algorithm 1), combining the hierarchies (sec. 4.3); initial regions last.

Where we differ: texture is read from exact Gaussian derivatives, in bins from 0 to the largest response of the image;
colour values are scaled linearly to 0..255; the random numbers are numpy's. Recall is comparable, boxes are not equal.

The initial segmentation is plain Python, a second for each colour space and threshold at 500 x 375 pixels. Where
scikit-image is installed (``scenewise[proposals]``) its compiled one is taken: the same algorithm, which may order
edges of equal weight differently.

Shapes: H x W pixels, R regions, P boxes. Images within this file are float64 [H,W,channels] in 0..255.
"""

from __future__ import annotations

import heapq
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import find_objects, gaussian_filter  # type: ignore[attr-defined]
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from scenewise.errors import UsageError

Array = TypeVar("Array", bound=npt.NDArray[Any])
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Measure = Literal["colour", "texture", "size", "fill"]
Mode = Literal["fast", "quality"]

ALL: tuple[Measure, ...] = ("colour", "texture", "size", "fill")
UNCOLOURED: tuple[Measure, ...] = ("texture", "size", "fill")
# The paper's two settings (table 7): colour spaces, groups of similarities, thresholds k.
MODES: dict[str, tuple[tuple[str, ...], tuple[tuple[Measure, ...], ...], tuple[int, ...]]] = {
    "fast": (("hsv", "lab"), (ALL, UNCOLOURED), (50, 100)),
    "quality": (
        ("hsv", "lab", "rgi", "hue", "intensity"),
        (ALL, UNCOLOURED, ("fill",), ("size",)),
        (50, 100, 150, 300),
    ),
}
SIGMA = 0.8  # of the blur before the initial segmentation
COLOUR_BINS, TEXTURE_BINS, ORIENTATIONS = 25, 10, 8


def selective_search(
    image: Tensor,
    *,
    mode: Mode = "fast",
    max_boxes: int | None = 2000,
    width: int | None = 500,
    min_side: float = 20.0,
    seed: int = 0,
) -> Tensor:
    """Boxes [P,4] that may hold an object, the most promising first, float32 x1, y1, x2, y2 in pixels of ``image``.

    Args:
        image: [3,H,W], uint8 or float 0..1, RGB.
        mode: ``"fast"`` merges 8 hierarchies, ``"quality"`` 80.
        max_boxes: P is at most this; None for all.
        width: the image is resized to this width first; None for its own size.
        min_side: boxes with a shorter side are dropped, in pixels of the resized image.
        seed: of the random numbers that shuffle the boxes of one level. Equal seeds give equal boxes.

    All boxes are whole pixels of the resized image, without duplicates. P is 0 only where every box is too small.
    """
    if mode not in MODES:
        raise UsageError(f"selective search: mode is {mode!r}; expected {' or '.join(MODES)}")
    if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise UsageError(f"selective search: the image has shape {list(image.shape)}; expected [3,H,W]")
    picture, scale = _resized(image, width)
    spaces, groups, thresholds = MODES[mode]
    boxes, ranks = [], []
    for space in spaces:
        colours = COLOUR_SPACES[space](picture)
        texture = _orientations(colours)
        for k in thresholds:
            regions = Regions(segment(colours, k, min_size=k), colours, texture)
            for measures in groups:
                boxes.append(regions.merged(measures))
                ranks.append(np.arange(len(boxes[-1]), 0, -1))  # 1 is the top of the hierarchy
    found, rank = np.concatenate(boxes), np.concatenate(ranks)
    order = np.argsort(rank * np.random.default_rng(seed).random(len(rank)), kind="stable")  # sec. 4.3
    found = found[order]
    found = found[((found[:, 2:] - found[:, :2]) >= min_side).all(1)]
    _, first = np.unique(found, axis=0, return_index=True)
    kept = found[np.sort(first)][:max_boxes] * np.array([*scale, *scale])
    return torch.from_numpy(kept).float()


def _resized(image: Tensor, width: int | None) -> tuple[Floats, tuple[float, float]]:
    """The image at ``width``, [H,W,3] in 0..255, and the (x, y) factors back to its own size."""
    image = image.detach().cpu()
    image = image.float() if image.dtype == torch.uint8 else image.float() * 255
    rows, columns = image.shape[-2:]
    if width is not None and width != columns:
        image = F.resize(image, [max(1, round(rows * width / columns)), width], antialias=True)
    pixels = image.clamp(0, 255).permute(1, 2, 0).numpy().astype(np.float64)
    return pixels, (columns / pixels.shape[1], rows / pixels.shape[0])


# -------------------------------------------------------------------------------------------------------- colour spaces


def _hsv(rgb: Floats) -> Floats:
    """Hue, saturation and value, each scaled to 0..255."""
    largest, smallest = rgb.max(-1), rgb.min(-1)
    spread = largest - smallest
    red, green, blue = np.moveaxis(rgb, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        hue = np.select(
            [spread == 0, largest == red, largest == green],
            [0.0, (green - blue) / spread % 6, (blue - red) / spread + 2],
            (red - green) / spread + 4,
        )
        saturation = np.where(largest > 0, spread / largest, 0.0)
    return np.stack((hue / 6 * 255, saturation * 255, largest), -1)


def _lab(rgb: Floats) -> Floats:
    """CIE L*a*b* of sRGB under D65; L scaled to 0..255, a and b shifted by 128."""
    share = rgb / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack(((116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128), -1)


def _rgi(rgb: Floats) -> Floats:
    """Red and green as shares of the sum, and intensity."""
    total = np.maximum(rgb.sum(-1, keepdims=True), 1e-6)
    return np.concatenate((rgb[..., :2] / total * 255, total / 3), -1)


COLOUR_SPACES: dict[str, Callable[[Floats], Floats]] = {
    "hsv": _hsv,
    "lab": _lab,
    "rgi": _rgi,
    "hue": lambda rgb: _hsv(rgb)[..., :1],
    "intensity": lambda rgb: rgb.mean(-1, keepdims=True),
}


# ------------------------------------------------------------------------------------------------ regions, similarities


def _orientations(colours: Floats) -> Floats:
    """Gaussian derivatives (sigma 1) of each channel in 8 directions, their positive parts; [H,W,8 * channels]."""
    across = gaussian_filter(colours, (1, 1, 0), order=(0, 1, 0))
    down = gaussian_filter(colours, (1, 1, 0), order=(1, 0, 0))
    angles = 2 * np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    return np.concatenate([np.maximum(np.cos(a) * across + np.sin(a) * down, 0) for a in angles], -1)


def _histograms(labels: Ints, values: Floats, bins: int, top: float) -> Floats:
    """For each region a histogram of each channel of ``values``, all channels of a region summing to 1."""
    count, channels = int(labels.max()) + 1, values.shape[-1]
    cells = np.minimum((values * (bins / top)).astype(np.int64), bins - 1).clip(0)  # [H,W,channels]
    index = (labels[..., None] * channels + np.arange(channels)) * bins + cells
    counts = np.bincount(index.ravel(), minlength=count * channels * bins).reshape(count, -1)
    found: Floats = counts / counts.sum(1, keepdims=True)
    return found


class Regions:
    """An over-segmentation, with all that the similarities read.

    Args:
        labels: [H,W], 0..R-1, each region connected.
        colours: [H,W,channels], 0..255.
        texture: [H,W,8 * channels], 0 or more.
    """

    def __init__(self, labels: Ints, colours: Floats, texture: Floats) -> None:
        self.area = labels.size
        self.count = int(labels.max()) + 1
        self.sizes = np.bincount(labels.ravel(), minlength=self.count)
        self.boxes: Ints = np.array(
            [[c.start, r.start, c.stop, r.stop] for r, c in find_objects(labels + 1)], np.int64
        )  # [R,4] x1, y1, x2, y2
        self.histograms: dict[Measure, Floats] = {
            "colour": _histograms(labels, colours, COLOUR_BINS, 256.0),
            "texture": _histograms(labels, texture, TEXTURE_BINS, max(float(texture.max()), 1e-6)),
        }
        self.pairs = _touching(labels)

    def merged(self, measures: Sequence[Measure]) -> Ints:
        """The boxes [2R-1,4] of all regions: the initial ones, then each new one (algorithm 1 of the paper)."""
        tree = _Hierarchy(self, measures)
        while tree.queue:
            tree.merge_next()
        return tree.boxes[: tree.next]


class _Hierarchy:
    """The regions that were and that will be: rows 0..R-1 are the initial ones, each merger fills the next row."""

    def __init__(self, regions: Regions, measures: Sequence[Measure]) -> None:
        self.measures, self.area, self.next = measures, regions.area, regions.count
        self.sizes, self.boxes = _with_room(regions.sizes), _with_room(regions.boxes)
        self.histograms = {m: _with_room(h) for m, h in regions.histograms.items() if m in measures}
        self.neighbours: dict[int, set[int]] = {i: set() for i in range(regions.count)}
        one, other = regions.pairs[:, 0], regions.pairs[:, 1]
        for i, j in zip(one.tolist(), other.tolist(), strict=True):
            self.neighbours[i].add(j)
            self.neighbours[j].add(i)
        likeness = self.similarity(one, other).tolist()
        self.queue = [(-s, i, j) for s, i, j in zip(likeness, one.tolist(), other.tolist(), strict=True)]
        heapq.heapify(self.queue)

    def similarity(self, one: Ints | int, other: Ints) -> Floats:
        """The sum of the measures (eq. 1 to 6), each in 0..1, of region(s) ``one`` with each of ``other``."""
        total = np.zeros(len(other))
        for histogram in self.histograms.values():  # colour, texture: histogram intersection
            total += np.minimum(histogram[one], histogram[other]).sum(-1)
        together = self.sizes[one] + self.sizes[other]
        if "size" in self.measures:
            total += 1 - together / self.area
        if "fill" in self.measures:
            top_left = np.minimum(self.boxes[one][..., :2], self.boxes[other][..., :2])
            bottom_right = np.maximum(self.boxes[one][..., 2:], self.boxes[other][..., 2:])
            total += 1 - ((bottom_right - top_left).prod(-1) - together) / self.area
        return total

    def merge_next(self) -> None:
        """Merge the two most similar neighbours that are left; nothing where one of the queue's first has gone."""
        _, i, j = heapq.heappop(self.queue)
        if i not in self.neighbours or j not in self.neighbours:
            return
        new, size = self.next, self.sizes[i] + self.sizes[j]
        self.next += 1
        for histogram in self.histograms.values():  # the mean, weighted by size, is the histogram of both together
            histogram[new] = (self.sizes[i] * histogram[i] + self.sizes[j] * histogram[j]) / size
        self.sizes[new] = size
        self.boxes[new, :2] = np.minimum(self.boxes[i, :2], self.boxes[j, :2])
        self.boxes[new, 2:] = np.maximum(self.boxes[i, 2:], self.boxes[j, 2:])
        around = (self.neighbours.pop(i) | self.neighbours.pop(j)) - {i, j}
        self.neighbours[new] = around
        for n in around:
            self.neighbours[n] -= {i, j}
            self.neighbours[n].add(new)
        if around:
            others = sorted(around)
            for n, s in zip(others, self.similarity(new, np.array(others)).tolist(), strict=True):
                heapq.heappush(self.queue, (-s, n, new))


def _with_room(rows: Array) -> Array:
    """``rows`` and as many empty ones, for the regions to come."""
    return np.concatenate((rows, np.zeros_like(rows)))  # type: ignore[return-value]


def _touching(labels: Ints) -> Ints:
    """The pairs [Q,2] of regions that touch at a side or a corner, i < j, sorted."""
    pairs = [np.stack((labels[a].ravel(), labels[b].ravel()), 1) for a, b in ((one, other) for one, other in _STEPS)]
    every = np.sort(np.concatenate(pairs), 1)
    return np.unique(every[every[:, 0] != every[:, 1]], axis=0)


# ------------------------------------------------------------------------------------------------------ initial regions

_STEPS = (  # each pixel with its neighbour to the right, below, below right, and (from below) above right
    (np.s_[:, 1:], np.s_[:, :-1]),
    (np.s_[1:, :], np.s_[:-1, :]),
    (np.s_[1:, 1:], np.s_[:-1, :-1]),
    (np.s_[1:, :-1], np.s_[:-1, 1:]),
)


def segment(image: Floats, k: float, min_size: int, sigma: float = SIGMA) -> Ints:
    """Regions [H,W], numbered 0..R-1, of ``image`` [H,W,channels] in 0..255.

    Two regions are merged over an edge that weighs less than k / size more than the heaviest edge within either; then
    regions of fewer than ``min_size`` pixels join a neighbour. Source: Felzenszwalb and Huttenlocher 2004, sec. 4.
    """
    if importlib.util.find_spec("skimage") is not None:
        from skimage.segmentation import felzenszwalb

        parts: Ints = felzenszwalb(image / 255, scale=k, sigma=sigma, min_size=min_size, channel_axis=-1)
        return parts.astype(np.int64)
    return segment_plainly(image, k, min_size, sigma)


def segment_plainly(image: Floats, k: float, min_size: int, sigma: float = SIGMA) -> Ints:
    """:func:`segment` without scikit-image."""
    smooth = gaussian_filter(image, (sigma, sigma, 0))
    pixels = np.arange(smooth[..., 0].size).reshape(smooth.shape[:2])
    weights = np.concatenate([np.sqrt(((smooth[a] - smooth[b]) ** 2).sum(-1)).ravel() for a, b in _STEPS])
    order = np.argsort(weights, kind="stable")
    one = np.concatenate([pixels[a].ravel() for a, _ in _STEPS])[order].tolist()
    other = np.concatenate([pixels[b].ravel() for _, b in _STEPS])[order].tolist()
    forest = _Forest(pixels.size)
    credit = [float(k)] * pixels.size  # of each root: the heaviest edge within, and k / size
    for weight, i, j in zip(weights[order].tolist(), one, other, strict=True):
        i, j = forest.root(i), forest.root(j)
        if i != j and weight < credit[i] and weight < credit[j]:
            root = forest.join(i, j)
            credit[root] = weight + k / forest.size[root]
    for i, j in zip(one, other, strict=True):
        i, j = forest.root(i), forest.root(j)
        if i != j and min(forest.size[i], forest.size[j]) < min_size:
            forest.join(i, j)
    roots = [forest.root(i) for i in range(pixels.size)]
    found: Ints = np.unique(roots, return_inverse=True)[1].reshape(pixels.shape).astype(np.int64)
    return found


class _Forest:
    """Disjoint sets of pixels."""

    def __init__(self, count: int) -> None:
        self.parent, self.size = list(range(count)), [1] * count

    def root(self, i: int) -> int:
        """The pixel that stands for the set of ``i``."""
        parent = self.parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(self, i: int, j: int) -> int:
        """Join the sets of two roots; the lower becomes the root of both."""
        low, high = (i, j) if i < j else (j, i)
        self.parent[high] = low
        self.size[low] += self.size[high]
        return low
