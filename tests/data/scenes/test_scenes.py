"""The built-in generator: the same picture always, labels that agree with one another and with the geometry."""

import hashlib
import itertools
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from scenewise.data.loader import Epochs, plain, training_batches
from scenewise.data.scenes.rendering import FIRST_THING
from scenewise.data.scenes.scenes import CLASSES, FIELDS, FIGURE, THINGS, Scene, Scenes, boundary, tight_boxes
from scenewise.errors import UsageError
from scenewise.fields.dense import NormalMap
from scenewise.fields.keypoints import KeyPoints, Visibility
from scenewise.fields.semantic import SemanticMask
from scenewise.types import Batch

SMALL = "size=64x96,count=60"  # not square, so that mixed-up axes show


def scenes(options: str = SMALL, split: str = "train") -> Scenes:
    return Scenes(Path(options), split)


@pytest.fixture(scope="module")
def samples():
    return list(scenes())


def digest(sample) -> str:
    """One number for all bytes of a sample but its name."""
    image, target = plain(*sample)
    result = hashlib.sha256(image.numpy().tobytes())
    for key in sorted(target.keys() - {"image_id"}):
        result.update(target[key].numpy().tobytes())
    return result.hexdigest()


# -------------------------------------------------------------------------------------------------------- determinism


def test_an_image_follows_from_seed_split_and_index_alone():
    data = scenes()
    forwards = [digest(data[i]) for i in range(8)]
    assert [digest(scenes("count=9,size=64x96")[i]) for i in reversed(range(8))] == forwards[::-1]
    others = [digest(d[i]) for i in range(8) for d in (scenes(SMALL, "val"), scenes(SMALL + ",seed=1"))]
    assert len(set(forwards + others)) == 24


def test_an_image_is_the_same_in_another_process():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_scenes import *; import numpy; numpy.random.seed(7);"
        "print(digest(scenes()[3]), digest(scenes()[1]))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert printed == [digest(scenes()[3]), digest(scenes()[1])]


def test_workers_and_pickling_change_nothing():
    data = pickle.loads(pickle.dumps(scenes()))
    order = Epochs(8, 4, seed=0, epoch=0)

    def first(workers: int) -> Batch:
        needs = frozenset({"semantic"})
        return next(iter(training_batches(data, order, transform=None, seed=0, needs=needs, workers=workers)))

    assert torch.equal(first(0).images, first(1).images)


def test_random_numbers_of_the_caller_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    scenes()[0]
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_splits_share_no_scene():
    pictures = {
        s: [scenes("count=30,size=32", s)[i][0].numpy().tobytes() for i in range(30)] for s in ("train", "val", "test")
    }
    for one, other in itertools.combinations(pictures.values(), 2):
        assert not set(one) & set(other)


def test_fields_do_not_change_the_picture_or_one_another():
    image, full = scenes()[2]
    for field in FIELDS:
        other, target = scenes(f"{SMALL},fields={field}")[2]
        assert torch.equal(other, image)
        assert field in target
        assert set(target) == scenes(f"{SMALL},fields={field}").fields | {"image_id"}
        for key, value in target.items():
            assert value == full[key] if key == "image_id" else torch.equal(value, full[key])


# ---------------------------------------------------------------------------------------- labels agree with each other


def test_types_and_shapes(samples):
    image, target = samples[0]
    count = len(target["labels"])
    assert isinstance(image, tv_tensors.Image)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 64, 96))
    expected = {
        "boxes": (tv_tensors.BoundingBoxes, torch.float32, (count, 4)),
        "labels": (torch.Tensor, torch.int64, (count,)),
        "ignore": (torch.Tensor, torch.bool, (count,)),
        "area": (torch.Tensor, torch.float32, (count,)),
        "masks": (tv_tensors.Mask, torch.bool, (count, 64, 96)),
        "keypoints": (KeyPoints.of(Scenes.skeleton), torch.float32, (count, 14, 2)),
        "visibility": (Visibility.of(Scenes.skeleton), torch.int64, (count, 14)),
        "semantic": (SemanticMask, torch.uint8, (64, 96)),
        "boundary": (tv_tensors.Mask, torch.float32, (64, 96)),
        "depth": (tv_tensors.Mask, torch.float32, (64, 96)),
        "normals": (NormalMap, torch.float32, (3, 64, 96)),
    }
    assert {k: (type(v), v.dtype, tuple(v.shape)) for k, v in target.items() if k != "image_id"} == expected
    assert target["boxes"].canvas_size == target["keypoints"].canvas_size == (64, 96)
    assert set(FIELDS) == set(expected)


def test_masks_are_disjoint_and_equal_the_class_map(samples):
    for _, target in samples:
        masks, semantic = target["masks"].numpy(), target["semantic"].numpy()
        assert (masks.sum(0) <= 1).all()
        from_masks = np.full(semantic.shape, 255)
        for mask, label in zip(masks, target["labels"].tolist(), strict=True):
            from_masks[mask] = label
        things = semantic < len(THINGS)
        assert (from_masks[things] == semantic[things]).all()
        assert (from_masks[~things] == 255).all()
        assert set(np.unique(semantic[~things])) <= {CLASSES.index("wall"), CLASSES.index("ground")}
        assert (target["labels"] < len(THINGS)).all()


def test_boxes_and_areas_are_those_of_the_masks(samples):
    for _, target in samples:
        inclusive = masks_to_boxes(target["masks"])  # torchvision's end at the last pixel, ours behind it
        assert torch.equal(target["boxes"].as_subclass(torch.Tensor), inclusive + torch.tensor([0.0, 0, 1, 1]))
        assert torch.equal(target["area"], target["masks"].sum((1, 2)).float())
        assert (target["area"] > 0).all()


def test_all_classes_occur_and_some_images_are_empty():
    data = scenes("size=32,count=300,fields=labels+semantic+boxes+masks+keypoints")
    targets = [target for _, target in data]
    counts = torch.bincount(torch.cat([t["labels"] for t in targets]), minlength=len(CLASSES))
    assert (counts[: len(THINGS)] > 40).all()
    assert (counts[len(THINGS) :] == 0).all()
    empty = [t for t in targets if not len(t["labels"])]
    assert 1 <= len(empty) <= 0.15 * len(targets)
    assert empty[0]["boxes"].shape == (0, 4)
    assert empty[0]["masks"].shape == (0, 32, 32)
    assert empty[0]["keypoints"].shape == (0, 14, 2)


def test_ignore_marks_what_is_hardly_seen():
    """Less than 15 % of what the image would show of the thing if nothing hid it, or of the image less than 0.05 %."""
    data = scenes("size=128,count=500,fields=ignore+area")
    hidden = tiny = 0
    for index in (*range(40), 430, 431):  # the last two have things of which the image's edge shows a little
        (_, target), scene = data[index], data.scene(index)
        whose = [k for k in range(len(scene.things)) if (scene.canvas.owner == FIRST_THING + k).any()]
        for k, ignore, area in zip(whose, target["ignore"].tolist(), target["area"].tolist(), strict=True):
            is_hidden, is_tiny = area < 0.15 * silhouette(scene, k).sum(), area < 0.0005 * 128 * 128
            assert ignore == (is_hidden or is_tiny)
            hidden, tiny = hidden + (is_hidden and not is_tiny), tiny + (is_tiny and not is_hidden)
    assert min(hidden, tiny) > 0


# --------------------------------------------------------------------------------------------------------------- poses


def test_keypoints_lie_within_the_figures():
    joints = seen = 0
    data = scenes()
    for index in range(30):
        (_, target), scene = data[index], data.scene(index)
        whose = [k for k in range(len(scene.things)) if (scene.canvas.owner == FIRST_THING + k).any()]
        for row, (k, label) in enumerate(zip(whose, target["labels"].tolist(), strict=True)):
            points, visibility = target["keypoints"][row], target["visibility"][row]
            if label != FIGURE:
                assert (visibility == 0).all()
                assert (points == 0).all()
                continue
            whole = silhouette(scene, k)
            assert (points[visibility == 0] == 0).all()
            for (x, y), v in zip(points[visibility > 0].tolist(), visibility[visibility > 0].tolist(), strict=True):
                assert whole[int(y), int(x)]
                assert v == 1 or target["masks"][row, int(y), int(x)]
                joints, seen = joints + 1, seen + (v == 2)
    assert 0.6 < seen / joints < 0.95  # most joints are seen, some are hidden


def silhouette(scene: Scene, k: int) -> np.ndarray:
    """The pixels [H,W] that thing ``k`` would own if nothing hid it: painted once more, on an empty canvas."""
    scene.canvas.depth[:], scene.canvas.owner[:] = np.inf, 0
    scene.things[k].draw(scene.canvas, 1)
    return scene.canvas.image(scene.canvas.owner) == 1


def test_left_is_on_the_right_of_a_figure_that_faces_the_camera():
    left, right = (Scenes.skeleton.names.index(f"{side}_shoulder") for side in ("left", "right"))
    facing = away = 0
    for index in range(60):
        scene = scenes().scene(index)
        for thing, label in zip(scene.things, scene.labels, strict=True):
            if label == FIGURE and abs(thing.forward[2]) > 0.5:
                x = scene.camera.project(thing.points)[:, 0]
                assert (x[left] > x[right]) == (thing.forward[2] < 0)
                facing, away = facing + (thing.forward[2] < 0), away + (thing.forward[2] > 0)
    assert facing > away > 0


def test_flip_pairs_are_left_and_right():
    names = Scenes.skeleton.names
    assert [(names[a], names[b]) for a, b in Scenes.skeleton.pairs] == [
        (n, n.replace("left", "right")) for n in names if n.startswith("left")
    ]
    assert {i for bone in Scenes.skeleton.links for i in bone} == set(range(len(names)))


# ------------------------------------------------------------------------------------------------------------ geometry


def test_normals_are_unit_vectors_and_face_the_camera(samples):
    for index, (_, target) in enumerate(samples):
        normals = target["normals"].numpy()
        np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)  # float32
        camera = scenes().scene(index).camera
        along_the_ray = normals[0] * camera.x + normals[1] * camera.y + normals[2]
        solid = target["semantic"].numpy() != FIGURE  # a figure's normals are those of a view without perspective
        assert (along_the_ray[solid] < 1e-3).all()


def test_normals_are_those_of_the_depth():
    """Central differences of the points behind the pixels, away from edges between things and between faces."""
    data = scenes("size=160,count=12")
    errors: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    for index in range(12):
        camera, (_, target) = data.scene(index).camera, data[index]
        depth, normals = target["depth"].double().numpy(), target["normals"].numpy()
        points = np.stack((depth * camera.x, depth * camera.y, depth))
        across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
        measured = np.cross(down, across, axis=0)
        measured /= np.linalg.norm(measured, axis=0)
        angle = np.degrees(np.arccos(np.clip((measured * normals[:, 1:-1, 1:-1]).sum(0), -1, 1)))
        semantic = target["semantic"].numpy()
        inner = np.ones(angle.shape, bool)
        for i, j in ((0, 1), (2, 1), (1, 0), (1, 2)):
            inner &= semantic[i : i + 158, j : j + 158] == semantic[1:-1, 1:-1]
        for label, name in enumerate(CLASSES):
            errors[name].append(angle[inner & (semantic[1:-1, 1:-1] == label)])
    for name, angles in errors.items():
        median, most = np.percentile(np.concatenate(angles), (50, 80))
        # Exact but for the differences' own error; figures have creases, and are drawn without perspective.
        assert (median, most) < ((6, 15) if name == "figure" else (0.3, 1.5)), name


def test_the_ground_is_a_level_plane(samples):
    for index, (_, target) in enumerate(samples[:10]):
        camera = scenes().scene(index).camera
        ground = target["semantic"].numpy() == CLASSES.index("ground")
        depth = target["depth"].numpy()
        np.testing.assert_allclose((depth * camera.y)[ground], camera.height, rtol=1e-5)
        assert (target["normals"].numpy()[:, ground] == np.array([[0], [-1], [0]])).all()


def test_a_ball_is_where_its_place_and_size_say():
    """The depth of each pixel of a ball puts the point behind it on the ellipsoid."""
    found = 0
    for index in range(30):
        scene = scenes().scene(index)
        camera, canvas = scene.camera, scene.canvas
        for k, (thing, label) in enumerate(zip(scene.things, scene.labels, strict=True)):
            if THINGS[label] == "ball":
                own = canvas.image(canvas.owner) == FIRST_THING + k
                depth = canvas.image(canvas.depth).astype(float)
                points = np.stack((depth * camera.x, depth * camera.y, depth))[:, own]  # [3,N]
                local = thing.rotation.T @ (points - thing.center[:, None]) / thing.solid.radii[:, None]
                np.testing.assert_allclose(np.linalg.norm(local, axis=0), 1, atol=5e-3)  # float32 at the rim
                found += own.sum()
    assert found > 500


def test_boundary_is_the_rim_of_what_is_in_front(samples):
    """The slow way: a pixel counts if a neighbour belongs to something else that is farther away."""
    _, target = samples[1]
    depth, semantic = target["depth"].numpy(), target["semantic"].numpy().astype(int)
    owner = semantic.copy()
    for k, mask in enumerate(target["masks"].numpy()):
        owner[mask] = 100 + k
    expected = np.zeros_like(depth)
    height, width = depth.shape
    for i, j in itertools.product(range(height), range(width)):
        for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= y < height and 0 <= x < width and owner[y, x] != owner[i, j] and depth[y, x] > depth[i, j]:
                expected[i, j] = 1
    assert (target["boundary"].numpy() == expected).all()
    assert 0.01 < expected.mean() < 0.3


# --------------------------------------------------------------------------------------------------------- transforms


def test_a_flip_moves_all_targets_together(samples):
    image, target = next(s for s in samples if (s[1]["visibility"] == 2).any())
    flipped_image, flipped = v2.RandomHorizontalFlip(p=1)(image, target)
    mirrored = target["masks"].numpy()[:, :, ::-1]
    assert torch.equal(flipped_image, image.flip(-1))
    assert (flipped["masks"].numpy() == mirrored).all()
    assert (flipped["boxes"].numpy() == tight_boxes(mirrored)).all()
    assert (flipped["semantic"].numpy() == target["semantic"].numpy()[:, ::-1]).all()
    assert (flipped["normals"].numpy() == target["normals"].numpy()[:, :, ::-1] * [[[-1]], [[1]], [[1]]]).all()
    for mask, points, seen in zip(mirrored, flipped["keypoints"], flipped["visibility"] == 2, strict=True):
        for x, y in points[seen].tolist():
            assert mask[
                int(y), int(np.ceil(x)) - 1
            ]  # a point on the left edge of its pixel comes to lie on the right one
    owners = (target["masks"].numpy() * np.arange(1, len(mirrored) + 1)[:, None, None]).sum(0) + 100
    owners = np.where(owners == 100, target["semantic"].numpy(), owners)
    depth = np.ascontiguousarray(target["depth"].numpy()[:, ::-1])
    assert (boundary(owners[:, ::-1], depth) == flipped["boundary"].numpy()).all()


# --------------------------------------------------------------------------------------------------- hard and lifelike


def test_colour_alone_does_not_tell_the_classes():
    """The best class for each of 512 colours, learned from 40 images, stays far from right on others."""
    data = scenes("size=64,count=60,fields=semantic")
    colors, labels = [], []
    for image, target in data:
        colors.append((image.numpy().astype(int) >> 5).reshape(3, -1).T @ [64, 8, 1])
        labels.append(target["semantic"].numpy().ravel().astype(int))
    votes = np.zeros((512, len(CLASSES)))
    np.add.at(votes, (np.concatenate(colors[:40]), np.concatenate(labels[:40])), 1)
    guess, truth = votes.argmax(1)[np.concatenate(colors[40:])], np.concatenate(labels[40:])
    ious = [
        ((guess == c) & (truth == c)).sum() / max(1, ((guess == c) | (truth == c)).sum()) for c in range(len(CLASSES))
    ]
    assert np.mean(ious) < 0.2


def test_pictures_are_neither_dark_nor_flat():
    for image, _ in scenes("size=64,count=40"):
        values = image.float()
        assert 15 < values.mean() < 230
        assert values.std() > 8


@pytest.mark.parametrize("size", ["32", "32x200", "200x32", "33x47"])
def test_any_size_works(size):
    data = scenes(f"size={size},count=6")
    for image, target in data:
        assert tuple(image.shape[1:]) == data.size == tuple(target["semantic"].shape)
        assert torch.isfinite(target["depth"]).all()
        assert (target["depth"] > 0).all()


# -------------------------------------------------------------------------------------------------------------- options


def test_defaults():
    assert [len(Scenes(Path(), split)) for split in ("train", "val", "test")] == [1000, 200, 200]
    data = Scenes()
    assert (data.size, data.source, data.image_id(3)) == ((128, 128), "scenes:", "train-0-000003")
    assert data.fields == set(FIELDS)
    assert len(data.classes) == len(data.colors) == len(set(data.colors))


def test_options():
    data = scenes("count=5,size=48x40,seed=3,fields=semantic+boxes,objects=2", "val")
    assert (len(data), data.size, data.source) == (
        5,
        (48, 40),
        "scenes:count=5,size=48x40,seed=3,fields=semantic+boxes,objects=2",
    )
    assert data.fields == {"semantic", "boxes", "labels", "ignore"}
    assert scenes("fields=keypoints").fields == {"keypoints", "visibility", "labels", "ignore"}
    assert max(len(target["labels"]) for _, target in data) <= 2
    assert all(not len(target["labels"]) for _, target in scenes("objects=0,count=5"))
    with pytest.raises(IndexError):
        data[5]


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ("", "trian", "there is no split 'trian'; did you mean 'train'"),
        ("conut=5", "train", "there is no option 'conut'; did you mean 'count'?; known: count, size, seed"),
        ("data/camvid", "train", "there is no option 'data/camvid'; known"),
        ("count", "train", "count has no value"),
        ("count=5,count=6", "train", "count is given twice"),
        ("count=0", "train", "count is '0'; expected a whole number from 1 to"),
        ("count=1e3", "train", "count is '1e3'; expected a whole number"),
        ("seed=-1", "train", "seed is '-1'; expected a whole number from 0"),
        ("size=128x", "train", "size is '128x'; expected height x width in pixels such as 128x160, each 32 to 4096"),
        ("size=8", "train", "size is '8'"),
        ("size=64x64x3", "train", "size is '64x64x3'"),
        ("fields=semantic+box", "train", "fields has 'box'; did you mean 'boxes'"),
        ("fields=", "train", "fields has ''; known: boxes"),
    ],
)
def test_bad_options_are_named(options, split, message):
    with pytest.raises(UsageError) as error:
        Scenes(Path(options), split)
    assert message in str(error.value)
