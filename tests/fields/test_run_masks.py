"""RunMasks: whatever is done to them gives the pixels that the same would give of bitmaps."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from scenewise.fields import run_masks
from scenewise.fields.run_masks import RunMasks
from scenewise.ops import rle
from scenewise.ops.runs import Runs


def bitmaps(count=5, height=37, width=53, seed=0):
    """Masks of every kind: none, all, blobs, single pixels, noise."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), bool)
    for k, mask in enumerate(masks):
        kind = (k + seed) % 5
        if kind == 1:
            mask[:] = True
        elif kind == 2:
            mask[height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = True
        elif kind == 3:
            mask[:] = rng.random((height, width)) < 0.5
        elif kind == 4:
            mask[rng.integers(height), rng.integers(width)] = True
    return masks


def pair(**options):
    masks = bitmaps(**options)
    return RunMasks.of(Runs.of_bitmaps(masks)), tv_tensors.Mask(torch.from_numpy(masks))


def same(found, expected):
    assert isinstance(found, tv_tensors.Mask)
    assert found.dtype == expected.dtype == torch.bool
    assert tuple(found.shape) == tuple(expected.shape)
    assert torch.equal(found.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))


STEPS = {
    "resize": lambda m: F.resize(m, [20, 71]),
    "resize to one side": lambda m: F.resize(m, [23], max_size=40),
    "enlarge": lambda m: F.resize(m, [111, 160]),
    "resize exactly": lambda m: F.resize(m, [20, 71], InterpolationMode.NEAREST_EXACT),
    "crop": lambda m: F.crop(m, 3, 7, 20, 30),
    "crop beyond": lambda m: F.crop(m, -4, 40, 60, 40),
    "crop to nothing": lambda m: F.crop(m, 200, 300, 5, 6),
    "resized crop": lambda m: F.resized_crop(m, 3, 7, 20, 30, [50, 41]),
    "resized crop exactly": lambda m: F.resized_crop(m, 3, 7, 20, 30, [50, 41], InterpolationMode.NEAREST_EXACT),
    "mirror": F.horizontal_flip,
    "upend": F.vertical_flip,
    "pad": lambda m: F.pad(m, [1, 2, 3, 4]),
    "pad two": lambda m: F.pad(m, [5, 6]),
    "pad one": lambda m: F.pad(m, 3),
    "pad with ones": lambda m: F.pad(m, [1, 2, 3, 4], fill=1),
    "pad with the edge": lambda m: F.pad(m, [1, 2, 3, 4], padding_mode="edge"),
    "pad by reflection": lambda m: F.pad(m, [1, 2, 3, 4], padding_mode="reflect"),
    "pad symmetrically": lambda m: F.pad(m, [1, 2, 3, 4], padding_mode="symmetric"),
    "center crop": lambda m: F.center_crop(m, [30, 70]),
}
TURNS = {
    "affine": lambda m: F.affine(m, angle=20.0, translate=[3, 4], scale=1.2, shear=[5.0, 0.0]),
    "rotate": lambda m: F.rotate(m, 30.0, expand=True),
    "perspective": lambda m: F.perspective(
        m, [[0, 0], [52, 0], [52, 36], [0, 36]], [[2, 3], [50, 0], [52, 36], [0, 30]]
    ),
    "elastic": lambda m: F.elastic(m, torch.full((1, *m.shape[1:], 2), 0.1)),
}


@pytest.mark.parametrize("step", [*STEPS.values(), *TURNS.values()], ids=[*STEPS, *TURNS])
def test_equal_to_bitmaps(step):
    runs, bits = pair()
    found = step(runs)
    assert found.is_runs
    same(found, step(bits))
    same(step(found), step(step(bits)))  # now of a bitmap


@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=5), st.integers(0, 4), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_chains_of_steps(names, seed, height):
    runs, bits = pair(seed=seed, height=height)
    for name in names:
        try:
            bits = STEPS[name](bits)
        except (IndexError, RuntimeError, ValueError):  # a reflection wider than the mask
            return
        runs = STEPS[name](runs)
        assert runs.is_runs
    same(runs, bits)


@pytest.mark.parametrize("height", [1, 2, 7, 1000, 3024])
@pytest.mark.parametrize("side", [1, 3, 333, 1001, 4032])
def test_nearest_rows(height, side):
    """The row that a resized mask takes is torch's, to the last bit of its arithmetic."""
    runs, bits = pair(count=3, height=height, width=3, seed=2)
    same(F.resize(runs, [side, 5]), F.resize(bits, [side, 5]))


def test_what_a_transform_is_told_of_masks():
    step = v2.Pad(2, fill={tv_tensors.Mask: 1, "others": 0})
    steps = v2.Compose([step])
    runs, bits = pair()
    run_masks.know_run_masks(steps)
    same(steps(runs), steps(bits))
    assert steps(runs).as_subclass(torch.Tensor)[:, 0].all()
    run_masks.know_run_masks(lambda *sample: sample)


def test_without_objects():
    runs, bits = pair(count=0)
    same(
        F.pad(F.crop(F.resize(runs, [30, 40]), 1, 2, 10, 50), [1, 1]),
        F.pad(F.crop(F.resize(bits, [30, 40]), 1, 2, 10, 50), [1, 1]),
    )
    assert runs.runs().codes() == []


def test_pieces_of_turns(monkeypatch):
    monkeypatch.setattr(run_masks, "PIECE", 1)
    runs, bits = pair()
    assert len(list(runs.pieces())) == len(runs)
    same(F.rotate(runs, 30.0), F.rotate(bits, 30.0))


def test_no_bitmap_until_it_is_asked_for(monkeypatch):
    runs, _ = pair()
    monkeypatch.setattr(Runs, "bitmaps", lambda *_: pytest.fail("a bitmap was made"))
    assert (tuple(runs.shape), runs.dtype, runs.ndim, runs.dim()) == ((5, 37, 53), torch.bool, 3, 3)
    assert (len(runs), runs.numel(), runs.size(1), runs.device.type) == (5, 5 * 37 * 53, 37, "cpu")
    again = pickle.loads(pickle.dumps(copy.deepcopy(F.horizontal_flip(F.resize(runs, [10, 10])))))
    assert again.is_runs
    assert again[torch.tensor([True, False, True, False, False])].shape == (2, 10, 10)
    assert again[1:3].is_runs
    assert tv_tensors.wrap(again[[0, 2]], like=again).is_runs
    image = tv_tensors.Image(torch.zeros(3, 37, 53, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[0, 0, 9, 9]] * 5), format="XYXY", canvas_size=(37, 53))
    target = {"masks": runs, "boxes": boxes, "labels": torch.arange(5)}
    steps = [v2.ScaleJitter((20, 20)), v2.RandomCrop((20, 20), pad_if_needed=True), v2.RandomHorizontalFlip(1.0)]
    assert v2.Compose([*steps, v2.RandomResizedCrop((9, 9)), v2.SanitizeBoundingBoxes()])(image, target)[1][
        "masks"
    ].is_runs


@pytest.mark.parametrize(
    "index", [slice(1, 4), slice(None, None, 2), [3, 0], torch.tensor([4, 4]), np.array([True, False] * 2 + [True]), []]
)
def test_some_of_them(index):
    runs, bits = pair()
    expected = bits.as_subclass(torch.Tensor).numpy()[index if not isinstance(index, list) else np.array(index, int)]
    assert np.array_equal(runs[index].as_subclass(torch.Tensor).numpy(), expected)


def test_other_uses_are_those_of_bitmaps():
    runs, bits = pair()
    assert torch.equal(runs.flatten(1).any(1), bits.flatten(1).any(1))
    assert not runs.is_runs
    runs, bits = pair()
    runs[0] = True  # changes these masks, not a copy of them
    bits[0] = True
    same(runs, bits)
    runs, bits = pair()
    same(torch.stack([runs, runs]).as_subclass(tv_tensors.Mask), torch.stack([bits, bits]).as_subclass(tv_tensors.Mask))
    runs, bits = pair()
    assert np.array_equal(np.asarray(runs), np.asarray(bits))
    same(pickle.loads(pickle.dumps(runs)), bits)
    runs, bits = pair()
    assert torch.equal(runs.clone(), bits)
    assert (runs[2, 3:5] == bits[2, 3:5]).all()


def test_codes_areas_and_boxes():
    masks = bitmaps(count=10, seed=1)
    runs = Runs.of_bitmaps(masks)
    assert runs.codes() == rle.encode(masks)
    assert runs.areas().tolist() == masks.sum((1, 2)).tolist()
    assert runs.boxes().tolist() == [list(rle.bbox(code)) for code in rle.encode(masks)]
    turned = F.resize(F.horizontal_flip(RunMasks.of(runs)), [20, 20])
    assert turned.runs().codes() == rle.encode(
        F.resize(F.horizontal_flip(tv_tensors.Mask(torch.from_numpy(masks))), [20, 20]).numpy()
    )


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=12))
def test_runs_that_overlap(spans):
    bits = np.zeros(12 * 6, bool)
    starts, ends = np.array([s for s, _ in spans], np.int64), np.array([s + n for s, n in spans], np.int64)
    for start, end in zip(starts, ends, strict=True):
        bits[start:end] = True
    runs = Runs.of([(starts, ends)], (12, 6))
    assert np.array_equal(runs.bitmaps(np.arange(12), np.arange(6))[0], bits.reshape(6, 12).T)
    assert runs.codes() == rle.encode(np.ascontiguousarray(bits.reshape(6, 12).T))
