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
PAGES += sorted((REPO / "src" / "scenewise" / "weights").glob("*.md"))


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
        if word.endswith(".yaml"):
            assert (REPO / word).is_file(), word


def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save("street.jpg")
    block = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    first = block[1].split("\n\n")
    exec("\n".join(part for part in first if "train(" not in part), {})
    assert Path("street.png").is_file()
    assert "{" in capsys.readouterr().out
