import json
import tracemalloc

import numpy as np
import pytest
import torch

from scenewise.errors import DataError, UsageError
from scenewise.ops import rle


def random_masks(seed: int, count: int = 60) -> list[np.ndarray]:
    """Masks of many densities and odd sizes: noise, rectangles, empty and full ones."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((1, 1), bool), np.zeros((1, 9), bool)]
    for _ in range(count):
        height, width = rng.integers(1, 90, 2)
        mask = rng.random((height, width)) < rng.random()
        if rng.random() < 0.5:
            mask[:] = False
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, 60), x : x + rng.integers(1, 60)] = True
        masks.append(mask)
    big = np.zeros((700, 900), bool)  # counts beyond 15 bits, differences of both signs
    big[100:600, 300:500] = True
    big[:, 700] = True
    return [*masks, big, ~big]


MASKS = random_masks(0)


def obvious_counts(mask: np.ndarray) -> list[int]:
    """The definition, pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("mask", MASKS, ids=lambda m: f"{m.shape[0]}x{m.shape[1]}")
def test_round_trip_area_and_box(mask):
    (code,) = rle.encode(mask)
    assert code["size"] == list(mask.shape)
    assert np.array_equal(rle.decode(code), mask)
    assert rle.area(code) == mask.sum()
    rows, columns = np.nonzero(mask)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
    assert rle.bbox(code) == expected


@pytest.mark.parametrize("mask", MASKS[:20], ids=lambda m: f"{m.shape[0]}x{m.shape[1]}")
def test_counts_are_the_definition(mask):
    (code,) = rle.encode(mask)
    size, counts = rle.parse(code)
    assert size == mask.shape
    assert counts.tolist() == obvious_counts(mask)
    assert np.array_equal(rle.decode({"size": list(mask.shape), "counts": counts.tolist()}), mask)


def test_equal_to_the_coco_api():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in random_masks(1, 300):
        expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        (ours,) = rle.encode(mask)
        assert ours["size"] == list(expected["size"])
        assert ours["counts"].encode() == expected["counts"]
        assert np.array_equal(rle.decode(expected), mask)  # bytes, as the API gives them
        assert np.array_equal(coco.decode({**ours, "counts": ours["counts"].encode()}), mask)
        assert rle.area(ours) == coco.area(expected)
        x, y, w, h = coco.toBbox(expected)
        assert rle.bbox(ours) == (x, y, x + w, y + h)


def test_uncompressed_lists_equal_the_coco_api():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(2)
    for _ in range(50):
        counts = rng.integers(1, 3000, 40)
        counts[0] *= rng.integers(0, 2)  # may begin with a set pixel
        if counts.sum() % 2:
            counts[-1] += 1
        code = {"size": [2, int(counts.sum()) // 2], "counts": counts.tolist()}
        expected = coco.frPyObjects(code, *code["size"])
        assert np.array_equal(rle.decode(code), coco.decode(expected))
        assert rle.encode(rle.decode(code))[0]["counts"].encode() == expected["counts"]


def test_many_at_once_equal_one_by_one():
    rng = np.random.default_rng(3)
    masks = rng.random((4, 11, 6)) < 0.4
    codes = rle.encode(masks)
    assert codes == [rle.encode(mask)[0] for mask in masks]
    assert codes == rle.encode(torch.from_numpy(masks))
    decoded = rle.decode(codes)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, masks)


def test_no_masks():
    assert rle.encode(np.zeros((0, 4, 5), bool)) == []
    assert rle.decode([], (4, 5)).shape == (0, 4, 5)
    with pytest.raises(UsageError, match=r"give size=\(height, width\)"):
        rle.decode([])


def test_zero_runs_inside_are_harmless():
    code = {"size": [2, 3], "counts": [2, 0, 1, 2, 0, 0, 1]}
    assert rle.decode(code).flatten(order="F").tolist() == [False] * 3 + [True] * 2 + [False]
    assert (rle.area(code), rle.bbox(code)) == (2, (1, 0, 3, 2))
    assert rle.bbox({"size": [2, 3], "counts": [3, 0, 3]}) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((3, 4), np.uint8), r"masks are uint8 \[3, 4\]; expected bool"),
        (np.zeros(4, bool), r"bool \[4\]; expected bool \[K,H,W\]"),
        (np.zeros((2, 0, 4), bool), "without pixels"),
    ],
)
def test_encode_refuses(masks, message):
    with pytest.raises(UsageError, match=message):
        rle.encode(masks)


MALFORMED = [
    ({"size": [2, 3], "counts": [2, 2]}, r"the counts sum to 4 pixels; expected 6 for the size \[2, 3\]"),
    ({"size": [2, 3], "counts": [6, 2, -2]}, "count 2 is -2; expected 0 or more"),
    ({"size": [2, 3], "counts": [2**62, 2**62, 2**62, 2**62]}, "count 0 is 4611686018427387904, more than all pixels"),
    ({"size": [2, 3], "counts": [2**63]}, "expected numbers below 2"),
    ({"size": [2, 3], "counts": [2**70]}, "counts is .*; expected a list of integers"),
    ({"size": [2, 3], "counts": [3.0, 3.0]}, "expected a list of integers"),
    ({"size": [2, 3], "counts": [[3], [3, 4]]}, "expected a list of integers"),
    ({"size": [2, 3], "counts": [True, False]}, "expected a list of integers"),
    ({"size": [2, 3], "counts": None}, "counts is None; expected a list of integers"),
    ({"size": [2, 3], "counts": []}, "the counts sum to 0 pixels"),
    ({"size": [2, 3], "counts": ""}, "the counts sum to 0 pixels"),
    ({"size": [2, 3], "counts": "6 "}, "byte 1 of the counts is 32"),
    ({"size": [2, 3], "counts": "é"}, "byte 0 of the counts is 195"),
    ({"size": [2, 3], "counts": b"\xff\x00"}, "byte 0 of the counts is 255"),
    ({"size": [2, 3], "counts": "V"}, "break off within a number"),
    ({"size": [2, 3], "counts": "oooooooo0"}, "a number in the counts has 9 groups; expected at most 7"),
    ({"size": [2, 3], "counts": "ooooooO"}, "count 0 is -1"),
    ({"size": [2, 3], "counts": "7"}, "count 0 is 7, more than all pixels; expected 6"),
    ({"size": [2**31, 1], "counts": [2**31]}, r"size is \[2147483648, 1\]; expected \[height, width\]"),
    ({"size": [2**31, 2**31], "counts": [2**62]}, "at most 268435456 pixels"),
    ({"size": [20000, 20000], "counts": [400000000]}, r"size is \[20000, 20000\]"),
    ({"size": [-2, -3], "counts": [6]}, r"size is \[-2, -3\]"),
    ({"size": [0, 3], "counts": [0]}, r"size is \[0, 3\]"),
    ({"size": [2.0, 3], "counts": [6]}, r"size is \[2.0, 3\]"),
    ({"size": [2, True], "counts": [2]}, r"size is \[2, True\]"),
    ({"size": "23", "counts": [6]}, "size is '23'"),
    ({"size": [2, 3, 1], "counts": [6]}, r"size is \[2, 3, 1\]"),
    ({"size": 6, "counts": [6]}, "size is 6"),
    ({"size": [2, 3]}, "is not a run-length code"),
    ("66", "'66' is not a run-length code"),
]


@pytest.mark.parametrize(("code", "message"), MALFORMED)
def test_malformed_codes(code, message):
    for use in (rle.area, rle.bbox, rle.parse):
        with pytest.raises(DataError, match="^a.json, annotation 7: .*" + message):
            use(code, where="a.json, annotation 7")
    with pytest.raises(DataError, match="^a.json, annotation 7: .*" + message):
        rle.decode([code], where="a.json, annotation 7")


def test_another_size_than_expected():
    with pytest.raises(DataError, match=r"the mask's size is 2 x 3 \(height x width\); expected 3 x 2"):
        rle.decode({"size": [2, 3], "counts": [6]}, (3, 2))


def test_hostile_codes_cost_no_memory():
    hostile = [
        {"size": [2**14, 2**14], "counts": [2**28 - 1]},
        {"size": [2**14, 2**14], "counts": rle.encode(np.ones((100, 100), bool))[0]["counts"]},
        {"size": [2**31, 2**31], "counts": "0"},
        {"size": [3, 3], "counts": [2**40]},
        {"size": [3, 3], "values": [1], "counts": [2**40]},
    ]
    tracemalloc.start()
    for code in hostile:
        with pytest.raises(DataError):
            (rle.decode_labels if "values" in code else rle.decode)(code)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_garbage_never_crashes():
    rng = np.random.default_rng(4)
    for _ in range(500):
        code = {"size": [4, 4], "counts": rng.integers(40, 120, rng.integers(0, 12)).astype(np.uint8).tobytes()}
        try:
            assert rle.decode(code).shape == (4, 4)
        except DataError:
            continue


def test_damaged_text_is_noticed_or_still_a_mask():
    (code,) = rle.encode(np.random.default_rng(5).random((12, 12)) < 0.3)
    noticed = 0
    for place in range(len(code["counts"])):
        text = code["counts"][:place] + "4" + code["counts"][place + 1 :]
        try:
            rle.decode({**code, "counts": text})
        except DataError:
            noticed += 1
    assert noticed > 0.8 * len(code["counts"])


def test_label_maps():
    labels = np.array([[0, 0, 255], [255, 255, 3]])
    code = rle.encode_labels(labels)
    assert code == {"size": [2, 3], "values": [0, 255, 3], "counts": [2, 3, 1]}
    rng = np.random.default_rng(6)
    for dtype in (np.uint8, np.int64):
        for _ in range(20):
            labels = rng.integers(0, 4, rng.integers(1, 40, 2)).astype(dtype)
            code = rle.encode_labels(labels)
            decoded = rle.decode_labels(code)
            assert decoded.dtype == np.int64
            assert np.array_equal(decoded, labels)
            assert all(a != b for a, b in zip(code["values"], code["values"][1:], strict=False))
    assert rle.encode_labels(torch.full((3, 2), 7)) == {"size": [3, 2], "values": [7], "counts": [6]}


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros(4, int), np.zeros((0, 3), int), np.ones((2, 2), bool)])
def test_encode_labels_refuses(labels):
    with pytest.raises(UsageError, match=r"expected integers \[H,W\]"):
        rle.encode_labels(labels)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"size": [2, 2], "values": [1], "counts": [3, 1]}, "1 values and 2 counts"),
        ({"size": [2, 2], "values": [1], "counts": [3]}, "sum to 3 pixels; expected 4"),
        ({"size": [2, 2], "values": [1, 2], "counts": [5, -1]}, "count 1 is -1"),
        ({"size": [2, 2], "values": [0.5], "counts": [4]}, "values is .*; expected a list of integers"),
        ({"size": [2**31, 2], "values": [1], "counts": [2**32]}, "size is"),
        ({"size": [2, 2], "counts": [4]}, "is not a label map"),
    ],
)
def test_malformed_label_maps(code, message):
    with pytest.raises(DataError, match=f"^p.json: .*{message}"):
        rle.decode_labels(code, where="p.json")


def test_real_codes_equal_the_coco_api(shared_data):
    coco = pytest.importorskip("pycocotools.mask")
    annotations = shared_data("coco_mini") / "annotations" / "instances_val2017.json"
    records = [a for a in json.loads(annotations.read_text())["annotations"] if a["iscrowd"]]
    assert records
    for record in records:
        code = record["segmentation"]
        expected = coco.frPyObjects(code, *code["size"])
        assert np.array_equal(rle.decode(code), coco.decode(expected))
        assert rle.area(code) == coco.area(expected)  # not record["area"], which is stale for some records of COCO
