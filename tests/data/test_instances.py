"""What all readers of objects share: names that are nearly equal, and data sets that nothing can be learned from."""

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import check_data, open_data
from scenewise.data.instances import near_equal
from scenewise.data.readers.ade20k import CLASSES
from scenewise.data.readers.voc import CLASSES as VOC_CLASSES
from scenewise.errors import DataError
from tests.data.readers import test_voc_boxes, test_yolo
from tests.data.twins import write_masks


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["Helmet", "helmet"], "upper and lower case"),
        (["hard-hat", "hard hat"], "upper and lower case"),
        (["traffic_light", "TrafficLight"], "upper and lower case"),
        (["car", "cars"], "plural's s"),
        (["bicyle", "bicycle"], "one letter"),
        (["bus", "bu"], ""),
        (["cat", "cart"], ""),
        (["left_hand", "right_hand"], ""),
        (["person1", "person2"], ""),
        (["class_a", "class_b"], ""),
        (["level1", "level11"], ""),
        (CLASSES, ""),
        (VOC_CLASSES, ""),
    ],
)
def test_names_that_are_nearly_equal(names, found):
    pairs = near_equal(names)
    assert len(pairs) == bool(found)
    for first, second, why in pairs:
        assert {first, second} == set(names)
        assert found in why


def test_only_difficult_objects(tmp_path):
    source = test_voc_boxes.write(tmp_path, {"a": test_voc_boxes.xml(("dog", 1, 1, 1, 9, 9))})
    with pytest.raises(DataError, match="1 object, all marked as crowd or difficult, in 1 image"):
        open_data(source)


def test_what_is_not_needed_may_be_unlabelled(tmp_path):
    source = test_yolo.write(tmp_path, {"a": ""})
    assert not check_data(source).ok
    for needs in (frozenset(), frozenset({"boxes"}), frozenset({"boxes", "labels", "masks"})):
        with pytest.raises(DataError, match="no object is labelled"):
            open_data(source, needs=needs if "masks" not in needs else frozenset({"labels"}))
    assert open_data(source, allow_unlabelled=True).unlabelled(frozenset({"depth"})) == ""


def test_label_maps_without_a_class(tmp_path):
    root = write_masks(tmp_path, "flat", "txt")
    assert len(open_data(f"masks:{root}")) == 4
    labels = sorted((root / "labels").iterdir())
    for path in labels:
        with Image.open(path) as picture:
            size = picture.size
        Image.new("L", size, 255).save(path)
    with pytest.raises(DataError, match="no pixel of its 4 label maps has a class"):
        open_data(f"masks:{root}")
    assert len(open_data(f"masks:{root}", allow_unlabelled=True)) == 4
    assert any(problem.severity == "suspicion" for problem in check_data(f"masks:{root}").problems)
    values = np.full(size[::-1], 255, np.uint8)
    values[0, 0] = 1
    Image.fromarray(values).save(labels[-1])
    assert len(open_data(f"masks:{root}")) == 4


def test_a_recipe_may_allow_it(tmp_path):
    from scenewise.engine.building import open_training_data, open_validation_data
    from scenewise.recipe import load_recipe

    source = test_yolo.write(tmp_path, {"a": ""})
    (tmp_path / "r.yaml").write_text(f"model: {{system: faster-rcnn}}\ndata: {{train: '{source}', val_split: val}}\n")
    with pytest.raises(DataError, match=r"no object is labelled.*allow_unlabelled takes it as it is"):
        open_training_data(load_recipe(tmp_path / "r.yaml"))
    with pytest.raises(DataError, match="no object is labelled"):
        open_validation_data(load_recipe(tmp_path / "r.yaml"))
    recipe = load_recipe(tmp_path / "r.yaml", {"data.allow_unlabelled": True})
    assert len(open_training_data(recipe)) == len(open_validation_data(recipe)) == 1
    assert torch.equal(open_training_data(recipe)[0][1]["labels"], torch.zeros(0, dtype=torch.int64))
