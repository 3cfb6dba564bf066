"""Images of any number of channels and of 16 bits: read, trained on, measured, predicted and drawn."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import scenewise
from scenewise.catalog import build
from scenewise.data import open_data
from scenewise.data.check import check_data
from scenewise.draw.pages import as_rgb
from scenewise.engine.augmented import Ensemble
from scenewise.engine.seen import TrainingSamples
from scenewise.errors import DataError, UsageError
from scenewise.files.images import read_bands, shown_bands
from scenewise.recipe import load_recipe
from scenewise.types import Batch, InputSpec

SIDE = 32


def write(root, channels, deep=False):
    """Images whose class shows in the last channel alone, as pages of a TIFF or RGBA; grey of 16 bits where deep."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps(["ground", "thing"]))
    for index in range(6):
        rng = np.random.default_rng(index)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[:, : 8 + 4 * (index % 4)] = 1
        bands = rng.integers(0, 255, (channels, SIDE, SIDE), dtype=np.uint8)
        bands[-1] = 60 + 120 * labels
        if deep:
            Image.fromarray(1000 + 40 * labels.astype(np.uint16)).save(root / "images" / f"{index}.png")
        elif channels == 4:
            Image.fromarray(bands.transpose(1, 2, 0)).save(root / "images" / f"{index}.png")
        else:
            pages = [Image.fromarray(band) for band in bands]
            pages[0].save(root / "images" / f"{index}.tif", save_all=True, append_images=pages[1:])
        Image.fromarray(labels).save(root / "labels" / f"{index}.png")
    return f"masks:{root}"


def recipe(source, folder, **more):
    return {
        "model": {"system": "unet", "padding": "same", "width": 4, "depth": 1, "dropout": 0, "norm": "batch", **more},
        "data": {"train": source, "val": source, "val_split": "train", "workers": 0},
        "transforms": ["RandomHorizontalFlip"],
        "optimizer": {"lr": 0.01},
        "trainer": {"epochs": 12, "batch_size": 2, "validate_every": 12, "folder": str(folder), "name": "run"},
    }


DEEP = {"channels": 1, "bits": 16, "mean": [0.0155], "std": [0.0003]}


@pytest.mark.parametrize(("channels", "spec"), [(4, {"channels": 4}), (5, {"channels": 5}), (1, DEEP)])
def test_what_only_one_channel_or_the_low_bits_show_is_learned(tmp_path, channels, spec):
    source = write(tmp_path / "data", channels, deep=channels == 1)
    run = scenewise.train(recipe(source, tmp_path, input=spec), quiet=True)
    assert run.best > 0.85  # a constant reaches 0.35, and the other channels are noise
    model = scenewise.load(run.best_checkpoint)
    assert (model.input.channels, len(model.input.mean)) == (channels, channels)
    assert scenewise.evaluate(model, source, split="train")["mean_iou"] == pytest.approx(run.best, abs=1e-3)
    path = next((tmp_path / "data" / "images").glob("3.*"))
    found = scenewise.predict(model, path)
    truth = torch.from_numpy(np.array(Image.open(tmp_path / "data" / "labels" / "3.png"))).long()
    assert (found.semantic == truth).float().mean() > 0.9
    array = read_bands(path, channels, model.input.bits)
    assert torch.equal(scenewise.predict(model, array).semantic, found.semantic)
    found.save(tmp_path / "out", image=shown_bands(array))


@pytest.mark.parametrize("system", ["deeplab-v3-plus", "fcn-resnet", "faster-rcnn", "mask-rcnn", "rpn", "fast-rcnn"])
def test_networks_of_timm_take_any_number_of_channels(system):
    model = build(system, ["a", "b"], backbone="resnet18", input={"channels": 5, "size_divisor": 32}).eval()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.in_channels == 5


def test_rgb_weights_are_taken_over(tmp_path):
    from safetensors.torch import save_file
    from timm import create_model

    whole = create_model("resnet10t", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    options = {"backbone": "resnet10t", "backbone_weights": str(tmp_path / "w.safetensors")}
    model = build("deeplab-v3-plus", ["a"], **options, input={"channels": 6})
    first = model.backbone.network.conv1[0].weight
    assert torch.allclose(
        first.sum(1), whole.conv1[0].weight.sum(1), atol=1e-5
    )  # as large an output for equal channels


REFUSED = {
    "another number": (lambda root: Image.new("RGB", (SIDE, SIDE)).save(root / "images" / "0.png"),
                       r"0\.png: has 3 channels; expected 4, as input\.channels says"),
    "floats": (lambda root: Image.fromarray(np.ones((SIDE, SIDE), np.float32)).save(root / "images" / "0.png", "TIFF"),
               "floating-point pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_fit_are_named(tmp_path, case):
    source = write(tmp_path / "data", 4)
    REFUSED[case][0](tmp_path / "data")
    data = open_data(source).seen_as(InputSpec(channels=4))
    with pytest.raises(DataError, match=REFUSED[case][1]):
        data[0]
    assert data[1][0].shape == (4, SIDE, SIDE)


def test_a_grey_input_is_the_luma_of_colours_and_three_channels_are_grey_three_times(tmp_path):
    Image.new("RGB", (4, 4), (200, 100, 0)).save(tmp_path / "a.png")
    luma = round(0.299 * 200 + 0.587 * 100)
    assert read_bands(tmp_path / "a.png", 1).unique().tolist() == [pytest.approx(luma, abs=1)]
    Image.fromarray(np.full((4, 4), 513, np.uint16)).save(tmp_path / "b.png")
    assert read_bands(tmp_path / "b.png", 3, 16).unique().tolist() == [pytest.approx(513 / 65535)]


def test_made_up_images_are_rgb(tmp_path):
    with pytest.raises(
        UsageError, match="its images are RGB of 8 bits, and the model's input has channels=4 and bits=8"
    ):
        scenewise.train(recipe("scenes:count=6,size=48", tmp_path, input={"channels": 4}), quiet=True)


def test_specs_that_do_not_fit():
    with pytest.raises(UsageError, match="input: mean has 2 numbers; expected one for each of the 4 channels"):
        InputSpec(channels=4, mean=(0.5, 0.5))
    with pytest.raises(UsageError, match=r"in_channels is 1, the luma of RGB images, and input\.channels is 4"):
        build("unet", ["a"], in_channels=1, input={"channels": 4})
    with pytest.raises(UsageError, match="backbone vgg16 takes 3"):
        build("fcn", ["a"], input={"channels": 4})
    spec = InputSpec(channels=2, bits=16)
    assert InputSpec.from_dict(spec.to_dict()) == spec
    model = build("unet", ["a"], width=2, depth=1, padding="same", input={"channels": 4})
    with pytest.raises(
        UsageError, match=r"image tensor of shape \[3, 8, 8\] and float32; expected shape \[4, height, width\]"
    ):
        scenewise.predict(model, torch.rand(3, 8, 8))
    with pytest.raises(UsageError, match=r"the images have 3 channels; the model takes 4"):
        model.predict(Batch.of([torch.rand(3, 8, 8)]))


def test_deep_channels_side_by_side_are_checked_trained_on_and_drawn(tmp_path):
    """They are in one TIFF as remote sensing writes it; the weights of classes are counted from them, too."""
    source = write(tmp_path / "data", 5)
    for path in (tmp_path / "data" / "images").iterdir():
        pages = tifffile.imread(path).astype(np.uint16) * 200
        tifffile.imwrite(path, pages.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig")
    report = check_data(source)
    assert report.ok
    assert any("images have 5 channels; training takes input.channels: 5, and" in p.message for p in report.problems)
    with pytest.raises(DataError, match=r"\.tif: has 5 channels; expected 3, .* state input\.channels: 5"):
        scenewise.train(recipe(source, tmp_path / "refused"), quiet=True)
    settings = recipe(source, tmp_path, input={"channels": 5, "bits": 16})
    settings["data"]["class_weights"] = "median"
    run = scenewise.train(settings, quiet=True)
    assert run.best > 0.85
    _, (image, _), seen = TrainingSamples(load_recipe(settings))[0]
    assert image.shape == seen[0].shape == (5, SIDE, SIDE)
    assert as_rgb(image).size == (SIDE, SIDE)
    settings["transforms"] = [{"ColorJitter": {"brightness": 0.4}}]
    settings["trainer"]["name"] = "other"
    with pytest.raises(UsageError, match=r"transforms: .*5 channels \(input\.channels\), which transforms of colours"):
        scenewise.train(settings, quiet=True)


def test_models_that_see_other_images_are_no_ensemble():
    small = {"width": 2, "depth": 1, "padding": "same"}
    one, other = (build("unet", ["a"], **small, input={"channels": channels}) for channels in (3, 4))
    with pytest.raises(UsageError, match=r"ensemble: the models' input\.channels disagree: 3 and 4"):
        Ensemble((one, other))
