"""Counts against loops, weights against their formulas, and CamVid against SegNet's published weights."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.errors import UsageError
from scenewise.fields.semantic import SemanticMask
from scenewise.losses.class_weights import ClassFrequency, class_weights, count_classes
from scenewise.types import IGNORE

MODES = ("inverse", "median", "inverse-log", "effective")
MAPS = [
    torch.tensor([[0, 0, 0], [1, 1, IGNORE]]),
    torch.tensor([[0, 0, 0], [0, 0, 2]]),
    torch.tensor([[IGNORE, 4, 2], [2, 2, 2]]),  # 4 is no class
]


def counted():
    counts = ClassFrequency(4)  # class 3 never occurs
    for labels in MAPS:
        counts.update(labels)
    return counts


def test_counts():
    counts = counted()
    assert counts.pixels.tolist() == [8, 2, 5, 0]
    assert counts.image_pixels.tolist() == [5 + 6, 5, 6 + 4, 0]


def test_void_with_many_classes_and_below_zero():
    counts = ClassFrequency(300)
    counts.update(torch.tensor([[IGNORE, 254, 256, -1, -300, 300]]))
    assert counts.pixels.nonzero().flatten().tolist() == [254, 256]
    assert counts.image_pixels[254] == 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_batches_merges_and_files_change_nothing(dtype):
    at_once, first, second = ClassFrequency(4), ClassFrequency(4), ClassFrequency(4)
    at_once.update(torch.stack(MAPS).to(dtype))
    first.update(MAPS[0].to(dtype))
    second.update(torch.stack(MAPS[1:]).to(dtype))
    first.merge(second)
    for counts in (at_once, first, ClassFrequency.from_dict(json.loads(json.dumps(first.to_dict())))):
        assert counts.to_dict() == counted().to_dict()


class Data:
    classes = ("a", "b", "c", "d")

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return None, self.targets[index]


def test_counting_a_data_set():
    counts = count_classes(Data([{"semantic": SemanticMask(labels.byte())} for labels in MAPS]))
    assert counts.to_dict() == counted().to_dict()
    assert counts.weights("inverse") == tuple(class_weights(counted(), "inverse").tolist())
    with pytest.raises(UsageError, match=r"image 7 has no label map; expected the target field semantic"):
        count_classes(Data([{"image_id": "7"}]))


def test_weights_equal_their_formulas():
    counts = counted()
    shares = [8 / 15, 2 / 15, 5 / 15]
    assert class_weights(counts, "inverse").tolist() == pytest.approx([15 / (4 * n) for n in (8, 2, 5)] + [0])
    frequency = [8 / 11, 2 / 5, 5 / 10]  # median: 0.5
    assert class_weights(counts, "median").tolist() == pytest.approx([0.5 / f for f in frequency] + [0])
    assert class_weights(counts, "inverse-log").tolist() == pytest.approx(
        [1 / math.log(1.02 + s) for s in shares] + [0]
    )
    effective = [0.1 / (1 - 0.9**n) for n in (8, 2, 5)] + [0]
    assert class_weights(counts, "effective", beta=0.9).tolist() == pytest.approx(effective)
    assert class_weights(counts).dtype == torch.float32


def test_median_of_an_even_number_of_classes():
    counts = ClassFrequency(2)
    counts.update(torch.tensor([[0, 0, 0, 1]]))
    assert class_weights(counts, "median").tolist() == pytest.approx([0.5 / 0.75, 0.5 / 0.25])


@pytest.mark.parametrize("mode", MODES)
def test_rare_classes_weigh_more_and_absent_ones_nothing(mode):
    weights = class_weights(counted(), mode, beta=0.9)
    assert weights[1] > weights[2] > weights[0] > 0
    assert weights[3] == 0
    assert class_weights(counted(), mode, renormalize=True)[:3].mean().item() == pytest.approx(1)


def test_clip_then_renormalize():
    raw = class_weights(counted(), "inverse")
    clipped = class_weights(counted(), "inverse", clip=(0.5, 0.8))
    assert clipped.tolist() == pytest.approx([0.5, 0.8, 0.75, 0])
    assert raw[0] < 0.5
    both = class_weights(counted(), "inverse", clip=(0.5, 0.8), renormalize=True)
    assert both.tolist() == pytest.approx([v / (2.05 / 3) for v in (0.5, 0.8, 0.75, 0)])


def test_effective_number_reaches_its_limits():
    assert class_weights(counted(), "effective", beta=0.0)[:3].tolist() == [1, 1, 1]
    near_one = class_weights(counted(), "effective", beta=1 - 1e-9, renormalize=True)
    inverse = class_weights(counted(), "inverse", renormalize=True)
    torch.testing.assert_close(near_one, inverse)


def test_errors():
    with pytest.raises(UsageError, match="no labelled pixel was counted"):
        class_weights(ClassFrequency(3))
    with pytest.raises(UsageError, match="mode is 'sqrt'; expected inverse, median, inverse-log or effective"):
        class_weights(counted(), "sqrt")
    with pytest.raises(UsageError, match=r"beta is 1.0; expected 0 or more, and less than 1"):
        class_weights(counted(), "effective", beta=1.0)
    with pytest.raises(UsageError, match=r"target is \[4\]; expected \[H,W\] or \[N,H,W\]"):
        ClassFrequency(3).update(torch.zeros(4))
    with pytest.raises(UsageError, match="counts of 2 classes into those of 3"):
        ClassFrequency(3).merge(ClassFrequency(2))
    with pytest.raises(UsageError, match="no entry 'image_pixels'"):
        ClassFrequency.from_dict({"pixels": [1]})
    with pytest.raises(UsageError, match="2 pixels, 1 image_pixels"):
        ClassFrequency.from_dict({"pixels": [1, 2], "image_pixels": [1]})


SEGNET = [0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614]


def test_camvid_against_segnet(shared_data):
    """SegNet's weights for CamVid, as far as they follow from these label maps.

    None of the published weights is 1, so that their median can't be over the 11 classes: it is over 12, with void
    as a class like others, whose frequency lies next to the middle. Their counts came from other label maps, too: ten
    classes agree to 11 %, and signs, 2.7 times rarer there, do not.
    """
    root = shared_data("camvid")
    with_void = ClassFrequency(12)
    for name in (root / "train.txt").read_text().split():
        with_void.update(torch.from_numpy(np.array(Image.open(root / "trainannot" / f"{name}.png"))))
    assert with_void.pixels.tolist() == json.loads((root / "classes.json").read_text())["pixel_counts"]["train"]
    ratio = class_weights(with_void)[:11] / torch.tensor(SEGNET)
    assert ratio[6] < 0.4
    others = ratio[torch.arange(11) != 6]
    assert ((others > 0.9) & (others < 1.11)).all(), others
