"""Selective search: the grouping equals a slow one written from the paper; the segmentation equals scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scenewise.data import open_data
from scenewise.errors import UsageError
from scenewise.ops import selective_search as module
from scenewise.ops.boxes import box_iou
from scenewise.ops.selective_search import ALL, Regions, segment, segment_plainly, selective_search


@pytest.fixture(scope="module")
def scene():
    image, target = open_data("scenes:size=64x96,fields=boxes", "val")[1]
    return image, target["boxes"]


def pixels(image):
    return image.permute(1, 2, 0).numpy().astype(np.float64)


def test_an_object_of_one_colour_is_found_at_its_place():
    image = torch.full((3, 60, 100), 0.2)
    image[0, 12:41, 30:77] = 0.9
    boxes = selective_search(image, width=None, min_side=5)
    truth = torch.tensor([[30.0, 12.0, 77.0, 41.0]])
    assert box_iou(truth, boxes).max() > 0.95
    # resized to another width, the boxes come back in the image's own pixels
    assert box_iou(truth, selective_search(image, width=160, min_side=5)).max() > 0.9


def test_boxes_lie_in_the_image_are_distinct_and_large_enough(scene):
    boxes = selective_search(scene[0], width=None, min_side=12)
    assert boxes.dtype == torch.float32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 96).all()
    assert (boxes[:, 3] <= 64).all()
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 12
    assert len(boxes.unique(dim=0)) == len(boxes) > 10


def test_the_seed_shuffles_and_nothing_else_does(scene):
    one = selective_search(scene[0], width=None, min_side=8)
    again = selective_search(scene[0].float() / 255, width=None, min_side=8)
    other = selective_search(scene[0], width=None, min_side=8, seed=1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(one.unique(dim=0), other.unique(dim=0))
    assert torch.equal(selective_search(scene[0], width=None, min_side=8, max_boxes=7), one[:7])


def test_quality_finds_more_than_fast_and_both_cover_the_objects(scene):
    fast = selective_search(scene[0], width=None, min_side=4)
    quality = selective_search(scene[0], mode="quality", width=None, min_side=4, max_boxes=None)
    assert len(quality) > 2 * len(fast)
    truth = scene[1].as_subclass(torch.Tensor)
    best = [box_iou(truth, boxes).amax(1).mean() for boxes in (fast, quality)]
    assert best[1] >= best[0] > 0.4  # all that fast finds, quality finds, too


@pytest.mark.parametrize("measures", [ALL, ("texture", "size", "fill"), ("fill",), ("size",), ("colour",)])
def test_grouping_equals_a_slow_one(measures):
    """Everything is counted from the pixels again at every step."""
    rng = np.random.default_rng(0)
    blocks = np.kron(np.arange(20).reshape(4, 5), np.ones((5, 4), np.int64)).astype(np.int64)
    labels = blocks.copy()
    labels[3:9, 2:7] = labels[4, 4]  # a region that is no rectangle
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    colours = rng.random((*labels.shape, 3)) * 255
    texture = rng.random((*labels.shape, 6))
    found = Regions(labels, colours, texture).merged(measures)
    assert found.tolist() == slow_grouping(labels, colours, texture, measures)


def slow_grouping(labels, colours, texture, measures):
    def histogram(mask, values, bins, top):
        counts = [np.histogram(v, bins, (0, top))[0] for v in values[mask].T]
        return np.concatenate(counts) / (mask.sum() * values.shape[-1])

    def box(mask):
        rows, columns = np.nonzero(mask)
        return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]

    def alike(a, b):
        (x1, y1, x2, y2), size = box(a | b), a.sum() + b.sum()
        parts = {
            "colour": lambda: np.minimum(histogram(a, colours, 25, 256), histogram(b, colours, 25, 256)).sum(),
            "texture": lambda: np.minimum(*(histogram(m, texture, 10, texture.max()) for m in (a, b))).sum(),
            "size": lambda: 1 - size / labels.size,
            "fill": lambda: 1 - ((x2 - x1) * (y2 - y1) - size) / labels.size,
        }
        return sum(parts[m]() for m in measures)

    def touch(a, b):
        grown = np.pad(a, 1)
        near = np.any([np.roll(grown, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=0)
        return (near[1:-1, 1:-1] & b).any()

    alive = {i: labels == i for i in range(labels.max() + 1)}
    boxes = [box(m) for m in alive.values()]
    while len(alive) > 1:
        pairs = [(i, j) for i in alive for j in alive if i < j and touch(alive[i], alive[j])]
        i, j = min(pairs, key=lambda p: (-round(alike(alive[p[0]], alive[p[1]]), 9), p))
        alive[len(boxes)] = alive.pop(i) | alive.pop(j)
        boxes.append(box(alive[len(boxes)]))
    return [[int(v) for v in b] for b in boxes]


def test_histograms_of_a_merger_are_those_of_its_pixels():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.array([[0, 1]]), 6, 0).repeat([3, 5], 1)
    colours, texture = rng.random((6, 8, 3)) * 255, rng.random((6, 8, 2))
    tree = module._Hierarchy(Regions(labels, colours, texture), ALL)
    tree.merge_next()
    whole = Regions(np.zeros((6, 8), np.int64), colours, texture)
    for name, histogram in whole.histograms.items():
        np.testing.assert_allclose(tree.histograms[name][2], histogram[0])
        assert histogram[0].sum() == pytest.approx(1)


@pytest.mark.parametrize("k", [20, 100])
def test_the_segmentation_equals_scikit_images(scene, k):
    segmentation = pytest.importorskip("skimage.segmentation")
    noise = np.random.default_rng(0).random((40, 50, 3)) * 255
    for image in (noise, pixels(scene[0])):
        theirs = segmentation.felzenszwalb(image / 255, scale=k, sigma=0.8, min_size=k, channel_axis=-1)
        assert (segment_plainly(image, k, k) == theirs).all()
        assert (segment(image, k, k) == theirs).all()


def test_regions_are_connected_and_not_too_small(scene):
    labels = segment_plainly(pixels(scene[0]), 50, 50)
    from scipy import ndimage

    for i in range(labels.max() + 1):
        assert ndimage.label(labels == i, np.ones((3, 3)))[1] == 1
        assert (labels == i).sum() >= 50


def test_colour_spaces_equal_scikit_images():
    color = pytest.importorskip("skimage.color")
    rgb = np.random.default_rng(0).random((9, 7, 3)) * 255
    rgb[0, :3] = [[0, 0, 0], [255, 255, 255], [80, 80, 80]]
    np.testing.assert_allclose(module._hsv(rgb), color.rgb2hsv(rgb / 255) * 255, atol=1e-9)
    lab = color.rgb2lab(rgb / 255)
    np.testing.assert_allclose(module._lab(rgb), lab * [2.55, 1, 1] + [0, 128, 128], atol=1e-9)
    assert module._rgi(rgb)[0, 2].tolist() == pytest.approx([85, 85, 80])  # gray: equal shares, its intensity


def test_tiny_and_flat_images():
    assert len(selective_search(torch.zeros(3, 1, 1), width=None)) == 0
    whole = selective_search(torch.full((3, 30, 40), 0.5), width=None, min_side=1)
    assert [0.0, 0.0, 40.0, 30.0] in whole.tolist()


def test_errors_name_what_is_wrong():
    with pytest.raises(UsageError, match="mode is 'slow'; expected fast or quality"):
        selective_search(torch.zeros(3, 8, 8), mode="slow")
    with pytest.raises(UsageError, match=r"shape \[1, 8, 8\]; expected \[3,H,W\]"):
        selective_search(torch.zeros(1, 8, 8))
