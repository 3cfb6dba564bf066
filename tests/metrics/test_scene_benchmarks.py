"""Scores of scene benchmarks, by counting pixels."""

import numpy as np
import pytest
import torch

from scenewise.data.readers.ade20k import ADE20K
from scenewise.data.readers.cityscapes import CLASSES as CITYSCAPES_CLASSES
from scenewise.data.readers.cityscapes import Cityscapes
from scenewise.errors import UsageError
from scenewise.metrics.scene_benchmarks import CITYSCAPES, Ade20kScore, CategoryIoU
from scenewise.metrics.table import names
from scenewise.types import Described

CLASSES = tuple(name for _, name, _ in CITYSCAPES_CLASSES)


def fed(metric, pairs, classes):
    for found, truth in pairs:
        metric.update(
            Described(found.shape, semantic=torch.tensor(found), classes=classes), {"semantic": torch.tensor(truth)}
        )
    return metric


def random_pairs(count, classes, seed=0):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        truth = generator.integers(0, classes, (9, 11))
        found = np.where(generator.random((9, 11)) < 0.5, truth, generator.integers(0, classes, (9, 11)))
        yield found, np.where(generator.random((9, 11)) < 0.1, 255, truth)


def test_categories_of_cityscapes():
    """As the benchmark's script counts them: hits within the category, misses and false alarms across its border."""
    pairs = list(random_pairs(3, len(CLASSES)))
    found = fed(CategoryIoU(CLASSES), pairs, CLASSES).compute()["category_iou"]
    wanted = {}
    for name, members in CITYSCAPES.items():
        labels = [CLASSES.index(member) for member in members]
        hits = misses = alarms = 0
        for predicted, truth in pairs:
            for p, t in zip(predicted.flat, truth.flat, strict=True):
                if t == 255:
                    continue
                hits += p in labels and t in labels
                misses += p not in labels and t in labels
                alarms += p in labels and t not in labels
        wanted[name] = hits / (hits + misses + alarms)
    assert found["per_class"] == pytest.approx(wanted)
    assert found["mean"] == pytest.approx(sum(wanted.values()) / len(wanted))


def test_categories_of_ones_own_leave_classes_out():
    metric = CategoryIoU(("a", "b", "c"), categories={"ab": ["a", "b"]})
    fed(metric, [(np.array([[0, 1, 0, 2, 1]]), np.array([[1, 0, 2, 2, 255]]))], ("a", "b", "c"))
    assert metric.compute() == {"category_iou": {"mean": 2 / 3, "per_class": {"ab": 2 / 3}}, "images": 1}


def test_categories_are_checked():
    with pytest.raises(
        UsageError, match="'road' of the categories is no class; the categories are Cityscapes', the classes a, b"
    ):
        CategoryIoU(("a", "b"))
    with pytest.raises(UsageError, match="'a' is in two categories"):
        CategoryIoU(("a", "b"), categories={"x": ["a"], "y": ["a", "b"]})
    with pytest.raises(UsageError, match="can't merge"):
        CategoryIoU(("a",), categories={"x": ["a"]}).merge(CategoryIoU(("a",), categories={"y": ["a"]}))


def test_the_score_of_ade20k():
    classes = ("a", "b", "c", "d")
    truth, found = np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 3]])
    scores = fed(Ade20kScore(classes), [(found, truth)], classes).compute()["ade20k"]
    assert scores["pixel_accuracy"] == pytest.approx(2 / 3)
    assert scores["mean_iou"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert scores["score"] == pytest.approx((2 / 3 + 0.25) / 2)
    nothing = fed(Ade20kScore(classes), [(found, np.full((1, 4), 255))], classes).compute()["ade20k"]
    assert nothing == {"score": None, "pixel_accuracy": None, "mean_iou": None}


def test_merged_counts_are_those_of_all():
    pairs = list(random_pairs(4, len(CLASSES)))
    for make in (lambda: CategoryIoU(CLASSES), lambda: Ade20kScore(CLASSES)):
        whole, one, other = (
            fed(make(), pairs, CLASSES),
            fed(make(), pairs[::2], CLASSES),
            fed(make(), pairs[1::2], CLASSES),
        )
        one.merge(other)
        assert one.compute() == whole.compute()


def test_the_readers_state_them():
    assert set(Cityscapes.benchmarks) | set(ADE20K.benchmarks) <= set(names())
    assert (Cityscapes.benchmarks, ADE20K.benchmarks) == (("categories",), ("ade20k",))
