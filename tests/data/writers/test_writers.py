"""Converting: targets, losses, images, names; nothing half-written stays."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import check_data, convert_data, open_data, split_data
from scenewise.data.label_colors import voc_colors
from scenewise.data.writers.base import Losses, Whole
from scenewise.data.writers.table import WRITERS
from scenewise.data.writers.voc import VOCWriter
from scenewise.errors import DataError, UsageError
from tests.data.twins import write_masks, write_voc

SCENES = "scenes:count=3,size=48x64,fields=boxes+masks+keypoints"
BOXES = frozenset({"boxes"})


def write_coco(root, names=("a.png", "b.png"), **entry):
    """A COCO folder with one box in each image."""
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number, name in enumerate(names):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (9 * number, 50, 90)).save(root / "train" / name)
    content = {
        "images": [{"id": 7 + i, "file_name": name, "height": 30, "width": 40} for i, name in enumerate(names)],
        "annotations": [
            {"id": i + 1, "image_id": 7 + i, "category_id": 3, "bbox": [4, 5, 10.25, 8.5], "area": 80, **entry}
            for i in range(len(names))
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return f"coco:{root}"


def test_the_table_names_each_writer():
    assert {name: writer.format for name, writer in WRITERS.items()} == {name: name for name in WRITERS}


@pytest.mark.parametrize(
    ("target", "message"),
    [("coc:new", "did you mean 'coco'"), ("new", "expected format:FOLDER"), ("coco:", "expected format:FOLDER")],
)
def test_a_target_is_a_format_and_a_new_folder(target, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        convert_data(SCENES, target, fields=BOXES)


def test_an_existing_target_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already; expected the name of a new folder"):
        convert_data(SCENES, f"coco:{tmp_path / 'there'}", fields=BOXES, lossy=True)
    source = write_coco(tmp_path / "in")
    with pytest.raises(UsageError, match="is in the data set that is read"):
        convert_data(source, f"voc:{tmp_path / 'in' / 'voc'}")


def test_after_an_error_nothing_stays(tmp_path):
    source = write_coco(tmp_path / "in")
    (tmp_path / "in" / "train" / "b.png").write_bytes((tmp_path / "in" / "train" / "b.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b\.png"):
        convert_data(source, f"yolo:{tmp_path / 'out'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_what_a_killed_conversion_left_is_removed(tmp_path):
    left = tmp_path / ".out.999999999.tmp"
    (left / "images").mkdir(parents=True)
    convert_data(write_coco(tmp_path / "in"), f"yolo:{tmp_path / 'out'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_numbers_and_names_stay(tmp_path):
    """Ids of images and categories, digits as they were, and images byte by byte."""
    source = write_coco(tmp_path / "in", ("deep/a.png", "ü b.png"))
    done = convert_data(source, f"coco:{tmp_path / 'out'}")
    assert (done.lost, done.notes) == ([], [])
    assert done.images == {"train": 2}
    assert done.objects == {"train": 2}
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [image["id"] for image in content["images"]] == [7, 8]
    assert [image["file_name"] for image in content["images"]] == ["deep/a.png", "ü b.png"]
    assert content["annotations"][0]["bbox"] == [4.0, 5.0, 10.25, 8.5]
    assert [c["id"] for c in content["categories"]] == [3, 90]
    for name in ("deep/a.png", "ü b.png"):
        assert (tmp_path / "out" / "train" / name).read_bytes() == (tmp_path / "in" / "train" / name).read_bytes()


def test_images_are_linked(tmp_path):
    done = convert_data(write_coco(tmp_path / "in"), f"yolo:{tmp_path / 'out'}", link=True)
    place = tmp_path / "out" / "images" / "train" / "a.png"
    assert place.is_symlink()
    assert os.path.samefile(place, tmp_path / "in" / "train" / "a.png")
    assert len(open_data(done.target)) == 2


def test_renumbered_classes_are_said(tmp_path):
    done = convert_data(write_coco(tmp_path / "in"), f"yolo:{tmp_path / 'out'}")
    assert done.lost == []
    assert any("the numbers of classes, 3, 90 at the source, are 0, 1" in note for note in done.notes)
    assert any(note.startswith("2 areas of objects left out") for note in done.notes)


@pytest.mark.parametrize(
    ("target", "fields", "message"),
    [
        ("voc", "boxes+masks", r"masks \(choose what is written with fields, --fields .*boxes.*: voc has no place"),
        ("voc", "boxes+keypoints", r"keypoints, visibility \(choose"),
        ("yolo", "boxes+masks+keypoints", r"has keypoints and masks, and yolo holds one of them; choose with fields"),
        ("masks", "boxes+masks", r"objects, which label maps don't tell apart: masks has no place for that"),
        ("coco", "semantic", r"colours of the classes: coco has no place for that\. The option lossy"),
        ("coco", "boxes+depth", r"depth"),
    ],
)
def test_what_has_no_place_is_refused(target, fields, message, tmp_path):
    source = "scenes:count=2,size=48x64"
    with pytest.raises(UsageError, match=message):
        convert_data(source, f"{target}:{tmp_path / 'out'}", fields=frozenset(fields.split("+")))
    assert not (tmp_path / "out").exists()


def test_crowds_are_lost_in_yolo_and_kept_in_voc(tmp_path):
    source = write_coco(tmp_path / "in", iscrowd=1)
    with pytest.raises(UsageError, match=r"train, image a: 1 object marked as crowd or difficult: yolo has no place"):
        convert_data(source, f"yolo:{tmp_path / 'yolo'}")
    done = convert_data(source, f"yolo:{tmp_path / 'yolo'}", lossy=True)
    assert done.lost == ["2 objects marked as crowd or difficult: left out"]
    assert done.objects == {"train": 0}
    kept = convert_data(source, f"voc:{tmp_path / 'voc'}")
    assert open_data(kept.target, allow_unlabelled=True)[0][1]["ignore"].tolist() == [True]


def test_an_object_without_a_mask_stays_one(tmp_path):
    """It is an object like others for a detector, and ignored where masks are wanted, before and after."""
    source = write_coco(tmp_path / "in")
    path = tmp_path / "in" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[4, 5, 14, 5, 14, 13]]
    path.write_text(json.dumps(content))
    done = convert_data(source, f"coco:{tmp_path / 'out'}")
    for needs, ignored in ((BOXES, False), (frozenset({"masks"}), True)):
        before, after = (open_data(s, needs=needs)[1][1] for s in (source, done.target))
        assert before["ignore"].tolist() == after["ignore"].tolist() == [ignored]
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert content["annotations"][0]["segmentation"] == [[4, 5, 14, 5, 14, 13]]
    with pytest.raises(UsageError, match="without a mask, where others have one: yolo has no place"):
        convert_data(source, f"yolo:{tmp_path / 'yolo'}")
    assert convert_data(source, f"yolo:{tmp_path / 'y'}", lossy=True).objects == {"train": 1}


def test_bad_records_that_are_left_out_are_said(tmp_path):
    source = write_coco(tmp_path / "in")
    path = tmp_path / "in" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [4, 5, 0, 8]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="bbox"):
        convert_data(source, f"voc:{tmp_path / 'out'}")
    done = convert_data(source, f"voc:{tmp_path / 'out'}", on_bad_record="skip")
    assert done.objects == {"train": 1}
    (line,) = done.lost
    assert line.startswith(f"split train: 1 bad record left out or mended, such as {path}: ")


@pytest.mark.parametrize(("more", "lossy"), [(0.5, False), (3, True)])
def test_a_box_other_than_that_of_the_mask_is_said(more, lossy, tmp_path):
    """YOLO's polygons have no box beside them; what moves by a pixel at most is a note."""
    outline = [4, 5, 14.25, 5, 14.25, 13.5 - more]
    source = write_coco(tmp_path / "in", ("a.png",), segmentation=[outline])
    target = f"yolo:{tmp_path / 'out'}"
    if lossy:
        with pytest.raises(UsageError, match="1 box other than the one around the mask by more than 1 pixel: yolo has"):
            convert_data(source, target)
    done = convert_data(source, target, lossy=lossy)
    if lossy:
        assert done.lost == ["1 box other than the one around the mask by more than 1 pixel: replaced by that"]
    else:
        assert "1 box other than the one around the mask: replaced by that, by 0.5 px at most" in done.notes
    box = open_data(done.target, needs=frozenset({"masks"}))[0][1]["boxes"][0]
    assert box.tolist() == pytest.approx([4, 5, 14.25, 13.5 - more], abs=1e-3)


def test_background_has_to_be_said(tmp_path):
    with pytest.raises(UsageError, match=r"Give background \(--background\): the name of a class"):
        convert_data(SCENES, f"masks:{tmp_path / 'out'}", fields=frozenset({"masks"}), lossy=True)
    done = convert_data(
        SCENES, f"masks:{tmp_path / 'out'}", fields=frozenset({"masks"}), lossy=True, background="nothing"
    )
    data, made = open_data(done.target, "train"), open_data(SCENES, "train")
    assert data.classes == ("nothing", *made.classes)
    for index in range(3):
        empty = ~made[index][1]["masks"].any(0)
        assert torch.equal(data[index][1]["semantic"] == 0, empty)


def test_images_of_one_name_in_two_splits(tmp_path):
    """VOC's splits share a folder."""
    (tmp_path / "in").mkdir()
    lines = []
    for split in ("train", "val"):
        folder = tmp_path / "in" / "images" / split
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), (9, 50, 90 if split == "val" else 0)).save(folder / "1.png")
        labels = tmp_path / "in" / "labels" / split
        labels.mkdir(parents=True)
        (labels / "1.txt").write_text(f"0 0.5 0.5 0.{2 if split == 'val' else 4} 0.5\n")
        lines.append(f"{split}: images/{split}")
    (tmp_path / "in" / "data.yaml").write_text("\n".join(["names: [cat]", *lines]))
    done = convert_data(f"yolo:{tmp_path / 'in'}", f"voc:{tmp_path / 'out'}")
    for split, width in (("train", 16), ("val", 8)):
        image, target = open_data(done.target, split)[0]
        assert torch.equal(image, open_data(f"yolo:{tmp_path / 'in'}", split)[0][0])
        assert float(target["boxes"][0, 2] - target["boxes"][0, 0]) == pytest.approx(width)


def test_images_that_would_be_one_are_refused(tmp_path):
    source = write_coco(tmp_path / "in", ("a.png", "a.bmp"))
    with pytest.raises(DataError, match=r"images a\.png and a\.bmp would be one"):
        convert_data(source, f"yolo:{tmp_path / 'out'}")
    convert_data(source, f"coco:{tmp_path / 'coco'}")


def test_names_that_lists_would_cut_off(tmp_path):
    source = write_coco(tmp_path / "in", ("cat 1.png", "dog -1.png"))
    done = convert_data(source, f"voc:{tmp_path / 'out'}")
    data = open_data(done.target)
    assert [data.image_id(i) for i in range(2)] == ["cat 1", "dog -1"]


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize("name", [" cat.png", "back\\slash.png", "two\nlines.png", "tab\tulator.png"])
def test_names_that_no_list_holds_are_refused(name, tmp_path):
    source = write_coco(tmp_path / "in", (name,))
    with pytest.raises(UsageError, match="VOC's lists can't hold this name; rename the file"):
        convert_data(source, f"voc:{tmp_path / 'out'}")
    convert_data(source, f"coco:{tmp_path / 'coco'}")


def test_what_is_not_read_back_is_not_kept(tmp_path):
    """The reader of YOLO looks for a misspelt ``train``; the message names no temporary folder."""
    source = "scenes:count=2,size=48x64,fields=boxes"
    with pytest.raises(DataError, match="was written, and is not read back") as caught:
        split_data(source, f"yolo:{tmp_path / 'out'}", parts={"tr-ain": 1, "val": 1}, stratify=True, lossy=True)
    assert str(tmp_path / "out" / "data.yaml") in str(caught.value)
    assert ".tmp" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_keypoints_in_other_files_are_said(shared_data, tmp_path):
    done = convert_data(f"coco:{shared_data('coco_mini')}", f"coco:{tmp_path / 'out'}", splits=["val2017"], link=True)
    assert any("keypoints" in note and "--fields" in note for note in done.notes)


def test_label_maps_of_voc_and_its_boxes(tmp_path):
    """The first reader's; what others would find there is said."""
    source = f"voc:{write_voc(tmp_path / 'in')}"
    done = convert_data(source, f"masks:{tmp_path / 'out'}")
    assert done.images == {"train": 3, "val": 2}
    assert done.lost == []
    before, after = open_data(source, "train"), open_data(done.target, "train")
    assert before.colors == after.colors
    assert torch.equal(before[0][1]["semantic"], after[0][1]["semantic"])


def test_voc_label_maps_as_cvat_writes_them(tmp_path):
    """Palette PNGs whose numbers are the labels, with the colours that labelmap.txt states."""
    root = write_masks(tmp_path / "in")
    done = convert_data(f"masks:{root}", f"voc:{tmp_path / 'out'}")
    data, before = open_data(done.target, "train"), open_data(f"masks:{root}", "train")
    assert data.colors == before.colors or before.colors is None
    lines = (tmp_path / "out" / "labelmap.txt").read_text().splitlines()
    assert lines[0] == "# label:color_rgb:parts:actions"
    for line, name, color in zip(lines[1:], data.classes, data.colors, strict=True):
        assert line == f"{name}:{','.join(map(str, color))}::"
    assert data.meaning == "numbers"
    assert data.notes == ()
    picture = Image.open(data.label_path(0))
    values = before[0][1]["semantic"].numpy()
    assert picture.mode == "P"
    assert np.array_equal(np.array(picture), values)
    shown = np.array(picture.convert("RGB"))
    for value in np.unique(values):
        color = (224, 224, 192) if value == 255 else data.colors[value]  # VOC's colour of 255
        assert (shown[values == value] == color).all()
    assert [p for p in check_data(done.target).problems if p.severity == "error"] == []


def test_objects_become_label_maps_of_voc_where_the_background_is_stated(tmp_path):
    source = "scenes:count=2,size=32,fields=boxes+masks"
    boxes = convert_data(source, f"voc:{tmp_path / 'boxes'}", fields=frozenset({"boxes"}), lossy=True)
    assert "boxes" in open_data(boxes.target).fields
    maps = convert_data(source, f"voc:{tmp_path / 'maps'}", background="nothing", lossy=True)
    data = open_data(maps.target, needs=frozenset({"semantic"}))
    assert data.classes[0] == "nothing"
    assert data.fields == {"semantic"}
    assert not (tmp_path / "maps" / "Annotations").exists()
    with pytest.raises(UsageError, match=r"voc holds masks as label maps, or label maps$"):
        convert_data(boxes.target, f"voc:{tmp_path / 'none'}", background="ignore", lossy=True)


def test_voc_holds_boxes_or_label_maps(tmp_path):
    source = "scenes:count=2,size=32,fields=boxes+semantic"
    with pytest.raises(UsageError, match=r"has boxes and semantic, and voc holds one .*--fields boxes or --fields sem"):
        convert_data(source, f"voc:{tmp_path / 'out'}", lossy=True)


def test_colours_that_voc_can_not_hold(tmp_path):
    root = write_masks(tmp_path / "in")
    content = json.loads((root / "classes.json").read_text())
    classes = content if isinstance(content, list) else content["classes"]
    equal = {"classes": classes, "colors": [[9, 9, 9]] * len(classes)}
    void = {"classes": classes, "colors": [[224, 224, 192], *([i, i, i] for i in range(1, len(classes)))]}
    for name, stated in (("equal", equal), ("void", void)):
        whole = Whole("x", tuple(classes), None, tuple(map(tuple, stated["colors"])), None, frozenset({"semantic"}))
        with pytest.raises(UsageError, match="colours of the classes, some of which are equal or VOC's for 255"):
            VOCWriter(tmp_path / name, whole, Losses("voc", False))
        writer = VOCWriter(tmp_path / name, whole, losses := Losses("voc", True))
        assert writer.colors == voc_colors(len(classes))
        assert losses.lost == ["colours of the classes, some of which are equal or VOC's for 255: VOC's are taken"]
    whole = Whole("x", ("#1",), None, None, None, frozenset({"semantic"}))
    with pytest.raises(UsageError, match=r"class '#1': labelmap\.txt takes # for a comment"):
        VOCWriter(tmp_path, whole, Losses("voc", True))
