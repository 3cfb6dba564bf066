"""Players: each trains its own part alone; a run of two resumes exactly, kill -9 included; and models in hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from scenewise import predict
from scenewise.catalog import build, name_of
from scenewise.engine import loop
from scenewise.engine.players import make_players, parties_of
from scenewise.engine.train import train
from scenewise.errors import TrainingError, UsageError
from scenewise.files.tensors import read_tensors
from scenewise.recipe import load_recipe
from scenewise.types import Batch
from scenewise.weights.load import load
from tests.engine.test_train import rows
from tests.engine.toys import Adversarial, Deep, Ramps

SYSTEM = "tests.engine.toys:Adversarial"
ROOT = Path(__file__).resolve().parents[2]


def recipe(folder, **changes):
    """Two epochs of four steps."""
    trainer = {"epochs": 2, "batch_size": 2, "ema": 0.9, "folder": str(folder), "name": "run", "accelerator": "cpu"}
    values = {
        "model": {"system": SYSTEM},
        "data": {
            "train": "scenes:count=8,size=32x40,fields=semantic",
            "val": "scenes:count=2,size=32x40,fields=semantic",
            "workers": 0,
        },
        "optimizer": {
            "name": "adam",
            "lr": 0.003,
            "players": {"adversary": {"name": "rmsprop", "lr": 0.001, "ema": 0}},
        },
        "trainer": trainer | changes.pop("trainer", {}),
    }
    return values | changes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return train(recipe(tmp_path_factory.mktemp("whole")), quiet=True)


def same(one, other):
    first, second = (read_tensors(run / "state.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rows(one / "steps.csv") == rows(other / "steps.csv")


def test_both_players_learn_and_are_kept(whole):
    state = read_tensors(whole.folder / "state.safetensors")
    assert any(key.startswith("optimizer/adversary/0/square_avg") for key in state)
    assert any(key.startswith("optimizer/segmenter/0/exp_avg") for key in state)
    assert torch.equal(state["average/adversary.0.weight"], state["model/adversary.0.weight"])  # its own decay, 0
    assert not torch.equal(state["average/segmenter.0.weight"], state["model/segmenter.0.weight"])
    steps = rows(whole.folder / "steps.csv")
    assert float(steps[-1]["segmenter/cross-entropy"]) < float(steps[0]["segmenter/cross-entropy"])
    assert type(load(whole.best_checkpoint)) is Adversarial


def test_no_players_gradient_reaches_another(whole):
    """A step of one player moves its own parameters alone, though its term was computed with the other's."""
    model = build(SYSTEM, ["a", "b"])
    segmenter, adversary = make_players(model, load_recipe(recipe("x")))
    targets = [{"semantic": torch.zeros(8, 8).long()}]
    terms = model.losses(Batch.of([torch.rand(3, 8, 8)], targets))
    torch.stack(segmenter.own(terms)).sum().backward(inputs=segmenter.parameters, retain_graph=True)
    assert all(p.grad is None for p in model.adversary.parameters())
    assert all(p.grad is not None for p in model.segmenter.parameters())
    assert len(adversary.own(terms)) == 2


@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_a_stopped_run_goes_on_exactly(whole, tmp_path, monkeypatch, stop_at):
    log_step = loop.Log.step

    def interrupt(self, step, *values):
        log_step(self, step, *values)
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Log, "step", interrupt)
        assert not train(recipe(tmp_path), quiet=True).finished
    assert train(resume=tmp_path / "run", quiet=True).finished
    same(whole.folder, tmp_path / "run")


def test_a_killed_run_goes_on_exactly(whole, tmp_path):
    values = recipe(tmp_path, trainer={"save_every": 1})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    code = (
        "import torch, time; torch.set_num_threads(1)\n"
        "from scenewise.engine import loop; from scenewise.engine.train import train\n"
        "step = loop.Log.step\n"
        "def slow(self, *a): step(self, *a); time.sleep(0.4)\n"
        f"loop.Log.step = slow; train({str(tmp_path / 'r.yaml')!r}, quiet=True)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/src"}
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert train(resume=tmp_path / "run", quiet=True).finished
    same(whole.folder, tmp_path / "run")


def test_turns_take_one_after_the_other(whole, tmp_path):
    run = train(recipe(tmp_path, trainer={"turns": "in-turn"}), quiet=True)
    first, other = (rows(r.folder / "steps.csv") for r in (whole, run))
    assert first[0]["segmenter/cross-entropy"] == other[0]["segmenter/cross-entropy"]  # the same at the first step
    assert first[0]["adversary/segmented"] != other[0]["adversary/segmented"]  # the adversary meets the moved segmenter


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"system": SYSTEM, "forgotten": True}}, r"players: adversary\.0\.weight belongs to no player"),
        ({"optimizer": {"players": {"critic": {"lr": 1e-3}}}}, "optimizer.players has 'critic'.*segmenter, adversary"),
        (
            {"model": {"system": "tests.engine.toys:Nameless"}},
            "'cross-entropy' is not a player's term; expected PLAYER/TERM",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        train(recipe(tmp_path, **changes), quiet=True)


def test_a_parameter_of_two_players_is_refused():
    model = build(SYSTEM, ["a", "b"])
    model.players = lambda: {"one": model.parameters(), "two": model.adversary.parameters()}
    with pytest.raises(UsageError, match=r"adversary\.0\.weight belongs to 'one' and 'two'"):
        parties_of(model)


# ---- a model and data in hand


def test_a_model_and_data_in_hand_are_trained_saved_and_resumed(tmp_path):
    values = {"trainer.epochs": 8, "trainer.batch_size": 4, "trainer.folder": str(tmp_path), "trainer.name": "run"}
    values |= {"optimizer.lr": 0.05, "data.workers": 0, "trainer.accelerator": "cpu"}
    torch.manual_seed(0)
    model = Deep()
    run = train(overrides=values, model=model, data=Ramps(), quiet=True)
    losses = [float(row["l1"]) for row in rows(run.folder / "steps.csv")]
    assert losses[-1] < 0.5 * losses[0]
    again = load(run.last_checkpoint)
    assert name_of(again) == "tests.engine.toys:Deep"
    image, target = Ramps()[0]
    found = predict(again, image)
    assert (found.depth - target["depth"]).abs().mean() < 0.3  # a constant is 0.5 off
    assert found.draw(image).size[0] >= 24
    assert train(resume=run.folder, model=Deep(), data=Ramps(), quiet=True).finished


def test_what_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    """A buffer that becomes NaN stops the run; the state before it stays and goes on."""
    step = loop.Loop._train_step

    def poisoned(self, batches, stop):
        if self.step == 3:
            with torch.no_grad():
                self.model.segmenter[0].bias[0] = torch.nan
        return step(self, batches, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_train_step", poisoned)
        patch.setattr(loop.Loop, "_check_finite", lambda *a: None)
        with pytest.raises(TrainingError, match=r"not finite|overflowed"):
            train(recipe(tmp_path, trainer={"save_every": 1, "epochs": 40}), quiet=True)
    state = read_tensors(tmp_path / "run" / "state.safetensors")
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_a_mistyped_monitor_is_found_before_the_first_step(tmp_path):
    with pytest.raises(UsageError, match=r"trainer.monitor is 'mean_iuo'; expected one of .*mean_iou"):
        train(recipe(tmp_path, trainer={"monitor": "mean_iuo"}), quiet=True)
    assert not (tmp_path / "run").exists()
