"""The models that come with scenewise load, are small, say what they are, and name no path of the machine they grew
on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scenewise.catalog import name_of
from scenewise.data import open_data
from scenewise.engine.evaluate import evaluate
from scenewise.engine.predict import predict
from scenewise.errors import MissingExtraError
from scenewise.weights.load import load
from scenewise.weights.packaged import PACKAGED

REPO = Path(__file__).resolve().parents[2]
FOLDERS = (REPO / "src" / "scenewise" / "weights", *(REPO / "weights").glob("*/src/*"))


def test_every_file_of_weights_has_a_name_and_a_card():
    assert {path.stem for folder in FOLDERS for path in folder.glob("*.safetensors")} == set(PACKAGED)
    assert {path.stem for folder in FOLDERS for path in folder.glob("*.md")} == set(PACKAGED)


def test_weights_that_are_not_installed_are_named_with_their_terms(monkeypatch):
    row = PACKAGED["street-scenes"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        load("street-scenes")
    for words in (row.terms, "scenewise[street-scenes]", "scenewise-street-scenes", "./weights/street-scenes"):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", PACKAGED)
def test_it_is_small_and_says_what_it_is(name):
    with PACKAGED[name].file() as path:
        assert path.stat().st_size < 12_000_000
    model = load(name)
    info = model.info
    assert {"data", "metrics", "terms", "lineage"} <= info.keys()
    assert name_of(model) == PACKAGED[name].system
    assert "/" not in json.dumps({**info, "lineage": []})


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
