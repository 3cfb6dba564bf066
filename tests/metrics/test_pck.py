"""The percentage of correct keypoints, by hand."""

import pytest
import torch

from scenewise.errors import UsageError
from scenewise.metrics.pck import PckMetrics
from scenewise.results.prediction import Prediction
from scenewise.types import Skeleton

SKELETON = Skeleton(("head", "left_hand", "right_hand"))
PERSON = torch.tensor([[10.0, 10, 2], [10, 30, 2], [20, 30, 1]])  # a box of 10 x 20


def moved(person, *offsets):
    points = person.clone()
    points[:, :2] += torch.tensor(offsets)
    return points


def measured(found, truth, scores=None, ignore=None, **options):
    metric = PckMetrics(("person",), skeleton=SKELETON, **options)
    target = {"image_id": "a", "keypoints": torch.stack(truth)}
    if ignore is not None:
        target["ignore"] = torch.tensor(ignore)
    prediction = Prediction(
        (50, 50), ("person",), keypoints=torch.stack(found) if found else torch.zeros(0, 3, 3),
        scores=None if scores is None else torch.tensor(scores),
    )  # fmt: skip
    metric.update(prediction, target)
    return metric


def test_joints_within_a_share_of_the_longer_side():
    """0.2 of 20 pixels are 4: the bound itself counts."""
    found = moved(PERSON, (0.0, 4.0), (4.1, 0.0), (0.0, 0.0))
    scores = measured([found], [PERSON]).compute()
    assert scores == {
        "pck": {
            "all": pytest.approx(2 / 3),
            "mean": pytest.approx(2 / 3),
            "per_joint": {"head": 1, "left_hand": 0, "right_hand": 1},
        },
        "images": 1,
    }
    assert measured([found], [PERSON], alpha=0.3).compute()["pck"]["all"] == 1


def test_the_length_may_be_that_of_two_joints():
    """From hand to hand are 10 pixels: 0.2 of them are 2; where one is not labelled, the person does not count."""
    found = moved(PERSON, (0.0, 3.0), (0.0, 1.9), (0.0, 0.0))
    hands = ("left_hand", "right_hand")
    assert measured([found], [PERSON], length=hands).compute()["pck"]["per_joint"]["head"] == 0
    assert measured([found], [PERSON], length=hands).compute()["pck"]["per_joint"]["left_hand"] == 1
    unknown = PERSON.clone()
    unknown[2, 2] = 0
    assert measured([found], [unknown], length=hands).compute()["pck"]["all"] is None
    unlabelled = measured([found], [unknown]).compute()["pck"]
    assert unlabelled["per_joint"]["right_hand"] is None
    with pytest.raises(UsageError, match="length is 'torso'; expected 'box' or the names of two joints: head, "):
        PckMetrics(skeleton=SKELETON, length="torso")


def test_people_are_taken_in_the_order_of_scores_and_missed_ones_are_wrong():
    far = moved(PERSON, *[(25.0, 0.0)] * 3)
    both = measured([far, PERSON], [PERSON, far], [0.5, 0.9]).compute()["pck"]
    assert both["all"] == 1
    assert measured([PERSON], [PERSON, far]).compute()["pck"]["all"] == 0.5
    assert measured([], [PERSON]).compute()["pck"]["all"] == 0
    assert measured([PERSON], [PERSON, far], ignore=[False, True]).compute()["pck"]["all"] == 1
    taken = measured([far, PERSON], [PERSON], [0.9, 0.5]).compute()["pck"]  # the surer pose takes the only person
    assert taken["all"] == 0


def test_counts_of_two_processes_add_up():
    one = measured([PERSON], [PERSON])
    one.merge(measured([moved(PERSON, *[(9.0, 9.0)] * 3)], [PERSON]))
    assert one.compute()["pck"]["all"] == 0.5
    assert one.compute()["images"] == 2
    fresh = PckMetrics(("person",), skeleton=SKELETON)
    fresh.merge(one)
    assert fresh.compute() == one.compute()
    with pytest.raises(UsageError, match="image a: the prediction has 3 keypoints per instance; expected 2"):
        measured([PERSON], [PERSON[:2]])
