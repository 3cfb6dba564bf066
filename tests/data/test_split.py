"""Splits by hash: the same everywhere, stable, grouped, stratified; as lists and as a data set of its own."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from scenewise import open_data, split_data
from scenewise.data import splits_of
from scenewise.errors import UsageError


def write_flat(root, count=60, prefixes=("a", "b", "c", "d", "e", "f")):
    """``masks:`` without splits: every sixth image has the rare class 2, else 0 and 1."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (6, 8, 3), np.uint8)
        name = f"{prefixes[index % len(prefixes)]}_{index:04}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        values = np.full((6, 8), index % 2, np.uint8)
        values[:2] = 2 if index % 6 == 0 else 0
        Image.fromarray(values).save(root / "labels" / name)
    (root / "classes.txt").write_text("ground\nroad\nsign\n")
    return f"masks:{root}"


def where(source):
    found = {}
    for split in splits_of(source):
        data = open_data(source, split)
        found |= {data.image_id(index): split for index in range(len(data))}
    return found


def test_lists_in_the_data_set_itself(tmp_path):
    source = write_flat(tmp_path / "in")
    done = split_data(source, parts={"train": 3, "val": 1, "test": 1})
    assert done.target == source
    assert sum(done.images.values()) == 60
    assert done.images["train"] > done.images["val"] > 0
    assert splits_of(source) == ("train", "val", "test")
    found = where(source)
    assert len(found) == 60
    assert {split: list(found.values()).count(split) for split in done.images} == done.images
    assert sum(done.classes["sign"].values()) == 10
    with pytest.raises(UsageError, match="has the splits train, val, test; give a target"):
        split_data(source)


@pytest.mark.parametrize("by", ["content", "name"])
def test_images_that_are_added_move_none(by, tmp_path):
    few = write_flat(tmp_path / "few", 40)
    many = write_flat(tmp_path / "many", 60)
    split_data(few, f"masks:{tmp_path / 'a'}", by=by)
    split_data(many, f"masks:{tmp_path / 'b'}", by=by)
    first, second = where(f"masks:{tmp_path / 'a'}"), where(f"masks:{tmp_path / 'b'}")
    assert len(second) == 60
    assert first.items() <= second.items()


def test_equal_pictures_are_in_one_split(tmp_path):
    source = write_flat(tmp_path / "in", 30)
    for index in range(30):
        name = f"{'abcdef'[index % 6]}_{index:04}.png"
        for folder in ("images", "labels"):
            shutil.copy(tmp_path / "in" / folder / name, tmp_path / "in" / folder / f"copy-{name}")
    split_data(source)
    found = where(source)
    assert all(split == found[f"copy-{name}"] for name, split in found.items() if not name.startswith("copy-"))


@pytest.mark.parametrize("group", ["prefix", "^[a-f]", "^([a-f])_"])
def test_sequences_stay_together(group, tmp_path):
    source = write_flat(tmp_path / "in", 60)
    done = split_data(source, group=group, parts={"train": 1, "val": 1})
    found = where(source)
    assert sum(done.groups.values()) == 6
    for letter in "abcdef":
        assert len({split for name, split in found.items() if name.startswith(letter)}) == 1


def test_a_group_that_is_not_in_a_name(tmp_path):
    source = write_flat(tmp_path / "in", 12)
    with pytest.raises(UsageError, match=r"nothing in the image's name 'b_0001' fits"):
        split_data(source, group="^a")
    with pytest.raises(UsageError, match="not a regular expression"):
        split_data(source, group="(")


def test_stratified_splits_meet_the_shares_in_each_class(tmp_path):
    source = write_flat(tmp_path / "in", 60)
    done = split_data(source, parts={"train": 80, "val": 20}, stratify=True)
    assert done.images == {"train": 48, "val": 12}
    assert done.classes["sign"] == {"train": 8, "val": 2}


def test_a_data_set_of_its_own_in_another_format(tmp_path):
    source = "scenes:count=12,size=48x64,fields=boxes"
    done = split_data(source, f"yolo:{tmp_path / 'out'}", parts={"train": 2, "val": 1}, lossy=True, splits=["train"])
    assert sum(done.images.values()) == 12
    assert splits_of(done.target) == ("train", "val")
    again = split_data(source, f"yolo:{tmp_path / 'more'}", parts={"train": 2, "val": 1}, lossy=True, splits=["train"])
    assert where(done.target) == where(again.target)


def test_what_does_not_fit(tmp_path):
    source = write_flat(tmp_path / "in", 12)
    with pytest.raises(UsageError, match="expected two splits or more"):
        split_data(source, parts={"train": 1})
    with pytest.raises(UsageError, match="is not a valid name of a split"):
        split_data(source, parts={"train": 1, "a/b": 1})
    with pytest.raises(UsageError, match=r"split 'val' would get none of 12 images, since the hash decides"):
        split_data(source, parts={"train": 1e6, "val": 1})
    with pytest.raises(UsageError, match="scenes has no lists"):
        split_data("scenes:count=9,size=32", splits=["train"], fields=frozenset({"boxes"}))
    assert not [*(tmp_path / "in").glob("*.txt")][1:]


def test_lists_of_voc(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{index}.png")
        box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>22</ymax></bndbox>"
        text = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{index}.xml").write_text(text)
    done = split_data(f"voc:{tmp_path}", parts={"train": 1, "val": 1})
    assert len(where(f"voc:{tmp_path}")) == 12
    assert splits_of(f"voc:{tmp_path}") == ("train", "val")
    assert done.classes["cat"] == done.images
