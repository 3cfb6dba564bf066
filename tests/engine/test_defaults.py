"""Training from a data set alone: the system follows from the labels, all else from the data and the machine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from scenewise.catalog import SYSTEMS, build, interface_of
from scenewise.engine import defaults
from scenewise.engine.defaults import Seen, starting_recipe
from scenewise.engine.pace import Pace, measure
from scenewise.engine.players import make_optimizer
from scenewise.engine.train import train
from scenewise.errors import DataError, UsageError
from scenewise.nn.backbone import OFFLINE
from scenewise.recipe import load_recipe
from scenewise.weights.checkpoint import read_header

SCENES = "scenes:count=40,size=64x96,fields="


@pytest.fixture
def paced(monkeypatch):
    """No time is taken: each step is said to take so many seconds, each validation image a tenth of it."""

    def at(step: float = 1.0, memory: float = 1e6) -> None:
        def told(recipe):
            return Pace(step, step / 10, 40, 10, memory)

        monkeypatch.setattr(defaults, "measure", told)

    at()
    return at


@pytest.mark.parametrize(
    ("fields", "system", "words"),
    [
        ("boxes+labels", "faster-rcnn", "with boxes"),
        ("boxes+labels+masks", "mask-rcnn", "with masks of objects"),
        ("boxes+labels+keypoints+visibility", "keypoint-rcnn", "with boxes and keypoints"),
        ("semantic", "deeplab-v3-plus", "with label maps"),
    ],
)
def test_the_system_follows_from_the_labels(paced, fields, system, words):
    start = starting_recipe(SCENES + fields, {})
    assert start.recipe.system == system
    assert words in start.headline
    assert f"Starts with {system}" in start.headline
    assert "efficientnet_lite0" in start.headline
    assert start.recipe.trainer.epochs > 1
    assert start.minutes <= 10
    assert all(value and why for _, value, why in start.choices)


def test_labels_of_no_system_are_named(paced):
    with pytest.raises(DataError, match=r"it has depth; expected one of: boxes, keypoints, labels \(keypoint-rcnn\)"):
        starting_recipe(SCENES + "depth", {})
    with pytest.raises(DataError, match="it has semantic; expected one of: boxes, labels, masks"):
        starting_recipe(SCENES + "semantic", {"model.system": "mask-rcnn"})


def test_another_system_keeps_what_fits_it(paced):
    start = starting_recipe(SCENES + "boxes+labels+masks", {"model.system": "r-fcn", "image_size": 96})
    assert start.recipe.model["system"] == "r-fcn"
    assert start.recipe.model["backbone"] == "efficientnet_lite0"
    assert "anchors" not in start.recipe.model
    assert start.recipe.model["input"]["short_side"] == 96
    unet = starting_recipe(SCENES + "semantic", {"model.system": "unet"})
    assert "backbone" not in unet.recipe.model


def test_what_is_given_is_taken_and_the_rest_follows(paced):
    free = starting_recipe(SCENES + "boxes+labels", {}).recipe
    given = {"image_size": 64, "batch_size": 2, "epochs": 7}
    recipe = starting_recipe(SCENES + "boxes+labels", given).recipe
    assert recipe.model["input"]["short_side"] == 64
    assert (recipe.trainer.batch_size, recipe.trainer.epochs) == (2, 7)
    assert recipe.optimizer.lr / 2 == pytest.approx(free.optimizer.lr / free.trainer.batch_size)
    crops = [r.transforms[0]["RandomResizedCrop"]["size"] for r in (recipe, free)]
    assert crops[0] < crops[1]
    assert starting_recipe(SCENES + "boxes+labels", {"lr": 0.5, "batch_size": 2}).recipe.optimizer.lr == 0.5


def test_the_length_follows_from_the_budget_and_the_pace(paced):
    lengths = {}
    for step in (0.5, 1.0, 2.0):
        paced(step)
        for budget in (5, 10):
            start = starting_recipe(SCENES + "boxes+labels", {"budget": budget})
            lengths[step, budget] = start.recipe.trainer.epochs
            assert start.minutes <= budget
    assert lengths[1.0, 10] == pytest.approx(2 * lengths[1.0, 5], abs=2)
    assert lengths[2.0, 10] == pytest.approx(lengths[1.0, 10] / 2, abs=2)
    paced(1000.0)
    slow = starting_recipe(SCENES + "boxes+labels", {})
    assert slow.recipe.trainer.epochs == defaults.FEWEST_EPOCHS
    assert "more than the budget of 10" in slow.notes[0]
    with pytest.raises(UsageError, match="budget is -1; expected minutes"):
        starting_recipe(SCENES + "boxes+labels", {"budget": -1})


def test_a_batch_that_does_not_fit_the_memory_is_made_smaller(paced, monkeypatch):
    monkeypatch.setattr(defaults, "memory_of_machine", lambda accelerator: 10 * 2**30)
    paced(memory=2 * 2**30)
    start = starting_recipe(SCENES + "boxes+labels", {})
    assert start.recipe.trainer.batch_size == 3
    assert "would take 8.0 GiB of the machine's 10" in {name: why for name, _, why in start.choices}["batch_size"]


def test_steps_are_small_where_the_time_allows_few(paced):
    paced(0.1)
    assert starting_recipe("scenes:count=80,size=64x96,fields=semantic", {}).recipe.trainer.batch_size == 8
    paced(3.0)
    start = starting_recipe("scenes:count=80,size=64x96,fields=semantic", {})
    assert start.recipe.trainer.batch_size == 4
    assert "10 minutes allow only 200 steps of 8" in {name: why for name, _, why in start.choices}["batch_size"]


def test_small_objects_are_seen_larger():
    def side(pixels: float, short: float = 480) -> int:
        return defaults._object_size(Seen(100, short, 1.3, 5, "cell", pixels), "cpu")[0]

    low, high = defaults.OBJECT_INPUT["cpu"]
    assert side(300) == low
    assert side(3) == high
    assert side(38) == 320  # blood platelets: 25 pixels so
    assert side(15, 256) == 416  # nuclei, enlarged
    assert side(38) < side(30) <= high


def test_the_finest_map_follows_the_objects():
    small, large = (
        defaults._boxes(Seen(100, 320, 1.3, 9, "cell", side=30, least=least), (320, 416)) for least in (12, 25)
    )
    assert small["model"]["features"]["strides"][0] == 4
    assert large["model"]["features"]["strides"][0] == 8
    for found in (small, large):
        assert len(found["model"]["anchors"]["sizes"]) == len(found["model"]["features"]["strides"]) + 1


def test_without_the_offline_weights_a_packaged_backbone_is_taken(paced, monkeypatch):
    from scenewise.catalog import build
    from scenewise.weights.load import load

    none = {"efficientnet_lite0": dataclasses.replace(OFFLINE["efficientnet_lite0"], module="not_installed")}
    monkeypatch.setattr(defaults, "OFFLINE", none)
    recipe = starting_recipe(SCENES + "semantic", {}).recipe
    model = build(recipe.system, ("a", "b"), **recipe.arguments)
    there = load("blood-cells").state_dict()["features.backbone.network.conv_stem.weight"]
    assert (model.state_dict()["backbone.network.conv_stem.weight"] == there).all()


def test_random_weights_are_said(paced):
    start = starting_recipe(SCENES + "semantic", {"backbone": "resnet10t"})
    assert start.recipe.model["backbone_weights"] is None
    assert start.recipe.optimizer.groups == {}
    assert "random" in {name: why for name, _, why in start.choices}["weights"]


def test_measuring_changes_no_random_state():
    recipe = load_recipe(
        {
            "model": {"system": "unet", "width": 4, "depth": 2, "padding": "same"},
            "data": {
                "train": "scenes:count=4,size=32x32,fields=semantic",
                "val": "scenes:count=2,size=32x32,fields=semantic",
            },
            "trainer": {"batch_size": 2},
        }
    )
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    pace = measure(recipe)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert pace.step > 0
    assert pace.image > 0
    assert (pace.images, pace.validated) == (4, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images and text files as YOLO has them, without a split of its own: dark squares on bright noise."""
    root = tmp_path_factory.mktemp("data") / "squares"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(120, 255, (48, 64, 3), np.uint8)
        x, y = rng.integers(2, 40), rng.integers(2, 24)
        pixels[y : y + 16, x : x + 16] //= 6
        Image.fromarray(pixels).save(root / "images" / f"{number:02}.png")
        line = f"0 {(x + 8) / 64} {(y + 8) / 48} {16 / 64} {16 / 48}\n"
        (root / "labels" / f"{number:02}.txt").write_text(line)
    (root / "data.yaml").write_text("nc: 1\nnames: [square]\n")
    return root


def test_a_folder_alone_is_trained_from_start_to_pictures(folder, tmp_path, capsys):
    given = {"trainer.folder": str(tmp_path), "name": "run", "epochs": 1, "image_size": 48, "data.workers": 0}
    run = train(folder, given)
    assert run.finished
    said = capsys.readouterr().err
    assert f"yolo:{folder}: " in said
    assert "by the first steps' speed" in said
    kept = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert (kept["data"]["train_split"], kept["data"]["val_split"]) == ("train[:80%]", "train[80%:]")
    header = read_header(run.best_checkpoint)["info"]
    assert header["metrics"]["split"] == "train[80%:]"
    assert header["lineage"] == ["backbone: ImageNet weights of efficientnet_lite0"]
    names = [file.name for file in run.pictures]
    assert names[0] == "best-1.png"
    assert "worst-1.png" in names
    for file in run.pictures:
        with Image.open(file) as page:
            assert page.width > 2 * 64
    for command in ("scenewise predict IMAGES --model", "scenewise evaluate", "scenewise train"):
        assert command in said


def test_a_data_file_is_no_recipe(folder, paced, tmp_path):
    from scenewise.engine.train import _data_in_place_of_a_recipe

    assert _data_in_place_of_a_recipe(folder / "data.yaml") == str(folder / "data.yaml")
    assert _data_in_place_of_a_recipe(folder) == str(folder)
    assert _data_in_place_of_a_recipe("yolo:there") == "yolo:there"
    assert _data_in_place_of_a_recipe("recipes/my-data.yaml") is None
    with pytest.raises(UsageError, match="there: not found; expected a folder of labelled images"):
        train(tmp_path / "there")
    with pytest.raises(UsageError, match=r"imagesize is unknown; did you mean 'image_size'\?"):
        train(folder, {"imagesize": 64})
    with pytest.raises(DataError, match="no data set of a known format"):
        train(tmp_path)


FITTING = [
    (name, next(row.needs for row in defaults.ROWS[::-1] if interface_of(name, {}).needs <= row.needs))
    for name in SYSTEMS
    if any(interface_of(name, {}).needs <= row.needs for row in defaults.ROWS)
]


@pytest.mark.parametrize(("system", "needs"), FITTING, ids=[name for name, _ in FITTING])
def test_any_system_that_fits_the_labels_can_be_named(paced, system, needs):
    """Its recipe builds a model, and the optimizer finds the parameters that the recipe names."""
    more = {"model.multi_grid": None} if system == "deeplab-v3" else {}  # else it asks for a ResNet, and says so
    recipe = starting_recipe(SCENES + "+".join(sorted(needs)), {"model.system": system, **more}).recipe
    arguments = {key: value for key, value in recipe.arguments.items() if not key.endswith("_weights")}
    with torch.device("meta"):
        model = build(system, ("any",), **arguments)
    groups = make_optimizer(model, recipe.optimizer).param_groups
    pretrained = recipe.arguments.get("backbone_weights") is not None
    assert (len({group["lr"] for group in groups}) == 2) is pretrained
