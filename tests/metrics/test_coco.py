"""CocoMetrics: pycocotools' numbers to the last bit, errors that name the image, and merging."""

from __future__ import annotations

import copy
import json
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from scenewise.errors import UsageError
from scenewise.metrics.coco import COCO_SIGMAS, OTHER_SIGMA, CocoMetrics, best_of_each_class, evaluate
from scenewise.metrics.proposals import ProposalMetrics
from scenewise.results.prediction import Prediction
from tests.metrics.coco_oracle import measured, random_case, reference, samples

KINDS = ("box", "mask", "keypoints")
NAMES = {
    "box": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}


def stats(kind, run):
    values = [None if v == -1 else float(v) for v in run.stats]
    return dict(zip(NAMES["keypoints" if kind == "keypoints" else "box"], values, strict=True))


def assert_equal(dataset, results, *, kinds=KINDS, points=17, sigmas=None):
    """Every precision and recall is pycocotools', bit for bit; so are the scores."""
    classes = tuple(c["name"] for c in dataset["categories"])
    metrics = measured(classes, kinds, samples(dataset, results, points), sigmas=sigmas)
    scores = metrics.compute()
    assert scores["images"] == len(dataset["images"])
    for kind in kinds:
        default = COCO_SIGMAS if points == 17 else (OTHER_SIGMA,) * points
        run = reference(kind, dataset, results, sigmas=np.array(sigmas or default))
        precision, recall = evaluate(kind, metrics.images, len(classes), sigmas=sigmas)
        np.testing.assert_array_equal(precision, run.eval["precision"])
        np.testing.assert_array_equal(recall, run.eval["recall"])
        assert {k: v for k, v in scores[kind].items() if k != "per_class"} == stats(kind, run)
        for label, name in enumerate(classes):
            own = run.eval["precision"][:, :, label, 0, -1]
            expected = own[own > -1].mean() if (own > -1).any() else None
            assert scores[kind]["per_class"][name]["AP"] == expected
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_random_cases(seed):
    assert_equal(*random_case(seed, scores=(None, 4, 1)[seed % 3]))


def test_equals_pycocotools_beyond_100_detections():
    assert_equal(*random_case(3, images=2, classes=1, most=400, scores=7), kinds=("box", "mask"))
    assert_equal(*random_case(4, images=2, classes=1, most=400, scores=7), kinds=("keypoints",))


def test_equals_pycocotools_with_other_keypoints():
    assert_equal(*random_case(5, points=4), points=4, kinds=("keypoints",))
    assert_equal(*random_case(5, points=4), points=4, kinds=("keypoints",), sigmas=(0.1, 0.02, 0.5, 0.05))


def test_nothing_found_and_nothing_there():
    dataset, results = random_case(6)
    assert_equal(dataset, [])
    assert_equal({**dataset, "annotations": []}, results)
    empty = CocoMetrics(("a", "b")).compute()
    assert empty["images"] == 0
    assert empty["mask"]["AP"] is None
    assert empty["keypoints"]["AR"] is None
    assert empty["box"]["per_class"]["b"] == {"AP": None, "AP50": None, "truths": 0}


def perturbed(dataset, rng):
    """Detections made of the truths: moved, some lost, some doubled, some of another class; scores often equal."""
    from pycocotools import mask as mask_api

    sizes = {i["id"]: (i["height"], i["width"]) for i in dataset["images"]}
    ids = [c["id"] for c in dataset["categories"]]
    results = []
    for truth in dataset["annotations"]:
        height, width = sizes[truth["image_id"]]
        code = truth["segmentation"]
        code = mask_api.frPyObjects(code, height, width)
        mask = mask_api.decode(mask_api.merge(code) if isinstance(code, list) else code)
        for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
            spread = rng.choice([0.0, 0.02, 0.1])
            box = np.array(truth["bbox"])
            corners = np.concatenate([box[:2], box[:2] + box[2:]]) + rng.normal(0, spread, 4) * np.tile(box[2:], 2)
            corners = np.sort(corners.reshape(2, 2), 0).ravel().astype(np.float32).astype(float)
            shift = tuple(int(v) for v in rng.normal(0, spread, 2) * box[[3, 2]])
            moved = mask_api.encode(np.asfortranarray(np.roll(mask, shift, (0, 1))))
            result = {
                "image_id": truth["image_id"],
                "category_id": truth["category_id"] if rng.random() < 0.9 else int(rng.choice(ids)),
                "score": float(np.float32(rng.integers(1, 100) / 100)),
                "bbox": [*corners[:2], *(corners[2:] - corners[:2])],
                "segmentation": moved,
            }
            if "keypoints" in truth:
                joints = np.reshape(truth["keypoints"], (-1, 3)).astype(float)
                joints[:, :2] += rng.normal(0, spread, (len(joints), 2)) * box[2:]
                joints[:, :2] = (joints[:, :2] + 0.5).astype(np.float32).astype(float) - 0.5
                result["keypoints"] = joints.ravel().tolist()
            results.append(result)
    return results


def single_precision(dataset):
    """``dataset`` with boxes as scenewise holds them: corners in float32."""
    dataset = copy.deepcopy(dataset)
    for truth in dataset["annotations"]:
        box = np.array(truth["bbox"])
        corners = np.concatenate([box[:2], box[:2] + box[2:]]).astype(np.float32).astype(float)
        truth["bbox"] = [*corners[:2].tolist(), *(corners[2:] - corners[:2]).tolist()]
    return dataset


@pytest.mark.parametrize(
    ("file", "kinds", "count"), [("instances", ("box", "mask"), 24), ("person_keypoints", KINDS, 40)]
)
def test_equals_pycocotools_on_real_images(shared_data, file, kinds, count):
    path = shared_data("coco_mini") / "annotations" / f"{file}_val2017.json"
    original = json.loads(path.read_text(encoding="utf-8"))
    if file == "person_keypoints":  # a good part of the images has nobody in it
        people = {a["image_id"] for a in original["annotations"] if a["num_keypoints"]}
        original["images"].sort(key=lambda image: image["id"] not in people)
    shown = {image["id"] for image in original["images"][:count]}
    original["images"] = original["images"][:count]
    original["annotations"] = [a for a in original["annotations"] if a["image_id"] in shown]
    results = perturbed(original, np.random.default_rng(0))
    assert_equal(single_precision(original), results, kinds=kinds)
    # and with COCO's own boxes, which float32 does not hold: no match changes
    names = tuple(c["name"] for c in original["categories"])
    scores = measured(names, ("box",), samples(original, results)).compute()["box"]
    scores.pop("per_class")
    assert scores == pytest.approx(stats("box", reference("box", original, results)), abs=1e-6)
    assert 0.2 < scores["AP"] < 0.8


def test_equals_faster_coco_eval():
    faster = pytest.importorskip("faster_coco_eval")
    dataset, results = random_case(2, images=12)
    truths = faster.COCO(copy.deepcopy(dataset))
    found = [{k: r[k] for k in ("image_id", "category_id", "score", "bbox")} for r in results]
    run = faster.COCOeval_faster(truths, truths.loadRes(found), "bbox", print_function=lambda *words: None)
    run.evaluate()
    run.accumulate()
    run.summarize()
    scores = measured(3, ("box",), samples(dataset, results)).compute()["box"]
    expected = {name: None if v == -1 else v for name, v in zip(NAMES["box"], run.stats[:12].tolist(), strict=True)}
    # its means add up in another order
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("fields", [{"boxes", "labels", "masks"}, {"boxes", "labels", "keypoints"}])
def test_the_truths_of_real_images_are_found_by_themselves(shared_data, fields):
    from scenewise.data import open_data
    from scenewise.data.loader import plain
    from scenewise.engine.evaluate import choose_metrics

    data = open_data(f"coco:{shared_data('coco_mini')}", "val", needs=frozenset(fields)).only(frozenset(fields))
    (metrics,) = choose_metrics(frozenset({*fields, "scores"}), data).metrics
    for index in range(10):
        image, target = plain(*data[index])
        real = ~target["ignore"]
        known = {name: target[name][real] for name in fields}
        scores = torch.ones(int(real.sum()))
        if "keypoints" in fields:  # people without labelled keypoints come last, where they cost nothing
            scores[(known["keypoints"][:, :, 2] == 0).all(1)] = 0.1
        found = Prediction(tuple(image.shape[-2:]), data.classes, scores=scores, **known)
        metrics.update(found, target)
    scores = metrics.compute()
    assert scores["images"] == 10
    for kind in metrics.kinds:
        assert scores[kind]["AP"] == pytest.approx(1)
        assert scores[kind]["APl"] == pytest.approx(1)


def test_perfect_detections_score_one_and_half_of_them_51_of_101():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    target = {"boxes": boxes, "labels": torch.zeros(2).long()}
    whole = Prediction((50, 50), ("a",), boxes=boxes, labels=torch.zeros(2).long(), scores=torch.tensor([0.9, 0.8]))
    assert measured(1, ("box",), [(whole, target)]).compute()["box"]["AP"] == pytest.approx(1)
    assert measured(1, ("box",), [(whole[0], target)]).compute()["box"]["AP"] == pytest.approx(51 / 101)


def test_the_area_is_the_stated_one_else_the_masks_else_the_boxs():
    mask = torch.zeros(1, 200, 200, dtype=torch.bool)
    mask[:, :40, :40] = True  # 1600 pixels: medium
    boxes = torch.tensor([[0.0, 0, 100, 100]])  # large
    target = {"boxes": boxes, "labels": torch.zeros(1).long(), "masks": mask, "area": torch.tensor([5.0])}
    found = Prediction((200, 200), ("c0",), boxes=boxes, labels=torch.zeros(1).long(), scores=torch.ones(1), masks=mask)
    for dropped, kinds, size in (((), KINDS[:2], "s"), (("area",), KINDS[:2], "m"), (("area", "masks"), ("box",), "l")):
        truth = {k: v for k, v in target.items() if k not in dropped}
        scores = measured(1, kinds, [(found, truth)]).compute()["box"]
        assert [scores[f"AR{s}"] is not None for s in "sml"] == [s == size for s in "sml"]


def test_order_of_arrival_and_number_of_processes_change_nothing():
    pairs = list(samples(*random_case(1, images=9, scores=2)))
    alone = measured(3, KINDS, pairs).compute()
    random.Random(0).shuffle(pairs)
    parts = [pickle.loads(pickle.dumps(measured(3, KINDS, pairs[rank::3]))) for rank in range(3)]
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == alone
    numbered = measured(3, KINDS, pairs, order={t["image_id"]: -int(t["image_id"]) for _, t in pairs})
    assert numbered.images.names[numbered.images.in_order(numbered.order)[0]] == f"{9:012}"
    assert numbered.compute() != alone  # equal scores in another order
    with pytest.raises(UsageError, match="can't merge"):
        parts[0].merge(CocoMetrics(("x",)))


def test_only_the_best_of_each_class_are_kept():
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.5, 0.9])
    labels = np.array([0, 1, 0, 1, 0, 0])
    assert best_of_each_class(scores, labels, 2).tolist() == [0, 1, 3, 5]
    pairs = list(samples(*random_case(3, images=1, classes=1, most=900)))
    assert measured(1, ("box",), pairs).images.detections.rows == min(100, len(pairs[0][0]))


def test_no_dense_mask_is_kept():
    pairs = list(samples(*random_case(1)))
    metrics = measured(3, ("box", "mask"), pairs)
    assert metrics.images.truths.rows + metrics.images.detections.rows > 20
    assert len(pickle.dumps(metrics)) < 32_000  # the masks alone have 768 pixels each, of over 40 objects


def truth_and_prediction():
    return next(pair for pair in samples(*random_case(1)) if len(pair[0]) and len(pair[1]["labels"]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("masks", None, "the prediction has no masks; expected \\[K,H,W\\]"),
        ("boxes", torch.zeros(3, 5), "boxes is \\[3, 5\\]; expected \\[K,4\\] with K = "),
        ("scores", torch.tensor([float("nan")]), "scores 0 is nan; expected finite numbers"),
        ("masks", torch.zeros(1, 3, 4, dtype=torch.bool), "masks is \\[1, 3, 4\\]; expected .* H = 24, W = 32"),
        ("masks", torch.zeros(1, 24, 32), "masks are torch.float32; expected bool"),
        ("labels", torch.tensor([3]), "labels have 3; expected 0 to 2"),
        ("labels", torch.tensor([0.0]), "labels are torch.float32; expected integers"),
        ("boxes", torch.tensor([[0.0, 0, -3, 4]]), "box 0 is .*; expected x1 <= x2"),
        ("boxes", torch.tensor([[0.0, 0, float("inf"), 4]]), "boxes 0 is .*; expected finite"),
        ("keypoints", torch.zeros(1, 5, 3), "the prediction has 5 keypoints per instance; expected 17"),
    ],
)
def test_what_does_not_fit_is_named(field, value, message):
    prediction, target = truth_and_prediction()
    one = replace(prediction[0], **{field: value})
    with pytest.raises(UsageError, match=f"image 0+[1-6]: .*{message}"):
        measured(3, KINDS, [(one, target)])


def test_targets_are_checked_too():
    prediction, target = truth_and_prediction()
    for field, value, message in (
        ("boxes", None, "the target has no boxes"),
        ("ignore", torch.zeros(99, dtype=torch.bool), "ignore is \\[99\\]; expected"),
        ("area", torch.zeros(99), "area is \\[99\\]"),
    ):
        with pytest.raises(UsageError, match=message):
            measured(3, KINDS, [(prediction, {**target, field: value})])
    with pytest.raises(UsageError, match="kinds is"):
        CocoMetrics(("a",), ("bbox",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="sigmas"):
        CocoMetrics(("a",), sigmas=(0.1, 0))


@pytest.mark.parametrize("seed", range(3))
def test_proposals_equal_pycocotools_without_categories(seed):
    dataset, results = random_case(seed, images=4, most=500, scores=(None, 9)[seed % 2])
    metrics, halves = ProposalMetrics(), [ProposalMetrics(), ProposalMetrics()]
    for index, (prediction, target) in enumerate(samples(dataset, results)):
        classless = replace(prediction, labels=None)
        metrics.update(classless, target)
        halves[index % 2].update(classless, target)
    run = reference("box", dataset, results, most=[100, 300, 1000], class_agnostic=True)
    recall = run.eval["recall"]  # [10,1,4,3]

    def mean(values):
        return float(values[values > -1].mean()) if (values > -1).any() else None

    expected = {f"AR{n}": mean(recall[:, :, 0, i]) for i, n in enumerate((100, 300, 1000))}
    expected |= {f"AR{s}": mean(recall[:, :, a, 2]) for a, s in enumerate("sml", 1)}
    assert metrics.compute() == {"proposals": expected, "images": 4}
    halves[0].merge(halves[1])
    assert halves[0].compute() == metrics.compute()
    with pytest.raises(UsageError, match="counts"):
        ProposalMetrics((300, 100))
