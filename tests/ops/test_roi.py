import math
from collections import OrderedDict

import pytest
import torch
from torchvision import ops
from torchvision.ops.poolers import LevelMapper

from scenewise.errors import UsageError
from scenewise.ops.roi import (
    assign_levels,
    crop_and_resize,
    gather_align,
    pool_levels,
    ps_roi_pool,
    roi_align,
    roi_pool,
    roi_warp,
)


def some_boxes(count, seed=0, side=64.0):
    draws = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * side
    return torch.cat((draws[:, :2] - 6, draws[:, :2] - 5 + draws[:, 2:]), dim=1)  # some reach over the border


def some_features(seed=0, images=3, channels=2, size=(16, 20)):
    return torch.randn(images, channels, *size, generator=torch.Generator().manual_seed(seed))


BOXES = [some_boxes(4, 1), torch.zeros(0, 4), some_boxes(2, 2)]  # an image without boxes among others
DEGENERATE = [torch.tensor([[3.0, 3, 3, 3], [-90, -90, -80, -80], [200, 200, 300, 300], [5, 5, 6, 6]])]


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("boxes", [BOXES, DEGENERATE])
def test_align_equals_torchvision(sampling, aligned, boxes):
    features = some_features(images=len(boxes))
    found = roi_align(features, boxes, 3, 0.25, sampling=sampling, aligned=aligned)
    assert torch.equal(found, ops.roi_align(features, list(boxes), 3, 0.25, sampling, aligned))


# Boxes whose samples fall on whole pixels, on and beyond the borders, and corners that are not numbers.
ON_PIXELS = [torch.tensor([[0.0, 0, 24, 24], [-12, -12, 12, 12], [68, 52, 92, 76], [2, 2, 26, 26], [-4, -4, 80, 64]])]


@pytest.mark.parametrize("sampling", [1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("boxes", [BOXES, DEGENERATE, ON_PIXELS, [some_boxes(60, 4)]])
def test_gathering_equals_torchvision(sampling, aligned, boxes):
    features = some_features(images=len(boxes), channels=8).contiguous(memory_format=torch.channels_last)
    found = roi_align(features, boxes, 3, 0.25, sampling=sampling, aligned=aligned)
    assert torch.equal(found, gather_align(features, boxes, 3, 0.25, sampling=sampling, aligned=aligned))
    wanted = ops.roi_align(features, list(boxes), 3, 0.25, sampling, aligned)
    # Sums are taken in another order, and a place near 20 is known to 2e-6 pixels.
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    low = features.bfloat16()
    found = roi_align(low, boxes, 3, 0.25, sampling=sampling, aligned=aligned)
    wanted = ops.roi_align(low.float(), list(boxes), 3, 0.25, sampling, aligned)
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=1e-2)  # two roundings to 8 bits


def test_gathering_boxes_that_are_no_numbers_gives_zeros():
    features = some_features(images=1).contiguous(memory_format=torch.channels_last)
    inf, nan = math.inf, math.nan
    boxes = [torch.tensor([[nan, 0, 8, 8], [0, nan, nan, 8], [inf, inf, inf, inf], [-inf, 0, 8, 8], [0, 0, 8, inf]])]
    assert roi_align(features, boxes, 3, 0.25)[:4].abs().sum() == 0


def test_gathering_has_the_gradients_of_torchvision():
    features = some_features().contiguous(memory_format=torch.channels_last).requires_grad_()
    boxes = [b.clone().requires_grad_() for b in BOXES]  # as for torchvision, they get none
    found = roi_align(features, boxes, 3, 0.25)
    wanted = ops.roi_align(features, BOXES, 3, 0.25, 2)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    ours = torch.autograd.grad((found * weights).sum(), [features, *boxes], allow_unused=True)
    (theirs,) = torch.autograd.grad((wanted * weights).sum(), features)
    torch.testing.assert_close(ours[0], theirs, atol=1e-5, rtol=0)
    assert ours[1:] == (None, None, None)
    low = features.detach().bfloat16().requires_grad_()
    found = roi_align(low, BOXES, 3, 0.25)
    assert torch.equal(found, ops.roi_align(low.float(), BOXES, 3, 0.25, 2).bfloat16())
    (found.float() * weights).sum().backward()
    torch.testing.assert_close(low.grad.float(), theirs, atol=0.05, rtol=0.01)


def test_gathering_is_for_channels_last_maps_alone():
    features = some_features()
    gathered = roi_align(features.contiguous(memory_format=torch.channels_last), BOXES, 3, 0.25)
    assert gathered.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(roi_align(features, BOXES, 3, 0.25), ops.roi_align(features, BOXES, 3, 0.25, 2))
    last = features.contiguous(memory_format=torch.channels_last)
    assert roi_align(last, [torch.zeros(0, 4)] * 3, 3, 0.25).shape == (0, 2, 3, 3)
    assert roi_align(last[:0], [], 3, 0.25).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("aligned", [False, True])
def test_align_with_maximum_against_single_samples(aligned):
    features = some_features(images=1)
    box = torch.tensor([[5.0, 9, 41, 33]])
    found = roi_align(features, [box], 2, 0.25, sampling=3, aligned=aligned, reduce="max")
    x1, y1, x2, y2 = (box[0] * 0.25 - (0.5 if aligned else 0)).tolist()
    wanted = torch.full((1, 2, 2, 2), -torch.inf)
    for i in range(6):
        for j in range(6):
            y, x = y1 + (i + 0.5) * (y2 - y1) / 6, x1 + (j + 0.5) * (x2 - x1) / 6
            rows, columns = features[0, :, int(y) : int(y) + 2], slice(int(x), int(x) + 2)
            down, right = y - int(y), x - int(x)
            upper, lower = rows[:, 0, columns], rows[:, 1, columns]
            line = upper * (1 - down) + lower * down
            value = line[:, 0] * (1 - right) + line[:, 1] * right
            wanted[0, :, i // 3, j // 3] = torch.maximum(wanted[0, :, i // 3, j // 3], value)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(UsageError, match="sampling 0"):
        roi_align(features, [box], 2, 0.25, sampling=0, reduce="max")


def test_align_on_a_ramp():
    ramp = torch.arange(64.0).reshape(1, 1, 8, 8)  # 8 y + x
    for box, legacy, aligned in [([0.0, 0, 2, 2], 9.0, 4.5), ([3, 3, 3.2, 3.2], 31.5, 23.4)]:
        boxes = [torch.tensor([box])]
        assert roi_align(ramp, boxes, 1, 1.0).item() == pytest.approx(legacy)
        assert roi_align(ramp, boxes, 1, 1.0, aligned=True).item() == pytest.approx(aligned)


def test_pool_equals_torchvision():
    for boxes in (BOXES, DEGENERATE):
        features = some_features(images=len(boxes))
        assert torch.equal(roi_pool(features, boxes, 3, 0.25), ops.roi_pool(features, list(boxes), 3, 0.25))


@pytest.mark.parametrize("boxes", [BOXES, DEGENERATE])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_pool_against_loops_over_pixels(boxes, reduce):
    """Each cell's maximum or mean over whole pixels; a cell of none is 0."""
    features = some_features(images=len(boxes))
    found = roi_pool(features, boxes, 3, 0.25, reduce=reduce)
    row = 0
    for image, own in zip(features, boxes, strict=True):
        for box in own.tolist():
            x1, y1, x2, y2 = (math.floor(abs(v * 0.25) + 0.5) * (1 if v > 0 else -1) for v in box)
            h, w = max(y2 - y1 + 1, 1) / 3, max(x2 - x1 + 1, 1) / 3
            for i in range(3):
                for j in range(3):
                    rows = slice(*(min(max(v, 0), 16) for v in (math.floor(i * h) + y1, math.ceil((i + 1) * h) + y1)))
                    columns = slice(
                        *(min(max(v, 0), 20) for v in (math.floor(j * w) + x1, math.ceil((j + 1) * w) + x1))
                    )
                    cell = image[:, rows, columns].flatten(1)
                    wanted = (
                        torch.zeros(2) if not cell.numel() else getattr(cell, "amax" if reduce == "max" else "mean")(1)
                    )
                    torch.testing.assert_close(found[row, :, i, j], wanted, rtol=1e-5, atol=1e-6)
            row += 1
    assert row == len(found)


def test_pool_by_the_mean_has_gradients():
    features = some_features(images=1, size=(5, 6)).double().requires_grad_()
    box = [torch.tensor([[2.0, 3, 15, 17]])]
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, box, 2, 0.25, reduce="mean"), features)


@pytest.mark.parametrize("method", ["align", "pool", "warp"])
def test_levels_are_pooled_by_the_mean_or_the_maximum(method):
    """Left open, as each operator was published."""
    features = [some_features(images=3)]
    mean, largest, usual = (
        pool_levels(features, BOXES, 3, [0.25], method=method, reduce=reduce) for reduce in ("mean", "max", None)
    )
    assert (largest >= mean - 1e-6).all()
    assert not torch.allclose(largest, mean)
    assert torch.equal(usual, mean if method == "align" else largest)


def test_warp_of_whole_pixels_takes_their_values():
    # 2x2 samples a cell, one a pixel, at the pixels' centres: mean and maximum of the pixels themselves.
    features = some_features(images=1, size=(12, 12))
    boxes = [torch.tensor([[8.0, 16, 20, 28], [8.9, 15.1, 21.2, 29.9]])]  # to pixels 2..5 and 4..7: both the same
    for reduce, pooling in (("max", torch.nn.MaxPool2d(2)), ("mean", torch.nn.AvgPool2d(2))):
        found = roi_warp(features, boxes, 2, 0.25, reduce=reduce)
        torch.testing.assert_close(found[:1], pooling(features[:, :, 4:8, 2:6]))
        torch.testing.assert_close(found[0], found[1])


def test_warp_rounds_halves_away_from_zero_as_pooling_does():
    features = some_features(images=1, size=(12, 12))
    box = torch.tensor([[10.0, 10, 18, 18]])  # 2.5 and 4.5 at scale 1/4: pixels 3..5
    found = roi_warp(features, [box], 1, 0.25, reduce="mean")
    torch.testing.assert_close(found, roi_warp(features, [torch.tensor([[12.0, 12, 20, 20]])], 1, 0.25, reduce="mean"))
    assert torch.equal(roi_pool(features, [box], 1, 0.25)[0, :, 0, 0], features[0, :, 3:6, 3:6].amax((1, 2)))


@pytest.mark.parametrize("method", [roi_align, roi_pool, roi_warp])
def test_low_precision_features(method):
    features = some_features().bfloat16()
    found = method(features, BOXES, 3, 0.25)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, method(features.float(), BOXES, 3, 0.25).bfloat16())


@pytest.mark.parametrize("method", [roi_align, roi_pool, roi_warp])
def test_no_boxes(method):
    features = some_features().requires_grad_()
    found = method(features, [torch.zeros(0, 4)] * 3, 3, 0.25)
    assert found.shape == (0, 2, 3, 3)
    found.sum().backward()
    assert features.grad.abs().sum() == 0
    assert method(features[:0], [], 3, 0.25).shape == (0, 2, 3, 3)


def test_levels_equal_torchvision():
    boxes = torch.cat([some_boxes(50, side=side) for side in (8, 60, 300, 2000)])
    sides = torch.tensor([[0.0, 0, s, s] for s in (0, 1, 56, 111.999, 112, 224, 448, 447.999, 1e4)])
    boxes = torch.cat((boxes, sides))
    wanted = LevelMapper(2, 5)([boxes]) + 2
    assert torch.equal(assign_levels(boxes, 2, 5), wanted)
    turned = torch.tensor([[5.0, 5, 2, 9]])
    assert assign_levels(turned, 2, 5).item() == 2
    assert assign_levels(torch.tensor([[0.0, 0, 32, 32]]), 2, 5, canonical_size=64, canonical_level=4).item() == 3


def pyramid(images=3):
    return [some_features(level, images, size=(64 // 2**level, 80 // 2**level)) for level in range(3)]


SCALES = (1 / 4, 1 / 8, 1 / 16)
MIXED = [some_boxes(9, 1, 300.0), torch.zeros(0, 4), some_boxes(5, 2, 60.0)]


@pytest.mark.parametrize("boxes", [MIXED, [torch.zeros(0, 4)] * 3])
def test_gathering_of_levels_equals_torchvision(boxes):
    features = [f.contiguous(memory_format=torch.channels_last) for f in pyramid()]
    wanted = ops.MultiScaleRoIAlign([str(i) for i in range(3)], 3, 2)(
        OrderedDict((str(i), f) for i, f in enumerate(features)), boxes, [(256, 320)] * 3
    )
    found = pool_levels(features, boxes, 3, SCALES)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert found.numel() == 0 or found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("boxes", [MIXED, [torch.zeros(0, 4)] * 3])
@pytest.mark.parametrize("levels", [1, 3])
def test_pooling_of_levels_equals_torchvision(boxes, levels):
    features = [f.requires_grad_() for f in pyramid()][:levels]
    reference = ops.MultiScaleRoIAlign([str(i) for i in range(levels)], 3, 2)
    named = OrderedDict((str(i), f) for i, f in enumerate(features))
    wanted = reference(named, boxes, [(256, 320)] * 3)
    found = pool_levels(features, boxes, 3, SCALES[:levels])
    assert torch.equal(found, wanted)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((wanted * weights).sum(), features)
    for ours, theirs in zip(torch.autograd.grad((found * weights).sum(), features), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_method_pools_each_box_from_its_level():
    features = pyramid()
    for method, transform in (("align", roi_align), ("pool", roi_pool), ("warp", roi_warp)):
        found = pool_levels(features, MIXED, 3, SCALES, method=method)
        row = 0
        for image, boxes in enumerate(MIXED):
            for box, level in zip(boxes, assign_levels(boxes, 2, 4).tolist(), strict=True):
                one = transform(features[level - 2][image : image + 1], [box[None]], 3, SCALES[level - 2])
                assert torch.equal(found[row], one[0])
                row += 1
    with pytest.raises(UsageError, match="'crop'"):
        pool_levels(features[:1], MIXED, 3, SCALES[:1], method="crop")


def test_no_images():
    assert pool_levels([f[:0] for f in pyramid()], [], 3, SCALES).shape == (0, 2, 3, 3)


def round_away(value):
    return math.copysign(math.floor(abs(value) + 0.5), value)


def cells_by_the_book(features, box, size, groups, scale, rule):
    """One box, cell by cell, from the release's and torchvision's kernels."""
    channels, (height, width) = len(features) // groups**2, features.shape[1:]
    found = torch.zeros(channels, size, size)

    def edges(first, last, cell, limit):
        if rule == "release":
            last = last - 1  # inclusive, as the release has it
            start, end = round_away(first) * scale, (round_away(last) + 1) * scale
            step = max(end - start, 0.1) / size
            low, high = math.floor(cell * step + start), math.ceil((cell + 1) * step + start)
        else:
            start, end = round_away(first * scale), round_away(last * scale)
            step = max(end - start, 1) / size
            low, high = math.floor(cell * step) + int(start), math.ceil((cell + 1) * step) + int(start)
            limit -= 1
        return min(max(low, 0), limit), min(max(high, 0), limit)

    for i in range(size):
        for j in range(size):
            top, bottom = edges(box[1], box[3], i, height)
            left, right = edges(box[0], box[2], j, width)
            if bottom > top and right > left:
                for c in range(channels):
                    channel = (c * groups + i * groups // size) * groups + j * groups // size
                    found[c, i, j] = features[channel, top:bottom, left:right].mean()
    return found


# Sides that are multiples of the cells: elsewhere the last cell may end one pixel later by float32's rounding.
PS_BOXES = [[0.0, 0, 64, 64], [9, 17, 41, 33], [9.6, 17.7, 41.9, 34.2], [-20, -12, 12, 20], [70, 40, 102, 72]]
PS_BOXES += [[30, 30, 30, 30], [-90, -90, -58, -58], [200, 9, 232, 41]]


@pytest.mark.parametrize("rule", ["torchvision", "release"])
@pytest.mark.parametrize(("size", "groups"), [(2, 2), (4, 2), (4, 4), (8, 2)])
def test_position_sensitive_pooling_against_loops(size, groups, rule):
    features = some_features(images=2, channels=3 * groups**2)
    boxes = [torch.tensor(PS_BOXES), torch.tensor(PS_BOXES[1:3])]
    found = ps_roi_pool(features, boxes, size, groups, 0.25, rule=rule)
    wanted = [
        cells_by_the_book(maps, box.tolist(), size, groups, 0.25, rule)
        for maps, own in zip(features, boxes, strict=True)
        for box in own
    ]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_position_sensitive_pooling_equals_torchvision_also_by_its_own_way():
    # As channels of one group each is what the own operator sees where size and groups differ: 4 cells of 2 groups
    # hold the same maps as 4 groups whose channels are repeated.
    features = some_features(images=3, channels=2 * 4)
    repeated = (
        features.reshape(3, 2, 2, 2, 16, 20).repeat_interleave(2, 2).repeat_interleave(2, 3).reshape(3, 32, 16, 20)
    )
    found = ps_roi_pool(features, BOXES, 4, 2, 0.25)
    torch.testing.assert_close(found, ops.ps_roi_pool(repeated, BOXES, 4, 0.25))
    assert torch.equal(ps_roi_pool(repeated, BOXES, 4, 4, 0.25), ops.ps_roi_pool(repeated, BOXES, 4, 0.25))


def test_position_sensitive_pooling_has_gradients_and_takes_nothing():
    features = some_features(images=1, channels=4, size=(5, 6)).double().requires_grad_()
    box = [torch.tensor([[1.0, 1, 17, 13]])]
    assert torch.autograd.gradcheck(lambda x: ps_roi_pool(x, box, 4, 2, 0.25), features)
    none = ps_roi_pool(features.bfloat16(), [torch.zeros(0, 4)], 4, 2, 0.25)
    assert none.shape == (0, 1, 4, 4)
    assert none.dtype == torch.bfloat16
    assert ps_roi_pool(features[:0], [], 4, 2, 0.25, rule="release").shape == (0, 1, 4, 4)
    with pytest.raises(UsageError, match="4 channels for 3 x 3 groups; expected a multiple of 9"):
        ps_roi_pool(features, box, 3, 3, 0.25)


def crop_by_the_book(features, box, size, scale):
    """TensorFlow's definition, sample by sample; corners in units of the image."""
    height, width = features.shape[1:]
    x1, x2 = box[0] * scale / width, box[2] * scale / width
    y1, y2 = box[1] * scale / height, box[3] * scale / height
    found = torch.zeros(len(features), size, size)

    def place(first, last, index, limit):
        if size == 1:
            return 0.5 * (first + last) * (limit - 1)
        return first * (limit - 1) + index * (last - first) * (limit - 1) / (size - 1)

    for i in range(size):
        for j in range(size):
            y, x = place(y1, y2, i, height), place(x1, x2, j, width)
            if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                top, left = features[:, math.floor(y)], features[:, math.ceil(y)]
                line = top + (left - top) * (y - math.floor(y))
                start, end = line[:, math.floor(x)], line[:, math.ceil(x)]
                found[:, i, j] = start + (end - start) * (x - math.floor(x))
    return found


@pytest.mark.parametrize("size", [1, 2, 5])
def test_crop_and_resize_against_loops(size):
    features = some_features(images=2)  # 16 x 20, an image of 64 x 80
    boxes = [
        torch.tensor([[0.0, 0, 80, 64], [3, 7, 51, 44], [-21, 13, 30, 99], [30, 30, 30, 30], [99, 99, 120, 120]]),
        torch.tensor([[10.5, 2.25, 12.5, 60]]),
    ]
    found = crop_and_resize(features, boxes, size, 0.25)
    wanted = [
        crop_by_the_book(maps, box.tolist(), size, 0.25)
        for maps, own in zip(features, boxes, strict=True)
        for box in own
    ]
    # 2e-5: places are float32 with sizes near 20, so a few 1e-6 pixels off
    torch.testing.assert_close(found, torch.stack(wanted), atol=2e-5, rtol=1e-5)


def test_crop_and_resize_of_a_whole_image_is_the_map():
    features = some_features(images=1, size=(9, 9))
    whole = [torch.tensor([[0.0, 0, 36, 36]])]
    torch.testing.assert_close(crop_and_resize(features, whole, 9, 0.25), features, atol=1e-5, rtol=0)
    assert crop_and_resize(features[:0], [], 3, 0.25).shape == (0, 2, 3, 3)
    assert crop_and_resize(features.bfloat16(), [torch.zeros(0, 4)], 3, 0.25).dtype == torch.bfloat16
