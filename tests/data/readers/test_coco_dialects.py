"""COCO's files as other tools write them: ids, what is null or left out, layouts, and what is said of them once."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import check_data, describe_repairs, open_data, splits_of
from scenewise.errors import DataError
from tests.data.readers.test_coco import POINTS, SIZE, content, entry, posed, thing, write

BOXES = frozenset({"boxes", "labels"})
MASKS = BOXES | {"masks"}


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)


def simple(names=("a.png",), categories=None, **more):
    """One box in each image."""
    return {
        "images": [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(names)],
        "annotations": [thing(i + 1, i, 1) for i in range(len(names))],
        "categories": categories or [{"id": 1, "name": "cat"}],
        **more,
    }


def dump(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))


def same(first, second):
    return all(
        torch.equal(first[key].as_subclass(torch.Tensor), second[key].as_subclass(torch.Tensor))
        for key in first
        if key != "image_id"
    )


# ---- ids


@pytest.mark.parametrize("kind", [str, float])
def test_ids_that_are_numbers_of_another_type(tmp_path, kind):
    expected = open_data(write(tmp_path / "a"))

    def change(made):
        for item in made["images"] + made["categories"]:
            item["id"] = kind(item["id"])
        for item in made["annotations"]:
            item |= {key: kind(item[key]) for key in ("id", "image_id", "category_id")}

    data = open_data(write(tmp_path / "b", change))
    assert data.classes == expected.classes
    assert data.class_ids == (18, 44, 90)
    assert data.image_ids.tolist() == [7, 3, 900]
    assert all(same(data[i][1], expected[i][1]) for i in range(3))


def test_some_ids_are_texts_and_some_are_numbers(tmp_path):
    data = open_data(write(tmp_path, entry(image_id="7", category_id="18")))
    assert data[0][1]["labels"].tolist() == [0, 1]


def test_ids_that_are_words(tmp_path):
    def change(made):
        names = {7: "p-q", 3: "007", 900: "x"}
        for item in made["images"]:
            item["id"] = names[item["id"]]
        for item in made["categories"]:
            item["id"] = f"c{item['id']}"
        for item in made["annotations"]:
            item |= {
                "id": f"#{item['id']}",
                "image_id": names[item["image_id"]],
                "category_id": f"c{item['category_id']}",
            }

    data = open_data(write(tmp_path, change))
    assert data.classes == ("spoon", "dog", "cup")  # the file's order
    assert data.class_ids == (1, 2, 3)
    assert data.image_ids is None
    assert data[0][1]["labels"].tolist() == [1, 0]
    assert data[0][1]["masks"].sum() == 64 + 100


def test_seven_and_zero_zero_seven_are_two_ids(tmp_path):
    with pytest.raises(DataError, match="image_id '007' is the id of no image"):
        open_data(write(tmp_path, entry(image_id="007")))


# ---- what is null or left out


@pytest.mark.parametrize("value", ["none", None])
def test_optional_values(tmp_path, value):
    expected = open_data(write(tmp_path / "a"))

    def change(made):
        for items, keys in (("annotations", ("iscrowd", "area", "id")), ("images", ("height", "width"))):
            for item in made[items]:
                for key in keys:
                    item.pop(key, None)
                    if value is None:
                        item[key] = None
        made["annotations"][2]["iscrowd"] = True

    data = open_data(write(tmp_path / "b", change))
    assert data.fields == expected.fields - {"area"}
    found, wanted = data[0][1], dict(expected[0][1])
    del wanted["area"]
    assert same(found, wanted)


def test_numbers_in_quotes(tmp_path):
    data = open_data(write(tmp_path, entry(bbox=["10", "10.0", "8", "8"], area="64", iscrowd="0")))
    assert data[0][1]["boxes"][0].tolist() == [10, 10, 18, 18]


@pytest.mark.parametrize("box", ["none", None, [], [0, 0, 0, 0]])
def test_a_box_that_is_not_stated_is_that_of_the_outline(tmp_path, box):
    def change(made):
        for item in made["annotations"]:
            item.pop("bbox")
            if box != "none":
                item["bbox"] = box

    source = write(tmp_path, change)
    for needs in (frozenset(), BOXES, MASKS):
        data = open_data(source, needs=needs)
        assert data[0][1]["boxes"].tolist() == [[10, 10, 18, 18], [5, 20, 15, 30]]
        assert data[1][1]["boxes"].tolist() == [[5, 20, 15, 30]]
        assert data[0][1]["area"].tolist() == [64, 100]


def test_a_box_that_follows_from_nothing_is_named(tmp_path):
    source = write(tmp_path, lambda c: c["annotations"][0].update(bbox=None, segmentation=[[1, 2, 3]]))
    with pytest.raises(DataError, match=r"annotation 11 .*: segmentation: polygon 0 has 3 numbers, an odd count"):
        open_data(source, needs=BOXES)
    source = write(tmp_path, lambda c: c["annotations"][0].update(bbox=[0, 0, 0, 0], segmentation=[]))
    with pytest.raises(DataError, match=r"bbox \[0, 0, 0, 0\] has width 0; expected x, y, width, height"):
        open_data(source)


@pytest.mark.parametrize("outline", ["none", None, [], [[]], [[], None], {}])
def test_an_object_without_a_mask_stays(tmp_path, outline):
    def change(made):
        made["annotations"][0].pop("segmentation")
        if outline != "none":
            made["annotations"][0]["segmentation"] = outline

    source = write(tmp_path, change)
    target = open_data(source, needs=BOXES)[0][1]
    assert target["boxes"].tolist() == [[10, 10, 18, 18], [5, 20, 15, 30]]
    assert target["ignore"].tolist() == [False, True]
    data = open_data(source, needs=MASKS)
    target = data[0][1]
    assert target["boxes"].tolist() == [[10, 10, 18, 18], [5, 20, 15, 30]]
    assert target["ignore"].tolist() == [True, True]  # its box is to be ignored: neither object nor background
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[10:18, 10:18] = True
    assert torch.equal(target["masks"].as_subclass(torch.Tensor)[0], expected)
    assert "1 of 3 objects have no mask; where masks are wanted, they are ignored" in describe_repairs(data)
    assert data.repairs == ()


def test_no_object_has_a_mask(tmp_path):
    data = open_data(write(tmp_path, lambda c: [e.update(segmentation=[[]]) for e in c["annotations"]]), needs=MASKS)
    assert len(data.labels) == 3
    assert "masks" not in data.fields
    assert data[0][1]["ignore"].tolist() == [False, True]
    assert describe_repairs(data) == ""


@pytest.mark.parametrize("points", ["none", None, [], [0] * 9])
@pytest.mark.parametrize("policy", ["error", "skip", "fix"])
def test_people_without_keypoints_stay(tmp_path, points, policy):
    def change(made):
        made["annotations"][0].pop("keypoints")
        if points != "none":
            made["annotations"][0]["keypoints"] = points

    source = write(tmp_path, posed(change), name="person_keypoints_train")
    data = open_data(source, needs=frozenset({"boxes", "keypoints"}), on_bad_record=policy)
    target = data[0][1]
    assert target["boxes"].tolist() == [[10, 10, 18, 18], [5, 20, 15, 30]]
    assert target["visibility"].tolist() == [[0, 0, 0], [2, 1, 0]]
    assert target["ignore"].tolist() == [False, True]
    assert data.repairs == ()


def test_some_areas_are_those_of_boxes(tmp_path):
    data = open_data(write(tmp_path, entry(1, area=None, bbox=[5, 20, 10, 9])))
    assert data[1][1]["area"].tolist() == [90]
    assert data[0][1]["area"].tolist() == [64, 100]


def test_one_class_needs_no_category_id(tmp_path):
    made = simple()
    del made["annotations"][0]["category_id"]
    image(tmp_path / "a.png")
    dump(tmp_path / "result.json", made)
    assert open_data(f"coco:{tmp_path}")[0][1]["labels"].tolist() == [0]


# ---- categories


def test_many_categories_take_linear_time(tmp_path):
    def seconds(count):
        dump(tmp_path / "result.json", simple(categories=[{"id": i, "name": f"c{i}"} for i in range(1, count + 1)]))
        start = time.process_time()
        assert len(open_data(f"coco:{tmp_path}").classes) == count
        return time.process_time() - start

    image(tmp_path / "a.png")
    seconds(10)
    assert seconds(40_000) < 30 * max(seconds(4_000), 0.02)  # quadratic time would be a hundredfold


def roboflow(root, used=("cat",)):
    """Categories: 0 above, cat and dog; each split has an object of each of ``used``."""
    categories = [{"id": 0, "name": "animals", "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": "animals"} for i, name in ((1, "cat"), (2, "dog"))]
    for split in ("train", "valid", "test"):
        made = simple(("a.png",), categories)
        numbers = {"animals": 0, "cat": 1, "dog": 2}
        made["annotations"] = [thing(i + 1, 0, numbers[name]) for i, name in enumerate(used)]
        dump(root / split / "_annotations.coco.json", made)
        image(root / split / "a.png", 80)
    return f"coco:{root}"


def test_roboflow(tmp_path):
    source = roboflow(tmp_path)
    assert splits_of(source) == ("train", "valid", "test")
    for split, own in (("train", "train"), ("val", "valid"), ("valid", "valid"), ("test", "test")):
        data = open_data(source, split)
        assert (data.split, data.classes, data.class_ids) == (own, ("cat", "dog"), (1, 2))
        assert data.image_path(0) == tmp_path / own / "a.png"
    message = (
        "category 0 ('animals') is no class here: no object has it, and it is only what other categories belong to"
    )
    assert describe_repairs(data) == f"{tmp_path}: {message}"
    assert [p.message for p in check_data(source).problems].count(message) == 1
    single = open_data(f"coco:{tmp_path / 'valid' / '_annotations.coco.json'}", "valid")
    assert (single.split, single.classes) == ("valid", ("cat", "dog"))
    assert open_data(str(tmp_path)).source == source


@pytest.mark.parametrize("above", ["", None, "none"])
def test_roboflows_category_0_without_a_word_of_what_is_below(tmp_path, above):
    source = roboflow(tmp_path)
    file = tmp_path / "train" / "_annotations.coco.json"
    made = json.loads(file.read_text())
    for category in made["categories"]:
        category["supercategory"] = above
    dump(file, made)
    assert open_data(source).classes == ("cat", "dog")


def test_a_category_that_is_used_in_any_split_is_a_class_in_all(tmp_path):
    source = roboflow(tmp_path)
    file = tmp_path / "test" / "_annotations.coco.json"
    made = json.loads(file.read_text())
    made["annotations"].append(thing(9, 0, 0))
    dump(file, made)
    for split in ("train", "valid", "test"):
        assert open_data(source, split).classes == ("animals", "cat", "dog")
        assert open_data(f"coco:{tmp_path / split / '_annotations.coco.json'}", split).classes[0] == "animals"
    assert describe_repairs(open_data(source)) == ""


def test_roots_in_coco_s_own_layout(tmp_path):
    def change(made):
        made["categories"] = [
            {"id": 1, "name": "tool", "supercategory": "tool"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 30, "name": "animal", "supercategory": "root"},
            {"id": 44, "name": "spoon", "supercategory": "tools"},
            {"id": 90, "name": "cup", "supercategory": "tools"},
        ]

    assert open_data(write(tmp_path, change)).classes == ("tool", "dog", "spoon", "cup")  # tool is above itself only


def test_keypoints_of_several_categories(tmp_path):
    def change(made):
        made["categories"] = [
            {"id": 1, "name": "person", "keypoints": POINTS, "skeleton": [[1, 2]]},
            {"id": 2, "name": "bird", "keypoints": ["nose", "tail"], "skeleton": [[0, 1]]},  # counted from 0
            {"id": 3, "name": "cup"},
        ]
        made["annotations"] = [
            thing(1, 7, 1, keypoints=[12, 13, 2, 14, 13, 1, 0, 0, 0]),
            thing(2, 7, 2, keypoints=[20, 21, 2, 22, 23, 1]),
            thing(3, 7, 3),
        ]

    data = open_data(write(tmp_path, change), needs=frozenset({"keypoints"}))
    assert data.skeleton.names == ("person nose", "left_eye", "right_eye", "bird nose", "tail")
    assert data.skeleton.links == ((0, 1), (3, 4))
    assert data.skeleton.sides() == ((1, 2),)
    target = data[0][1]
    assert target["visibility"].tolist() == [[2, 1, 0, 0, 0], [0, 0, 0, 2, 1], [0] * 5]
    assert target["keypoints"][1].tolist() == [[0, 0], [0, 0], [0, 0], [20.5, 21.5], [22.5, 23.5]]

    def wrong(made):
        change(made)
        made["annotations"][2]["keypoints"] = [1, 2, 2]

    with pytest.raises(DataError, match="keypoints has 3 numbers; the category 'cup' has none"):
        open_data(write(tmp_path, wrong), needs=frozenset({"keypoints"}))


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"keypoints": 5}, "keypoints is 5; expected a list of names"),
        ({"keypoints": [1, 2]}, r"keypoints is \[1, 2\]; expected a list of names"),
        ({"keypoints": [["a"]]}, r"keypoints is \[\['a'\]\]; expected a list of names"),
        ({"keypoints": ["a", "a"]}, "several keypoints are called 'a'"),
        ({"keypoints": ["a", "b"], "skeleton": [["1", 2]]}, r"skeleton is \[\['1', 2\]\]; expected pairs of 1 to 2"),
        ({"keypoints": ["a", "b"], "skeleton": [3]}, r"skeleton is \[3\]; expected pairs of 1 to 2"),
        ({"keypoints": ["a", "b"], "skeleton": [[1, 3]]}, r"skeleton is \[\[1, 3\]\]; expected pairs of 1 to 2"),
    ],
)
def test_a_skeleton_that_is_none_is_named(tmp_path, category, message):
    image(tmp_path / "a.png")
    dump(tmp_path / "result.json", simple(categories=[{"id": 1, "name": "person", **category}]))
    with pytest.raises(DataError, match=f"result.json: category 'person': {message}"):
        open_data(f"coco:{tmp_path}", needs=frozenset({"keypoints"}))


# ---- layouts and names


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_default.json", "images/default", "default"),  # CVAT
        ("annotations/instances_default.json", "images", "default"),
        ("annotations/person_keypoints_default.json", "images/default", "default"),
        ("annotations/instances_train.json", "images/train", "train"),
        ("result.json", "images", "train"),  # Label Studio
        ("labels.json", "data", "train"),  # FiftyOne
        ("train.json", "train", "train"),
        ("annotations/train.json", "images", "train"),
        ("train/annotations.json", "train", "train"),
        ("train2017/_annotations.coco.json", "train2017", "train2017"),
    ],
)
def test_layouts(tmp_path, file, images, split):
    image(tmp_path / images / "a.png")
    dump(tmp_path / file, simple())
    data = open_data(f"coco:{tmp_path}")
    assert data.split == split
    assert splits_of(f"coco:{tmp_path}") == (split,)
    assert data.image_path(0) == tmp_path / images / "a.png"
    assert open_data(str(tmp_path)).format == "coco"
    assert open_data(f"coco:{tmp_path / file}", "all").image_path(0) == tmp_path / images / "a.png"


@pytest.mark.parametrize(
    ("stated", "there"),
    [
        ("images\\a1b2-0.png", "images/a1b2-0.png"),
        ("..\\x\\a.png", "a.png"),
        ("IMG_1.png", "images/IMG_1.PNG"),
        ("my%20cat.png", "images/my cat.png"),
        ("/data/upload/3/0a1b2c3d-a.png", "images/0a1b2c3d-a.png"),
        ("C:\\Users\\me\\a.png", "images/a.png"),
    ],
)
def test_names_of_images(tmp_path, stated, there):
    image(tmp_path / there)
    dump(tmp_path / "result.json", simple((stated,)))
    for source in (f"coco:{tmp_path}", f"coco:{tmp_path / 'result.json'}"):
        data = open_data(source)
        assert data.image_path(0) == tmp_path / there
        assert len(data[0][1]["boxes"]) == 1
        assert check_data(source).ok


def test_two_names_of_one_image(tmp_path):
    image(tmp_path / "a.png")
    dump(tmp_path / "result.json", simple(("a.png", "x\\a.png")))
    with pytest.raises(
        DataError, match=r"a\.png: may mean .*a\.png, as 'a\.png' does; expected an image file for each"
    ):
        open_data(f"coco:{tmp_path}")


def test_near_names_are_told(tmp_path):
    image(tmp_path / "images" / "holiday_1.png")
    image(tmp_path / "images" / "b.png")
    dump(tmp_path / "result.json", simple(("holiday-1.png", "b.png")))
    with pytest.raises(DataError, match=r"holiday-1\.png: not found; .*did you mean 'images/holiday_1\.png'\?"):
        open_data(f"coco:{tmp_path}")
    dump(tmp_path / "result.json", simple(("holiday-1.png",)))
    with pytest.raises(
        DataError, match=r"the image holiday-1\.png is not found; .*did you mean 'images/holiday_1\.png'"
    ):
        open_data(f"coco:{tmp_path}")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0.png", "\ud800", "../../etc/passwd", "a\nb.png"])
def test_names_that_are_none(tmp_path, name):
    image(tmp_path / "b.png")
    for names in ((name,), ("b.png", name)):
        dump(tmp_path / "result.json", simple(names))
        with pytest.raises(DataError, match=r"not found") as caught:
            open_data(f"coco:{tmp_path}")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1500


# ---- the file


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_file_in_utf16_is_named(tmp_path, encoding):
    image(tmp_path / "a.png")
    (tmp_path / "result.json").write_text(json.dumps(simple()), encoding=encoding)
    with pytest.raises(DataError, match=r"result\.json: UTF-16 text; expected UTF-8\. Save the file again with the"):
        open_data(f"coco:{tmp_path / 'result.json'}")


def test_a_list_that_is_there_twice_is_an_error(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "result.json").write_text(json.dumps(simple())[:-1] + ', "annotations": []}')
    with pytest.raises(
        DataError, match=r"result\.json: line 1, column \d+: the key 'annotations' is there a second time"
    ):
        open_data(f"coco:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"bbox": [10', '"bbox": [' + "9" * 5000), r"a number can't be read"),
        (lambda text: text.replace('"bbox": [10', '"bbox": [' + "9" * 400), r"bbox is \[9+.*; expected x, y, width"),
        (lambda text: text.replace('{"id": 1, "name"', '{"id": 1180591620717411303424, "name"'), "expected an id"),
        (lambda text: text.replace("[[10, 10, 18", "[[" + "9" * 400 + ", 10, 18"), "holds something that is no number"),
        (
            lambda text: text.replace("[[10, 10, 18, 10, 18, 18, 10, 18]]", '{"size": [40, 60], "counts": "\\ud800"}'),
            "run-length code: byte 0 of the counts is 237",
        ),
    ],
)
def test_values_that_break_programs_are_named(tmp_path, change, message):
    image(tmp_path / "a.png")
    (tmp_path / "result.json").write_text(change(json.dumps(simple())))
    with pytest.raises(DataError, match=rf"result\.json: .*{message}"):
        open_data(f"coco:{tmp_path}")


# ---- suspicions


def test_areas_of_corners_are_told_at_opening(tmp_path):
    names = [f"{i}.png" for i in range(4)]
    made = simple(names)
    for i, item in enumerate(made["annotations"]):
        item |= {"bbox": [5 + i, 5, 25 + i, 15], "area": 200, "segmentation": []}
    for name in names:
        image(tmp_path / name)
    dump(tmp_path / "result.json", made)
    data = open_data(f"coco:{tmp_path}")
    assert "Is bbox x1, y1, x2, y2? Then write x1, y1, x2 - x1, y2 - y1" in describe_repairs(data)
    assert sum("x2 - x1" in p.message for p in check_data(f"coco:{tmp_path}").problems) == 1


def test_a_sound_file_says_nothing(tmp_path):
    data = open_data(write(tmp_path))
    assert (data.notes, describe_repairs(data)) == ((), "")
    assert content()["categories"]
