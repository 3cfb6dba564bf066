"""Depth, normals and flow against loops over pixels in plain Python."""

import math
import statistics

import pytest
import torch

from scenewise.errors import UsageError
from scenewise.metrics.dense import DepthMetrics, FlowMetrics, NormalMetrics
from scenewise.results.prediction import Prediction

SIZE = (5, 7)
NAN = math.nan


def random_depth(seed, unknown=0.2):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(SIZE, generator=generator) * 8 + 0.2
    return depth.masked_fill(torch.rand(SIZE, generator=generator) < unknown, NAN)


def vectors(seed, channels, unknown=0.2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(channels, *SIZE, generator=generator)
    return values.masked_fill(torch.rand(SIZE, generator=generator) < unknown, NAN)


def fed(metric, name, pairs):
    """``metric`` after (prediction, truth) ``pairs``, half of which another process counted."""
    other = type(metric)(**{k: v for k, v in vars(metric).items() if k not in ("sums", "counts")})
    for index, (found, truth) in enumerate(pairs):
        prediction = Prediction(SIZE, (), **{name: found})
        (other if index % 2 else metric).update(prediction, {"image_id": str(index), name: truth})
    metric.merge(other)
    return metric.compute()


def depth_loop(pairs, farthest=math.inf, least=1e-3):
    rows = []
    for found, truth in pairs:
        for d, t in zip(found.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if math.isfinite(t) and t <= farthest and math.isfinite(d):
                rows.append((d, max(d, least), t))
    n = len(rows)
    if not n:
        return None
    logs = [math.log(p) - math.log(t) for _, p, t in rows]
    return {
        "abs_rel": sum(abs(d - t) / t for d, _, t in rows) / n,
        "sq_rel": sum((d - t) ** 2 / t for d, _, t in rows) / n,
        "rmse": math.sqrt(sum((d - t) ** 2 for d, _, t in rows) / n),
        "rmse_log": math.sqrt(sum(x * x for x in logs) / n),
        "log10": sum(abs(math.log10(p) - math.log10(t)) for _, p, t in rows) / n,
        "scale_invariant": math.sqrt(max(0.0, sum(x * x for x in logs) / n - (sum(logs) / n) ** 2)),
        **{
            f"delta{k}": sum(max(p / t, t / p) < 1.25**k for _, p, t in rows) / n
            for k in (1, 2, 3)
        },
    }  # fmt: skip


@pytest.mark.parametrize("farthest", [math.inf, 6.0])
def test_depth_equals_the_formulas(farthest):
    pairs = [(random_depth(seed, 0.1), random_depth(seed + 10)) for seed in range(3)]
    pairs[0][0][0, 0] = -1.0  # below any depth
    pairs.append((random_depth(5), torch.full(SIZE, NAN)))  # nothing counts
    scores = fed(DepthMetrics(pool="pixel", farthest=farthest), "depth", pairs)
    assert scores["images"] == 4
    coverage = scores["depth"].pop("coverage")
    assert scores["depth"] == pytest.approx(depth_loop(pairs, farthest))
    valid = [(f, t) for found, truth in pairs for f, t in zip(found.flatten(), truth.flatten(), strict=True)
             if t.isfinite() and t <= farthest]  # fmt: skip
    assert coverage == pytest.approx(sum(bool(f.isfinite()) for f, _ in valid) / len(valid))
    by_image = [row for pair in pairs if (row := depth_loop([pair], farthest))]
    scores = fed(DepthMetrics(farthest=farthest), "depth", pairs)["depth"]
    for name in by_image[0]:
        assert scores[name] == pytest.approx(statistics.mean(row[name] for row in by_image))


def test_depth_off_by_a_factor():
    """Twice as far everywhere: known by hand, and nothing for an error that does not see the scale."""
    truth = random_depth(1)
    scores = fed(DepthMetrics(), "depth", [(truth * 2, truth)])["depth"]
    assert scores["abs_rel"] == pytest.approx(1)
    assert scores["rmse_log"] == pytest.approx(math.log(2))
    assert scores["log10"] == pytest.approx(math.log10(2))
    assert scores["scale_invariant"] == pytest.approx(0, abs=1e-6)
    assert (scores["delta3"], scores["coverage"]) == (0, 1)


def test_normals_equal_the_formulas():
    pairs = [(vectors(seed, 3, 0.1) * 3, vectors(seed + 10, 3)) for seed in range(3)]
    angles = []
    for found, truth in pairs:
        for a, b in zip(found.flatten(1).T.tolist(), truth.flatten(1).T.tolist(), strict=True):
            if all(map(math.isfinite, a + b)):
                dot = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
                angles.append(math.degrees(math.acos(min(1.0, max(-1.0, dot)))))
    scores = fed(NormalMetrics(within=(11.25, 60)), "normals", pairs)["normals"]
    assert scores["mean"] == pytest.approx(statistics.mean(angles))
    assert scores["rmse"] == pytest.approx(math.sqrt(statistics.mean(x * x for x in angles)))
    assert scores["median"] == pytest.approx(statistics.median(angles), abs=1e-3)
    assert scores["within_60"] == pytest.approx(sum(x < 60 for x in angles) / len(angles))
    assert 0 < scores["coverage"] < 1
    same = fed(NormalMetrics(), "normals", [(truth, truth) for _, truth in pairs])["normals"]
    assert (same["mean"], same["within_11.25"], same["coverage"]) == (0, 1, 1)
    assert same["median"] == pytest.approx(0, abs=1e-3)


def test_flow_equals_the_formulas():
    pairs = [(vectors(seed, 2, 0.1) * 9, vectors(seed + 10, 2) * 40) for seed in range(2)]
    errors, outliers = [], 0
    for found, truth in pairs:
        for a, b in zip(found.flatten(1).T.tolist(), truth.flatten(1).T.tolist(), strict=True):
            if all(map(math.isfinite, a + b)):
                errors.append(math.dist(a, b))
                outliers += errors[-1] > 3 and errors[-1] > 0.05 * math.hypot(*b)
    scores = fed(FlowMetrics(), "flow", pairs)["flow"]
    assert scores["epe"] == pytest.approx(statistics.mean(errors))
    assert scores["outliers"] == pytest.approx(outliers / len(errors))
    truth = torch.full((2, *SIZE), 100.0)
    far = fed(FlowMetrics(), "flow", [(truth + 4, truth)])["flow"]  # 5.7 pixels of 141: less than 5 %
    assert far == {"epe": pytest.approx(4 * math.sqrt(2)), "outliers": 0, "coverage": 1}


def test_nothing_that_counts_and_what_does_not_fit():
    unknown = torch.full(SIZE, NAN)
    scores = fed(DepthMetrics(), "depth", [(unknown + 0, unknown)])
    assert set(scores["depth"].values()) == {None}
    assert set(NormalMetrics().compute()["normals"].values()) == {None}
    assert set(FlowMetrics().compute()["flow"].values()) == {None}
    with pytest.raises(UsageError, match=r"image a: depth is \[5, 7\] in the prediction and \[3, 7\] in the target"):
        DepthMetrics().update(Prediction(SIZE, (), depth=unknown), {"image_id": "a", "depth": torch.ones(3, 7)})
    with pytest.raises(UsageError, match=r"image a: the target has no flow; expected \[2,H,W\] in pixels"):
        FlowMetrics().update(Prediction(SIZE, (), flow=torch.zeros(2, *SIZE)), {"image_id": "a"})
    with pytest.raises(UsageError, match="pool is 'images'; expected image or pixel"):
        DepthMetrics(pool="images")
    with pytest.raises(UsageError, match="expected 0 < nearest < farthest"):
        DepthMetrics(nearest=5, farthest=2)
    with pytest.raises(UsageError, match="can't merge depth scores"):
        DepthMetrics().merge(DepthMetrics(pool="pixel"))
