"""RetinaNet equals torchvision's with the same weights, and each of its options trains and predicts."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor

from scenewise.catalog import build
from scenewise.engine.predict import Predictor, predict
from scenewise.errors import UsageError
from scenewise.losses.focal import sigmoid_focal
from scenewise.metrics.coco import CocoMetrics
from scenewise.ops.boxes import box_iou
from scenewise.ops.matching import HardExamples
from scenewise.weights.transfer import ClassAxis, class_layers, transfer
from tests.systems import small as rows
from tests.systems.detection.learning import SHAPES, learned
from tests.systems.options import scenes_batch, trains_and_predicts
from tests.systems.torchvision_twins import assert_same_detections, both_losses, photographs, reference, row_of, twin

NAME = "retinanet"
SMALL = rows.SMALL[NAME]


def small(**options):
    torch.manual_seed(0)
    return build(NAME, ("a", "b", *"cdefghi"), **{**SMALL, **options})


@pytest.mark.parametrize("name", [NAME, f"{NAME}_v2"])
@torch.no_grad()
def test_a_photograph_end_to_end(name):
    """Resizing, folded batch-norms, all levels, suppression and the way back; 300 boxes are found."""
    image = photographs()[0]
    assert_same_detections(name, reference(name)([image / 255])[0], predict(twin(name), image))


@torch.no_grad()
def test_a_padded_batch():
    """Of boxes that lie outside their image torchvision returns what is left at its border, without area; we do not."""
    china, flower = photographs()
    images = [china[:, :400, :500], flower[:, :330]]
    theirs, ours = copy.deepcopy(reference(NAME)), copy.deepcopy(twin(NAME))
    theirs.detections_per_img, ours.detections = 5000, dataclasses.replace(ours.detections, count=5000)
    for one, expected in zip(Predictor(ours)(images), theirs([image / 255 for image in images]), strict=True):
        x1, y1, x2, y2 = expected["boxes"].unbind(1)
        inside = (x2 - x1 > 0.021) & (y2 - y1 > 0.021)  # a hundredth of a pixel as the network sees it
        assert len(one) == inside.sum()
        best = {key: value[inside][:50] for key, value in expected.items()}  # further down scores are nearly equal
        assert_same_detections(NAME, best, one[:50])


@pytest.mark.parametrize(
    ("name", "with_objects"),
    [(NAME, (True, True)), (NAME, (True, False)), (NAME, (False, False)), (f"{NAME}_v2", (True, False))],
)
def test_losses(name, with_objects):
    """The terms differ by the order of their sums; in the second version the box loss is GIoU."""
    found, expected = both_losses(name, with_objects)
    assert found.keys() == expected.keys() == {"class", "box"}
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value, rtol=1e-4, atol=1e-5, msg=lambda m, term=term: f"{term}: {m}")


OPTIONS = {
    "coarser maps from the pyramid": {"features": {"channels": 16, "coarser": "p5"}},
    "group-norms": {"head": {"convs": 2, "norm": "group", "channels": 24}},
    "cross-entropy": {"alpha": None, "gamma": 0.0},
    "balanced cross-entropy": {"alpha": 0.75, "gamma": 0.0},
    "OHEM": {"alpha": None, "gamma": 0.0, "hard_examples": {"count": 32, "nms_iou": 0.7}},
    "OHEM 1:3": {"alpha": None, "gamma": 0.0, "hard_examples": {"count": 32}, "negatives_per_positive": 3.0},
    "GIoU": {"box_loss": "giou"},
    "L1": {"box_loss": "l1"},
    "L2": {"box_loss": "l2", "box_weight": 0.5},
    "soft suppression": {"detections": {"nms": "soft-gaussian", "count": 5, "score": 0.005}},
    "MobileNet": {"backbone": "mobilenetv3_small_050"},
    "ResNet-D, bottom-up": {"backbone": "resnet10t", "features": {"channels": 16, "pathway": "bottom-up"}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    terms, found = trains_and_predicts(small(**OPTIONS[name]))
    assert set(terms) == {"class", "box"}
    assert found.boxes.shape == (len(found.boxes), 4)


def test_the_papers_defaults():
    """Sec. 4: P3 to P7 of 256 channels, nine anchors from 32 pixels on, four convolutions, the prior of 0.01."""
    with torch.device("meta"):
        model = build(NAME, ["a", "b"])
    assert model.strides == (8, 16, 32, 64, 128)
    assert model.per_cell == 9
    assert model.anchors.sizes[0] == pytest.approx((32, 40.32, 50.8), abs=0.01)
    assert model.features.pyramid.coarser[0].weight.shape == (256, 2048, 3, 3)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model.class_tower) == 4
    assert model.class_logits.weight.shape == (18, 256, 3, 3)
    assert (model.alpha, model.gamma) == (0.25, 2.0)


@torch.no_grad()
def test_every_class_begins_at_the_prior():
    """So that the loss of a hundred thousand background anchors is small at first; with 0.5 it would be 70 times it."""
    model = small(head={"convs": 1, "prior": 0.01})
    shares = torch.cat([x.flatten() for x in model._score(scenes_batch()).logits]).sigmoid()
    assert shares.mean() == pytest.approx(0.01, rel=0.1)
    with pytest.raises(UsageError, match=r"head: prior is 1\.0; expected a probability above 0 and below 1"):
        small(head={"prior": 1.0})


def class_loss_by_loops(model, batch) -> float:
    """Sec. 3.2 and 4.1, anchor by anchor and class by class."""
    scored = model._score(batch)
    anchors, total = torch.cat(scored.anchors), 0.0
    logits = torch.cat([x.permute(0, 1, 3, 2).flatten(1, 2) for x in scored.logits], 1).double()  # [N,A,C]
    for row, truth in enumerate(batch.targets):
        iou = box_iou(truth["boxes"], anchors)
        image, positives = 0.0, 0
        for a in range(len(anchors)):
            best = int(iou[:, a].argmax())
            forced = any(iou[g, a] > 0 and iou[g, a] == iou[g].max() for g in range(len(iou)))
            is_object = bool(iou[best, a] >= 0.5 or forced)
            positives += is_object
            if not is_object and iou[best, a] >= 0.4:
                continue
            for c in range(len(model.classes)):
                y = is_object and int(truth["labels"][best]) == c
                p = 1 / (1 + math.exp(-float(logits[row, a, c])))
                p_t, alpha_t = (p, model.alpha) if y else (1 - p, 1 - model.alpha)
                image -= alpha_t * (1 - p_t) ** model.gamma * math.log(p_t)
        total += image / max(1, positives)
    return total / len(batch.targets)


@torch.no_grad()
def test_the_class_loss_is_that_of_a_loop():
    model = small(anchors={"sizes": [[16], [24], [48], [64], [96]], "ratios": [1.0]}, alpha=0.3, gamma=1.5)
    batch = scenes_batch()
    expected = class_loss_by_loops(model, batch)
    assert float(model.losses(batch)["class"]) == pytest.approx(expected, rel=1e-4)


def test_easy_negatives_have_little_of_the_gradient_under_the_focal_loss():
    """Sec. 3.1 and the lecture's 10,000 negatives against 10 positives, all of them right with 0.8: under cross-entropy
    the negatives have 99.9 % of the gradient, under the focal loss hard positives outweigh them."""
    share = {}
    for name, gamma in (("cross-entropy", 0.0), ("focal", 2.0)):
        logits = torch.cat([torch.full((10_000,), -4.6), torch.full((10,), -1.4)]).requires_grad_()  # 0.99, 0.2
        target = torch.cat([torch.zeros(10_000), torch.ones(10)])
        (gradient,) = torch.autograd.grad(sigmoid_focal(logits, target, alpha=None, gamma=gamma).sum(), logits)
        share[name] = float(gradient[:10_000].abs().sum() / gradient.abs().sum())
    assert share["cross-entropy"] > 0.9
    assert share["focal"] < 0.01


def test_hard_examples_are_those_of_the_largest_loss():
    model = small(hard_examples=HardExamples(4), negatives_per_positive=None)
    losses = torch.arange(20.0)
    anchors = torch.tensor([[10.0 * i, 0, 10.0 * i + 9, 9] for i in range(20)])
    positive = torch.zeros(20, dtype=torch.bool)
    positive[[3, 19]] = True
    assert model._hard(losses, positive, anchors).tolist() == [19, 18, 17, 16]
    model.negatives_per_positive = 3.0
    assert model._hard(losses, positive, anchors).tolist() == [19, 18, 17, 16]  # one object, three of background
    model.hard_examples = HardExamples(8)
    assert model._hard(losses, positive, anchors).tolist() == [19, 3, 18, 17, 16, 15, 14, 13]
    model.hard_examples, model.negatives_per_positive = HardExamples(3, nms_iou=0.5), None
    anchors[18] = anchors[19]
    assert model._hard(losses, positive, anchors).tolist() == [19, 17, 16]
    with pytest.raises(UsageError, match="negatives_per_positive is a part of online hard example mining"):
        small(negatives_per_positive=3.0)


@torch.no_grad()
def test_candidates_are_the_best_of_each_level():
    """Against the plain way: all scores with their class and anchor, in a list."""
    model = small(detections={"score": 0.0})
    model.candidates = 7
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, model.per_cell, generator=generator)
    deltas = torch.randn(6 * model.per_cell, 4, generator=generator)
    anchors = torch.rand(6 * model.per_cell, 4, generator=generator)
    found: tuple[Tensor, ...] = model._best(logits, deltas, anchors)
    listed = [
        (float(logits[cell, c, slot]), c, cell * model.per_cell + slot)
        for cell in range(6)
        for c in range(9)
        for slot in range(model.per_cell)
    ]
    for i, (score, c, place) in enumerate(sorted(listed, reverse=True)[:7]):
        assert float(found[0][i]) == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-6)
        assert int(found[1][i]) == c
        assert torch.equal(found[2][i], deltas[place])
        assert torch.equal(found[3][i], anchors[place])


def test_the_rows_of_a_class_lie_together():
    layers = class_layers(small())
    assert layers == {f"class_logits.{part}": (ClassAxis(0, small().per_cell, 0),) for part in ("weight", "bias")}


def test_fine_tuning_on_other_classes_keeps_the_rows_of_those_that_both_have():
    """Persons are in both and keep their rows of all nine anchors; cells are new."""
    other, row = twin(NAME), row_of(NAME)
    model = build(NAME, ("cell", "person"), **row.arguments)
    before = model.class_logits.weight[:9].clone()
    done = transfer(model, other, "published")
    assert (done.carried, done.new) == (("person",), ("cell",))
    assert torch.equal(model.class_logits.weight[:9], before)
    assert torch.equal(model.class_logits.weight[9:], other.class_logits.weight[:9])
    assert torch.equal(model.box_deltas.weight, other.box_deltas.weight)


def test_crowds_are_not_background():
    """Anchors within a crowd cost nothing, whatever they score."""
    model, batch = small(), scenes_batch(2)
    whole = torch.tensor([[0.0, 0.0, 128.0, 96.0]])
    none, crowd = batch.targets[0].copy(), batch.targets[0].copy()
    none |= {"boxes": whole[:0], "labels": torch.zeros(0, dtype=torch.int64), "ignore": torch.zeros(0).bool()}
    crowd |= {"boxes": whole, "labels": torch.zeros(1, dtype=torch.int64), "ignore": torch.ones(1).bool()}
    losses = []
    for target in (none, crowd):
        batch.targets = [target]
        losses.append(float(model.losses(batch)["class"].detach()))
    assert losses[1] < 0.5 * losses[0]


def test_errors():
    with pytest.raises(UsageError, match="anchors: sizes has 2 entries; expected 5, one for each map"):
        small(anchors={"sizes": [[32], [64]]})
    with pytest.raises(UsageError, match=r"head: negative_iou is 0\.6, above positive_iou, 0\.5; expected no more"):
        small(head={"negative_iou": 0.6})


def test_it_learns_to_find_figures():
    """Measured when this was written: 0.83."""
    options = SMALL | {"features": {"channels": 16, "frozen_norm": False}}
    before, after = learned(NAME, CocoMetrics(SHAPES, ("box",)), 120, **options)
    assert before["box"]["AP50"] < 0.05
    assert after["box"]["AP50"] > 0.5
