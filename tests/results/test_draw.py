import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from scenewise.draw import legends
from scenewise.draw.colors import depth_color, normal_color, oklab, palette, readable_on, shades
from scenewise.draw.legends import PAGE, Pen
from scenewise.draw.look import IGNORED, Look, Scene
from scenewise.draw.pages import side_by_side
from scenewise.draw.tags import place_tags
from scenewise.errors import UsageError
from scenewise.fields.keypoints import SKELETONS
from scenewise.fields.semantic import MAX_ROWS, SemanticMask
from scenewise.fields.table import FIELDS, given
from scenewise.results.picture import draw_sample
from scenewise.results.prediction import Prediction
from scenewise.types import IGNORE

CLASSES = ("road", "car", "sky")


def draw_prediction(image, prediction, **options):
    return prediction.draw(image, **options)


def scene_of(classes=CLASSES, **values):
    """What fields are painted with."""
    look = values.pop("look", Look())
    return Scene(look, Pen.of(*SIZE, 480, None), tuple(classes), palette(len(classes)), **values)


def tag_text(prediction, index, muted, named=True):
    """The words of a tag: those of all fields."""
    scene = scene_of(prediction.classes if named else prediction.classes[1:2], muted=np.full(len(prediction), muted))
    words = [FIELDS[name].words(value, index, scene) for name, value in given(prediction).items()]
    return " ".join(word for word in (*words, "(ignored)" if muted else "") if word)


SIZE = (360, 500)


def photograph(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth uint8 [H,W,3] image whose colours are none of the palette's."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([60 + x % 90, 80 + y % 60, 70 + (x + y) % 50], -1).astype(np.uint8)


def thirds(size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Three vertical stripes of the three classes, a strip to ignore at the bottom."""
    labels = (torch.arange(size[1]) * 3 // size[1]).expand(size).clone()
    labels[-20:] = IGNORE
    return labels


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def near(pixel: np.ndarray, color: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(pixel, dtype=int) - color).max() <= tolerance)


def instances(**fields: object) -> Prediction:
    return Prediction(SIZE, CLASSES, **fields)  # type: ignore[arg-type]


# --- colours ---

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009,
# severity 1.0, for linear RGB
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


def seen(colors: np.ndarray, deficiency: list[list[float]]) -> np.ndarray:
    linear = np.where(colors / 255 <= 0.04045, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    mixed = np.clip(linear @ np.transpose(deficiency), 0, 1)
    return 255 * np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)


def closest(colors: np.ndarray) -> float:
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(oklab(colors), 2))


def test_the_dozen_can_be_told_apart_by_everyone():
    dozen = np.array(palette(12))
    # for scale: 0.02 is about the smallest difference that one sees
    assert closest(dozen) > 0.15
    assert closest(seen(dozen, DEUTERANOPIA)) > 0.07
    assert closest(seen(dozen, PROTANOPIA)) > 0.07


def test_palettes_grow_without_changing():
    assert palette(0) == []
    for n in (1, 12, 13, 50, 300):
        assert palette(n) == palette(301)[:n]
    assert len(set(palette(1000))) == 1000
    assert closest(np.array(palette(50))) > 0.05
    assert len(palette(5000)) == 5000
    assert all(0 <= channel <= 255 and isinstance(channel, int) for color in palette(40) for channel in color)


def test_oklab_of_known_colours():
    lab = oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]))
    assert lab[0] == pytest.approx([1, 0, 0], abs=1e-4)
    assert lab[1] == pytest.approx([0, 0, 0], abs=1e-6)
    assert lab[2] == pytest.approx([0.62796, 0.22486, 0.12585], abs=1e-4)  # Ottosson's published value


def test_text_is_readable_on_every_colour():
    def luminance(color: tuple[int, int, int]) -> float:
        value = np.array(color) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for color in palette(200):
        low, high = sorted((luminance(color), luminance(readable_on(color))))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA


def test_depth_colours_brighten_evenly_towards_the_camera():
    lightness = oklab(depth_color(np.linspace(0, 1, 101)))[:, 0]
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 1.6 * steps.mean()
    assert steps.min() > 0.5 * steps.mean()


def test_normal_colours():
    normals = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 0], [np.nan, 0, 0]], dtype=np.float32)
    expected = [(255, 128, 128), (128, 255, 128), (128, 128, 255), (224, 224, 224), (224, 224, 224)]
    assert normal_color(normals).tolist() == [list(c) for c in expected]


# --- images ---


def test_all_kinds_of_images_give_the_same_picture(tmp_path):
    array = photograph()
    Image.fromarray(array).save(tmp_path / "image.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [
        array,
        array[:, ::-1][:, ::-1],
        Image.fromarray(array),
        Image.fromarray(array).convert("RGBA"),
        tensor,
        tensor.float() / 255,
        tv_tensors.Image(tensor),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
    ]
    prediction = instances(semantic=thirds())
    pictures = [pixels(draw_prediction(image, prediction)) for image in kinds]
    assert all(np.array_equal(pictures[0], picture) for picture in pictures)
    assert np.array_equal(pictures[0], pixels(prediction.draw(array)))


def test_nothing_to_draw_gives_the_image():
    assert np.array_equal(pixels(draw_prediction(photograph(), instances())), photograph())
    for empty in (
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)},
        {"masks": torch.zeros(0, *SIZE).bool(), "labels": torch.zeros(0).long()},
        {"keypoints": torch.zeros(0, 17, 3), "scores": torch.zeros(0)},
        {"masks": torch.zeros(1, *SIZE).bool()},
        {"keypoints": torch.zeros(1, 17, 3)},
    ):
        assert np.array_equal(
            pixels(draw_prediction(photograph(), instances(**empty), links=SKELETONS["coco"].links)), photograph()
        )


@pytest.mark.parametrize(
    ("size", "factor"),
    [((64, 64), 8), ((360, 480), 1), ((100, 200), 3), ((1, 1), 480), ((1500, 30), 1), ((700, 90), 2)],
)
def test_tiny_images_are_enlarged_by_a_whole_factor(size, factor):
    prediction = Prediction(size, CLASSES, semantic=torch.zeros(size).long())
    picture = draw_prediction(photograph(size), prediction, legend=False)
    assert picture.size == (size[1] * factor, size[0] * factor)


def test_lines_and_letters_grow_with_the_image():
    small, large = Pen.of(360, 480, 480, None), Pen.of(3000, 4000, 480, None)
    assert (small.em, small.line) == (13, 2)
    assert large.em > 50
    assert large.line >= 7


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.int64), r"shape \[4, 4, 3\] and int64; expected uint8"),
        (torch.zeros(4, 4), r"shape \[4, 4\] and float32; expected shape \[3, height, width\]"),
        (torch.full((3, 4, 4), 200.0), "values from 200 to 200; expected 0 to 1"),
        (Image.new("F", (4, 4)), "floating-point pixels"),
        (7, "an image of type int; expected a path"),
        (photograph((5, 4)), r"5 x 4 pixels \(height x width\); the prediction is for one of 4 x 4"),
    ],
)
def test_images_that_do_not_fit(image, message):
    with pytest.raises(UsageError, match=message):
        draw_prediction(image, Prediction((4, 4), CLASSES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5; expected 0 to 1"),
        ({"legend": "left"}, "legend is 'left'; expected True, False, 'right' or 'bottom'"),
        ({"colors": [(1, 2, 3)]}, "there are 1 colors; expected one for each of 3 classes"),
        ({"color_by": "size"}, "color_by is 'size'; expected 'class' or 'instance'"),
        ({"color_by": "class"}, "the prediction has no labels"),
        ({"skelton": ()}, "there is no option 'skelton'; known: colors, alpha"),
        ({"links": [(0, 9)]}, r"joins keypoints \(0, 9\); the prediction has 4 keypoints"),
        ({"depth_range": (3, 1)}, r"depth_range is \(3, 1\); expected \(near, far\)"),
        ({"font": "/no/font.ttf"}, "font /no/font.ttf: can't be read"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UsageError, match=message):
        draw_prediction(photograph(), instances(keypoints=torch.ones(1, 4, 3)), **options)


def test_a_broken_prediction_is_refused():
    with pytest.raises(UsageError, match="boxes of instance 0 is"):
        draw_prediction(photograph(), instances(boxes=torch.tensor([[0, 0, math.nan, 1]])))


def test_what_is_given_is_not_changed():
    given = Image.fromarray(photograph())
    prediction = instances(
        semantic=thirds(), boxes=torch.tensor([[10.0, 20, 200, 100]]), masks=torch.ones(1, *SIZE).bool()
    )
    before = dataclasses.replace(prediction, semantic=prediction.semantic.clone())
    for one in (prediction, instances()):
        drawn = draw_prediction(given, one)
        drawn.paste((0, 0, 0), (0, 0, *drawn.size))
        assert np.array_equal(pixels(given), photograph())
        assert given.info == {}
    assert torch.equal(prediction.semantic, before.semantic)


# --- classes ---


def test_classes_are_blended_and_ignored_pixels_left_alone():
    image = photograph()
    picture = pixels(draw_prediction(image, instances(semantic=thirds()), legend=False, alpha=0.4))
    for label, column in enumerate((80, 250, 420)):
        found = picture[100, column]
        grey = 70 + int(np.asarray(Image.fromarray(image).convert("L"))[100, column]) * 185 / 255
        below = 0.6 * image[100, column] + 0.4 * grey
        assert near(found, tuple(0.6 * below + 0.4 * np.array(palette(3)[label])), 3)
    assert np.array_equal(picture[-19:], image[-19:])


def test_alpha_goes_from_outlines_to_flat_colours():
    image = photograph()
    outlines = pixels(draw_prediction(image, instances(semantic=thirds()), legend=False, alpha=0))
    changed = np.argwhere((outlines != image).any(-1))
    assert len(changed)
    borders = {166, 333}  # the last columns of the first two stripes
    assert all(column in borders or row == 339 for row, column in changed)
    flat = pixels(draw_prediction(image, instances(semantic=thirds()), legend=False, alpha=1))
    assert near(flat[100, 80], palette(3)[0], 1)


def test_given_colors_are_used():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    picture = pixels(draw_prediction(photograph(), instances(semantic=thirds()), colors=colors, alpha=1))
    assert near(picture[100, 420], (0, 0, 255), 1)


def test_legend_rows_are_the_shares_largest_first():
    labels = np.array([[0, 1, 1, 1], [2, 2, IGNORE, 1]])
    rows = FIELDS["semantic"].legend(torch.from_numpy(labels), scene_of())
    assert [(row.name, row.value) for row in rows] == [
        ("car", "50.0 %"),
        ("sky", "25.0 %"),
        ("road", "12.5 %"),
        ("no label", "12.5 %"),
    ]
    assert [row.colors for row in rows] == [(palette(3)[1],), (palette(3)[2],), (palette(3)[0],), ()]
    many = tuple(f"class {i}" for i in range(100))
    rows = FIELDS["semantic"].legend(torch.arange(100).reshape(10, 10), scene_of(many))
    assert len(rows) == MAX_ROWS
    assert (rows[-1].name, rows[-1].value) == ("71 more classes", "71.0 %")
    few = np.zeros((100, 100), int)
    few[0, 0] = 1
    assert FIELDS["semantic"].legend(torch.from_numpy(few), scene_of())[1].value == "<0.1 %"


def test_more_than_256_classes():
    names = tuple(f"class {i}" for i in range(400))
    labels = torch.full(SIZE, 300)
    labels[:100] = IGNORE
    picture = pixels(draw_prediction(photograph(), Prediction(SIZE, names, semantic=labels), alpha=1))
    assert near(picture[200, 200], palette(400)[300], 1)
    assert np.array_equal(picture[:99, :500], photograph()[:99])


def test_logits_straight_from_a_model_are_drawn():
    labels = thirds().clamp(max=2)
    logits = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float().requires_grad_()
    a = draw_prediction(photograph(), instances(semantic_logits=logits))
    assert np.array_equal(pixels(a), pixels(draw_prediction(photograph(), instances(semantic=labels))))


# --- legends ---

WITH_LEGEND = {
    "classes": {"semantic": thirds()},
    "boxes": {"boxes": torch.tensor([[10.0, 10, 200, 100]]), "labels": torch.tensor([1])},
    "depth": {"depth": torch.linspace(1, 3, 360 * 500).reshape(SIZE)},
    "normals": {"normals": torch.nn.functional.normalize(torch.ones(3, *SIZE), dim=0)},
}


@pytest.mark.parametrize("side", [True, "right", "bottom"])
@pytest.mark.parametrize("kind", WITH_LEGEND)
def test_legends_hide_nothing_and_are_not_cut_off(kind, side):
    prediction = instances(**WITH_LEGEND[kind])
    plain = pixels(draw_prediction(photograph(), prediction, legend=False))
    picture = pixels(draw_prediction(photograph(), prediction, legend=side))
    assert np.array_equal(picture[:360, :500], plain)
    outside = np.ones(picture.shape[:2], bool)
    outside[:360, :500] = False
    assert outside.any()
    assert (picture[outside] != PAGE).any()  # there is a legend
    margin = outside.copy()
    margin[4:-4, 4:-4] = False
    assert (picture[margin] == PAGE).all()


def test_swatch_name_and_value_keep_apart():
    pen = Pen.of(*SIZE, 480, None)
    for name in ("a", "signs and symbols"):
        block = pixels(legends._legend_block([legends.Row((palette(1)[0],), name, "100.0 %")], 1, pen))
        inked = np.flatnonzero((block != PAGE).any((0, 2)))
        assert (np.diff(inked) > 0.5 * pen.em).sum() == 2  # three groups of columns


@pytest.mark.parametrize("size", [(40, 900), (900, 40), (30, 30), (1, 1), (200, 300)])
def test_legends_of_odd_images_are_not_cut_off(size):
    names = ("a class with quite a long name, and then some more of it, and even more", "b")
    labels = torch.zeros(size).long()
    labels[: size[0] // 2] = 1
    prediction = Prediction(size, names, semantic=labels, depth=torch.ones(size), normals=torch.ones(3, *size) * 0.577)
    for side in ("right", "bottom"):
        for field in ("semantic", "depth", "normals"):
            one = Prediction(size, names, **{field: getattr(prediction, field)})
            picture = pixels(draw_prediction(photograph(size), one, legend=side))
            factor = Pen.of(*size, 480, None).factor
            picture[: size[0] * factor, : size[1] * factor] = PAGE[0]
            assert (picture != PAGE).any()
            assert (picture[:, -4:] == PAGE).all()
            assert (picture[-4:] == PAGE).all()
    draw_prediction(photograph(size), prediction)


def test_many_instances_of_two_classes_take_two_rows():
    labels = torch.tensor([0, 1, 1, 1])
    prediction = instances(boxes=torch.rand(4, 4), labels=labels, masks=torch.zeros(4, *SIZE).bool())
    colors = palette(4)
    muted = np.array([False, False, False, True])
    rows = FIELDS["labels"].legend(prediction.labels, scene_of(instance_colors=colors, muted=muted))
    assert [(r.name, r.value) for r in rows] == [("car", "2"), ("road", "1"), ("ignored", "1")]
    assert rows[0].colors == (colors[1], colors[2])


# --- instances ---


def test_boxes_are_drawn_on_their_sides():
    image = photograph()
    prediction = instances(boxes=torch.tensor([[100.0, 80, 300, 200]]), labels=torch.tensor([2]))
    picture = pixels(draw_prediction(image, prediction, legend=False))
    color = palette(3)[2]
    for y, x in ((80, 200), (199, 200), (150, 100), (150, 299)):
        assert near(picture[y, x], color)
    for y, x in ((76, 250), (203, 200), (150, 96), (150, 303), (150, 200), (90, 290)):
        assert np.array_equal(picture[y, x], image[y, x])


def test_boxes_of_an_enlarged_image_are_enlarged():
    prediction = Prediction((60, 50), CLASSES, boxes=torch.tensor([[10.0, 20, 30, 50]]))
    picture = pixels(draw_prediction(photograph((60, 50)), prediction, legend=False))
    assert picture.shape[:2] == (600, 500)
    assert near(picture[200, 200], palette(1)[0])
    assert near(picture[400, 299], palette(1)[0])


def test_strange_boxes_do_no_harm():
    boxes = torch.tensor([[-1e9, -1e9, 1e9, 1e9], [50, 50, 50, 50], [90, 90, 60, 60], [480, 340, 499, 359]])
    draw_prediction(photograph(), instances(boxes=boxes, labels=torch.tensor([0, 1, 2, 0]), scores=torch.rand(4)))


def test_the_score_leaves_instances_out():
    prediction = instances(
        boxes=torch.tensor([[10.0, 30, 90, 80], [200, 90, 300, 150]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.4, 0.9]),
    )
    a = draw_prediction(photograph(), prediction, score=0.5)
    assert np.array_equal(pixels(a), pixels(draw_prediction(photograph(), prediction.above(0.5))))
    assert not np.array_equal(pixels(a)[:360, :500], pixels(draw_prediction(photograph(), prediction))[:360, :500])


@pytest.mark.parametrize("seed", range(4))
def test_tags_keep_apart_and_inside(seed):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(80, 2, generator=g) * torch.tensor([400.0, 300.0])
    boxes = torch.cat([corner, corner + torch.rand(80, 2, generator=g) * 100], 1).numpy()
    boxes[:30, 1] = 0  # many at one edge
    texts = [f"bicycle {i / 100:.2f}" for i in range(80)]
    pen = Pen.of(*SIZE, 480, None)
    placed = place_tags(boxes, texts, list(range(80))[::-1], (500, 360), pen)
    assert len(placed) >= 7
    large = (boxes[:, 2:] - boxes[:, :2]).prod(1) >= 2 * pen.font.getlength(texts[0]) * pen.em * 2
    assert placed[0][0] >= np.flatnonzero(large)[-3]  # among the best of those that are not small
    for (_, _, a), (_, _, b) in combinations(placed, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for index, text, (x1, y1, x2, y2) in placed:
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= 500
        assert y2 <= 360
        assert pen.font.getlength(text) <= x2 - x1
        assert (boxes[index][2:] - boxes[index][:2]).prod() >= 2 * (x2 - x1) * (y2 - y1)  # in a crowd
        bx1, by1, bx2, by2 = boxes[index]
        assert x1 - 1 <= bx2  # within reach of its box
        assert bx1 <= x2 + 1
        assert y1 - 1 <= by2
        assert by1 <= y2 + 1
        for box in boxes:  # no instance hides below it
            covered = max(0, min(x2, box[2]) - max(x1, box[0])) * max(0, min(y2, box[3]) - max(y1, box[1]))
            assert covered <= 0.3 * (box[2] - box[0]) * (box[3] - box[1])
    assert sum((x2 - x1) * (y2 - y1) for _, _, (x1, y1, x2, y2) in placed) <= 0.12 * 360 * 500


@pytest.mark.parametrize("seed", range(6))
def test_a_tag_is_nearer_to_its_own_box_than_to_one_without(seed):
    """However many tags are hidden."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(40, 2, generator=g) * torch.tensor([400.0, 300.0])
    boxes = torch.cat([corner, corner + 20 + torch.rand(40, 2, generator=g) * 120], 1).numpy()
    pen = Pen.of(*SIZE, 480, None)
    placed = place_tags(boxes, [f"bicycle {i / 100:.2f}" for i in range(40)], list(range(40))[::-1], (500, 360), pen)
    bare = set(range(40)) - {i for i, _, _ in placed}
    assert placed
    assert bare

    def shared(spot, box, grown):
        wide = min(spot[2], box[2] + grown) - max(spot[0], box[0] - grown)
        tall = min(spot[3], box[3] + grown) - max(spot[1], box[1] - grown)
        return max(0, wide) * max(0, tall)

    for i, _, spot in placed:
        near = (spot[3] - spot[1]) / 2
        for j in bare:
            assert shared(spot, boxes[j], near) <= shared(spot, boxes[i], near)


def test_a_hidden_tag_leaves_its_place_to_no_neighbour():
    """The lower box has no tag, as it has no words; the upper one's does not stand in it or on its edge."""
    pen = Pen.of(*SIZE, 480, None)
    boxes = np.array([[100.0, 0, 200, 12], [100, 12, 200, 200]])  # the upper one too low for a tag, at the border
    ((_, _, spot),) = place_tags(boxes[:1], ["car 0.90"], [0], (500, 360), pen)
    assert spot[1] >= 12, "alone it stands below its box"
    assert place_tags(boxes, ["car 0.90", ""], [0, 1], (500, 360), pen) == []


def test_many_of_one_class_are_shades_of_its_colour():
    color = palette(1)[0]
    found = shades(color, 200)
    lab = oklab(np.array(found))
    hue = np.arctan2(lab[:, 2], lab[:, 1])
    own = oklab(np.array(color))
    assert np.abs(hue - np.arctan2(own[2], own[1])).max() < 0.12
    assert np.ptp(lab[:, 0]) > 0.4
    steps = np.abs(np.diff(lab[:, 0]))
    assert steps.min() > 0.1, "neighbours are far apart"
    scene = Scene(Look(), Pen.of(*SIZE, 480, None), ("a", "b"), palette(2), muted=np.zeros(20, dtype=np.bool_))
    scene.color_instances([1] * 20, 20, single=True)
    assert scene.instance_colors == shades(palette(2)[1], 20)
    scene.color_instances([0] * 10 + [1] * 10, 20, single=True)
    assert scene.instance_colors == palette(20)


def test_a_tag_says_class_and_score():
    prediction = instances(boxes=torch.rand(1, 4), labels=torch.tensor([1]), scores=torch.tensor([0.876]))
    assert tag_text(prediction, 0, False) == "car 0.88"
    assert tag_text(dataclasses.replace(prediction, labels=None), 0, False) == "0.88"
    assert tag_text(dataclasses.replace(prediction, scores=None), 0, True) == "car (ignored)"
    assert tag_text(dataclasses.replace(prediction, scores=None, labels=None), 0, False) == ""
    assert tag_text(prediction, 0, False, named=False) == "0.88"  # the legend says the only class


def test_masks_have_a_colour_each_and_small_ones_lie_on_top():
    image = photograph()
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, 120:180, 220:280] = True  # inside the second, and listed before it
    masks[1, 60:240, 150:350] = True
    masks[2, 300:, 400:] = True  # touches the edge
    picture = pixels(draw_prediction(image, instances(masks=masks), legend=False, alpha=0.5))
    for index, (y, x) in enumerate(((150, 250), (80, 250), (330, 450))):
        below = image[y, x] if index != 0 else 0.5 * image[y, x] + 0.5 * np.array(palette(3)[1])
        assert near(picture[y, x], tuple(0.5 * below + 0.5 * np.array(palette(3)[index])), 2)
    assert near(picture[60, 250], palette(3)[1], 0)  # the outline
    assert near(picture[239, 250], palette(3)[1], 0)
    assert near(picture[300, 450], palette(3)[2], 0)
    assert not near(picture[359, 450], palette(3)[2], 10)  # none at the image's edge
    assert np.array_equal(picture[20:50], image[20:50])


def test_colour_tells_the_class_where_asked():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, :100, :100] = masks[1, 200:300, 200:300] = True
    prediction = instances(masks=masks, labels=torch.tensor([2, 2]))
    picture = pixels(draw_prediction(photograph(), prediction, color_by="class", alpha=1))
    assert near(picture[50, 50], palette(3)[2], 0)
    assert near(picture[250, 250], palette(3)[2], 0)
    picture = pixels(draw_prediction(photograph(), prediction, alpha=1))
    assert near(picture[50, 50], palette(2)[0], 0)
    assert near(picture[250, 250], palette(2)[1], 0)


def test_poses():
    image = photograph()
    points = torch.tensor([[[100.5, 100.5, 2], [200.5, 100.5, 2], [200.5, 200.5, 1], [300.5, 300.5, 0]]])
    picture = pixels(draw_prediction(image, instances(keypoints=points), legend=False, links=[(0, 1), (1, 2), (2, 3)]))
    color = palette(1)[0]
    assert near(picture[100, 100], color)
    assert near(picture[100, 150], color)  # a limb
    assert near(picture[150, 200], color)
    assert near(picture[200, 200], PAGE)  # not visible: a ring
    assert np.array_equal(picture[230:], image[230:])  # not labelled: neither joint nor limb
    points_only = pixels(draw_prediction(image, instances(keypoints=points), legend=False))
    assert np.array_equal(points_only[100, 150], image[100, 150])


@pytest.mark.parametrize(("name", "points"), [("coco", 17), ("lsp", 14)])
def test_skeletons_join_all_joints(name, points):
    assert {joint for link in SKELETONS[name].links for joint in link} == set(range(points))
    assert len(set(map(frozenset, SKELETONS[name].links))) == len(SKELETONS[name].links)
    draw_prediction(photograph(), instances(keypoints=torch.rand(2, points, 3) * 200), links=SKELETONS[name].links)


# --- boundaries, depth, normals ---


def test_boundaries_are_as_dark_as_they_are_strong():
    boundary = torch.zeros(SIZE)
    boundary[100], boundary[200] = 1.0, 0.4
    picture = pixels(draw_prediction(photograph(), instances(boundary=boundary)))
    assert picture.shape[:2] == SIZE
    strong, weak, none = (picture[row, 250] for row in (100, 200, 150))
    assert near(strong, (190, 20, 50), 0)
    assert strong[1] < weak[1] < none[1]


def test_near_is_lighter_than_far_and_unknown_is_grey():
    depth = torch.linspace(1, 3, 500).expand(SIZE).clone()
    depth[:50] = math.nan
    picture = pixels(draw_prediction(photograph(), instances(depth=depth)))
    lightness = oklab(picture[200, :500])[:, 0]
    assert lightness[0] > lightness[250] > lightness[499]
    assert (picture[:50, :500] == 224).all()
    fixed = pixels(draw_prediction(photograph(), instances(depth=depth), depth_range=(0, 10)))
    assert np.ptp(oklab(fixed[200, :500])[:, 0]) < 0.3 * np.ptp(lightness)


@pytest.mark.parametrize("depth", [torch.full(SIZE, 2.0), torch.full(SIZE, math.nan), torch.full(SIZE, math.inf)])
def test_depth_without_a_range(depth):
    draw_prediction(photograph(), instances(depth=depth))


@pytest.mark.parametrize("span", [(0.8, 4.1), (0.0, 80.0), (1.001, 1.004), (2000, 65000), (0.5, 1.5)])
def test_the_scale_of_depth_has_round_numbers(span):
    ticks = legends._round_numbers(*span)
    assert 2 <= len(ticks) <= 8
    assert all(span[0] - 1e-9 <= t <= span[1] + 1e-9 for t in ticks)
    assert all(len(f"{t:.10g}".replace(".", "").strip("0")) <= 5 for t in ticks)
    assert np.ptp(np.diff(ticks)) == pytest.approx(0, abs=1e-6)


def test_several_dense_maps_stand_in_a_row():
    prediction = instances(
        semantic=thirds(), depth=torch.rand(SIZE) + 1, normals=torch.rand(3, *SIZE), boundary=torch.rand(SIZE)
    )
    row = draw_prediction(photograph(), prediction)
    assert row.width > 4 * 500
    assert 360 < row.height < 430  # one height for all


# --- samples ---


def test_a_sample_is_drawn_as_its_prediction():
    image = tv_tensors.Image(torch.from_numpy(photograph()).permute(2, 0, 1))
    target = {"image_id": "a", "semantic": SemanticMask(thirds().to(torch.uint8))}
    a = draw_sample(image, target, CLASSES)
    assert np.array_equal(pixels(a), pixels(draw_prediction(photograph(), instances(semantic=thirds()))))


def test_a_sample_with_instances():
    boxes = torch.tensor([[10.0, 30, 90, 80], [200, 90, 300, 150]])
    labels = torch.tensor([0, 1])
    points = torch.rand(2, 3, 2) * 100
    visibility = torch.tensor([[2, 1, 0], [2, 2, 2]])
    size = {"canvas_size": SIZE}
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", **size),
        "labels": labels,
        "masks": tv_tensors.Mask(torch.zeros(2, *SIZE, dtype=torch.uint8)),
        "keypoints": tv_tensors.KeyPoints(points, **size),
        "visibility": visibility,
    }
    expected = instances(
        boxes=boxes,
        labels=labels,
        masks=torch.zeros(2, *SIZE).bool(),
        keypoints=torch.cat([points, visibility[..., None].float()], -1),
    )
    a = draw_sample(photograph(), target, CLASSES)  # type: ignore[arg-type]
    assert np.array_equal(pixels(a), pixels(draw_prediction(photograph(), expected)))


def test_what_is_ignored_is_grey():
    target = {
        "boxes": torch.tensor([[10.0, 30, 90, 80], [200, 90, 300, 150]]),
        "labels": torch.tensor([0, 1]),
        "ignore": torch.tensor([False, True]),
    }
    picture = pixels(draw_sample(photograph(), target, CLASSES, legend=False))  # type: ignore[arg-type]
    assert near(picture[60, 10], palette(3)[0])
    assert near(picture[120, 200], IGNORED)


def test_real_street(shared_data):
    from scenewise.data import open_data

    data = open_data(f"camvid:{shared_data('camvid')}", "val")
    image, target = data[0]
    picture = draw_sample(image, target, data.classes, data.colors, legend="right")
    assert picture.height == 360
    assert picture.width > 600


# --- rows ---


def test_side_by_side_has_one_height():
    row = side_by_side(
        [("image", photograph((30, 40))), ("truth", photograph()), ("prediction", photograph((720, 1000)))]
    )
    found = pixels(row)
    pen = Pen.of(720, 1000, 1, None)
    assert row.height == 720 + round(2.1 * pen.em) + pen.em
    assert row.width == 960 + 1000 + 1000 + 4 * pen.em
    head = round(2.1 * pen.em)
    assert (found[:head] != PAGE).any()  # titles
    assert np.array_equal(found[head : head + 720, -1000 - pen.em : -pen.em], photograph((720, 1000)))
    assert (found[:, : pen.em] == PAGE).all()
    assert (found[-pen.em :] == PAGE).all()


@pytest.mark.parametrize("side", ["right", "bottom"])
def test_legends_do_not_count_for_the_height(side):
    truth = draw_prediction(photograph(), instances(semantic=thirds()), legend=side)
    pen = Pen.of(360, 500, 1, None)
    head = round(2.1 * pen.em)
    row = pixels(side_by_side([("image", photograph()), ("truth", truth)]))
    assert np.array_equal(row[head : head + 360, pen.em : pen.em + 500], photograph())
    second = 500 + 2 * pen.em
    assert np.array_equal(row[head : head + truth.height, second : second + truth.width], pixels(truth))


def test_side_by_side_with_a_height():
    row = side_by_side([("a", photograph((400, 400)))], height=200)
    assert 200 < row.height < 250
    assert 200 < row.width < 240


def test_side_by_side_of_nothing():
    with pytest.raises(UsageError, match="no pictures"):
        side_by_side([])
