"""Training in stages: what each starts from, going on after an interruption, errors before the first step."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from scenewise.engine import loop
from scenewise.engine import stages as staging
from scenewise.engine import train as training
from scenewise.engine.train import train
from scenewise.errors import UsageError
from scenewise.files.tensors import read_tensors
from scenewise.recipe import load_recipe
from scenewise.weights.checkpoint import read_header
from scenewise.weights.load import load

STAGES = [
    {"trainer": {"epochs": 1}},
    {"trainer": {"epochs": 1, "freeze": ["backbone"], "seed": 1}, "optimizer": {"lr": 0.001}, "transforms": []},
]
ALTERNATING = {  # Ren et al. 2015, sec. 3.2: the last stage holds both halves of Faster R-CNN
    "model": {
        "system": "rpn",
        "backbone": "resnet10t",
        "design": "c4",
        "anchors": {"sizes": [[12, 24, 48]], "ratios": [0.5, 1.0, 2.0]},
        "input": {"size_divisor": 32},
    },
    "data": {
        "train": "scenes:count=8,size=64x96,objects=3,fields=boxes+labels",
        "val": "scenes:count=2,size=64x96,objects=3,fields=boxes+labels",
        "workers": 0,
    },
    "trainer": {"epochs": 1, "batch_size": 2},
}


def same_files(a, b):
    first, second = read_tensors(a), read_tensors(b)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert read_header(a) == read_header(b)


def crash_in_second_stage(recipe, monkeypatch):
    """Train until the second stage has been set up."""

    def crash(self, *arguments):
        if self.folder.name == "stage-2":
            raise KeyboardInterrupt
        return train_epoch(self, *arguments)

    train_epoch = loop.Loop._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_train_epoch", crash)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from .conftest import tiny

    return train(tiny(tmp_path_factory.mktemp("whole"), data__workers=0, stages=STAGES), quiet=True)


def test_each_stage_starts_from_the_one_before(whole):
    assert whole.finished
    assert whole.folder.name == "run"
    first, second = (load(whole.folder / f"stage-{k}" / "best.safetensors").state_dict() for k in (1, 2))
    assert first.keys() == second.keys()
    for name, value in first.items():
        frozen = name.startswith("backbone.")
        if frozen:
            torch.testing.assert_close(second[name], value, msg=name)
    assert not torch.equal(first["classifier.1.weight"], second["classifier.1.weight"])
    same_files(whole.best_checkpoint, whole.folder / "stage-2" / "best.safetensors")
    same_files(whole.last_checkpoint, whole.folder / "stage-2" / "last.safetensors")
    own = load_recipe(whole.folder / "stage-2" / "recipe.yaml")
    assert (own.optimizer.lr, own.optimizer.name, own.trainer.seed, own.transforms) == (0.001, "adamw", 1, ())
    assert own.stages == ()


@pytest.mark.parametrize("stop_at", [2, 6, 9])
def test_an_interrupted_run_goes_on_exactly(whole, tiny_recipe, monkeypatch, stop_at):
    """Within the first stage, at its very end, and within the second."""
    log_step, done = loop.Log.step, []

    def interrupt(self, *arguments):
        log_step(self, *arguments)
        done.append(self)
        if len(done) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Log, "step", interrupt)
        stopped = train(tiny_recipe(data__workers=0, stages=STAGES), quiet=True)
    if stop_at != 6:  # at its very end, the first stage is done and the second follows
        assert not stopped.finished
        assert len(done) < 12
    resumed = train(resume=stopped.folder, quiet=True)
    assert resumed.finished
    for name in ("stage-1/best", "stage-2/best", "stage-2/state", "best", "last"):
        same = resumed.folder / f"{name}.safetensors", whole.folder / f"{name}.safetensors"
        if name.endswith("state"):
            first, second = (read_tensors(path) for path in same)
            assert all(torch.equal(first[key], second[key]) for key in second)
        else:
            first, second = (load(path).state_dict() for path in same)
            assert all(torch.equal(first[key], second[key]) for key in second)


def test_a_run_killed_before_its_first_saved_state_still_starts_from_the_stage_before(whole, tiny_recipe, monkeypatch):
    """The second stage has written its recipe and nothing more."""
    recipe = tiny_recipe(data__workers=0, stages=STAGES)
    crash_in_second_stage(recipe, monkeypatch)
    folder = Path(recipe["trainer"]["folder"]) / "run"
    assert (folder / "stage-2" / "recipe.yaml").is_file()
    assert not (folder / "stage-2" / "state.safetensors").exists()
    resumed = train(resume=folder, quiet=True)
    first, second = load(resumed.best_checkpoint).state_dict(), load(whole.best_checkpoint).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_a_finished_run_resumes_to_itself(whole, monkeypatch):
    monkeypatch.setattr(training, "_launch", None)  # nothing is trained
    again = train(resume=whole.folder, quiet=True)
    assert vars(again) == vars(whole)


def test_a_stage_can_start_afresh_or_from_a_stage_of_its_choice(tiny_recipe):
    recipe = load_recipe(tiny_recipe(stages=[{}, {"init": None}, {"init": ["stage-1", "stage-2"]}, {}]))
    assert [stage.sources for stage in recipe.staged()] == [(), (), ("stage-1", "stage-2"), ("stage-3",)]


def test_another_system_replaces_the_model(tiny_recipe):
    stages = [{}, {"model": {"system": "unet", "depth": 2}}, {"model": {"dropout": 0.1}}]
    models = [stage.model for stage in load_recipe(tiny_recipe(stages=stages)).staged()]
    assert models[1] == {"system": "unet", "depth": 2}
    assert models[2] == {**models[0], "dropout": 0.1}


def test_later_sources_win(tiny_recipe, whole, capsys):
    first, second = (str(whole.folder / f"stage-{k}" / "best.safetensors") for k in (1, 2))
    options = {"trainer__epochs": 1, "trainer__name": "both", "optimizer__lr": 1e-12, "trainer__freeze_norm": "all"}
    run = train(tiny_recipe(init=[first, second], data__workers=0, **options))
    assert "newly initialised" not in capsys.readouterr().err
    start, end = load(second).state_dict(), load(run.last_checkpoint).state_dict()
    torch.testing.assert_close(end["classifier.1.weight"], start["classifier.1.weight"], rtol=1e-5, atol=1e-6)


def test_overrides_reach_into_stages(tiny_recipe):
    recipe = load_recipe(tiny_recipe(stages=STAGES), {"stages.1.optimizer.lr": 0.5, "stages.0.trainer.seed": 7})
    first, second = recipe.staged()
    assert (first.trainer.seed, second.optimizer.lr, second.trainer.seed) == (7, 0.5, 1)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{}, {"optimizer": {"lrr": 1}}], r"recipe: stages\.1\.optimizer\.lrr is unknown; did you mean 'lr'"),
        ([{"trainer": {"epochs": 0}}], r"stages\.0\.trainer\.epochs is 0"),
        ([{}, {"trainer": {"name": "x"}}], r"stages\.1\.trainer\.name is given; it holds for the whole recipe"),
        ([{"stages": []}], r"stages\.0\.stages is given"),
        ([{"init": "stage-1"}], r"stages\.0: init is 'stage-1'; expected .* an earlier stage \(there is none\)"),
        ([{}, {}, {"init": "stage-3"}], r"stages\.2: init is 'stage-3'.*\(stage-1 to stage-2\)"),
        ([{}, {"data": {"inputs": {"proposals": "stage-2"}}}], r"data\.inputs\.proposals is 'stage-2'"),
        ([{}, {"model": {"system": "unett"}}], r"stages\.1: model: there is no system 'unett'; did you mean 'unet'"),
    ],
)
def test_mistakes_in_a_stage_are_named(tiny_recipe, stages, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(tiny_recipe(stages=stages))


@pytest.mark.parametrize("path", ["stages.2.trainer.epochs", "stages.x.trainer.epochs", "stages.1"])
def test_an_override_of_no_stage_is_named(tiny_recipe, path):
    with pytest.raises(UsageError, match=r"expected stages\.NUMBER\.ENTRY|stages"):
        load_recipe(tiny_recipe(stages=STAGES), {path: 1})


def test_a_later_stage_that_can_not_work_is_refused_before_the_first_begins(tiny_recipe, tmp_path):
    stages = [{}, {"trainer": {"freeze": ["bakbone"]}}]
    with pytest.raises(UsageError, match=r"stage 2: trainer\.freeze has 'bakbone', and no parameter's name begins"):
        train(tiny_recipe(stages=stages), quiet=True)
    assert not (tmp_path / "run").exists()


def test_alternating_training_of_faster_rcnn(tmp_path):
    """Four stages: a proposal network; a detector of its proposals; the proposal network again, on the detector's
    features; the detector's head again, on features and proposals that stay."""
    finder = ALTERNATING["model"]
    detector = {k: finder[k] for k in ("backbone", "design", "input")} | {
        "system": "fast-rcnn",
        "roi": "align",
        "head": {"kind": "fc", "channels": 32},
        "sampler": {"samples": 16, "lowest_iou": 0.0},
    }
    both = finder | detector | {"system": "faster-rcnn"}
    stages = [
        {},
        {
            "init": None,
            "model": detector,
            "data": {"inputs": {"proposals": "stage-1"}, "val_inputs": {"proposals": "stage-1"}},
        },
        {"init": "stage-2", "trainer": {"freeze": ["features"]}},
        {"init": ["stage-2", "stage-3"], "model": both, "trainer": {"freeze": ["features", "rpn"]}},
    ]
    recipe = ALTERNATING | {"stages": stages}
    recipe["trainer"] = recipe["trainer"] | {"folder": str(tmp_path), "name": "run"}
    run = train(recipe, quiet=True)
    proposals = read_tensors(tmp_path / "run" / "stage-2" / "proposals.safetensors")
    assert len(proposals) == 8
    assert len(read_tensors(tmp_path / "run" / "stage-2" / "val_proposals.safetensors")) == 2
    assert all(len(boxes) > 0 for boxes in proposals.values())
    states = [load(tmp_path / "run" / f"stage-{k}" / "last.safetensors").state_dict() for k in (2, 3)]
    whole = load(run.last_checkpoint).state_dict()
    features = [key for key in whole if key.startswith("features.")]
    finding = [key for key in whole if key.startswith("rpn.")]
    assert features
    assert finding
    for key in features:
        torch.testing.assert_close(whole[key], states[0][key], msg=key)
        torch.testing.assert_close(whole[key], states[1][key], msg=key)
    for key in finding:
        torch.testing.assert_close(whole[key], states[1][key], msg=key)
    assert not torch.equal(whole["box_head.classifier.weight"], states[0]["box_head.classifier.weight"])
    assert set(whole) - set(states[0]) == set(finding)  # all of the detector's weights are in it


def test_proposals_are_not_found_twice(tmp_path, monkeypatch):
    """They are on disk before the stage that wants them begins."""
    detector = {k: ALTERNATING["model"][k] for k in ("backbone", "design", "input")}
    detector |= {"system": "fast-rcnn", "head": {"kind": "fc", "channels": 16}}
    proposed = {"inputs": {"proposals": "stage-1"}, "val_split": None}
    recipe = ALTERNATING | {"stages": [{}, {"init": None, "model": detector, "data": proposed}]}
    recipe["trainer"] = recipe["trainer"] | {"folder": str(tmp_path), "name": "run"}
    crash_in_second_stage(recipe, monkeypatch)
    monkeypatch.setattr(staging, "write_proposals", None)
    assert train(resume=tmp_path / "run", quiet=True).finished
