"""The models that come with scenewise load, are small, say what they are, and name no path of the machine they grew
on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scenewise.data import open_data
from scenewise.engine.evaluate import evaluate
from scenewise.engine.predict import predict
from scenewise.weights.load import PACKAGED, load

WEIGHTS = Path(__file__).resolve().parents[2] / "src" / "scenewise" / "weights"


def test_every_file_of_weights_has_a_name_and_a_card():
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == set(PACKAGED)
    assert {path.stem for path in WEIGHTS.glob("*.md")} == set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_it_is_small_and_says_what_it_is(name):
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 12_000_000
    info = load(name).info
    assert {"data", "metrics", "terms"} <= info.keys()
    assert "/" not in json.dumps(info)


@pytest.mark.parametrize("name", PACKAGED)
@torch.no_grad()
def test_it_predicts(name):
    found = predict(load(name), torch.zeros(3, 90, 120, dtype=torch.uint8))
    assert found.size == (90, 120)


def test_blood_cells_are_found(shared_data):
    data = open_data(f"voc:{shared_data('bccd')}", "val", needs=frozenset({"boxes"}), on_bad_record="fix")
    scores = evaluate(load("blood-cells"), data)
    assert scores["images"] == 87
    assert scores["box"]["AP50"] > 0.85


def test_nuclei_are_found(shared_data):
    data = open_data(f"coco:{shared_data('nuclei')}", "val", needs=frozenset({"boxes", "masks"}))
    scores = evaluate(load("nuclei"), data)
    assert scores["images"] == 57
    assert scores["mask"]["AP50"] > 0.84
    assert scores["mask"]["AP"] > 0.51
