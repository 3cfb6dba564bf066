"""Mutated files of YOLO and Pascal VOC: data, or one of scenewise's own errors."""

from scenewise.data import check_data
from tests.data.fuzz import fuzz
from tests.data.readers import test_voc_boxes, test_yolo, test_yolo_layouts, test_yolo_lines


def test_yolo_boxes(tmp_path):
    source = test_yolo.write(tmp_path)
    files = [tmp_path / "data.yaml", tmp_path / "labels" / "train" / "a.txt"]
    fuzz(source, files, share=0.25, also=lambda: check_data(source))


def test_yolo_polygons(tmp_path):
    source = test_yolo_lines.write(tmp_path, [test_yolo_lines.POLYGON] * 2)
    fuzz(source, [tmp_path / "labels" / "train" / "0.txt"], [frozenset(), frozenset({"masks"})], share=0.25)


def test_yolo_keypoints(tmp_path):
    described = "kpt_shape: [3, 2]\nflip_idx: [1, 0, 2]\nkpt_names: {0: [left, right, middle]}\ntrain: images/train"
    source = test_yolo_lines.write(tmp_path, [test_yolo_lines.POSE] * 2, described=described)
    fuzz(source, [tmp_path / "data.yaml", tmp_path / "labels" / "train" / "0.txt"], share=0.25)


def test_yolo_lists(tmp_path):
    test_yolo_layouts.place(tmp_path, "images/0.png", "images/1.png")
    (tmp_path / "obj.names").write_text("thing\n")
    (tmp_path / "obj.data").write_text("classes = 1\nnames = data/obj.names\ntrain = data/train.txt\n")
    (tmp_path / "train.txt").write_text("images/0.png\n./images/1.png\n")
    files = [tmp_path / "obj.data", tmp_path / "obj.names", tmp_path / "train.txt"]
    fuzz(f"yolo:{tmp_path}", files, share=0.25)


def test_voc(tmp_path):
    source = test_voc_boxes.write(tmp_path)
    fuzz(source, [tmp_path / "Annotations" / "a.xml", tmp_path / "ImageSets" / "Main" / "train.txt"])
