"""Where YOLO data sets of many tools keep their images, splits and classes."""

import os

import numpy as np
import pytest
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.errors import DataError

LINE = "0 0.25 0.25 0.3 0.3\n"


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(path)


def place(root, *names, line=LINE, beside=False):
    """Write images by their paths below ``root``, each with its text file."""
    for index, name in enumerate(names):
        picture(root / name, 10 * index + len(str(root)) % 10)
        text = (root / name).with_suffix(".txt")
        if not beside:
            parts = [*text.parts]
            last = len(parts) - 1 - parts[::-1].index("images")
            text = text.parents[len(parts) - 1 - last] / "labels" / "/".join(parts[last + 1 :])
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(line)


def names_of(source, split="train"):
    data = open_data(source, split)
    return [os.path.relpath(data.image_path(index), source.partition(":")[2]) for index in range(len(data))]


# ---- lists


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (["./images/0.png", "./images/1.png"], ""),
        (["images/0.png", "images/1.png"], "path: .\n"),
        (["data/images/0.png", "data/images/1.png"], ""),
        (["/home/me/set/images/0.png", "C:\\set\\images\\1.png"], ""),
        (["images\\0.png", "images/1"], "path: ../datasets/set\n"),
        (["0.png", "1.PNG"], ""),
    ],
)
def test_lists_of_files(tmp_path, lines, path):
    place(tmp_path, *(f"images/{i}.png" for i in range(4)))
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "val.txt").write_text("./images/2.png\n")
    (tmp_path / "data.yaml").write_text(f"{path}train: train.txt\nval: ./val.txt\nnames: [thing]\nnc: 1\n")
    source = f"yolo:{tmp_path}"
    assert splits_of(source) == ("train", "val")
    assert names_of(source) == ["images/0.png", "images/1.png"]
    assert names_of(source, "valid") == ["images/2.png"]  # 3.png is in no list, and in no split
    assert open_data(source)[0][1]["labels"].tolist() == [0]


def test_lists_beside_their_images_in_a_folder(tmp_path):
    place(tmp_path, "a/images/0.png", "a/images/1.png")
    (tmp_path / "a" / "list.txt").write_text("./images/1.png\n")
    (tmp_path / "data.yaml").write_text("train: a/list.txt\nnames: [thing]\n")
    assert names_of(f"yolo:{tmp_path}") == ["a/images/1.png"]


def test_a_list_in_utf16_and_what_it_names_in_vain(tmp_path):
    place(tmp_path, "images/0.png", "images/1.png")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [thing]\n")
    (tmp_path / "train.txt").write_text("images/0.png\nimages/1.png\n", encoding="utf-16")
    assert len(open_data(f"yolo:{tmp_path}")) == 2
    (tmp_path / "train.txt").write_text("images/0.png\nimages/7.png\nimages/1.png")
    with pytest.raises(DataError, match=r"train\.txt: 'images/7.png': .*7\.png.*not found; expected an image file"):
        open_data(f"yolo:{tmp_path}")
    data = open_data(f"yolo:{tmp_path}", on_bad_record="skip")
    assert len(data) == 2
    assert "left out" in str(data.repairs[0])
    (tmp_path / "train.txt").write_text("../0.png\n")
    picture(tmp_path.parent / "0.png")
    assert names_of(f"yolo:{tmp_path}") == ["images/0.png"]  # never outside the folder


# ---- folders


def test_the_own_folder_wins_over_one_above(tmp_path):
    root = tmp_path / "beans"
    place(root, "train/images/0.png", "valid/images/1.png")
    place(tmp_path, "train/images/7.png", "valid/images/8.png", "valid/images/9.png")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\ntest: ''\nnames: [bean]\n")
    source = f"yolo:{root}"
    assert splits_of(source) == ("train", "val")  # valid is val
    assert names_of(source) == ["train/images/0.png"]
    assert names_of(source, "valid") == names_of(source, "val") == ["valid/images/1.png"]
    assert open_data(source, "valid").split == "val"


def test_a_yaml_file_elsewhere_leads_to_the_images(tmp_path):
    place(tmp_path, "set/images/train/0.png", "set/images/val/1.png")
    for number, text in enumerate(
        (
            "path: ../set\ntrain: images/train\n",
            "train: ../set/images/train\n",
            f"path: {tmp_path}/set\ntrain: images/train",
        )
    ):
        file = tmp_path / "configs" / f"{number}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"names: [a]\n{text}")
        assert names_of(f"yolo:{file}") == ["../../set/images/train/0.png"]


@pytest.mark.parametrize("form", ["[v1/images/train, v2/images/train]", "\n- v1/images/train\n- ./v2/images/train/"])
def test_a_list_of_folders(tmp_path, form):
    place(tmp_path, "v1/images/train/0.png", "v2/images/train/0.png", "v2/images/val/5.png")
    (tmp_path / "data.yaml").write_text(f"train: {form}\nval: v2/images/val\nnames: [thing]")
    source = f"yolo:{tmp_path}"
    data = open_data(source)
    assert [data.image_id(index) for index in range(2)] == ["v1/images/train/0", "v2/images/train/0"]
    assert splits_of(source) == ("train", "val")
    assert [len(data[index][1]["boxes"]) for index in range(2)] == [1, 1]


def test_sub_folders_belong_to_a_folder(tmp_path):
    place(tmp_path, "images/train/a/0.png", "images/train/b/0.png", "images/train/1.png")
    (tmp_path / "classes.txt").write_text("thing")
    assert names_of(f"yolo:{tmp_path}") == ["images/train/1.png", "images/train/a/0.png", "images/train/b/0.png"]


def test_the_same_folder_twice_is_one_split(tmp_path):
    place(tmp_path, "images/train/0.png", "images/valid/1.png")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\ntest: images/valid\nnames: [thing]\n")
    source = f"yolo:{tmp_path}"
    assert splits_of(source) == ("train", "test")
    assert open_data(source, "val").split == "train"
    problems = check_data(source).problems
    assert [p.severity for p in problems] == ["suspicion"]
    assert "splits train and val are the same images" in problems[0].message
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nvalid: images/valid\nnames: [thing]\n")
    with pytest.raises(DataError, match="no split 'test'"):
        open_data(source, "test")
    (tmp_path / "data.yaml").write_text("val: images/train\nvalid: images/valid\nnames: [thing]\n")
    with pytest.raises(DataError, match="both val and valid, and they differ"):
        open_data(source)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train: {a: b}", r"data\.yaml: train is {'a': 'b'}; expected a folder of images, a text file"),
        ("train: [images/train, [a]]", r"train is \['images/train', \['a'\]\]; expected a folder"),
        ("train: []", r"train is \[\]; expected a folder"),
        (
            "train: images/trian",
            r"train is 'images/trian': .*not found; expected a folder of images.*did you mean .*images/train",
        ),
        ("train: images/train/0.png", r"train is 'images/train/0.png', a picture; expected a folder"),
        ("train: images/train/*.png", r"train is 'images/train/\*\.png': .*not found"),
        ("tain: images/train", r"data\.yaml: tain: unknown entry; did you mean 'train'\?"),
        ("train: images/train\ntrain: images/val", "'train' is there twice"),
        ("train: images/train\npath: [a]", r"path is \['a'\]; expected a folder"),
        ("train: images/train\nnc: 2", r"nc is '2'; .*data\.yaml: names has 1; expected as many"),
    ],
)
def test_an_entry_that_is_not_understood_is_an_error(tmp_path, entry, message):
    place(tmp_path, "images/train/0.png", "images/val/1.png")
    (tmp_path / "data.yaml").write_text(f"names: [thing]\n{entry}\n")
    with pytest.raises(DataError, match=message):
        open_data(f"yolo:{tmp_path}")
    assert refused(f"yolo:{tmp_path}")


def refused(source):
    try:
        return not check_data(source).ok
    except DataError:
        return True


def test_a_split_of_ones_own(tmp_path):
    place(tmp_path, "images/train/0.png", "images/more/1.png")
    (tmp_path / "data.yaml").write_text("train: images/train\nholdout: images/more\nlicense: CC\nnames: [thing]\n")
    assert splits_of(f"yolo:{tmp_path}") == ("train", "holdout")


# ---- other tools


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_yaml_file_of_any_name(tmp_path, form):
    place(tmp_path, "images/train/0.png")
    (tmp_path / "my set.yml").write_text("path: .\ntrain: images/train\nnames: {0: thing}\n")
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\n")
    assert names_of(f"yolo:{tmp_path}") == ["images/train/0.png"]
    assert open_data(f"yolo:{tmp_path}/my set.yml").classes == ("thing",)
    (tmp_path / "other.yaml").write_text("names: [a]\ntrain: images/train\n")
    with pytest.raises(DataError, match=r"my set\.yml, other\.yaml may each describe the data set; expected one"):
        open_data(f"yolo:{tmp_path}")


def test_darknet(tmp_path):
    place(tmp_path, "obj_train_data/0.png", "obj_train_data/1.png", "obj_train_data/2.png", beside=True)
    (tmp_path / "obj.names").write_text("cell\n")
    (tmp_path / "obj.data").write_text(
        "classes = 1\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    (tmp_path / "train.txt").write_text("data/obj_train_data/0.png\ndata/obj_train_data/1.png\n")
    (tmp_path / "valid.txt").write_text("data/obj_train_data/2.png\n")
    for source in (f"yolo:{tmp_path}", f"yolo:{tmp_path}/obj.data"):
        assert splits_of(source) == ("train", "valid")
        data = open_data(source)
        assert (data.classes, len(data), len(data.labels)) == (("cell",), 2, 2)
        assert len(open_data(source, "val")) == 1
    assert check_data(f"yolo:{tmp_path}").problems == []
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    with pytest.raises(DataError, match=r"nc is '2'; .*obj\.names has 1"):
        open_data(f"yolo:{tmp_path}")
    (tmp_path / "obj.data").write_text("classes\n")
    with pytest.raises(DataError, match=r"obj\.data: line 1: 'classes'; expected KEY = VALUE"):
        open_data(f"yolo:{tmp_path}/obj.data")


def test_images_beside_their_text_files(tmp_path):
    place(tmp_path, "0.png", "1.JPG", beside=True)
    picture(tmp_path / "2.png", 99)
    (tmp_path / "classes.txt").write_text("cell\n")
    source = f"yolo:{tmp_path}"
    assert splits_of(source) == ("train",)
    assert [len(open_data(source)[index][1]["boxes"]) for index in range(3)] == [1, 1, 0]
    assert check_data(source).problems == []
    (tmp_path / "7.txt").write_text(LINE)
    assert "without its image" in str(check_data(source).problems[0])


def test_split_folders_with_their_text_files(tmp_path):
    place(tmp_path, "train/0.png", "valid/1.png", beside=True)
    for split in ("train", "valid"):
        (tmp_path / split / "_darknet.labels").write_text("cell\nnucleus\n")
    assert splits_of(f"yolo:{tmp_path}") == ("train", "valid")
    assert open_data(f"yolo:{tmp_path}", "val").classes == ("cell", "nucleus")
    (tmp_path / "valid" / "_darknet.labels").write_text("nucleus\ncell\n")
    with pytest.raises(DataError, match=r"valid/_darknet\.labels: other names than in .*train/_darknet\.labels"):
        open_data(f"yolo:{tmp_path}")


def test_names_that_yaml_takes_for_something_else(tmp_path):
    place(tmp_path, "images/train/0.png")
    (tmp_path / "data.yaml").write_text("names:\n  1: no\n  0: 007\n  2: 1:30\n")
    assert open_data(f"yolo:{tmp_path}").classes == ("007", "no", "1:30")


def test_other_spellings_of_files(tmp_path):
    picture(tmp_path / "Images" / "train" / "cafe\u0301.PNG")
    (tmp_path / "Labels" / "train").mkdir(parents=True)
    (tmp_path / "Labels" / "train" / "caf\u00e9.TXT").write_text(LINE)
    (tmp_path / "classes.txt").write_text("thing\n")
    assert len(open_data(f"yolo:{tmp_path}")[0][1]["boxes"]) == 1


def test_two_images_that_differ_in_case_keep_their_labels(tmp_path):
    place(tmp_path, "images/train/a.png")
    picture(tmp_path / "images" / "train" / "A.png", 50)
    (tmp_path / "classes.txt").write_text("thing\n")
    data = open_data(f"yolo:{tmp_path}")
    assert {data.image_id(i): len(data[i][1]["boxes"]) for i in range(2)} == {"a": 1, "A": 0}


# ---- labels that are not there


@pytest.mark.parametrize("found", ["label", "annotations"])
def test_a_misnamed_folder_of_labels(tmp_path, found):
    place(tmp_path, "images/train/0.png")
    (tmp_path / "labels").rename(tmp_path / found)
    (tmp_path / "classes.txt").write_text("thing\n")
    source = f"yolo:{tmp_path}"
    message = rf"no object is labelled in 1 image.*labels/train has no text files.*did you mean .*{found}\?"
    with pytest.raises(DataError, match=message):
        open_data(source)
    assert not check_data(source).ok
    assert len(open_data(source, allow_unlabelled=True)) == 1


def test_one_of_two_folders_without_labels(tmp_path):
    place(tmp_path, "v1/images/0.png", "v2/images/1.png")
    (tmp_path / "v2" / "labels").rename(tmp_path / "v2" / "lables")
    (tmp_path / "data.yaml").write_text("train: [v1/images, v2/images]\nnames: [thing]")
    with pytest.raises(DataError, match=r"images in .*v2/images; expected .*v2/labels; did you mean .*v2/lables"):
        open_data(f"yolo:{tmp_path}")


def test_empty_text_files_only(tmp_path):
    place(tmp_path, "images/train/0.png", line="")
    (tmp_path / "classes.txt").write_text("thing\n")
    with pytest.raises(
        DataError, match=r"no object is labelled.*labels are expected in .*labels/train\. allow_unlabelled"
    ):
        open_data(f"yolo:{tmp_path}")


def test_more_than_half_left_out(tmp_path):
    place(tmp_path, "images/train/0.png", line=f"{LINE}0 30 20 10 10\n0 40 20 10 10\n")
    (tmp_path / "classes.txt").write_text("thing\n")
    source = f"yolo:{tmp_path}"
    for policy in ("skip", "fix"):
        with pytest.raises(
            DataError, match=f"on_bad_record: {policy} leaves out 2 of 3 objects, more than half, such as"
        ):
            open_data(source, on_bad_record=policy)
        assert len(open_data(source, on_bad_record=policy, allow_unlabelled=True).labels) == 1


def test_pixels_in_place_of_parts(tmp_path):
    place(tmp_path, *(f"images/train/{i}.png" for i in range(5)), line="0 10 8 4 4\n")
    (tmp_path / "classes.txt").write_text("thing\n")
    with pytest.raises(DataError, match=r"covers x 8 to 12 .*\(5 bad records.*Are these pixels\?"):
        open_data(f"yolo:{tmp_path}")


@pytest.mark.parametrize("start", ["/content/set", "D:\\data\\set", "../../elsewhere/set", "set"])
def test_folders_of_another_machine(tmp_path, start):
    place(tmp_path, "images/train/0.png")
    (tmp_path / "data.yaml").write_text(f"train: {start}/images/train\nnames: [thing]\n")
    assert names_of(f"yolo:{tmp_path}") == ["images/train/0.png"]


def test_a_text_file_that_can_not_be_read(tmp_path):
    place(tmp_path, "images/train/0.png", "images/train/1.png", "images/train/2.png")
    (tmp_path / "labels" / "train" / "1.txt").write_bytes(b"0 \xff\xfe\xfa")
    (tmp_path / "classes.txt").write_text("thing\n")
    with pytest.raises(DataError, match=r"1\.txt: not UTF-8 text \(byte 2 is 0xff\)"):
        open_data(f"yolo:{tmp_path}")
    data = open_data(f"yolo:{tmp_path}", on_bad_record="skip")
    assert [data.image_id(index) for index in range(len(data))] == ["0", "2"]
    assert [len(data[index][1]["boxes"]) for index in range(2)] == [1, 1]
