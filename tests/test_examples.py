"""The scripts in examples/ do what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scenewise

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


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
