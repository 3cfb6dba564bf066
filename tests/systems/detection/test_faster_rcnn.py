"""Faster R-CNN equals torchvision's with the same weights, and each of its options trains and predicts."""

from __future__ import annotations

import pytest
import torch

from scenewise.catalog import build
from scenewise.engine.predict import predict, predict_images
from scenewise.errors import UsageError
from tests.systems.options import scenes_batch, small, trains_and_predicts
from tests.systems.torchvision_twins import assert_same_detections, both_losses, photographs, reference, twin

NAME = "fasterrcnn"


@torch.no_grad()
def test_photographs_end_to_end():
    """Resizing, folded batch-norms, both stages and the way back; 1e-3 pixels is float's noise times the deltas."""
    for image in photographs():
        expected = reference(NAME)([image / 255])[0]
        assert_same_detections(NAME, expected, predict(twin(NAME), image))


@torch.no_grad()
def test_the_second_version_end_to_end():
    """Batch-norms in the pyramid and the head, two convolutions in the first stage and four in the second."""
    image = photographs()[0]
    name = f"{NAME}_v2"
    assert_same_detections(name, reference(name)([image / 255])[0], predict(twin(name), image))


@torch.no_grad()
def test_a_padded_batch():
    china, flower = photographs()
    images = [china[:, :400, :500], flower[:, :330]]
    model = twin(NAME)
    found = predict_images(model.predict, model.input, images)
    for one, expected in zip(found, reference(NAME)([image / 255 for image in images]), strict=True):
        assert_same_detections(NAME, expected, one)


@pytest.mark.parametrize(
    ("name", "with_objects"),
    [(NAME, (True, True)), (NAME, (True, False)), (NAME, (False, False)), (f"{NAME}_v2", (True, False))],
)
def test_losses_under_the_same_seed(name, with_objects):
    """The same anchors and proposals are drawn, so the terms are equal up to the order of sums."""
    found, expected = both_losses(name, with_objects)
    assert found.keys() == expected.keys() == {"objectness", "rpn_box", "class", "box"}
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value, rtol=1e-4, atol=1e-5, msg=lambda m, term=term: f"{term}: {m}")


OPTIONS = {
    "c4": {"design": "c4", "backbone": "resnet18"},
    "c4 with fully-connected layers": {"design": "c4", "head": {"kind": "fc"}},
    "c5": {"design": "c5"},
    "c5, stride 8": {"design": "c5", "features": {"output_stride": 8}, "backbone": "resnet18"},
    "convolutions": {"head": {"kind": "conv", "convs": 2}, "proposals": {"convs": 3}},
    "batch-norms": {
        "head": {"kind": "conv", "norm": "batch"},
        "features": {"norm": "batch", "frozen_norm": False},
    },
    "VGG": {"design": "c5", "backbone": "vgg11", "head": {"dropout": 0.5}},
    "MobileNet": {"backbone": "mobilenetv3_small_050"},
    "Inception": {"design": "c4", "backbone": "inception_v3"},
    "RoIPool": {"roi": "pool"},
    "RoIWarp": {"roi": "warp"},
    "aligned, adaptive": {"head": {"aligned": True, "sampling": 0, "size": 5}},
    "agnostic": {"head": {"class_agnostic": True}, "detections": {"class_agnostic": True, "count": 5}},
    "OHEM": {"hard_examples": 8},
    "soft suppression": {"detections": {"nms": "soft-gaussian", "count": 5}},
    "bottom-up": {"features": {"pathway": "bottom-up"}},
    "no lateral": {"features": {"pathway": "no-lateral"}},
    "no border anchors": {"proposals": {"border_anchors": False}},
    "trained norms": {"features": {"frozen_norm": False}},
    "hard background": {"sampler": {"lowest_iou": 0.1, "samples": 32}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    terms, found = trains_and_predicts(small("faster-rcnn", **OPTIONS[name]))
    assert set(terms) == {"objectness", "rpn_box", "class", "box"}
    assert found.boxes.shape == (len(found), 4)


def test_inception_resnet():
    """Huang et al.'s largest network; only built, for it has 54 million parameters."""
    with torch.device("meta"):
        model = build("faster-rcnn", ["a"], backbone="inception_resnet_v2", design="c4")
    assert model.features.strides == (16,)


def test_deltas_for_each_class_or_for_all():
    assert small("faster-rcnn").box_head.box_regressor.out_features == 40
    assert small("faster-rcnn", head={"class_agnostic": True}).box_head.box_regressor.out_features == 4


def test_loss_weights():
    """A factor changes its own term alone."""
    plain, heavy = small("faster-rcnn"), small("faster-rcnn", loss_weights={"box": 3.0})
    batch = scenes_batch()
    terms = []
    for model in (plain, heavy):
        torch.manual_seed(0)
        terms.append(model.losses(batch))
    for name, value in terms[0].items():
        torch.testing.assert_close(terms[1][name], value * (3 if name == "box" else 1))


def test_frozen_levels():
    model = small("faster-rcnn", features={"frozen_levels": 2})
    network = model.features.backbone.network
    assert not any(p.requires_grad for p in network.layer1.parameters())
    assert any(p.requires_grad for p in network.layer2.parameters())


def test_errors():
    with pytest.raises(UsageError, match="anchors: sizes has 2 entries; expected 5, one for each map"):
        small("faster-rcnn", anchors={"sizes": [[32], [64]]})
    with pytest.raises(UsageError, match="loss_weights has 'boxes'; did you mean 'box'"):
        small("faster-rcnn", loss_weights={"boxes": 1.0})
