"""The commands ``scenewise data ...``: what they print and write, and their exit status."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_check import write_boxes

CAT, DOG = "0 0.5 0.5 0.5 0.5", "1 0.5 0.5 0.25 0.25"


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Tables as in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def test_check_says_what_is_there_and_then_what_is_wrong(run, tmp_path):
    write_boxes(tmp_path, [[CAT, CAT, DOG]] * 12 + [["0 0.5 0.5 0 0.1"], ["1 0.5 0.5 0.1 0"], [DOG]])
    status, out, _ = run("data", "check", tmp_path)  # without a format
    lines = out.splitlines()
    assert status == 1
    assert lines[0] == f"{tmp_path}: 3 classes, 15 images (train 15)"
    assert lines[1] == "sizes (width x height): 40 x 30"
    assert [line.replace("│", " ").split() for line in lines if line.startswith(("cat", "dog", "horse"))] == [
        ["cat", "12", "24"], ["dog", "13", "13"], ["horse", "0", "0"],
    ]  # fmt: skip
    warning = next(i for i, line in enumerate(lines) if line.startswith("warning: fewer than 20 objects in train"))
    assert "dog (13)" in lines[warning]
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 2  # a width and a height of zero
    assert min(errors) > warning
    assert lines[-1].startswith("2 errors, ")
    assert all(len(line) <= 80 for line in lines[1:warning])


def test_check_groups_equal_problems(run, tmp_path):
    write_boxes(tmp_path, [[f"0 0.5 0.5 0.{i}5 0", CAT] for i in range(9)])
    status, out, _ = run("data", "check", tmp_path, "--json")
    found = json.loads(out)
    assert status == 1
    assert not found["ok"]
    assert found["class_objects"]["cat"] == {"train": 9}
    assert found["sizes"] == [{"height": 30, "width": 40, "images": 9}]
    assert found["few"] == {"cat": 9}
    (problem,) = [p for p in found["problems"] if p["severity"] == "error"]
    assert problem["count"] == 9
    assert len(problem["files"]) == 9
    assert problem["file"].endswith("0.txt")
    _, out, _ = run("data", "check", tmp_path)
    assert out.count("error: ") == 1
    assert "and 8 more like it, such as in" in out


def test_check_of_sound_data(run):
    status, out, _ = run("data", "check", "scenes:count=2,size=48x64", "--split", "val")
    assert status == 0
    assert "9 classes, 2 images (val 2)" in out


def write_recipe(folder, source="scenes:count=6,size=48x64"):
    path = folder / "recipe.yaml"
    path.write_text(
        "model: {system: unet, width: 4, depth: 2, padding: same, input: {short_side: 32}}\n"
        f"data: {{train: '{source}', val_split: null}}\n"
        "transforms: [{RandomHorizontalFlip: {p: 1}}]\n"
        "trainer: {batch_size: 2}\n"
    )
    return path


def test_show_draws_what_training_sees(run, tmp_path):
    """The first samples of the epoch in training's order, resized and mirrored."""
    from scenewise.data.loader import Epochs, training_batches
    from scenewise.engine.seen import TrainingSamples
    from scenewise.recipe import load_recipe

    recipe = write_recipe(tmp_path)
    status, out, err = run(
        "data", "show", "--recipe", recipe, "trainer.seed=5", "--count", "3", "--out", tmp_path / "shown"
    )
    assert status == 0, err
    assert "the first 3 of 6 samples that training sees in epoch 1" in out
    samples = TrainingSamples(load_recipe(recipe, {"trainer.seed": 5}))
    names = [samples[i][0] for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "shown").iterdir()) == [
        f"{i + 1:03}-{n}.png" for i, n in enumerate(names)
    ]
    for position in range(3):
        _, (image, _), (seen, _) = samples[position]
        assert image.shape[-2:] == (48, 64)
        assert seen.shape[-2:] == (32, 42)
    fed = training_batches(
        samples.data, Epochs(6, 2, seed=5, epoch=0), transform=samples._set.transform, seed=5, needs={"semantic"}
    )
    first = next(iter(fed))
    for row in range(2):
        assert torch.equal(first.images[row], samples[row][2][0].as_subclass(torch.Tensor) / 255)
        assert torch.equal(first.targets[row]["semantic"], samples[row][2][1]["semantic"].long())


def test_show_needs_data_or_a_recipe(run, tmp_path):
    status, _, err = run("data", "show")
    assert status == 2
    assert "data show needs a data set" in err
    status, _, err = run("data", "show", "--recipe", write_recipe(tmp_path, "masks:nowhere"))
    assert status == 2
    assert f"beside the recipe ({tmp_path / 'nowhere'}) or in the working folder (" in err


def test_convert_and_split(run, tmp_path):
    write_boxes(tmp_path / "in", [[CAT, DOG]] * 20)
    status, out, err = run("data", "convert", tmp_path / "in", f"voc:{tmp_path / 'voc'}")
    assert status == 0, err
    assert out == f"voc:{tmp_path / 'voc'}: train 20 images with 40 objects\n"
    assert "note: the numbers of classes" in err
    status, _, err = run("data", "convert", tmp_path / "in", f"voc:{tmp_path / 'voc'}")
    assert status == 2
    assert "is there already" in err
    status, _, err = run(
        "data", "convert", "scenes:count=2,size=48x64", f"voc:{tmp_path / 'lost'}", "--fields", "boxes"
    )
    assert status == 2
    assert "--lossy" in err
    status, out, err = run(
        "data",
        "convert",
        "scenes:count=2,size=48x64",
        f"voc:{tmp_path / 'lost'}",
        "--fields",
        "boxes",
        "--lossy",
        "--json",
    )
    assert status == 0, err
    assert json.loads(out)["images"] == {"train": 2, "val": 2, "test": 2}
    assert json.loads(out)["lost"] == ["colours of the classes: left out"]
    parts = "train=2,val=1"
    status, out, err = run(
        "data", "split", tmp_path / "in", f"coco:{tmp_path / 'coco'}", "--parts", parts, "--link", "--stratify"
    )
    assert status == 0, err
    assert f"coco:{tmp_path / 'coco'}: train 13 images, val 7 images" in out
    status, _, err = run("data", "split", tmp_path / "in", "--parts", "train")
    assert status == 2
    assert "--parts is 'train'; expected splits and shares" in err


def test_show_of_boxes_draws_their_labels(run, tmp_path):
    """The sides of the box are in the right panel, in the colour of its class; the left one is the image alone."""
    write_boxes(tmp_path / "in", [[CAT]], size=(160, 120))
    status, _, err = run("data", "show", tmp_path / "in", "--out", tmp_path / "shown")
    assert status == 0, err
    picture = np.array(Image.open(tmp_path / "shown" / "0.png").convert("RGB"))
    blue = (picture == np.array([0, 114, 178])).all(-1)
    left, right = np.array_split(blue, 2, axis=1)
    assert not left.any()
    assert right.any(1).sum() > 60  # rows: half of the height of 120 pixels
    assert right.any(0).sum() > 80


def test_counts_of_one(run, tmp_path):
    write_boxes(tmp_path, [[CAT]])
    (tmp_path / "classes.txt").write_text("cat\n")
    assert run("data", "check", tmp_path)[1].splitlines()[0] == f"{tmp_path}: 1 class, 1 image (train 1)"
