"""The readers of image and label-map pairs: what they give, and their errors."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import tv_tensors

from scenewise.data import open_data
from scenewise.data.folders import ranges
from scenewise.data.formats import FORMATS, find_reader, splits_of
from scenewise.data.label_colors import voc_colors
from scenewise.data.label_maps import LabelMapDataSet, describe_table, value_table
from scenewise.data.readers.ade20k import CLASSES as ADE_CLASSES
from scenewise.data.readers.ade20k import read_names
from scenewise.errors import DataError, UsageError
from scenewise.fields.semantic import SemanticMask
from scenewise.files.images import image_size, read_label_map
from scenewise.types import IGNORE
from tests.data.twins import write_ade20k, write_camvid, write_cityscapes, write_masks, write_voc

TWINS = {
    "camvid": (write_camvid, {"train": 3, "val": 2, "test": 2}),
    "masks": (write_masks, {"train": 3, "val": 2}),
    "voc": (write_voc, {"train": 3, "val": 2, "trainval": 5}),
    "cityscapes": (write_cityscapes, {"train": 4, "val": 2}),
    "ade20k": (write_ade20k, {"train": 2, "val": 2}),
}
# The label of each value in the files, written out apart from the readers.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
LABELS = {
    "camvid": {**{v: v for v in range(11)}, 11: 255},
    "masks": {0: 0, 1: 1, 2: 2, 9: 255, 255: 255},
    "voc": {**{v: v for v in range(21)}, 255: 255},
    "cityscapes": {v: CITYSCAPES_IDS.index(v) if v in CITYSCAPES_IDS else 255 for v in [*range(34), 255]},
    "ade20k": {0: 255, **{v: v - 1 for v in range(1, 151)}},
}


@pytest.fixture(params=TWINS)
def twin(request, tmp_path):
    """The format, its twin's path and the number of images in each split."""
    write, counts = TWINS[request.param]
    return request.param, write(tmp_path / "a twin"), counts


def test_a_twin_is_read_whole(twin):
    name, root, counts = twin
    assert splits_of(f"{name}:{root}") == tuple(counts)
    for split, count in counts.items():
        data = open_data(f"{name}:{root}", split)
        assert len(data) == count
        assert data.source == f"{name}:{root}"
        assert data.split == split
        assert data.fields == {"semantic"}
        assert len(data.colors) == len(data.classes) == len(set(data.classes))
        assert len({data.image_id(i) for i in range(count)}) == count
        assert list(data.problems()) == []


def test_samples_have_the_labels_of_the_files(twin):
    name, root, counts = twin
    for split in counts:
        data = open_data(f"{name}:{root}", split)
        for index in range(len(data)):
            image, target = data[index]
            assert type(image) is tv_tensors.Image
            assert image.dtype == torch.uint8
            assert type(target["semantic"]) is SemanticMask
            assert target["semantic"].dtype == torch.uint8
            assert set(target) == {"image_id", "semantic"}
            assert target["image_id"] == data.image_id(index)
            values = np.array(Image.open(data.label_path(index)))
            assert image.shape == (3, *values.shape)
            expected = np.vectorize(LABELS[name].__getitem__)(values)
            assert (target["semantic"].numpy() == expected).all()
            assert set(np.unique(values)) == set(LABELS[name])  # the twin shows every quirk


def test_pixels_have_the_colours_of_their_classes(twin):
    """The image and its label map belong together, and `colors` are those of the classes."""
    name, root, counts = twin
    for split in counts:
        data = open_data(f"{name}:{root}", split)
        palette = torch.tensor([*data.colors])
        for index in range(len(data)):
            image, target = data[index]
            if (image[0] == image[2]).all():
                continue  # stored as grey
            known = target["semantic"] != IGNORE
            seen, expected = image.permute(1, 2, 0)[known].int(), palette[target["semantic"][known].long()]
            assert (seen - expected).abs().float().mean() < 25  # noise, and JPEG on small blocks


def test_data_sets_travel_light(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    packed = pickle.dumps(data)
    assert len(packed) < 2500  # names only, for up to four images
    again = pickle.loads(packed)
    assert torch.equal(again[1][0], data[1][0])
    assert torch.equal(again[1][1]["semantic"], data[1][1]["semantic"])


def test_class_ids_are_the_formats_own(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    assert data.class_ids == tuple(sorted(v for v, label in LABELS[name].items() if label != 255))
    back = np.array([*data.class_ids, *[0] * (256 - len(data.classes))])
    values = np.array(Image.open(data.label_path(0)))
    labels = data[0][1]["semantic"].numpy()
    assert (back[labels] == values)[labels != 255].all()


def test_every_format_names_itself():
    for name in FORMATS:
        if name == "scenes":
            continue  # not of files
        reader, _ = find_reader(f"{name}:.")
        assert reader.format == name


# --- errors that all formats share


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"none: not found; expected the folder of camvid:.*none"):
        open_data(f"camvid:{tmp_path / 'none'}")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: is a file; expected the folder"):
        open_data(f"voc:{tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/camvid", "expected format:path, with a format of ade20k, camvid"),
        ("camvit:x", "there is no format 'camvit'; did you mean 'camvid'"),
        ("camvid:", "the path is missing; expected camvid:FOLDER"),
    ],
)
def test_a_source_that_is_none(source, message):
    with pytest.raises(UsageError, match=message):
        open_data(source)


def test_an_unknown_option(tmp_path):
    with pytest.raises(UsageError, match="camvid: got an unexpected keyword argument 'labels'"):
        open_data(f"camvid:{write_camvid(tmp_path)}", labels="x")


def test_a_missing_split_says_which_there_are(twin):
    name, root, counts = twin
    with pytest.raises(DataError) as error:
        open_data(f"{name}:{root}", "trian")
    message = str(error.value)
    assert message.startswith(f"{root}: there is no split 'trian'; did you mean 'train'?; splits here: ")
    assert f"splits here: {', '.join(counts)}; expected " in message


def test_a_wrong_folder_is_refused(tmp_path):
    for name in TWINS:
        with pytest.raises(DataError, match=str(tmp_path)):
            open_data(f"{name}:{tmp_path}")


def test_a_missing_image(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    path = data.image_path(1)
    path.unlink()
    with pytest.raises(DataError, match=f"^{path}: not found; expected an image"):
        data[1]
    if name in ("camvid", "voc"):  # these have lists; of the others the image is simply not part of the split
        with pytest.raises(DataError, match=r"not found; expected an image"):
            open_data(f"{name}:{root}")
    else:
        data = open_data(f"{name}:{root}")
        (found,) = data.problems()
        assert found.message.startswith("a label map without its image in ")
        assert found.severity == "error"


def test_an_image_without_its_label_map(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    image, label = data.image_path(1), data.label_path(1)
    label.unlink()
    message = f"{label}: not found; expected the label map of {image}"
    with pytest.raises(DataError) as error:
        data[1]
    assert str(error.value) == message
    with pytest.raises(DataError) as error:
        open_data(f"{name}:{root}")
    assert str(error.value) == message
    assert [str(p) for p in data.problems()] == [message]
    data.label_path(2 % len(data)).unlink()
    with pytest.raises(DataError, match=r"\(2 files of split 'train' are missing; this is the first\)"):
        open_data(f"{name}:{root}")


def test_a_label_map_of_another_size(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    label = data.label_path(0)
    with Image.open(data.image_path(0)) as image, Image.open(label) as before:
        width, height = image.size
        narrow, turned = before.resize((width - 1, height)), before.resize((height, width))
    narrow.save(label)
    with pytest.raises(DataError) as error:
        data[0]
    assert str(error.value) == (
        f"{label}: the label map is {width - 1} x {height} pixels (width x height); "
        f"its image {data.image_path(0).name} is {width} x {height}"
    )
    turned.save(label)
    with pytest.raises(DataError, match=r"Was the image turned by its EXIF orientation\?"):
        data[0]


def test_a_value_that_is_no_class(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    label = data.label_path(0)
    values = np.array(Image.open(label))
    values[5, 7] = 200
    Image.fromarray(values).save(label)
    with pytest.raises(DataError, match=f"^{label}: pixel \\(row 5, column 7\\) has value 200; expected "):
        data[0]
    values[6, 3:5] = 201, 202
    Image.fromarray(values).save(label)
    with pytest.raises(DataError, match="has value 200, and 2 more are wrong, of values 200 to 202; expected"):
        data[0]
    assert len(list(data.problems())) == 1


def test_broken_files_are_all_found(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    data.image_path(0).write_bytes(b"")
    data.label_path(0).write_bytes(b"nonsense")
    data.label_path(1).write_bytes(data.label_path(1).read_bytes()[:-30])
    found = {problem.file: problem.message for problem in data.problems()}
    assert set(found) == {str(p) for p in (data.image_path(0), data.label_path(0), data.label_path(1))}
    assert "empty (0 bytes)" in found[str(data.image_path(0))]
    assert "not an image" in found[str(data.label_path(0))]
    assert "truncated or broken" in found[str(data.label_path(1))]
    with pytest.raises(DataError, match="empty"):
        data[0]


def test_an_index_beyond_the_end(twin):
    name, root, _ = twin
    data = open_data(f"{name}:{root}")
    with pytest.raises(IndexError):
        data[len(data)]


# --- CamVid


def test_camvid_colours_and_pixel_counts_are_those_of_its_table(shared_data):
    root = shared_data("camvid")
    table = json.loads((root / "classes.json").read_text())
    for split, counts in table["pixel_counts"].items():
        data = open_data(f"camvid:{root}", split)
        assert data.classes == tuple(entry["name"] for entry in table["classes"])
        assert data.colors == tuple(tuple(entry["color"]) for entry in table["classes"])
        assert [data.image_id(i) for i in range(len(data))] == (root / f"{split}.txt").read_text().split()
        labels = np.zeros(256, np.int64)
        for index in range(len(data)):
            values = read_label_map(data.label_path(index)).numpy()
            labels += np.bincount(data.table[values].ravel(), minlength=256)
            assert image_size(data.image_path(index)) == values.shape == (360, 480)
        assert torch.equal(data[0][1]["semantic"], torch.from_numpy(data.table[read_label_map(data.label_path(0))]))
        assert [*labels[:11].tolist(), int(labels[255])] == counts
        assert int(labels.sum()) == sum(counts)


LISTS = {
    "names": "0001TP_000\n0001TP_001\n",
    "names with endings": "0001TP_000.jpg\n0001TP_001.png\n",
    "carriage returns, a mark and empty lines": "\ufeff0001TP_000\r\n\r\n0001TP_001  \r\n",
    "SegNet's own": (
        "/SegNet/CamVid/train/0001TP_000.jpg /SegNet/CamVid/trainannot/0001TP_000.png\n"
        "/SegNet/CamVid/train/0001TP_001.png /SegNet/CamVid/trainannot/0001TP_001.png\n"
    ),
    "relative pairs": (
        "train/0001TP_000.jpg trainannot/0001TP_000.png\n./train/0001TP_001.png trainannot/0001TP_001.png\n"
    ),
    "relative images": "train/0001TP_000.jpg\ntrain/0001TP_001.png\n",
    "backslashes": "train\\0001TP_000.jpg\ntrain\\0001TP_001.png\n",
    "pairs with backslashes": (
        "train\\0001TP_000.jpg trainannot\\0001TP_000.png\ntrain\\0001TP_001.png trainannot\\0001TP_001.png"
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_camvid_lists(tmp_path, kind):
    root = write_camvid(tmp_path)
    (root / "train.txt").write_text(LISTS[kind], encoding="utf-8", newline="")
    data = open_data(f"camvid:{root}")
    assert data.pairs == [
        ("train/0001TP_000.jpg", "trainannot/0001TP_000.png"),
        ("train/0001TP_001.png", "trainannot/0001TP_001.png"),
    ]
    assert [p for p in data.problems() if "without its image" not in p.message] == []


def test_camvid_names_with_spaces_and_dots(tmp_path):
    root = write_camvid(tmp_path)
    for old, new in (("0001TP_000", "a frame.of mine"),):
        (root / "train" / f"{old}.jpg").rename(root / "train" / f"{new}.jpg")
        (root / "trainannot" / f"{old}.png").rename(root / "trainannot" / f"{new}.png")
        (root / "train.txt").write_text(f"{new}\n")
    data = open_data(f"camvid:{root}")
    assert data.image_id(0) == "a frame.of mine"
    assert data[0][0].shape == (3, 24, 32)


def test_camvid_pairs_of_different_names(tmp_path):
    """As in the original 32-class release: x.png and x_L.png. Then a label map's image can't be told from its name."""
    root = write_camvid(tmp_path)
    for path in (root / "trainannot").iterdir():
        path.rename(path.with_name(f"{path.stem}_L.png"))
    (root / "raw").mkdir()
    (root / "train").rename(root / "raw" / "train")
    (root / "train.txt").write_text("/CamVid/raw/train/0001TP_000.jpg /CamVid/trainannot/0001TP_000_L.png\n")
    data = open_data(f"camvid:{root}")
    assert data.pairs == [("raw/train/0001TP_000.jpg", "trainannot/0001TP_000_L.png")]
    assert list(data.problems()) == []


def test_camvid_an_empty_list(tmp_path):
    root = write_camvid(tmp_path)
    (root / "val.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"val\.txt: the list is empty; expected one entry per line"):
        open_data(f"camvid:{root}", "val")


def test_camvid_a_list_that_is_no_text(tmp_path):
    root = write_camvid(tmp_path)
    (root / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val\.txt: begins as UTF-16 and is not valid"):
        open_data(f"camvid:{root}", "val")


def test_camvid_an_image_listed_twice_is_suspicious(tmp_path):
    root = write_camvid(tmp_path)
    (root / "train.txt").write_text("0001TP_000\n0001TP_000\n0001TP_001\n0001TP_002\n")
    (found,) = open_data(f"camvid:{root}").problems()
    assert (found.severity, found.message) == ("suspicion", "is more than once in split 'train'")
    assert found.file == str(root / "train" / "0001TP_000.jpg")


def test_camvid_values_are_told_in_words(tmp_path):
    root = write_camvid(tmp_path)
    data = open_data(f"camvid:{root}")
    Image.new("L", (32, 24), 12).save(data.label_path(0))
    with pytest.raises(
        DataError, match="value 12, and 767 more are wrong; expected 0 to 10 for the 11 classes, or 11, "
    ):
        data[0]


# --- VOC


def test_voc_from_any_of_its_folders(tmp_path):
    devkit = write_voc(tmp_path)
    for root in (tmp_path, devkit, devkit / "VOC2012"):
        data = open_data(f"voc:{root}", "val")
        assert data.label_path(0) == devkit / "VOC2012" / "SegmentationClass" / "2007_000033.png"
        assert data.image_id(0) == "2007_000033"
    (devkit / "VOC2007" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match="holds VOC2007, VOC2012; expected the path of one of them"):
        open_data(f"voc:{devkit}")


def test_voc_its_test_split_has_no_labels(tmp_path):
    root = write_voc(tmp_path)
    with pytest.raises(DataError, match=r"test\.txt: none of its 1 images has a label map .* train, val, trainval$"):
        open_data(f"voc:{root}", "test")


def test_voc_another_folder_of_labels(tmp_path):
    root = write_voc(tmp_path)
    year = root / "VOC2012"
    (year / "SegmentationClass").rename(year / "SegmentationClassAug")
    (year / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2007_000032\n2007_000039\n")
    assert splits_of(f"voc:{root}") == ("train", "val", "trainval", "trainaug")
    data = open_data(f"voc:{root}", "trainaug", labels="SegmentationClassAug")
    assert len(data) == 2
    assert data[0][1]["semantic"].shape == data[0][0].shape[1:]


def test_voc_colours_are_those_of_its_palette():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    colors = voc_colors(256)
    assert {label: colors[label] for label in known} == known
    assert len(set(colors)) == 256


def test_voc_reads_as_torchvision_does(tmp_path):
    root = write_voc(tmp_path)
    other = torchvision.datasets.VOCSegmentation(str(tmp_path), year="2012", image_set="train")
    data = open_data(f"voc:{root}")
    assert len(other) == len(data)
    for (image, target), (picture, labels) in zip(data, other, strict=False):
        assert (image.permute(1, 2, 0).numpy() == np.array(picture)).all()
        assert (target["semantic"].numpy() == np.array(labels)).all()


# --- Cityscapes


def test_cityscapes_classes_are_torchvisions(tmp_path):
    data = open_data(f"cityscapes:{write_cityscapes(tmp_path)}")
    trained = [c for c in torchvision.datasets.Cityscapes.classes if not c.ignore_in_eval]
    trained.sort(key=lambda c: c.train_id)
    assert data.classes == tuple(c.name for c in trained)
    assert data.class_ids == tuple(c.id for c in trained)
    assert data.colors == tuple(c.color for c in trained)
    for entry in torchvision.datasets.Cityscapes.classes:
        assert data.table[entry.id % 256] == (255 if entry.ignore_in_eval else entry.train_id)


def test_cityscapes_reads_what_torchvision_reads(tmp_path):
    root = write_cityscapes(tmp_path)
    other = torchvision.datasets.Cityscapes(str(root), split="train", mode="fine", target_type="semantic")
    data = open_data(f"cityscapes:{root}")
    files = sorted(Path(path) for path in other.images)
    assert [data.image_path(i) for i in range(len(data))] == files
    assert data.image_id(0) == "aachen_000000_000019"


def test_cityscapes_coarse_labels(tmp_path):
    root = write_cityscapes(tmp_path)
    for path in sorted((root / "gtFine").rglob("*_gtFine_labelIds.png")):
        coarse = Path(str(path).replace("gtFine", "gtCoarse"))
        coarse.parent.mkdir(parents=True, exist_ok=True)
        path.rename(coarse)
    data = open_data(f"cityscapes:{root}", "val", labels="gtCoarse")
    assert len(data) == 2
    assert data.label_path(0).name == "frankfurt_000000_000019_gtCoarse_labelIds.png"
    data[0]


def test_cityscapes_without_images(tmp_path):
    root = write_cityscapes(tmp_path)
    for path in (root / "leftImg8bit" / "val").rglob("*.png"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"leftImg8bit/val: no image; expected CITY/CITY_000000_000019_leftImg8bit\.png"
    ):
        open_data(f"cityscapes:{root}", "val")


# --- ADE20K


def test_ade20k_from_its_folder_or_the_one_above(tmp_path):
    base = write_ade20k(tmp_path)
    assert open_data(f"ade20k:{tmp_path}").image_path(0) == open_data(f"ade20k:{base}").image_path(0)


def test_ade20k_names_from_the_file_or_built_in(tmp_path):
    base = write_ade20k(tmp_path, information=False)
    assert open_data(f"ade20k:{base}").classes == ADE_CLASSES
    assert (len(ADE_CLASSES), len(set(ADE_CLASSES))) == (150, 150)
    assert (ADE_CLASSES[0], ADE_CLASSES[12], ADE_CLASSES[123], ADE_CLASSES[149]) == (
        "wall", "person", "trade name", "flag",
    )  # fmt: skip
    rows = [f"{i}\t0.1\t1\t1\tname {i}, other" for i in range(1, 151)]
    rows[5] = "6 \t0.1\t1\t1\tname 5, sixth "  # a blank after the number, as in the published file; a first name twice
    (base / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    names = open_data(f"ade20k:{base}").classes
    assert names[:7] == ("name 1", "name 2", "name 3", "name 4", "name 5, other", "name 5, sixth", "name 7")


def test_ade20k_a_broken_table_of_names(tmp_path):
    path = tmp_path / "objectInfo150.txt"
    path.write_text("Idx,Name\n1,wall\n")
    with pytest.raises(DataError, match="columns Idx,Name; expected a tab-separated table with Idx and Name"):
        read_names(path)
    path.write_text("Idx\tName\n1\twall\n3\tsky\n")
    with pytest.raises(DataError, match=r"row 2 is \['3', 'sky'\]; expected Idx 2 and a name"):
        read_names(path)
    path.write_text("Idx\tName\n1\twall\n")
    with pytest.raises(DataError, match="1 rows; expected the 150 classes"):
        read_names(path)


# --- masks


@pytest.mark.parametrize("classes", ["txt", "json"])
@pytest.mark.parametrize("layout", ["lists", "folders", "flat"])
def test_masks_layouts(tmp_path, layout, classes):
    root = write_masks(tmp_path, layout, classes)
    source = f"masks:{root}"
    counts = {"train": 4, "all": 4} if layout == "flat" else {"train": 3, "val": 2}
    assert splits_of(source) == tuple(counts)
    for split, count in counts.items():
        data = open_data(source, split)
        assert len(data) == count
        assert list(data.problems()) == []
        assert data.classes == ("road", "grass", "sky")
        assert data.colors == (((128, 64, 128), (90, 160, 60), (70, 130, 180)) if classes == "json" else None)
    with pytest.raises(DataError, match=r"no split 'test'.*splits here: train, .*a list test\.txt, or folders"):
        open_data(source, "test")


def test_masks_a_list_of_another_name(tmp_path):
    root = write_masks(tmp_path, "lists")
    (root / "fold 1.txt").write_text("b.c\nimages/tür.png\n/home/me/data/images/é e.jpg\n", encoding="utf-8")
    data = open_data(f"masks:{root}", "fold 1")
    assert data.pairs == [
        ("images/b.c.png", "labels/b.c.png"),
        ("images/tür.png", "labels/tür.png"),
        ("images/é e.jpg", "labels/é e.png"),
    ]
    with pytest.raises(DataError, match="there is no split 'classes'"):
        open_data(f"masks:{root}", "classes")


def test_masks_a_list_of_deeper_files(tmp_path):
    root = write_masks(tmp_path, "folders")
    (root / "test.txt").write_text("train/Straße 1\nval/tür.png\n", encoding="utf-8")
    data = open_data(f"masks:{root}", "test")
    assert data.pairs == [
        ("images/train/Straße 1.jpg", "labels/train/Straße 1.png"),
        ("images/val/tür.png", "labels/val/tür.png"),
    ]
    assert list(data.problems()) == []


def test_masks_a_listed_image_that_is_not_there(tmp_path):
    root = write_masks(tmp_path, "lists")
    (root / "val.txt").write_text("nothing\n")
    with pytest.raises(DataError, match=r"images/nothing: not found; expected an image \(2 files"):
        open_data(f"masks:{root}", "val")


def test_masks_images_without_a_folder_of_labels(tmp_path):
    root = write_masks(tmp_path, "folders")
    (root / "labels" / "val").rename(root / "labels" / "validation")
    with pytest.raises(DataError, match=r"no split 'val'; splits here: train; expected a list val\.txt, or folders"):
        open_data(f"masks:{root}", "val")


def test_masks_without_images(tmp_path):
    root = write_masks(tmp_path, "flat")
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="images: no image of split 'train'; expected files such as"):
        open_data(f"masks:{root}")


def test_masks_two_images_of_one_name(tmp_path):
    root = write_masks(tmp_path, "flat")
    Image.new("RGB", (4, 4)).save(root / "images" / "tür.bmp")
    with pytest.raises(DataError, match=r"tür\.png: tür\.bmp has the same name but for the suffix"):
        open_data(f"masks:{root}")


def test_masks_other_files_are_passed_over(tmp_path):
    root = write_masks(tmp_path, "flat")
    for name in ("Thumbs.db", ".DS_Store", "._tür.png", "notes.txt"):
        (root / "images" / name).touch()
        (root / "labels" / name).touch()
    data = open_data(f"masks:{root}")
    assert len(data) == 4
    assert list(data.problems()) == []


def test_masks_an_ignored_value_that_is_an_index(tmp_path):
    root = tmp_path
    (root / "images").mkdir()
    (root / "labels").mkdir()
    Image.new("RGB", (4, 1)).save(root / "images" / "a.png")
    Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(root / "labels" / "a.png")
    described = {"classes": ["cell", "unknown", "wall"], "colors": [[1, 1, 1], [2, 2, 2], [3, 3, 3]], "ignore": 1}
    (root / "classes.json").write_text(json.dumps(described))
    data = open_data(f"masks:{root}")
    assert data.classes == ("cell", "wall")
    assert data.colors == ((1, 1, 1), (3, 3, 3))
    assert data[0][1]["semantic"].tolist() == [[0, 255, 1, 255]]
    assert data.class_ids == (0, 2)


CLASS_FILES = {
    "no file": (None, "neither classes.txt nor classes.json; expected the names of the classes"),
    "empty": (("classes.txt", "\n"), r"classes\.txt: the list is empty"),
    "double": (("classes.txt", "a\nb\na\n"), "classes 0 and 2 are both 'a'; expected unique names"),
    "many": (("classes.txt", "\n".join(map(str, range(255)))), "255 classes; expected 1 to 254"),
    "no json": (("classes.json", "{"), r"classes\.json: not valid JSON"),
    "a number": (("classes.json", "3"), r"classes\.json: expected a list of names, or "),
    "no names": (("classes.json", '{"names": []}'), r"classes\.json: expected a list of names, or "),
    "empty list": (("classes.json", "[]"), "0 classes; expected 1 to 254"),
    "blank name": (("classes.json", '["a", " "]'), "the name of class 1 is empty"),
    "no text": (("classes.json", '["a", 1]'), r"classes is \['a', 1\]; expected a list of names"),
    "unknown": (("classes.json", '{"classes": ["a"], "color": []}'), "unknown entry 'color'; did you mean 'colors'"),
    "few colours": (("classes.json", '{"classes": ["a", "b"], "colors": [[0, 0, 0]]}'), "colors has 1 entries"),
    "odd colour": (("classes.json", '{"classes": ["a"], "colors": [[0, 0, 256]]}'), r"colors\[0\] is \[0, 0, 256\]"),
    "no colours": (("classes.json", '{"classes": ["a"], "colors": "red"}'), "colors is 'red'"),
    "odd ignore": (("classes.json", '{"classes": ["a"], "ignore": 256}'), "ignore is 256; expected a pixel value"),
    "true ignore": (("classes.json", '{"classes": ["a"], "ignore": true}'), "ignore is True; expected a pixel value"),
    "only ignored": (("classes.json", '{"classes": ["a"], "ignore": 0}'), "no class is left"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASS_FILES)
def test_masks_bad_files_of_classes(tmp_path, case):
    content, message = CLASS_FILES[case]
    root = write_masks(tmp_path)
    (root / "classes.json").unlink()
    if content is not None:
        (root / content[0]).write_text(content[1])
    with pytest.raises(DataError, match=message):
        open_data(f"masks:{root}")


def test_masks_two_files_of_classes(tmp_path):
    root = write_masks(tmp_path)
    (root / "classes.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"both classes\.txt and classes\.json; expected one of them"):
        open_data(f"masks:{root}")


# --- tables of values


def test_a_table_in_words():
    assert ranges([0, 1, 2, 3, 7, 9, 10]) == "0 to 3, 7, 9, 10"
    assert ranges([]) == ""
    assert describe_table(value_table({0: 0, 1: 1, 2: 2, 255: 255})) == (
        "0 to 2 for the 3 classes, or 255 to ignore the pixel"
    )
    assert describe_table(value_table({1: 0})) == "1 for the one class"


def test_a_table_gives_each_value_its_label():
    table = value_table({3: 0, 4: 1, 9: IGNORE})
    assert (table[3], table[4], table[9]) == (0, 1, 255)
    assert set(np.delete(table, [3, 4, 9]).tolist()) == {254}


def test_readers_are_label_map_data_sets():
    assert all(issubclass(find_reader(f"{name}:.")[0], LabelMapDataSet) for name in TWINS)
