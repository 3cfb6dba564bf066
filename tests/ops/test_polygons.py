"""Polygons to masks: bit for bit as the COCO API makes them."""

import json

import numpy as np
import pytest

from scenewise.errors import DataError
from scenewise.ops.polygons import polygons_to_mask

coco_mask = pytest.importorskip("pycocotools.mask")


def reference(polygons, height, width):
    codes = coco_mask.frPyObjects([[float(v) for v in polygon] for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


@pytest.mark.parametrize("step", [0, 1, 0.5, 0.1])
def test_random_polygons_equal_pycocotools(step):
    rng = np.random.default_rng(int(10 * step))
    for trial in range(300):
        height, width = (int(side) for side in rng.integers(1, 50, 2))
        polygons = []
        for _ in range(rng.integers(1, 4)):
            points = rng.uniform(-20, 70, (rng.integers(3, 10), 2))
            points = np.round(points / step) * step if step else points
            polygons.append((np.repeat(points, 2, 0) if trial % 5 == 0 else points).ravel().tolist())
        found = polygons_to_mask(polygons, (height, width))
        assert found.dtype == np.bool_
        assert (found == reference(polygons, height, width)).all(), (polygons, height, width)


def test_all_polygons_of_coco_mini_equal_pycocotools(shared_data):
    for split in ("train2017", "val2017"):
        content = json.loads((shared_data("coco_mini") / "annotations" / f"instances_{split}.json").read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for annotation in content["annotations"]:
            if isinstance(annotation["segmentation"], list):
                size = sizes[annotation["image_id"]]
                found = polygons_to_mask(annotation["segmentation"], size)
                assert (found == reference(annotation["segmentation"], *size)).all(), annotation["id"]


def test_no_polygon_is_an_empty_mask():
    assert polygons_to_mask([], (3, 4)).shape == (3, 4)
    assert not polygons_to_mask([], (3, 4)).any()


def test_a_square():
    mask = polygons_to_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 6))
    assert mask[1:3, 1:4].all()
    assert mask.sum() == 6


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 2, 3, 4], "has 4 numbers; expected x1, y1, x2, y2, x3, y3"),
        ([1, 2, 3, 4, 5, 6, 7], "has 7 numbers"),
        ([1, 2, 3, 4, 5, float("nan")], "not finite"),
        ([0, 0, 1e300, 0, 5, 5], "has the coordinate 1e\\+300"),
        ([0, 0, 6e7, 0, 0, 6e7], "outline is .* pixels long"),
        ([[1, 2], [3, 4], [5, 6]], "expected x1, y1"),
        (["a", 2, 3, 4, 5, 6], "expected x1, y1"),
    ],
)
def test_what_is_no_polygon_is_refused(polygon, message):
    with pytest.raises(DataError, match=f"a.json: annotation 3: a polygon.*{message}"):
        polygons_to_mask([polygon], (10, 10), where="a.json: annotation 3")


def test_a_hostile_size_is_refused():
    with pytest.raises(DataError, match="expected at least 1 x 1, at most"):
        polygons_to_mask([[0, 0, 1, 0, 1, 1]], (2**31, 2**31))
