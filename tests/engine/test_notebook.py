"""What a run shows in a notebook and after it: the bar and curves, its model, its plot."""

from __future__ import annotations

import re
import sys
import types
from xml.etree import ElementTree

import pytest

from scenewise.engine import notebook
from scenewise.engine.notebook import HEIGHT, WIDTH, Cell, curve, in_notebook
from scenewise.engine.progress import Progress
from scenewise.engine.run import Run
from scenewise.engine.train import train
from scenewise.errors import CheckpointError, DataError, MissingExtraError


@pytest.fixture
def shown(monkeypatch):
    """The pages that a notebook shows, each in place of the one before; the modules are stand-ins."""
    pages: list[str] = []

    class Handle:
        def update(self, page):
            pages.append(page)

    def display(page, display_id=False):
        assert display_id
        pages.append(page)
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(HTML=str, display=display))
    monkeypatch.setattr(notebook, "EVERY", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels do; rich then takes their output for a terminal
    return pages


def recipe(folder, epochs=3):
    return {
        "model": {"system": "unet", "width": 4, "depth": 2, "padding": "same"},
        "data": {"train": "scenes:count=4,size=32x48", "val": "scenes:count=2,size=32x48", "workers": 0},
        "trainer": {"epochs": epochs, "batch_size": 2, "folder": str(folder), "name": "run"},
    }


def test_training_in_a_notebook_is_one_output_that_changes(shown, tmp_path, capsys):
    train(recipe(tmp_path))
    assert len(shown) >= 6
    out, err = capsys.readouterr()
    assert err == ""
    assert "epoch" not in out, "the bar says it"
    last = ElementTree.fromstring(shown[-1].replace("<br>", "<br/>"))
    bar = last.find("progress")
    assert (bar.get("value"), bar.get("max")) == ("6", "6")
    assert len(last.findall("{http://www.w3.org/2000/svg}svg")) == 2
    assert "epoch 3/3, step 6 of 6" in shown[-1]
    assert "training loss" in shown[-1]
    assert "mean_iou" in shown[-1]
    assert "left" in shown[0]


def test_elsewhere_it_is_not():
    assert not in_notebook()
    assert Progress(5, quiet=False).cell is None


def test_quiet_training_shows_nothing(shown, tmp_path):
    train(recipe(tmp_path, epochs=1), quiet=True)
    assert shown == []


def test_curves_stay_inside_and_small():
    assert curve("loss", [], 10) == ""
    found = curve("<loss>", [(step, 1 / step) for step in range(1, 5001)], 5000)
    assert "&lt;loss&gt;: 0.0002" in found
    places = re.search(r'polyline points="([^"]+)"', found)[1].split()
    assert len(places) <= 210
    for x, y in (map(float, place.split(",")) for place in places):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    heights = [float(place.split(",")[1]) for place in places]
    assert heights == sorted(heights), "what falls goes down"
    assert "nan" not in curve("loss", [(1, 2.0), (2, 2.0)], 2), "of equal values, too"


def test_a_run_goes_on_where_it_was():
    cell = Cell(100, first=90)
    cell.step(91, "epoch 10/10", 1.0, "<b>")
    assert "step 91 of 100" in cell.page()
    assert "&lt;b&gt;" in cell.page()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    return train(recipe(tmp_path_factory.mktemp("runs")), quiet=True)


def test_the_model_of_a_run(trained):
    assert trained.model is trained.model
    assert trained.model.info["metrics"]["mean_iou"] == pytest.approx(trained.best)
    assert re.fullmatch(r"Run\(.*run: 3 epochs, best mean_iou 0\.\d{4}\)", repr(trained))
    nothing = Run(trained.folder / "nowhere", None, None, {}, 0, False)
    with pytest.raises(CheckpointError, match=r"no best\.safetensors yet.*train\(resume="):
        _ = nothing.model
    assert repr(nothing).endswith("nowhere: 0 epochs, stopped)")


def test_plot(trained, tmp_path):
    pytest.importorskip("matplotlib")
    figure = trained.plot()
    loss, score = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [6, 3, 3]
    assert score.get_ylabel() == "mean_iou"
    assert max(score.lines[0].get_ydata()) == pytest.approx(trained.best)
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows it"
    with pytest.raises(DataError, match=r"steps\.csv: holds no steps yet"):
        Run(tmp_path, None, None, {}, 0, False).plot()


def test_plots_of_stages_stand_one_after_the_other(tmp_path):
    pytest.importorskip("matplotlib")
    for number in (1, 2):
        folder = tmp_path / f"stage-{number}"
        folder.mkdir()
        (folder / "steps.csv").write_text("step,epoch,lr,loss\n1,1,0.1,3.0\n2,1,0.1,2.0\n")
    figure = Run(tmp_path, None, None, {}, 2, True).plot()
    (axis,) = figure.axes
    assert list(axis.lines[0].get_xdata()) == [1, 2, 3, 4]


def test_without_matplotlib_plot_names_the_extra(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'scenewise\[plots\]'"):
        trained.plot()
