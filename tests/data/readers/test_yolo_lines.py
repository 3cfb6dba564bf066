"""Which kind of labels a YOLO data set has: boxes, polygons, keypoints; decided for all of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import check_data, open_data
from scenewise.errors import DataError
from scenewise.types import Skeleton

BOX = "0 0.5 0.5 0.4 0.5"
POLYGON = "0 0.1 0.25 0.5 0.25 0.5 0.75"
POSE = "0 0.25 0.25 0.4 0.5 0.1 0.1 0.4 0.1 0.25 0.4"  # a box with three points of x, y
SIZE = (96, 128)


def write(root, train, val=(), described=""):
    """A data set whose splits have a text file of one line per entry, each with an image."""
    for split, texts in (("train", train), ("val", val)):
        for index, text in enumerate(texts):
            for folder in ("images", "labels"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
            pixels = np.full((*SIZE, 3), 10 * index + len(split), np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            (root / "labels" / split / f"{index}.txt").write_text(f"{text}\n")
    (root / "data.yaml").write_text(f"names: [face]\n{described}\n")
    return f"yolo:{root}"


def numbers(tensor):
    return tensor.as_subclass(torch.Tensor)


# ---- keypoints


def test_keypoints_of_two_numbers(tmp_path):
    line = "0 0.234375 0.28125 0.3125 0.3125 0.125 0.25 0 0 -1 -1 1.005 0.5 0.25 0.3"
    data = open_data(write(tmp_path, [line, ""], described="kpt_shape: [5, 2]"))
    assert data.fields == {"boxes", "labels", "ignore", "keypoints", "visibility"}
    target = data[0][1]
    assert torch.allclose(numbers(target["boxes"]), torch.tensor([[10.0, 12, 50, 42]]))
    expected = torch.tensor([[16, 24], [0, 0], [-128, -96], [128.64, 48], [32, 28.8]])
    assert torch.allclose(numbers(target["keypoints"])[0], expected)
    assert target["visibility"].tolist() == [[2, 0, 0, 2, 2]]  # (0, 0) and negative: not labelled
    assert data[1][1]["keypoints"].shape == (0, 5, 2)
    assert data.skeleton == Skeleton()


def test_keypoints_of_three_numbers_and_their_sides(tmp_path):
    described = "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nkpt_names: {0: [nose, left_eye, right_eye]}"
    line = "0 0.5 0.5 0.5 0.5 0.5 0.5 2 0.25 0.75 1.000 0 0 0"
    data = open_data(write(tmp_path, [line], described=described))
    assert data[0][1]["visibility"].tolist() == [[2, 1, 0]]
    assert numbers(data[0][1]["keypoints"])[0, :2].tolist() == [[64, 48], [32, 72]]
    assert data.skeleton == Skeleton(("nose", "left_eye", "right_eye"), pairs=((1, 2),))
    (tmp_path / "data.yaml").write_text("names: [face]\nkpt_shape: [3, 3]\nflip_idx: [0, 1, 2]\n")
    assert open_data(f"yolo:{tmp_path}").skeleton.pairs == ()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("kpt_shape: [3]", r"data\.yaml: kpt_shape is \['3'\]; expected \[P, 2\] for x, y of P keypoints, or \[P, 3\]"),
        ("kpt_shape: [3, 4]", "expected .P, 2. for x, y"),
        ("kpt_shape: [0, 2]", "expected .P, 2. for x, y"),
        ("kpt_shape: 17", "kpt_shape is '17'"),
        ("kpt_shape: [3, 2]\nflip_idx: [1, 2, 0]", r"flip_idx is \['1', '2', '0'\]; expected for each of 3 keypoints"),
        ("kpt_shape: [3, 2]\nflip_idx: [0, 1]", "flip_idx is"),
        ("kpt_shape: [3, 2]\nflip_idx: [0, 1, 3]", "flip_idx is"),
        ("kpt_shape: [3, 2]\nkpt_names: [a, b]", r"kpt_names is \['a', 'b'\]; expected 3 names"),
        ("task: pose", "task is 'pose'; expected kpt_shape"),
        ("task: poses", "task is 'poses'; expected detect, segment or pose"),
        ("task: obb", "task is 'obb': oriented boxes, which are not read"),
    ],
)
def test_what_is_stated_of_keypoints_and_does_not_fit(tmp_path, described, message):
    with pytest.raises(DataError, match=message):
        open_data(write(tmp_path, [POSE], described=described))


@pytest.mark.parametrize(
    ("line", "message", "spoils"),
    [
        (
            BOX,
            "has 4 numbers after the class, a box; expected class cx cy width height and x y of each of 3",
            "keypoints",
        ),
        (POLYGON, r"has 6 numbers after the class; expected .*\(kpt_shape: \[3, 2\] in .*data\.yaml\)", "boxes"),
        (f"{POSE} 0.5", "has 11 numbers after the class", "boxes"),
        (
            POSE.replace("0.4 0.1", "1.4 0.1"),
            "keypoint 1 has x 1.4 and y 0.1; expected parts of the image",
            "keypoints",
        ),
    ],
)
def test_a_line_that_does_not_fit_keypoints(tmp_path, line, message, spoils):
    source = write(tmp_path, [POSE, line, POSE], described="kpt_shape: [3, 2]")
    for needs in ((), ("keypoints",), ("boxes", "labels")):
        fields = frozenset(needs)
        if "keypoints" in needs or spoils == "boxes" or not needs:
            with pytest.raises(DataError, match=rf"train/1\.txt: line 1: .*{message}"):
                open_data(source, needs=fields)
            data = open_data(source, needs=fields, on_bad_record="fix")
            assert [len(data[index][1]["boxes"]) for index in range(3)] == [1, 0, 1]
        else:
            assert len(open_data(source, needs=fields).labels) == 3
    assert not check_data(source).ok


def test_visibility_is_one_of_three(tmp_path):
    with pytest.raises(DataError, match=r"keypoint 0 has visibility 0\.9; expected 0 \(not labelled\), 1"):
        open_data(write(tmp_path, ["0 0.5 0.5 0.5 0.5 0.5 0.5 0.9"], described="kpt_shape: [1, 3]"))


def test_objects_without_any_keypoint(tmp_path):
    source = write(tmp_path, ["0 0.5 0.5 0.5 0.5 0 0 0"], described="kpt_shape: [1, 3]")
    assert len(open_data(source, needs=frozenset({"boxes"}))) == 1
    with pytest.raises(DataError, match="no keypoint of 1 object is labelled"):
        open_data(source, needs=frozenset({"keypoints"}))


@pytest.mark.parametrize(
    ("line", "shape", "task"),
    [
        (POSE, "[3, 2]", True),
        ("0 0.5 0.5 0.4 0.5 0.5 0.5 2 0 0 0", "[2, 3]", True),
        ("0 0.5 0.5 0.4 0.5 0.5 0.5 2 0.6 0.6 1 0 0 0", "[3, 3]", False),
    ],
)
def test_keypoints_that_are_not_stated(tmp_path, line, shape, task):
    source = write(tmp_path, [line, line])
    shape = shape.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(DataError, match=rf"0\.txt: line 1: .*expected kpt_shape: {shape} in .*data\.yaml") as caught:
        open_data(source)
    assert ("task: segment" in str(caught.value)) == task
    if line == POSE:
        (tmp_path / "data.yaml").write_text("names: [face]\ntask: segment\n")
        assert "masks" in open_data(source).fields


# ---- boxes and polygons


def test_the_kind_holds_for_all_splits(tmp_path):
    source = write(tmp_path, [POLYGON, POLYGON, POLYGON], [BOX, ""])
    assert "masks" in open_data(source).fields
    message = r"val/0\.txt: line 1: .*has 4 numbers after the class, a box; expected class x1 y1.*3 are polygons"
    with pytest.raises(DataError, match=message):
        open_data(source, "val")
    with pytest.raises(DataError, match=message):
        open_data(source, "val", needs=frozenset({"masks"}))
    boxes = open_data(source, "val", needs=frozenset({"boxes", "labels"}))
    found = boxes.only(frozenset({"boxes"}))[0][1]["boxes"]
    assert torch.allclose(numbers(found), torch.tensor([[38.4, 24, 89.6, 72]]))
    assert open_data(source, "val", on_bad_record="fix", allow_unlabelled=True).fields == open_data(source).fields


def test_a_mixture_is_refused_by_the_line_that_does_not_fit(tmp_path):
    source = write(tmp_path, [f"{BOX}\n{BOX}", f"{BOX}\n{POLYGON}"])
    message = r"train/1\.txt: line 2: .*has 6 numbers after the class, a polygon; expected class cx cy .*3 are boxes"
    with pytest.raises(DataError, match=message):
        open_data(source)
    for policy in ("skip", "fix"):  # nothing becomes a box that was a polygon
        data = open_data(source, on_bad_record=policy)
        assert len(data.labels) == 3
        assert data.fields == {"boxes", "labels", "ignore"}
    assert len(open_data(source, needs=frozenset({"boxes", "labels"})).labels) == 4
    (tmp_path / "data.yaml").write_text("names: [face]\ntask: segment\n")
    with pytest.raises(DataError, match=r"train/0\.txt: line 1: .*a box; expected .*task: segment in"):
        open_data(source)


def test_a_line_with_a_confidence(tmp_path):
    with pytest.raises(DataError, match=r"5 numbers after the class; .*Is the last number a confidence or an angle"):
        open_data(write(tmp_path, [f"{BOX} 0.9"]))


def corners(angle, center=(60, 48), sides=(40, 20)):
    """A line with the corners of a rectangle, turned by ``angle`` in degrees."""
    turn = np.deg2rad(angle)
    across = np.array([np.cos(turn), np.sin(turn)]) * sides[0] / 2
    down = np.array([-np.sin(turn), np.cos(turn)]) * sides[1] / 2
    points = [np.array(center) + a * across + b * down for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return "0 " + " ".join(f"{value:.5f}" for point in points for value in point / (SIZE[1], SIZE[0]))


def test_oriented_boxes_are_named(tmp_path):
    source = write(tmp_path, [corners(0), corners(30), corners(80)])
    message = r"train/1\.txt: line 1: the four corners of an oriented box, .*save upright boxes, or state task: segment"
    with pytest.raises(DataError, match=message):
        open_data(source)
    (tmp_path / "data.yaml").write_text("names: [face]\ntask: segment\n")
    masks = open_data(source)[1][1]["masks"]
    assert abs(int(masks.sum()) - 800) < 40


def test_rectangles_and_other_quadrangles_are_polygons(tmp_path):
    assert "masks" in open_data(write(tmp_path / "a", [corners(0), corners(0, sides=(30, 30))])).fields
    quadrangles = ["0 0.1 0.1 0.9 0.2 0.6 0.8 0.2 0.5", "0 0.2 0.1 0.9 0.4 0.5 0.9 0.1 0.5", corners(20)]
    assert "masks" in open_data(write(tmp_path / "b", quadrangles)).fields


# ---- what lines look like together


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0 0.1 0.2 0.3 0.4\n0 0.6 0.7 0.9 0.95", r"are the four numbers x1, y1, x2, y2\? Expected the centre's"),
        ("0 10 20 30 40\n0 50 60 30 20", r"Are these pixels\?"),
    ],
)
def test_corners_and_pixels_are_suspected_where_boxes_leave_their_image(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        open_data(write(tmp_path, [lines] * 4))
