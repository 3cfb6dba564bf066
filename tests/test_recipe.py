"""Recipes: every mistake is named by its dotted path; every shipped recipe builds; schedules equal torch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scenewise.catalog import build
from scenewise.data.transforms.by_name import build_transforms
from scenewise.errors import UsageError
from scenewise.recipe import Recipe, ScheduleSettings, load_recipe, parse_overrides

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
    with pytest.raises(UsageError, match="can't be read"):
        load_recipe(tmp_path / "absent.yaml")


def test_a_recipe_survives_its_yaml(tmp_path):
    recipe = load_recipe(RECIPES[0])
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_overrides_are_yaml_values():
    assert parse_overrides(["a.b=3", "c=[1, 2]", "d=x:y", "e=", "f=1e-3"]) == {
        "a.b": 3, "c": [1, 2], "d": "x:y", "e": None, "f": "1e-3",
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


def test_settings_are_documented_by_their_defaults():
    recipe = Recipe.model_validate(MINIMAL)
    assert recipe.trainer.epochs == 20
    assert recipe.data.val_split == "val"
