"""Recipes: every mistake is named by its dotted path; every shipped recipe builds; schedules equal torch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from scenewise.catalog import build
from scenewise.data.transforms.by_name import build_transforms
from scenewise.engine.players import make_optimizer
from scenewise.errors import ScenewiseError, UsageError
from scenewise.recipe import Recipe, ScheduleSettings, load_recipe, parse_overrides
from tests.data.fuzz import OPERATIONS, mutate

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
MINIMAL = {"model": {"system": "unet"}, "data": {"train": "scenes:"}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_builds(path):
    recipe = load_recipe(path)
    arguments = {k: v for k, v in recipe.arguments.items() if k != "backbone_weights"}
    classes = [f"class {i}" for i in range(len(arguments.get("class_weights", "abc")))]
    model = build(recipe.system, classes, **arguments)
    assert model.needs
    assert (build_transforms(recipe.transforms) is None) == (not recipe.transforms)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainer.epoch", 3, r"recipe: trainer\.epoch is unknown; did you mean 'epochs'\?"),
        ("trainer.epochs", "many", r"trainer\.epochs is 'many'; expected a valid integer"),
        ("trainer.epochs", 0, r"trainer\.epochs is 0; expected greater than or equal to 1"),
        ("optimizer.name", "adan", r"optimizer\.name is 'adan'; expected 'sgd', 'adam', 'adamw' or 'rmsprop'"),
        ("trainner", {}, r"trainner is unknown; did you mean 'trainer'\?"),
        ("model.widht", 3, r"model: unet has no option 'widht'; did you mean 'width'\?"),
        ("model.width", "wide", r"model: unet: width is 'wide'; expected int"),
        ("model.system", "u-net", r"there is no system 'u-net'; did you mean 'unet'\?"),
        ("model.classes", ["a"], r"the classes come from the data set"),
        ("model", {}, r"model\.system is missing"),
        ("data", {}, r"data\.train is missing"),
        ("optimizer.lr", True, r"optimizer\.lr is True; expected a number; true and false are not numbers"),
        ("optimizer.betas", [0.9, False], r"optimizer\.betas is \[0\.9, False\]; expected a number"),
        ("optimizer.groups", {"a": True}, r"optimizer\.groups is .*expected a number"),
        ("trainer.epochs", True, r"trainer\.epochs is True; expected a number"),
        ("optimizer.lr", float("inf"), r"optimizer\.lr is inf; expected a finite number"),
        ("optimizer.lr", float("nan"), r"optimizer\.lr is nan; expected"),
        ("trainer.epochs", "x" * 10000, r"trainer\.epochs is 'x+\.\.\.x+'; expected a valid integer"),
        ("model.width", True, r"unet: width is True; expected int \(true and false are not numbers\)"),
        ("model.depth", 16, r"unet: depth is 16; expected int \(Input should be less than or equal to 8\)"),
        ("model.dropout", 9e18, r"unet: dropout is 9e\+18; expected float \(Input should be less than 1\)"),
        ("model.dropout", -0.1, r"unet: dropout is -0\.1; expected float \(.*greater than or equal to 0\)"),
        ("model.sigma", float("nan"), r"unet: sigma is nan; expected float"),
        ("model.loss", {"cross-entropy": -1}, r"the weight of cross-entropy is -1; expected a number, 0 or more"),
        ("model.loss", {"cross-entropy": 0}, r"loss: all weights are 0"),
        ("model.loss", {}, r"loss is empty; expected at least one loss"),
        ("model.loss", {"focal": {"gamma": True}}, r"gamma is True; expected float \(true and false are not numbers\)"),
        ("model.loss", {"focal": {"gamma": float("nan")}}, r"gamma is nan; expected float"),
        ("model.class_weights", [1, -1], r"class_weights\[1\] is -1; expected"),
        ("model.input", {"short_side": True}, r"unet: input is .*true and false are not numbers"),
        ("model.input", {"short_side": 0}, r"input: short_side is 0; expected"),
        ("model.input", {"size": [64]}, r"input: size is .*expected"),
        ("model.input", {"mean": [0, 0, "a"]}, r"input: mean is .*expected"),
        ("trainer.name", "a/b", r"trainer\.name is 'a/b'; expected"),
        ("trainer.name", "a" * 300, r"trainer\.name is 'a+\.\.\.a+'; expected"),
        ("trainer." + "x" * 9000, 1, r"^recipe: trainer\.x+ \.\.\. .*known: epochs, .{,2000}$"),
        ("data.train.path", 1, r"'train' has the value 'scenes:' and no entries of its own"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(MINIMAL, {path: value})


def test_the_file_is_named(tmp_path):
    for text, message in [("model: [", "not YAML"), ("- 1", "holds a list; expected a mapping")]:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        with pytest.raises(UsageError, match=rf"r\.yaml: {message}"):
            load_recipe(path)
    with pytest.raises(UsageError, match=r"absent\.yaml: not found; expected a recipe"):
        load_recipe(tmp_path / "absent.yaml")


def test_a_recipe_survives_its_yaml(tmp_path):
    recipe = load_recipe(RECIPES[0])
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_overrides_are_yaml_values():
    assert parse_overrides(["a.b=3", "c=[1, 2]", "d=x:y", "e=", "f=1e-3"]) == {
        "a.b": 3, "c": [1, 2], "d": "x:y", "e": None, "f": 0.001,
    }  # fmt: skip
    assert load_recipe(MINIMAL, {"optimizer.lr": "1e-3"}).optimizer.lr == 1e-3
    with pytest.raises(UsageError, match="expected key=value"):
        parse_overrides(["epochs"])


def torch_rates(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


S = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"name": "constant"}, lambda o: S.ConstantLR(o, factor=1.0)),
        ({"name": "poly", "power": 0.9}, lambda o: S.PolynomialLR(o, 40, power=0.9)),
        ({"name": "cosine"}, lambda o: S.CosineAnnealingLR(o, 40)),
        ({"name": "step", "milestones": (1, 3)}, lambda o: S.MultiStepLR(o, [10, 30])),
        ({"name": "exponential", "gamma": 0.5}, lambda o: S.StepLR(o, 10, gamma=0.5)),
        (
            {"name": "constant", "warmup_steps": 5, "warmup_factor": 0.1},
            lambda o: S.LinearLR(o, start_factor=0.1, total_iters=5),
        ),
        (
            {"name": "cosine", "warmup_steps": 8, "warmup_factor": 0.1},
            lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, total_iters=8), S.CosineAnnealingLR(o, 32)], [8]),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_schedules_equal_torchs(settings, make):
    schedule = ScheduleSettings(**settings)
    ours = [schedule.factor(step, 40, 10) for step in range(40)]
    assert ours == pytest.approx(torch_rates(make, 40), abs=1e-9)


@pytest.mark.parametrize(
    ("system", "words", "place", "expected"),
    [
        ("faster-rcnn", ["model.roi=warp", "model.head.reduce=mean"], "pooler.spec.reduce", "mean"),
        ("faster-rcnn", ["model.roi=pool", "model.head.reduce=mean"], "pooler.spec.reduce", "mean"),
        ("faster-rcnn", ["model.roi=align", "model.head.reduce=max"], "pooler.spec.reduce", "max"),
        ("fast-rcnn", ["model.roi=align", "model.head.reduce=max"], "pooler.spec.reduce", "max"),
        ("faster-rcnn", ["model.detections.voting_iou=0.5"], "detections.voting_iou", 0.5),
        ("mask-rcnn", ["model.mask.nms_iou=0.4"], "mask_head.spec.nms_iou", 0.4),
        ("faster-rcnn", ["model.hard_examples={count: 64, nms_iou: 0.7}"], "hard_examples.nms_iou", 0.7),
        ("fast-rcnn", ["model.hard_examples={count: 64, nms_iou: 0.7}"], "hard_examples.nms_iou", 0.7),
        ("r-fcn", ["model.hard_examples={count: 64, nms_iou: 0.7}"], "hard_examples.nms_iou", 0.7),
        ("faster-rcnn", ["model.design=c4", "model.anchors.legacy=true"], "rpn.anchors.legacy", True),
        ("faster-rcnn", ["model.beta=1.0"], "beta", 1.0),
        ("fast-rcnn", ["model.beta=0.5"], "beta", 0.5),
        ("r-fcn", ["model.beta=0.5"], "beta", 0.5),
        ("faster-rcnn", ["model.proposals.channels=24"], "rpn.conv.out_channels", 24),
        ("faster-rcnn", ["model.proposals.dilation=2"], "rpn.conv.dilation", (2, 2)),
        ("rpn", ["model.proposals={channels: 24, dilation: 2}"], "rpn.conv.dilation", (2, 2)),
        ("faster-rcnn", ["model.design=c4"], "sampler.samples", 128),
        ("faster-rcnn", ["model.design=c4"], "rpn.anchors.sizes", ((128.0, 256.0, 512.0),)),
        ("faster-rcnn", ["model.design=c5"], "input.short_side", 600),
        ("faster-rcnn", ["model.design=c5"], "detections.nms_iou", 0.3),
        ("faster-rcnn", ["model.backbone=vgg16", "model.design=c5"], "box_head.body.second.in_features", 4096),
        (
            "rcnn",
            ["model.backbone=vgg16", "model.pool_size=7", "model.hidden=[4096, 4096]"],
            "classifier.in_features",
            4096,
        ),
        ("unet", ["model.loss={lovasz-hinge: {scope: image}}"], "loss.terms.lovasz-hinge.arguments.scope", "image"),
        ("unet", ["model.loss={generalized-dice: {power: 1.0}}"], "loss.terms.generalized-dice.arguments.power", 1.0),
        (
            "unet",
            ["model.loss.cross-entropy=1", "model.loss.jaccard.log=true"],
            "loss.terms.jaccard.arguments.log",
            True,
        ),
        ("unet", ["model.loss.focal.gamma=3"], "loss.terms.focal.arguments.gamma", 3.0),
    ],
)
def test_options_are_reached_by_words_of_the_command(system, words, place, expected):
    recipe = load_recipe({"model": {"system": system}, "data": {"train": "scenes:"}}, parse_overrides(words))
    with torch.device("meta"):  # no memory, no random numbers
        found = build(recipe.system, ["a", "b"], **recipe.arguments)
    for part in place.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == expected


def test_rmsprop_and_its_rates_are_reached_by_words_of_the_command():
    """As the TF Object Detection API has them: a large epsilon, and a decay every so many steps."""
    words = ["optimizer.name=rmsprop", "optimizer.alpha=0.9", "optimizer.eps=1.0", "schedule.name=exponential"]
    words += ["schedule.gamma=0.95", "schedule.decay_steps=4"]
    recipe = load_recipe(MINIMAL, parse_overrides(words))
    optimizer = make_optimizer(build("unet", ["a", "b"], width=1, depth=1), recipe.optimizer)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert (optimizer.defaults["alpha"], optimizer.defaults["eps"]) == (0.9, 1.0)
    found = [recipe.schedule.factor(step, 12, 100) for step in range(12)]
    assert found == pytest.approx([0.95 ** (step // 4) for step in range(12)])
    words = ["optimizer.lr=0.02", "schedule.name=rates", "schedule.rates=[[0, 0.01], [5, 0.02], [8, 0.001]]"]
    recipe = load_recipe(MINIMAL, parse_overrides(words))
    found = [recipe.optimizer.lr * recipe.schedule.factor(step, 12, 100, recipe.optimizer.lr) for step in range(12)]
    assert found == pytest.approx([0.01] * 5 + [0.02] * 3 + [0.001] * 4)
    for name, value, message in (("alpha", 0.5, "alpha is for rmsprop"), ("eps", 1.0, "eps is for adam, adamw and")):
        with pytest.raises(UsageError, match=message):
            load_recipe(MINIMAL, {"optimizer.name": "sgd", f"optimizer.{name}": value})


def test_settings_are_documented_by_their_defaults():
    recipe = Recipe.model_validate(MINIMAL)
    assert recipe.trainer.epochs == 20
    assert recipe.data.val_split == "val"


def test_paths_are_looked_up_beside_the_recipe_and_then_in_the_working_folder(tmp_path, monkeypatch):
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside / "both", here / "both", here / "one", beside / "street-scenes"):
        folder.mkdir(parents=True)
    (beside / "weights.safetensors").touch()
    (here / "given.safetensors").touch()
    monkeypatch.chdir(here)
    text = (
        "model: {system: unet}\ndata: {train: 'masks:both', val: one}\n"
        "init: [weights.safetensors, street-scenes, given.safetensors]\n"
        "stages: [{data: {train: 'masks:one'}}, {init: stage-1}]\n"
    )
    (beside / "recipe.yaml").write_text(text)
    recipe = load_recipe("../beside/recipe.yaml")
    assert recipe.data.train == f"masks:{beside / 'both'}"
    assert recipe.data.val == str(here / "one")
    assert recipe.init == (str(beside / "weights.safetensors"), "street-scenes", str(here / "given.safetensors"))
    assert recipe.stages[0]["data"]["train"] == f"masks:{here / 'one'}"
    assert recipe.stages[1]["init"] == "stage-1"
    assert load_recipe("../beside/recipe.yaml", {"data.train": "masks:one"}).data.train == f"masks:{here / 'one'}"
    assert (
        load_recipe({"model": {"system": "unet"}, "data": {"train": "scenes:count=4"}}).data.train == "scenes:count=4"
    )


FULL = b"""\
model: {system: unet, width: 8, depth: 2, dropout: 0.1, loss: {cross-entropy: 1.0, focal: {weight: 0.5, gamma: 3}},
        input: {short_side: 64, mean: [0.5, 0.5, 0.5]}}
data: {train: "scenes:count=4", val_split: null, workers: 0, class_weights: median}
transforms: [RandomHorizontalFlip, {ColorJitter: {brightness: 0.4}}]
optimizer: {name: sgd, lr: 1e-2, groups: {network: 0.1}}
schedule: {name: step, milestones: [3, 5], gamma: 0.1}
trainer: {epochs: 3, batch_size: 2, ema: 0.9, half: false, name: run}
about: &text a run
init: [a, b]
stages: [{trainer: {epochs: 2}}, {schedule: {name: constant}}]
"""


@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
@given(OPERATIONS)
def test_mutated_recipes(tmp_path_factory, operations):
    """Whatever a recipe holds, it is read, and comes back as it was written; or it is refused in one short line."""
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(mutate(FULL, operations))
    try:
        recipe = load_recipe(path)
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        assert load_recipe(path) == recipe
        message = ""
    except ScenewiseError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2500


def test_entries_of_lists_can_be_set():
    source = {**MINIMAL, "transforms": ["RandomHorizontalFlip", {"RandomCrop": {"size": [32, 32], "padding": 1}}]}
    changes = {"transforms.1.RandomCrop.size": [64, 48], "transforms.0.RandomHorizontalFlip.p": 0.3}
    recipe = load_recipe(source, changes)
    assert recipe.transforms == (
        {"RandomHorizontalFlip": {"p": 0.3}},
        {"RandomCrop": {"size": [64, 48], "padding": 1}},
    )
    assert source["transforms"][1]["RandomCrop"]["size"] == [32, 32]
    assert load_recipe(source, {"transforms.1.RandomCrop.size.0": 96}).transforms[1]["RandomCrop"]["size"] == [96, 32]
    for number in ("2", "-1", "last"):
        with pytest.raises(
            UsageError, match=f"transforms is a list and has no entry '{number}'; expected a number from 0"
        ):
            load_recipe(source, {f"transforms.{number}.size": 3})


def test_short_words_stand_for_paths():
    recipe = load_recipe(MINIMAL, {"epochs": 3, "batch_size": 4, "image_size": 96, "lr": 0.5, "name": "mine"})
    assert (recipe.trainer.epochs, recipe.trainer.batch_size, recipe.trainer.name) == (3, 4, "mine")
    assert recipe.model["input"] == {"short_side": 96}
    assert recipe.optimizer.lr == 0.5
    assert load_recipe(MINIMAL, {"image_size": [64, 96]}).model["input"] == {"size": [64, 96]}
    with pytest.raises(UsageError, match=r"trainer\.epochs is 4, and trainer\.epochs is given, too"):
        load_recipe(MINIMAL, {"epochs": 3, "trainer.epochs": 4})


def test_the_learning_rate_grows_with_the_batch_unless_it_is_given():
    source = {**MINIMAL, "optimizer": {"lr_per_16": 0.002}}
    assert load_recipe(source).optimizer.lr == pytest.approx(0.001)
    assert load_recipe(source, {"batch_size": 4}).optimizer.lr == pytest.approx(0.0005)
    assert load_recipe(source, {"trainer.accumulate": 4}).optimizer.lr == pytest.approx(0.004)
    assert load_recipe(source, {"lr": 0.3, "batch_size": 4}).optimizer.lr == 0.3
    kept = load_recipe(source, {"batch_size": 4}).to_yaml()
    assert "lr_per_16" not in kept
    with pytest.raises(UsageError, match="lr_per_16 is -1; expected a number above 0"):
        load_recipe(source, {"optimizer.lr_per_16": -1})
