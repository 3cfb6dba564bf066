"""labelme, VIA, Supervisely and Datumaro: what each shape becomes, where files are, and what is wrong with them.

Each writer makes a tiny data set as the tool does; the object of its first image is a rectangle, a polygon or both.
"""

import base64
import io
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.data.readers.shapes import ellipse
from scenewise.errors import DataError, UsageError
from scenewise.ops import rle

SIZE = (40, 60)
OUTLINE = [[10, 12], [30, 12], [30, 20], [10, 20]]


def image(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def rectangle_mask(x1=10, y1=12, x2=30, y2=20):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def masks_of(target):
    return target["masks"].as_subclass(torch.Tensor)


# ---- labelme


def shape(kind="rectangle", points=((10, 12), (30, 20)), label="cat", **more):
    return {"label": label, "points": [[*p] for p in points], "shape_type": kind, "group_id": None, "flags": {}, **more}


def labelme_file(shapes, name="a.png", **more):
    about = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
    return {**about, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **more}


def write_labelme(root, *shapes, **more):
    image(root / "a.png")
    dump(root / "a.json", labelme_file([*shapes] or [shape()], **more))
    return f"labelme:{root}"


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def test_labelme_boxes(tmp_path):
    data = open_data(write_labelme(tmp_path, shape(), shape(points=[(50, 30), (40, 25)], label="dog")))
    assert (data.split, data.classes, data.source) == ("train", ("cat", "dog"), f"labelme:{tmp_path}")
    target = data[0][1]
    assert target["boxes"].tolist() == [[10, 12, 30, 20], [40, 25, 50, 30]]
    assert target["labels"].tolist() == [0, 1]
    assert set(target) == {"image_id", "boxes", "labels", "ignore"}


def test_labelme_masks(tmp_path):
    pixels = np.zeros((5, 6), np.uint8)
    pixels[1:4, 2:5] = 255
    text = base64.b64encode(png(pixels)).decode()
    shapes = [
        shape("polygon", OUTLINE),
        shape("circle", [(30, 20), (34, 23)]),
        shape("mask", [(20, 10), (25, 14)], mask=text),
        shape("rotation", [(10, 0), (20, 10), (10, 20), (0, 10)]),
    ]
    target = open_data(write_labelme(tmp_path, *shapes))[0][1]
    masks = masks_of(target)
    assert target["boxes"].tolist() == [[10, 12, 30, 20], [25, 15, 35, 25], [22, 11, 25, 14], [0, 0, 20, 20]]
    assert torch.equal(masks[0], rectangle_mask())
    assert abs(masks[1].sum() - np.pi * 25) < 4
    assert torch.equal(masks[2], rectangle_mask(22, 11, 25, 14))
    assert abs(masks[3].sum() - 200) < 15


def test_labelme_groups(tmp_path):
    shapes = [
        shape("polygon", OUTLINE, group_id=1),
        shape("polygon", [(40, 12), (50, 12), (50, 20), (40, 20)], group_id=1),
        shape("polygon", [(40, 22), (50, 22), (50, 30), (40, 30)], group_id=2),
        shape("point", [(12, 14)], "nose", group_id=1),
        shape("point", [(14, 15)], "tail", group_id=1),
        shape("point", [(44, 25)], "nose", group_id=2),
    ]
    data = open_data(write_labelme(tmp_path, *shapes))
    target = data[0][1]
    assert data.classes == ("cat",)
    assert data.skeleton.names == ("nose", "tail")
    assert target["boxes"].tolist() == [[10, 12, 50, 20], [40, 22, 50, 30]]
    assert torch.equal(masks_of(target)[0], rectangle_mask() | rectangle_mask(40, 12, 50, 20))
    assert target["keypoints"].tolist() == [[[12, 14], [14, 15]], [[44, 25], [0, 0]]]
    assert target["visibility"].tolist() == [[2, 2], [2, 0]]


def test_a_rectangle_among_polygons_is_ignored_where_masks_are_wanted(tmp_path):
    source = write_labelme(tmp_path, shape("polygon", OUTLINE), shape(points=[(40, 22), (50, 30)]))
    data = open_data(source)
    target = data[0][1]
    assert target["ignore"].tolist() == [False, True]
    assert torch.equal(masks_of(target)[1], rectangle_mask(40, 22, 50, 30))
    assert data.only(frozenset({"boxes", "labels"}))[0][1]["ignore"].tolist() == [False, False]
    assert "1 of 2 objects have no mask" in data.notes[0].message


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("line", [(1, 1), (5, 5)]), r"is a 'line', which is no object; expected a rectangle, polygon, circle,"),
        (shape("linestrip", [(1, 1), (5, 5), (9, 9)]), "is a 'linestrip', which is no object"),
        (shape(points=[(1, 1)]), "is a rectangle of 1 points; expected 2 or 4"),
        (shape(points=[(1, 1), (1, 9)]), r"the box from \(1, 1\) to \(1, 9\) has width 0"),
        (shape("polygon", [(1, 1), (5, 5)]), "is a polygon of 2 points; expected at least 3"),
        (shape("polygon", [(1, 1), (5, 5), (1,)]), "has points that are no list of x, y"),
        (shape("point", [(1, 1)], "nose"), "is a point, and no object has its group_id None"),
        (shape("mask", [(1, 1), (5, 5)], mask="!"), "has a mask that is no image as base64 text"),
        (shape("mask", [(1, 1), (5, 5)], mask="YWJj"), "has a mask that can't be decoded"),
        (shape(label=""), "has no label; expected the name of its class"),
        ([], "has no label"),
        (shape(points=[(50, 30), (80, 39)]), r".*covers x 50 to 80 .* of an image of 60 x 40 pixels"),
    ],
)
def test_a_bad_shape_is_named(tmp_path, bad, message):
    source = write_labelme(tmp_path, shape(), bad)
    with pytest.raises(DataError, match=rf"a\.json: shape 1.*: {message}"):
        open_data(source)
    data = open_data(source, on_bad_record="skip")
    assert len(data[0][1]["boxes"]) == 1
    assert "left out" in str(data.repairs[0])
    assert not check_data(source).ok


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "has no list of shapes; expected a JSON file of labelme"),
        ([], "has no list of shapes"),
        (labelme_file([], imageHeight=-1), "imageHeight and imageWidth are -1 and 60; expected numbers of pixels"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    source = write_labelme(tmp_path)
    dump(tmp_path / "b.json", content)
    with pytest.raises(DataError, match=rf"b\.json: {message}"):
        open_data(source)
    assert len(open_data(source, on_bad_record="skip")) == 1


def test_labelme_layouts(tmp_path):
    for split, names in (("train", "abc"), ("valid", "de")):
        for name in names:
            image(tmp_path / "x" / "images" / split / f"{name}.png")
            dump(
                tmp_path / "x" / "labels" / split / f"{name}.json", labelme_file([shape(label=name)], f"..\\{name}.png")
            )
    source = f"labelme:{tmp_path / 'x'}"
    assert splits_of(source) == ("train", "valid")
    assert [len(open_data(source, split)) for split in ("train", "val", "valid")] == [3, 2, 2]
    assert open_data(source, "val").classes == tuple("abcde")  # of all splits
    with pytest.raises(DataError, match="no split 'test'; splits here: train, valid; expected JSON files of labelme"):
        open_data(source, "test")
    (tmp_path / "x" / "labels.txt").write_text("__ignore__\n_background_\ne\nd\nc\nb\na\n")
    assert open_data(source).classes == ("_background_", *"edcba")
    dump(tmp_path / "x" / "labels" / "z.json", labelme_file([shape()]))
    with pytest.raises(DataError, match=r"z\.json: is beside folders of splits; expected it in one of train, valid"):
        open_data(source)


def test_one_file_of_labelme(tmp_path):
    write_labelme(tmp_path)
    dump(tmp_path / "b.json", labelme_file([shape()], "b.png"))
    image(tmp_path / "b.png")
    assert len(open_data(f"labelme:{tmp_path / 'a.json'}")) == 1
    assert len(open_data(str(tmp_path / "a.json"))) == 1
    assert len(open_data(str(tmp_path))) == 2


def test_an_image_of_labelme_that_is_not_there(tmp_path):
    source = write_labelme(tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "aa.png")
    with pytest.raises(DataError, match=r"a\.png: not found; expected an image file"):
        open_data(source)


# ---- VIA


def region(kind="rect", attributes=None, **values):
    values = values or {"x": 10, "y": 12, "width": 20, "height": 8}
    attributes = {"class": "cat"} if attributes is None else attributes
    return {"shape_attributes": {"name": kind, **values}, "region_attributes": attributes}


def via_content(*regions, name="a.png"):
    return {f"{name}1234": {"filename": name, "size": 1234, "regions": [*regions], "file_attributes": {}}}


def write_via(root, *regions, project=True):
    image(root / "a.png")
    content = via_content(*(regions or (region(),)))
    dump(
        root / "via.json",
        {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}} if project else content,
    )
    return f"via:{root}"


def via_csv(*rows):
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    cells = [[name, "1", "{}", "1", "0", json.dumps(s), json.dumps(a)] for name, s, a in rows]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    return "\n".join([header, *quoted]) + "\n"


POLYGON = {"all_points_x": [10, 30, 30, 10], "all_points_y": [12, 12, 20, 20]}


@pytest.mark.parametrize("project", [True, False])
def test_via(tmp_path, project):
    regions = [
        region(),
        region("polygon", {"class": "dog"}, **POLYGON),
        region("circle", cx=30, cy=20, r=5),
        region("ellipse", cx=30, cy=20, rx=10, ry=5, theta=0),
        region("ellipse", cx=30, cy=20, rx=10, ry=5, theta=np.pi / 2),
    ]
    data = open_data(write_via(tmp_path, *regions, project=project))
    target = data[0][1]
    assert data.classes == ("cat", "dog")
    expected = [[10, 12, 30, 20], [10, 12, 30, 20], [25, 15, 35, 25], [20, 15, 40, 25], [25, 10, 35, 30]]
    assert np.allclose(target["boxes"].numpy(), expected, atol=1e-4)
    assert target["labels"].tolist() == [0, 1, 0, 0, 0]
    assert target["ignore"].tolist() == [True, False, False, False, False]  # a rectangle has no mask
    assert torch.equal(masks_of(target)[1], rectangle_mask())


def test_regions_of_via_1_are_an_object(tmp_path):
    content = via_content()
    content["a.png1234"]["regions"] = {"0": region(), "1": region()}
    image(tmp_path / "a.png")
    dump(tmp_path / "x.json", content)
    assert len(open_data(f"via:{tmp_path}")[0][1]["boxes"]) == 2


def test_via_csv(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    shape_ = {"name": "rect", "x": 10, "y": 12, "width": 20, "height": 8}
    rows = (
        ("a.png", shape_, {"class": "cat"}),
        ("a.png", {"name": "polygon", **POLYGON}, {"class": "dog"}),
        ("b.png", {}, {}),
    )
    (tmp_path / "via.csv").write_text(via_csv(*rows))
    data = open_data(f"via:{tmp_path}")
    assert len(data) == 2
    assert data[0][1]["boxes"].tolist() == [[10, 12, 30, 20]] * 2
    assert len(data[1][1]["boxes"]) == 0
    (tmp_path / "via.csv").write_text(via_csv(("a.png", {"name": "rect"}, {"class": "cat"})))
    with pytest.raises(DataError, match=r"via\.csv: line 2 \(cat\): is a rect whose x, y, width, height are not all"):
        open_data(f"via:{tmp_path}")
    (tmp_path / "via.csv").write_text(via_csv(("a.png", shape_, {})).replace('""x"": 10', '""x"": 1O'))
    with pytest.raises(DataError, match=r"via\.csv: line 2: region_shape_attributes: not valid JSON: line 1"):
        open_data(f"via:{tmp_path}")


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ([{}, {}], ("object",)),
        ([{"animal": "cat"}, {"animal": "dog"}], ("cat", "dog")),
        ([{"age": "3", "Label": "cat"}, {"Label": "dog", "age": ""}], ("cat", "dog")),
        ([{"type": {"cat": True}}, {"type": {"dog": True, "cat": False}}], ("cat", "dog")),
    ],
)
def test_the_class_of_a_region(tmp_path, attributes, classes):
    assert open_data(write_via(tmp_path, *(region(attributes=one) for one in attributes))).classes == classes


def test_a_class_that_is_not_clear(tmp_path):
    source = write_via(tmp_path, region(attributes={"animal": "cat", "age": "3"}), region(attributes={"age": "4"}))
    with pytest.raises(
        DataError, match="regions have the attributes 'animal', 'age'; state which of them is the class"
    ):
        open_data(source)
    assert open_data(source, attribute="age").classes == ("3", "4")
    with pytest.raises(DataError, match="region 1: has no 'animal' among its attributes"):
        open_data(source, attribute="animal")
    with pytest.raises(UsageError, match="no region has the attribute 'x'; attributes: 'animal', 'age'"):
        open_data(source, attribute="x")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (region("polyline", **POLYGON), "is a 'polyline', which is no object; expected a rect, polygon, circle or"),
        (region("point", cx=1, cy=2), "is a 'point', which is no object"),
        (region("polygon", all_points_x=[1, 2], all_points_y=[1, 2]), "is a polygon of 2 points"),
        (region("polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]), "no lists of equally many finite numbers"),
        (region("rect", x=1, y=2, width=0, height=4), r"the box from \(1, 2\) to \(1, 6\) has width 0"),
        ({"region_attributes": {"class": "cat"}}, "has no shape_attributes with a name"),
    ],
)
def test_a_bad_region_is_named(tmp_path, bad, message):
    source = write_via(tmp_path, region(), bad)
    with pytest.raises(DataError, match=rf"via\.json: a\.png: region 1 \(cat\): .*{message}"):
        open_data(source)
    assert len(open_data(source, on_bad_record="skip")[0][1]["boxes"]) == 1


def test_layouts_of_via(tmp_path):
    for split in ("train", "val"):
        write_via(tmp_path / "folders" / split)
        image(tmp_path / "files" / split / "a.png")
        dump(tmp_path / "files" / f"{split}.json", via_content(region()))
    for root in ("folders", "files"):
        source = f"via:{tmp_path / root}"
        assert splits_of(source) == ("train", "val")
        assert open_data(source, "val").image_path(0) == tmp_path / root / "val" / "a.png"
        assert open_data(str(tmp_path / root), "val").format == "via"
    dump(tmp_path / "folders" / "val" / "second.json", via_content(region()))
    with pytest.raises(
        DataError, match=r"there are several files of VIA, .*second\.json, .*via\.json; expected one per"
    ):
        open_data(f"via:{tmp_path / 'folders'}", "val")
    assert len(open_data(f"via:{tmp_path / 'folders' / 'val' / 'via.json'}", "val")) == 1


def test_via_3_is_named(tmp_path):
    dump(tmp_path / "a.json", {"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}})
    with pytest.raises(DataError, match="a project of VIA 3, which is not read; export it there as COCO"):
        open_data(f"via:{tmp_path / 'a.json'}")


# ---- Supervisely


def sly(kind="rectangle", exterior=((10, 12), (29, 19)), interior=(), title="cat", **more):
    points = {"exterior": [[*p] for p in exterior], "interior": [[[*p] for p in hole] for hole in interior]}
    return {"id": 1, "classTitle": title, "geometryType": kind, "points": points, "tags": [], **more}


def write_supervisely(root, *objects, name="ds0", classes=("dog", "cat")):
    shapes = [{"title": title, "shape": "polygon", "color": "#FF0000"} for title in classes]
    dump(root / "meta.json", {"classes": shapes, "tags": []})
    image(root / name / "img" / "a.png")
    size = {"height": SIZE[0], "width": SIZE[1]}
    dump(root / name / "ann" / "a.png.json", {"size": size, "tags": [], "objects": [*objects] or [sly()]})
    return f"supervisely:{root}"


def sly_bitmap(pixels, origin):
    bands = np.zeros((*pixels.shape, 4), np.uint8)
    bands[pixels] = 255
    return {"data": base64.b64encode(zlib.compress(png(bands))).decode(), "origin": [*origin]}


def test_supervisely(tmp_path):
    pixels = np.zeros((5, 6), bool)
    pixels[1:4, 2:5] = True
    square = [(10, 10), (29, 10), (29, 29), (10, 29)]
    objects = [
        sly(),
        sly("polygon", square, [[(15, 15), (19, 15), (19, 19), (15, 19)]], "dog"),
        sly("bitmap", bitmap=sly_bitmap(pixels, (20, 10))),
    ]
    data = open_data(write_supervisely(tmp_path, *objects))
    target = data[0][1]
    assert (data.classes, data.split) == (("dog", "cat"), "ds0")
    assert target["boxes"].tolist() == [[10, 12, 30, 20], [10.5, 10.5, 29.5, 29.5], [22, 11, 25, 14]]
    assert target["labels"].tolist() == [1, 0, 1]
    masks = masks_of(target)
    assert torch.equal(masks[2], rectangle_mask(22, 11, 25, 14))
    assert masks[1, 12, 12]
    assert not masks[1, 17, 17]
    assert masks[1].sum() == masks[1, 10:30, 10:30].sum() > 300


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sly("graph", nodes={}), "is a 'graph', which is no object; expected a rectangle, polygon, bitmap or ellipse"),
        (sly("line"), "is a 'line', which is no object"),
        (sly("polygon", [(1, 1), (2, 2)]), "fewer than 3 points"),
        (sly("bitmap", bitmap={"data": "!", "origin": [1, 1]}), "data is no compressed base64 text"),
        (sly("bitmap", bitmap={"data": "YWJj"}), "is a bitmap without data and an origin"),
        (sly("rectangle", [(1, 1)]), "is a rectangle of 1 points; expected 2"),
    ],
)
def test_a_bad_object_of_supervisely_is_named(tmp_path, bad, message):
    source = write_supervisely(tmp_path, sly(), bad)
    with pytest.raises(DataError, match=rf"a\.png\.json: object 1 \(cat\): .*{message}"):
        open_data(source)
    assert len(open_data(source, on_bad_record="skip")[0][1]["boxes"]) == 1


def test_projects_of_supervisely(tmp_path):
    source = write_supervisely(tmp_path, name="train")
    write_supervisely(tmp_path, name="val")
    assert splits_of(source) == ("train", "val")
    assert open_data(source, "val").image_path(0) == tmp_path / "val" / "img" / "a.png"
    assert open_data(str(tmp_path)).format == "supervisely"
    with pytest.raises(DataError, match=r"object 0 \(cow\): has the classTitle 'cow', which is no class of meta\.json"):
        open_data(write_supervisely(tmp_path, sly(title="cow"), name="train"))
    (tmp_path / "meta.json").unlink()
    with pytest.raises(DataError, match=r"meta\.json: not found; expected the classes of a Supervisely project"):
        open_data(source)


# ---- Datumaro


def item(*annotations, name="a", path="a.png"):
    return {"id": name, "annotations": [*annotations], "image": {"path": path, "size": [*SIZE]}}


def annotation(kind="bbox", label=0, **values):
    values = values or {"bbox": [10, 12, 20, 8]}
    return {"id": 0, "type": kind, "attributes": {}, "group": 0, "label_id": label, "z_order": 0, **values}


def write_datumaro(root, *annotations, split="default", joints=None, folder="images/default"):
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("cat", "dog")]
    points = {"items": [{"label_id": 0, "labels": joints, "joints": [[1, 2]]}]} if joints else {"items": []}
    categories = {"label": {"labels": labels, "attributes": []}, "points": points}
    dump(
        root / "annotations" / f"{split}.json",
        {"info": {}, "categories": categories, "items": [item(*(annotations or (annotation(),)))]},
    )
    image(root / folder / "a.png")
    return f"datumaro:{root}"


FLAT = [10, 12, 30, 12, 30, 20, 10, 20]


def test_datumaro(tmp_path):
    mask = np.zeros(SIZE, bool)
    mask[20:30, 5:15] = True
    counts = rle.parse(rle.encode(mask)[0])[1].tolist()
    annotations = [
        annotation(),
        annotation("polygon", 1, points=FLAT),
        annotation("mask", rle={"counts": counts, "size": [*SIZE]}),
        annotation("ellipse", points=[20, 15, 40, 25]),
        annotation("bbox", bbox=[40, 30, 8, 4], group=3),
        annotation("polygon", points=[40, 30, 46, 30, 46, 33, 40, 33], group=3),
        {"id": 1, "type": "label", "label_id": 1},
        {"id": 2, "type": "caption", "caption": "a cat"},
    ]
    data = open_data(write_datumaro(tmp_path, *annotations))
    target = data[0][1]
    assert (data.split, data.classes) == ("default", ("cat", "dog"))
    assert target["boxes"].tolist() == [
        [10, 12, 30, 20], [10, 12, 30, 20], [5, 20, 15, 30], [20, 15, 40, 25], [40, 30, 48, 34]]  # fmt: skip
    assert target["labels"].tolist() == [0, 1, 0, 0, 0]
    assert target["ignore"].tolist() == [True, False, False, False, False]
    masks = masks_of(target)
    assert torch.equal(masks[1], rectangle_mask())
    assert torch.equal(masks[2], torch.from_numpy(mask))
    assert torch.equal(masks[4], rectangle_mask(40, 30, 46, 33))


def test_keypoints_of_datumaro(tmp_path):
    names = ["nose", "left_ear", "right_ear"]
    points = annotation("points", points=[12, 13, 14, 15, 16, 17], visibility=[2, 1, 0], group=1)
    source = write_datumaro(tmp_path, annotation(bbox=[10, 12, 20, 8], group=1), points, annotation(), joints=names)
    data = open_data(source, needs=frozenset({"boxes", "keypoints"}))
    assert data.skeleton.names == tuple(names)
    assert data.skeleton.links == ((0, 1),)
    target = data[0][1]
    assert target["visibility"].tolist() == [[2, 1, 0], [0, 0, 0]]
    assert target["keypoints"][0].tolist() == [[12, 13], [14, 15], [0, 0]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (annotation("polyline", points=FLAT), "is a 'polyline', which is no object; expected a bbox, polygon, mask,"),
        (annotation("cuboid", points=FLAT), "is a 'cuboid', which is no object"),
        (annotation("polygon", points=[1, 2, 3]), "no list of x, y, x, y, ... with finite numbers"),
        (
            annotation("mask", rle={"counts": [5], "size": [*SIZE]}),
            "has a mask that is none: mask: the counts sum to 5",
        ),
        (annotation("bbox", bbox=[1, 2, 3]), "is a bbox without four finite numbers"),
        (annotation("points", points=[1, 2], visibility=[2]), "has 1 points and 1 values of visibility; expected 0"),
    ],
)
def test_a_bad_annotation_of_datumaro_is_named(tmp_path, bad, message):
    source = write_datumaro(tmp_path, annotation(), bad)
    with pytest.raises(DataError, match=rf"default\.json: a\.png: annotations\[1\] \(cat\): .*{message}"):
        open_data(source)
    assert len(open_data(source, on_bad_record="skip")[0][1]["boxes"]) == 1


def test_layouts_of_datumaro(tmp_path):
    source = write_datumaro(tmp_path, split="train", folder="images/train")
    write_datumaro(tmp_path, split="validation", folder="images/validation")
    assert splits_of(source) == ("train", "validation")
    assert open_data(source, "val").image_path(0) == tmp_path / "images" / "validation" / "a.png"
    assert open_data(str(tmp_path)).format == "datumaro"
    assert len(open_data(f"datumaro:{tmp_path / 'annotations' / 'train.json'}")) == 1


# ---- all of them


def test_an_ellipse_touches_its_box():
    points = ellipse(30, 20, 10, 5)
    assert np.allclose([*points.min(0), *points.max(0)], [20, 15, 40, 25])
    assert np.allclose(ellipse(0, 0, 2, 1, np.pi / 2).max(0), [1, 2])


def test_the_same_objects_in_every_format(tmp_path):
    sources = [
        write_labelme(
            tmp_path / "labelme", shape("polygon", OUTLINE), shape("polygon", [(1, 2), (9, 2), (9, 8)], "dog")
        ),
        write_via(
            tmp_path / "via",
            region("polygon", **POLYGON),
            region("polygon", {"class": "dog"}, all_points_x=[1, 9, 9], all_points_y=[2, 2, 8]),
        ),
        write_datumaro(
            tmp_path / "datumaro",
            annotation("polygon", points=FLAT),
            annotation("polygon", 1, points=[1, 2, 9, 2, 9, 8]),
        ),
        write_supervisely(
            tmp_path / "supervisely",
            sly("polygon", [(x - 0.5, y - 0.5) for x, y in OUTLINE]),
            sly("polygon", [(0.5, 1.5), (8.5, 1.5), (8.5, 7.5)], title="dog"),
            classes=("cat", "dog"),
        ),
    ]
    first = open_data(sources[0])[0][1]
    for source in sources:
        data = open_data(source)
        assert data.classes == ("cat", "dog")
        target = data[0][1]
        assert torch.equal(target["boxes"], first["boxes"])
        assert torch.equal(target["labels"], first["labels"])
        assert torch.equal(masks_of(target), masks_of(first))


def test_several_checked_classes_are_named(tmp_path):
    checked = {"type": {"cat": True, "dog": True}}
    source = write_via(tmp_path, region(attributes={"type": {"cat": True}}), region(attributes=checked))
    with pytest.raises(DataError, match=r"has several classes checked as 'type': \['cat', 'dog'\]; expected one"):
        open_data(source)


def test_data_sets_in_data_sets_of_supervisely(tmp_path):
    source = write_supervisely(tmp_path)
    for name in ("ds0/datasets/inner", "ds0/datasets/inner/datasets/deep", "only/datasets/one"):
        write_supervisely(tmp_path, name=name)
    assert splits_of(source) == ("ds0", "ds0/inner", "ds0/inner/deep", "only/one")
    data = open_data(source, "ds0/inner/deep")
    assert data.image_path(0) == tmp_path / "ds0" / "datasets" / "inner" / "datasets" / "deep" / "img" / "a.png"
    assert data.classes == ("dog", "cat")
