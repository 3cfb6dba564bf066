"""The page on extending: its code is one file, which is run as the page says, and its claims hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extend.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where mine.py lies and has run."""
    folder = tmp_path_factory.mktemp("extend")
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    before, main, after = re.split(r"(?=def main|def squared_error)", code)
    (folder / "mine.py").write_text(before + after + "\n" + main, encoding="utf-8")  # the functions, then what runs
    done = subprocess.run([sys.executable, "mine.py"], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "said.txt").write_text(done.stdout.strip().splitlines()[-1])
    return folder


def run(folder, *words):
    code = "import sys; from scenewise.cli import main; sys.argv[0] = 'scenewise'; main()"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, timeout=240)


def test_it_trains_by_its_own_metric_and_finds_outlines(folder):
    ods, overlap = map(float, (folder / "said.txt").read_text().split())
    assert ods > 0.8  # an untrained network's map is one grey
    assert overlap > 0.3
    assert (folder / "outlines.png").stat().st_size > 1000
    log = (folder / "runs" / "outlines" / "epochs.csv").read_text()
    assert "overlap" in log.splitlines()[0]


def test_the_command_knows_the_system_and_its_checkpoint(folder):
    shown = run(folder, "models", "mine:Outlines")
    assert shown.returncode == 0, shown.stderr
    assert "channels of the network" in shown.stdout
    done = run(folder, "predict", "outlines.png", "--model", "runs/outlines/best.safetensors", "--out", "seen")
    assert done.returncode == 0, done.stderr
    assert (folder / "seen" / "outlines.png").is_file()


def test_a_loss_by_name_and_a_changed_model_that_is_refused(folder):
    code = (
        "import torch, scenewise, mine\n"
        "loss = {'cross-entropy': 1.0, 'mine:squared_error': {'weight': 0.5, 'power': 3}}\n"
        "model = scenewise.build('unet', ['a', 'b'], depth=2, width=4, loss=loss)\n"
        "batch = scenewise.Batch.of([torch.rand(3, 32, 32)], [{'semantic': torch.zeros(32, 32).long()}])\n"
        "print(sorted(model.losses(batch)))\n"
        "model = mine.Outlines(width=4)\n"
        "model.net = torch.nn.Conv2d(3, 1, 1)\n"
        "try:\n scenewise.save(model, 'changed.safetensors')\n"
        "except scenewise.ScenewiseError as error:\n print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    terms, refusal = done.stdout.splitlines()
    assert "mine:squared_error" in terms
    assert "net." in refusal
    assert not (folder / "changed.safetensors").exists()
