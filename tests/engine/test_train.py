"""Training: exact resume, the same result with any number of workers and processes, schedules, freezing, errors."""

from __future__ import annotations

import csv
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from scenewise.catalog import build
from scenewise.engine import loop as training
from scenewise.engine.players import Average
from scenewise.engine.state import load_state, save_state
from scenewise.engine.train import train
from scenewise.errors import CheckpointError, TrainingError, UsageError
from scenewise.files.tensors import read_tensors
from scenewise.weights.checkpoint import read_header
from scenewise.weights.load import load


def same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizer state, checkpoints and logged numbers are equal bit for bit."""
    for name in ("state.safetensors", "best.safetensors", "last.safetensors"):
        first, second = read_tensors(a / name), read_tensors(b / name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), (name, key)
    for name in ("steps.csv", "epochs.csv"):
        assert (a / name).read_text() == (b / name).read_text(), name
    assert read_header(a / "best.safetensors") == read_header(b / "best.safetensors")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run without workers."""
    from .conftest import tiny

    return train(tiny(tmp_path_factory.mktemp("whole"), data__workers=0), quiet=True)


def test_a_run_leaves_its_checkpoints_logs_and_recipe(whole_run):
    assert whole_run.finished
    assert whole_run.epochs == 2
    assert whole_run.monitor == "mean_iou"
    assert [r["step"] for r in rows(whole_run.folder / "steps.csv")] == [str(i) for i in range(1, 13)]
    epochs = rows(whole_run.folder / "epochs.csv")
    assert float(epochs[-1]["val/loss"]) > 0
    assert whole_run.best == max(float(r["mean_iou"]) for r in epochs)
    assert list(whole_run.folder.glob("events.out.tfevents.*"))
    assert not list(whole_run.folder.glob("*.tmp"))
    model = load(whole_run.best_checkpoint)
    assert model.info["metrics"]["mean_iou"] == whole_run.best
    assert yaml.safe_load((whole_run.folder / "recipe.yaml").read_text())["trainer"]["epochs"] == 2


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing(whole_run, tiny_recipe, workers):
    run = train(tiny_recipe(data__workers=workers), quiet=True)
    same_run(whole_run.folder, run.folder)


@pytest.mark.parametrize(("workers", "stop_at"), [(0, 3), (1, 6), (4, 8)])
def test_a_stopped_run_goes_on_exactly(whole_run, tiny_recipe, monkeypatch, workers, stop_at):
    """Ctrl-C after a step: within the first epoch, at its very end, and within the second."""
    log_step = training.Log.step

    def interrupt(self, step, *arguments):
        log_step(self, step, *arguments)
        if step == stop_at - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training.Log, "step", interrupt)
        stopped = train(tiny_recipe(data__workers=workers), quiet=True)
    assert not stopped.finished
    assert len(rows(stopped.folder / "steps.csv")) == stop_at
    resumed = train(resume=stopped.folder, quiet=True)
    assert resumed.finished
    same_run(whole_run.folder, resumed.folder)


def test_a_killed_run_goes_on_exactly(whole_run, tiny_recipe, tmp_path):
    """kill -9 in the middle of an epoch: it goes on from the last saved step."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(data__workers=1, trainer__save_every=2)))
    threads = "import torch; torch.set_num_threads(1)"  # as in this process
    code = f"{threads}; from scenewise.engine.train import train; train({str(recipe)!r}, quiet=True)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    steps = tmp_path / "run" / "steps.csv"
    deadline = time.monotonic() + 300
    while not steps.exists() or len(rows(steps)) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed = train(resume=tmp_path / "run", quiet=True)
    assert resumed.finished
    same_run(whole_run.folder, resumed.folder)


def test_resume_refuses_other_settings(whole_run):
    with pytest.raises(UsageError, match=r"was trained with optimizer\.lr=0\.003; resume can't change it to 0\.1"):
        train(resume=whole_run.folder, overrides={"optimizer.lr": 0.1})


def test_a_finished_run_resumes_to_itself(whole_run):
    before = (whole_run.folder / "last.safetensors").read_bytes()
    assert train(resume=whole_run.folder, quiet=True).best == whole_run.best
    assert (whole_run.folder / "last.safetensors").read_bytes() == before


def test_two_processes_give_the_losses_of_one_with_the_joint_batch(tiny_recipe, tmp_path):
    """In a system without batch-norm and dropout. The images differ in their number of labelled pixels."""
    common = {
        "model": {"system": "unet", "width": 4, "depth": 2, "padding": "same", "dropout": 0.0},
        "data__train": f"masks:{_uneven_masks(tmp_path / 'masks')}",
        "data__val": None,
        "data__val_split": None,
        "transforms": [],
        "optimizer": {"name": "sgd", "lr": 0.05},
        "trainer__epochs": 2,
        "trainer__accelerator": "cpu",
    }
    one = train(tiny_recipe(**common, trainer__name="one"), quiet=True)
    two = train(tiny_recipe(**common, trainer__name="two", trainer__devices=2), quiet=True)
    alone = [float(r["loss"]) for r in rows(one.folder / "steps.csv")]
    joint = [float(r["loss"]) for r in rows(two.folder / "steps.csv")]
    assert len(alone) == len(joint) == 4
    assert joint == pytest.approx(alone, rel=1e-5)  # the sums are taken in another order


def _uneven_masks(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("left\nright\n")
    noise = np.random.default_rng(0)
    for i in range(4):
        labels = np.zeros((16, 24), np.uint8)
        labels[:, 12:] = 1
        labels[: 4 * i] = 255
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
        Image.fromarray(noise.integers(0, 255, (16, 24, 3), np.uint8)).save(folder / "images" / f"{i}.png")
    return folder


def test_a_loss_that_is_not_finite_stops_and_says_which(tiny_recipe):
    recipe = tiny_recipe(optimizer={"name": "sgd", "lr": 1e30}, trainer__save_every=1, trainer__ema=None)
    recipe["data"]["workers"] = 0
    with pytest.raises(
        TrainingError, match=r"loss term 'cross-entropy' is nan for the images .*an earlier step is kept"
    ):
        train(recipe, quiet=True)
    state = read_tensors(Path(recipe["trainer"]["folder"]) / "run" / "state.safetensors")
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())


def test_early_stopping_on_any_metric(tiny_recipe):
    recipe = tiny_recipe(
        optimizer={"name": "sgd", "lr": 1e-12},
        trainer__epochs=9,
        trainer__patience=2,
        trainer__monitor="pixel_accuracy",
    )
    recipe["trainer"]["ema"] = None
    recipe["trainer"]["freeze_norm"] = "all"
    run = train(recipe, quiet=True)
    assert run.epochs == 3  # the first is the best; two more are not better
    assert run.monitor == "pixel_accuracy"


def test_an_unknown_monitor_is_named(tiny_recipe):
    with pytest.raises(UsageError, match=r"trainer\.monitor is 'mIoU'; expected one of .*mean_iou"):
        train(tiny_recipe(trainer__monitor="mIoU", trainer__epochs=1), quiet=True)


def test_accumulation_equals_the_larger_batch(tiny_recipe):
    """Without batch-norm; all pixels of the scenes are labelled, so the means weigh alike."""
    common = {
        "model": {"system": "unet", "width": 4, "depth": 2, "padding": "same", "dropout": 0.0},
        "transforms": [],
        "data__workers": 0,
    }
    common |= {"optimizer": {"name": "sgd", "lr": 0.05}, "trainer__epochs": 1, "trainer__ema": None}
    large = train(tiny_recipe(**common, trainer__name="large", trainer__batch_size=4), quiet=True)
    small = train(tiny_recipe(**common, trainer__name="small", trainer__accumulate=2), quiet=True)
    a, b = (rows(r.folder / "steps.csv") for r in (large, small))
    assert [float(r["loss"]) for r in b] == pytest.approx([float(r["loss"]) for r in a], rel=1e-5)


def test_frozen_parts_stay_as_they_are(tiny_recipe):
    """Weights and batch-norm statistics of the backbone, from the first epoch to the last."""
    settings = {"trainer__freeze": ["backbone"], "trainer__ema": None, "data__val_split": None}
    short = train(tiny_recipe(**settings, trainer__name="short", trainer__epochs=1), quiet=True)
    long = train(tiny_recipe(**settings, trainer__name="long"), quiet=True)
    before, after = read_tensors(short.last_checkpoint), read_tensors(long.last_checkpoint)
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert not [key for key in changed if key.startswith("backbone.")]
    assert "classifier.1.weight" in changed
    assert len(rows(long.folder / "epochs.csv")) == 2


def test_rows_of_epochs_without_validation_stand_beside_those_with(tiny_recipe):
    run = train(tiny_recipe(trainer__validate_every=2, data__workers=0), quiet=True)
    first, second = rows(run.folder / "epochs.csv")
    assert first["mean_iou"] == ""
    assert float(second["mean_iou"]) == run.best


def test_the_average_equals_torchs():
    """torch.optim.swa_utils.AveragedModel, told our decay at each step; batch-norm statistics are averaged, too."""
    from torch.optim.swa_utils import AveragedModel

    torch.manual_seed(0)
    model = build("unet", ["a", "b"], width=4, depth=2, norm="batch")
    ours = Average(model, 0.3)
    decay = {"now": 0.0}
    theirs = AveragedModel(
        model,
        avg_fn=lambda mean, new, count: mean.lerp(new, 1 - decay["now"]) if mean.is_floating_point() else new,
        use_buffers=True,
    )
    theirs.update_parameters(model)  # its first update copies
    for step in range(1, 6):
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn_like(value))
        decay["now"] = min(0.3, (1 + step) / (10 + step))
        ours.update(model, step)
        theirs.update_parameters(model)
        for key, value in theirs.module.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(ours.module.state_dict()[key], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer__batch_size": 99}, r"split 'train' has 12 images, fewer than one step takes"),
        ({"trainer__freeze": ["backbones"]}, r"trainer\.freeze has 'backbones', and no parameter's name begins"),
        ({"optimizer__groups": {"backbones": 0.1}}, r"optimizer\.groups has 'backbones'"),
        ({"trainer__devices": 3, "trainer__batch_size": 4}, r"expected a multiple of trainer\.devices \(3\)"),
        ({"trainer__precision": "16", "trainer__accelerator": "cpu"}, r"needs a GPU"),
        ({"data__train": "scenes:fields=boxes+labels"}, r"deeplab-v3-plus needs semantic, which .* does not have"),
    ],
)
def test_bad_settings_are_named(tiny_recipe, changes, message):
    with pytest.raises(UsageError, match=message):
        train(tiny_recipe(**changes), quiet=True)
    assert not (Path(tiny_recipe()["trainer"]["folder"]) / "run" / "recipe.yaml").exists()


def test_a_second_run_of_the_same_name_is_refused(whole_run):
    recipe = whole_run.folder / "recipe.yaml"
    with pytest.raises(UsageError, match="already contains a run; resume it"):
        train(recipe, quiet=True)


def test_a_run_starts_with_the_weights_that_fit_and_names_the_others(whole_run, tiny_recipe, tmp_path, capsys):
    """From a model of nine classes to one of two: all but the classifier are taken over."""
    recipe = tiny_recipe(
        data__train=f"masks:{_uneven_masks(tmp_path / 'masks')}",
        data__val=None,
        data__val_split=None,
        trainer__epochs=1,
        optimizer__lr=1e-12,
        trainer__freeze_norm="all",
        init=str(whole_run.best_checkpoint),
    )
    run = train(recipe)
    said = capsys.readouterr().err
    assert said.count("newly initialised: classifier.1.") == 2
    assert "[2, 16, 1, 1]" in said.replace("\n", "")
    before, after = read_tensors(whole_run.best_checkpoint), read_tensors(run.last_checkpoint)
    for key, value in after.items():
        if not key.startswith("classifier.1."):
            torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6)


def test_validation_images_need_not_divide_among_the_processes(tiny_recipe):
    """Three of them for two processes: neither waits for the other, and the scores are those of one process."""
    common = {
        "model": {"system": "unet", "width": 4, "depth": 2, "padding": "same", "dropout": 0.0},
        "data__val": "scenes:count=3,size=48x64,fields=semantic",
        "data__workers": 0,
        "transforms": [],
        "optimizer": {"name": "sgd", "lr": 0.05},
        "trainer__epochs": 1,
        "trainer__accelerator": "cpu",
    }
    one = train(tiny_recipe(**common, trainer__name="one"), quiet=True)
    two = train(tiny_recipe(**common, trainer__name="two", trainer__devices=2), quiet=True)
    assert two.scores["val/loss"] == pytest.approx(one.scores["val/loss"], rel=1e-4)
    assert two.scores["images"] == one.scores["images"] == 3


def test_a_full_disk_says_what_is_whole_and_how_to_go_on(tmp_path, tiny_recipe, monkeypatch):
    """The disk has no room for the second training state; with room again the run goes on."""
    from scenewise.files import atomic

    written, replace = [], os.replace

    def fail_at_second(source, target):
        written.append(Path(target).name)
        if written.count("state.safetensors") == 2 and written[-1] == "state.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", fail_at_second)
    message = (
        r"^step \d+: .*state\.safetensors: can't be written \(No space left on device\); the file of that name is as "
        r"it was before\. Whole from before: state\.safetensors.* Make room, then go on with: scenewise train "
        r"--resume .*run$"
    )
    with pytest.raises(TrainingError, match=message) as caught:
        train(tiny_recipe(trainer__save_every=1), quiet=True)
    assert caught.value.status == 2
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert train(resume=tmp_path / "run", quiet=True).finished


def test_a_network_beyond_the_machines_memory_is_refused_with_its_size(tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setattr("scenewise.engine.building.memory_of_machine", lambda accelerator: 10_000_000)
    message = (
        r"deeplab-v3-plus with these options has [\d,]+ weights; training keeps 5 numbers for each, .* this machine has"
    )
    with pytest.raises(UsageError, match=message):
        train(tiny_recipe(), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_damaged_training_state_is_refused(tmp_path):
    """Wherever a bit is flipped."""
    model = torch.nn.Linear(3, 2)
    optimizers = {"": torch.optim.AdamW(model.parameters())}
    path = tmp_path / "state.safetensors"
    save_state(path, model, None, optimizers, {"step": 3, "players": {"": {}}})
    whole = path.read_bytes()
    assert load_state(path, model, optimizers)[1]["step"] == 3
    word = whole.find(b'"checksum"')  # without the word itself a file is as one of an earlier version
    for place in (at for at in range(0, len(whole), 5) if not word <= at < word + 10):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="^" + re.escape(str(path))):
            load_state(path, model, optimizers)
