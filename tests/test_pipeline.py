"""Pipelines: what is found in crops arrives in the image, they are saved and measured as one, and misfits are named."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import scenewise
from scenewise import InputSpec, Pipeline
from scenewise.catalog import build, options
from scenewise.engine.augmented import Augmented
from scenewise.engine.evaluate import evaluate
from scenewise.engine.predict import Predictor, predict
from scenewise.errors import CheckpointError, UsageError
from scenewise.fields.table import given
from scenewise.pipeline import Crop
from scenewise.types import Batch, Skeleton
from scenewise.weights.checkpoint import read_header, save_checkpoint
from scenewise.weights.load import load
from tests.pipeline_toys import COLOURS, PLAIN, Blobs, Colours, Filling, Joints, Rectangles, Reddest, Twice
from tests.systems.small import SMALL

REPO = Path(__file__).resolve().parents[1]


def picture() -> torch.Tensor:
    """Two dark blobs, at (8, 4) to (20, 12) and (30, 16) to (38, 36), with a red and a green pixel each."""
    image = torch.zeros(3, 40, 60)
    image[2, 4:12, 8:20] = 0.5
    image[2, 16:36, 30:38] = 0.5
    for (x, y), channel in (((12, 6), 0), ((17, 9), 1), ((33, 31), 0), ((31, 18), 1)):
        image[channel, y, x] = 1.0
    return image


FLAT = [[12.5, 6.5, 2], [17.5, 9.5, 2]]  # the centres of those pixels, with their visibility
TALL = [[33.5, 31.5, 2], [31.5, 18.5, 2]]


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize(
    ("options", "spec", "tolerance"),
    [
        ({}, {}, 1e-4),
        ({"enlarge": 2.0}, {}, 1e-4),  # the first blob's crop begins above the image
        ({"ratio": 1.0}, {"scale": 3.0}, 1e-4),
        ({"ratio": 4 / 3, "enlarge": 1.5}, {"size": (96, 72)}, 0.1),  # rounded to whole pixels: no whole factor
        ({"enlarge": 1.3}, {"size": (64, 48)}, 0.1),
        ({}, {"short_side": 32}, 1e-4),
        ({"ratio": 0.5}, {"short_side": 50, "antialias": False}, 0.1),
    ],
)
def test_keypoints_of_crops_arrive_at_their_place_in_the_image(options, spec, tolerance, batch_size):
    second = Reddest(input=InputSpec(**PLAIN, **spec))
    model = Pipeline(Blobs(), second, batch_size=batch_size, **options)
    assert model.fills == {"boxes", "labels", "scores", "keypoints"}
    found = predict(model, picture())
    assert found.boxes.tolist() == [[30, 16, 38, 36], [8, 4, 20, 12]]  # the larger one first
    assert found.names == ["tall", "flat"]
    torch.testing.assert_close(found.keypoints, torch.tensor([TALL, FLAT]), rtol=0, atol=tolerance)


def test_the_first_models_own_size_changes_nothing_where_points_are():
    """It is fed half the image; crops are cut from all of it, one pixel is still one pixel."""
    model = Pipeline(Blobs(input=InputSpec(**PLAIN, scale=0.5)), Reddest(), enlarge=1.2)
    found = predict(model, picture())
    torch.testing.assert_close(found.boxes, torch.tensor([[30.0, 16, 38, 36], [8, 4, 20, 12]]))
    torch.testing.assert_close(found.keypoints, torch.tensor([TALL, FLAT]))


def test_images_of_five_channels(tmp_path):
    bands = {"channels": 5, "mean": (0.0,) * 5, "std": (1.0,) * 5}
    first, second = Blobs(input=InputSpec(**bands)), Reddest(input=InputSpec(**bands, scale=2.0))
    save_checkpoint(Pipeline(first, second, enlarge=2.0), tmp_path / "five.safetensors")
    model = load(tmp_path / "five.safetensors")
    assert (model.input.channels, model.input.bits) == (5, 8)
    found = predict(model, torch.cat([picture(), torch.zeros(2, 40, 60)]))
    torch.testing.assert_close(found.keypoints, torch.tensor([TALL, FLAT]))
    wrong(first, Reddest(), "the first model takes images of 5 channels, the second of 3; expected the same")
    deep = Reddest(input=InputSpec(**PLAIN, bits=16))
    wrong(Blobs(), deep, "the first model takes images of 8 bits, the second of 16")


def test_masks_of_crops_arrive_at_their_place_in_the_image():
    found = predict(Pipeline(Blobs(), Reddest(masks=True), enlarge=3.0), picture())
    assert found.masks.shape == (2, 40, 60)
    assert found.masks[0].nonzero().tolist() == [[31, 33]]
    assert found.masks[1].nonzero().tolist() == [[6, 12]]
    enlarged = Pipeline(Blobs(), Reddest(masks=True, input=InputSpec(**PLAIN, scale=4.0)))
    torch.testing.assert_close(predict(enlarged, picture()).masks, found.masks)


def test_masks_of_the_second_take_the_place_of_the_firsts():
    alone = predict(Blobs(masks=True), picture())
    kept = predict(Pipeline(Blobs(masks=True), Reddest()), picture())
    assert torch.equal(kept.masks, alone.masks)
    both = Pipeline(Blobs(masks=True), Reddest(masks=True))
    assert predict(both, picture()).masks.sum() == 2
    roi_masks = Filling(fills=("boxes", "labels", "scores", "roi_masks"))
    assert Pipeline(roi_masks, Reddest(masks=True)).fills == {"boxes", "labels", "scores", "masks"}


def test_views_of_the_image_are_fused_around_a_pipeline():
    """A mirrored view's crops are other crops, and its left and right change places."""
    skeleton = Skeleton(("left", "right"), pairs=())
    model = Pipeline(Blobs(), Reddest(), enlarge=1.5)
    procedures = [Augmented(quarter_turns=(0, 2), skeleton=skeleton)]
    found = predict(model, picture(), procedures=procedures)
    torch.testing.assert_close(found.keypoints, torch.tensor([TALL, FLAT]))


# ---- what a crop is


@pytest.mark.parametrize(
    ("box", "ratio", "enlarge", "expected"),
    [
        ([2, 3, 6, 5], None, 1.0, (3, 2, 2, 4)),
        ([2.2, 3.7, 5.1, 4.2], None, 1.0, (3, 2, 2, 4)),
        ([2, 3, 6, 5], 1.0, 1.0, (2, 2, 4, 4)),
        ([2, 3, 6, 5], 1.0, 2.0, (0, 0, 8, 8)),
        ([2, 3, 6, 5], 0.25, 1.0, (3, 0, 2, 8)),
        ([0, 0, 4, 4], None, 1.5, (-1, -1, 6, 6)),
        ([-50, -50, 4, 4], None, 1.0, (0, 0, 4, 4)),  # cut off at the border first
        ([3, 3, 3, 3], None, 1.0, (2, 2, 2, 2)),  # without an area
        ([500, 500, 900, 900], None, 1.0, (9, 11, 2, 2)),  # outside
        ([6, 5, 2, 3], None, 1.0, (3, 3, 2, 2)),  # corners the wrong way round
    ],
)
def test_where_a_crop_lies(box, ratio, enlarge, expected):
    crop = Crop.around(torch.tensor(box, dtype=torch.float32), torch.zeros(3, 10, 12), ratio, enlarge)
    assert (crop.top, crop.left, crop.height, crop.width) == expected


def test_beyond_the_image_is_the_mean():
    image = torch.rand(3, 4, 5)
    crop = Crop(image, -1, 3, 4, 6).pixels((0.1, 0.2, 0.3))
    assert crop.shape == (3, 4, 6)
    assert torch.equal(crop[:, 1:, :2], image[:, :3, 3:])
    for channel, value in zip(crop, (0.1, 0.2, 0.3), strict=True):
        assert (channel[0] == value).all()
        assert (channel[:, 2:] == value).all()
    second = Reddest(input=InputSpec(mean=(0.4, 0.5, 0.6), size=(16, 12)))
    Pipeline(Blobs(), second, enlarge=9.0, count=1).predict(Batch.of([picture()]))
    (fed,) = second.fed
    assert fed[0, :, 0, 0].abs().max() < 1e-6


# ---- what the second model says


def test_a_classifier_names_what_the_detector_found():
    model = Pipeline(Blobs(), Colours.primary())
    assert model.classes == COLOURS
    for index, data in enumerate(Rectangles()[i] for i in range(4)):
        image, target = data
        alone, found = predict(Blobs(), image), predict(model, image)
        assert len(found) == index
        for name, box, score in zip(found.names, found.boxes, found.scores, strict=True):
            place = (target["boxes"] == box).all(1).nonzero().item()
            assert name == COLOURS[target["labels"][place]]
            sure = torch.softmax(torch.tensor([8 * 200 / 255, 0, 0]), 0)[0]
            its = alone.scores[(alone.boxes == box).all(1)].item()
            torch.testing.assert_close(score, sure * its)
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("scores", ["product", "first", "second"])
def test_whose_scores_count(scores):
    image = Rectangles()[2][0]
    first, second = predict(Blobs(), image).scores, torch.softmax(torch.tensor([8 * 200 / 255, 0, 0]), 0)[0]
    wanted = {"product": first * second, "first": first, "second": second.expand(2)}[scores]
    torch.testing.assert_close(predict(Pipeline(Blobs(), Colours.primary(), scores=scores), image).scores, wanted)


def test_which_instances_are_looked_at():
    image = picture()
    everything = predict(Pipeline(Blobs(), Reddest()), image)
    for chosen, kept in (
        ({"only": ("flat",)}, [1]),
        ({"only": ("flat", "tall")}, [0, 1]),
        ({"score": float(everything.scores[0])}, [0]),
        ({"count": 1}, [0]),
        ({"count": 5}, [0, 1]),
        ({"score": 0.999}, []),
    ):
        found = predict(Pipeline(Blobs(), Reddest(), **chosen), image)
        for name, value in given(found).items():
            torch.testing.assert_close(value, given(everything)[name][kept], msg=f"{chosen}: {name}")


def test_what_the_second_finds_nothing_in_leaves_the_result():
    image = picture()
    image[0, 31, 33] = 0  # the tall blob has no red pixel any more
    found = predict(Pipeline(Blobs(), Reddest()), image)
    assert found.names == ["flat"]
    torch.testing.assert_close(found.keypoints, torch.tensor([FLAT]))


def test_images_without_any_box():
    """They have the fields of others, empty, alone and in a batch with others."""
    black = torch.zeros(3, 40, 60)
    for second, field, shape in (
        (Reddest(), "keypoints", (0, 2, 3)),
        (Reddest(masks=True), "masks", (0, 40, 60)),
        (Colours.primary(), "labels", (0,)),
    ):
        model = Pipeline(Blobs(), second)
        alone = predict(model, black)
        assert set(given(alone)) == model.fills
        assert getattr(alone, field).shape == shape
        assert alone.boxes.shape == (0, 4)
        together = model.predict(Batch.of([black[:, :30, :50], picture(), black]))
        assert [len(one.boxes) for one in together] == [0, 2, 0]
        for one, size in zip(together, ((30, 50), (40, 60), (40, 60)), strict=True):
            assert one.size == size
            assert set(given(one)) == model.fills
        assert alone.to_json()["instances"] == []
        alone.draw(black)


def test_one_image_alone_equals_the_same_image_in_a_batch():
    model = Pipeline(Blobs(), Reddest(), enlarge=1.4)
    images = [torch.zeros(3, 20, 20), picture(), picture()[:, 10:]]
    together = model.predict(Batch.of(images))
    for image, one in zip(images, together, strict=True):
        for name, value in given(model.predict(Batch.of([image]))[0]).items():
            torch.testing.assert_close(value, given(one)[name])


def test_crops_are_fed_in_bounded_batches_of_one_size():
    image = torch.zeros(3, 40, 120)
    for i in range(14):  # 9 of 4x4 pixels and 5 of 6x4
        image[2, 4 : 8 + 2 * (i > 8), 4 + 8 * i : 8 + 8 * i] = 0.5
        image[0, 4, 4 + 8 * i] = 0.1
    second = Reddest()
    found = Pipeline(Blobs(), second, batch_size=4).predict(Batch.of([image]))[0]
    assert len(found.boxes) == 14
    assert sorted(tuple(fed.shape) for fed in second.fed) == sorted(
        [(4, 3, 4, 4), (4, 3, 4, 4), (1, 3, 4, 4), (4, 3, 6, 4), (1, 3, 6, 4)]
    )
    torch.testing.assert_close(found.keypoints[:, 0, :2], found.boxes[:, :2] + 0.5)


# ---- a second model that takes what the first finds


@pytest.fixture(scope="module")
def two_stages():
    """A region proposal network and Fast R-CNN, with batch-norms that have seen something."""
    torch.manual_seed(0)
    models = [build(name, COLOURS, **SMALL[name]) for name in ("rpn", "fast-rcnn")]
    for module in (m for model in models for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)
    models[1].input = InputSpec(scale=1.5, size_divisor=32)
    return [model.eval() for model in models]


def test_proposals_are_handed_on(two_stages, tmp_path):
    first, second = two_stages
    image = Rectangles()[3][0]
    boxes = predict(first, image).boxes
    assert len(boxes) > 8
    for chosen, kept in (({}, len(boxes)), ({"count": 8}, 8)):
        model = Pipeline(first, second, **chosen)
        assert model.classes == second.classes
        assert model.fills == second.fills
        assert not model.takes
        found = predict(model, image)
        wanted = predict(second, image, inputs={"proposals": boxes[:kept]})
        assert len(wanted)
        for name, value in given(wanted).items():
            torch.testing.assert_close(given(found)[name], value, rtol=1e-4, atol=1e-4)
        batch = Batch.of([image / 255])
        with torch.no_grad():
            torch.testing.assert_close(Predictor(model).model.probe(batch), model.probe(batch), rtol=1e-3, atol=1e-3)
    save_checkpoint(model, tmp_path / "both.safetensors")
    for name, value in given(predict(load(tmp_path / "both.safetensors"), image)).items():
        assert torch.equal(value, given(found)[name])
    assert set(evaluate(model, Rectangles())["box"]["per_class"]) == set(COLOURS)


def test_options_of_crops_are_refused_where_there_are_none(two_stages):
    for name, value in (("enlarge", 1.5), ("ratio", 1.0), ("scores", "first")):
        wrong(*two_stages, f"{name} is {value!r}, and the second model .*FastRCNN.* is fed no crops", **{name: value})


# ---- what does not fit


def wrong(first, second, message, **options):
    with pytest.raises(UsageError, match=message):
        Pipeline(first, second, **options)


def test_models_that_do_not_fit_are_refused():
    wrong(Colours(("a",)), Reddest(), r"the first model \(Colours, which fills labels, scores\) finds no boxes")
    wrong("blood-cells", Reddest(), "first is 'blood-cells'; expected a model, such as scenewise.load gives")
    wrong(Blobs(), Blobs(), "the second model .*Blobs.* fills boxes, which can't become that of the first one's object")
    for field in ("semantic_logits", "depth", "embedding", "roi_masks", "boundary", "flow"):
        wrong(Blobs(), Filling(fills=(field,)), f"fills {field}, .* fills some of labels, scores, masks, keypoints")
    wrong(
        Blobs(), Filling(fills=("flow",), takes=("next_image",)), "takes next_image beside the image, which the first"
    )
    mixed = Filling(("road",), fills=("boxes", "semantic"))
    wrong(mixed, Colours(("a",)), r"has classes of its own, and semantic of the first refers to others \(road\)")
    assert Pipeline(mixed, Colours(("road",))).fills == {"boxes", "semantic", "labels", "scores"}


def test_options_that_do_not_fit_are_refused():
    first, second = Blobs(), Reddest()
    wrong(first, second, "enlarge is 0; expected a number above 0", enlarge=0)
    wrong(first, second, "ratio is -1; expected a number above 0", ratio=-1)
    wrong(first, second, "batch_size is 0; expected 1 or more", batch_size=0)
    wrong(first, second, "count is 0; expected 1 or more", count=0)
    wrong(first, second, r"only has 'flt'; did you mean 'flat'\?; classes of the first .*: flat, tall", only=("flt",))
    assert Pipeline(first, second, only="flat").only == ("flat",)
    wrong(first, second, "scores is 'sum'; expected product, first, second", scores="sum")
    wrong(first, second, "scores is 'second', and the second model .*Reddest.* fills none", scores="second")
    bare = Filling(fills=("boxes",))
    wrong(bare, second, "only is any, and the first model fills no labels", only=("any",))
    wrong(bare, second, r"score is 0.5, and the first model .* fills none", score=0.5)


def test_more_than_one_instance_in_a_crop_is_refused():
    with pytest.raises(UsageError, match=r"second model \(Twice, .*\) finds 2 instances in a crop; expected one"):
        predict(Pipeline(Blobs(), Twice()), picture())


def test_a_box_that_is_not_finite_is_refused():
    with pytest.raises(UsageError, match=r"the first model gives the box .*nan.*; expected finite numbers"):
        Crop.around(torch.tensor([0, 0, torch.nan, 4]), torch.zeros(3, 8, 8), None, 1.0)


def test_a_pipeline_is_not_trained_as_one():
    model = Pipeline(Blobs(), Colours.primary())
    with pytest.raises(UsageError, match="train its models one by one"):
        model.losses(Batch.of([picture()]))
    with pytest.raises(UsageError, match="first is a model, which a recipe can't hold; train models one by one"):
        scenewise.train(model=model, data=Rectangles())


# ---- files


@pytest.fixture
def both():
    """A small Faster R-CNN and a classifier, with all that travels."""
    torch.manual_seed(0)
    detector = build(
        "faster-rcnn",
        ("thing",),
        backbone="resnet10t",
        features={"channels": 16},
        head={"channels": 16},
        detections={"score": 0.0, "count": 6},
        input={"short_side": 64, "size_divisor": 32},
    ).eval()
    classifier = Colours.primary(cells=1)
    classifier.info = {"class_ids": [7, 8, 9], "colors": [[255, 0, 0], [0, 255, 0], [0, 0, 255]], "terms": "CC0"}
    return Pipeline(detector, classifier, enlarge=1.25, only=("thing",), scores="second", batch_size=4).eval()


IN_A_NEW_PROCESS = """
import json, sys
import scenewise
model = scenewise.load(sys.argv[1])
found = scenewise.predict(model, sys.argv[2])
found.draw().save(sys.argv[3])
print(json.dumps({"json": found.to_json(), "info": model.info, "classes": model.classes, "training": model.training}))
"""


def test_one_file_holds_both_and_is_read_by_a_new_process(both, tmp_path):
    path, photo = tmp_path / "both.safetensors", tmp_path / "photo.png"
    Image.fromarray(Rectangles()[3][0].permute(1, 2, 0).numpy()).save(photo)
    scenewise.save(both, path)
    words = [sys.executable, "-c", IN_A_NEW_PROCESS, str(path), str(photo), str(tmp_path / "drawn.png")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPO, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    wanted = predict(both, photo)
    assert len(wanted) == 6
    assert told["json"] == json.loads(json.dumps(wanted.to_json()))
    assert told["classes"] == list(COLOURS)
    assert told["info"] == {key: both.second.info[key] for key in ("class_ids", "colors")}
    assert not told["training"]
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size[0] >= 60


def test_a_file_holds_all_that_is_known_of_both(both, tmp_path):
    path = tmp_path / "both.safetensors"
    save_checkpoint(both, path, metrics={"box": 0.5})
    again = load(path)
    assert again.info["metrics"] == {"box": 0.5}
    assert again.second.info == both.second.info
    assert again.first.classes == ("thing",)
    assert again.first.input == both.first.input
    for name in ("enlarge", "ratio", "only", "score", "count", "scores", "batch_size"):
        assert getattr(again, name) == getattr(both, name), name
    for name, value in both.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    half = tmp_path / "half.safetensors"
    save_checkpoint(both, half, half=True)
    assert half.stat().st_size < 0.7 * path.stat().st_size
    load(half)


def test_a_skeleton_travels(tmp_path):
    poser = Reddest(("any",))
    poser.skeleton = Skeleton(("left_eye", "right_eye"), ((0, 1),))
    model = Pipeline(Blobs(), poser)
    save_checkpoint(model, tmp_path / "pose.safetensors")
    again = load(tmp_path / "pose.safetensors")
    assert again.skeleton == again.second.skeleton == poser.skeleton
    assert predict(again, picture()).skeleton == poser.skeleton
    procedures = [Augmented(skeleton=again.skeleton)]
    found = predict(again, picture(), procedures=procedures)  # in the mirror image, red is the right eye
    assert sorted(map(tuple, found.keypoints[:, 0, :2].tolist())) in (
        [(12.5, 6.5), (33.5, 31.5)], [(17.5, 9.5), (31.5, 18.5)]
    )  # fmt: skip


def test_three_models_in_a_row(tmp_path):
    """The second names the colours; the third places keypoints in those that are red or green."""
    inner = Pipeline(Blobs(), Colours.primary(), enlarge=1.5)
    model = Pipeline(inner, Reddest(), only=("red", "green"))
    assert model.fills == {"boxes", "labels", "scores", "keypoints"}
    image = torch.zeros(3, 30, 40)
    image[0, 4:10, 6:12], image[2, 14:20, 20:28] = 0.9, 0.9
    save_checkpoint(model, tmp_path / "three.safetensors")
    for one in (model, load(tmp_path / "three.safetensors")):
        found = predict(one, image)
        assert found.names == ["red"]
        torch.testing.assert_close(found.keypoints[0, 0], torch.tensor([9.0, 7, 2]))


def test_many_models_in_a_row():
    """Fourteen; the first is asked for its interface once, and not twice as often with each that follows."""
    asked = []

    class Asked(Blobs):
        @classmethod
        def interface(cls, **arguments):
            asked.append(1)
            return super().interface(**arguments)

    model = Asked()
    for _ in range(13):
        model = Pipeline(model, Reddest())
    asked.clear()
    assert model.fills == {"boxes", "labels", "scores", "keypoints"}
    assert len(asked) == 1


def rewrite(path: Path, change) -> None:
    from scenewise.files.tensors import read_tensors, write_tensors

    header, tensors = read_header(path), read_tensors(path)
    change(header["arguments"], tensors)
    write_tensors(path, tensors, {"scenewise": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: a.pop("second"), "second is missing; expected Model"),
        (lambda a, t: a["second"].pop("classes"), "its header's 'classes' is None; expected a list"),
        (lambda a, t: a.update(second=3), "second is 3; expected Model"),
        (lambda a, t: a["first"].update(system="fister-rcnn"), "there is no system 'fister-rcnn'; did you mean"),
        (lambda a, t: a.update(enlrge=3), "has no option 'enlrge'; did you mean 'enlarge'"),
        (lambda a, t: a.update(first=a["second"]), "the first model .* finds no boxes"),
        (lambda a, t: t.pop("second.classifier.bias"), "lacks 1 tensors, the first 'second.classifier.bias'"),
    ],
)
def test_a_file_that_does_not_fit_is_named(both, tmp_path, change, message):
    path = tmp_path / "both.safetensors"
    save_checkpoint(both, path)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=f"both.safetensors: .*{message}"):
        load(path)


def test_a_part_that_was_replaced_is_not_saved(both, tmp_path):
    both.second.classifier = torch.nn.Linear(3, 5)
    with pytest.raises(CheckpointError, match=r"second\.classifier\.bias is \[5\]"):
        save_checkpoint(both, tmp_path / "both.safetensors")


def test_a_list_of_models_in_a_file(both, tmp_path, monkeypatch):
    save_checkpoint(both.first, tmp_path / "detector.safetensors")
    save_checkpoint(both.second, tmp_path / "classifier.safetensors")
    path = tmp_path / "both.yaml"
    path.write_text(
        "pipeline:\n  - detector.safetensors\n"
        "  - {model: classifier.safetensors, enlarge: 1.25, only: [thing], scores: second, batch_size: 4}\n"
    )
    monkeypatch.chdir(tmp_path.parent)  # paths are relative to the file
    again = load(path)
    assert isinstance(again, Pipeline)
    assert (again.enlarge, again.only, again.scores, again.batch_size) == (1.25, ("thing",), "second", 4)
    image = Rectangles()[3][0]
    for name, value in given(predict(both, image)).items():
        assert torch.equal(value, given(predict(again, image))[name])
    save_checkpoint(again, tmp_path / "one.safetensors")  # and becomes one file
    assert load(tmp_path / "one.safetensors").enlarge == 1.25
    path.write_text("pipeline: [blood-cells, classifier.safetensors]")  # names of packaged models
    assert load(path).first.classes == ("Platelets", "RBC", "WBC") or load(path).first.classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: {system: unet}\ndata: {train: x}",
            "holds model, data; expected one entry, pipeline: a list of models",
        ),
        ("- a", "holds list; expected one entry"),
        ("pipeline: [a.safetensors", "not YAML"),
        ("pipeline: [blood-cells]", "pipeline has 1 entries; expected two models or more"),
        (
            "pipeline: [blood-cells, {enlarge: 2}]",
            r"pipeline\[1\] is {'enlarge': 2}; expected a checkpoint, a name, or",
        ),
        ("pipeline: [{model: nuclei, score: 1}, blood-cells]", r"pipeline\[0\] has 'score'; options stand beside"),
        ("pipeline: [blood-cells, nuclei]", r"pipeline\[1\]: pipeline: the second model .* fills boxes"),
        ("pipeline: [blood-cells, {model: blood-cells, enlrge: 2}]", r"pipeline\[1\]: .*did you mean 'enlarge'"),
        ("pipeline: [blood-cells, {model: nuclei, first: a}]", r"pipeline\[1\]: 'first' is not an option"),
        ("pipeline: [blood-cells, {model: nuclei, 3: a}]", r"pipeline\[1\]: .* has no option '3'"),
        (
            "pipeline: [blood-cells, {model: nuclei, enlarge: true}]",
            r"pipeline\[1\]: .*enlarge is True; expected float",
        ),
        ("pipeline: [blood-cells, {model: nuclei, enlarge: -1}]", r"pipeline\[1\]: .*enlarge is -1; expected float"),
        ("pipeline: [blood-cells, other.yaml]", r"pipeline\[1\] is 'other.yaml', a pipeline; list its models here"),
        ("pipeline: [blood-cels, nuclei]", "blood-cels: neither a file nor .*; did you mean 'blood-cells'"),
    ],
)
def test_a_list_that_does_not_fit_is_named(tmp_path, text, message):
    path = tmp_path / "both.yaml"
    path.write_text(text)
    with pytest.raises((UsageError, CheckpointError), match=message):
        load(path)


# ---- measured, drawn, and ready


def test_it_is_measured_as_one():
    data = Rectangles()
    scores = evaluate(Pipeline(Blobs(), Colours.primary()), data)
    assert scores["box"]["AP"] == pytest.approx(1.0)
    assert set(scores["box"]["per_class"]) == set(COLOURS)
    blind = Colours.primary()
    torch.nn.init.zeros_(blind.classifier.weight)  # all is red
    assert evaluate(Pipeline(Blobs(), blind), data)["box"]["AP"] < 0.5
    with pytest.raises(UsageError, match="the classes disagree"):
        evaluate(Blobs(), data)


def test_joints_of_crops_are_measured_in_the_image():
    """Each rectangle has a red and a green pixel; a pose network of crops finds them where the data set has them."""
    data, poser = Joints(), Reddest()
    poser.skeleton = data.skeleton
    scores = evaluate(Pipeline(Blobs(("any", "other")), poser, enlarge=1.3), data)
    assert scores["keypoints"]["AP"] == pytest.approx(1.0)
    first, second = Joints.points
    Joints.points = second, first
    try:
        assert evaluate(Pipeline(Blobs(("any", "other")), poser, enlarge=1.3), data)["keypoints"]["AP"] < 0.2
    finally:
        Joints.points = first, second


def test_the_predictor_gives_the_models_numbers(both):
    for module in both.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    batch = Batch.of([torch.rand(3, 64, 96)])
    ready = Predictor(both)
    assert not any(type(m) is torch.nn.BatchNorm2d for m in ready.model.modules())
    with torch.no_grad():
        torch.testing.assert_close(ready.model.probe(batch), both.probe(batch), rtol=1e-3, atol=1e-3)
        for name, value in given(Predictor(both, precision="bf16").run(batch)[0]).items():
            assert value.dtype == (torch.int64 if name == "labels" else torch.float32), name


def test_a_detector_and_a_classifier_that_have_learned(shared_data):
    """The packaged Faster R-CNN finds blood cells; a classifier that was fitted to crops in a second names them."""
    from scenewise.data import open_data
    from scenewise.ops.resize import fit

    needs = frozenset({"boxes", "labels"})
    train, val = (
        open_data(f"voc:{shared_data('bccd')}", split, needs=needs, on_bad_record="fix") for split in ("train", "val")
    )
    torch.manual_seed(0)
    classifier = Colours(train.classes, cells=4, input=InputSpec(size=(16, 16)))
    crops, labels = [], []
    for index in range(24):
        image, target = train[index]
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            crop = Crop.around(box.as_subclass(torch.Tensor), image.as_subclass(torch.Tensor) / 255, 1.0, 1.25)
            crops.append(fit(crop.pixels(classifier.input.mean), classifier.input))
            labels.append(label)
    batch = Batch.of(crops, [{"labels": torch.stack(labels)}])
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        classifier.losses(batch)["class"].backward()
        optimizer.step()
    detector = load("blood-cells")
    scores = {}
    for name, model in {
        "alone": detector,
        "both": Pipeline(detector, classifier.eval(), ratio=1.0, enlarge=1.25),
        "unlearned": Pipeline(detector, Colours(train.classes, cells=4), ratio=1.0),
    }.items():
        scores[name] = evaluate(model, first_of(val, 5))["box"]["AP50"]
    assert scores["both"] > 0.9 * scores["alone"]
    assert scores["unlearned"] < 0.6 * scores["alone"]


def first_of(data, count: int):
    """The first images of ``data``."""
    short = copy.copy(data)
    short.__class__ = type("Short", (type(data),), {"__len__": lambda self: count})
    return short


# ---- the page


def test_the_code_on_the_page(tmp_path, monkeypatch):
    page = (REPO / "docs" / "pipelines.md").read_text(encoding="utf-8")
    own, script = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    listed, _ = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("shades.py").write_text(own)
    Path("cells.yaml").write_text(listed)
    photo = torch.full((240, 320, 3), 230, dtype=torch.uint8)
    photo[90:150, 120:200] = torch.tensor([120, 60, 140], dtype=torch.uint8)
    Image.fromarray(photo.numpy()).save("smear.png")
    names: dict = {}
    exec(compile(script, "docs/pipelines.md", "exec"), names)
    assert names["result"].classes == ("pale", "dark")
    assert Path("smear-shades.png").is_file()
    assert names["again"].enlarge == names["listed"].enlarge == 1.25
    for field, value in given(names["result"]).items():
        assert torch.equal(value, given(predict(names["again"], "smear.png"))[field])


def test_the_page_lists_every_option():
    page = (REPO / "docs" / "pipelines.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)", page, re.MULTILINE)
    assert listed == [name for name in options("scenewise.pipeline:Pipeline") if name not in ("first", "second")]
