"""The command: what it prints, what it writes, its exit status, and its errors without tracebacks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.catalog import build
from scenewise.files.tensors import read_tensors
from scenewise.weights.checkpoint import save_checkpoint

SCENES = "scenes:count=3,size=48x64"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from scenewise.data import open_data

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(build("unet", open_data(SCENES).classes, width=4, depth=2, padding="same"), path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "my photos é"
    (folder / "below").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    for name in ("a.png", "a.jpg", "below/b.png"):
        Image.fromarray(noise).save(folder / name)
    return folder


def test_predict_writes_a_picture_and_json_for_each_image(run, checkpoint, photos, tmp_path):
    status, out, _ = run("predict", photos, "--model", checkpoint, "--out", tmp_path / "out", "--json")
    assert status == 0
    found = json.loads(out)["images"]
    assert len(found) == 3
    for record in found.values():
        assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-6)
        assert Path(record["picture"]).is_file()
        assert json.loads(Path(record["json"]).read_text())["size"] == [40, 56]
    assert {Path(r["picture"]).relative_to(tmp_path / "out").as_posix() for r in found.values()} == {
        "a.png", "a_png.png", "below/b.png",
    }  # fmt: skip
    status, out, _ = run("predict", str(photos / "*.png"), "--model", checkpoint, "--out", tmp_path / "out", "--flip")
    assert status == 0
    assert "1 of 1 images done" in out


@pytest.mark.parametrize("kind", ["itself", "another picture", "annotations"])
def test_predict_never_writes_over_files_of_the_user(run, checkpoint, photos, tmp_path, kind):
    out = photos if kind == "itself" else tmp_path / "out"
    out.mkdir(exist_ok=True)
    name = {"itself": "a.png", "another picture": "a.png", "annotations": "a_png.json"}[kind]
    if kind != "itself":
        (out / name).write_text("the user's own")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    status, _, err = run("predict", photos, "--model", checkpoint, "--out", out)
    assert status == 2
    assert str(out / name) in err
    assert "expected another folder as --out" in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["picture", "json", "results"])
def test_predict_keeps_what_is_written_when_the_disk_is_full(run, tmp_path, monkeypatch, place):
    """No room for the second image's picture or JSON, or for the file of all results; with room again it goes on."""
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (64, 48), (9, 99, 9)).save(tmp_path / name)
    out = tmp_path / "out"
    ending = {"picture": ".png", "json": "b.json", "results": "coco_results.json"}[place]
    save, write_text, written = Image.Image.save, Path.write_text, []

    def fail(path, text):
        path.write_bytes(b"the beginning of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    def save_one(picture, path, **options):
        written.append(path)
        return fail(path, "") if place == "picture" and len(written) == 2 else save(picture, path, **options)

    def write(path, text, **options):
        return fail(path, text) if f"{ending}." in path.name else write_text(path, text, **options)

    monkeypatch.setattr(Image.Image, "save", save_one)
    monkeypatch.setattr(Path, "write_text", write)
    command = ("predict", tmp_path / "*.png", "--model", "blood-cells", "--out", out)
    status, table, err = run(*command)
    monkeypatch.undo()
    done = ["a", "b", "c"] if place == "results" else ["a"]
    files = sorted(path.name for path in out.iterdir())
    rest = [] if place == "results" else ["coco_results.json"]
    assert files == sorted([*(f"{name}.{kind}" for name in done for kind in ("json", "png")), *rest])
    assert f"{len(done)} of 3 images done" in table
    assert status == 2
    assert err.startswith(f"scenewise: {out}")
    assert "can't be written (No space left on device)" in err
    left = "" if place == "results" else f"; the first that is not is {tmp_path / 'b.png'}"
    end = f"{len(done)} of 3 images are done, and their files in {out} are whole{left}. Make room, then give the same"
    assert end in err
    assert err.count("\n") == 1
    if rest:
        assert json.loads((out / rest[0]).read_text()) is not None
    status, table, _ = run(*command)
    assert status == 0
    assert "3 of 3 images done" in table


def test_class_maps_never_take_the_place_of_an_image(run, checkpoint, photos, tmp_path):
    """An image may be called as the class map of another one; each of both has files of its own."""
    Image.new("RGB", (64, 48), (9, 99, 9)).save(photos / "a.classes.png")
    status, said, err = run("predict", photos, "--model", checkpoint, "--out", tmp_path / "out", "--json")
    assert status == 0, err
    records = [Path(record["json"]) for record in json.loads(said)["images"].values()]
    assert len({json.loads(path.read_text())["class_map"] for path in records}) == len(records) == 4
    for path in records:
        record = json.loads(path.read_text())
        with Image.open(path.with_name(record["class_map"])) as labels:
            assert list(labels.size[::-1]) == record["size"]
    status, _, err = run("predict", photos / "a.jpg", "--model", checkpoint, "--out", photos)
    assert status == 2
    assert "a.png" in err or "a.classes.png" in err


def test_boxes_can_be_left_out_of_pictures(run, detector, photos, tmp_path):
    seen = []
    for words in ([], ["--no-boxes"]):
        out = tmp_path / f"out{len(words)}"
        status, _, err = run("predict", photos / "a.png", "--model", detector, "--out", out, "--score", 0, *words)
        assert status == 0, err
        seen.append((np.asarray(Image.open(out / "a.png")), (out / "a.json").read_text()))
    assert seen[0][0].shape == seen[1][0].shape
    assert not np.array_equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]


def test_predict_into_a_folder_of_the_images_again(run, checkpoint, photos):
    for _ in range(2):
        status, out, _ = run("predict", photos, "--model", checkpoint, "--out", photos / "out")
        assert status == 0
        assert "3 of 3 images done" in out


def test_warnings_are_one_line(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("scenewise.files.images._told", set())
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(tmp_path / "camera.png")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, _, err = run("predict", tmp_path / "camera.png", "--model", checkpoint, "--out", tmp_path / "out")
    assert status == 0
    assert err.startswith(
        f"scenewise: warning: {tmp_path / 'camera.png'}: 16-bit grey with values from 4000 to 4000 only"
    )
    assert err.count("\n") == 1


def test_predict_names_what_it_passes_over(run, checkpoint, photos, tmp_path):
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", "clip.mp4", "notes.txt", ".hidden"):
        (photos / name).write_bytes(b"x")
    status, _, err = run("predict", photos, "--model", checkpoint, "--out", tmp_path / "out")
    assert status == 0
    assert "4 files are passed over: IMG_1.HEIC and 1 more .heic, clip.mp4, notes.txt. Save pictures as PNG" in err


@pytest.mark.parametrize("avif", [True, False])
def test_predict_reads_what_pillow_can_and_counts_further_pages(run, checkpoint, tmp_path, monkeypatch, avif):
    """JFIF, AVIF where this Pillow was built with it, and the first pages of TIFFs."""
    from PIL import features

    from scenewise.files import images

    if avif and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    if not avif:
        monkeypatch.setattr(images, "IMAGE_SUFFIXES", images.IMAGE_SUFFIXES - {".avif"})
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8))
    noise.save(folder / "a.jfif", format="JPEG")
    (folder / "b.avif").write_bytes(b"")
    if avif:
        noise.save(folder / "b.avif")
    for name, count in (("c.tif", 1), ("d.tiff", 2), ("e.tif", 3)):
        noise.save(folder / name, save_all=True, append_images=[noise] * (count - 1))
    status, out, err = run("predict", folder, "--model", checkpoint, "--out", tmp_path / "out")
    assert status == 0
    done = 5 if avif else 4
    assert f"{done} of {done} images done" in out
    passed_over = f"{folder}: 1 file is passed over: b.avif. Save pictures as PNG or JPEG to have them read"
    pages = f"only the first page of a TIFF is looked at: {folder}/d.tiff (2 pages), {folder}/e.tif (3 pages)"
    assert err.splitlines() == [f"scenewise: {line}" for line in ([] if avif else [passed_over]) + [pages]]


def test_one_bad_name_or_file_does_not_end_predict(run, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("..jpg", "...png", "a.jpg"):
        Image.new("RGB", (64, 48), (9, 99, 9)).save(photos / name, format="PNG")
    os.mkfifo(photos / "pipe.png")
    (photos / "broken.png").write_bytes(b"no image")
    status, said, err = run("predict", photos, "--model", "blood-cells", "--out", out)
    assert status == 2
    assert "3 of 5 images done" in said
    assert "pipe.png: no regular file" in err
    assert "broken.png: not an image" in err
    assert {path.name for path in out.iterdir() if path.suffix == ".json"} == {
        "coco_results.json", "__jpg.json", "___png.json", "a.json",
    }  # fmt: skip


def test_proposals_of_a_model_and_of_selective_search(run, checkpoint, tmp_path):
    data = "scenes:count=2,size=64x96,fields=boxes"
    words = ("proposals", "selective-search", "--data", data, "--out", tmp_path / "boxes.safetensors", "--count", "7")
    status, out, _ = run(*words)
    assert status == 0
    assert "the proposals of 2 images are in" in out
    found = read_tensors(tmp_path / "boxes.safetensors")
    assert len(found) == 2
    for boxes in found.values():
        assert 1 <= len(boxes) <= 7
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([96.0, 64.0])).all()
    status, out, _ = run("proposals", "blood-cells", "--data", data, "--out", tmp_path / "model.safetensors")
    assert status == 0
    assert read_tensors(tmp_path / "model.safetensors").keys() == found.keys()
    status, _, err = run("proposals", checkpoint, "--data", data, "--out", tmp_path / "none.safetensors")
    assert status == 2
    assert "expected one that fills boxes" in err
    assert not (tmp_path / "none.safetensors").exists()


def test_one_bad_image_does_not_lose_the_others(run, checkpoint, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"")
    status, out, err = run("predict", photos, "--model", checkpoint, "--out", tmp_path / "out")
    assert status == 2
    assert "3 of 4 images done" in out
    assert "broken.png" in err
    assert not list((tmp_path / "out").glob("broken*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nowhere.jpg", "--model", "CHECKPOINT"], "nowhere.jpg"),
        (["predict", "*.nothing", "--model", "CHECKPOINT"], "no file fits this pattern"),
        (["predict", "PHOTOS", "--model", "street-scene"], "did you mean 'street-scenes'?"),
        (["predict", "PHOTOS", "--model", "CHECKPOINT", "--tiles", "big"], "expected HEIGHTxWIDTH"),
        (["predict", "PHOTOS", "--model", "CHECKPOINT", "--scales", "1;2"], "expected numbers with commas"),
        (["predict", "PHOTOS", "--model", "CHECKPOINT", "--device", "abacus"], "device 'abacus'"),
        (["predict", "PHOTOS", "--model", "CHECKPOINT", "--precision", "8"], "'8' is not one of '32', 'bf16', '16'"),
        (["predict", "PHOTOS", "--model", "CHECKPOINT", "--out", "CHECKPOINT"], "can't be written"),
        (["evaluate", "CHECKPOINT", "--data", "camvit:x"], "did you mean 'camvid'?"),
        (["evaluate", "CHECKPOINT", "--data", "camvid:nowhere"], "nowhere: not found"),
        (["train", "nowhere.yaml"], "nowhere.yaml: not found; expected a recipe"),
        (["train", "--resume", "PHOTOS"], "not the folder of a run"),
        (["train"], "train needs a folder of labelled images, a recipe"),
        (["train", "nowhere"], "nowhere: not found; expected a folder of labelled images"),
        (["train", "epochs=3"], "epochs=3: not found; expected a folder of labelled images"),
        (["data", "check", "camvid"], "expected format:path"),
        (["models", "u-net"], "did you mean 'unet'?"),
        (["modles"], "No such command 'modles'"),
        (["predict"], "Missing argument"),
    ],
)
def test_mistakes_are_one_message_and_status_2(run, checkpoint, photos, tmp_path, words, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"CHECKPOINT": str(checkpoint), "PHOTOS": str(photos)}
    status, _, err = run(*(places.get(word, word) for word in words))
    assert status == 2
    assert message in " ".join(err.split())


def test_evaluate_prints_a_table_or_json(run, checkpoint):
    status, out, _ = run("evaluate", checkpoint, "--data", SCENES, "--split", "val", "--json")
    assert status == 0
    scores = json.loads(out)
    assert {"mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "per_class"} <= set(scores)
    status, out, _ = run("evaluate", checkpoint, "--data", SCENES, "--split", "val")
    assert status == 0
    assert f"{scores['mean_iou']:.4f}" in out
    assert "figure" in out


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    """A small Mask R-CNN that finds something everywhere."""
    from scenewise.data import open_data

    torch.manual_seed(0)
    model = build(
        "mask-rcnn",
        open_data(SCENES).classes,
        backbone="resnet10t",
        features={"channels": 8},
        head={"channels": 16},
        mask={"convs": 1, "channels": 8},
        detections={"score": 0.01, "count": 5},
        input={"short_side": 48, "size_divisor": 32},
    )
    path = tmp_path_factory.mktemp("model") / "detector.safetensors"
    save_checkpoint(model, path, class_ids=list(range(10, 10 + len(model.classes))))
    return path


def test_objects_are_written_as_coco_results(run, detector, photos, tmp_path):
    out = tmp_path / "seen"
    status, _, err = run("predict", photos / "a.png", "--model", detector, "--out", out, "--score", 0)
    assert status == 0, err
    entries = json.loads((out / "coco_results.json").read_text())
    assert 0 < len(entries) <= 5
    assert entries[0].keys() == {"image_id", "category_id", "score", "bbox", "segmentation"}
    assert {e["image_id"] for e in entries} == {"a"}
    assert all(e["category_id"] >= 10 for e in entries)
    results = tmp_path / "results.json"
    status, text, err = run("evaluate", detector, "--data", SCENES, "--split", "val", "--results", results, "--json")
    assert status == 0, err
    assert {"box", "mask"} <= json.loads(text).keys()
    assert len({e["image_id"] for e in json.loads(results.read_text())}) == 3


def test_results_need_a_model_that_finds_objects(run, checkpoint, tmp_path):
    status, _, err = run("evaluate", checkpoint, "--data", SCENES, "--results", tmp_path / "results.json")
    assert status == 2
    assert "COCO results contain classified objects" in err


def test_evaluate_refuses_other_classes(run, checkpoint, tmp_path):
    folder = tmp_path / "masks"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / name / "a.png")
    (folder / "classes.txt").write_text("cat\ndog\n")
    status, _, err = run("evaluate", checkpoint, "--data", f"masks:{folder}", "--split", "all")
    assert status == 2
    assert "the classes disagree" in err
    assert "has 9 classes" in err
    assert "has 2" in err


def test_train_evaluate_predict(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {system: unet, width: 4, depth: 2, padding: same}\n"
        f"data: {{train: 'scenes:count=4,size=32x48', val: '{SCENES}', workers: 0}}\n"
        f"trainer: {{epochs: 1, batch_size: 2, folder: '{tmp_path}'}}\n"
    )
    status, out, _ = run("train", recipe, "trainer.name=here", "optimizer.lr=1e-3", "--json")
    assert status == 0
    trained = json.loads(out)
    assert trained["finished"]
    assert Path(trained["folder"]) == tmp_path / "here"
    told = json.loads(run("info", tmp_path / "here", "--json")[1])
    assert told["run"] == {"checkpoint": "best.safetensors", "epochs": "1 of 1"}
    assert told["scores"]["mean_iou"] == pytest.approx(trained["best"])
    assert "scenes:count=4" in run("info", tmp_path / "here")[1]
    status, out, _ = run(
        "evaluate", tmp_path / "here" / "best.safetensors", "--data", SCENES, "--split", "val", "--json"
    )
    assert json.loads(out)["mean_iou"] == pytest.approx(trained["best"], abs=1e-3)
    status, out, _ = run("train", "--resume", tmp_path / "here")
    assert status == 0


def test_data_check_and_show(run, tmp_path):
    folder = tmp_path / "masks"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(noise.integers(0, 255, (16, 24, 3), np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray((np.arange(384).reshape(16, 24) % 2).astype(np.uint8)).save(folder / "labels" / f"{i}.png")
    (folder / "classes.txt").write_text("cat\ndog\n")
    status, out, _ = run("data", "check", f"masks:{folder}")
    assert status == 0
    assert "nothing is wrong" in out
    status, out, _ = run("data", "show", f"masks:{folder}", "--split", "all", "--out", tmp_path / "shown")
    assert status == 0
    assert sorted(p.name for p in (tmp_path / "shown").iterdir()) == ["0.png", "1.png"]
    Image.fromarray(np.full((16, 24), 7, np.uint8)).save(folder / "labels" / "1.png")
    status, out, _ = run("data", "check", f"masks:{folder}", "--json")
    assert status == 1
    (problem,) = [p for p in json.loads(out)["problems"] if p["severity"] == "error"]
    assert problem["file"].endswith("1.png")
    assert "value 7" in problem["message"]


def test_models_lists_systems_and_options(run):
    status, out, _ = run("models", "--json")
    assert status == 0
    found = json.loads(out)
    assert "deeplab-v3" in [row["name"] for row in found["systems"]]
    packaged = {row["name"]: row for row in found["packaged"]}
    assert packaged["street-scenes"]["package"] == "scenewise-street-scenes"
    assert "not for commercial use" in packaged["street-scenes"]["terms"]
    assert "torchvision/maskrcnn_resnet50_fpn" in [row["name"] for row in found["published"]]
    status, out, _ = run("models")
    assert status == 0
    for words in ("blood-cells", "CC BY-NC 4.0", "instance segmentation: person"):
        assert words in out
    status, out, _ = run("models", "deeplab-v3")
    assert status == 0
    assert "output_stride: Literal[8, 16] = 16" in out
    status, out, _ = run("models", "deeplab-v3", "--json")
    assert json.loads(out)["needs"] == ["semantic"]
    status, out, _ = run("models", "scenewise.pipeline:Pipeline")  # what it fills follows from its models
    assert status == 0
    assert "fills  depends on first, second" in out
    assert "enlarge: float = 1.0" in out
    status, out, _ = run("models", "scenewise.pipeline:Pipeline", "--json")
    assert json.loads(out)["fills"] is None


def test_models_lists_the_entries_of_specs(run):
    status, out, _ = run("models", "mask-rcnn")
    assert status == 0
    assert "\n    mask.size: int = 28\n        M, the side of a mask; even." in out
    assert "    anchors.ratios: tuple[float, ...] = (0.5, 1.0, 2.0)" in out
    assert "    proposals.after_nms: int = " in out
    assert ":class:" not in out
    rows = {row["option"]: row for row in json.loads(run("models", "mask-rcnn", "--json")[1])["options"]}
    assert {entry["option"]: entry["default"] for entry in rows["mask"]["entries"]}["convs"] == 4
    assert "short_side" in [entry["option"] for entry in rows["input"]["entries"]]
    assert rows["backbone"]["entries"] == []
    status, _, err = run("models", "blood-cells")
    assert status == 2
    assert "scenewise info blood-cells" in err


def test_predict_takes_no_model_silently(run, photos, tmp_path):
    status, out, err = run("predict", photos, "--out", tmp_path / "out")
    assert status == 2
    assert not (tmp_path / "out").exists()
    assert "which model?" in err
    for words in ("blood-cells", "nuclei", "street-scenes", "CC BY-NC 4.0", "CC0 1.0"):
        assert words in out


def test_info_of_a_checkpoint_a_name_and_nothing(run, checkpoint, tmp_path):
    status, out, _ = run("info", "street-scenes")
    assert status == 0
    for words in ("deeplab-v3-plus", "11: sky, building", "short_side 360", "5,2", "mean_iou 0.7393", "CC BY-NC 4.0"):
        assert words in out
    status, out, _ = run("info", checkpoint, "--json")
    found = json.loads(out)
    assert (found["kind"], found["system"], found["terms"], found["run"]) == ("checkpoint", "unet", None, None)
    assert found["arguments"]["width"] == 4
    for words, message in (
        ("nowhere", "nowhere: not found; expected a checkpoint (.safetensors), the folder of a run"),
        ("blood-cell", "did you mean 'blood-cells'?"),
        ("unet", "a system, which has no weights; its options: scenewise models unet"),
        (tmp_path, "a folder without a recipe.yaml"),
    ):
        status, _, err = run("info", words)
        assert status == 2
        assert message in err


def test_version(run):
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("scenewise ")


def test_the_command_is_installed():
    done = subprocess.run([Path(sys.executable).with_name("scenewise"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "predict" in done.stdout
