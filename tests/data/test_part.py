"""Parts of a split by the hash of their images' content."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scenewise import open_data
from scenewise.data.loader import training_batches
from scenewise.data.part import Part, parse_part
from scenewise.errors import DataError, UsageError
from scenewise.types import InputSpec

from .test_split import write_flat


def ids(data):
    return [data.image_id(index) for index in range(len(data))]


def test_the_parts_of_a_split_are_the_split(tmp_path):
    source = write_flat(tmp_path / "in", 50)
    whole, first, second = (open_data(source, split) for split in ("train", "train[:80%]", "train[80%:]"))
    assert 5 <= len(second) <= 15
    assert sorted(ids(first) + ids(second)) == sorted(ids(whole))
    assert (second.split, second.source, second.classes) == ("train[80%:]", whole.source, whole.classes)
    place = ids(whole).index(ids(second)[2])
    image, target = second[2]
    assert (image == whole[place][0]).all()
    assert (target["semantic"] == whole[place][1]["semantic"]).all()


def test_images_that_are_added_or_renamed_move_none(tmp_path):
    few, many = write_flat(tmp_path / "few", 40), write_flat(tmp_path / "many", 60)
    before, after = (set(ids(open_data(source, "train[80%:]"))) for source in (few, many))
    assert before == {name for name in after if int(name[-4:]) < 40}
    renamed = write_flat(tmp_path / "renamed", 40, prefixes=("z",))
    assert {name[-4:] for name in ids(open_data(renamed, "train[80%:]"))} == {name[-4:] for name in before}


def test_equal_images_are_in_one_part(tmp_path):
    source = write_flat(tmp_path / "in", 30)
    images = sorted((tmp_path / "in" / "images").iterdir())
    held_back = {path for path in images if path.stem in ids(open_data(source, "train[80%:]"))}
    first = min(held_back)
    for other in set(images) - held_back:
        other.write_bytes(first.read_bytes())
    assert (
        len(open_data(source, "train[80%:]"))
        == 30
        - len(held_back)
        + 1
        + sum(path.read_bytes() != first.read_bytes() or path == first for path in held_back)
        - 1
    )


def test_a_part_is_sent_to_loader_processes_with_what_was_asked_of_the_whole(tmp_path):
    part = open_data(write_flat(tmp_path / "in", 20), "train[:80%]").seen_as(InputSpec(channels=1)).only(frozenset())
    assert part.image_form == (1, 8)
    options = {"transform": None, "seed": 0, "needs": frozenset(), "takes": frozenset(), "workers": 1}
    batches = iter(training_batches(part, [[(0, 0), (0, 1)]], **options))
    assert next(batches).images.shape == (2, 1, 6, 8)


def test_objects_keep_their_numbers(tmp_path):
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    images = ", ".join(f'{{"id": {n + 7}, "file_name": "{n}.png", "width": 8, "height": 8}}' for n in range(12))
    boxes = ", ".join(f'{{"id": {n + 1}, "image_id": {n + 7}, "category_id": 3, "bbox": [1, 1, 4, 4], "area": 16}}'
                      for n in range(12))  # fmt: skip
    text = f'{{"images": [{images}], "annotations": [{boxes}], "categories": [{{"id": 3, "name": "cell"}}]}}'
    (tmp_path / "annotations" / "instances_default.json").write_text(text)
    part = open_data(f"coco:{tmp_path}", "default[:50%]")
    assert part.class_ids == (3,)
    assert [f"{number - 7}" for number in part.image_ids] == ids(part)


@pytest.mark.parametrize(
    "name", ["train[80:]", "train[90%:10%]", "train[]", "train[:120%]", "[:10%]", "train[:1.2.3%]"]
)
def test_what_is_no_share_is_refused(name):
    with pytest.raises(UsageError, match=r"expected a split and a share of it, such as train\[:80%\]"):
        parse_part(name)


def test_an_empty_part_is_refused(tmp_path):
    whole = open_data(write_flat(tmp_path / "in", 3), "train")
    with pytest.raises(DataError, match=r"'train\[99.99%:\]' has none of the 3 images of 'train'"):
        Part(whole, "train[99.99%:]", (0.9999, 1.0))
