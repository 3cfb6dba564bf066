"""Optical flow, a task that the package has no system for: two images in, with nothing but a file of one's own."""

import math
import subprocess
import sys

import pytest
import torch

import scenewise
from scenewise.engine.augmented import Augmented
from scenewise.errors import UsageError
from scenewise.results.prediction import Prediction
from tests.engine.toy_flow import Matching, Shifts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained from data in hand, mirrored at random."""
    recipe = {
        "model": {"system": "tests.engine.toy_flow:Matching"},
        "transforms": [{"RandomHorizontalFlip": {"p": 0.5}}],
        "optimizer": {"lr": 0.3, "weight_decay": 0.0},
        "trainer": {"epochs": 5, "batch_size": 4, "folder": str(tmp_path_factory.mktemp("runs")), "name": "flow"},
    }
    return scenewise.train(recipe, data=Shifts(), validation=Shifts("val"), quiet=True)


def test_it_learns_and_is_chosen_by_its_error(run):
    untrained = scenewise.evaluate(Matching(), Shifts("val"))["flow"]["epe"]
    assert run.monitor == "flow.epe"
    assert run.best < 0.5 < 1.5 < untrained


def test_a_checkpoint_predicts_from_two_images_draws_and_is_read_back(run, tmp_path):
    model = scenewise.load(run.folder / "best.safetensors")
    image, target = Shifts("val")[3]
    found = scenewise.predict(model, image, inputs={"next_image": target["next_image"]})
    known = target["flow"].isfinite().all(0)
    assert (found.flow - target["flow"].as_subclass(torch.Tensor)).norm(dim=0)[known].mean() < 0.5
    record = found.save(tmp_path, "a", image=image)
    assert torch.allclose(Prediction.read(record).flow, found.flow)
    assert found.draw(image).size[0] > image.shape[-1]
    with pytest.raises(UsageError, match="next_image"):
        scenewise.predict(model, image)


def test_a_mirrored_view_mirrors_both_images_and_turns_the_vectors_back(run):
    model = scenewise.load(run.folder / "best.safetensors")
    plain = scenewise.evaluate(model, Shifts("val"))["flow"]
    both = scenewise.evaluate(model, Shifts("val"), procedures=[Augmented(flip=True)])["flow"]
    assert plain["epe"] == pytest.approx(run.best, abs=1e-4)
    assert both["epe"] < plain["epe"] + 0.1
    assert both["coverage"] == plain["coverage"] == 1


def test_a_smaller_copy_gives_shorter_vectors_that_are_made_long_again():
    """The image and its successor are fed at half the size."""
    model = Matching()
    model.input = scenewise.InputSpec(scale=0.5)
    image, target = Shifts("val", (40, 56))[0]
    found = scenewise.predict(model, image, inputs={"next_image": target["next_image"]})
    assert found.flow.shape == (2, 40, 56)
    assert math.isfinite(float(found.flow.sum()))


def test_an_error_that_is_kept_does_not_hold_the_process_at_its_end(tmp_path):
    """As a notebook keeps the last one: the loader's processes, which leave signals to their parent, end with it."""
    script = (
        "import scenewise; from tests.engine.toy_flow import Shifts\n"
        "recipe = {'model': {'system': 'tests.engine.toy_flow:Matching'}, 'optimizer': {'lr': 1e18},"
        f" 'trainer': {{'epochs': 9, 'batch_size': 4, 'folder': {str(tmp_path)!r}}}}}\n"
        "try:\n scenewise.train(recipe, data=Shifts(), quiet=True)\n"
        "except scenewise.ScenewiseError as error:\n kept = error; print('kept')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr
