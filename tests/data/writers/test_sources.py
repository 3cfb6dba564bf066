"""Data sets of every reader are converted: what the target holds is the same there as at the source."""

from __future__ import annotations

import pytest
import torch

from scenewise import convert_data, open_data
from tests.data.readers.test_spawn import label_maps_of_all_kinds, objects_of_all_kinds
from tests.data.writers.test_pairs import HELD, assert_same, samples

OBJECTS = ("coco", "keypoints", "labelme", "via", "supervisely", "datumaro")  # as objects_of_all_kinds gives them
# and label_maps_of_all_kinds
LABEL_MAPS = ("masks", "class_masks", "beside_masks", "cvat", "voc", "camvid", "cityscapes", "ade20k")


@pytest.mark.parametrize("target", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("place", range(len(OBJECTS)), ids=OBJECTS)
def test_objects_of_every_reader(place, target, tmp_path):
    data = objects_of_all_kinds(tmp_path / "in")[place]
    fields = {"boxes", *({"masks", "keypoints"} & data.fields & HELD[target])}
    if {"masks", "keypoints"} <= fields and target == "yolo":
        fields -= {"keypoints"}
    done = convert_data(data.source, f"{target}:{tmp_path / 'out'}", fields=frozenset(fields), lossy=True)
    assert data.split in done.images
    before, opened = samples(data.source, data.split, fields)
    after, again = samples(done.target, data.split, fields)
    assert again.classes == opened.classes
    crowds, apart = target != "yolo", 1.0 if target == "yolo" and "masks" in fields else 1e-3
    assert_same(before, after, fields, crowds=crowds, apart=apart, least=1 if target == "voc" else 0)
    if "keypoints" in fields:
        assert again.skeleton.names == opened.skeleton.names


@pytest.mark.parametrize("place", range(len(LABEL_MAPS)), ids=LABEL_MAPS)
def test_label_maps_of_every_reader(place, tmp_path):
    """Written as masks, and as objects of COCO and back."""
    data = label_maps_of_all_kinds(tmp_path / "in")[place]
    needs = {"semantic"}
    done = convert_data(data.source, f"masks:{tmp_path / 'out'}", splits=[data.split], fields=frozenset(needs))
    assert done.lost == []
    parts = convert_data(done.target, f"coco:{tmp_path / 'coco'}", lossy=True)
    back = convert_data(parts.target, f"masks:{tmp_path / 'back'}", lossy=True, background="ignore")
    before, opened = samples(data.source, data.split, needs)
    for target in (done.target, back.target):
        after, again = samples(target, data.split, needs)
        assert again.classes == opened.classes
        assert before.keys() == after.keys()
        for name, (image, labels) in before.items():
            assert torch.equal(image, after[name][0])
            assert torch.equal(labels["semantic"], after[name][1]["semantic"])
    assert open_data(done.target, data.split).colors == opened.colors


def test_the_names_are_as_many_as_the_sources(tmp_path):
    assert len(objects_of_all_kinds(tmp_path / "a")) == len(OBJECTS)
    assert len(label_maps_of_all_kinds(tmp_path / "b")) == len(LABEL_MAPS)
