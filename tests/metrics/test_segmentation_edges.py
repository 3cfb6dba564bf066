"""Edges, bands and boundary scores against loops over all pairs of pixels."""

import math

import numpy as np
import pytest
import torch

from scenewise.errors import UsageError
from scenewise.metrics.segmentation import ConfusionMatrix
from scenewise.metrics.segmentation_edges import BoundaryF1, TrimapMetrics, edge_distance
from scenewise.results.prediction import Prediction
from scenewise.types import IGNORE

V = IGNORE
SIZE = (11, 14)


def blobs(seed, classes=3, void=True):
    """A map of rectangles in random order."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(SIZE, dtype=np.int64)
    for label in [*generator.integers(0, classes, 5), *([V] if void else [])]:
        top, left = (int(generator.integers(0, limit - 2)) for limit in SIZE)
        height, width = generator.integers(2, 7, 2)
        labels[top : top + height, left : left + width] = label
    return torch.from_numpy(labels)


def predicted(semantic):
    return Prediction(size=tuple(semantic.shape), classes=("a", "b", "c"), semantic=semantic)


def neighbours(i, j):
    return [
        (a, b) for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)) if 0 <= a < SIZE[0] and 0 <= b < SIZE[1]
    ]


PIXELS = [(i, j) for i in range(SIZE[0]) for j in range(SIZE[1])]


def cells(labels):
    """Plain numbers by (row, column): a tensor's elements are slow to reach one by one."""
    return {(i, j): value for i, row in enumerate(labels.tolist()) for j, value in enumerate(row)}


def edge_pixels(labels, void_edges=True):
    labels = cells(labels)
    return {
        (i, j)
        for i, j in PIXELS
        if any(
            labels[i, j] != labels[n] and (void_edges or (labels[i, j] != V and labels[n] != V))
            for n in neighbours(i, j)
        )
    }


def near(pixel, others, radius):
    return any(math.dist(pixel, other) <= radius for other in others)


def test_no_edge_is_infinitely_far():
    assert np.isinf(edge_distance(np.zeros((2, 3), dtype=bool))).all()


@pytest.mark.parametrize("void_edges", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_trimap_equals_loop(void_edges, seed):
    prediction, truth = blobs(seed + 50, void=False), blobs(seed)
    radii = (0, 1.5, 3)
    metric = TrimapMetrics("abc", radii=radii, void_edges=void_edges)
    metric.update(predicted(prediction), {"semantic": truth})
    edges = edge_pixels(truth, void_edges)
    for radius, confusion in zip(radii, metric.confusions, strict=True):
        band = [p for p in PIXELS if truth[p] != V and near(p, edges, radius)]
        expected = ConfusionMatrix(3)
        expected.update(torch.stack([prediction[p] for p in band]), torch.stack([truth[p] for p in band]))
        assert torch.equal(confusion.counts, expected.counts)
        assert metric.compute()[f"trimap_{radius:g}"]["mean_iou"] == pytest.approx(float(expected.iou().nanmean()))


def test_trimap_of_everything_is_the_whole_image():
    metric = TrimapMetrics("abc", radii=(100,))
    prediction, truth = blobs(7, void=False), blobs(8)
    metric.update(predicted(prediction), {"semantic": truth})
    whole = ConfusionMatrix(3)
    whole.update(prediction, truth)
    assert torch.equal(metric.confusions[0].counts, whole.counts)


def test_trimap_merges():
    whole, left, right = (TrimapMetrics("abc", radii=(1, 2)) for _ in range(3))
    for seed, half in ((0, left), (1, right)):
        for metric in (whole, half):
            metric.update(predicted(blobs(seed + 50, void=False)), {"semantic": blobs(seed)})
    left.merge(right)
    assert left.compute() == whole.compute()
    assert whole.compute()["images"] == 2


def test_trimap_without_edges():
    metric = TrimapMetrics("abc")
    flat = torch.zeros(SIZE, dtype=torch.int64)
    metric.update(predicted(flat), {"semantic": flat})
    empty = {"mean_iou": None, "mean_accuracy": None, "pixel_accuracy": None, "pixels": 0}
    assert metric.compute() == {"trimap_4": empty, "trimap_8": empty, "images": 1}


def boundary_loop(prediction, truth, radius, predicted_alone):
    """F1 of each class by comparing all pairs of boundary pixels."""
    prediction, truth = prediction.numpy(), truth.numpy()
    known = cells(truth)
    allowed = {p for p in PIXELS if known[p] != V and all(known[n] != V for n in neighbours(*p))}
    values = {}
    for label in range(3):
        present = (truth == label).any() or (predicted_alone and (prediction == label).any())
        called, real = (
            {p for p in edge_pixels(m == label) if m[p] == label and p in allowed} for m in (prediction, truth)
        )
        if not present or not (called or real):
            continue
        precision = sum(near(p, real, radius) for p in called) / len(called) if called else 0
        recall = sum(near(p, called, radius) for p in real) / len(real) if real else 0
        values[label] = 2 * precision * recall / (precision + recall) if precision * recall else 0.0
    return values


@pytest.mark.parametrize("predicted_alone", [False, True])
@pytest.mark.parametrize("tolerance", [0.01, 0.06, 0.15])
def test_boundary_f1_equals_loop(predicted_alone, tolerance):
    options = {"tolerance": tolerance, "predicted_alone": predicted_alone}
    metric, other = BoundaryF1("abc", **options), BoundaryF1("abc", **options)
    expected = []
    for seed in range(6):
        prediction, truth = blobs(seed + 50, void=False), blobs(seed)
        if seed == 0:
            truth[truth == 2] = 1  # class 2 in the prediction alone
            prediction[2:5, 2:5] = 2
        (other if seed % 2 else metric).update(predicted(prediction), {"semantic": truth})
        expected.append(boundary_loop(prediction, truth, tolerance * math.hypot(*SIZE), predicted_alone))
    metric.merge(other)
    scores = metric.compute()
    assert scores["images"] == 6
    assert scores["boundary_f1"]["mean"] == pytest.approx(sum(sum(v.values()) / len(v) for v in expected) / 6)
    for label, name in enumerate("abc"):
        values = [v[label] for v in expected if label in v]
        assert scores["boundary_f1"]["per_class"][name] == pytest.approx(sum(values) / len(values))


def test_boundary_f1_of_a_shift():
    """A square moved by one pixel: all its boundary is near at one pixel of tolerance, and part of it at none."""
    truth = torch.zeros(SIZE, dtype=torch.int64)
    truth[3:8, 3:9] = 1
    shifted = truth.roll(1, 1)
    scores = {}
    for pixels in (0.5, 1):
        metric = BoundaryF1("abc", tolerance=(pixels + 1e-6) / math.hypot(*SIZE))
        metric.update(predicted(shifted), {"semantic": truth})
        scores[pixels] = metric.compute()["boundary_f1"]["per_class"]
    assert scores[1] == {"a": 1.0, "b": 1.0, "c": None}
    assert scores[0.5]["b"] == pytest.approx(10 / 18)  # 5 of the 6 columns of the upper and the lower side


def test_perfect_and_undefined():
    metric = BoundaryF1("abc")
    truth = blobs(3)
    metric.update(predicted(truth.masked_fill(truth == V, 0)), {"semantic": truth})
    assert metric.compute()["boundary_f1"]["mean"] == 1
    flat = torch.zeros(SIZE, dtype=torch.int64)
    metric = BoundaryF1("abc")
    metric.update(predicted(flat), {"semantic": flat})
    assert metric.compute() == {
        "boundary_f1": {"mean": None, "per_class": {"a": None, "b": None, "c": None}},
        "images": 1,
    }


@pytest.mark.parametrize("metric", [TrimapMetrics, BoundaryF1])
def test_errors(metric):
    with pytest.raises(
        UsageError, match=r"image x: semantic is \[11, 14\] in the prediction and \[14, 11\] in the target"
    ):
        metric("abc").update(predicted(blobs(0)), {"image_id": "x", "semantic": blobs(1).T})
    with pytest.raises(UsageError, match=r"can't merge .* into those of"):
        metric("abc").merge(metric("ab"))
