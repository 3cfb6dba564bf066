"""VocMetrics against a loop written after the rules, and its corner cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scenewise.errors import UsageError
from scenewise.metrics.voc import VocMetrics
from scenewise.results.prediction import Prediction


def slow_ap(images, label, threshold, one):
    """AP by area and by 11 points of one class: one detection after the other, each asking one truth."""
    queue, taken, count = [], set(), 0
    for number, (prediction, target) in enumerate(images):
        count += sum(int(t) == label and not bool(i) for t, i in zip(target["labels"], target["ignore"], strict=True))
        for row in range(len(prediction)):
            if int(prediction.labels[row]) == label:
                queue.append((-float(prediction.scores[row]), number, row))
    outcomes = []
    for _, number, row in sorted(queue):
        prediction, target = images[number]
        a = prediction.boxes[row].tolist()
        best, claimed = -1.0, None
        for place, b in enumerate(target["boxes"].tolist()):
            if int(target["labels"][place]) != label:
                continue
            w = min(a[2], b[2]) - max(a[0], b[0]) + one
            h = min(a[3], b[3]) - max(a[1], b[1]) + one
            inside = w * h if w > 0 and h > 0 else 0
            areas = sum((c[2] - c[0] + one) * (c[3] - c[1] + one) for c in (a, b))
            overlap = inside / (areas - inside) if areas > inside else 0.0
            if overlap > best:
                best, claimed = overlap, place
        if best <= threshold:
            outcomes.append(False)
        elif not target["ignore"][claimed]:
            outcomes.append((number, claimed) not in taken)
            taken.add((number, claimed))
    if not count:
        return None, None
    points, hits = [], 0
    for seen, hit in enumerate(outcomes, 1):
        hits += hit
        points.append((hits / count, hits / seen))

    def best_from(recall):
        return max((p for r, p in points if r >= recall - 1e-9), default=0.0)

    area = sum(best_from(k / count) for k in range(1, hits + 1)) / count
    return area, sum(best_from(k / 10) for k in range(11)) / 11


def random_images(seed, count=12, scores=8):
    rng = np.random.default_rng(seed)
    images = []
    for number in range(count):
        truths, found = (int(n) * int(rng.random() > 0.15) for n in rng.integers(0, 7, 2))
        boxes = _boxes(rng, truths)
        guesses = _boxes(rng, found)
        for row in range(found):
            if truths and rng.random() < 0.8:
                guesses[row] = boxes[rng.integers(truths)] + torch.from_numpy(rng.integers(-2, 3, 4))
        guesses[:, 2:] = torch.maximum(guesses[:, 2:], guesses[:, :2])
        target = {
            "image_id": f"{number:03}",
            "boxes": boxes,
            "labels": torch.from_numpy(rng.integers(0, 2, truths)),
            "ignore": torch.from_numpy(rng.random(truths) < 0.2),
        }
        labels = torch.from_numpy(rng.integers(0, 2, found))
        values = torch.from_numpy(rng.integers(0, scores, found) / scores)
        images.append((Prediction((40, 40), ("a", "b", "c"), boxes=guesses, labels=labels, scores=values), target))
    return images


def _boxes(rng, count):
    corners = torch.from_numpy(rng.integers(0, 20, (count, 2))).float()
    return torch.cat([corners, corners + torch.from_numpy(rng.integers(0, 16, (count, 2)))], 1)


def measure(images, **options):
    metrics = VocMetrics(("a", "b", "c"), **options)
    for prediction, target in images:
        metrics.update(prediction, target)
    return metrics


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_slow_loop(seed, plus_one):
    images = random_images(seed)
    threshold = (0.5, 0.3)[seed % 2]
    scores = measure(images, iou_threshold=threshold, plus_one=plus_one).compute()["voc"]
    expected = [slow_ap(images, label, threshold, int(plus_one)) for label in range(3)]
    for name, (area, points) in zip("abc", expected, strict=True):
        row = scores["per_class"][name]
        assert row["AP"] == (None if area is None else pytest.approx(area))
        assert row["AP11"] == (None if points is None else pytest.approx(points))
    assert scores["AP"] == pytest.approx(math.fsum(a for a, _ in expected if a is not None) / 2)
    assert scores["per_class"]["c"] == {"AP": None, "AP11": None, "truths": 0}  # left out of the mean


def one_class(boxes, truths, ignore=None, scores=None):
    count = len(boxes)
    prediction = Prediction(
        (50, 50),
        ("a",),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(count).long(),
        scores=torch.tensor(scores or list(range(count, 0, -1))) / (count + 1),
    )
    target = {"boxes": torch.tensor(truths, dtype=torch.float32).reshape(-1, 4)}
    target |= {"labels": torch.zeros(len(truths)).long()}
    if ignore is not None:
        target["ignore"] = torch.tensor(ignore)
    metrics = VocMetrics(("a",))
    metrics.update(prediction, target)
    return metrics.compute()["voc"]


A, B = [0, 0, 10, 10], [20, 20, 40, 40]


def test_known_vectors():
    assert one_class([A, B], [A, B])["AP"] == 1
    assert one_class([A, B], [A, B])["AP11"] == pytest.approx(1)
    assert one_class([A], [A, B])["AP"] == 0.5
    assert one_class([A], [A, B])["AP11"] == pytest.approx(6 / 11)
    assert one_class([], [A])["AP"] == 0
    assert one_class([A], [])["AP"] is None


def test_an_iou_of_exactly_one_half_is_no_match():
    assert one_class([[0, 0, 10, 5]], [A])["AP"] == 0
    assert one_class([[0, 0, 10, 5.1]], [A])["AP"] == 1


def test_a_detection_looks_at_its_best_truth_even_if_that_is_taken():
    near = [0, 0, 10, 7]
    assert one_class([A, [0, 0, 10, 9.5]], [A, near])["AP"] == 0.5  # the second overlaps both, A more


def test_difficult_truths_count_neither_way():
    assert one_class([B, B, A], [A, B], ignore=[False, True])["AP"] == 1
    assert one_class([B], [B], ignore=[True])["AP"] is None


def test_continuous_corners_give_the_files_numbers_without_plus_one():
    images = random_images(3)
    inclusive = [(_shift(p), {**t, "boxes": t["boxes"] + torch.tensor([0, 0, -1.0, -1])}) for p, t in _wide(images)]
    assert measure(_wide(images)).compute() == measure(inclusive, plus_one=True).compute()


def _wide(images):
    """The images with each box a pixel wider and higher, so that none is without area."""
    more = torch.tensor([0, 0, 1.0, 1])
    return [(_shift(p, 1), {**t, "boxes": t["boxes"] + more}) for p, t in images]


def _shift(prediction, by=-1):
    import dataclasses

    return dataclasses.replace(prediction, boxes=prediction.boxes + torch.tensor([0, 0, by, by]))


def test_merging_equals_counting_at_once_in_any_order():
    images = random_images(1, scores=2)
    whole = measure(images).compute()
    first, second = measure(images[1::2][::-1]), measure(images[::2])
    first.merge(second)
    assert first.compute() == whole
    with pytest.raises(UsageError, match="can't merge"):
        first.merge(VocMetrics(("a", "b", "c"), plus_one=True))


def test_errors():
    with pytest.raises(UsageError, match="iou_threshold is 1"):
        VocMetrics(("a",), iou_threshold=1)
    with pytest.raises(UsageError, match="image 000: the prediction has no boxes"):
        VocMetrics(("a",)).update(
            Prediction((4, 4), ("a",), labels=torch.zeros(0).long(), scores=torch.zeros(0)), {"image_id": "000"}
        )
