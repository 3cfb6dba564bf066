"""Sliding windows: the dense path equals the crops, windows are where they should be, and it learns."""

from __future__ import annotations

import pytest
import torch

from scenewise.catalog import build
from scenewise.errors import UsageError
from scenewise.nn.roi_heads import RoISampler
from scenewise.ops.boxes import DetectionSpec, box_iou
from scenewise.systems.detection.sliding_window import PyramidSpec, SlidingWindow, num_windows
from scenewise.types import Batch
from scenewise.weights.checkpoint import load_checkpoint, save_checkpoint

CLASSES = ("dark", "light")
SMALL = {
    "backbone": "resnet10t",
    "level": 2,  # stride 8
    "window": 24,
    "stride": 8,
    "pyramid": PyramidSpec(sides=(24.0,)),
}


@pytest.fixture(scope="module")
def valid():
    """A network that pads nothing, with an odd number of cells in between."""
    torch.manual_seed(0)
    options = {"padding": "valid", "window": 40, "stride": 4, "level": 2, "pyramid": PyramidSpec(sides=(30.0, 44.0))}
    model = SlidingWindow(CLASSES, backbone="vgg11", **options).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


@torch.no_grad()
def test_the_dense_path_equals_the_crops_where_nothing_is_padded(valid):
    image = torch.rand(3, 50, 71, generator=torch.Generator().manual_seed(0))
    dense, crops = (valid.window_logits(image, dense=d) for d in (True, False))
    assert len(crops) == len(valid.windows((50, 71))) > 100
    assert crops.std(0).min() > 0.01  # windows differ
    # float32 sums in another order, and resizing that rounds sampling points otherwise
    torch.testing.assert_close(dense, crops, atol=1e-3 * float(crops.std()), rtol=1e-3)


@torch.no_grad()
def test_the_dense_path_takes_every_second_window_at_twice_the_stride(valid):
    image = torch.rand(3, 48, 60, generator=torch.Generator().manual_seed(0))
    valid.stride = 8
    try:
        dense, crops = (valid.window_logits(image, dense=d) for d in (True, False))
    finally:
        valid.stride = 4
    torch.testing.assert_close(dense, crops, atol=1e-3 * float(crops.std()), rtol=1e-3)


@torch.no_grad()
def test_a_padding_network_sees_the_surroundings_in_the_dense_path():
    torch.manual_seed(0)
    model = SlidingWindow(CLASSES, **SMALL).eval()
    image = torch.rand(3, 40, 40)
    assert not torch.allclose(*(model.window_logits(image, dense=d) for d in (True, False)), rtol=1e-3, atol=1e-6)


def test_windows_tile_the_image_and_their_number_is_the_formulas():
    model = SlidingWindow(CLASSES, **{**SMALL, "pyramid": PyramidSpec(sides=(24.0, 48.0), ratios=(1.0, 4.0))})
    size = (72, 96)
    windows = model.windows(size)
    expected = []
    for height, width in ((24, 24), (48, 12), (48, 48), (96, 24)):  # the last is higher than the image
        rows = [y for y in range(0, 72 * 24, height * 8) if y + height * 24 <= 72 * 24]
        columns = [x for x in range(0, 96 * 24, width * 8) if x + width * 24 <= 96 * 24]
        expected += [(x / 24, y / 24, x / 24 + width, y / 24 + height) for y in rows for x in columns]
    torch.testing.assert_close(windows, torch.tensor(expected))
    assert (
        num_windows(72, 24, 8) * num_windows(96, 24, 8)
        == 7 * 10
        == int((windows[:, 2] - windows[:, 0] == 24)[:70].sum())
    )
    assert num_windows(10, 24, 8) == 0


def test_the_pyramid_steps_by_a_share_of_an_octave():
    shapes = PyramidSpec(smallest=32, octaves=2, scales_per_octave=3).shapes()
    assert len(shapes) == 7 * 3
    assert shapes[1] == (32, 32)
    assert shapes[4][0] == pytest.approx(32 * 2 ** (1 / 3))
    assert shapes[-2] == (128, 128)
    for height, width in shapes[:3]:
        assert height * width == pytest.approx(32**2)
    assert [h / w for h, w in shapes[:3]] == pytest.approx([0.5, 1, 2])


def squares(seed: int, count: int) -> Batch:
    """Gray images with one dark or light square of 24 pixels at a multiple of 8."""
    rng = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for _ in range(count):
        image = 0.5 + 0.02 * torch.randn(3, 56, 64, generator=rng)
        y, x = (int(torch.randint(0, n, (), generator=rng)) * 8 for n in (5, 6))
        label = int(torch.randint(0, 2, (), generator=rng))
        image[:, y : y + 24, x : x + 24] += 0.6 * label - 0.3
        images.append(image.clamp(0, 1))
        targets.append({"boxes": torch.tensor([[x, y, x + 24.0, y + 24.0]]), "labels": torch.tensor([label])})
    return Batch.of(images, targets)


def test_it_learns_to_find_squares():
    torch.manual_seed(0)
    model = SlidingWindow(CLASSES, **SMALL, sampler=RoISampler(samples=16, positive_fraction=0.5))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(25):
        loss = model.train().losses(squares(step, 4))["class"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    held_out = squares(1000, 12)
    right = []
    for found, target in zip(model.eval().predict(held_out), held_out.targets, strict=True):
        box, label = found.boxes[:1], found.labels[:1]
        right.append(len(box) > 0 and bool(box_iou(box, target["boxes"]) >= 0.5) and label == target["labels"])
    assert sum(map(bool, right)) >= 8  # by chance: about one window in nine, and then the right class


@pytest.mark.parametrize("options", [{}, {"pooling": "full", "dense": False, "stride": 5}])
def test_options_train_and_survive_a_checkpoint(options, tmp_path):
    torch.manual_seed(0)
    model = build("sliding-window", CLASSES, **{**SMALL, **options, "detections": DetectionSpec(score=0.1)})
    batch = squares(0, 2)
    model.train().losses(batch)["class"].backward()
    assert all(p.grad is not None for p in model.parameters())
    save_checkpoint(model, tmp_path / "m.safetensors")
    again = load_checkpoint(tmp_path / "m.safetensors")
    for a, b in zip(model.eval().predict(batch), again.predict(batch), strict=True):
        assert len(a.boxes) > 0
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.boxes, b.boxes)


def test_an_image_that_no_window_fits_into():
    torch.manual_seed(0)
    model = SlidingWindow(CLASSES, **SMALL)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    batch = Batch.of([torch.rand(3, 12, 70)] * 2, [target] * 2)
    assert torch.isfinite(model.losses(batch)["class"])
    assert [len(p.boxes) for p in model.eval().predict(batch)] == [0, 0]


def test_errors_name_the_option():
    with pytest.raises(UsageError, match="stride is 20; with dense, expected a multiple of 8"):
        SlidingWindow(CLASSES, **{**SMALL, "stride": 20})
    with pytest.raises(UsageError, match=r"can't read a window of 24 pixels .* larger window"):
        SlidingWindow(CLASSES, backbone="vgg11", padding="valid", window=24, stride=8, level=3)
