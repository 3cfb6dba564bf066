"""Metrics by name: the table, parameters, those of one's own, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import scenewise
from scenewise.errors import UsageError
from scenewise.fields.table import FIELDS
from scenewise.metrics.base import Metric, Setting
from scenewise.metrics.segmentation import ClassScores, SegmentationMetrics
from scenewise.metrics.segmentation_edges import TrimapMetrics
from scenewise.metrics.table import ROWS, choose, names, scores_of, smaller_is_better, truth_for
from scenewise.types import Described, Target

SEMANTIC = Setting(("a", "b"), frozenset({"semantic"}), frozenset({"semantic"}))
DEPTH = Setting((), frozenset({"depth"}), frozenset({"depth", "semantic"}))


class Share(Metric):
    """How much of the pixels is class 0: a person's own metric."""

    measures = frozenset({"semantic"})
    truth = frozenset({"semantic"})
    main = "share"
    smaller_is_better = frozenset({"share"})

    def __init__(self, classes: tuple[str, ...], *, label: int = 0) -> None:
        self.label, self.hits, self.pixels = label, 0, 0

    def update(self, prediction: Described, target: Target) -> None:
        assert prediction.semantic is not None
        self.hits += int((prediction.semantic == self.label).sum())
        self.pixels += prediction.semantic.numel()

    def merge(self, other: Share) -> None:
        self.hits, self.pixels = self.hits + other.hits, self.pixels + other.pixels

    def compute(self) -> dict[str, Any]:
        return {"share": self.hits / self.pixels if self.pixels else None}


OWN = f"{__name__}:Share"


NEEDED = {"categories": {"categories": {"both": ["a", "b"]}}}  # whose default is for one data set


def test_every_row_is_built_and_its_main_score_is_one_of_its_own():
    for row in ROWS:
        assert row.wanted <= set(FIELDS)
        assert all(FIELDS[name].target for name in row.truth)
        setting = Setting(("a", "b"), row.wanted, row.truth)
        chosen = choose(setting, "here", asked=[{row.name: NEEDED.get(row.name, {})}])
        assert any(isinstance(metric, row.load()) for metric in chosen.metrics), row.name
        scores: Any = scores_of(chosen.metrics)
        for part in row.main.split(".") if row.main else ():
            assert part in scores, row.name
            scores = scores[part]
        errors = {name for metric in chosen.metrics for name in metric.smaller_is_better}
        assert smaller_is_better(chosen.metrics, row.main) == (row.main in errors)
    assert smaller_is_better(choose(DEPTH, "here").metrics, "depth.rmse")
    assert not smaller_is_better(choose(DEPTH, "here").metrics, "depth.delta1")


def test_further_ones_by_name_with_parameters():
    chosen = choose(SEMANTIC, "here", asked=["dice", {"trimap": {"radii": [2, 5]}}])
    assert [type(metric) for metric in chosen.metrics] == [SegmentationMetrics, ClassScores, TrimapMetrics]
    assert chosen.main == "mean_iou"
    assert {"mean_iou", "dice", "trimap_2", "trimap_5"} <= set(scores_of(chosen.metrics))
    again = choose(SEMANTIC, "here", asked=[{"segmentation": {"background": False}}])  # a usual one, told how
    assert [metric.background for metric in again.metrics] == [False]
    assert again.main == "mean_iou"
    assert choose(SEMANTIC, "here", benchmarks=("dice", "voc")).main == "mean_iou"


def test_one_of_ones_own():
    for asked in (OWN, Share):
        chosen = choose(SEMANTIC, "here", asked=[{asked: {"label": 1}}])
        assert [type(metric) for metric in chosen.metrics] == [SegmentationMetrics, Share]
        assert smaller_is_better(chosen.metrics, "share")
    assert truth_for({"semantic_logits"}, [OWN]) == {"semantic"}
    assert truth_for({"depth"}, [OWN, "dice"]) == {"depth"}  # a reader is not chosen by what does not fit the model
    scenes = scenewise.open_data("scenes:count=1,size=48x64")
    model = scenewise.build("fcn-resnet", scenes.classes, backbone="resnet10t")
    scores = scenewise.evaluate(model, scenes, metrics=[Share, "precision"])
    assert 0 <= scores["share"] <= 1
    assert set(scores["precision"]["per_class"]) == set(scenes.classes)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["dise"], "there is no metric 'dise'; did you mean 'dice'\\?; known: segmentation, coco, "),
        (["dice", "dice"], "dice is there more than once"),
        (["coco"], "coco measures masks with labels and scores or .*; the model fills semantic"),
        ([{"dice": {"scores": 1}}], "dice has no parameter 'scores'; did you mean 'score'\\?; known: score, absent, "),
        ([{"dice": 3}], "dice has 3; expected a mapping of its parameters"),
        ([{"dice": {"score": "f1"}}], "dice: score is 'f1'; expected dice, precision"),
        ([{"dice": {}, "trimap": {}}], "has 2 entries; expected one name with its parameters"),
        (["nowhere:Metric"], "the module 'nowhere' can't be imported"),
        (["math:pi"], r"found 3.14.*; expected a subclass of scenewise.Metric"),
        ([7], "7 is not a metric"),
    ],
)
def test_what_is_refused(asked, message):
    with pytest.raises(UsageError, match=f"metric.*{message}"):
        choose(SEMANTIC, "here", asked=asked)


def test_what_the_model_or_the_data_lack_is_named():
    with pytest.raises(UsageError, match="metrics: dice measures semantic; the model fills depth"):
        choose(DEPTH, "here", asked=["dice"])
    lacking = Setting(("a",), frozenset({"semantic", "depth"}), frozenset({"depth"}))
    with pytest.raises(UsageError, match="metrics: dice needs semantic; here has depth"):
        choose(lacking, "here", asked=["dice"])
    with pytest.raises(UsageError, match="here has semantic; no metric applies to a model that fills depth"):
        choose(Setting((), frozenset({"depth"}), frozenset({"semantic"})), "here")

    class Doubled(Share):
        def compute(self) -> dict[str, Any]:
            return {"mean_iou": 0.5}

    with pytest.raises(UsageError, match="two of them have a score 'mean_iou', the second is Doubled's"):
        scores_of(choose(SEMANTIC, "here", asked=[Doubled]).metrics)


def test_the_command_measures_by_more_than_the_usual(tmp_path):
    from typer.testing import CliRunner

    from scenewise.cli import app

    scenes = "scenes:count=1,size=48x64"
    model = scenewise.build("fcn-resnet", scenewise.open_data(scenes).classes, backbone="resnet10t")
    scenewise.save(model, tmp_path / "a.safetensors")
    words = ["evaluate", str(tmp_path / "a.safetensors"), "--data", scenes, "--metrics", f"boundary-f1, dice,{OWN}"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for word in ("boundary_f1", "dice", "share", "mean_iou"):
        assert word in done.output
    assert torch.is_grad_enabled()


def test_all_names_are_on_the_page():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in names():
        assert f"`{name}`" in page, name
