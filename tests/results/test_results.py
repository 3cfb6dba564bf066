import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.errors import DataError, UsageError
from scenewise.results.coco import CocoResults, to_coco
from scenewise.results.prediction import Prediction
from scenewise.types import IGNORE


def to_json(prediction):
    return prediction.to_json()


def from_json(record, **options):
    return Prediction.from_json(record, **options)


def read_prediction(path):
    return Prediction.read(path)


def write_prediction(prediction, image, folder, name, **options):
    record = prediction.save(folder, name, image=image, **options)
    return record.with_suffix(".png") if "." not in name else record.with_name(record.name[:-5] + ".png"), record


CLASSES = ("road", "naïve 道路", "sky")
SIZE = (23, 31)  # not square, so that no axis can be mistaken for the other


def example(instances: int = 5, seed: int = 0) -> Prediction:
    """A prediction with every field that JSON holds."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(instances, 2, generator=g) * 10
    semantic = torch.randint(0, 3, SIZE, generator=g)
    semantic[:4, :9] = IGNORE
    keypoints = torch.rand(instances, 4, 3, generator=g) * 20
    keypoints[..., 2] = torch.randint(0, 3, (instances, 4), generator=g)
    return Prediction(
        SIZE,
        CLASSES,
        boxes=torch.cat([corner, corner + 1 + torch.rand(instances, 2, generator=g) * 10], 1),
        labels=torch.randint(0, 3, (instances,), generator=g),
        scores=torch.rand(instances, generator=g),
        masks=torch.rand(instances, *SIZE, generator=g) < 0.3,
        keypoints=keypoints,
        semantic=semantic,
        source="street.jpg",
    )


def assert_same(a: Prediction, b: Prediction) -> None:
    for field in dataclasses.fields(Prediction):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            assert torch.equal(left, right), field.name
            assert left.dtype == right.dtype, field.name
        else:
            assert left == right, field.name


@pytest.mark.parametrize("instances", [0, 1, 5])
def test_json_is_lossless(instances):
    prediction = example(instances)
    record = json.loads(json.dumps(prediction.to_json(), allow_nan=False))
    assert_same(prediction, Prediction.from_json(record))
    assert record["omitted"] == []


FIELDS = ("boxes", "labels", "scores", "masks", "keypoints", "semantic")


@pytest.mark.parametrize("kept", [(), *[(name,) for name in FIELDS], ("boxes", "scores"), ("labels", "masks")])
@pytest.mark.parametrize("instances", [0, 3])
def test_absent_fields_stay_absent(kept, instances):
    whole = example(instances)
    prediction = Prediction(SIZE, CLASSES, **{name: getattr(whole, name) for name in kept})
    assert_same(prediction, from_json(json.loads(json.dumps(to_json(prediction)))))


def test_floats_are_short_and_exact():
    values = torch.tensor([0.1, 0.93, 1 / 3, 1e-30, 0.0])
    prediction = Prediction(SIZE, CLASSES, scores=values)
    text = json.dumps([i["score"] for i in to_json(prediction)["instances"]])
    assert text == "[0.1, 0.93, 0.33333334, 1e-30, 0.0]"
    assert torch.equal(from_json(json.loads(json.dumps(to_json(prediction)))).scores, values)


def test_records_say_names():
    prediction = example()
    record = to_json(prediction)
    first = record["instances"][0]
    assert list(first) == ["label", "class", "score", "box", "mask", "keypoints"]
    assert first["class"] == CLASSES[first["label"]]
    assert first["mask"]["size"] == list(SIZE)
    shares = {row["class"]: row["share"] for row in record["shares"]}
    assert shares == pytest.approx(prediction.shares(), abs=1e-6)
    assert [row["share"] for row in record["shares"]] == sorted(shares.values(), reverse=True)
    assert all(CLASSES[row["label"]] == row["class"] for row in record["shares"])
    assert sum(shares.values()) == pytest.approx(1 - 36 / (23 * 31), abs=1e-5)


def test_dense_fields_are_listed_as_omitted():
    prediction = dataclasses.replace(example(), depth=torch.rand(SIZE), semantic_logits=torch.rand(3, *SIZE))
    record = to_json(prediction)
    assert record["omitted"] == ["semantic_logits", "depth"]
    assert_same(example(), from_json(record))


def test_gradients_and_half_precision_are_no_hindrance():
    boxes = torch.rand(2, 4, dtype=torch.float16).requires_grad_()
    again = from_json(to_json(Prediction(SIZE, CLASSES, boxes=boxes)))
    assert torch.equal(again.boxes, boxes.detach().float())


MISFITS = [
    ({"boxes": torch.zeros(2, 4), "scores": torch.zeros(3)}, r"boxes is \[2, 4\]; expected \[K,4\] with K = 3"),
    ({"boxes": torch.zeros(2, 5)}, r"boxes is \[2, 5\]; expected \[K,4\]"),
    ({"masks": torch.zeros(2, 31, 23).bool()}, r"masks is \[2, 31, 23\]; expected \[K,H,W\] with H = 23, W = 31"),
    ({"semantic": torch.zeros(31, 23).long()}, r"semantic is \[31, 23\]; expected \[H,W\] with H = 23, W = 31"),
    ({"keypoints": torch.zeros(2, 5, 2)}, r"keypoints is \[2, 5, 2\]; expected \[K,P,3\]"),
    ({"labels": torch.tensor([0, 3])}, "labels has 3; expected 0 to 2 for the 3 classes$"),
    ({"labels": torch.tensor([0.0])}, "labels is torch.float32; expected integers"),
    ({"semantic": torch.full(SIZE, 7)}, "semantic has 7; expected 0 to 2 for the 3 classes, or 255 to ignore"),
    ({"scores": torch.tensor([0.5, math.nan])}, "scores of instance 1 is nan; expected finite numbers"),
    ({"boxes": torch.tensor([[0, 0, math.inf, 1]])}, r"boxes of instance 0 is \[0.0, 0.0, inf, 1.0\]"),
    ({"keypoints": torch.full((1, 2, 3), math.nan)}, "keypoints of instance 0 is"),
    ({"depth": torch.zeros(31, 23)}, r"depth is \[31, 23\]"),
]


@pytest.mark.parametrize(("fields", "message"), MISFITS)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(UsageError, match=f"prediction: {message}"):
        to_json(Prediction(SIZE, CLASSES, **fields))


def damaged(path: str, value: object) -> dict:
    """The example's record with the entry at ``path`` replaced, or removed for ``...``."""
    record = json.loads(json.dumps(to_json(example())))
    *parents, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    place = record
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record


DAMAGES = [
    ("format", "other", "format is 'other'; expected 'scenewise-prediction-1'"),
    ("size", [23], r"size is \[23\]; expected \[height, width\]"),
    ("size", [23, -31], "size is"),
    ("size", [2**40, 31], "size is"),
    ("size", [True, 31], "size is"),
    ("size", ..., "size is None; expected a list"),
    ("classes", ["a", 1, "c"], "classes has an entry that is not text"),
    ("classes", ["a", "b"], "labels has 2; expected 0 to 1 for the 2 classes"),
    ("fields", ["depth"], "fields has 'depth'; known: labels, scores"),
    ("instances", ..., "instances is None; expected a list"),
    ("instances.2", 5, r"instances\[2\] has no 'label'"),
    ("instances.2.box", ..., r"instances\[2\] has no 'box', which fields promises"),
    ("instances.2.box", [1, 2, 3], r"instances\[2\].box is \[1, 2, 3\]; expected finite numbers of shape \[4\]"),
    ("instances.2.box", [1, 2, 3, math.nan], r"instances\[2\].box is .*; expected finite"),
    ("instances.2.box", [1, 2, 3, 1e300], r"instances\[2\].box is"),
    ("instances.2.box", ["1", 2, 3, 4], r"instances\[2\].box is"),
    ("instances.2.score", None, r"instances\[2\].score is None; expected a finite number"),
    ("instances.2.label", 1.5, r"instances\[2\].label is 1.5; expected an integer"),
    ("instances.2.label", -1, "labels has -1"),
    ("instances.2.mask.size", [31, 23], r"instances\[2\].mask: the mask's size is 31 x 23"),
    ("instances.2.mask.counts", "66", r"instances\[2\].mask: the counts sum to 12 pixels; expected 713"),
    ("instances.2.keypoints", [[1, 2, 3]], r"instances\[2\].keypoints is"),
    ("num_keypoints", 10**12, "num_keypoints is 1000000000000; expected 0 to"),
    ("num_keypoints", "4", "num_keypoints is '4'; expected an integer"),
    ("semantic", ..., "semantic is None; expected an object"),
    ("semantic.counts", [713], "semantic: .* values and 1 counts"),
    ("semantic.size", [31, 23], r"semantic is \[31, 23\]; expected \[H,W\]"),
]


@pytest.mark.parametrize(("path", "value", "message"), DAMAGES)
def test_damaged_records(path, value, message):
    with pytest.raises(DataError, match=f"^p.json: ({message})"):
        from_json(damaged(path, value), where="p.json")


def test_not_even_a_record():
    with pytest.raises(DataError, match="format is list; expected"):
        from_json([1, 2])  # type: ignore[arg-type]


# --- COCO results ---


def test_coco_results_are_in_coco_conventions():
    prediction = Prediction(
        SIZE,
        CLASSES,
        boxes=torch.tensor([[1.5, 2, 4, 10]]),
        labels=torch.tensor([2]),
        scores=torch.tensor([0.7]),
        keypoints=torch.tensor([[[3.5, 4.5, 2], [0.5, 0.5, 1]]]),
    )
    (entry,) = prediction.to_coco(42, [7, 1, 90])
    assert entry == {
        "image_id": 42,
        "category_id": 90,
        "score": 0.7,
        "bbox": [1.5, 2, 2.5, 8],
        "keypoints": [3, 4, 2, 0, 0, 1],  # COCO counts from the centre of the first pixel
    }


def test_coco_boxes_come_from_masks_where_there_are_none():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 3:9, 5:6] = True
    prediction = Prediction(SIZE, CLASSES, labels=torch.tensor([0, 1]), scores=torch.tensor([1.0, 0.5]), masks=masks)
    first, empty = to_coco(prediction, "a", [1, 2, 3])
    assert first["bbox"] == [5, 3, 1, 6]
    assert empty["bbox"] == [0, 0, 0, 0]


def test_coco_results_load_in_the_coco_api(tmp_path, capsys):
    mask_api = pytest.importorskip("pycocotools.mask")
    coco = pytest.importorskip("pycocotools.coco")
    truth = coco.COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 3, "height": 23, "width": 31}],
        "categories": [{"id": i, "name": n} for i, n in zip((7, 1, 90), CLASSES, strict=True)],
        "annotations": [],
    }
    truth.createIndex()
    prediction = dataclasses.replace(example(), keypoints=None)
    results = to_coco(prediction, 3, [7, 1, 90])
    (tmp_path / "r.json").write_text(json.dumps(results))
    loaded = truth.loadRes(str(tmp_path / "r.json"))
    assert len(loaded.anns) == 5
    for index, annotation in enumerate(loaded.anns.values()):
        assert np.array_equal(mask_api.decode(annotation["segmentation"]), prediction.masks[index].numpy())
        assert loaded.cats[annotation["category_id"]]["name"] == CLASSES[prediction.labels[index]]


def test_coco_of_nothing_is_empty():
    assert to_coco(example(0), 1, [1, 2, 3]) == []


@pytest.mark.parametrize(
    ("missing", "ids", "message"),
    [
        ((), [1, 2], "category_ids has 2 ids; expected one for each of the 3 classes"),
        (("scores",), [1, 2, 3], "need labels and scores"),
        (("labels",), [1, 2, 3], "need labels and scores"),
        (("boxes", "masks", "keypoints"), [1, 2, 3], "need boxes, masks or keypoints"),
    ],
)
def test_coco_needs(missing, ids, message):
    prediction = dataclasses.replace(example(), **dict.fromkeys(missing))
    with pytest.raises(UsageError, match=message):
        to_coco(prediction, 1, ids)


# --- files ---


def test_written_files_read_back(tmp_path):
    prediction = dataclasses.replace(
        example(),
        depth=torch.rand(SIZE).masked_fill(torch.rand(SIZE) < 0.2, math.nan),
        normals=torch.rand(3, *SIZE),
        boundary=torch.rand(SIZE),
        embedding=torch.rand(8),
    )
    image = Image.new("RGB", (31, 23), (90, 120, 40))
    picture, record = write_prediction(prediction, image, tmp_path / "out", "a/frame.001", legend=False)
    assert picture == tmp_path / "out" / "a" / "frame.001.png"
    assert record == tmp_path / "out" / "a" / "frame.001.json"
    assert sorted(p.name for p in picture.parent.iterdir()) == [
        f"frame.001.{ending}" for ending in ("classes.png", "json", "npz", "png")
    ]
    with Image.open(picture) as opened:
        assert opened.format == "PNG"
    again = read_prediction(record)
    assert torch.equal(again.depth.isnan(), prediction.depth.isnan())
    assert_same(
        dataclasses.replace(again, depth=again.depth.nan_to_num(-1)),
        dataclasses.replace(prediction, depth=prediction.depth.nan_to_num(-1)),
    )
    assert "NaN" not in record.read_text()
    assert json.loads(record.read_text())["arrays"] == "frame.001.npz"


def test_without_dense_maps_there_are_no_arrays(tmp_path):
    prediction = dataclasses.replace(example(2), semantic_logits=torch.rand(3, *SIZE))
    _, record = write_prediction(prediction, np.zeros((*SIZE, 3), np.uint8), tmp_path, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.classes.png", "x.json", "x.png"]
    assert json.loads(record.read_text())["omitted"] == ["semantic_logits"]
    assert_same(dataclasses.replace(prediction, semantic_logits=None), read_prediction(record))


def test_the_json_is_made_for_readers(tmp_path):
    _, path = write_prediction(example(4), np.zeros((*SIZE, 3), np.uint8), tmp_path, "x")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum('"box":' in line for line in lines) == 4  # an instance a line
    assert len(lines) < 20
    assert any("道路" in line for line in lines)


def test_a_path_that_is_no_text_survives(tmp_path):
    prediction = dataclasses.replace(example(1), source="caf\udce9.jpg")
    _, path = write_prediction(prediction, np.zeros((*SIZE, 3), np.uint8), tmp_path, "x")
    assert read_prediction(path).source == prediction.source


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a/../../x"])
def test_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(UsageError, match="inside the folder"):
        write_prediction(example(1), np.zeros((*SIZE, 3), np.uint8), tmp_path, name)


def test_nothing_is_written_for_a_broken_prediction(tmp_path):
    broken = dataclasses.replace(example(1), scores=torch.tensor([math.nan]))
    with pytest.raises(UsageError, match="scores of instance 0"):
        write_prediction(broken, np.zeros((*SIZE, 3), np.uint8), tmp_path, "x")
    with pytest.raises(UsageError, match="23 x 31"):
        write_prediction(example(1), np.zeros((31, 23, 3), np.uint8), tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there_or_broken(tmp_path):
    with pytest.raises(DataError, match=r"none.json: can't be read"):
        read_prediction(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad.json: is not JSON"):
        read_prediction(tmp_path / "bad.json")
    prediction = dataclasses.replace(example(1), depth=torch.rand(SIZE))
    _, path = write_prediction(prediction, np.zeros((*SIZE, 3), np.uint8), tmp_path, "x")
    np.savez(tmp_path / "x.npz", depth=np.zeros((3, 3), np.float32))
    with pytest.raises(DataError, match=r"x.npz: depth is \[3, 3\]; expected \[H,W\]"):
        read_prediction(path)
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"x.npz: can't be read; it holds dense maps of x.json"):
        read_prediction(path)
    (tmp_path / "x.npz").unlink()
    with pytest.raises(DataError, match=r"x.npz: can't be read"):
        read_prediction(path)


def test_coco_results_of_several_images(tmp_path):
    first = Prediction(
        (20, 30),
        ("a", "b"),
        boxes=torch.tensor([[1.0, 2, 11, 8]]),
        labels=torch.tensor([1]),
        scores=torch.tensor([0.5]),
    )
    collected = CocoResults([7, 90], {"x.jpg": 42})
    collected.update(first, {"image_id": "x.jpg"})
    other = CocoResults([7, 90])
    other.add(first, "000012")
    other.add(first[[]], "empty")
    other.add(first, "street")
    collected.merge(other)
    path = tmp_path / "results.json"
    collected.write(path)
    entries = json.loads(path.read_text())
    assert [e["image_id"] for e in entries] == [42, 12, "street"]
    assert entries[0] == {"image_id": 42, "category_id": 90, "score": 0.5, "bbox": [1.0, 2.0, 10.0, 6.0]}
    CocoResults([1]).write(path)
    assert json.loads(path.read_text()) == []


def test_a_class_map_is_written_as_class_numbers_too(tmp_path):
    labels = torch.tensor([[0, 1, 2], [IGNORE, 2, 2]])
    found = Prediction((2, 3), ("road", "car", "sky"), semantic=labels)
    colors = [(1, 2, 3), (40, 50, 60), (7, 8, 9)]
    path = found.save(tmp_path, "a", image=np.zeros((2, 3, 3), np.uint8), colors=colors)
    assert json.loads(path.read_text())["class_map"] == "a.classes.png"
    with Image.open(tmp_path / "a.classes.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), labels.numpy())
        shown = np.asarray(image.convert("RGB"))
    assert shown[0].tolist() == [list(color) for color in colors]
    assert shown[1, 0].tolist() == [224, 224, 224]
    assert torch.equal(Prediction.read(path).semantic, labels)

    many = Prediction((2, 3), tuple(map(str, range(300))), semantic=labels + torch.tensor([[0, 0, 297], [0, 0, 0]]))
    many.save(tmp_path, "b", image=np.zeros((2, 3, 3), np.uint8))
    with Image.open(tmp_path / "b.classes.png") as image:
        assert np.array_equal(np.asarray(image), many.semantic.numpy())


def test_without_a_class_map_none_is_written(tmp_path):
    found = Prediction((2, 3), ("a",), boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    record = json.loads(found.save(tmp_path, "a", image=np.zeros((2, 3, 3), np.uint8)).read_text())
    assert "class_map" not in record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]
