"""Scores of segments, against scikit-image's and the formulas in loops."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import adapted_rand_error, variation_of_information

from scenewise.errors import UsageError
from scenewise.metrics.segments import SegmentMetrics, segment_scores, segments_of
from scenewise.types import Described

CLASSES = ("cell", "membrane")


def described(labels):
    return Described(tuple(labels.shape), semantic=torch.as_tensor(labels), classes=CLASSES)


def measure(predicted, truth, **options):
    metric = SegmentMetrics(CLASSES, boundary="membrane", **options)
    metric.update(described(predicted), {"semantic": torch.as_tensor(truth)})
    return metric.compute()["segments"]


def random_segments(seed, size=(24, 31)):
    generator = np.random.default_rng(seed)
    found = generator.integers(0, 5, size)
    return np.repeat(np.repeat(found, 3, 0), 3, 1).astype(np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_image(seed):
    true, found = random_segments(seed), random_segments(seed + 100)
    scores = segment_scores(found, true)
    error, precision, recall = adapted_rand_error(true, found)  # of pairs of different pixels
    ours = [scores["rand"], *sorted((scores["rand_split"], scores["rand_merge"]))]
    assert ours == pytest.approx([1 - error, *sorted((precision, recall))], abs=0.01)
    counted = true > 0
    split, merge = variation_of_information(true[counted], found[counted])  # H(S|T), H(T|S), in bits
    of_found = -sum(q * math.log2(q) for q in np.bincount(found[counted]) / counted.sum() if q)
    of_true = -sum(q * math.log2(q) for q in np.bincount(true[counted]) / counted.sum() if q)
    assert scores["info_split"] == pytest.approx((of_found - split) / of_found)
    assert scores["info_merge"] == pytest.approx((of_true - merge) / of_true)
    assert scores["info"] == pytest.approx(2 * (of_found - split) / (of_found + of_true))


def test_a_gap_merges_and_a_line_splits():
    truth = np.zeros((20, 20), np.int64)
    truth[:, 10] = 1
    gap, line = truth.copy(), truth.copy()
    gap[5, 10] = 0
    line[9, :10] = 1
    assert measure(truth, truth) == dict.fromkeys(measure(truth, truth), 1.0)
    merged, split = measure(gap, truth), measure(line, truth)
    # one segment of 380 of two of 200 and 180; the split halves are 100 (the line's pixels given to one side) and 100
    assert merged["rand_split"] == pytest.approx(1.0)
    assert merged["rand_merge"] == pytest.approx((200**2 + 180**2) / 380**2)
    assert merged["info_merge"] == pytest.approx(0.0)
    assert split["rand_merge"] == pytest.approx(1.0)
    assert split["rand_split"] < 0.8


def test_the_width_of_borders_counts_only_as_a_segment():
    truth = np.zeros((20, 21), np.int64)
    truth[:, 10] = 1
    wide = truth.copy()
    wide[:, 7:14] = 1
    assert measure(wide, truth)["rand"] == pytest.approx(1.0)
    assert measure(wide, truth, borders="segment")["rand"] < 0.9


def test_images_without_segments_and_void():
    metric = SegmentMetrics(CLASSES, boundary="membrane")
    wall = torch.ones(4, 5, dtype=torch.int64)
    metric.update(described(wall), {"semantic": wall})
    assert metric.compute() == {"segments": dict.fromkeys(metric.compute()["segments"]), "images": 1}
    void = torch.full((4, 5), 255)
    void[:, 0] = 0
    metric.update(described(wall), {"semantic": void})  # nothing predicted: one segment of none
    assert metric.compute()["segments"]["rand"] == 1.0
    assert metric.compute()["images"] == 2


def test_processes_are_merged():
    maps = [(random_segments(s) % 2, random_segments(s + 50) % 2) for s in range(4)]
    whole, one, other = (SegmentMetrics(CLASSES, boundary="membrane") for _ in range(3))
    for i, (found, truth) in enumerate(maps):
        for metric in (whole, one if i % 2 else other):
            metric.update(described(found), {"semantic": torch.as_tensor(truth)})
    one.merge(other)
    assert one.compute() == whole.compute()
    with pytest.raises(UsageError, match="can't merge"):
        one.merge(SegmentMetrics(CLASSES, boundary="cell"))


def test_options_are_checked():
    with pytest.raises(UsageError, match=r"boundary is 'membran'; did you mean 'membrane'\?"):
        SegmentMetrics(CLASSES, boundary="membran")
    with pytest.raises(UsageError, match="borders is 'thin'; expected 'nearest' or 'segment'"):
        SegmentMetrics(CLASSES, boundary="membrane", borders="thin")


def test_the_formula_in_loops():
    generator = np.random.default_rng(0)
    true, found = generator.integers(0, 4, (6, 7)), generator.integers(0, 3, (6, 7))
    pixels = [(f, t) for f, t in zip(found.flat, true.flat, strict=True) if t]
    alike = [[(a[0] == b[0], a[1] == b[1]) for b in pixels] for a in pixels]
    both, of_found, of_true = (
        sum(kind(*pair) for row in alike for pair in row)
        for kind in (lambda f, t: f and t, lambda f, t: f, lambda f, t: t)
    )
    scores = segment_scores(found, true)
    assert scores["rand"] == pytest.approx(both / (of_found / 2 + of_true / 2))
    assert scores["rand_split"] == pytest.approx(both / of_true)
    assert scores["rand_merge"] == pytest.approx(both / of_found)


def test_without_a_boundary_class_segments_are_regions_of_one_class():
    truth = np.zeros((6, 8), np.int64)
    truth[:, 4:] = 1
    metric = SegmentMetrics(CLASSES)
    metric.update(described(truth), {"semantic": torch.as_tensor(truth)})
    metric.update(described(0 * truth), {"semantic": torch.as_tensor(truth)})
    first, second = (one["rand_merge"] for one in metric.scores)
    assert (first, second) == (1.0, pytest.approx(0.5))


def test_regions_are_joined_by_sides_alone():
    assert segments_of(np.eye(3, dtype=bool)).max() == 3
