"""The same picture in two splits: found by the files' bytes, and said as training starts."""

import shutil

from PIL import Image

from scenewise.data import open_data
from scenewise.data import repeats as module
from scenewise.data.repeats import CURE, describe_repeats
from scenewise.engine.train import train
from tests.data.twins import write_masks
from tests.engine.conftest import tiny


def opened(root):
    return [open_data(f"masks:{root}", split) for split in ("train", "val")]


def leak(root, name="copy"):
    """A picture of train, with its labels, in val, too."""
    for folder in ("images", "labels"):
        shutil.copy(root / folder / "train" / "b.c.png", root / folder / "val" / f"{name}.png")
    return root / "images" / "val" / f"{name}.png"


def test_pictures_in_two_splits_are_named_with_the_cure(tmp_path):
    root = write_masks(tmp_path)
    assert describe_repeats(*opened(root)) == ""
    copy = leak(root)
    train, val = opened(root)
    assert describe_repeats(train, val) == (
        f"split 'val': 1 image of {len(val)} is in split 'train', too, which is trained on, such as {copy}, the same "
        f"picture as {root / 'images' / 'train' / 'b.c.png'}. Scores are then better than on new images: {CURE}"
    )
    assert f"{len(train)} images of {len(train)} are in split 'train', too" in describe_repeats(train, train)


def test_files_that_differ_in_their_middle_only_are_others(tmp_path):
    root = write_masks(tmp_path)
    picture = root / "images" / "train" / "b.c.png"
    labels = Image.open(root / "labels" / "train" / "b.c.png").resize((80, 60))
    labels.save(root / "labels" / "train" / "b.c.png")
    for value in (0, 1):
        pixels = Image.new("RGB", (80, 60))
        pixels.putpixel((3, 50), (value, 9, 9))  # rows are stored from the last to the first
        pixels.save(picture, "BMP")  # 14,454 bytes whatever they show
        if value == 0:
            copy = leak(root)
    assert copy.stat().st_size == picture.stat().st_size > 2 * module.TAIL
    assert module._end(copy) == module._end(picture)
    assert describe_repeats(*opened(root)) == ""


def test_few_files_are_read(tmp_path, monkeypatch):
    """Only what has the size of another one, and as a whole only what ends like it, too."""
    root = write_masks(tmp_path)
    copy = leak(root)
    read = {"_end": [], "_whole": []}
    for name, paths in read.items():
        before = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda path, before=before, paths=paths: (paths.append(path), before(path))[1]
        )
    describe_repeats(*opened(root))
    assert sorted(read["_whole"]) == sorted([copy, root / "images" / "train" / "b.c.png"])
    assert len(read["_end"]) < len(opened(root)[0]) + len(opened(root)[1])


def test_generated_scenes_are_no_files(tmp_path):
    scenes = open_data("scenes:count=2,size=32,fields=semantic")
    assert describe_repeats(scenes, scenes) == ""


def test_it_is_said_once_as_training_starts(tmp_path, capsys):
    root = write_masks(tmp_path / "data")
    leak(root)
    train(tiny(tmp_path, data__train=f"masks:{root}", data__val=f"masks:{root}", data__val_split="val"))
    assert capsys.readouterr().err.count(CURE) == 1
