"""Options of prediction, through the command: tiles, views, further inputs, skeletons, pipelines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scenewise
from scenewise import Prediction, Skeleton
from scenewise.catalog import build
from scenewise.cli.options import Procedures
from scenewise.data import open_data
from scenewise.data.inputs import save_tensors_by_image
from scenewise.engine.augmented import Augmented
from scenewise.engine.crf import Refined
from scenewise.engine.tiles import Tiles
from scenewise.fields.keypoints import SKELETONS
from scenewise.ops.crf import DenseCRF
from scenewise.weights.checkpoint import save_checkpoint
from tests.cli.toys import Moved
from tests.pipeline_toys import COLOURS, Blobs, Colours
from tests.systems.small import SMALL

SCENES = "scenes:count=2,size=48x64"
CLASSES = open_data(SCENES).classes


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder of small checkpoints."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name in ("unet", "fast-rcnn", "keypoint-rcnn"):
        options = SMALL[name] if name != "keypoint-rcnn" else SMALL[name] | {"detections": {"score": 0.0, "count": 3}}
        save_checkpoint(build(name, CLASSES, **options).eval(), folder / f"{name}.safetensors")
    save_checkpoint(Moved(), folder / "moved.safetensors")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in ("a.png", "below/b.png"):
        Image.fromarray(noise.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / name)
    return folder


def same(found: Prediction, wanted: Prediction, *fields: str) -> None:
    for field in fields:
        torch.testing.assert_close(getattr(found, field), getattr(wanted, field), msg=field)


# ---- tiles and views


@pytest.mark.parametrize(
    ("words", "procedures"),
    [
        ([], []),
        (["--tiles", "24x32"], [Tiles((24, 32))]),
        (["--tiles", "24x32", "--overlap", "8"], [Tiles((24, 32), overlap=8)]),
        (["--tiles", "24X32", "--overlap", "0.5"], [Tiles((24, 32), overlap=0.5)]),
        (
            ["--tiles", "24x32", "--overlap", "8", "--blend", "crop", "--average", "probabilities"],
            [Tiles((24, 32), overlap=8, blend="crop", average="probabilities")],
        ),
        (["--flip"], [Augmented()]),
        (["--turns", "0,90,180,270"], [Augmented(flip=False, quarter_turns=(0, 1, 2, 3))]),
        (["--turns", "-90"], [Augmented(flip=False, quarter_turns=(3,))]),
        (
            ["--scales", "0.5,1", "--fuse", "max", "--average", "logits", "--flip", "--turns", "0,180"],
            [Augmented(scales=(0.5, 1.0), quarter_turns=(0, 2), fusion="max", average="logits")],
        ),
        (
            ["--tiles", "24x32", "--blend", "gaussian", "--scales", "1,2"],
            [Tiles((24, 32), blend="gaussian"), Augmented(scales=(1.0, 2.0), flip=False)],
        ),
        (["--crf", "default"], [Refined()]),
        (
            ["--flip", "--crf", "position_sigma=50,color_sigma=1e1,iterations=2,filter=exact"],
            [Augmented(), Refined(DenseCRF(position_sigma=50, color_sigma=10, iterations=2, filter="exact"))],
        ),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_the_words_of_procedures(run, models, photos, tmp_path, monkeypatch, command, words, procedures):
    seen = []

    class Watched(scenewise.Predictor):
        def __init__(self, model, **options):
            seen.append(list(options["procedures"]))
            super().__init__(model, **options)

    monkeypatch.setattr(f"scenewise.engine.{command}.Predictor", Watched)
    model = models / "unet.safetensors"
    place = [photos / "a.png", "--model", model, "--out", tmp_path / "out"]
    data = [model, "--data", SCENES, "--split", "val"]
    status, _, err = run(command, *(place if command == "predict" else data), *words)
    assert status == 0, err
    assert seen == [procedures]


def test_tiles_and_views_do_what_they_do_in_python(run, models, photos, tmp_path):
    model = models / "unet.safetensors"
    loaded = scenewise.load(model)
    words = ["--tiles", "24x32", "--overlap", "8", "--blend", "crop", "--turns", "0,90", "--flip"]
    status, _, err = run("predict", photos / "a.png", "--model", model, "--out", tmp_path, *words)
    assert status == 0, err
    procedures = [Tiles((24, 32), overlap=8, blend="crop"), Augmented(quarter_turns=(0, 1))]
    wanted = scenewise.predict(loaded, photos / "a.png", procedures=procedures)
    same(Prediction.read(tmp_path / "a.json"), wanted, "semantic")
    assert not torch.equal(wanted.semantic, scenewise.predict(loaded, photos / "a.png").semantic)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crf", "yes"], "--crf is 'yes'; expected default, or NAME=VALUE with commas and each name once"),
        (["--crf", "iterations=1,iterations=2"], "expected default, or NAME=VALUE with commas and each name once"),
        (["--crf", "sigma=3"], "--crf: crf has no entry 'sigma'"),
        (["--crf", "position_sigma=0"], "--crf: crf.position_sigma is 0; expected"),
        (["--crf", "passes=2.5"], "--crf: crf.passes is 2.5; expected"),
        (["--crf", "filter=["], "--crf: crf.filter is '['; expected"),
        (["--overlap", "8"], "--overlap is '8'; it goes with --tiles, which is not given"),
        (["--blend", "crop", "--flip"], "--blend is 'crop'; it goes with --tiles, which is not given"),
        (["--fuse", "max", "--tiles", "8x8"], "--fuse is 'max'; it goes with --scales, --flip or --turns"),
        (["--average", "logits"], "it goes with --tiles, --scales, --flip or --turns, which is not given"),
        (["--tiles", "24x32", "--overlap", "much"], "--overlap is 'much'; expected pixels, such as 192, or a share"),
        (["--tiles", "24x32", "--overlap", "24"], "tiles: overlap is 24; expected a share of the tile as 0.0 to below"),
        (["--tiles", "24x32", "--blend", "gauss"], "'gauss' is not one of 'mean', 'gaussian', 'crop'"),
        (["--scales", ""], "--scales is ''; expected numbers with commas"),
        (["--scales", "1,nan"], "scales is (1.0, nan); expected one or more positive numbers"),
        (["--scales", "inf"], "scales is (inf,); expected one or more positive numbers"),
        (["--scales", "-1"], "scales is (-1.0,); expected one or more positive numbers"),
        (["--turns", ""], "--turns is ''; expected multiples of 90 degrees with commas"),
        (["--turns", "45"], "--turns is '45'; expected multiples of 90 degrees with commas"),
        (["--turns", "left"], "--turns is 'left'; expected multiples of 90 degrees with commas"),
        (["--skeleton", "coco"], "--skeleton is 'coco', and CHECKPOINT fills semantic_logits"),
        (["--proposals", "x"], "the model takes no input 'proposals'; inputs that it takes: none"),
        (["--input", "next_image"], "--input is 'next_image'; expected NAME=PATH, such as proposals="),
        (["--input", "a=b", "--input", "a=c"], "--input: a is given twice"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_mistakes_are_named(run, models, photos, tmp_path, command, words, message):
    model = models / "unet.safetensors"
    place = [photos / "a.png", "--model", model, "--out", tmp_path / "out"]
    data = [model, "--data", SCENES, "--split", "val"]
    status, _, err = run(command, *(place if command == "predict" else data), *words)
    assert status == 2
    assert message.replace("CHECKPOINT", str(model)) in " ".join(err.split()).replace("│ ", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tiles", "32x32"], "scenewise: tiles: maps of pixels can be joined, and this model fills "),
        (["--flip", "--fuse", "max"], "--fuse is 'max'; it is for maps, and this model fills boxes, labels, scores"),
        (["--flip", "--average", "logits"], "--average is 'logits'; it is for scores of classes at each pixel, and"),
    ],
)
def test_what_means_nothing_for_objects_is_refused_before_any_image(run, models, photos, tmp_path, words, message):
    model = models / "fast-rcnn.safetensors"
    status, _, err = run("predict", photos, "--model", model, "--out", tmp_path / "out", *words)
    assert status == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "out").exists()


# ---- further inputs

BOXES = torch.tensor([[4.0, 4, 30, 30], [20, 10, 60, 44], [0, 0, 64, 48]])


def test_predict_takes_proposals_by_the_images_names(run, models, photos, tmp_path):
    model, file = models / "fast-rcnn.safetensors", tmp_path / "boxes.safetensors"
    save_tensors_by_image({"a": BOXES[:2], "below/b": BOXES, "other": BOXES}, file)
    for words in (("--proposals", file), ("--input", f"proposals={file}")):
        out = tmp_path / "out"
        status, _, err = run("predict", photos, "--model", model, "--out", out, "--score", "0", *words)
        assert status == 0, err
        for name, boxes in (("a", BOXES[:2]), ("below/b", BOXES)):
            loaded = scenewise.load(model)
            wanted = scenewise.predict(loaded, photos / f"{name}.png", inputs={"proposals": boxes})
            assert len(wanted)
            same(Prediction.read(out / f"{name}.json"), wanted, "boxes", "labels", "scores")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "has no proposals for .*/below/b.png; expected them under 'b', or under more of its path; there are "),
        (["a", "c"], "those of 2 images, such as 'a'"),
        ([], "there are those of 0 images"),
    ],
)
def test_an_image_that_the_file_lacks_is_named_before_anything_is_written(
    run, models, photos, tmp_path, names, message
):
    file = tmp_path / "boxes.safetensors"
    save_tensors_by_image(dict.fromkeys(names, BOXES), file) if names else save_tensors_by_image({}, file)
    words = ("--model", models / "fast-rcnn.safetensors", "--out", tmp_path / "out", "--proposals", file)
    status, _, err = run("predict", photos, *words)
    assert status == 2
    assert "boxes.safetensors: has no proposals for" in err
    assert re.search(message, err)
    assert not (tmp_path / "out").exists()


def test_one_name_for_two_images_is_refused(run, models, photos, tmp_path):
    Image.open(photos / "a.png").save(photos / "below" / "a.png")
    file = tmp_path / "boxes.safetensors"
    save_tensors_by_image({"a": BOXES}, file)
    words = ("--model", models / "fast-rcnn.safetensors", "--out", tmp_path / "out", "--proposals", file)
    status, _, err = run("predict", photos / "a.png", photos / "below" / "a.png", *words)
    assert status == 2
    assert "its proposals 'a' may be those of" in err
    save_tensors_by_image({"a": BOXES, "below/a": BOXES}, file)  # the longer name counts
    status, _, err = run("predict", photos / "a.png", photos / "below" / "a.png", *words)
    assert status == 0, err


def test_a_second_image_comes_from_a_folder(run, models, photos, tmp_path):
    later = tmp_path / "later"
    (later / "below").mkdir(parents=True)
    for name in ("a", "below/b"):
        brighter = np.array(Image.open(photos / f"{name}.png")) // 2 + 100
        Image.fromarray(brighter.astype(np.uint8)).save(later / f"{Path(name).name}.png")
    words = ("--model", models / "moved.safetensors", "--out", tmp_path / "out")
    status, _, err = run("predict", photos, *words, "--input", f"next_image={later}")
    assert status == 0, err
    for name in ("a", "below/b"):
        flow = Prediction.read(tmp_path / "out" / f"{name}.json").flow
        both = [
            np.array(Image.open(p)).astype(np.float32) / 255
            for p in (later / f"{Path(name).name}.png", photos / f"{name}.png")
        ]
        torch.testing.assert_close(flow[0], torch.from_numpy((both[0] - both[1]).sum(2)), rtol=1e-4, atol=1e-5)
    status, _, err = run("predict", photos, *words)
    assert status == 2
    assert "input 'next_image' was given for 0 of 1 images" in err
    assert "--input next_image=PATH" in err
    Image.new("RGB", (10, 10)).save(later / "a.png")
    status, _, err = run("predict", photos, *words, "--input", f"next_image={later}")
    assert status == 2
    assert "next_image has 10x10 pixels; expected 48x64, as the image has" in err
    status, _, err = run("predict", photos, *words, "--input", f"next_image={tmp_path / 'nowhere'}")
    assert status == 2
    assert "nowhere: not found" in err


def test_evaluate_takes_inputs_by_name(run, models, tmp_path):
    model, file = models / "fast-rcnn.safetensors", tmp_path / "boxes.safetensors"
    data = open_data(SCENES, "val")
    save_tensors_by_image({data.image_id(i): BOXES for i in range(len(data))}, file)
    words = ("evaluate", model, "--data", SCENES, "--split", "val", "--json")
    scores = []
    for more in (("--proposals", file), ("--input", f"proposals={file}")):
        status, out, err = run(*words, *more)
        assert status == 0, err
        scores.append(json.loads(out))
    assert scores[0] == scores[1]
    save_tensors_by_image({data.image_id(0): BOXES}, file)
    status, _, err = run(*words, "--proposals", file)
    assert status == 2
    assert "has no proposals for 1 of the 2 images" in err


# ---- skeletons


def test_a_checkpoint_without_a_skeleton_is_mirrored_with_one(run, models, photos, tmp_path):
    model = models / "keypoint-rcnn.safetensors"  # of 14 keypoints
    words = ("predict", photos / "a.png", "--model", model, "--score", "0", "--out", tmp_path / "out")
    status, _, err = run(*words, "--flip")
    assert status == 2
    assert "--flip: left and right keypoints change places in a mirrored image" in err
    assert "give --skeleton coco, lsp, or a JSON file: {" in err
    status, _, err = run(*words, "--flip", "--skeleton", "lsp")
    assert status == 0, err
    found = Prediction.read(tmp_path / "out" / "a.json")
    assert found.skeleton == SKELETONS["lsp"]
    loaded = scenewise.load(model)
    wanted = scenewise.predict(
        loaded, photos / "a.png", procedures=[Augmented(size_divisor=32, skeleton=found.skeleton)]
    )
    assert len(wanted)
    same(found, wanted, "keypoints", "boxes")
    status, _, err = run(*words, "--flip", "--skeleton", "coco")
    assert status == 2
    assert "name keypoint 16; there are 14" in err
    status, _, err = run(*words, "--skeleton", "coco")
    assert status == 2
    assert "14 points per instance; its skeleton has 17" in err


def test_a_skeleton_from_a_file(run, models, photos, tmp_path):
    model, file = models / "keypoint-rcnn.safetensors", tmp_path / "mine.json"
    words = ("predict", photos / "a.png", "--model", model, "--score", "0", "--out", tmp_path / "out", "--flip")
    skeleton = Skeleton(tuple("abcdefghijklmn"), ((0, 1),), ((2, 3),))
    file.write_text(json.dumps(skeleton.to_dict()))
    status, _, err = run(*words, "--skeleton", file)
    assert status == 0, err
    assert Prediction.read(tmp_path / "out" / "a.json").skeleton == skeleton
    for text, message in (
        ('{"names": ["left_eye"]}', "does not say which these are"),
        ('{"joints": []}', "mine.json: skeleton: unknown entry 'joints'; known: names, links, pairs; expected {"),
        ("[]", "mine.json: holds a list; expected {"),
        ("{", "mine.json: not valid JSON"),
    ):
        file.write_text(text)
        status, _, err = run(*words, "--skeleton", file)
        assert status == 2
        assert message in " ".join(err.split())
    status, _, err = run(*words, "--skeleton", "cocco")
    assert status == 2
    assert "--skeleton is 'cocco'; did you mean 'coco'?; expected coco, lsp, or a JSON file" in err


# ---- pipelines


def test_a_pipeline_is_predicted_drawn_and_measured_as_one(run, tmp_path):
    torch.manual_seed(0)
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[5:20, 10:30, 1] = 250
    Image.fromarray(photo).save(tmp_path / "photo.png")
    save_checkpoint(Blobs(), tmp_path / "blobs.safetensors")
    save_checkpoint(Colours.primary(), tmp_path / "colours.safetensors", class_ids=[4, 5, 6])
    listed, single = tmp_path / "both.yaml", tmp_path / "both.safetensors"
    listed.write_text("pipeline: [blobs.safetensors, {model: colours.safetensors, enlarge: 1.0, scores: second}]")
    scenewise.save(scenewise.load(listed), single)
    coco = coco_of_one(tmp_path / "coco", photo)
    for model in (listed, single):
        out = tmp_path / f"out-{model.suffix[1:]}"
        status, text, err = run("predict", tmp_path / "photo.png", "--model", model, "--out", out, "--json")
        assert status == 0, err
        (record,) = json.loads(text)["images"].values()
        assert record["instances"] == {"green": 1}
        assert Path(record["picture"]).is_file()
        found = Prediction.read(record["json"])
        assert found.boxes.tolist() == [[10, 5, 30, 20]]
        (entry,) = json.loads((out / "coco_results.json").read_text())
        assert entry["category_id"] == 5
        status, text, err = run("evaluate", model, "--data", f"coco:{coco}", "--split", "val", "--json")
        assert status == 0, err
        assert json.loads(text)["box"]["AP"] == pytest.approx(1.0)


def coco_of_one(folder: Path, photo: np.ndarray) -> Path:
    """A COCO data set of one image with a green box."""
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    Image.fromarray(photo).save(folder / "val2017" / "photo.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 5, 20, 15], "area": 300, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "photo.png", "height": 40, "width": 60}],
        "annotations": [annotation],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(COLOURS)],
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


# ---- the page


def test_the_page_of_prediction():
    page = (Path(__file__).resolve().parents[2] / "docs" / "prediction.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        names: dict = {}
        exec(compile(block, "docs/prediction.md", "exec"), names)
        assert names["result"].semantic.shape == (90, 120)
    (skeleton,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert Skeleton.from_dict(json.loads(skeleton)).sides() == ((1, 2),)
    of_procedures = re.findall(r"^\| `--(\w+) ?[^`]*` \|", page, re.MULTILINE)
    assert sorted(of_procedures) == sorted(Procedures._fields)
