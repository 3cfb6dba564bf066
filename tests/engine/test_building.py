"""What is said of a recipe before it is trained by."""

from __future__ import annotations

import pytest

from scenewise.engine.building import disagreement
from scenewise.engine.train import train
from scenewise.recipe import load_recipe
from scenewise.types import InputSpec

from ..test_recipe import RECIPES

CROP = [{"RandomResizedCrop": {"size": [288, 352], "scale": [0.3, 1.0]}}]


def test_a_crop_of_the_input_s_size_is_fine():
    assert disagreement(CROP, InputSpec(short_side=320), (480, 640)) == ""
    assert disagreement([{"Resize": {"size": 320}}], InputSpec(), (320, 480)) == ""
    assert disagreement(["RandomHorizontalFlip", {"RandomCrop": {"size": [9, 9]}}], InputSpec(), (320, 480)) == ""


def test_a_crop_of_another_size_than_the_input_s_is_said():
    told = disagreement(["RandomHorizontalFlip", *CROP], InputSpec(short_side=800), (480, 640))
    assert told.startswith("transforms.1: RandomResizedCrop makes 288 x 352 of what the input feeds at 800 x 1066: ")
    assert "objects 0.43 times as large as prediction does. A size of about 673 x 823" in told
    assert "2 times as large" in disagreement([{"Resize": {"size": [200]}}], InputSpec(), (100, 100))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_agree_with_themselves(path):
    recipe = load_recipe(path)
    spec = InputSpec.from_dict(recipe.arguments["input"])
    size = {"nuclei-mask-rcnn": (256, 256), "street-scenes": (360, 480)}.get(path.stem, (480, 640))
    assert disagreement(recipe.transforms, spec, size) == ""


def test_a_run_says_it(tiny_recipe, capsys):
    crop = {"RandomResizedCrop": {"size": [48, 64], "scale": [0.05, 0.1]}}
    train(tiny_recipe(transforms=[crop], trainer__epochs=1, data__workers=0))
    assert "transforms.0: RandomResizedCrop makes 48 x 64" in capsys.readouterr().err
