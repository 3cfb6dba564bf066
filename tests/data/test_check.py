"""The data-set checker: sound data has no problem, and each mistake is found."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from scenewise.data import describe_repairs, open_data
from scenewise.data.base import Problem
from scenewise.data.check import check_data
from scenewise.data.repeats import CURE
from scenewise.errors import DataError, UsageError
from scenewise.files import images
from tests.data.twins import write_ade20k, write_camvid, write_cityscapes, write_masks, write_voc

SOUND = {
    "camvid": (write_camvid, {"train": 3, "val": 2, "test": 2}),
    "masks": (write_masks, {"train": 3, "val": 2}),
    "voc": (write_voc, {"train": 3, "val": 2}),
    "cityscapes": (write_cityscapes, {"train": 4, "val": 2}),
    "ade20k": (write_ade20k, {"train": 2, "val": 2}),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_data_has_no_problem(tmp_path, name):
    write, counts = SOUND[name]
    source = f"{name}:{write(tmp_path)}"
    calls = []
    report = check_data(source, progress=lambda done, total: calls.append((done, total)))
    assert report.problems == []
    assert report.ok
    assert report.source == source
    assert report.splits == counts
    total = sum(counts.values())
    assert calls == [(i, total) for i in range(1, total + 1)]


def test_the_pixels_of_each_class_are_counted(tmp_path):
    root = write_masks(tmp_path)
    files = [*(root / "labels").rglob("*.png")]
    values = np.concatenate([np.array(Image.open(file)).ravel() for file in files])
    assert check_data(f"masks:{root}").class_pixels == {
        name: int((values == label).sum()) for label, name in enumerate(("road", "grass", "sky"))
    }


def test_the_pixels_of_camvid(shared_data):
    import json

    root = shared_data("camvid")
    report = check_data(f"camvid:{root}", ["val"])
    table = json.loads((root / "classes.json").read_text())
    assert report.splits == {"val": 101}
    assert report.problems == []
    assert list(report.class_pixels.values()) == table["pixel_counts"]["val"][:11]


def test_a_split_of_unions_is_left_out_and_no_leak(tmp_path):
    root = write_voc(tmp_path)
    assert "trainval" not in check_data(f"voc:{root}").splits
    report = check_data(f"voc:{root}", ["train", "trainval"])
    assert report.splits == {"train": 3, "trainval": 5}
    assert report.problems == []
    for split in ("train", "val"):
        (root / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt").unlink()
    assert check_data(f"voc:{root}").splits == {"trainval": 5}  # where it is all that there is
    flat = write_masks(tmp_path / "flat", "flat")
    assert check_data(f"masks:{flat}").splits == {"train": 4}
    assert check_data(f"masks:{flat}", ["all"]).splits == {"all": 4}


def test_all_errors_of_all_splits_are_found(tmp_path):
    root = write_camvid(tmp_path)
    (root / "train" / "0001TP_000.jpg").write_bytes(b"")
    (root / "trainannot" / "0001TP_001.png").unlink()
    Image.new("L", (32, 24), 77).save(root / "trainannot" / "0001TP_002.png")
    Image.new("L", (3, 3)).save(root / "valannot" / "0016E5_0.png")
    Image.new("L", (3, 3)).save(root / "testannot" / "more.png")
    (root / "test.txt").write_text("S_1\nS_2\nS_3\n")
    report = check_data(f"camvid:{root}")
    assert not report.ok
    assert report.splits == {"train": 3, "val": 2, "test": 3}
    found = [(problem.file.removeprefix(f"{root}/"), problem.message) for problem in report.problems]
    expected = [
        ("train/0001TP_000.jpg", "the file is empty"),
        ("trainannot/0001TP_001.png", "not found; expected the label map of"),
        ("trainannot/0001TP_002.png", r"pixel \(row 0, column 0\) has value 77, and 767 more"),
        ("valannot/0016E5_0.png", r"the label map is 3 x 3 pixels"),
        ("testannot/more.png", "a label map without its image in"),
        ("test/S_3.png", "not found; expected an image"),
        ("testannot/S_3.png", "not found; expected the label map"),
        (str(root), "no pixel of class .* in split 'train'"),
    ]
    assert len(found) == len(expected)
    for (file, message), (expected_file, pattern) in zip(found, expected, strict=True):
        assert file == expected_file
        assert re.match(pattern, message)
    assert [p.severity for p in report.problems] == ["error"] * 7 + ["suspicion"]


def test_a_split_that_can_not_be_opened_is_a_problem(tmp_path):
    root = write_camvid(tmp_path)
    (root / "val.txt").write_text("")
    report = check_data(f"camvid:{root}")
    assert report.problems == [Problem(f"{root}/val.txt", "the list is empty; expected one entry per line")]
    assert report.splits == {"train": 3, "test": 2}
    assert [p.message for p in check_data(f"camvid:{root}", ["dev"]).problems] == [
        "there is no split 'dev'; splits here: train, val, test; expected a list dev.txt of its images"
    ]


def test_a_folder_of_another_layout(tmp_path):
    (problem,) = check_data(f"camvid:{tmp_path}").problems
    assert problem.message == (
        "no split is there that could be checked; no files are here, which is no data set of a known format"
    )
    assert not check_data(f"masks:{tmp_path}").ok
    with pytest.raises(DataError, match="no folder JPEGImages"):
        check_data(f"voc:{tmp_path}")
    with pytest.raises(UsageError, match="there is no format"):
        check_data(f"vox:{tmp_path}")


def test_splits_that_share_folders_tell_of_a_stray_once(tmp_path):
    root = write_voc(tmp_path)
    Image.new("P", (4, 4)).save(root / "VOC2012" / "SegmentationClass" / "stray.png")
    report = check_data(f"voc:{root}")
    assert [p.message for p in report.problems] == [
        f"a label map without its image in {root / 'VOC2012' / 'JPEGImages'}"
    ]
    assert not report.ok


def test_a_picture_in_two_splits_is_suspicious(tmp_path):
    """The same pixels under another name and in another file format."""
    root = write_masks(tmp_path)
    images, labels = root / "images", root / "labels"
    Image.open(images / "train" / "b.c.png").save(images / "val" / "copy.bmp")
    shutil.copy(labels / "train" / "b.c.png", labels / "val" / "copy.png")
    report = check_data(f"masks:{root}")
    assert report.ok
    assert report.problems == [
        Problem(
            str(images / "val" / "copy.bmp"),
            f"the same picture as {images / 'train' / 'b.c.png'} in split 'train'; here it is in 'val'. Scores are "
            f"then too good: {CURE}",
            "suspicion",
        )
    ]
    assert str(report.problems[0]).startswith(f"{images / 'val' / 'copy.bmp'}: suspicious: the same picture as ")


def test_a_picture_twice_in_one_split_is_suspicious(tmp_path):
    root = write_masks(tmp_path)
    for folder, ending in (("images", "png"), ("labels", "png")):
        shutil.copy(root / folder / "train" / f"b.c.{ending}", root / folder / "train" / f"d.{ending}")
    (found,) = check_data(f"masks:{root}").problems
    assert found.message == f"the same picture as {root / 'images' / 'train' / 'b.c.png'}, in the same split 'train'"


def test_pictures_of_another_size_are_others(tmp_path):
    """The same bytes in rows of another length."""
    root = write_masks(tmp_path)
    for name, size in (("wide", (12, 8)), ("high", (8, 12))):
        Image.new("RGB", size, (9, 9, 9)).save(root / "images" / "train" / f"{name}.png")
        Image.new("L", size, 1).save(root / "labels" / "train" / f"{name}.png")
    assert check_data(f"masks:{root}").problems == []


def test_further_pages_are_counted(tmp_path, monkeypatch):
    root = write_masks(tmp_path)
    pages = [Image.new("RGB", (12, 8), (9, 9, value)) for value in range(3)]
    pages[0].save(root / "images" / "train" / "pages.tif", save_all=True, append_images=pages[1:])
    Image.new("L", (12, 8), 1).save(root / "labels" / "train" / "pages.png")
    monkeypatch.setattr(images, "_told", {"pages"})  # the warning has a test of its own
    (found,) = check_data(f"masks:{root}").problems
    assert found.file == str(root / "images" / "train" / "pages.tif")
    assert found.message.startswith("has 3 pages; the first is read. Grey pages are channels where input.channels is")
    assert found.severity == "suspicion"


def test_a_list_copied_to_another_split_is_suspicious(tmp_path):
    root = write_masks(tmp_path, "lists")
    shutil.copy(root / "train.txt", root / "val.txt")
    report = check_data(f"masks:{root}")
    assert len(report.problems) == 3
    assert {p.message for p in report.problems} == {
        f"is also in split 'train'; here it is in 'val'. Scores are then too good: {CURE}"
    }


def relabelled(root, change):
    for file in (root / "labels").rglob("*.png"):
        Image.fromarray(change(np.array(Image.open(file))).astype(np.uint8)).save(file)


def test_masks_saved_as_0_and_255_are_suspicious(tmp_path):
    root = write_masks(tmp_path, classes="txt")
    (root / "classes.txt").write_text("background\ncell\n")
    relabelled(root, lambda values: np.where(values == 0, 0, 255))
    report = check_data(f"masks:{root}")
    assert report.ok
    assert [p.message for p in report.problems] == [
        "label maps hold only the values 0 and 255, of which 255 is ignored; expected indices 0 to 1 of the 2 classes. "
        "Were masks saved as 0 and 255? Then save 1 in place of 255, or state colors in classes.json",
        "no pixel of class 1 ('cell') in any of the splits train, val",
    ]
    assert "Were masks saved as 0 and 255?" in describe_repairs(open_data(f"masks:{root}"))  # also as training starts
    (root / "classes.txt").write_text("cell\n")  # one class and pixels to ignore: as it should be
    assert check_data(f"masks:{root}").problems == []


def test_labels_counted_from_1_are_suspicious(tmp_path):
    root = write_masks(tmp_path, classes="txt")
    relabelled(root, lambda values: np.where(values == 255, 255, values + 1))
    report = check_data(f"masks:{root}")
    assert len(report.problems) == 6  # an error for each of the 5 files, and
    assert report.problems[-1] == Problem(
        str(root),
        "no pixel has value 0, and some have 3; expected indices 0 to 2 of the 3 classes. Are all labels one too high?",
        "suspicion",
    )


def test_one_value_too_high_is_no_sign_of_labels_counted_from_1(tmp_path):
    root = write_masks(tmp_path, classes="txt")
    relabelled(root, lambda values: np.where(values == 2, 3, values))
    report = check_data(f"masks:{root}")
    assert [p.severity for p in report.problems] == ["error"] * 5


def test_a_class_that_does_not_occur_is_suspicious(tmp_path):
    root = write_masks(tmp_path)
    for file in (root / "labels" / "train").glob("*.png"):
        values = np.array(Image.open(file))
        Image.fromarray(np.where(values == 1, 255, values).astype(np.uint8)).save(file)
    assert [p.message for p in check_data(f"masks:{root}").problems] == [
        "no pixel of class 1 ('grass') in split 'train', where others have some"
    ]
    assert [p.message for p in check_data(f"masks:{root}", ["train"]).problems] == [
        "no pixel of class 1 ('grass') in split 'train'"
    ]


def test_the_built_in_scenes_are_sound():
    report = check_data("scenes:count=2,size=48x64")
    assert report.ok
    assert report.splits == {"train": 2, "val": 2, "test": 2}
    assert sum(report.class_pixels.values()) == 6 * 48 * 64


def test_classes_whose_names_are_nearly_equal_are_suspicious_in_label_maps_too(tmp_path):
    root = write_masks(tmp_path, classes="txt")
    (root / "classes.txt").write_text("Helmet\nhelmet\nsky\n")
    told = "classes 'Helmet' and 'helmet' differ in upper and lower case, spaces or hyphens only"
    assert any(problem.message.startswith(told) for problem in check_data(f"masks:{root}").problems)
    assert told in describe_repairs(open_data(f"masks:{root}"))


def test_what_looks_like_a_mistake_is_told_when_training_starts(tmp_path):
    """Of many the first ones."""
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.2, 0.3, 0.5, 0.5], "area": 0.25, "iscrowd": 0}
    names = [f"class{chr(97 + i)}" for i in range(9)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [record],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate([*names, *(n.upper() for n in names)])],
    }
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    told = describe_repairs(open_data(f"coco:{tmp_path / 'labels.json'}"))
    assert "classes 'classa' and 'CLASSA' differ in upper and lower case" in told
    assert "5 more suspicions or more; scenewise data check lists them" in told


def write_boxes(root, boxes, split="train", size=(40, 30)):
    """A YOLO folder with one image for each list of lines."""
    for folder in ("images", "labels"):
        (root / folder / split).mkdir(parents=True)
    for index, lines in enumerate(boxes):
        pixels = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
        (root / "labels" / split / f"{index}.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "classes.txt").write_text("cat\ndog\nhorse\n")
    return f"yolo:{root}"


def test_what_is_there(tmp_path):
    cat, dog = "0 0.5 0.5 0.5 0.5", "1 0.5 0.5 0.25 0.25"
    write_boxes(tmp_path, [[cat, cat, dog]] * 12 + [[], [dog]])
    source = write_boxes(tmp_path, [[cat]], "val", (20, 50))
    report = check_data(str(tmp_path))
    assert report.splits == {"train": 14, "val": 1}
    assert report.class_objects == {
        "cat": {"train": 24, "val": 1},
        "dog": {"train": 13, "val": 0},
        "horse": {"train": 0, "val": 0},
    }
    assert report.class_images["dog"] == {"train": 13, "val": 0}
    assert report.sizes == {(30, 40): 14, (50, 20): 1}
    assert report.few == {"dog": 13}
    assert [p.message for p in report.problems] == ["no object of class 'horse' in split 'train' and 'val'"]
    assert check_data(source, ["val"]).few == {"cat": 1}


def test_few_objects_are_counted_where_training_learns(tmp_path):
    """Also where the split for training has another name, as COCO's."""
    cat = "0 0.5 0.5 0.5 0.5"
    write_boxes(tmp_path, [[cat]], "train2017")
    source = write_boxes(tmp_path, [[cat] * 30], "val2017")
    report = check_data(source)
    assert report.learned_from == ["train2017"]
    assert report.few == {"cat": 1}
    assert check_data(source, ["val2017"]).few == {}


def test_equal_problems_are_grouped(tmp_path):
    source = write_boxes(tmp_path, [["0 0.5 0.5 0.5 0.5", f"0 0.5 0.5 0.{i}1 0", f"{i + 3} 0 0 1 1"] for i in range(5)])
    groups = check_data(source).groups(places=2)
    errors = [group for group in groups if group.severity == "error"]
    assert [group.count for group in errors] == [5, 5], [g.first for g in errors]
    assert all(len(group.files) == 2 for group in errors)
    assert errors[0].first.file.endswith("0.txt")
    assert {group.severity for group in groups[2:]} == {"suspicion"}
    assert sum(group.count for group in groups) == len(check_data(source).problems)


def test_problems_of_two_kinds_are_two_groups():
    from scenewise.data.check import _kind

    alike = [
        ("line 3: '0 0.1 0.2' has 2 numbers; expected x", "line 14: '1 7' has 1 numbers; expected x"),
        ("annotation 4512 (image 000123.jpg): bbox [40, 60, -3, 20] has width -3; expected",
         "annotation 7 (image b.jpg): bbox [1.5, 60, 3e-5, 20] has width -0.25; expected"),
        ("the same picture as /a/b.png, in the same split 'train'", ""),
    ]  # fmt: skip
    for one, other in alike[:2]:
        assert _kind(one) == _kind(other)
    assert len({_kind(one) for one, _ in alike}) == 3


def test_classes_of_the_built_in_scenes():
    report = check_data("scenes:count=3,size=48x64")
    assert list(report.class_objects) == list(report.class_images)
    assert report.class_images["wall"]["train"] == 3
    assert "wall" not in report.few
