"""The boundary benchmark: thinning as scikit-image's, matching as scipy's assignment, the scores as a plain loop."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from scenewise.errors import UsageError
from scenewise.metrics.boundary import BoundaryMetrics, matched_pixels, thinned
from scenewise.results.prediction import Prediction

SIZE = (24, 32)


def soft(seed):
    """A blurred map of a few lines and some noise."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    lines = np.zeros(SIZE)
    for _ in range(3):
        row, column = generator.integers(2, 20), generator.integers(2, 28)
        lines[row, 2 : generator.integers(10, 30)] = 1
        lines[2 : generator.integers(8, 22), column] = 1
    truth = torch.from_numpy((lines > 0).astype(np.float32))
    blurred = gaussian_filter(np.roll(lines, generator.integers(0, 2), 1) + generator.random(SIZE) * 0.3, 0.8)
    return torch.from_numpy((blurred / blurred.max()).astype(np.float32)), truth


def near_pairs(one, two, radius):
    a, b = np.argwhere(one), np.argwhere(two)
    return np.linalg.norm(a[:, None] - b[None], axis=-1) <= radius


@pytest.mark.parametrize("seed", range(4))
def test_thinning_is_that_of_scikit_image(seed):
    morphology = pytest.importorskip("skimage.morphology")
    pixels = soft(seed)[0].numpy() > 0.25
    lines = thinned(pixels)
    assert lines.sum() < pixels.sum()
    assert np.array_equal(lines, morphology.thin(pixels))


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.5])
def test_as_many_pixels_are_matched_as_can_be(radius):
    """Against the cheapest assignment, in which a pair that is too far apart costs far more than any other."""
    for seed in range(4):
        found, truth = (m.numpy() > 0.4 for m in soft(seed))
        near = near_pairs(found, truth, radius)
        rows, columns = linear_sum_assignment(~near)
        assert matched_pixels(found, truth, radius) == near[rows, columns].sum()
    assert matched_pixels(np.zeros(SIZE, bool), truth, radius) == 0


def test_the_scores_equal_a_plain_computation():
    """Counts at each threshold from the assignment, and the benchmark's formulas written out."""
    count, tolerance = 7, 0.03
    pairs = [soft(seed) for seed in range(3)]
    metric, other = (BoundaryMetrics(thresholds=count, tolerance=tolerance) for _ in range(2))
    table = np.zeros((3, count, 3))
    for image, (found, truth) in enumerate(pairs):
        one = other if image == 1 else metric
        one.update(Prediction(SIZE, (), boundary=found), {"boundary": truth})
        for k in range(count):
            lines = thinned(found.numpy() >= np.float32((k + 1) / (count + 1)))
            near = near_pairs(lines, truth.numpy() >= 0.5, tolerance * math.hypot(*SIZE))
            rows, columns = linear_sum_assignment(~near)
            table[image, k] = near[rows, columns].sum(), lines.sum(), (truth >= 0.5).sum()
    metric.merge(other)
    scores = metric.compute()["boundary"]

    def rates(counts):
        return counts[..., 0] / counts[..., 2], counts[..., 0] / np.maximum(counts[..., 1], 1)

    def f1(r, p):
        return np.where(r + p > 0, 2 * r * p / np.maximum(r + p, 1e-12), 0)

    recall, precision = rates(table.sum(0))
    finer = []
    for k in range(count - 1):
        for d in np.linspace(0, 1, 101):
            r, p = (v[k] * (1 - d) + v[k + 1] * d for v in (recall, precision))
            finer.append((float(f1(r, p)), (k + 1 + d) / (count + 1)))
    assert scores["ODS"] == pytest.approx(max(finer)[0])
    assert scores["threshold"] == pytest.approx(max(finer)[1])
    best = np.stack([counts[f1(*rates(counts)).argmax()] for counts in table])
    assert scores["OIS"] == pytest.approx(float(f1(*rates(best.sum(0)))))
    assert scores["OIS"] >= max(f1(recall, precision))
    points = dict(sorted(zip(recall.tolist(), precision.tolist(), strict=True)))
    area = 0.0
    for r in np.arange(101) / 100:
        if min(points) <= r <= max(points):
            area += np.interp(r, list(points), list(points.values())) / 100
    assert scores["AP"] == pytest.approx(area, abs=0.02)  # equal recalls: the first precision counts
    assert 0.3 < scores["ODS"] < 1


def test_perfect_shifted_and_empty_maps():
    truth = torch.zeros(SIZE)
    truth[10, 4:20] = 1
    for found, expected in ((truth, 1.0), (truth.roll(1, 0), 0.0)):  # one pixel is 2.5 % of the diagonal
        metric = BoundaryMetrics(thresholds=5)
        metric.update(Prediction(SIZE, (), boundary=found), {"boundary": truth})
        assert metric.compute()["boundary"]["ODS"] == expected
    metric = BoundaryMetrics(thresholds=5, tolerance=0.03)
    metric.update(Prediction(SIZE, (), boundary=truth.roll(1, 0)), {"boundary": truth})
    assert metric.compute()["boundary"]["ODS"] == 1
    empty = BoundaryMetrics(thresholds=5)
    empty.update(Prediction(SIZE, (), boundary=truth), {"boundary": torch.zeros(SIZE)})
    assert empty.compute() == {"boundary": {"ODS": None, "threshold": None, "OIS": None, "AP": None}, "images": 1}
    with pytest.raises(UsageError, match="expected 1 or more, and 0 or more"):
        BoundaryMetrics(thresholds=0)
