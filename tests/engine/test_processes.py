"""Processes: scripts without a guard, loaders that are killed or fail, errors of children, what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scenewise
from scenewise.data import open_data
from scenewise.data.loader import Epochs
from scenewise.data.scenes.scenes import Scenes
from scenewise.engine.train import train
from scenewise.errors import DataError, LoaderError, TrainingError

RECIPE = {
    "model": {"system": "unet", "width": 4, "depth": 2, "padding": "same"},
    "data": {"train": "scenes:count=8,size=32", "val_split": None, "workers": 0},
    "trainer": {"epochs": 2, "batch_size": 2, "accelerator": "cpu"},
}


def recipe(folder, **data):
    trainer = {**RECIPE["trainer"], "folder": str(folder), "name": "run"}
    return {**RECIPE, "data": {**RECIPE["data"], **data}, "trainer": trainer}


class KillsItsLoader:
    """A transform that kills the process that calls it, once; the file ``mark`` then has its number."""

    def __init__(self, mark: Path) -> None:
        self.mark, self.parent = mark, os.getpid()

    def __call__(self, image, target):
        if os.getpid() != self.parent and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return image, target


def test_a_killed_loader_is_one_error_and_the_run_goes_on(tmp_path):
    with pytest.raises(TrainingError, match=r"a process that loads images ended: .*--resume") as caught:
        train(recipe(tmp_path, workers=2), transform=KillsItsLoader(tmp_path / "mark"), quiet=True)
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)
    batches = [[name for _, name in batch] for batch in Epochs(8, 2, seed=0, epoch=0)]
    dead = (tmp_path / "mark").read_text()
    told = re.search(r"\(pid(?:\(s\))? (\d+)\).*; it was at the images (\S+), (\S+) of scenes:", str(caught.value))
    assert told is not None, str(caught.value)
    assert told[1] == dead
    data = open_data("scenes:count=8,size=32")
    assert [told[2], told[3]] in [[data.image_id(index) for index in batch] for batch in batches]
    assert (tmp_path / "run" / "state.safetensors").is_file()
    assert not torch.multiprocessing.active_children()
    again = train(resume=tmp_path / "run", transform=KillsItsLoader(tmp_path / "mark"), quiet=True)
    assert again.finished


class Killed(Scenes):
    """Scenes whose first loader process is killed."""

    def __init__(self, mark: Path) -> None:
        super().__init__(Path("count=4,size=32,fields=semantic"), "val")
        self.killer = KillsItsLoader(mark)

    def __getitem__(self, index):
        self.killer(None, None)
        return super().__getitem__(index)


def test_a_loader_that_is_killed_in_a_validation_is_one_error_too(tmp_path):
    data = Killed(tmp_path / "mark")
    given = recipe(tmp_path, workers=1)
    first = data.image_id(0)
    message = rf"a process that loads images ended: .*; it was at the image {first} of .*--resume"
    with pytest.raises(TrainingError, match=message) as caught:
        train(given, validation=data, quiet=True)
    assert caught.value.status == 1
    assert not torch.multiprocessing.active_children()
    assert train(resume=tmp_path / "run", validation=data, quiet=True).finished
    (tmp_path / "mark").unlink()
    model = scenewise.build("unet", data.classes, width=4, depth=2, padding="same")
    message = rf"ended: .*; it was at the image {first} of .*give fewer workers or a smaller batch$"
    with pytest.raises(LoaderError, match=message):
        scenewise.evaluate(model, data, workers=1)
    assert not torch.multiprocessing.active_children()


class Mistaken:
    """A transform with a mistake that no user of scenewise made."""

    def __call__(self, image, target):
        raise RuntimeError("shapes do not fit")


def test_a_mistake_in_a_loader_is_not_taken_for_its_death(tmp_path):
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        train(recipe(tmp_path, workers=1), transform=Mistaken(), quiet=True)
    assert caught.tb is not None  # it holds the frames of the loader, whose processes ended nevertheless: ...
    assert not torch.multiprocessing.active_children()  # ... Python's exit would wait for them for ever


def broken_masks(root: Path) -> str:
    """A folder of eight images, one of which is cut short."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for index in range(8):
        noise = np.random.default_rng(index).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{index}.png")
        Image.fromarray((noise[..., 0] % 2).astype(np.uint8)).save(root / "labels" / f"{index}.png")
    file = root / "images" / "5.png"
    file.write_bytes(file.read_bytes()[:400])
    (root / "classes.txt").write_text("a\nb\n")
    return f"masks:{root}"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_the_same_error_from_a_loader(workers, tmp_path):
    source = broken_masks(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        train(recipe(tmp_path, train=source, workers=workers), quiet=True)
    assert str(caught.value).startswith(f"{tmp_path / 'data' / 'images' / '5.png'}: ")
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not torch.multiprocessing.active_children()  # though the error is still held
    model = scenewise.build("unet", ("a", "b"), width=4, depth=2, padding="same")
    with pytest.raises(DataError) as caught:
        scenewise.evaluate(model, source, "train", workers=workers)
    assert "\n" not in str(caught.value)
    assert not torch.multiprocessing.active_children()


def run_script(text: str, folder: Path, *, main: str = "script.py") -> subprocess.CompletedProcess[str]:
    """Runs ``text`` as a script in ``folder``."""
    (folder / main).write_text(text)
    source = str(Path(scenewise.__file__).parents[1])
    return subprocess.run(
        [sys.executable, main], cwd=folder, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": source}, check=False,
    )  # fmt: skip


def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path):
    """Under the start method of macOS, Windows and newer Python; and below a guard it trains."""
    start = "import multiprocessing, scenewise\nmultiprocessing.set_start_method('spawn', force=True)\n"
    call = f"scenewise.train({recipe('runs', workers=1)!r}, quiet=True)\n"
    done = run_script(f"{start}def go():\n    return {call}\ngo()\n", tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("scenewise.errors.UsageError: ")
    assert "script.py, line 6: data.workers is 1, and processes start by spawn here" in last
    assert 'put this line under `if __name__ == "__main__":`, or give data.workers 0' in last
    assert "bootstrapping" not in done.stderr
    assert not (tmp_path / "runs").exists()
    done = run_script(f'{start}if __name__ == "__main__":\n    print({call[:-1]}.finished)\n', tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr[-500:]


def test_an_error_of_one_of_several_processes_is_the_projects_own(tmp_path):
    """And a process of several that is killed is one error that says how to go on."""
    source = broken_masks(tmp_path / "data")
    given = recipe("runs", train=source)
    given["trainer"] |= {"devices": 2, "batch_size": 4}
    text = (
        "import os, signal, scenewise\n"
        "from scenewise.errors import ScenewiseError\n"
        "class Kill:\n"
        "    def __init__(self, once): self.once, self.parent = once, os.getpid()\n"
        "    def __call__(self, image, target):\n"
        "        if not os.path.exists(self.once):\n"
        "            open(self.once, 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return image, target\n"
        'if __name__ == "__main__":\n'
        f"    first = {given!r}\n"
        "    second = {**first, 'data': {**first['data'], 'train': 'scenes:count=8,size=32'}}\n"
        "    second['trainer'] = {**first['trainer'], 'name': 'killed'}\n"
        "    for words in ({'recipe': first}, {'recipe': second, 'transform': Kill('once')}):\n"
        "        try:\n"
        "            scenewise.train(**words, quiet=True)\n"
        "        except ScenewiseError as error:\n"
        "            print(type(error).__name__, error)\n"
    )
    done = run_script(text, tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, (done.stdout[-500:], done.stderr[-500:])
    assert "Terminating process" not in done.stderr  # torch's own words, before the error
    assert lines[0].startswith(f"DataError {tmp_path / 'data' / 'images' / '5.png'}: ")
    assert lines[1].startswith("TrainingError training process ")
    assert "ended by signal SIGKILL" in lines[1]
    assert "go on from the last saved state with: scenewise train --resume runs/killed" in lines[1].lower()


def test_a_run_goes_on_from_any_folder(tmp_path, monkeypatch):
    """Its data set was named by a path beside the recipe."""
    for folder in ("images", "labels"):
        (tmp_path / "here" / "data" / folder).mkdir(parents=True)
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "here" / "data" / "images" / f"{index}.png")
        Image.fromarray((noise[..., 0] % 2).astype(np.uint8)).save(tmp_path / "here" / "data/labels" / f"{index}.png")
    (tmp_path / "here" / "data" / "classes.txt").write_text("a\nb\n")
    given = recipe("runs", train="masks:data")
    (tmp_path / "here" / "recipe.yaml").write_text(json.dumps(given))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError):
        train("here/recipe.yaml", transform=Fails(), quiet=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train(resume="../runs/run", quiet=True).finished


class Fails:
    """A transform with a mistake of its own."""

    def __call__(self, image, target):
        raise TrainingError("stopped here")


def test_the_recipe_is_written_before_all_else(tmp_path):
    """A run that ends before its first step goes on."""
    with pytest.raises(TrainingError):
        train(recipe(tmp_path), transform=Fails(), quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".yaml"] == ["recipe.yaml"]
    assert not (tmp_path / "run" / "state.safetensors").exists()
    assert train(resume=tmp_path / "run", quiet=True).finished


def test_the_next_start_removes_what_a_killed_run_left(tmp_path):
    run = train(recipe(tmp_path), quiet=True)
    ended, living = subprocess.Popen([sys.executable, "-c", ""]), subprocess.Popen(["sleep", "60"])
    ended.wait()
    try:
        left = [run.folder / f".state.safetensors.{number}.tmp" for number in (ended.pid, os.getpid())]
        other = run.folder / f".state.safetensors.{living.pid}.tmp"
        for file in (*left, other):
            file.touch()
        train(resume=run.folder, quiet=True)
        assert not any(file.exists() for file in left)
        assert other.exists()
    finally:
        living.kill()
        living.wait()


def test_the_stages_of_a_killed_run_leave_nothing_either(tmp_path):
    given = recipe(tmp_path)
    run = train({**given, "stages": [{}, {"trainer": {"epochs": 1}}]}, quiet=True)
    left = run.folder / "stage-2" / f".best.safetensors.{os.getpid()}.tmp"
    left.touch()
    (run.folder / "stage-2" / "run.json").unlink()
    train(resume=run.folder, quiet=True)
    assert not left.exists()
