"""Matching in order of score, the precision-recall curve, and its averages."""

from __future__ import annotations

import numpy as np
import pytest

from scenewise.errors import UsageError
from scenewise.metrics.precision_recall import average_precision, match_in_order, precision_recall_curve

KINDS = ("area", "11-point", "101-point")


def test_a_truth_is_found_once_by_the_first_that_comes():
    iou = [[0.6, 0.0, 0.7], [0.9, 0.2, 0.8], [0.55, 0.5, 0.6], [0.1, 0.49, 0.0]]
    assert match_in_order(iou, 0.5).tolist() == [2, 0, 1, -1]
    assert match_in_order(iou, 0.5, ignore=[False, False, True]).tolist() == [0, 2, 1, -1]
    assert match_in_order([[0.5, 0.5]], 0.5).tolist() == [0]
    assert match_in_order(np.zeros((2, 0)), 0.0).tolist() == [-1, -1]
    assert match_in_order(np.zeros((0, 2)), 0.5).tolist() == []


def test_ignored_truths_are_shared():
    assert match_in_order([[0.9], [0.9]], 0.5, ignore=[True]).tolist() == [0, 0]
    assert match_in_order([[0.9], [0.9]], 0.5).tolist() == [0, -1]


def test_the_curve_is_the_counts_at_each_score():
    curve = precision_recall_curve([0.1, 0.9, 0.5, 0.7], [True, True, False, False], 4)
    assert curve.scores.tolist() == [0.9, 0.7, 0.5, 0.1]
    assert curve.precision.tolist() == [1, 1 / 2, 1 / 3, 2 / 4]
    assert curve.recall.tolist() == [1 / 4, 1 / 4, 1 / 4, 2 / 4]
    assert not curve.tied


def test_ties_keep_their_order_and_are_told():
    first, second = (precision_recall_curve([0.5, 0.5], hits, 1) for hits in ([True, False], [False, True]))
    assert first.tied
    assert second.tied
    assert (average_precision(first), average_precision(second)) == (1.0, 0.5)
    assert not precision_recall_curve([0.5, 0.5], [True, True], 2).tied


def test_known_averages():
    perfect = precision_recall_curve([0.9, 0.8], [True, True], 2)
    assert [average_precision(perfect, kind) for kind in KINDS] == [1, 1, 1]
    half = precision_recall_curve([0.9], [True], 2)
    assert average_precision(half) == 1 / 2
    assert average_precision(half, "11-point") == pytest.approx(6 / 11)
    assert average_precision(half, "101-point") == pytest.approx(51 / 101)
    nothing = precision_recall_curve([], [], 3)
    assert [average_precision(nothing, kind) for kind in KINDS] == [0, 0, 0]
    undefined = precision_recall_curve([0.5], [False], 0)
    assert np.isnan([average_precision(undefined, kind) for kind in KINDS]).all()


def test_recalls_of_tenths_are_reached_exactly():
    for truths in (10, 20, 30, 70, 100):
        for found in range(1, truths + 1):
            curve = precision_recall_curve(np.ones(found), np.ones(found, bool), truths)
            assert average_precision(curve, "11-point") == pytest.approx((10 * found // truths + 1) / 11)
            assert average_precision(curve, "101-point") == pytest.approx((100 * found // truths + 1) / 101)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    scores, hits = rng.random(30), rng.random(30) < 0.4
    truths = int(hits.sum()) + 5
    curve = precision_recall_curve(scores, hits, truths)

    def best(at):
        return max((p for p, r in zip(curve.precision, curve.recall, strict=True) if r >= at - 1e-9), default=0)

    for kind, steps in (("11-point", 10), ("101-point", 100)):
        expected = sum(best(i / steps) for i in range(steps + 1)) / (steps + 1)
        assert average_precision(curve, kind) == pytest.approx(expected)
    area = sum(best(found / truths) for found in range(1, hits.sum() + 1)) / truths
    assert average_precision(curve) == pytest.approx(area)


def test_area_equals_scikit_learn_where_precision_only_falls():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, hits = np.arange(10, 0, -1), np.array([1, 1, 1, 0, 1, 0, 0, 1, 0, 0])
    curve = precision_recall_curve(scores, hits, 5)
    assert average_precision(curve) == pytest.approx(metrics.average_precision_score(hits, scores))


def test_errors():
    with pytest.raises(UsageError, match="2 scores and 1 hits"):
        precision_recall_curve([0.1, 0.2], [True], 3)
    with pytest.raises(UsageError, match="score 1 is NaN"):
        precision_recall_curve([0.1, float("nan")], [True, False], 3)
    with pytest.raises(UsageError, match="2 hits among 1 truths"):
        precision_recall_curve([0.1, 0.2], [True, True], 1)
    with pytest.raises(UsageError, match="kind is '12-point'"):
        average_precision(precision_recall_curve([], [], 1), "12-point")  # type: ignore[arg-type]
