"""The same data set, in whichever format, gives the same samples: each pair of formats, there and back."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import convert_data, open_data
from scenewise.errors import UsageError
from scenewise.types import IGNORE

FORMATS = ("coco", "masks", "voc", "yolo")
# what is compared on the way from one format to another and back: fields, and whether something has to be lost
OBJECTS = {
    "boxes": {"boxes"},
    "masks": {"boxes", "masks"},
    "keypoints": {"boxes", "keypoints"},
}
HELD = {"coco": {"boxes", "masks", "keypoints"}, "yolo": {"boxes", "masks", "keypoints"}, "voc": {"boxes"}}
NO_CROWDS = {"yolo"}  # formats that can't mark an object as one to ignore
SCENES = "scenes:count=5,size=96x128,seed=4"


def samples(source, split, fields):
    """The image and target of each image, by its name."""
    data = open_data(source, split, needs=frozenset(fields), allow_unlabelled=True)
    assert fields <= data.fields
    return {data.image_id(index): data[index] for index in range(len(data))}, data


def bitmaps(masks):
    return masks.as_subclass(torch.Tensor).bool()


def assert_same(before, after, fields, *, crowds=True, apart=1e-3, least=0):
    """Boxes to ``apart`` pixels, everything else exactly; without crowds those are left out of ``before``, and so are
    boxes whose width or height is ``least`` pixels or less."""
    assert before.keys() == after.keys()
    for name, (image, target) in before.items():
        other_image, other = after[name]
        assert torch.equal(image, other_image)
        sides = target["boxes"].as_subclass(torch.Tensor)
        kept = ((sides[:, 2:] - sides[:, :2]) > least).all(1) & (crowds | ~target["ignore"])
        assert torch.equal(target["labels"][kept], other["labels"]), name
        torch.testing.assert_close(
            target["boxes"][kept].as_subclass(torch.Tensor), other["boxes"].as_subclass(torch.Tensor),
            atol=apart, rtol=0, msg=name,
        )  # fmt: skip
        if crowds:
            assert torch.equal(target["ignore"][kept], other["ignore"])
        if "masks" in fields:
            assert torch.equal(bitmaps(target["masks"])[kept], bitmaps(other["masks"])), name
        if "keypoints" in fields:
            seen = target["visibility"][kept].as_subclass(torch.Tensor)
            assert torch.equal(seen, other["visibility"].as_subclass(torch.Tensor))
            points = (t["keypoints"].as_subclass(torch.Tensor) for t in (target, other))
            first, second = next(points)[kept][seen > 0], next(points)[seen > 0]
            torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def cases():
    for one, other in itertools.permutations(FORMATS, 2):
        if {"masks", "voc"} & {one, other}:
            yield pytest.param(one, other, "semantic", id=f"{one}-{other}")
        if "masks" in (one, other):
            continue
        for kind, fields in OBJECTS.items():
            if fields <= HELD[one] & HELD[other]:
                yield pytest.param(one, other, kind, id=f"{one}-{other}-{kind}")


@pytest.mark.parametrize(("one", "other", "kind"), [*cases()])
def test_there_and_back(one, other, kind, tmp_path):
    if kind == "semantic":
        maps_there_and_back(one, other, tmp_path)
        return
    fields = OBJECTS[kind]
    first = convert_data(f"{SCENES}", f"{one}:{tmp_path / 'first'}", fields=frozenset(fields), lossy=True)
    there = convert_data(first.target, f"{other}:{tmp_path / 'there'}", fields=frozenset(fields), lossy=True)
    back = convert_data(there.target, f"{one}:{tmp_path / 'back'}", fields=frozenset(fields), lossy=True)
    assert back.images == first.images == {"train": 5, "val": 5, "test": 5}
    for split in first.images:
        before, data = samples(first.target, split, fields)
        after, again = samples(back.target, split, fields)
        crowds = not NO_CROWDS & {one, other}
        least = 1 if "voc" in (one, other) else 0  # for VOC, a box that begins and ends at one pixel is none
        assert_same(before, after, fields, crowds=crowds, least=least)
        assert data.classes == again.classes
        if "keypoints" in fields:
            assert data.skeleton.names == again.skeleton.names
            assert data.skeleton.sides() == again.skeleton.sides()
    assert any(len(target["boxes"]) for _, target in before.values())
    made, _ = samples(SCENES, "test", fields)  # and as they were before any format
    assert_same(made, after, fields, crowds=crowds, least=least)


def maps_there_and_back(one, other, tmp_path):
    maps = convert_data(SCENES, f"masks:{tmp_path / 'maps'}", fields=frozenset({"semantic"}), lossy=True)
    first = maps if one == "masks" else convert_data(maps.target, f"{one}:{tmp_path / 'first'}", lossy=True)
    objects = {"coco", "yolo"}  # become label maps, where the background is stated
    ways = {name: {"background": "ignore"} for name in (one, other) if {one, other} & objects and name not in objects}
    there = convert_data(first.target, f"{other}:{tmp_path / 'there'}", lossy=True, **ways.get(other, {}))
    back = convert_data(there.target, f"{one}:{tmp_path / 'back'}", lossy=True, **ways.get(one, {}))
    if one in objects:  # the class of each pixel is compared
        back = convert_data(back.target, f"masks:{tmp_path / 'again'}", lossy=True, background="ignore")
    for split in ("train", "val", "test"):
        before, data = samples(maps.target, split, {"semantic"})
        after, again = samples(back.target, split, {"semantic"})
        made, _ = samples(SCENES, split, {"semantic"})
        assert data.classes == again.classes
        assert before.keys() == after.keys() == made.keys()
        for name, (image, target) in before.items():
            assert torch.equal(image, after[name][0])
            assert torch.equal(target["semantic"], after[name][1]["semantic"]), name
            assert torch.equal(target["semantic"], made[name][1]["semantic"])


# ---- real data


def few_of_coco(root, kind, target):
    """Images of COCO: two with crowds, eight others."""
    content = json.loads((root / "annotations" / f"{kind}_val2017.json").read_text())
    crowds = sorted({a["image_id"] for a in content["annotations"] if a["iscrowd"]})[:2]
    others = [a["image_id"] for a in content["annotations"] if a["image_id"] not in crowds]
    kept = {*crowds, *sorted(set(others))[:8]}
    (target / "annotations").mkdir(parents=True)
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [entry for entry in content[key] if entry[name] in kept]
    (target / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (target / "val2017").symlink_to(root / "val2017")
    return f"coco:{target}"


def test_photographs_of_coco(shared_data, tmp_path):
    """Polygons, run-length codes and crowds."""
    source = few_of_coco(shared_data("coco_mini"), "instances", tmp_path / "in")
    split, fields = "val2017", {"boxes", "masks"}
    with pytest.raises(UsageError, match=r"marked as crowd or difficult: yolo has no place for that"):
        convert_data(source, f"yolo:{tmp_path / 'refused'}", splits=[split], fields=frozenset(fields))
    there = convert_data(source, f"yolo:{tmp_path / 'yolo'}", splits=[split], fields=frozenset(fields), lossy=True)
    assert not (tmp_path / "refused").exists()
    assert [line for line in there.lost if "crowd" in line]
    back = convert_data(there.target, f"coco:{tmp_path / 'coco'}", lossy=True)
    before, data = samples(source, split, fields)
    for target in (there.target, back.target):
        after, again = samples(target, split, fields)
        assert again.classes == data.classes
        assert_same(before, after, fields, crowds=False, apart=1.0)
    copy = convert_data(source, f"coco:{tmp_path / 'copy'}", splits=[split])
    after, again = samples(copy.target, split, fields)
    assert_same(before, after, fields, apart=0)
    assert again.class_ids == data.class_ids
    assert again.image_ids.tolist() == data.image_ids.tolist()
    for name, (_, target) in before.items():
        assert torch.equal(target["area"], after[name][1]["area"])


def test_people_of_coco(shared_data, tmp_path):
    source, fields = few_of_coco(shared_data("coco_mini"), "person_keypoints", tmp_path / "in"), {"boxes", "keypoints"}
    there = convert_data(source, f"yolo:{tmp_path / 'y'}", splits=["val2017"], fields=frozenset(fields), lossy=True)
    back = convert_data(there.target, f"coco:{tmp_path / 'c'}", lossy=True)
    before, data = samples(source, "val2017", fields)
    after, again = samples(back.target, "val2017", fields)
    assert_same(before, after, fields, crowds=False, apart=1.0)
    assert again.skeleton.sides() == data.skeleton.sides()


def test_blood_cells_of_voc(shared_data, tmp_path):
    source = f"voc:{shared_data('bccd')}"
    there = convert_data(source, f"yolo:{tmp_path / 'y'}", splits=["val"], lossy=True, on_bad_record="fix", link=True)
    back = convert_data(there.target, f"voc:{tmp_path / 'v'}")
    data = open_data(source, "val", on_bad_record="fix")
    again = open_data(back.target, "val")
    assert again.classes == data.classes
    before = {data.image_id(i): data[i] for i in range(8)}
    after = {again.image_id(i): again[i] for i in range(len(again)) if again.image_id(i) in before}
    assert_same(before, after, {"boxes"}, crowds=False)


def test_streets_of_camvid(shared_data, tmp_path):
    source = f"camvid:{shared_data('camvid')}"
    there = convert_data(source, f"masks:{tmp_path / 'm'}", splits=["val"], link=True)
    assert there.lost == []
    before, after = open_data(source, "val"), open_data(there.target, "val")
    assert before.classes == after.classes
    assert before.colors == after.colors
    for index in range(0, len(before), 20):
        assert before.image_id(index) == after.image_id(index)
        assert torch.equal(before[index][1]["semantic"], after[index][1]["semantic"])


# ---- the border of a mask as one polygon


@pytest.mark.parametrize("seed", range(20))
def test_the_polygon_of_a_mask_has_its_pixels(seed):
    """Parts that lie apart, holes, islands in holes, pixels that touch at corners only, all at the image's border."""
    from scenewise.ops.outlines import joined, loops_around
    from scenewise.ops.polygons import polygons_to_mask

    rng = np.random.default_rng(seed)
    mask = rng.random((9, 13)) < rng.uniform(0.1, 0.9)
    mask[rng.integers(9), rng.integers(13)] = True
    polygon = joined(loops_around(mask))
    assert np.array_equal(polygons_to_mask([polygon.ravel()], mask.shape), mask)


def test_the_polygon_of_a_mask_is_drawn_by_others_as_it_is():
    pytest.importorskip("pycocotools")
    from pycocotools import mask as coco

    from scenewise.ops.outlines import joined, loops_around

    mask = np.zeros((20, 30), np.bool_)
    mask[2:12, 3:20] = True
    mask[5:9, 6:15] = False
    mask[6:8, 8:10] = True
    mask[14:19, 22:28] = True
    polygon = joined(loops_around(mask)).ravel().tolist()
    assert np.array_equal(coco.decode(coco.frPyObjects([polygon], 20, 30))[..., 0].astype(bool), mask)


def test_what_is_ignored_in_label_maps_is_said(tmp_path):
    from tests.data.twins import write_masks

    root = write_masks(tmp_path / "maps", classes="txt")
    for file in (root / "labels").rglob("*.png"):  # 9 is no value here
        values = np.array(Image.open(file))
        Image.fromarray(np.where(values == 9, 255, values).astype(np.uint8)).save(file)
    with pytest.raises(UsageError, match=r"pixels to be ignored: coco has no place for that"):
        convert_data(f"masks:{root}", f"coco:{tmp_path / 'c'}")
    done = convert_data(f"masks:{root}", f"coco:{tmp_path / 'c'}", lossy=True)
    assert any("pixels to be ignored" in line for line in done.lost)
    back = convert_data(done.target, f"masks:{tmp_path / 'm'}", lossy=True, background="void")
    data = open_data(back.target, "train")
    assert data.classes == ("void", "road", "grass", "sky")
    before = open_data(f"masks:{root}", "train")
    for index in range(len(before)):
        values = before[index][1]["semantic"].long()
        expected = torch.where(values == IGNORE, 0, values + 1)
        assert torch.equal(expected, data[index][1]["semantic"].long())


def test_fields_are_names_in_any_collection(tmp_path):
    for number, fields in enumerate((["boxes"], ("boxes",), {"boxes"})):
        done = convert_data(SCENES, f"coco:{tmp_path / str(number)}", splits=["val"], fields=fields, lossy=True)
        assert done.objects["val"] > 0
    with pytest.raises(UsageError, match="fields is the text 'boxes'; expected names of fields"):
        convert_data(SCENES, f"coco:{tmp_path / 'text'}", fields="boxes")
