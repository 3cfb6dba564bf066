"""Pascal VOC's boxes."""

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.data.readers.voc_boxes import CLASSES
from scenewise.errors import DataError
from tests.data.twins import write_voc

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def xml(*objects, size=(40, 60), head=""):
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"{head}<annotation>{sides}{''.join(OBJECT.format(*values) for values in objects)}</annotation>"


def write(root, texts=None, lists=None):
    texts = texts or {"a": xml(("dog", 0, 1, 1, 60, 40), ("cat", 1, 11, 6, 20, 10)), "b": xml()}
    for name, text in texts.items():
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
    for name, lines in (lists or {"train": [*texts]}).items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return f"voc:{root}"


def test_samples(tmp_path):
    data = open_data(write(tmp_path))
    assert data.classes == CLASSES
    assert len(data.colors) == len(data.class_ids) == 20
    target = data[0][1]
    assert set(target) == {"image_id", "boxes", "labels", "ignore"}
    assert target["boxes"].tolist() == [[0, 0, 60, 40], [10, 5, 20, 10]]  # from 1 with the last pixel to edges
    assert target["labels"].tolist() == [CLASSES.index("dog"), CLASSES.index("cat")]
    assert target["ignore"].tolist() == [False, True]
    assert data[1][1]["boxes"].shape == (0, 4)


def test_the_reader_is_chosen_by_what_is_needed(tmp_path):
    boxes = frozenset({"boxes", "labels"})
    source = f"voc:{write_voc(tmp_path)}"
    assert open_data(source).fields == {"semantic"}
    with pytest.raises(DataError, match=r"ImageSets.*Main"):
        open_data(source, needs=boxes)
    assert open_data(write(tmp_path / "boxes"), needs=frozenset()).fields == {"boxes", "labels", "ignore"}


def test_lists(tmp_path):
    lists = {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "dog_train": ["a  1"], "mine": ["b -1"]}
    source = write(tmp_path, lists=lists)
    assert splits_of(source) == ("train", "val", "trainval", "mine")
    assert open_data(source, "dog_train").image_id(0) == "a"
    with pytest.raises(DataError, match="no split 'vall'; did you mean 'val'"):
        open_data(source, "vall")


def test_classes_of_ones_own(tmp_path):
    texts = {"a": xml(("wolf", 0, 1, 1, 9, 9)), "b": xml(("bear", 0, 1, 1, 9, 9))}
    source = write(tmp_path, texts, {"train": ["a"], "val": ["b"]})
    assert open_data(source, "train").classes == open_data(source, "val").classes == ("bear", "wolf")
    (tmp_path / "classes.txt").write_text("wolf\nfox\n")
    assert open_data(source, "train")[0][1]["labels"].tolist() == [0]
    with pytest.raises(DataError, match=r"b\.xml: object 1 \(bear\): the class 'bear' is unknown.*known: wolf, fox"):
        open_data(source, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(("dog", 0, 5, 5, 5, 5)), r"\(dog\): bndbox xmin 5, ymin 5, xmax 5, ymax 5 has no area"),
        (
            xml(("dog", 0, 9, 5, 5, 8)),
            "xmin 9, ymin 5, xmax 5, ymax 8 has no area; expected xmin < xmax and ymin < ymax",
        ),
        (xml(("dog", 0, 1, 1, 70, 40)), "covers x 0 to 70 and y 0 to 40 of an image of 60 x 40 pixels"),
        (xml(("dog", 0, 1, 1, "nan", 40)), "has a number that is not finite"),
        (
            xml(("dog", 0, 1, 1, "wide", 40)),
            "bndbox has xmin '1', ymin '1', xmax 'wide', ymax '40'; expected four numbers",
        ),
        (xml(("", 0, 1, 1, 9, 9)), "has no name; expected the name of its class"),
    ],
)
def test_each_fault_is_one_clear_error(tmp_path, text, message):
    source = write(tmp_path, {"a": text, "b": xml(("dog", 0, 1, 1, 9, 9))})
    with pytest.raises(DataError, match=rf"a\.xml: object 1.*{message}"):
        open_data(source)
    assert [p.severity for p in check_data(source).problems if p.file.endswith("a.xml")] == ["error"]
    data = open_data(source, on_bad_record="skip")
    assert [len(data[i][1]["boxes"]) for i in range(2)] == [0, 1]
    assert len(data.repairs) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '<!DOCTYPE x [<!ENTITY a "b">]><annotation/>',
            "<!DOCTYPE at character 0, which is not read; expected plain XML",
        ),
        ("<annotation><object></annotation>", "not valid XML"),
        ("", "not valid XML"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"a\.xml: {message}"):
        open_data(write(tmp_path, {"a": text}))


def test_other_encodings_hide_no_entities(tmp_path):
    source = write(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text("<!DOCTYPE x><annotation/>", encoding="utf-16")
    with pytest.raises(DataError, match=r"a\.xml: <!DOCTYPE at character 0, which is not read"):
        open_data(source)
    header = b"<?xml version='1.0' encoding='cp037'?>"
    (tmp_path / "Annotations" / "a.xml").write_bytes(header + "<!DOCTYPE x><annotation/>".encode("cp037"))
    with pytest.raises(DataError, match=r"a\.xml: <!DOCTYPE at character 38"):
        open_data(source)


@pytest.mark.parametrize(("encoding", "stated"), [("utf-16", "utf-16"), ("utf-16", "utf-8"), ("gbk", "gbk")])
def test_xml_of_other_encodings_is_read(tmp_path, encoding, stated):
    source = write(tmp_path, {"a": xml(("狗", 0, 1, 1, 9, 9))})
    text = f"<?xml version='1.0' encoding='{stated}'?>{xml(('狗', 0, 1, 1, 9, 9))}"
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert open_data(source).classes == ("狗",)


def test_xml_of_an_encoding_that_is_not_stated(tmp_path):
    source = write(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml(("狗", 0, 1, 1, 9, 9)).encode("gbk"))
    with pytest.raises(DataError, match=r"a\.xml: not UTF-8 text .*Save the file as UTF-8"):
        open_data(source)
    (tmp_path / "Annotations" / "a.xml").write_bytes(b"<?xml version='1.0' encoding='rot13'?><annotation/>")
    with pytest.raises(DataError, match=r"a\.xml: can't be read in the encoding that it states"):
        open_data(source)


def test_a_missing_annotation_and_another_size(tmp_path):
    source = write(tmp_path, {"a": xml(size=(30, 60)), "b": xml(("dog", 0, 1, 1, 9, 9), size=(0, 0))})
    data = open_data(source)
    assert data[1][0].shape == (3, 40, 60)  # many tools state 0 x 0
    with pytest.raises(DataError, match=r"a\.jpg: the image is 60 x 40 .*a\.xml says 60 x 30"):
        data[0]
    (tmp_path / "Annotations" / "b.xml").unlink()
    with pytest.raises(DataError, match=r"b\.xml: not found; expected the annotation of an image"):
        open_data(source)


def test_the_two_boxes_without_area_of_bccd(shared_data):
    source = f"voc:{shared_data('bccd')}"
    with pytest.raises(
        DataError, match=r"BloodImage_00343\.xml: object 4 \(RBC\): .* has no area; .*on_bad_record: skip"
    ):
        open_data(source)
    counts = {"train": [209, 2381, 214], "val": [83, 967, 87]}
    for policy in ("skip", "fix"):
        for split, expected in counts.items():
            data = open_data(source, split, on_bad_record=policy)
            assert data.classes == ("Platelets", "RBC", "WBC")
            assert np.bincount(data.labels).tolist() == expected
            assert len(data.repairs) == 1
    assert torch.equal(data[0][1]["boxes"][0].as_subclass(torch.Tensor), torch.tensor([259.0, 176, 491, 376]))
