"""Which format a data set has, told from what lies there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.data.convert import convert_data
from scenewise.data.formats import all_readers
from scenewise.data.recognise import describe, recognise
from scenewise.data.split import split_data
from scenewise.errors import DataError, UsageError
from tests.data import twins
from tests.data.readers import test_beside_masks, test_voc_boxes, test_voc_layouts, test_yolo, test_yolo_layouts

WRITERS = {
    "ade20k": lambda root: twins.write_ade20k(root),
    "camvid": lambda root: twins.write_camvid(root),
    "cityscapes": lambda root: twins.write_cityscapes(root),
    "masks": lambda root: twins.write_masks(root),
    "masks txt": lambda root: twins.write_masks(root, "flat", "txt"),
    "masks beside": lambda root: test_beside_masks.write(root),
    "voc": lambda root: twins.write_voc(root),
    "voc boxes": lambda root: test_voc_boxes.write(root),
    "voc flat": lambda root: test_voc_layouts.place(root, ("0.png", "0.xml")),
    "voc folders": lambda root: test_voc_layouts.place(root, ("train/images/0.png", "train/annotations/0.xml")),
    "yolo": lambda root: test_yolo.write(root),
    "yolo txt": lambda root: test_yolo.write(root, classes="txt"),
    "yolo roboflow": lambda root: test_yolo.write(root, layout="{}/images"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_format_is_recognised(tmp_path, name):
    found = WRITERS[name](tmp_path)
    path = str(found).partition(":")[2] or str(found)
    expected = f"{name.split()[0]}:{path}"
    assert recognise(Path(path), all_readers()) == expected
    assert open_data(path).source == expected
    assert splits_of(path) == splits_of(expected)
    assert check_data(path).ok == check_data(expected).ok


def test_a_coco_file_and_folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "train" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    assert open_data(str(tmp_path)).source == f"coco:{tmp_path}"
    assert len(open_data(f"{tmp_path}/annotations/instances_train.json")) == 1


@pytest.mark.parametrize("file", ["obj.data", "set.yaml"])
def test_a_file_that_describes_a_data_set(tmp_path, file):
    test_yolo_layouts.place(tmp_path, "images/train/0.png")
    (tmp_path / "obj.names").write_text("thing\n")
    text = "names = obj.names\ntrain = images/train" if file == "obj.data" else "names: [a]\ntrain: images/train"
    (tmp_path / file).write_text(text)
    assert open_data(f"{tmp_path}/{file}").source == f"yolo:{tmp_path}/{file}"
    assert open_data(str(tmp_path)).source == f"yolo:{tmp_path}"


def test_several_formats_in_one_folder(tmp_path):
    test_yolo.write(tmp_path)
    test_voc_boxes.write(tmp_path)
    with pytest.raises(DataError, match=r"may be of several formats; state which: voc:.*\(.*\), yolo:.*\(labels/train"):
        open_data(str(tmp_path))


def test_what_is_no_data_set_is_described(tmp_path):
    with pytest.raises(UsageError, match="not found; expected format:path, with a format of ade20k"):
        open_data(str(tmp_path / "nowhere"))
    with pytest.raises(
        DataError, match="no files are here, which is no data set of a known format; known formats: ade20k"
    ):
        open_data(str(tmp_path))
    for number in range(3):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "LICENSE").touch()
    with pytest.raises(DataError, match=r"3 \.mp4 and 1 without ending files are here"):
        open_data(str(tmp_path))
    with pytest.raises(DataError, match=r"a file \.mp4 is here, which is no data set"):
        open_data(f"{tmp_path}/0.mp4")
    test_yolo.write(tmp_path / "inner")
    message = r"no data set of a known format; it holds yolo:.*inner \(labels/train/a\.txt\): give that$"
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path))


@pytest.mark.parametrize("inner", ["export", "export/export", "download/export 1/data"])
def test_the_only_data_set_in_sub_folders_is_named(tmp_path, inner):
    """Whatever asks for it, with a format stated or without."""
    test_yolo.write(tmp_path / "my" / inner)
    (tmp_path / "my" / "__MACOSX").mkdir()
    message = rf"it holds yolo:{tmp_path / 'my' / inner} \(labels/train/a\.txt\): give that"
    for source in (f"{tmp_path}/my", f"yolo:{tmp_path}/my", f"coco:{tmp_path}/my"):
        assert re.search(message, told(source))
        with pytest.raises(DataError, match=message):
            open_data(source)
        with pytest.raises(DataError, match=message):
            convert_data(source, f"voc:{tmp_path}/new")
        with pytest.raises(DataError, match=message):
            split_data(source)


def test_several_data_sets_in_sub_folders(tmp_path):
    for name in "abcd":
        test_yolo.write(tmp_path / name)
    with pytest.raises(DataError, match=r"it holds yolo:\S*/a \(.*, yolo:\S*/c \(.* and more: give one of them$"):
        open_data(str(tmp_path))


def test_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "export.zip").touch()
    with pytest.raises(DataError, match=r"1 \.zip file \(an archive: unpack it\) is here"):
        open_data(str(tmp_path))
    with pytest.raises(DataError, match=r"a file \.zip \(an archive: unpack it, and give the folder\) is here"):
        open_data(f"{tmp_path}/export.zip")


def test_another_format_than_stated(tmp_path):
    test_voc_layouts.place(tmp_path, ("0.png", "0.xml"))
    message = r"this looks like voc:.* \(XML files of boxes\)"
    for format in ("yolo", "coco", "camvid", "masks", "ade20k"):
        with pytest.raises(DataError, match=message):
            open_data(f"{format}:{tmp_path}")
        assert "this looks like voc:" in told(f"{format}:{tmp_path}")
    assert "looks like" not in describe(tmp_path, all_readers(), besides="voc")


def told(source):
    try:
        return " ".join(str(problem) for problem in check_data(source).problems)
    except DataError as error:
        return str(error)


def test_a_single_letter_before_the_colon_may_be_a_drive(tmp_path, monkeypatch):
    test_yolo.write(tmp_path / "C:set")
    monkeypatch.chdir(tmp_path)
    assert open_data("C:set").source == "yolo:C:set"
    with pytest.raises(UsageError, match="there is no format 'D'"):
        open_data("D:set")
