"""Mutated files of every reader: data, or one of scenewise's own errors."""

from scenewise.data import check_data
from tests.data import twins
from tests.data.fuzz import fuzz
from tests.data.readers import (
    test_beside_masks,
    test_class_masks,
    test_coco,
    test_coco_dialects,
    test_label_colors,
    test_shapes,
    test_voc_boxes,
    test_yolo,
    test_yolo_layouts,
    test_yolo_lines,
)


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


MASKS = frozenset({"boxes", "labels", "masks"})
KEYPOINTS = frozenset({"boxes", "keypoints"})


def test_coco_masks(tmp_path):
    source = test_coco.write(tmp_path)
    file = tmp_path / "annotations" / "instances_train2017.json"
    fuzz(source, [file], [frozenset(), frozenset({"boxes"}), MASKS], share=0.5)


def test_coco_keypoints(tmp_path):
    source = test_coco.write(tmp_path, test_coco.posed(), name="person_keypoints_train2017")
    fuzz(source, [tmp_path / "annotations" / "person_keypoints_train2017.json"], [KEYPOINTS], share=0.25)


def test_coco_of_other_tools(tmp_path):
    source = test_coco_dialects.roboflow(tmp_path, ("cat", "dog"))
    files = [tmp_path / split / "_annotations.coco.json" for split in ("train", "valid")]
    fuzz(source, files, share=0.25, also=lambda: check_data(source))


def test_labelme(tmp_path):
    points = [test_shapes.shape("polygon", test_shapes.OUTLINE, group_id=1),
              test_shapes.shape("point", [(12, 14)], "nose", group_id=1)]  # fmt: skip
    text = test_shapes.base64.b64encode(test_shapes.png(test_shapes.np.full((5, 6), 255, "uint8"))).decode()
    mask = test_shapes.shape("mask", [(20, 10), (25, 14)], mask=text)
    source = test_shapes.write_labelme(tmp_path, test_shapes.shape(), mask, *points)
    fuzz(source, [tmp_path / "a.json"], [frozenset(), KEYPOINTS])


def test_via(tmp_path):
    polygon = test_shapes.region("polygon", **test_shapes.POLYGON)
    source = test_shapes.write_via(tmp_path / "json", polygon, test_shapes.region("circle", cx=30, cy=20, r=5))
    fuzz(source, [tmp_path / "json" / "via.json"], share=0.5)
    test_shapes.image(tmp_path / "csv" / "a.png")
    rows = ("a.png", {"name": "rect", "x": 10, "y": 12, "width": 20, "height": 8}, {"class": "cat"}), ("a.png", {}, {})
    (tmp_path / "csv" / "via.csv").write_text(test_shapes.via_csv(*rows))
    fuzz(f"via:{tmp_path / 'csv'}", [tmp_path / "csv" / "via.csv"], share=0.5)


def test_supervisely(tmp_path):
    bitmap = test_shapes.sly_bitmap(test_shapes.np.ones((3, 4), bool), (20, 10))
    hole = test_shapes.sly("polygon", [(2, 2), (20, 2), (20, 20)], [[(12, 6), (16, 6), (16, 10)]])
    source = test_shapes.write_supervisely(tmp_path, hole, test_shapes.sly("bitmap", bitmap=bitmap))
    fuzz(source, [tmp_path / "meta.json", tmp_path / "ds0" / "ann" / "a.png.json"])


def test_datumaro(tmp_path):
    code = {"counts": [100, 5, 2295], "size": [*test_shapes.SIZE]}
    annotations = [test_shapes.annotation(bbox=[10, 12, 20, 8], group=1), test_shapes.annotation("mask", rle=code),
                   test_shapes.annotation("points", points=[12, 13, 14, 15], group=1)]  # fmt: skip
    source = test_shapes.write_datumaro(tmp_path, *annotations, joints=["nose", "tail"])
    fuzz(source, [tmp_path / "annotations" / "default.json"], [frozenset(), KEYPOINTS])


def test_masks(tmp_path):
    root = twins.write_masks(tmp_path / "folders")
    files = [root / "classes.json", root / "labels" / "train" / "b.c.png", root / "images" / "train" / "grau.jpeg"]
    fuzz(f"masks:{root}", files, share=0.6, also=lambda: check_data(f"masks:{root}"))
    root = twins.write_masks(tmp_path / "lists", "lists", "txt")
    fuzz(f"masks:{root}", [root / "train.txt", root / "classes.txt"], share=0.4)


def test_masks_of_classes(tmp_path):
    root = test_class_masks.write(tmp_path)
    fuzz(f"masks:{root}", [root / "classes.txt", root / "labels" / "cat" / "a.png"])


def test_masks_beside_images(tmp_path):
    root = test_beside_masks.write(tmp_path)
    fuzz(f"masks:{root}", [root / "train" / "_classes.csv", root / "train" / "a_jpg.rf.1_mask.png"])


def test_camvid(tmp_path):
    root = twins.write_camvid(tmp_path)
    (root / "train.txt").write_text(
        (root / "train.txt").read_text() + "/SegNet/val/0016E5_0.jpg valannot/0016E5_0.png\n"
    )
    fuzz(f"camvid:{root}", [root / "train.txt", root / "trainannot" / "0001TP_000.png"])


def test_cityscapes(tmp_path):
    """Its table of classes is fixed: its files are images and label maps."""
    root = twins.write_cityscapes(tmp_path, size=(4, 9))
    files = [*(root / "leftImg8bit" / "train").rglob("*.png"), *(root / "gtFine" / "train").rglob("*labelIds.png")]
    fuzz(f"cityscapes:{root}", files)


def test_voc_of_classes(tmp_path):
    root = test_label_colors.write_cvat(tmp_path)
    files = [root / "labelmap.txt", root / "ImageSets" / "Segmentation" / "default.txt",
             root / "SegmentationClass" / "a.png"]  # fmt: skip
    fuzz(f"voc:{root}", files, [frozenset({"semantic"})])


def test_ade20k(tmp_path):
    root = twins.write_ade20k(tmp_path, size=(3, 4))
    labels = next((root / "annotations" / "training").glob("*.png"))
    fuzz(f"ade20k:{root}", [root / "objectInfo150.txt", labels])
