"""Keypoint R-CNN equals torchvision's with the same weights, and each of its options trains and predicts."""

from __future__ import annotations

import pytest
import torch

from scenewise.engine.predict import predict
from scenewise.errors import UsageError
from scenewise.nn.keypoint_head import KeypointSpec
from tests.systems.options import scenes_batch, small, trains_and_predicts
from tests.systems.torchvision_twins import SIDE, assert_same_detections, both_losses, photographs, reference, twin

NAME = "keypointrcnn"


@torch.no_grad()
def test_a_photograph_end_to_end():
    """Ours is torchvision's + 0.5 pixels of the image that the network sees; see ``shift``."""
    image = photographs()[1]
    expected, found = reference(NAME)([image / 255])[0], predict(twin(NAME), image)
    assert_same_detections(NAME, expected, found)
    width, height = 640 / int(640 * SIDE / 427 + 1e-6), 427 / SIDE
    shifted = expected["keypoints"] + torch.tensor([0.5 * width, 0.5 * height, 0])
    torch.testing.assert_close(found.keypoints, shifted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("with_objects", [(True, True), (True, False)])
def test_losses_under_the_same_seed(with_objects):
    found, expected = both_losses(NAME, with_objects)
    assert found.keys() == expected.keys() == {"objectness", "rpn_box", "class", "box", "keypoints"}
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value, rtol=1e-4, atol=1e-5, msg=lambda m, term=term: f"{term}: {m}")


NARROW = {"count": 14, "convs": 1, "channels": 8, "size": 28}
OPTIONS = {
    "c4": {"design": "c4", "backbone": "resnet18", "keypoints": NARROW},
    "c5": {"design": "c5", "keypoints": NARROW},
    "large": {"keypoints": {**NARROW, "size": 56, "convs": 0}},
    "RoIPool": {"roi": "pool", "keypoints": NARROW},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    terms, found = trains_and_predicts(small("keypoint-rcnn", **OPTIONS[name]))
    assert terms["keypoints"] > 0
    assert found.keypoints.shape == (len(found.boxes), 14, 3)


@torch.no_grad()
def test_shift():
    """It moves x and y alike, and nothing else."""
    plain, shifted = (small("keypoint-rcnn", keypoints={**NARROW, "shift": s}).eval() for s in (0.0, 0.5))
    batch = scenes_batch()
    a, b = plain.predict(batch)[0].keypoints, shifted.predict(batch)[0].keypoints
    assert len(a) > 0
    torch.testing.assert_close(b, a + torch.tensor([0.5, 0.5, 0]))


def test_errors():
    with pytest.raises(UsageError, match="keypoints: size is 30; expected a multiple of 4"):
        KeypointSpec(size=30)
    with pytest.raises(UsageError, match=r"image .* has 14 keypoints per object; the model's keypoints\.count is 17"):
        small("keypoint-rcnn").losses(scenes_batch())
