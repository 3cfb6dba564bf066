"""Which metrics and which main score a model gets, nested scores as monitors, and the tables of the command."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from torchvision import tv_tensors

import scenewise
from scenewise.data.base import DataSet
from scenewise.engine.evaluate import choose_metrics
from scenewise.engine.loop import Loop
from scenewise.errors import UsageError
from scenewise.fields.keypoints import KeyPoints, Visibility
from scenewise.metrics.coco import CocoMetrics
from scenewise.metrics.proposals import ProposalMetrics
from scenewise.metrics.table import scores_of, truth_for
from scenewise.metrics.voc import VocMetrics
from scenewise.results.prediction import Prediction
from scenewise.results.tables import Name, folded, score_tables
from scenewise.types import Interface, Output, Skeleton
from tests.engine.toys import Deep, Ramps

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
    with pytest.raises(UsageError, match="coco:somewhere has semantic; no metric applies to"):
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


def test_long_names_lose_their_middle():
    assert folded("abc", 3) == "abc"
    assert folded("photos/DSC_2024_0042.jpg", 13) == "photos…42.jpg"
    assert folded("長い名前の写真.jpg", 10) == "長い ….jpg"  # wide letters are not cut in half
    written = io.StringIO()
    table = Table("image", "found")
    names = [f"a-rather-long-folder/of-photographs/{number}.jpg" for number in range(3)]
    for name in names:
        table.add_row(Name(name), "12 cats, 4 dogs, 3 birds, 2 horses and a giraffe")
    Console(file=written, width=60).print(table)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    for number in range(3):
        (line,) = [line for line in lines if line.startswith("│ a-rather") and f"{number}.jpg" in line]
        assert "…" in line


def test_what_a_detector_is_measured_by_are_fields_of_targets():
    """A score has no truth: asking a format's readers for one would find none."""
    fills = frozenset({"boxes", "labels", "scores", "roi_masks"})
    assert truth_for(fills) == {"boxes", "labels", "masks"}
    assert truth_for({"semantic_logits"}) == {"semantic"}


def test_depth_of_a_smaller_copy_is_measured_drawn_and_written_at_the_image_s_size():
    model, ramps = Deep(), Ramps()
    model.input = scenewise.InputSpec(scale=0.5)
    image, target = ramps[0]
    found = scenewise.predict(model, image)
    assert found.depth.shape == image.shape[-2:]
    assert found.draw(image).size[0] > image.shape[-1]
    assert found.to_json()["size"] == [16, 24]
    scores = scenewise.evaluate(model, ramps)
    assert scores["images"] == 12
    assert scores["depth"]["coverage"] == 1
    known = target["depth"].as_subclass(torch.Tensor)
    error = (found.depth - known)[known > 1e-3]  # what is nearer does not count
    only = scenewise.evaluate(model, Subset(ramps, 1))["depth"]
    assert only["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)


class Subset(Ramps):
    """The first of the pictures."""

    def __init__(self, data, count):
        self.count = count

    def __len__(self):
        return self.count


class Nose(scenewise.Model):
    """A pose of two joints at fixed places, and nothing else."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def interface(cls, **arguments):
        return Interface({"keypoints"}, {"keypoints"})

    def losses(self, batch):
        return {}

    def predict(self, batch):
        points = torch.tensor([[[5.0, 5.0, 2.0], [5.0, 25.0, 2.0]]])
        return [Output(size, keypoints=points) for size in batch.sizes]


class Poses(DataSet):
    """One person per picture; the second joint lies further to the right in each."""

    fields = frozenset({"keypoints"})
    classes, split = (), "val"
    skeleton = Skeleton(("nose", "tail"))

    def __len__(self):
        return 3

    def image_id(self, index):
        return str(index)

    def __getitem__(self, index):
        points = KeyPoints.of(self.skeleton)(
            torch.tensor([[[5.0, 5.0], [5.0 + 3 * index, 25.0]]]), canvas_size=(40, 40)
        )
        seen = Visibility.of(self.skeleton)(torch.full((1, 2), 2))
        image = tv_tensors.Image(torch.zeros(3, 40, 40, dtype=torch.uint8))
        return image, {"image_id": self.image_id(index), "keypoints": points, "visibility": seen}


def test_joints_alone_are_measured():
    scores = scenewise.evaluate(Nose(), Poses())
    assert scores["pck"]["per_joint"] == {
        "nose": 1.0,
        "tail": pytest.approx(2 / 3),
    }  # 6 pixels are beyond a fifth of 20


def test_the_split_is_by_default_the_one_of_the_training_s_validation(monkeypatch):
    from scenewise.engine import evaluate as module

    model = scenewise.build("unet", 2, width=4, depth=1)
    asked = {}
    for known, there in (
        ({}, ("train", "val")),
        ({"metrics": {"split": "train[80%:]"}}, ("train",)),
        ({"metrics": {"split": "val"}}, ("train", "valid", "test")),
        ({"metrics": {"split": "spring"}}, ("train", "test")),
    ):
        model.info = known
        monkeypatch.setattr(module, "splits_of", lambda data, there=there: there)
        asked[str(known)] = module.usual_split(model, "coco:x")
    assert [*asked.values()] == ["test", "train[80%:]", "val", "test"]
