"""Where images and XML files of boxes lie, as tools save them."""

import os

import numpy as np
import pytest
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.errors import DataError
from tests.data.readers.test_voc_boxes import xml
from tests.data.twins import write_voc

NEEDS = frozenset({"boxes", "labels"})


def place(root, *pairs, text=None):
    """Write images and XML files by their paths below ``root``."""
    for index, (image, annotation) in enumerate(pairs):
        for name in (image, annotation):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), 10 * index, np.uint8)).save(root / image)
        (root / annotation).write_text(text or xml(("cell", 0, 1, 1, 9, 9)))
    return f"voc:{root}"


def names_of(source, split="train"):
    data = open_data(source, split)
    assert all(len(data[index][1]["boxes"]) == 1 for index in range(len(data)))
    return [os.path.relpath(data.image_path(index), source.partition(":")[2]) for index in range(len(data))]


def test_images_beside_their_xml_files(tmp_path):
    source = place(tmp_path, ("0.png", "0.xml"), ("1.PNG", "1.xml"))
    Image.new("RGB", (9, 9)).save(tmp_path / "2.png")
    assert splits_of(source) == ("train",)
    assert names_of(source) == ["0.png", "1.PNG"]
    assert open_data(source).classes == ("cell",)
    problems = check_data(source).problems
    assert [(p.severity, p.message) for p in problems] == [
        ("suspicion", "1 image without an XML file in no split, such as 2.png")
    ]
    (tmp_path / "3.xml").write_text(xml())
    with pytest.raises(DataError, match=r"3\.xml: .*3: not found; expected its image"):
        open_data(source)
    assert len(open_data(source, on_bad_record="skip")) == 2


@pytest.mark.parametrize(
    ("images", "annotations"),
    [("images", "annotations"), ("Images", "Annotations"), ("images", "labels"), ("JPEGImages", "Annotations")],
)
def test_folders_without_lists(tmp_path, images, annotations):
    source = place(
        tmp_path, (f"{images}/0.png", f"{annotations}/0.xml"), (f"{images}/a/1.png", f"{annotations}/a/1.xml")
    )
    assert splits_of(source, NEEDS) == ("train",)
    assert names_of(source) == [f"{images}/0.png", f"{images}/a/1.png"]


@pytest.mark.parametrize(
    ("images", "annotations"), [("{}", "{}"), ("{}/images", "{}/annotations"), ("images/{}", "annotations/{}")]
)
def test_folders_of_splits(tmp_path, images, annotations):
    for split in ("train", "valid"):
        source = place(tmp_path, (f"{images.format(split)}/0.png", f"{annotations.format(split)}/0.xml"))
    (tmp_path / annotations.format("valid") / "0.xml").write_text(xml(("nucleus", 0, 1, 1, 9, 9)))
    assert splits_of(source) == ("train", "valid")
    assert names_of(source) == [f"{images.format('train')}/0.png"]
    assert open_data(source, "val").split == "valid"
    assert open_data(source, "val").classes == open_data(source).classes == ("cell", "nucleus")
    with pytest.raises(DataError, match="no split 'test'; splits here: train, valid; expected a folder test"):
        open_data(source, "test")


@pytest.mark.parametrize(
    "lines",
    [
        ["a", "b c"],
        ["a.png", "b c.png"],
        ["JPEGImages/a.png", "JPEGImages/b c.png"],
        ["/home/me/VOC/JPEGImages/a.png", "D:\\VOC\\JPEGImages\\b c.png"],
        ["a  1", '"b c" -1'],
        ["A", "B C.PNG"],
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists(tmp_path, lines, encoding):
    source = place(
        tmp_path, *((f"JPEGImages/{name}.png", f"Annotations/{name}.xml") for name in ("a", "b c", "in no list"))
    )
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(lines), encoding=encoding)
    assert splits_of(source, NEEDS) == ("train",)
    assert names_of(source) == ["JPEGImages/a.png", "JPEGImages/b c.png"]


def test_lists_with_sub_folders(tmp_path):
    source = place(tmp_path, *((f"JPEGImages/{name}.png", f"Annotations/{name}.xml") for name in ("u/a", "v/a")))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "default.txt").write_text("u/a\nv/a\n")
    assert splits_of(source, NEEDS) == ("default",)
    data = open_data(source, "default")
    assert [data.image_id(index) for index in range(2)] == ["u/a", "v/a"]


def test_a_name_that_is_not_there(tmp_path):
    source = place(tmp_path, ("JPEGImages/image_1.png", "Annotations/image_1.xml"))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("image_1\nimge_1\n")
    with pytest.raises(
        DataError, match=r"train\.txt: 'imge_1': .*not found; expected an image; did you mean .*image_1"
    ):
        open_data(source)
    data = open_data(source, on_bad_record="skip")
    assert len(data) == 1
    assert "left out" in str(data.repairs[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image/></annotations>", "the root element is <annotations>; expected <annotation>"),
        (
            "<annotation><object><name>a</name><robndbox><cx>1</cx></robndbox></object></annotation>",
            r"has an oriented box \(robndbox\) and no xmin, ymin, xmax, ymax; expected four numbers",
        ),
        ("<annotation><object><name>a</name></object></annotation>", "has no bndbox and no xmin"),
        (xml(("a", 0, "1_0", 1, 40, 40)), "bndbox has xmin '1_0'"),
    ],
)
def test_what_is_no_box(tmp_path, text, message):
    source = place(tmp_path, ("JPEGImages/a.png", "Annotations/a.xml"), text=text)
    with pytest.raises(DataError, match=message):
        open_data(source)
    assert not check_data(source).ok


def test_corners_that_are_parts_of_the_image(tmp_path):
    source = place(tmp_path, ("0.png", "0.xml"), ("1.png", "1.xml"), text=xml(("cell", 0, 0.1, 0.2, 0.4, 0.5)))
    problems = check_data(source).problems
    assert [p.severity for p in problems] == ["suspicion"]
    assert "no corner of 2 objects is beyond 1; expected pixels" in problems[0].message
    (tmp_path / "1.xml").write_text(xml(("cell", 0, 1, 1, 4, 5)))
    assert check_data(source).problems == []


def test_class_names_that_are_nearly_equal(tmp_path):
    source = place(tmp_path, ("0.png", "0.xml"), text=xml(("Helmet", 0, 1, 1, 9, 9), ("helmet ", 0, 1, 1, 9, 9)))
    problems = check_data(source).problems
    assert [p.severity for p in problems] == ["suspicion"]
    assert "classes 'Helmet' and 'helmet' differ in upper and lower case, spaces or hyphens only" in problems[0].message


def test_one_broken_file_is_one_problem(tmp_path):
    source = place(tmp_path, ("0.png", "0.xml"), ("1.png", "1.xml"), ("2.png", "2.xml"))
    (tmp_path / "1.xml").write_text("<annotation>")
    (tmp_path / "2.xml").write_text("<annotation")
    assert [p.file for p in check_data(source).problems] == [f"{tmp_path}/1.xml", f"{tmp_path}/2.xml"]
    with pytest.raises(DataError, match=r"skip leaves out 2 of 3 images, more than half"):
        open_data(source, on_bad_record="skip")


def test_lists_of_label_maps_may_hold_paths(tmp_path):
    root = write_voc(tmp_path)
    listing = root / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    names = listing.read_text().split()
    expected = [open_data(f"voc:{root}").image_id(index) for index in range(3)]
    for form in ("JPEGImages/{}.jpg", "/data/VOC2012/JPEGImages/{}.jpg", "D:\\VOC\\{}.jpg", "{}.JPG"):
        listing.write_text("\n".join(form.format(name) for name in names), encoding="utf-16")
        data = open_data(f"voc:{root}")
        assert [data.image_id(index) for index in range(3)] == expected == names
        assert all("semantic" in data[index][1] for index in range(3))
        assert splits_of(f"voc:{root}") == ("train", "val", "trainval")


def test_names_of_voc_in_folders_of_ones_own_are_the_classes(tmp_path):
    """Pascal VOC's twenty are the classes where its lists are, too."""
    for index, name in enumerate(("cat", "dog")):
        place(tmp_path, (f"train/{index}.png", f"train/{index}.xml"), text=xml((name, 0, 1, 1, 9, 9)))
    assert open_data(f"voc:{tmp_path}").classes == ("cat", "dog")
    source = place(tmp_path / "listed", ("JPEGImages/0.png", "Annotations/0.xml"), text=xml(("cat", 0, 1, 1, 9, 9)))
    lists = tmp_path / "listed" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n")
    assert len(open_data(source).classes) == 20


def test_folders_of_images_and_xml_files_of_any_names(tmp_path):
    source = place(tmp_path, ("pics/1.png", "xml/1.xml"), ("pics/2.png", "xml/2.xml"))
    assert names_of(source) == ["pics/1.png", "pics/2.png"]
    place(tmp_path, ("more/3.png", "xml/3.xml"))  # which of the two is meant is not clear
    with pytest.raises(DataError):
        open_data(source)
