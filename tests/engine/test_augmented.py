"""Test-time augmentation and ensembles: identities, and the plain definition."""

import pytest
import torch
import torch.nn.functional as F

from scenewise.catalog import build
from scenewise.engine.augmented import Augmented, Ensemble
from scenewise.engine.tiles import Tiles
from scenewise.errors import UsageError
from scenewise.fields.keypoints import SKELETONS
from scenewise.fields.table import count, given, select
from scenewise.ops.views import View
from scenewise.types import Batch, Output, Skeleton

CLASSES = ("a", "b", "c")
SIDES = Skeleton(pairs=((0, 1),))
KERNEL = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))


def model(batch, kernel=KERNEL):
    logits = F.conv2d(batch.images, 3 * kernel, padding=1)
    return [
        Output(size=(h, w), semantic_logits=row[:, :h, :w]) for row, (h, w) in zip(logits, batch.sizes, strict=True)
    ]


def pointwise(batch):
    """Sees one pixel at a time, and so commutes with mirroring and turning."""
    kernel = torch.zeros_like(KERNEL)
    kernel[:, :, 1, 1] = KERNEL[:, :, 1, 1]
    return model(batch, kernel)


def images(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch.of([torch.rand(3, h, w, generator=generator) for h, w in sizes])


BATCH = ((12, 15), (9, 20), (12, 20))


def assert_same(found, wanted, average="logits"):
    for a, b in zip(found, wanted, strict=True):
        assert a.size == b.size
        scores = b.semantic_logits if average == "logits" else b.semantic_logits.log_softmax(0)
        torch.testing.assert_close(a.semantic_logits, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_one_view_is_the_image_itself(average, fusion):
    batch = images(*BATCH)
    assert_same(Augmented(flip=False, average=average, fusion=fusion)(model)(batch), model(batch), average)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_views_of_a_pointwise_model_agree(average, fusion):
    """Mirroring and turning are undone, in batches of images of different sizes too."""
    batch = images(*BATCH)
    augmented = Augmented(flip=True, quarter_turns=(0, 1, 2, 3), average=average, fusion=fusion)(pointwise)
    assert_same(augmented(batch), pointwise(batch), average)


def test_a_mirrored_image_has_the_mirrored_prediction():
    batch = images((12, 15))
    mirrored = Batch.of([batch.images[0].flip(-1)])
    augmented = Augmented(scales=(0.5, 1.0, 1.4), flip=True)(model)
    [straight], [back] = augmented(batch), augmented(mirrored)
    torch.testing.assert_close(back.semantic_logits.flip(-1), straight.semantic_logits, rtol=1e-4, atol=1e-4)
    alone = Augmented(flip=False)(model)
    assert not torch.allclose(alone(mirrored)[0].semantic_logits.flip(-1), alone(batch)[0].semantic_logits, atol=0.1)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scales_are_fused(average, fusion):
    image = torch.rand(1, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    views = []
    for size in ((5, 6), (10, 13), (15, 20)):  # half of 13 is 6.5, rounded to the even 6
        resized = F.interpolate(image, size=size, mode="bilinear", antialias=size[0] < 10) if size[0] != 10 else image
        logits = model(Batch(resized, [size]))[0].semantic_logits
        logits = F.interpolate(logits[None], size=(10, 13), mode="bilinear")[0]
        views.append(logits if average == "logits" else logits.softmax(0))
    views = torch.stack(views)
    wanted = views.mean(0) if fusion == "mean" else views.amax(0)
    augmented = Augmented(scales=(0.5, 1.0, 1.5), flip=False, average=average, fusion=fusion)
    [found] = augmented(model)(Batch.of([image[0]]))
    found = found.semantic_logits if average == "logits" else found.semantic_logits.exp()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_averaged_probabilities_come_back_from_the_softmax():
    [found] = Augmented(scales=(0.7, 1.0), flip=True)(model)(images((12, 15)))
    probabilities = found.semantic_logits.exp()
    torch.testing.assert_close(found.semantic_logits.softmax(0), probabilities)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(12, 15))


def test_views_are_padded_as_the_model_wants():
    seen = []

    def record(batch):
        seen.append(tuple(batch.images.shape[-2:]))
        return model(batch)

    Augmented(scales=(1.0, 0.5), flip=False, size_divisor=8)(record)(images((20, 13)))
    assert seen == [(24, 16), (16, 8)]


def test_an_ensemble_of_one_model_is_the_model():
    batch = images(*BATCH)
    for average in ("logits", "probabilities"):
        assert_same(Ensemble((model, model, model), average=average)(batch), model(batch), average)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0), (2.0, 6.0)])
def test_an_ensemble_averages(weights):
    batch = images((6, 7))
    found = Ensemble((model, pointwise), weights)(batch)[0].semantic_logits.exp()
    one, other = (m(batch)[0].semantic_logits.softmax(0) for m in (model, pointwise))
    torch.testing.assert_close(found, (one + other) / 2 if weights is None else (one + 3 * other) / 4)


def test_procedures_compose():
    batch = images((12, 15), (9, 20))
    predictor = Ensemble((Augmented()(Tiles((8, 8), 0.5, "gaussian")(pointwise)), pointwise))
    assert_same(predictor(batch), pointwise(batch), "probabilities")


def finder(batch, jitter=0.0):
    """Finds one bright rectangle in each colour, with all that a prediction says of objects; sees what it is shown."""
    found = []
    for image, (h, w) in zip(batch.images, batch.sizes, strict=True):
        masks = image[:, :h, :w] > 0.5
        boxes, frames, points = [], [], []
        for mask in masks:
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            x1, y1, x2, y2 = (float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            boxes.append([x1 + jitter, y1, x2 + jitter, y2])
            points.append([[x1, y1, 2], [x2, y1, 1]])  # a left and a right joint
            inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float()
            frames.append(F.interpolate(inside[None, None], size=(4, 4), mode="nearest-exact")[0, 0])
        scores = torch.tensor([0.9, 0.8, 0.7])
        fields = {"masks": masks, "roi_masks": torch.stack(frames), "keypoints": torch.tensor(points)}
        labels = torch.arange(3)
        found.append(Output((h, w), boxes=torch.tensor(boxes), labels=labels, scores=scores, **fields))
    return found


def rectangles():
    """Three rectangles, each with a notch at its upper left corner."""
    image = torch.zeros(3, 40, 60)
    for channel, (x1, y1, x2, y2) in enumerate([(4, 8, 24, 20), (20, 4, 56, 36), (40, 20, 48, 28)]):
        image[channel, y1:y2, x1:x2] = 1
        image[channel, y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = 0
        image[channel, y1 : y1 + 4, x2 - 4 : x2] = 1
        image[channel, y2 - 4 : y2, x1 : x1 + 4] = 1
    return Batch.of([image])


@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.5, 1.0, 2.0)}, {"quarter_turns": (1, 2, 3)}])
def test_views_of_objects_come_back_to_the_image(options):
    batch = rectangles()
    [alone] = finder(batch)
    [fused] = Augmented(**({"flip": False} | options), skeleton=SIDES)(finder)(batch)
    assert (fused.size, count(fused)) == ((40, 60), 3)  # what the views share is there once
    names = ["boxes", "labels", "scores", "masks", "roi_masks"]
    if "flip" in options:
        names.append("keypoints")  # of a turned image, another corner is the upper left one
    for name in names:
        torch.testing.assert_close(getattr(fused, name), getattr(alone, name), msg=name)


def test_each_view_is_put_back_where_it_came_from():
    batch = rectangles()
    for turns in range(4):
        for flip in (False, True):
            augmented = Augmented(scales=(0.5,), flip=flip, quarter_turns=(turns,), nms_iou=1.0, skeleton=SIDES)
            [fused] = augmented(finder)(batch)
            for boxes in fused.boxes.reshape(-1, 3, 4) if not flip else [fused.boxes[::2], fused.boxes[1::2]]:
                torch.testing.assert_close(boxes, finder(batch)[0].boxes)


def test_views_without_objects():
    def nothing(batch):
        return [select(output, torch.zeros(3, dtype=torch.bool)) for output in finder(batch)]

    [found] = Augmented(scales=(0.5, 1.0), quarter_turns=(0, 1), skeleton=SIDES)(nothing)(rectangles())
    assert count(found) == 0
    assert found.masks.shape == (0, 40, 60)
    assert found.keypoints.shape == (0, 2, 3)


def test_left_and_right_keypoints_of_a_mirrored_view_change_places():
    """The finder sees the joint on the left well; in the mirror image that is the right one."""
    batch = rectangles()
    [alone] = finder(batch)
    [fused] = Augmented(flip=True, nms_iou=1.0, skeleton=SIDES)(finder)(batch)
    plain, mirrored = fused.keypoints[::2], fused.keypoints[1::2]  # of equal scores, the first view's comes first
    torch.testing.assert_close(plain, alone.keypoints)
    torch.testing.assert_close(mirrored[..., :2], alone.keypoints[..., :2])
    assert mirrored[..., 2].tolist() == [[1, 2]] * 3


def test_views_that_disagree_are_united_and_suppress_each_other():
    batch = rectangles()
    near = lambda batch: finder(batch, jitter=1.0)  # noqa: E731
    far = lambda batch: finder(batch, jitter=30.0)  # noqa: E731
    [fused] = Ensemble((finder, near))(batch)
    torch.testing.assert_close(fused.boxes, finder(batch)[0].boxes)
    [fused] = Ensemble((finder, near), nms_iou=0.99)(batch)
    assert count(fused) == 6
    [fused] = Ensemble((finder, far))(batch)
    assert count(fused) == 6
    assert fused.scores.tolist() == sorted(fused.scores.tolist(), reverse=True)


def test_proposals_move_with_the_image():
    boxes = torch.tensor([[4.0, 8, 24, 20], [20, 4, 56, 36], [40, 20, 48, 28]])
    batch = rectangles()
    batch.inputs = {"proposals": [boxes]}
    seen = []

    def detector(batch):
        [found] = finder(batch)
        torch.testing.assert_close(batch.inputs["proposals"][0], found.boxes)
        seen.append(batch.sizes[0])
        return [found]

    Augmented(scales=(0.5, 1.0), flip=True, quarter_turns=(0, 1, 2, 3), skeleton=SIDES)(detector)(batch)
    assert set(seen) == {(20, 30), (30, 20), (40, 60), (60, 40)}
    assert len(seen) == 16


def test_what_can_not_be_fused_is_refused():
    def labeller(batch):
        return [Output(size, semantic=torch.zeros(size).long()) for size in batch.sizes]

    def pointer(batch):
        return [Output(size, keypoints=torch.ones(1, 2, 3), scores=torch.ones(1)) for size in batch.sizes]

    with pytest.raises(
        UsageError, match="test-time augmentation: semantic can't be fused over several views or models"
    ):
        Augmented()(labeller)(rectangles())
    with pytest.raises(UsageError, match="ensemble: semantic can't be fused"):
        Ensemble((labeller, labeller))(rectangles())
    with pytest.raises(UsageError, match="united by their boxes and scores; this model's have no boxes"):
        Augmented(skeleton=SIDES)(pointer)(rectangles())
    for skeleton, message in ((None, "which these are is not known"), (SKELETONS["coco"], "keypoint 16; there are 2")):
        with pytest.raises(UsageError, match=message):
            Augmented(skeleton=skeleton)(finder)(rectangles())
    with pytest.raises(UsageError, match="tiles: maps of pixels can be joined, and this model fills labels"):
        Tiles((40, 60))(finder)(rectangles())
    batch = rectangles()
    batch.inputs = {"proposals": [torch.zeros(1, 4)]}
    with pytest.raises(UsageError, match="an image's proposals can't be cut into tiles"):
        Tiles((40, 60))(model)(batch)


def mapper(batch):
    """Fills every kind of map with something that the place alone decides."""
    outputs = []
    for image, (h, w) in zip(batch.images, batch.sizes, strict=True):
        x = image[0, :h, :w]
        normals = torch.stack((x - 0.5, image[1, :h, :w] - 0.5, torch.full_like(x, -1.0)))
        maps = {
            "semantic_logits": image[:, :h, :w],
            "boundary": x,
            "depth": 1 + x,
            "normals": normals / normals.norm(dim=0),
        }
        outputs.append(Output((h, w), **maps, flow=normals[:2], embedding=image[:, :h, :w].mean((1, 2))))
    return outputs


def test_every_map_is_fused_and_none_is_dropped():
    """Two of a kind give what one gives; a flipped view's vectors are turned back with it."""
    batch = images((12, 16))
    wanted = given(mapper(batch)[0])
    for fused in (
        Augmented(average="logits", flip=False, scales=(1.0, 1.0))(mapper),
        Ensemble((mapper, mapper), average="logits"),
    ):
        found = given(fused(batch)[0])
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, msg=name)
    flipped = given(Augmented(average="logits")(mapper)(batch)[0])
    assert list(flipped) == list(wanted)
    for name in ("boundary", "depth", "semantic_logits"):
        torch.testing.assert_close(flipped[name], wanted[name], msg=name)
    torch.testing.assert_close(flipped["flow"][0], torch.zeros(12, 16))  # the mean of a movement and its mirror image
    torch.testing.assert_close(flipped["flow"][1], wanted["flow"][1])
    torch.testing.assert_close(flipped["normals"].norm(dim=0), torch.ones(12, 16))


@pytest.mark.parametrize(("turns", "flip"), [(1, False), (2, False), (3, False), (0, True), (1, True), (3, True)])
def test_vectors_turn_with_their_view(turns, flip):
    """A vector that points to a pixel points to the same pixel in every view."""
    view = View.of((4, 6), turns, flip)
    start, end = torch.tensor([1.5, 2.5]), torch.tensor([4.5, 0.5])
    corners = torch.stack((torch.cat((start, start)), torch.cat((end, end))))
    moved = view.boxes(corners)[:, :2]
    there = (moved[1] - moved[0])[:, None, None].expand(2, *view.size)
    back = view.vectors_back(view.map_back(there))
    torch.testing.assert_close(back, (end - start)[:, None, None].expand(2, 4, 6))


def test_unknown_depth_stays_unknown_where_no_view_knows_it():
    def half(batch, left=True):
        depth = torch.full(batch.sizes[0], 2.0)
        depth[:, : depth.shape[1] // 2 if left else 2] = torch.nan
        return [Output(batch.sizes[0], depth=depth)]

    [fused] = Ensemble((half, lambda batch: half(batch, left=False)))(images((4, 8)))
    assert fused.depth[:, :2].isnan().all()
    assert (fused.depth[:, 2:] == 2).all()


def test_views_that_fill_other_fields_are_refused():
    depth = lambda batch: [Output(size, depth=torch.ones(size)) for size in batch.sizes]  # noqa: E731
    with pytest.raises(UsageError, match="ensemble: one has semantic_logits, another depth"):
        Ensemble((model, depth))(images((5, 5)))


def test_wrong_settings_are_refused():
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(UsageError, match="expected one or more positive numbers"):
            Augmented(scales=scales)
    with pytest.raises(UsageError, match="quarter_turns is empty"):
        Augmented(quarter_turns=())
    with pytest.raises(UsageError, match="there is no predictor"):
        Ensemble(())
    for weights in ((1.0,), (1.0, 0.0)):
        with pytest.raises(UsageError, match="expected a positive number for each of the 2 predictors"):
            Ensemble((model, model), weights)


def test_models_of_other_classes_are_refused():
    models = [build("unet", classes, width=1, depth=1, padding="same") for classes in (CLASSES, ("a", "b", "d"))]
    with pytest.raises(UsageError, match="the models' classes disagree: a, b, c and a, b, d"):
        Ensemble(tuple(models))
    two = lambda batch: [Output(o.size, semantic_logits=o.semantic_logits[:2]) for o in model(batch)]  # noqa: E731
    with pytest.raises(UsageError, match="scores of 3 classes can't be fused with those of 2"):
        Ensemble((model, two))(images((5, 5)))


def test_the_maximum_of_objects_is_refused():
    def objects(batch):
        return [Output(size, boxes=torch.zeros(0, 4), scores=torch.zeros(0)) for size in batch.sizes]

    with pytest.raises(UsageError, match="the maximum is of maps, and this model fills scores, boxes"):
        Augmented(fusion="max")(objects)(Batch.of([torch.rand(3, 6, 9)]))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(UsageError, match="expected one or more positive numbers"):
        Augmented(scales=(1.0, scale))
