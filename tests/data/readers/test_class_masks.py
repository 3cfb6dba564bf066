"""Folders of masks of one class each."""

import numpy as np
import pytest
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.errors import DataError

CAT, DOG = (slice(0, 4), slice(0, 4)), (slice(4, 8), slice(2, 6))


def place(path, place=None, value=255, size=(8, 6)):
    """A mask of ``size`` with ``value`` at ``place``; or a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    if place is None:
        pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (*size, 3), dtype=np.uint8)
    else:
        pixels[place] = value
    Image.fromarray(pixels).save(path)


def write(root, classes="background\ndog\ncat\n"):
    """Images a and b; cat is in both, dog in a alone."""
    for name in "ab":
        place(root / "images" / f"{name}.jpg")
        place(root / "labels" / "cat" / f"{name}.png", CAT)
    place(root / "labels" / "dog" / "a.png", DOG, value=1)
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def test_each_pixel_has_the_class_of_its_mask(tmp_path):
    data = open_data(f"masks:{write(tmp_path)}")
    assert data.classes == ("background", "dog", "cat")
    expected = np.zeros((8, 6), int)
    expected[CAT], expected[DOG] = 2, 1
    assert (data[0][1]["semantic"].numpy() == expected).all()
    expected[DOG] = 0
    assert (data[1][1]["semantic"].numpy() == expected).all()
    assert [str(problem) for problem in check_data(f"masks:{tmp_path}").problems] == []


def test_without_a_file_of_classes_they_are_the_folders(tmp_path):
    data = open_data(f"masks:{write(tmp_path, '')}")
    assert data.classes == ("background", "cat", "dog")
    assert sorted(data[0][1]["semantic"].unique().tolist()) == [0, 1, 2]
    assert "in no mask are of the class 'background'" in data.notes[0].message


def test_splits_by_folders_and_lists(tmp_path):
    for split in ("train", "valid"):
        place(tmp_path / "images" / split / "a.jpg")
        place(tmp_path / "labels" / split / "cat" / "a.png", CAT)
    place(tmp_path / "labels" / "train" / "dog" / "a.png", DOG)
    assert splits_of(f"masks:{tmp_path}") == ("train", "valid")
    assert open_data(f"masks:{tmp_path}", "val").classes == ("background", "cat", "dog")
    root = write(tmp_path / "listed")
    (root / "val.txt").write_text("b\n")
    assert [data := open_data(f"masks:{root}", "val"), len(data)][1] == 1


WRONG = {
    "two classes": (lambda root: place(root / "labels/dog/b.png", CAT), r"dog/b\.png.*cat/b\.png, as are 15 more|"
                    r"cat/b\.png: pixel \(row 0, column 0\) is in this mask and in .*dog/b\.png"),
    "three values": (lambda root: Image.fromarray(np.arange(48, dtype=np.uint8).reshape(8, 6)).save(
        root / "labels/cat/b.png"), r"cat/b\.png: pixel .* expected a mask of two values"),
    "no mask": (lambda root: (root / "labels/cat/b.png").unlink(), r"labels/cat/b\.png: not found"),
    "another size": (lambda root: place(root / "labels/dog/b.png", DOG, size=(9, 9)), "9 x 9 pixels.*masks of other"),
    "no such class": (lambda root: place(root / "labels/cow/a.png", DOG), "no class is called 'cow'"),
    "two without": (lambda root: (root / "classes.txt").write_text("a\nb\ndog\ncat\n"), "2 classes have no folder"),
    "colours": (lambda root: Image.new("RGB", (6, 8), (9, 0, 0)).save(root / "labels/cat/b.png"), "a mask in colours"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(tmp_path, case):
    write(tmp_path)
    WRONG[case][0](tmp_path)
    with pytest.raises(DataError, match=WRONG[case][1]):
        open_data(f"masks:{tmp_path}")[1]


def test_a_mask_without_its_image_is_told(tmp_path):
    write(tmp_path)
    place(tmp_path / "labels" / "dog" / "c.png", DOG)
    assert [problem.message for problem in check_data(f"masks:{tmp_path}").problems] == ["a mask without its image"]
