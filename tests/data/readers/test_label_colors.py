"""What pixels of label maps mean: colours that are stated, palettes that agree or not, names of label maps."""

import json

import numpy as np
import pytest
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.errors import DataError

COLORS = {"background": (0, 0, 0), "cat": (48, 112, 32), "dog": (176, 112, 32)}
VALUES = np.array([[0, 1, 2, 2], [0, 0, 1, 2], [0, 1, 1, 1]], np.uint8)
PALETTE = [channel for color in COLORS.values() for channel in color]
GREYS = [value for value in range(256) for _ in range(3)]


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(str(path))).integers(0, 255, (3, 4, 3), dtype=np.uint8)).save(path)


def label(path, values=VALUES, palette=None, colors=None):
    """A label map: of numbers, of numbers with a ``palette``, or of ``colors`` by number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if colors is not None:
        picture = Image.fromarray(np.array(list(colors), np.uint8)[values])
    else:
        picture = Image.fromarray(values)
        if palette is not None:
            picture.putpalette(palette)
    picture.save(path)


def write_cvat(root, lines=None):
    """CVAT's "Segmentation mask": images a and b, label maps in colours."""
    for name in "ab":
        image(root / "JPEGImages" / f"{name}.jpg")
        label(root / "SegmentationClass" / f"{name}.png", colors=COLORS.values())
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nb\n")
    stated = [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in COLORS.items()]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *(lines or stated)]) + "\n")
    return root


def write_masks(root, colors=COLORS, names="ab", **stated):
    """An own folder with stated colours and without label maps."""
    for name in names:
        image(root / "images" / f"{name}.png")
    (root / "labels").mkdir(parents=True)
    if colors is None:
        (root / "classes.txt").write_text("\n".join(COLORS))
    else:
        described = {"classes": list(colors), "colors": [list(color) for color in colors.values()], **stated}
        (root / "classes.json").write_text(json.dumps(described))
    return f"masks:{root}"


def labels_of(data, index=0):
    return data[index][1]["semantic"].numpy()


# --- CVAT's and Datumaro's labelmap.txt


def test_cvat_label_maps_are_read_by_their_colours(tmp_path):
    source = f"voc:{write_cvat(tmp_path)}"
    assert splits_of(source, frozenset({"semantic"})) == ("default",)
    for split in ("default", "train"):
        data = open_data(source, split, needs=frozenset({"semantic"}))
        assert data.classes == ("background", "cat", "dog")
        assert data.colors == tuple(COLORS.values())
        assert (labels_of(data) == VALUES).all()
    assert check_data(source, needs=frozenset({"semantic"})).ok


def test_cvat_index_label_maps_are_numbers(tmp_path):
    write_cvat(tmp_path)
    for name in "ab":
        label(tmp_path / "SegmentationClass" / f"{name}.png", palette=PALETTE)
    assert (labels_of(open_data(f"voc:{tmp_path}")) == VALUES).all()


def test_void_is_ignored(tmp_path):
    lines = ["ignored:224,224,192::", "cat:48,112,32::", "dog:176,112,32::"]
    write_cvat(tmp_path, lines)
    for name in "ab":
        label(tmp_path / "SegmentationClass" / f"{name}.png", colors=[(224, 224, 192), *list(COLORS.values())[1:]])
    data = open_data(f"voc:{tmp_path}")
    assert data.classes == ("cat", "dog")
    assert (labels_of(data) == np.array([255, 0, 1], np.uint8)[VALUES]).all()


def test_a_colour_that_is_no_class_is_named(tmp_path):
    root = write_cvat(tmp_path)
    label(root / "SegmentationClass" / "b.png", colors=[(0, 0, 0), (48, 112, 32), (176, 112, 33)])
    message = (
        r"b\.png: pixel \(row 0, column 2\) has colour \(176, 112, 33\), which is no class's, and 2 more pixels are "
        r"wrong; expected the colours of .*labelmap\.txt: \(0, 0, 0\) 'background', \(48, 112, 32\) 'cat', "
        r"\(176, 112, 32\) 'dog'"
    )
    data = open_data(f"voc:{root}")
    with pytest.raises(DataError, match=message):
        data[1]


LABELMAPS = {
    "no colour": ("cat", r"line 2 is 'cat'; expected label:red,green,blue"),
    "two numbers": ("cat:1,2::", r"line 2 is 'cat:1,2::'"),
    "beyond": ("cat:1,2,256::", r"each colour 0 to 255"),
    "name twice": ("background:1,2,3::", r"line 2: .*has the name or the colour of 'background' \(0, 0, 0\)"),
    "colour twice": ("cat:0,0,0::", r"has the name or the colour of 'background'"),
}


@pytest.mark.parametrize("case", LABELMAPS)
def test_a_labelmap_that_does_not_fit(tmp_path, case):
    line, message = LABELMAPS[case]
    root = write_cvat(tmp_path, ["background:0,0,0::", line])
    (root / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    with pytest.raises(DataError, match=rf"labelmap\.txt: .*{message}"):
        open_data(f"voc:{root}", needs=frozenset({"semantic"}))


def test_lists_of_paths(tmp_path):
    root = write_cvat(tmp_path)
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name / "day 1").mkdir()
        for path in (root / name).glob("b.*"):
            path.rename(root / name / "day 1" / path.name)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(
        "JPEGImages\\a.JPG\n/home/me/JPEGImages/day 1/b.jpg\n"
    )
    data = open_data(f"voc:{root}", "train", needs=frozenset({"semantic"}))
    assert [data.image_path(i).name for i in range(2)] == ["a.jpg", "b.jpg"]
    assert data.label_path(1) == root / "SegmentationClass" / "day 1" / "b.png"
    assert (labels_of(data, 1) == VALUES).all()


# --- classes.json


def test_colours_of_ones_own(tmp_path):
    source = write_masks(tmp_path)
    for name in "ab":
        label(tmp_path / "labels" / f"{name}.png", colors=COLORS.values())
    data = open_data(source)
    assert data.notes == ()
    assert (labels_of(data) == VALUES).all()
    assert check_data(source).ok


def test_colours_that_are_ignored(tmp_path):
    source = write_masks(tmp_path, ignore=0)
    for name in "ab":
        label(tmp_path / "labels" / f"{name}.png", colors=COLORS.values())
    data = open_data(source)
    assert data.classes == ("cat", "dog")
    assert (labels_of(data) == np.array([255, 0, 1], np.uint8)[VALUES]).all()


def test_palettes_that_differ_from_file_to_file_are_read_by_their_colours(tmp_path):
    source = write_masks(tmp_path)
    black, cat, dog = COLORS.values()
    label(tmp_path / "labels" / "a.png", palette=[*black, *cat, *dog])
    label(tmp_path / "labels" / "b.png", np.array([0, 1, 2], np.uint8)[VALUES], palette=[*dog, *black, *cat])
    data = open_data(source)
    assert "by the colours of" in data.notes[0].message
    assert (labels_of(data, 0) == VALUES).all()
    assert (labels_of(data, 1) == np.array([2, 0, 1])[VALUES]).all()


def test_numbers_whose_palette_is_of_another_scheme_stay_numbers(tmp_path):
    source = write_masks(tmp_path)
    for name in "ab":
        label(tmp_path / "labels" / f"{name}.png", palette=[9, 9, 9, 200, 0, 0, 0, 200, 0])
    assert (labels_of(open_data(source)) == VALUES).all()


def test_a_palette_that_contradicts_the_colours_is_refused(tmp_path):
    source = write_masks(tmp_path)
    label(tmp_path / "labels" / "a.png")
    label(tmp_path / "labels" / "b.png", palette=[0, 0, 0, *COLORS["dog"], 9, 9, 9])
    with pytest.raises(
        DataError, match=r"b\.png: number 1 \('cat'\) is shown in \(176, 112, 32\), which .*classes\.json"
    ):
        open_data(source)[1]


def test_masks_of_0_and_255_are_read_by_stated_colours(tmp_path):
    source = write_masks(tmp_path, {"ground": (0, 0, 0), "cell": (255, 255, 255)})
    for name in "ab":
        label(tmp_path / "labels" / f"{name}.png", (VALUES > 0).astype(np.uint8) * 255)
    assert (labels_of(open_data(source)) == (VALUES > 0)).all()


def test_a_class_drawn_in_white_does_not_change_numbers(tmp_path):
    source = write_masks(tmp_path, {"ground": (0, 0, 0), "cell": (255, 255, 255)})
    label(tmp_path / "labels" / "a.png", np.array([[0, 1, 255, 0]] * 3, np.uint8))
    label(tmp_path / "labels" / "b.png", np.array([[0, 1, 1, 0]] * 3, np.uint8))
    assert labels_of(open_data(source))[0].tolist() == [0, 1, 255, 0]


@pytest.mark.parametrize("first", [None, 0])
def test_palettes_that_contradict_each_other_are_refused(tmp_path, first):
    """At opening, where one of the label maps that are looked at differs; else when the file is read."""
    source = write_masks(tmp_path, None, names="abcd")
    for name in "abcd":
        label(tmp_path / "labels" / f"{name}.png", palette=[0, 0, 0, 200, 0, 0, 0, 200, 0])
    data = open_data(source) if first == 0 else None
    label(tmp_path / "labels" / "c.png", palette=[0, 0, 0, 0, 200, 0, 200, 0, 0])
    message = r"c\.png: number 1 is shown in \(0, 200, 0\), and in .*a\.png it is shown in \(200, 0, 0\): the palettes"
    with pytest.raises(DataError, match=message):
        (data or open_data(source))[2]


def test_palettes_that_differ_in_what_does_not_occur_are_fine(tmp_path):
    source = write_masks(tmp_path, None)
    label(tmp_path / "labels" / "a.png", palette=[0, 0, 0, 200, 0, 0, 0, 200, 0, 7, 7, 7])
    label(tmp_path / "labels" / "b.png", palette=[0, 0, 0, 200, 0, 0, 0, 200, 0, 8, 9, 8])
    data = open_data(source)
    assert [(labels_of(data, index) == VALUES).all() for index in range(2)] == [True, True]


def test_grey_palettes_say_nothing(tmp_path):
    source = write_masks(tmp_path, None)
    label(tmp_path / "labels" / "a.png", palette=PALETTE)
    label(tmp_path / "labels" / "b.png", palette=GREYS)
    assert (labels_of(open_data(source), 1) == VALUES).all()


def test_colours_that_nothing_states_are_refused(tmp_path):
    source = write_masks(tmp_path, None)
    for name in "ab":
        label(tmp_path / "labels" / f"{name}.png", colors=COLORS.values())
    with pytest.raises(DataError, match=r"a\.png: a label map of mode RGB; .*replace each colour by the index"):
        open_data(source, allow_unlabelled=True)[0]


def test_transparent_pixels_are_refused(tmp_path):
    source = write_masks(tmp_path)
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[..., 3] = 255
    for name in "ab":
        Image.fromarray(pixels).save(tmp_path / "labels" / f"{name}.png")
    data = open_data(source)
    assert (labels_of(data) == 0).all()
    pixels[1, 2, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "labels" / "b.png")
    with pytest.raises(DataError, match=r"b\.png: pixel \(row 1, column 2\) of a label map is transparent \(alpha 128"):
        data[1]


def test_a_colour_twice_is_refused(tmp_path):
    source = write_masks(tmp_path, {"a": (0, 0, 0), "b": (1, 2, 3), "c": (1, 2, 3)})
    with pytest.raises(DataError, match=r"colors\[1\] and colors\[2\] are both \[1, 2, 3\]"):
        open_data(source)


# --- names of label maps


@pytest.mark.parametrize("name", ["{}_mask.png", "mask-{}.tif", "{}.PNG", "{}.tiff", "{} labels.bmp", "{}_L.gif"])
def test_label_maps_of_other_names(tmp_path, name):
    source = write_masks(tmp_path, None, names=["1", "11", "v1.0"])
    for key in ("1", "11", "v1.0"):
        label(tmp_path / "labels" / name.format(key))
    data = open_data(source)
    assert [data.label_path(i).name for i in range(3)] == [name.format(key) for key in ("1", "11", "v1.0")]
    assert (labels_of(data, 2) == VALUES).all()
    assert check_data(source).ok
    label(tmp_path / "labels" / name.format("2"))
    assert [p.message[:31] for p in check_data(source).problems] == ["a label map without its image i"]


def test_one_image_without_its_label_map_of_another_name(tmp_path):
    source = write_masks(tmp_path, None, names=["1", "2", "3"])
    for key in ("1", "3"):
        label(tmp_path / "labels" / f"{key}_mask.png")
    with pytest.raises(DataError, match=r"labels/2_mask\.png: not found; expected the label map of .*images/2\.png"):
        open_data(source)


def test_two_label_maps_an_image_are_refused(tmp_path):
    source = write_masks(tmp_path, None)
    for key in "ab":
        label(tmp_path / "labels" / f"{key}_mask.png")
        label(tmp_path / "labels" / f"{key}_color.png")
    with pytest.raises(DataError, match=r"in two ways, such as a_(color|mask) and a_(mask|color); expected one"):
        open_data(source)


def test_numbers_are_not_parted(tmp_path):
    source = write_masks(tmp_path, None, names=["1", "2"])
    for key in ("12", "22"):
        label(tmp_path / "labels" / f"{key}.png")
    with pytest.raises(DataError, match=r"labels/1\.png: not found"):
        open_data(source)


def test_a_name_in_other_letters(tmp_path):
    source = write_masks(tmp_path, None, names=["IMG_A"])
    label(tmp_path / "labels" / "img_a.png")
    assert open_data(source).label_path(0).name == "img_a.png"


def test_a_jpeg_as_label_map_is_named_as_such(tmp_path):
    source = write_masks(tmp_path, None)
    for key in "ab":
        Image.fromarray(VALUES).save(tmp_path / "labels" / f"{key}.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: a label map as JPEG, which changes values"):
        open_data(source, allow_unlabelled=True)[0]


def test_val_and_valid_are_one_split(tmp_path):
    source = write_masks(tmp_path, None, names=["train/a", "valid/a"])
    for split in ("train", "valid"):
        label(tmp_path / "labels" / split / "a.png")
    assert len(open_data(source, "val")) == 1


def test_labels_counted_from_1_are_named_as_such(tmp_path):
    source = write_masks(tmp_path, None)
    for key in "ab":
        label(tmp_path / "labels" / f"{key}.png", VALUES + 1)
    with pytest.raises(DataError, match=r"a\.png: pixel .* has value 3.*0 to 2 .*\. Are labels counted from 1\?"):
        open_data(source)[0]
