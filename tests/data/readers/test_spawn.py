"""Readers go to processes of the start method spawn, as on Windows and macOS, and give equal samples there."""

import multiprocessing
import pickle

import pytest
import torch

from scenewise.data import open_data
from scenewise.data.loader import training_batches
from tests.data import twins
from tests.data.readers import (
    test_beside_masks,
    test_class_masks,
    test_coco,
    test_label_colors,
    test_shapes,
    test_voc_boxes,
    test_yolo,
    test_yolo_lines,
)


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


def objects_of_all_kinds(root):
    """Data sets of the readers of JSON files, with boxes, masks and keypoints."""
    points = [
        test_shapes.shape("polygon", test_shapes.OUTLINE, group_id=1),
        test_shapes.shape("point", [(12, 14)], "nose", group_id=1),
    ]
    joints = test_shapes.annotation("points", points=[12, 13, 14, 15], group=1)
    with_keypoints = test_coco.write(root / "keypoints", test_coco.posed(), name="person_keypoints_train2017")
    return [
        open_data(test_coco.write(root / "coco")),
        open_data(with_keypoints, needs=frozenset({"boxes", "keypoints"})),
        open_data(test_shapes.write_labelme(root / "labelme", *points)),
        open_data(test_shapes.write_via(root / "via", test_shapes.region("polygon", **test_shapes.POLYGON))),
        open_data(test_shapes.write_supervisely(root / "supervisely")),
        open_data(
            test_shapes.write_datumaro(
                root / "d", test_shapes.annotation(bbox=[10, 12, 20, 8], group=1), joints, joints=["nose", "tail"]
            )
        ),
    ]


def label_maps_of_all_kinds(root):
    """Data sets of the readers of label maps."""
    return [
        open_data(f"masks:{twins.write_masks(root / 'masks')}"),
        open_data(f"masks:{test_class_masks.write(root / 'classes')}"),
        open_data(f"masks:{test_beside_masks.write(root / 'beside')}"),
        open_data(f"voc:{test_label_colors.write_cvat(root / 'cvat')}", needs=frozenset({"semantic"})),
        open_data(f"voc:{twins.write_voc(root / 'voc')}"),
        open_data(f"camvid:{twins.write_camvid(root / 'camvid')}"),
        open_data(f"cityscapes:{twins.write_cityscapes(root / 'cityscapes')}"),
        open_data(f"ade20k:{twins.write_ade20k(root / 'ade20k')}"),
    ]


def put_sums(opened, found):
    found.put([sums(data) for data in opened])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_readers_go_to_a_new_process(tmp_path, method):
    opened = [*objects_of_all_kinds(tmp_path), *label_maps_of_all_kinds(tmp_path)]
    expected = [sums(data) for data in opened]
    wanted = {"image", "boxes", "masks", "keypoints", "visibility", "semantic"}
    assert {name for found in expected for _, name in found} >= wanted
    assert [sums(pickle.loads(pickle.dumps(data))) for data in opened] == expected
    context = multiprocessing.get_context(method)
    found = context.Queue()
    process = context.Process(target=put_sums, args=(opened, found))
    process.start()
    try:
        assert found.get(timeout=300) == expected
    finally:
        process.join()
    assert [sums(data) for data in opened] == expected  # they are as they were here, too


def test_batches_of_spawned_workers_are_those_of_none(tmp_path, monkeypatch):
    data = open_data(test_coco.write(tmp_path))
    order = [[(0, 0), (0, 1)], [(0, 2), (1, 0)]]
    wanted = [*training_batches(data, order, transform=None, seed=1)]
    before = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        found = [*training_batches(data, order, transform=None, seed=1, workers=2)]
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert len(found) == len(wanted) == 2
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.images, other.images)
        for a, b in zip(one.targets, other.targets, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in ("boxes", "labels", "ignore", "area"))
            assert torch.equal(a["masks"].as_subclass(torch.Tensor), b["masks"].as_subclass(torch.Tensor))
