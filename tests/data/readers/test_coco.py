"""COCO's files: what samples have, what is wrong in a file, and what becomes of it."""

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from scenewise.data import check_data, open_data, splits_of
from scenewise.data.instances import Names
from scenewise.errors import DataError, UsageError
from scenewise.fields.keypoints import KeyPoints
from scenewise.ops import rle

SIZE = (40, 60)


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def thing(number, image=7, category=18, box=(10, 10, 8, 8), **more):
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": [*box], "area": box[2] * box[3]}
    outline = [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3]]]
    return {**entry, "iscrowd": 0, "segmentation": outline, **more}


def content():
    """Three images; the last has no objects. Polygons, both kinds of run-length codes, a crowd, gaps in the ids."""
    mask = np.zeros(SIZE, bool)
    mask[20:30, 5:15] = True
    counts = rle.parse(rle.encode(mask)[0])[1].tolist()
    return {
        "info": {"about": "tëst"},
        "images": [
            {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 3, "file_name": "sub/b.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 900, "file_name": "c.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            thing(11),
            thing(12, 3, 44, (5, 20, 10, 10), segmentation=rle.encode(mask)[0]),
            thing(13, 7, 44, (5, 20, 10, 10), segmentation={"size": [*SIZE], "counts": counts}, iscrowd=1),
        ],
        "categories": [{"id": 44, "name": "spoon"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "cup"}],
    }


def write(root, change=None, name="instances_train2017", folder="train2017", made=None):
    made = content() if made is None else made
    if change is not None:
        change(made)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for index, file in enumerate(("a.png", "sub/b.png", "c.png")):
        path = root / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 40 * index + len(name), np.uint8)).save(path)
    (root / "annotations" / f"{name}.json").write_text(json.dumps(made))
    return f"coco:{root}"


# --- samples


def test_samples(tmp_path):
    data = open_data(write(tmp_path), "train")
    assert (data.split, data.source) == ("train2017", f"coco:{tmp_path}")
    assert data.classes == ("dog", "spoon", "cup")
    assert data.class_ids == (18, 44, 90)
    assert data.image_ids.tolist() == [7, 3, 900]
    assert [data.image_id(i) for i in range(3)] == ["a", "sub/b", "c"]
    image, target = data[0]
    assert set(target) == {"image_id", "boxes", "labels", "ignore", "area", "masks"}
    assert type(image) is tv_tensors.Image
    assert type(target["boxes"]) is tv_tensors.BoundingBoxes
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[10, 10, 18, 18], [5, 20, 15, 30]]
    assert target["labels"].tolist() == [0, 1]
    assert target["labels"].dtype == torch.int64
    assert target["ignore"].tolist() == [False, True]
    assert target["area"].tolist() == [64, 100]
    assert isinstance(target["masks"], tv_tensors.Mask)
    assert target["masks"].dtype == torch.bool
    expected = torch.zeros(2, *SIZE, dtype=torch.bool)
    expected[0, 10:18, 10:18] = True
    expected[1, 20:30, 5:15] = True
    assert torch.equal(target["masks"].as_subclass(torch.Tensor), expected)
    assert torch.equal(data[1][1]["masks"].as_subclass(torch.Tensor), expected[1:])


def test_an_image_without_objects_is_a_sample(tmp_path):
    target = open_data(write(tmp_path))[2][1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == target["ignore"].shape == target["area"].shape == (0,)
    assert target["masks"].shape == (0, *SIZE)


def test_a_file_without_annotations(tmp_path):
    source = write(tmp_path, lambda c: c.update(annotations=[]))
    with pytest.raises(DataError, match="no object is labelled in 3 images"):
        open_data(source)
    data = open_data(source, allow_unlabelled=True)
    assert len(data) == 3
    assert data[0][1]["boxes"].shape == (0, 4)


def test_only_what_is_needed(tmp_path):
    data = open_data(write(tmp_path))
    lean = data.only(frozenset({"boxes", "labels"}))
    assert set(lean[0][1]) == {"image_id", "boxes", "labels", "ignore", "area"}
    assert set(data[0][1]) == {"image_id", "boxes", "labels", "ignore", "area", "masks"}
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    assert len(lean[0][1]["boxes"]) == 2  # outlines are not read
    with pytest.raises(DataError, match=r"instances_train2017\.json: can't be read"):
        data[0]


def test_a_file_that_changes_is_noticed(tmp_path):
    data = open_data(write(tmp_path))
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace('"id": 11', '"id": 15'))
    with pytest.raises(DataError, match=r"annotation 11: .*changed after it was opened"):
        data[0]


def test_data_sets_travel_as_arrays(tmp_path):
    data = open_data(write(tmp_path))
    again = pickle.loads(pickle.dumps(data))
    for index in range(3):
        for key, value in data[index][1].items():
            assert torch.equal(again[index][1][key], value) if isinstance(value, torch.Tensor) else True
    assert isinstance(again.boxes, np.ndarray)
    assert not any(isinstance(value, (list, dict)) for value in vars(data).values())  # nothing that grows by reading


def test_names_in_an_array():
    names = Names(["a", "", "bé", "\udcff"])
    assert [*names] == ["a", "", "bé", "\udcff"]
    with pytest.raises(IndexError):
        names[4]


@pytest.mark.parametrize("name", ["coco_mini", "nuclei"])
def test_real_data_equals_pycocotools(shared_data, name, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    data = open_data(f"coco:{shared_data(name)}", "val")
    truth = coco.COCO(str(data._file))
    for index in range(0, len(data), 3):
        target = data[index][1]
        entries = truth.loadAnns(truth.getAnnIds(int(data.image_ids[index])))
        assert len(entries) == len(target["boxes"])
        for k, entry in enumerate(entries):
            assert (truth.annToMask(entry).astype(bool) == target["masks"][k].numpy()).all()
            x, y, w, h = entry["bbox"]
            assert data.boxes[data.rows(index)[k]].tolist() == [x, y, x + w, y + h]
            assert data.class_ids[target["labels"][k]] == entry["category_id"]
            assert bool(target["ignore"][k]) == bool(entry["iscrowd"])
            assert target["area"][k] == np.float32(entry["area"])


# --- splits and folders


def test_splits(tmp_path):
    source = write(tmp_path)
    write(tmp_path, name="instances_val2017", folder="val2017")
    write(tmp_path, name="instances_mine", folder="mine")
    assert splits_of(source) == ("train2017", "val2017", "mine")
    assert open_data(source, "val").split == "val2017"
    assert open_data(source, "mine").image_path(0) == tmp_path / "mine" / "a.png"
    with pytest.raises(DataError, match=r"no split 'vall'; splits here: train2017, val2017"):
        open_data(source, "vall")
    write(tmp_path, name="instances_train2014")
    with pytest.raises(DataError, match="split 'train' may be train2014 or train2017; name one of them"):
        open_data(source, "train")


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "images", ""])
def test_images_are_found_where_people_put_them(tmp_path, folder):
    data = open_data(write(tmp_path, folder=folder))
    assert data.image_path(0) == tmp_path / folder / "a.png"


@pytest.mark.parametrize("folder", ["annotations", "annotations/images", "train2017", "images", ""])
def test_the_images_of_a_single_file(tmp_path, folder):
    write(tmp_path, folder=folder)
    data = open_data(f"coco:{tmp_path / 'annotations' / 'instances_train2017.json'}", "train")
    assert data.image_path(0) == tmp_path / folder / "a.png"
    assert len(data[0][1]["masks"]) == 2


def test_a_single_file_is_not_every_split(tmp_path):
    write(tmp_path, name="instances_val2017", folder="val2017")
    source = f"coco:{tmp_path / 'annotations' / 'instances_val2017.json'}"
    assert [open_data(source, split).split for split in ("val2017", "val", "all")] == ["val2017"] * 3
    with pytest.raises(DataError, match="is not split 'train'; it can be opened as all, val, val2017"):
        open_data(source, "train")


def test_images_elsewhere(tmp_path):
    source = write(tmp_path, folder="pictures")
    assert open_data(source, images="pictures").image_path(0) == tmp_path / "pictures" / "a.png"
    assert open_data(source).image_path(1) == tmp_path / "pictures" / "sub" / "b.png"  # the only ones of these names
    assert open_data(source).image_id(1) == "pictures/sub/b"
    for file in ("a.png", "sub/b.png", "c.png"):
        (tmp_path / "pictures" / file).rename(tmp_path / "pictures" / file.replace(".png", "-1.png"))
    with pytest.raises(DataError, match=r"the image a\.png is not found; expected it in one of .*train2017"):
        open_data(source)
    with pytest.raises(DataError, match="nowhere: not found; expected the folder of the images"):
        open_data(source, images="nowhere")


# --- keypoints

POINTS = ["nose", "left_eye", "right_eye"]


def posed(change=None):
    def make(made):
        made["categories"] = [{"id": 1, "name": "person", "keypoints": POINTS, "skeleton": [[1, 2], [1, 3]]}]
        for entry in made["annotations"]:
            entry |= {"category_id": 1, "keypoints": [12, 13, 2, 14, 13, 1, 0, 0, 0]}
        if change is not None:
            change(made)

    return make


def test_keypoints(tmp_path):
    source = write(tmp_path)
    write(tmp_path, posed(), name="person_keypoints_train2017")
    assert open_data(source).classes == ("dog", "spoon", "cup")
    data = open_data(source, needs=frozenset({"boxes", "keypoints"}))
    assert data.classes == ("person",)
    assert data.skeleton.names == tuple(POINTS)
    assert data.skeleton.links == ((0, 1), (0, 2))
    assert data.skeleton.sides() == ((1, 2),)
    target = data[0][1]
    assert type(target["keypoints"]) is KeyPoints.of(data.skeleton)
    assert target["keypoints"][0].tolist() == [[12.5, 13.5], [14.5, 13.5], [0, 0]]
    assert target["visibility"][0].tolist() == [2, 1, 0]
    assert "masks" not in target  # not asked for, so not looked at
    assert data[2][1]["keypoints"].shape == (0, 3, 2)
    assert set(data.only(frozenset({"keypoints"}))[0][1]) == {"image_id", "keypoints", "visibility", "ignore", "area"}


def test_keypoints_in_a_file_of_instances(tmp_path):
    data = open_data(write(tmp_path, posed()), needs=frozenset({"keypoints"}))
    assert data[0][1]["visibility"].tolist() == [[2, 1, 0]] * 2


# --- what is wrong with a file: one clear error each


def entry(index=0, **values):
    return lambda c: c["annotations"][index].update(values)


def without(key, index=0):
    return lambda c: c["annotations"][index].pop(key)


def code(**values):
    return lambda c: c["annotations"][1]["segmentation"].update(values)


WHERE = r"instances_train2017\.json: annotation 11 \(image a\.png\): "
SECOND = r"instances_train2017\.json: annotation 12 \(image sub/b\.png\): segmentation: "
FAULTS = {
    "negative width": (
        entry(bbox=[40, 30, -3, 20]),
        WHERE
        + r"bbox \[40, 30, -3, 20\] has width -3; expected x, y, width, height in pixels, with width and height > 0",
    ),
    "zero height": (entry(bbox=[40, 20, 3, 0]), WHERE + r"bbox \[40, 20, 3, 0\] has height 0; expected x, y"),
    "nan": (entry(bbox=[40, float("nan"), 3, 3]), WHERE + r"bbox \[40, nan, 3, 3\] has a number that is not finite"),
    "infinite": (
        entry(bbox=[40, float("inf"), 3, 3]),
        WHERE + r"bbox \[40, inf, 3, 3\] has a number that is not finite",
    ),
    "outside": (
        entry(bbox=[10, 10, 80, 8], segmentation=[[10, 10, 90, 10, 90, 18, 10, 18]]),
        WHERE + r"bbox \[10, 10, 80, 8\] covers x 10 to 90 and y 10 to 18 of an image of 60 x 40 pixels "
        r"\(width x height\); expected a box inside the image",
    ),
    "left of the image": (
        entry(bbox=[-5, 10, 20, 8], segmentation=[[-5, 10, 15, 10, 15, 18, -5, 18]]),
        WHERE + r".*covers x -5 to 15.*inside the image",
    ),
    "no box": (
        lambda c: [c["annotations"][0].pop(key) for key in ("bbox", "segmentation")],
        WHERE + r"has neither bbox nor segmentation; expected x, y, width, height",
    ),
    "three numbers": (entry(bbox=[1, 2, 3]), r"annotation 11: bbox is \[1, 2, 3\]; expected x, y, width, height"),
    "words": (entry(bbox=["a", 2, 3, 4]), r"annotation 11: bbox is \['a', 2, 3, 4\]; expected x, y"),
    "unknown category": (entry(category_id=19), WHERE + r"category_id 19 is no category; known: 18, 44, 90"),
    "unknown image": (entry(image_id=8), r"annotation 11: image_id 8 is the id of no image"),
    "list for an id": (entry(image_id=[7]), r"annotation 11: image_id is \[7\]; expected an integer or a text"),
    "half an id": (entry(image_id=7.5), r"annotation 11: image_id is 7\.5; expected an integer or a text"),
    "unknown text": (entry(image_id="x"), r"annotation 11: image_id 'x' is the id of no image"),
    "no image id": (without("image_id"), "annotation 11: has no image_id; expected an integer or a text"),
    "no category id": (
        without("category_id"),
        WHERE + "has no category_id; expected one of the 3 categories",
    ),
    "no object": (lambda c: c["annotations"].insert(0, [1]), r"annotations\[0\]: is \[1\]; expected an object"),
    "double id": (
        entry(1, id=11),
        r"annotation 11 \(image sub/b\.png\): id 11 is also that of annotations\[0\], another object; expected unique",
    ),
    "iscrowd": (entry(iscrowd="no"), r"annotation 11: iscrowd is 'no'; expected 0 or 1"),
    "area": (entry(area="big"), r"annotation 11: area is 'big'"),
    "two points": (
        entry(segmentation=[[10, 10, 18, 18]]),
        WHERE + "segmentation: polygon 0 has 2 points; expected at least 3",
    ),
    "odd": (
        entry(segmentation=[[10, 10, 18, 10, 18, 18, 10]]),
        WHERE + "segmentation: polygon 0 has 7 numbers, an odd",
    ),
    "flat": (
        entry(segmentation=[10, 10, 18, 10, 18, 18]),
        WHERE + r"segmentation: \[.*\] is neither a list of polygons",
    ),
    "pairs": (
        entry(segmentation=[[[10, 10]] * 6]),
        WHERE + "segmentation: a polygon holds something that is no number",
    ),
    "nan in a polygon": (
        entry(segmentation=[[10, 10, 18, float("nan"), 18, 18]]),
        WHERE + "segmentation: a polygon has a number that is not finite",
    ),
    "contradiction": (
        entry(bbox=[30, 10, 8, 8]),
        WHERE + r"bbox \[30, 10, 8, 8\] and segmentation, whose own box is \[10, 10, 8, 8\], contradict",
    ),
    "rle sum": (code(counts=[5, 3]), SECOND + r"run-length code: the counts sum to 8 pixels; expected 2400"),
    "rle garbage": (
        code(counts="\x01\x02~~~"),
        SECOND + r"run-length code: byte 0 of the counts is 1; expected 48 to 111",
    ),
    "rle break": (
        code(counts="PPPPPP"),
        SECOND + r"run-length code: (the counts break off|a number in the counts has)",
    ),
    "rle huge": (code(size=[2**31, 2**31]), SECOND + r"run-length code: size is \[2147483648, 2147483648\]; expected"),
    "rle wide": (code(size=[2**15, 2**15]), SECOND + r"run-length code: size is \[32768, 32768\]; expected"),
    "rle negative": (code(size=[-40, -60]), SECOND + r"run-length code: size is \[-40, -60\]; expected"),
    "rle long run": (
        code(counts=[0, 2**62]),
        SECOND + r"run-length code: count 1 is 4611686018427387904, more than all",
    ),
    "rle turned": (
        code(size=[60, 40]),
        SECOND + r"the mask is 60 x 40 \(height x width\); the image is 40 x 60",
    ),
    "rle empty": (code(counts=[2400]), SECOND + "the mask is empty"),
    "rle without counts": (
        lambda c: c["annotations"][1]["segmentation"].pop("counts"),
        SECOND + "run-length code: {.*} is not a run-length",
    ),
    "two images of one id": (
        lambda c: c["images"][1].update(id=7),
        r"instances_train2017\.json: images\[1\] has the id 7, which another image has, too; expected unique ids",
    ),
    "no file name": (
        lambda c: c["images"][1].pop("file_name"),
        r"images\[1\] \(id 3\) has the file_name None; expected",
    ),
    "bad height": (
        lambda c: c["images"][1].update(height=-2),
        r"images\[1\] \(id 3\) has the height -2; expected a number",
    ),
}
POINT_FAULTS = {
    "short": (
        entry(keypoints=[1, 2, 2]),
        "keypoints has 3 numbers; expected x, y, visibility of each of 3 keypoints, 9",
    ),
    "nested": (entry(keypoints=[[1, 2, 2]] * 3), r"keypoints is \[\[1, 2, 2\].*; expected a flat list of numbers"),
    "visibility": (
        entry(keypoints=[12, 13, 3, 0, 0, 0, 0, 0, 0]),
        r"keypoint 0 \(nose\) has a visibility of 3; expected 0",
    ),
    "outside": (
        entry(keypoints=[12, 13, 2, 70, 13, 1, 0, 0, 0]),
        r"keypoint 1 \(left_eye\) has x, y of 70, 13, outside the image",
    ),
    "nan": (
        entry(keypoints=[12, float("nan"), 2, 0, 0, 0, 0, 0, 0]),
        r"keypoint 0 \(nose\) has x, y of 12, nan; expected",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_clear_error(tmp_path, name):
    change, message = FAULTS[name]
    source = write(tmp_path, change)
    with pytest.raises(DataError, match=message) as caught:
        open_data(source)
    assert "\n" not in str(caught.value)
    report = check_data(source)
    assert not report.ok
    assert any(str(caught.value).startswith(str(problem)) for problem in report.problems)


@pytest.mark.parametrize("name", POINT_FAULTS)
def test_each_fault_of_keypoints_is_one_clear_error(tmp_path, name):
    change, message = POINT_FAULTS[name]
    source = write(tmp_path, posed(change), name="person_keypoints_train2017")
    with pytest.raises(DataError, match=WHERE.replace("instances", "person_keypoints") + message):
        open_data(source, needs=frozenset({"keypoints"}))
    assert not check_data(source, needs=frozenset({"keypoints"})).ok
    assert len(open_data(source, needs=frozenset({"keypoints"}), on_bad_record="skip")[0][1]["boxes"]) == 1


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_bad_records_are_left_out_or_mended_and_told(tmp_path, name, policy):
    data = open_data(write(tmp_path, FAULTS[name][0]), on_bad_record=policy)
    assert len(data.repairs) == 1 + (name == "two images of one id")  # an annotation is then of no image
    samples = [data[index] for index in range(len(data))]
    left = sum(len(target["boxes"]) for _, target in samples)
    assert all(len(target["masks"]) == len(target["boxes"]) for _, target in samples)
    kept = "cut off" in str(data.repairs[0]) or "; kept" in str(data.repairs[0])
    records = 4 if name == "no object" else 3
    assert left == records - (not kept)
    assert str(data.repairs[0]).endswith(("left out", "with its objects", "cut off at the border", "kept"))
    assert kept == (policy == "fix" and name in ("left of the image", "double id"))


def test_a_box_is_cut_off_at_the_border(tmp_path):
    source = write(tmp_path, entry(bbox=[48, 10, 20, 8], segmentation=square(48, 10, 12)))
    data = open_data(source, on_bad_record="fix", needs=frozenset({"boxes"}))
    assert data[0][1]["boxes"][0].tolist() == [48, 10, 60, 18]


def test_a_bad_polygon_among_good_ones_is_mended(tmp_path):
    source = write(tmp_path, entry(segmentation=[*square(10, 10, 8), [1, 2, 3, 4]]))
    with pytest.raises(DataError, match="polygon 1 has 2 points"):
        open_data(source)
    data = open_data(source, on_bad_record="fix")
    assert data[0][1]["masks"][0].sum() == 64
    assert "polygon 1 has 2 points; expected at least 3; that polygon is left out" in str(data.repairs[0])


def test_masks_that_nobody_needs_may_be_bad(tmp_path):
    source = write(tmp_path, entry(segmentation=[[1, 2]]))
    data = open_data(source, needs=frozenset({"boxes", "labels"}))
    assert len(data[0][1]["boxes"]) == 2
    assert "masks" not in data.fields


def test_boxes_alone(tmp_path):
    data = open_data(write(tmp_path, lambda c: [e.pop("segmentation") for e in c["annotations"]]))
    assert data.fields == {"boxes", "labels", "ignore", "area"}
    data = open_data(write(tmp_path, lambda c: [e.pop("area") for e in c["annotations"]]))
    assert data.fields == {"boxes", "labels", "ignore", "masks"}


def test_many_errors_are_counted(tmp_path):
    def change(made):
        made["annotations"] = [thing(i, box=(1, 1, 0, 5)) for i in range(5)]

    with pytest.raises(DataError, match=r"annotation 0 .*\(5 bad records; this is the first\)"):
        open_data(write(tmp_path, change))


# --- images


def test_missing_images(tmp_path):
    source = write(tmp_path)
    (tmp_path / "train2017" / "sub" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: not found; expected an image"):
        open_data(source)
    assert [p.message for p in check_data(source).problems] == [
        "not found; expected an image file",
        "no object of class 'cup' in split 'train2017'",
    ]
    data = open_data(source, on_bad_record="skip")
    assert data.image_ids.tolist() == [7, 900]
    assert len(data.labels) == 2
    assert "left out, with its objects" in str(data.repairs[0])
    assert data[1][1]["boxes"].shape == (0, 4)


def test_an_image_of_another_size(tmp_path):
    source = write(tmp_path)
    Image.fromarray(np.zeros((SIZE[0] + 2, SIZE[1], 3), np.uint8)).save(tmp_path / "train2017" / "a.png")
    message = (
        r"a\.png: the image is 60 x 42 pixels \(width x height\); .*instances_train2017\.json, image 7, says 60 x 40"
    )
    data = open_data(source)
    with pytest.raises(DataError, match=message):
        data[0]
    assert [p.severity for p in check_data(source).problems] == ["error", "suspicion"]
    with pytest.raises(
        DataError, match=r"on_bad_record: skip leaves out 2 of 3 objects, more than half, such as .*a\.png"
    ):
        open_data(source, on_bad_record="skip")
    assert len(open_data(source, on_bad_record="skip", allow_unlabelled=True)) == 2
    mended = open_data(source, on_bad_record="fix", needs=frozenset({"boxes"}))
    assert mended[0][0].shape == (3, 42, 60)
    assert "the file's size is taken" in str(mended.repairs[0])


def test_a_turned_image(tmp_path):
    source = write(tmp_path)
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(tmp_path / "train2017" / "a.png")
    with pytest.raises(DataError, match="Was the image turned by its EXIF orientation"):
        open_data(source)[0]
    assert len(open_data(source, on_bad_record="fix", allow_unlabelled=True)) == 2


# --- the file as a whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), r"instances_train2017\.json: there is no 'annotations'; expected images,"),
        (lambda c: c.pop("categories"), r"there is no 'categories'"),
        (lambda c: c.update(categories=[]), r"there are no categories"),
        (lambda c: c.update(images={}), r"images is not a list; expected a list of objects"),
        (lambda c: c["categories"][1].update(id=44), r"categories\[1\]: id 44 is that of another category, too"),
        (lambda c: c["categories"][1].update(name="spoon"), r"several categories have the name 'spoon'"),
        (
            lambda c: c["categories"][1].pop("id"),
            r"categories\[1\] is .*; expected an id \(an integer or a text\) and a name",
        ),
    ],
)
def test_a_file_that_is_none(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        open_data(write(tmp_path, change))


def test_keypoints_that_are_not_described(tmp_path):
    with pytest.raises(DataError, match="no category has keypoints; expected a list of their names"):
        open_data(write(tmp_path), needs=frozenset({"keypoints"}))


def test_policies_are_for_objects(tmp_path):
    with pytest.raises(UsageError, match="scenes: on_bad_record is 'skip', and it has no records of objects"):
        open_data("scenes:", on_bad_record="skip")


# --- suspicions


def test_corners_read_as_sizes(tmp_path):
    def change(made):
        made["annotations"] = [thing(i, box=(30 + i, 20 + i, 45 + i, 30 + i)) for i in range(8)]

    source = write(tmp_path, change)
    with pytest.raises(DataError, match=r"8 bad records.*many boxes leave their image; is bbox x1, y1, x2, y2\?"):
        open_data(source)
    assert any("is bbox x1, y1, x2, y2" in p.message for p in check_data(source).problems)


@pytest.mark.parametrize(("shift", "word"), [(-1, "low"), (1, "high")])
def test_ids_off_by_one(tmp_path, shift, word):
    def change(made):
        made["categories"] = [{"id": i, "name": f"n{i}"} for i in (1, 2, 3)]
        for position, item in enumerate(made["annotations"]):
            item["category_id"] = position + 1 + shift

    source = write(tmp_path, change)
    with pytest.raises(DataError, match=f"are all category ids one too {word}"):
        open_data(source)


@pytest.mark.parametrize(("shift", "word"), [(1, "high"), (-1, "low")])
def test_image_ids_off_by_one(tmp_path, shift, word):
    def change(made):
        for item in made["annotations"]:
            item["image_id"] += shift

    source = write(tmp_path, change)
    cure = f"are all one too {word}? Then {'take 1 from' if shift == 1 else 'add 1 to'} each image_id"
    with pytest.raises(DataError, match=re.escape(cure)):
        open_data(source)
    assert any(cure in problem.message for problem in check_data(source).problems)


def test_an_image_that_is_not_there_makes_no_ids_off_by_one(tmp_path):
    source = write(tmp_path, lambda made: made["annotations"][0].update(image_id=8))
    with pytest.raises(DataError, match="image_id 8 is the id of no image") as error:
        open_data(source)
    assert "all one too" not in str(error.value)


def test_the_same_picture_in_two_splits(tmp_path):
    source = write(tmp_path)
    write(tmp_path, name="instances_val2017", folder="val2017")
    shared = tmp_path / "val2017" / "a.png"
    shared.write_bytes((tmp_path / "train2017" / "c.png").read_bytes())
    assert any(
        p.file == str(shared) and "the same picture as" in p.message and "train2017" in p.message
        for p in check_data(source).problems
    )


def test_objects_are_counted(tmp_path):
    report = check_data(write(tmp_path))
    assert report.ok
    assert report.class_objects == {
        name: {"train2017": count} for name, count in (("dog", 1), ("spoon", 1), ("cup", 0))
    }
    assert [p.message for p in report.problems] == ["no object of class 'cup' in split 'train2017'"]


def test_sound_real_data_has_no_problem(shared_data):
    report = check_data(f"coco:{shared_data('coco_mini')}", ["val2017"])
    assert [p for p in report.problems if p.severity == "error"] == []
    assert sum(counts["val2017"] for counts in report.class_objects.values()) == 619


def test_nothing_changes_the_content(tmp_path):
    before = content()
    write(tmp_path, made=copy.deepcopy(before))
    assert before == content()


def test_the_example_in_the_docs_runs(tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[3] / "docs" / "data.md"
    block = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert capsys.readouterr().out.splitlines() == [
        "annotation 2 (image a.png): bbox [50, 10, 20, 8] covers x 50 to 70 and y 10 to 18 of an image of 60 x 40 "
        "pixels (width x height); expected a box inside the image; cut off at the border",
        "[[10.0, 10.0, 30.0, 18.0], [50.0, 10.0, 60.0, 18.0]]",
    ]
