"""docs/losses.md: its code runs, its recipes load, and its tables are those of the package."""

import inspect
import re
from pathlib import Path

import torch
import yaml

from scenewise.losses.table import LOSSES, parameters
from scenewise.recipe import load_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "losses.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_code_on_the_page():
    (block,) = blocks("python")
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert list(names["terms"]) == ["cross-entropy", "jaccard"]
    counted = (names["target"] != 255)[:, None]
    q = names["logits"].softmax(1) * counted
    p = (names["target"][:, None] == torch.arange(2)[:, None, None]) * counted
    hit, both = (q * p).sum((0, 2, 3)), (q + p).sum((0, 2, 3))
    torch.testing.assert_close(names["terms"]["jaccard"], -(hit / (both - hit)).log().mean())
    torch.testing.assert_close(names["value"], 1 - ((hit + 1) / (both - hit + 1)).mean())


def test_the_recipes_on_the_page_load():
    first, second = (load_recipe(yaml.safe_load(block)).arguments["loss"] for block in blocks("yaml"))
    assert first["focal"] == {"weight": 0.5, "gamma": 3}
    assert list(second) == ["cross-entropy", "my_losses:contrast"]
    base = yaml.safe_load(blocks("yaml")[1])
    sums = re.findall(r"`(\{[^`]+\})`", TEXT)
    assert len(sums) == 4
    for terms in sums:
        base["model"]["loss"] = yaml.safe_load(terms)
        load_recipe(base)
    for weights in re.findall(r"`data.class_weights: ([^`]+)`", TEXT):
        load_recipe({**base, "data": {"train": "masks:a", "class_weights": yaml.safe_load(weights)}})


def test_the_tables_hold_every_loss_with_its_parameters():
    rows = {}
    for line in TEXT.splitlines():
        if found := re.match(r"\| `([\w-]+)`( w)? \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[found[1]] = (bool(found[2]), cells)
    assert list(rows) == list(LOSSES)
    for name, (weighted, cells) in rows.items():
        loss = LOSSES[name]
        assert weighted == loss.over_pixels, name
        stated = dict(re.findall(r"`(\w+)=([^`]+)`", cells[-1]))
        actual = {p.name: repr(p.default).replace("'", '"') for p in parameters(loss.function).values()}
        assert stated == actual, name
        if len(cells) == 4:
            assert cells[1] == loss.takes, name
        assert f"`{name}`" in TEXT.split("## Sources")[1] or "Source:" not in inspect.getdoc(loss.function), name
