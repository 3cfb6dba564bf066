"""Counts and scores against the sheet's golden example, brute force, scikit-learn and torchmetrics."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from scenewise.errors import UsageError
from scenewise.metrics import Metric
from scenewise.metrics.segmentation import ClassScores, ConfusionMatrix, ImageMeans, SegmentationMetrics, class_mean
from scenewise.results.prediction import Prediction
from scenewise.types import IGNORE

V = IGNORE
GOLDEN_TRUTH = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, V, 1]])
GOLDEN_PREDICTION = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0], [2, 1, 2, 1]])


def predicted(semantic, classes=("a", "b", "c")):
    return Prediction(size=tuple(semantic.shape), classes=tuple(classes), semantic=semantic)


def random_maps(seed, classes=6, size=(9, 13), only=None):
    """A prediction and a truth with void; classes 3 and beyond are absent where ``only`` is 3."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, only or classes, size, generator=generator)
    prediction = torch.randint(0, only or classes, size, generator=generator)
    truth[torch.rand(size, generator=generator) < 0.2] = V
    return prediction, truth


def test_golden():
    metric = SegmentationMetrics(["a", "b", "c"])
    metric.update(predicted(GOLDEN_PREDICTION), {"semantic": GOLDEN_TRUTH})
    assert metric.confusion.counts.tolist() == [[3, 1, 0], [1, 4, 0], [0, 1, 1]]
    scores = metric.compute()
    assert scores["pixel_accuracy"] == pytest.approx(8 / 11)
    assert scores["mean_accuracy"] == pytest.approx((0.75 + 0.8 + 0.5) / 3)
    assert scores["mean_iou"] == pytest.approx(0.557143, abs=1e-6)
    assert scores["frequency_weighted_iou"] == pytest.approx(0.568831, abs=1e-6)
    assert [c["iou"] for c in scores["per_class"].values()] == pytest.approx([0.6, 4 / 7, 0.5])
    assert [c["accuracy"] for c in scores["per_class"].values()] == pytest.approx([0.75, 0.8, 0.5])
    assert [c["pixels"] for c in scores["per_class"].values()] == [4, 5, 2]
    assert (scores["images"], scores["pixels"]) == (1, 11)
    assert metric.confusion.dice().tolist() == pytest.approx([0.75, 8 / 11, 2 / 3])


@pytest.mark.parametrize("only", [None, 3, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counts_equal_brute_force_and_sklearn(only, dtype):
    prediction, truth = random_maps(0, only=only)
    matrix = ConfusionMatrix(6)
    matrix.update(prediction.to(dtype), truth.to(dtype))
    expected = [[0] * 6 for _ in range(6)]
    for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if t != V:
            expected[t][p] += 1
    assert matrix.counts.tolist() == expected
    kept = truth != V
    assert matrix.counts.tolist() == confusion_matrix(truth[kept], prediction[kept], labels=range(6)).tolist()


@pytest.mark.parametrize("only", [None, 3])
def test_scores_equal_torchmetrics_and_sklearn(only):
    metric = SegmentationMetrics("abcdef")
    options = {"num_classes": 6, "ignore_index": V}
    matrix = MulticlassConfusionMatrix(**options)
    jaccard = MulticlassJaccardIndex(**options, average="macro")
    pixel, mean = MulticlassAccuracy(**options, average="micro"), MulticlassAccuracy(**options, average="macro")
    for seed in range(3):
        prediction, truth = random_maps(seed, only=only)
        metric.update(predicted(prediction, "abcdef"), {"semantic": truth})
        for reference in (matrix, jaccard, pixel, mean):
            reference.update(prediction, truth)
    scores = metric.compute()
    assert torch.equal(metric.confusion.counts, matrix.compute())
    # torchmetrics divides in float32
    assert scores["mean_iou"] == pytest.approx(jaccard.compute().item(), abs=1e-6)
    assert scores["pixel_accuracy"] == pytest.approx(pixel.compute().item(), abs=1e-6)
    assert scores["mean_accuracy"] == pytest.approx(mean.compute().item(), abs=1e-6)
    kept = truth != V
    last = ConfusionMatrix(6)
    last.update(prediction, truth)
    reference = jaccard_score(truth[kept], prediction[kept], labels=range(only or 6), average=None)
    np.testing.assert_allclose(last.iou()[: only or 6], reference, rtol=1e-12)


def test_identities():
    prediction, truth = random_maps(1, size=(40, 40))
    h = ConfusionMatrix(6)
    h.update(prediction, truth)
    precision, recall, iou = h.precision(), h.accuracy(), h.iou()
    torch.testing.assert_close(h.dice(), 2 * precision * recall / (precision + recall))
    torch.testing.assert_close(h.dice(), 2 * iou / (1 + iou))
    assert (iou <= torch.minimum(precision, recall)).all()


def test_absent_classes():
    truth, prediction = torch.tensor([[0, 0, 1, V]]), torch.tensor([[0, 2, 1, 4]])
    h = ConfusionMatrix(5)
    h.update(prediction, truth)
    iou = h.iou().tolist()
    assert iou[:3] == [0.5, 1.0, 0.0]  # called but without truth: 0, not undefined
    assert all(math.isnan(v) for v in iou[3:])  # called 4 on void alone
    assert math.isnan(h.accuracy()[2])
    assert h.frequency_weighted_iou() == pytest.approx((2 * 0.5 + 1 * 1.0) / 3)
    assert [class_mean(h.iou(), policy) for policy in ("nan_skip", "zero", "one")] == [0.5, 0.3, 0.7]


def test_policies_and_background_reach_compute():
    target = {"semantic": torch.tensor([[0, 0, 1, V]])}
    made = predicted(torch.tensor([[0, 2, 1, 4]]), "abcde")

    def score(**options):
        metric = SegmentationMetrics("abcde", **options)
        metric.update(made, target)
        return metric.compute()

    assert score()["per_class"]["d"] == {"iou": None, "accuracy": None, "pixels": 0}
    assert score(absent="zero")["mean_accuracy"] == pytest.approx((0.5 + 1) / 5)
    assert score(absent="one")["mean_iou"] == pytest.approx(0.7)
    assert score(background=False)["mean_iou"] == pytest.approx(0.5)  # of 1.0 and 0.0
    assert score(background=False)["mean_accuracy"] == 1.0


@pytest.mark.parametrize("truth", [torch.full((2, 3), V), torch.zeros(0, 5, dtype=torch.int64)])
def test_nothing_counted(truth):
    metric = SegmentationMetrics(["a", "b"])
    metric.update(predicted(torch.zeros_like(truth)), {"semantic": truth})
    scores = metric.compute()
    assert scores["images"] == 1
    assert scores["pixels"] == 0
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert scores[name] is None
    json.dumps(scores, allow_nan=False)


def test_values_outside_the_classes_do_not_count():
    h = ConfusionMatrix(3)
    h.update(torch.tensor([0, 1, 2, 99]), torch.tensor([-1, 3, 2, V]))  # 99 on void is nobody's business
    assert h.counts.sum() == 1


def test_order_and_split_do_not_matter():
    maps = [random_maps(seed) for seed in range(4)]
    whole, left, right = (SegmentationMetrics("abcdef") for _ in range(3))
    for index, (prediction, truth) in enumerate(maps):
        for metric in (whole, right if index % 2 else left):
            metric.update(predicted(prediction, "abcdef"), {"semantic": truth})
    protocol: Metric = right
    protocol.merge(copy.deepcopy(left))
    assert protocol.compute() == whole.compute()
    joined = ConfusionMatrix(6)
    joined.update(torch.stack([p for p, _ in maps]), torch.stack([t for _, t in maps]))
    assert torch.equal(joined.counts, whole.confusion.counts)


def test_result_is_plain_python():
    metric = SegmentationMetrics(["a", "b", "c"])
    metric.update(predicted(GOLDEN_PREDICTION), {"semantic": GOLDEN_TRUTH})
    scores = metric.compute()
    assert json.loads(json.dumps(scores)) == scores
    assert type(scores["mean_iou"]) is float
    assert type(scores["pixels"]) is int


def test_more_than_256_classes():
    h = ConfusionMatrix(300)
    h.update(torch.tensor([299, 255]), torch.tensor([299, IGNORE]))
    assert h.counts[299, 299] == 1
    assert h.counts.sum() == 1


def test_errors():
    metric = SegmentationMetrics(["a", "b", "c"])
    semantic = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"image 7.png: the target has no semantic; expected"):
        metric.update(predicted(semantic), {"image_id": "7.png"})
    with pytest.raises(UsageError, match=r"image 7.png: the prediction has no semantic; expected"):
        metric.update(Prediction(size=(2, 3), classes=("a",)), {"image_id": "7.png", "semantic": semantic})
    with pytest.raises(
        UsageError, match=r"image 7.png: semantic is \[2, 3\] in the prediction and \[3, 2\] in the target"
    ):
        metric.update(predicted(semantic), {"image_id": "7.png", "semantic": semantic.T})
    with pytest.raises(UsageError, match=r"prediction has the value 3; expected 0 to 2"):
        metric.update(predicted(semantic + 3), {"semantic": semantic})
    with pytest.raises(UsageError, match=r"prediction has the value -1; expected 0 to 2"):
        metric.update(predicted(semantic - 1), {"semantic": semantic})
    with pytest.raises(UsageError, match=r"prediction is torch.float32; expected integers"):
        metric.update(predicted(semantic.float()), {"semantic": semantic})
    assert metric.images == 0
    with pytest.raises(UsageError, match=r"absent is 'skip'; expected one of nan_skip, zero, one"):
        SegmentationMetrics(["a"], absent="skip")
    with pytest.raises(UsageError, match="can't merge the counts of 2 classes into those of 3"):
        metric.confusion.merge(ConfusionMatrix(2))
    with pytest.raises(UsageError, match=r"can't merge the scores of the classes \('a', 'c', 'b'\)"):
        metric.merge(SegmentationMetrics(["a", "c", "b"]))


# ---- means over images


@pytest.mark.parametrize("score", ["iou", "dice", "accuracy"])
def test_image_means_equal_loop(score):
    maps = [random_maps(seed, only=3 if seed % 2 else None) for seed in range(4)]
    maps.append((torch.zeros(3, 3, dtype=torch.int64), torch.full((3, 3), V)))  # nothing counts
    metric, other = ImageMeans("abcdef", score=score), ImageMeans("abcdef", score=score)
    by_image, pairs = [], []
    for index, (prediction, truth) in enumerate(maps):
        (other if index % 2 else metric).update(predicted(prediction, "abcdef"), {"semantic": truth})
        values = []
        for label in range(6):
            p, t = (prediction == label) & (truth != V), truth == label
            hit, union = int((p & t).sum()), int((p | t).sum())
            above, below = {
                "iou": (hit, union),
                "dice": (2 * hit, int(p.sum() + t.sum())),
                "accuracy": (hit, int(t.sum())),
            }[score]
            if below:
                values.append(above / below)
        pairs += values
        if values:
            by_image.append(sum(values) / len(values))
    metric.merge(other)
    assert metric.compute() == {
        f"image_{score}": {
            "mean": pytest.approx(sum(by_image) / 4),
            "pairs": pytest.approx(sum(pairs) / len(pairs)),
        },
        "images": 5,
    }


def test_image_means_of_nothing_and_errors():
    assert ImageMeans("ab").compute() == {"image_iou": {"mean": None, "pairs": None}, "images": 0}
    with pytest.raises(UsageError, match="score is 'f1'; expected iou, dice or accuracy"):
        ImageMeans("ab", score="f1")
    with pytest.raises(UsageError, match=r"can't merge the dice of \('a', 'b'\) into the iou of \('a', 'b'\)"):
        ImageMeans("ab").merge(ImageMeans("ab", score="dice"))


@pytest.mark.parametrize(("score", "formula"), [("dice", lambda i: 2 * i / (1 + i)), ("iou", lambda i: i)])
def test_further_scores_of_each_class(score, formula):
    """Dice is a function of IoU."""
    metric, whole = ClassScores("abc", score=score), SegmentationMetrics("abc")
    for seed in range(3):
        prediction, truth = random_maps(seed, classes=3)
        for one in (metric, whole):
            one.update(predicted(prediction, "abc"), {"semantic": truth})
    found, usual = metric.compute(), whole.compute()
    expected = {name: pytest.approx(formula(row["iou"])) for name, row in usual["per_class"].items()}
    assert found == {score: {"mean": pytest.approx(sum(found[score]["per_class"].values()) / 3), "per_class": expected},
                     "images": 3}  # fmt: skip


def test_precision_and_recall_change_places_with_truth_and_prediction():
    prediction, truth = random_maps(4, classes=3)
    truth[truth == V] = 0
    precision, recall = ClassScores("abc", score="precision"), ClassScores("abc", score="accuracy")
    precision.update(predicted(prediction, "abc"), {"semantic": truth})
    recall.update(predicted(truth, "abc"), {"semantic": prediction})
    assert precision.compute()["precision"] == recall.compute()["accuracy"]
    with pytest.raises(UsageError, match="score is 'f1'; expected dice, precision, accuracy or iou"):
        ClassScores("ab", score="f1")
