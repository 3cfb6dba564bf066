"""Readers go to processes of the start method spawn, as on Windows and macOS, and give equal samples there."""

import multiprocessing
import pickle

import torch

from scenewise.data import open_data
from tests.data.readers import test_voc_boxes, test_yolo, test_yolo_lines


def sums(data):
    """A number for each tensor of each sample of ``data``."""
    found = {}
    for index in range(len(data)):
        image, target = data.sample(index)
        values = {"image": image} | {name: value for name, value in target.items() if isinstance(value, torch.Tensor)}
        for name, value in values.items():
            found[index, name] = float(value.as_subclass(torch.Tensor).double().sum())
    return found


def test_each_reader_under_spawn(tmp_path):
    described = "kpt_shape: [3, 2]\nflip_idx: [1, 0, 2]"
    opened = [
        open_data(test_yolo.write(tmp_path / "boxes")),
        open_data(test_yolo_lines.write(tmp_path / "polygons", [test_yolo_lines.POLYGON])),
        open_data(test_yolo_lines.write(tmp_path / "points", [test_yolo_lines.POSE], described=described)),
        open_data(test_voc_boxes.write(tmp_path / "voc")),
    ]
    expected = [sums(data) for data in opened]
    assert {name for found in expected for _, name in found} >= {"image", "boxes", "masks", "keypoints", "visibility"}
    assert [sums(pickle.loads(pickle.dumps(data))) for data in opened] == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(sums, opened, chunksize=len(opened)) == expected
    assert pickle.loads(pickle.dumps(opened[2])).skeleton == opened[2].skeleton
