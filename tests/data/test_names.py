"""Names of files from other systems: found where one file can be meant, else named with what is near."""

import os
import unicodedata

import pytest

from scenewise.data.names import Resolver
from scenewise.errors import DataError
from scenewise.files.images import IMAGE_SUFFIXES


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("there", "stated"),
    [
        ("images/a.jpg", "images/a.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("images/a.jpg", "images\\a.jpg"),
        ("images/a.jpg", ".\\images\\a.jpg"),
        ("images/a.jpg", "..\\images\\a.jpg"),
        ("images/a.jpg", "../other/a.jpg"),
        ("images/a.jpg", "C:\\Users\\me\\images\\a.jpg"),
        ("images/a.jpg", "/home/me/data/images/a.jpg"),
        ("images/a.jpg", "file:///home/me/data/images/a.jpg"),
        ("images/my photo.jpg", "images/my%20photo.jpg"),
        ("images/my%20photo.jpg", "my photo.jpg"),
        ("images/100%.jpg", "100%.jpg"),
        ("images/IMG_1.JPG", "IMG_1.jpg"),
        ("images/img_1.jpg", "IMG_1.JPG"),
        ("Images/a.jpg", "images/a.jpg"),
        (f"images/{unicodedata.normalize('NFD', 'tür')}.jpg", "tür.jpg"),
        ("images/tür.jpg", unicodedata.normalize("NFD", "images/tür.jpg")),
        ("images/a.jpg", "/data/local-files/?d=images/a.jpg"),
        ("images/a.jpg", "/data/local-files/?d=store%5Cimages%5Ca.jpg"),
        ("images/a1b2c3d4-a.jpg", "/data/upload/7/a1b2c3d4-a.jpg"),
        ("images/a.jpg", "/data/upload/7/a1b2c3d4-a.jpg"),
        ("images/a.jpg", "https://labels.example/data/upload/7/a.jpg"),
        ("images/camera 2/a.jpg", "a.jpg"),
        ("images/camera/2/a.jpg", "2/a.jpg"),
        ("images/camera/a.jpg", "elsewhere/camera/a.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
    ],
)
def test_a_name_that_one_file_can_mean_is_found(tmp_path, there, stated):
    make(tmp_path, there)
    folders = [folder for folder in ("images", "") if (tmp_path / folder).is_dir()]
    assert Resolver(tmp_path, *folders).find(stated) == tmp_path / there
    assert Resolver(tmp_path, *folders).places([stated]) == ([there], {})


def test_the_same_name_in_several_folders(tmp_path):
    make(tmp_path, "images/a.jpg", "a.jpg", "images/x/b.jpg", "images/y/b.jpg")
    assert Resolver(tmp_path, "images", "").place("a.jpg") == "images/a.jpg"
    assert Resolver(tmp_path, "", "images").place("a.jpg") == "a.jpg"
    resolver = Resolver(tmp_path, "images")
    with pytest.raises(DataError, match=r"images/b\.jpg: 2 files fit: .*x/b\.jpg, .*y/b\.jpg; expected one"):
        resolver.find("b.jpg")
    assert resolver.place("other/y/b.jpg") == "images/y/b.jpg"
    with pytest.raises(DataError, match="2 files fit"):
        Resolver(tmp_path, "images", "").find("/else/where/a.jpg")


def test_exact_names_come_before_others(tmp_path):
    make(tmp_path, "a.jpg", "A.jpg", "a.JPG")
    for name in ("a.jpg", "A.jpg", "a.JPG"):
        assert Resolver(tmp_path).place(name) == name
    with pytest.raises(DataError, match="3 files fit"):
        Resolver(tmp_path).find("A.JPG")


@pytest.mark.parametrize(
    "stated", ["secret.jpg", "../secret.jpg", "..\\secret.jpg", "sub/../../secret.jpg", "%2e%2e/secret.jpg", "{}"]
)
def test_nothing_outside_the_folder_is_found(tmp_path, stated):
    make(tmp_path, "secret.jpg", "data/a.jpg", "data/sub/b.jpg")
    with pytest.raises(DataError, match="not found; expected an image file"):
        Resolver(tmp_path / "data").find(stated.format(tmp_path / "secret.jpg"))
    with pytest.raises(DataError, match=r"is not in .*data; expected a folder of the data set"):
        Resolver(tmp_path / "data", "../other")


def test_an_absolute_name_inside_is_that_file(tmp_path):
    make(tmp_path, "b/a.jpg", "c/a.jpg")
    assert Resolver(tmp_path).place(str(tmp_path / "c" / "a.jpg")) == "c/a.jpg"


@pytest.mark.parametrize("stated", ["0.jpg", "val/0.jpg", "../val2017/0.jpg", "valid\\0.jpg"])
def test_an_image_of_one_split_is_never_found_in_another(tmp_path, stated):
    make(tmp_path, "train/0.jpg", "train/sub/0.jpg", "test/0.jpg", "val/1.jpg")
    with pytest.raises(DataError, match="not found"):
        Resolver(tmp_path, "val", "").find(stated)
    if "val" in stated:
        with pytest.raises(DataError, match="not found"):
            Resolver(tmp_path, "train").find(stated)
    make(tmp_path, "val/0.jpg")
    assert Resolver(tmp_path, "val", "").place(stated) == "val/0.jpg"


def test_valid_is_val(tmp_path):
    make(tmp_path, "valid/images/0.jpg")
    assert Resolver(tmp_path, "valid/images").place("../val/images/0.jpg") == "valid/images/0.jpg"


def test_the_near_match_is_named(tmp_path):
    make(tmp_path, "images/holiday_17.jpg", "images/b.png")
    resolver = Resolver(tmp_path, "images")
    with pytest.raises(DataError, match=r"images/holiday-17\.jpg: not found; .*mean 'images/holiday_17\.jpg'\?"):
        resolver.find("holiday-17.jpg")
    with pytest.raises(DataError, match=r"did you mean 'images/b\.png'\?"):
        resolver.find("b.jpg")
    with pytest.raises(
        DataError, match=r"'nothing\.gif': not found; expected a mask in .*images or .*images/\.\.$|in "
    ):
        Resolver(tmp_path, "images", "", what="a mask").find("nothing.gif")


def test_endings_may_be_left_out(tmp_path):
    make(tmp_path, "images/a.JPG", "images/b.v2.png", "images/c.txt", "images/sub/d.png")
    resolver = Resolver(tmp_path, "images", suffixes=IMAGE_SUFFIXES)
    assert resolver.place("a") == "images/a.JPG"
    assert resolver.place("x/b.v2") == "images/b.v2.png"
    assert resolver.place("d") == "images/sub/d.png"
    for name in ("c", "b"):
        with pytest.raises(DataError, match="not found"):
            resolver.find(name)
    with pytest.raises(DataError, match="not found"):
        Resolver(tmp_path, "images").find("a")


def test_two_names_never_mean_one_file(tmp_path):
    make(tmp_path, "images/a.jpg")
    resolver = Resolver(tmp_path, "images")
    assert resolver.place("x\\a.jpg") == "images/a.jpg"
    assert resolver.place("x\\a.jpg") == "images/a.jpg"
    with pytest.raises(
        DataError, match=r"y/a\.jpg: may mean .*images/a\.jpg, as 'x\\\\a\.jpg' does; expected an image"
    ):
        resolver.find("y/a.jpg")
    places, errors = Resolver(tmp_path, "images").look_up(["x/a.jpg", "a.jpg"])
    assert places == ["x/a.jpg", "images/a.jpg"]
    assert errors == {0: f"may mean {tmp_path}/images/a.jpg, as 'a.jpg' does; expected an image file for each"}


@pytest.mark.parametrize(
    "name",
    [
        "a" * 5000,
        "x" * 5000 + "/a.jpg",
        "a\0.jpg",
        "a\0/b.jpg",
        "\ud800.jpg",
        "",
        "/",
        "..",
        "//",
        "\\",
        "http://[x/a.jpg",
    ],
)
def test_names_that_are_none_are_errors_of_one_line(tmp_path, name):
    make(tmp_path, "images/b.jpg")
    for folders in (("images",), ("images", "")):
        with pytest.raises(DataError, match="not found") as caught:
            Resolver(tmp_path, *folders).find(name)
        text = str(caught.value)
        assert len(text) < 700
        assert "\n" not in text
        text.encode()


def test_a_search_ends_where_folders_link_in_a_circle(tmp_path):
    make(tmp_path, "images/sub/a.jpg")
    os.symlink(tmp_path / "images", tmp_path / "images" / "sub" / "again")
    assert Resolver(tmp_path).place("a.jpg") == "images/sub/a.jpg"
