"""Which metrics and which main score a model gets, nested scores as monitors, and the tables of the command."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from scenewise.engine.evaluate import choose_metrics
from scenewise.engine.loop import Loop
from scenewise.errors import UsageError
from scenewise.metrics.coco import CocoMetrics
from scenewise.metrics.proposals import ProposalMetrics
from scenewise.metrics.table import scores_of, truth_for
from scenewise.metrics.voc import VocMetrics
from scenewise.results.prediction import Prediction
from scenewise.results.tables import score_tables

DETECTOR = frozenset({"boxes", "labels", "scores"})
MASKS, POSES = DETECTOR | {"roi_masks"}, DETECTOR | {"keypoints"}
PROPOSALS = frozenset({"boxes", "scores"})


def data(*fields: str, benchmarks: tuple[str, ...] = ()) -> Any:
    names = ("b.jpg", "a.jpg")
    return SimpleNamespace(
        fields=frozenset(fields),
        classes=("cat", "dog"),
        source="coco:somewhere",
        skeleton=None,
        benchmarks=benchmarks,
        split="val",
        image_ids=np.array([7, 3]),
        image_id=lambda index: names[index],
    )


@pytest.mark.parametrize(
    ("fills", "fields", "name"),
    [
        ({"semantic_logits"}, {"semantic"}, "mean_iou"),
        (DETECTOR, {"boxes", "labels"}, "box.AP"),
        (MASKS, {"boxes", "labels", "masks"}, "mask.AP"),
        (MASKS, {"boxes", "labels"}, "box.AP"),
        (POSES, {"boxes", "labels", "keypoints"}, "keypoints.AP"),
        ({"keypoints"}, {"keypoints"}, "pck.mean"),
        (PROPOSALS, {"boxes", "labels"}, "proposals.AR1000"),
        ({"depth", "normals"}, {"depth", "normals"}, "depth.rmse"),
        ({"boundary"}, {"boundary"}, "boundary.ODS"),
        ({"flow"}, {"flow"}, "flow.epe"),
    ],
)
def test_the_main_metric(fills, fields, name):
    assert choose_metrics(frozenset(fills), data(*fields)).main == name


def test_what_is_filled_and_known_is_measured():
    (metric,) = choose_metrics(MASKS, data("boxes", "labels", "masks")).metrics
    assert isinstance(metric, CocoMetrics)
    assert metric.kinds == ("box", "mask")
    assert metric.order == {"b.jpg": 7, "a.jpg": 3}
    (metric,) = choose_metrics(MASKS, data("boxes", "labels")).metrics
    assert metric.kinds == ("box",)
    (metric,) = choose_metrics(POSES, data("boxes", "labels", "masks", "keypoints")).metrics
    assert metric.kinds == ("box", "keypoints")
    kinds = [type(m) for m in choose_metrics(DETECTOR, data("boxes", "labels", benchmarks=("voc",))).metrics]
    assert kinds == [CocoMetrics, VocMetrics]
    assert [type(m) for m in choose_metrics(PROPOSALS, data("boxes", "labels")).metrics] == [ProposalMetrics]
    with pytest.raises(UsageError, match="coco:somewhere has semantic; nothing there measures"):
        choose_metrics(DETECTOR, data("semantic"))


def object_scores() -> dict[str, Any]:
    boxes, points = torch.tensor([[0.0, 0, 10, 10]]), torch.full((1, 17, 3), 2.0)
    masks, labels = torch.ones(1, 10, 10, dtype=torch.bool), torch.zeros(1).long()
    metrics = [CocoMetrics(("cat", "dog")), VocMetrics(("cat", "dog"))]
    truth = {"boxes": boxes, "labels": labels, "masks": masks, "keypoints": points}
    for metric in metrics:
        metric.update(Prediction((10, 10), ("cat", "dog"), scores=torch.ones(1), **truth), truth)
    return scores_of(metrics)


def test_a_nested_score_chooses_the_best_epoch():
    training = Loop.__new__(Loop)
    training.best, training.best_scores, training.waited, training.mode = None, {}, 0, "max"
    training.validation = data("boxes")
    training.monitor = "mask.AP"
    scores = object_scores()
    assert training._judge(scores)
    assert training.best == scores["mask"]["AP"] == pytest.approx(1)
    assert not training._judge(scores)
    training.monitor = "box.APl"  # there is no large truth
    with pytest.raises(UsageError, match=r"box.APl', which is undefined on coco:somewhere, split 'val'"):
        training._judge(scores)
    training.monitor = "mask"
    with pytest.raises(UsageError, match=r"expected one of box.AP, box.AP50, (?!.*per_class)"):
        training._judge(scores)


def test_the_tables_fit_into_80_columns():
    written = io.StringIO()
    console = Console(file=written, width=80)
    for table in score_tables(object_scores()):
        console.print(table)
    lines = written.getvalue().splitlines()
    assert not [line for line in lines if "…" in line]
    head = next(line for line in lines if "AR100" in line)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"]
    assert [cell.strip() for cell in head.split("┃")][1:] == names
    rows = {cells[0]: cells[1:] for line in lines if len(cells := [c.strip() for c in line.split("│")]) > 1}
    assert rows["mask"] == ["1.000", "1.000", "1.000", "1.000", "-", "-", "1.000", "1.000", "1.000"]
    assert rows["keypoints"][:3] == ["1.000", "1.000", "1.000"]
    assert [c for c in next(r for r in lines if r.startswith("│ cat")).split() if c[0].isdigit()] == ["1.0000"] * 4
    assert rows["voc"] == ["1.000", "1.000"]


def test_what_a_detector_is_measured_by_are_fields_of_targets():
    """A score has no truth: asking a format's readers for one would find none."""
    fills = frozenset({"boxes", "labels", "scores", "roi_masks"})
    assert truth_for(fills) == {"boxes", "labels", "masks"}
    assert truth_for({"semantic_logits"}) == {"semantic"}
