"""Text files of normalised boxes and polygons."""

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import check_data, describe_repairs, open_data, splits_of
from scenewise.errors import DataError


def write(root, texts=None, layout="images/{}", classes="yaml"):
    texts = {"a": "1 0.5 0.5 0.2 0.4\n\n0 0.25 0.25 0.5 0.5\n", "b": "", "c": None} if texts is None else texts
    for split in ("train", "valid"):
        images = root / layout.format(split)
        labels = root / layout.format(split).replace("images", "labels")
        for name, text in texts.items():
            images.mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 60, 3), ord(name) + len(split), np.uint8)).save(images / f"{name}.png")
            if text is not None:
                (labels / f"{name}.txt").write_text(text)
    if classes == "txt":
        (root / "classes.txt").write_text("cat\ndog\n")
    else:
        (root / "data.yaml").write_text({"yaml": "names: [cat, dog]", "map": "names: {0: cat, 1: dog}"}[classes])
    return f"yolo:{root}"


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
@pytest.mark.parametrize("classes", ["yaml", "map", "txt"])
def test_samples(tmp_path, layout, classes):
    source = write(tmp_path, layout=layout, classes=classes)
    assert splits_of(source) == ("train", "valid")
    data = open_data(source, "val")
    assert data.split == "valid"
    assert data.classes == ("cat", "dog")
    assert data.class_ids == (0, 1)
    target = data[0][1]
    assert set(target) == {"image_id", "boxes", "labels", "ignore"}
    assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), torch.tensor([[24.0, 12, 36, 28], [0, 0, 30, 20]]))
    assert target["labels"].tolist() == [1, 0]
    assert data[1][1]["boxes"].shape == data[2][1]["boxes"].shape == (0, 4)


def test_polygons(tmp_path):
    source = write(tmp_path, {"a": "0 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75\n", "b": ""})
    data = open_data(source)
    target = data[0][1]
    assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), torch.tensor([[6.0, 10, 30, 30]]))
    expected = torch.zeros(1, 40, 60, dtype=torch.bool)
    expected[0, 10:30, 6:30] = True
    assert torch.equal(target["masks"].as_subclass(torch.Tensor), expected)
    assert data[1][1]["masks"].shape == (0, 40, 60)


def test_data_yaml_names_folders(tmp_path):
    source = write(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntest: ../images/valid\n")
    assert splits_of(source) == ("train", "test")
    assert open_data(source, "test").image_path(0) == tmp_path / "images" / "valid" / "a.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0 0.2", "'0 0.5 0.5 0 0.2' has width 0; expected class cx cy width height, in parts of the image"),
        ("0 0.5 0.5 0.2 -0.1", "has height -0.1"),
        (
            "0 0.9 0.5 0.6 0.2",
            r"covers x 0\.6 to 1\.2 and y 0\.4 to 0\.6 of an image of 1 x 1 \(width x height\); expected",
        ),
        ("0 30 20 12 8", "covers x 24 to 36"),
        ("0 0.5 nan 0.2 0.2", "has a number that is not finite"),
        ("2 0.5 0.5 0.2 0.2", "class 2 is unknown; expected 0 to 1, as many as there are names"),
        ("0.5 0.5 0.5 0.2 0.2", "begins with 0.5; expected the number of a class"),
        ("nan 0.5 0.5 0.2 0.2", "begins with nan; expected the number of a class"),
        ("cat 0.5 0.5 0.2 0.2", "holds something that is no number"),
        ("0 0.5 0.5 0.2", "has 3 numbers after the class; expected class cx cy width height"),
        ("0 0.5 0.5 0.2 0.2 0.2", "has 5 numbers after the class"),
    ],
)
def test_each_fault_is_one_clear_error(tmp_path, line, message):
    source = write(tmp_path, {"a": f"\n{line}\n1 0.5 0.5 0.2 0.2\n"})
    with pytest.raises(DataError, match=rf"a\.txt: line 2: .*{message}"):
        open_data(source)
    assert not check_data(source).ok
    data = open_data(source, on_bad_record="skip")
    assert data[0][1]["labels"].tolist() == [1]
    assert len(data.repairs) == 1


def test_a_box_is_cut_off_at_the_border(tmp_path):
    data = open_data(write(tmp_path, {"a": "0 0.9 0.5 0.6 0.2\n"}), on_bad_record="fix")
    assert torch.allclose(data[0][1]["boxes"].as_subclass(torch.Tensor), torch.tensor([[36.0, 16, 60, 24]]))
    assert "cut off at the border" in str(data.repairs[0])


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("0 0.95 0.5 0.2 0.2", True),  # a quarter of it is outside
        ("0 0.99 0.5 0.1 0.2", True),
        ("0 1.01 0.5 0.1 0.2", False),  # more than half of it
        ("0 0.8 0.5 0.9 0.2", False),  # more than a fifth of the image's width
        ("0 0.5 0.5 1.6 0.2", False),
        ("0 30 20 12 8", False),
    ],
)
def test_what_leaves_the_image_far_is_left_out(tmp_path, line, kept):
    data = open_data(write(tmp_path, {"a": f"{line}\n1 0.5 0.5 0.2 0.2\n"}), on_bad_record="fix")
    assert data[0][1]["labels"].tolist() == ([0, 1] if kept else [1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: cat", "names is 'cat'; expected a list of names"),
        ("names: {1: cat}", "expected a list of names, or of 0, 1, 2"),
        ("names: [cat, cat]", "'cat' is there more than once"),
        ("[1]", r"holds \['1'\]; expected entries such as names"),
        ("names: [", "not YAML"),
        ("nc: 2", r"neither data\.yaml with names nor classes\.txt"),
    ],
)
def test_classes_that_are_none(tmp_path, text, message):
    source = write(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(source)


def test_labels_without_an_image(tmp_path):
    source = write(tmp_path)
    (tmp_path / "labels" / "train" / "z.txt").write_text("")
    assert any(p.file.endswith("z.txt") and "without its image" in p.message for p in check_data(source).problems)


def test_no_split(tmp_path):
    with pytest.raises(DataError, match="no split 'trian'; did you mean 'train'"):
        open_data(write(tmp_path), "trian")


def test_classes_counted_from_1(tmp_path):
    """With a class beyond the last, an error that says so; without one, a suspicion as training starts."""
    box = "0.5 0.5 0.2 0.2"
    source = write(tmp_path / "beyond", {"a": f"1 {box}\n", "b": f"2 {box}\n"})
    with pytest.raises(DataError, match=r"class 2 is unknown; .* Then take 1 from the first number of each line"):
        open_data(source)
    source = write(tmp_path / "within", {"a": f"1 {box}\n", "b": f"1.0 {box}\n"})
    told = describe_repairs(open_data(source))
    assert "lines have class 1, and none has 0 ('cat'); expected 0, 1" in told
    assert "Is 'cat' the background? Then leave it out of the names, too" in told
    (found,) = [p for p in check_data(source).problems if "counted from 1" in p.message]
    assert found.severity == "suspicion"
    (tmp_path / "within" / "labels" / "valid" / "b.txt").write_text(f"0 {box}\n")
    assert describe_repairs(open_data(source)) == ""
    assert describe_repairs(open_data(write(tmp_path / "none", {"a": "", "b": ""}), allow_unlabelled=True)) == ""
