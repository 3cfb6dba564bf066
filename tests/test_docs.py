"""README and docs: links lead somewhere, commands parse, the first Python example runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
PAGES += sorted([*(REPO / "src" / "scenewise" / "weights").glob("*.md"), *(REPO / "weights").glob("*/src/*/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("scenewise "):
                found.append(line.split("#")[0].strip())
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    import typer.main

    from scenewise.cli import app

    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command, *words = command.commands[words[0]], *words[1:]
    command.make_context("scenewise", list(words))  # raises for what does not fit
    for word in words:
        if word.endswith(".yaml") and command.name == "train":
            assert (REPO / word).is_file(), word


def camvid(folder: Path, size: tuple[int, int]) -> Path:
    """CamVid with two images of noise in each split."""
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind, shape in (("", (*size, 3)), ("annot", size)):
            (folder / f"{split}{kind}").mkdir(parents=True)
            for name in "ab":
                pixels = random.integers(0, 11 if kind else 256, shape, np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}{kind}" / f"{name}.png")
        (folder / f"{split}.txt").write_text("a\nb\n")
    return folder


def own_data(folder: Path, size: tuple[int, int]) -> Path:
    """A ``masks:`` folder of two images in train and two in val."""
    random = np.random.default_rng(1)
    for kind, shape, most in (("images", (*size, 3), 256), ("labels", size, 2)):
        for split in ("train", "val"):
            (folder / kind / split).mkdir(parents=True)
            for name in "ab":
                Image.fromarray(random.integers(0, most, shape, np.uint8)).save(folder / kind / split / f"{name}.png")
    (folder / "classes.txt").write_text("background\nthing\n")
    return folder


def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save("street.jpg")
    camvid(tmp_path / "data" / "camvid", (36, 48))
    own_data(tmp_path / "my-data", (36, 48))
    (tmp_path / "recipes").symlink_to(REPO / "recipes")
    block = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    small = {"data.train": "masks:my-data", "trainer.epochs": 1, "trainer.batch_size": 2, "trainer.validate_every": 1}
    small |= {"transforms": [], "model.input.short_side": 36, "schedule.horizon": None, "schedule.cooldown": 0}
    written = '{"data.train": "masks:my-data", "trainer.epochs": 30}'
    assert written in block
    names: dict[str, object] = {}
    exec(block.replace(written, repr(small)), names)
    assert Path("street.png").is_file()
    assert "{" in capsys.readouterr().out
    assert 0 <= names["scores"]["mean_iou"] <= 1
    assert names["run"].best_checkpoint.is_file()
