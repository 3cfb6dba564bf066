"""Faster R-CNN equals torchvision's with the same weights, and each of its options trains and predicts."""

from __future__ import annotations

import pytest
import torch

from scenewise.catalog import build
from scenewise.engine.predict import Predictor, predict
from scenewise.errors import UsageError
from scenewise.metrics.coco import CocoMetrics
from scenewise.ops.boxes import box_ioa, box_iou
from scenewise.ops.matching import BELOW, BETWEEN
from tests.systems import small as rows
from tests.systems.detection.learning import SHAPES, learned
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
    found = Predictor(twin(NAME))(images)
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
    "c4": {"design": "c4", "backbone": "resnet18", "anchors": {"sizes": [[16, 32, 64]]}},
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
    "RoIPool, mean": {"roi": "pool", "head": {"reduce": "mean"}},
    "RoIWarp, mean": {"roi": "warp", "head": {"reduce": "mean"}},
    "RoIAlign, maximum": {"head": {"reduce": "max"}},
    "OHEM": {"hard_examples": 8},
    "OHEM without overlaps": {"hard_examples": {"count": 8, "nms_iou": 0.7}},
    "box voting": {"detections": {"voting_iou": 0.5, "count": 5}},
    "a proposal network of its own width, dilated": {"proposals": {"channels": 8, "dilation": 2, "convs": 2}},
    "legacy anchors": {"anchors": {"sizes": [[16], [32], [48], [64], [96]], "legacy": True}},
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
    assert found.boxes.shape == (len(found.boxes), 4)


@pytest.mark.parametrize(("roi", "usual"), [("align", "mean"), ("pool", "max"), ("warp", "max")])
@torch.no_grad()
def test_cells_are_pooled_by_the_mean_or_the_maximum(roi, usual):
    batch, pooled = scenes_batch(), {}
    for reduce in (None, "mean", "max"):
        model = small("faster-rcnn", roi=roi, head={"reduce": reduce}).eval()
        pooled[reduce] = model._pool(model.features(model.pixels(batch)), [b["boxes"] for b in batch.targets], 7)
    assert (pooled["max"] > pooled["mean"] + 1e-3).any()
    assert torch.equal(pooled[None], pooled[usual])


def test_a_dilated_proposal_network():
    """Each of its 3x3 convolutions."""
    model = small("faster-rcnn", proposals={"channels": 8, "dilation": 2, "convs": 2})
    first, _, second = model.rpn.conv
    assert first.weight.shape == (8, 16, 3, 3)
    assert first.dilation == second.dilation == first.padding == second.padding == (2, 2)


def test_legacy_anchors_lie_by_the_strides_of_the_pyramid():
    """Also where the coarsest map's last cell reaches over the image."""
    model = small("faster-rcnn", anchors={"sizes": [[16], [32], [48], [64], [96]], "ratios": [1.0], "legacy": True})
    batch = scenes_batch()
    anchors = model.rpn(model.features(model.pixels(batch)), (96, 128)).anchors
    for cells, stride in zip(anchors, (4, 8, 16, 32, 64), strict=True):
        middle = (cells[:, :2] + cells[:, 2:]) / 2
        assert middle[0].tolist() == [stride / 2, stride / 2]
        assert (middle[1] - middle[0]).tolist() == [stride, 0]


def test_one_map_has_the_papers_defaults():
    """Nine anchors, 2,000 proposals in training and 300 in prediction, 128 boxes per image."""
    with torch.device("meta"):
        for design, size in (("c4", 1024), ("c5", 2048)):
            model = build("faster-rcnn", ["a"], design=design)
            assert model.features.strides == (16,)
            assert model.rpn.conv.weight.shape == (512, size, 3, 3)
            assert model.rpn.anchors.sizes == ((128.0, 256.0, 512.0),)
            assert model.rpn.objectness.out_channels == 9
            spec = model.rpn.spec
            assert (spec.train_before_nms, spec.train_after_nms) == (12000, 2000)
            assert (spec.before_nms, spec.after_nms) == (6000, 300)
            assert not spec.border_anchors
            assert (model.sampler.samples, model.detections.nms_iou) == (128, 0.3)
            assert (model.input.short_side, model.input.long_side) == (600, 1000)


def test_a_part_of_a_spec_leaves_the_rest_to_the_design():
    with torch.device("meta"):
        model = build("faster-rcnn", ["a"], design="c4", proposals={"after_nms": 100}, anchors={"ratios": [1.0]})
    assert (model.rpn.spec.before_nms, model.rpn.spec.after_nms) == (6000, 100)
    assert model.rpn.objectness.out_channels == 3


def test_a_vggs_fc6_and_fc7_are_the_heads_start(tmp_path, monkeypatch):
    """On one map with the paper's sizes, which are the default there; not on a pyramid."""
    monkeypatch.setattr("scenewise.nn.backbone.load_backbone_weights", lambda backbone, weights: None)
    taken = []
    monkeypatch.setattr("scenewise.nn.box_head.load_vgg_layers", lambda layers, name, weights: taken.append(layers))
    with torch.device("meta"):
        for options in (
            {"design": "c5"},
            {"design": "c4"},
            {"design": "c5", "head": {"channels": 64}},
            {"design": "fpn"},
        ):
            options = {"features": {"strides": [4, 8, 16, 32]}, **options}
            model = build("faster-rcnn", ["a"], backbone="vgg16", backbone_weights="vgg.safetensors", **options)
            body = model.box_head.body
            if options["design"] == "fpn" or "head" in options:
                assert len(taken) == 2
                assert body.first.out_features == (64 if "head" in options else 1024)
            else:
                assert taken[-1] == (body.first, body.second)
                assert (body.first.in_features, body.first.out_features, body.dropout) == (512 * 49, 4096, 0.5)
    assert len(taken) == 2


def test_beta_is_where_the_box_loss_turns_straight():
    """A smaller beta costs more; no other term changes."""
    batch, terms = scenes_batch(), []
    for beta in (1 / 9, 1.0):
        model = small("faster-rcnn", beta=beta)
        torch.manual_seed(0)
        terms.append(model.losses(batch))
    assert terms[0]["box"] > terms[1]["box"] > 0
    assert all(terms[0][name] == terms[1][name] for name in ("objectness", "rpn_box", "class"))


def crowded(batch):
    """``batch`` with a crowd, the box of its first image's first object, in that image alone."""
    target = batch.targets[0]
    target["ignore"] = torch.zeros(len(target["boxes"]), dtype=torch.bool)
    target["ignore"][0] = True
    return batch


def test_anchors_within_a_crowd_are_not_background():
    """Those with more than 0.7 of their area in it. Where nothing is ignored, they are."""
    model = small("faster-rcnn")
    batch = crowded(scenes_batch())
    crowd, others = batch.targets[0]["boxes"][:1], batch.targets[0]["boxes"][1:]
    anchors = torch.cat([crowd, crowd + 2, crowd + 300, others])
    matched = model.rpn._match(others, crowd, anchors, batch.sizes[0])
    assert matched[:3].tolist() == [BETWEEN, BETWEEN, BELOW]
    assert matched[3:].tolist() == list(range(len(others)))
    assert model.rpn._match(others, crowd[:0], anchors, batch.sizes[0])[:3].tolist() == [BELOW] * 3
    off = small("faster-rcnn", proposals={"crowd_ioa": None})
    assert off.rpn._match(others, crowd, anchors, batch.sizes[0])[:3].tolist() == [BELOW] * 3


def test_the_objectness_of_a_crowd_costs_nothing():
    """However sure the network is of the anchors in it, their gradient is 0."""
    model, batch = small("faster-rcnn", proposals={"samples": 100_000}), crowded(scenes_batch())
    maps = model.features(model.pixels(batch))
    scored = model.rpn(maps, tuple(batch.images.shape[-2:]))
    scored.logits = [x.detach().requires_grad_() for x in scored.logits]
    model.rpn.losses(scored, batch)["objectness"].backward()
    gradient = torch.cat([x.grad[0] for x in scored.logits])
    within = box_ioa(torch.cat(scored.anchors), batch.targets[0]["boxes"][:1])[:, 0] > 0.7
    others = box_iou(torch.cat(scored.anchors), batch.targets[0]["boxes"][1:]).amax(1) >= 0.3
    assert (within & ~others).any()
    assert not gradient[within & ~others].any()
    assert gradient[~within & ~others].all()


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


def test_it_learns_to_find_figures():
    """Measured when this was written: 0.97."""
    options = rows.SMALL["faster-rcnn"] | {"features": {"channels": 16, "frozen_norm": False}}
    before, after = learned("faster-rcnn", CocoMetrics(SHAPES, ("box",)), 120, **options)
    assert before["box"]["AP50"] < 0.05
    assert after["box"]["AP50"] > 0.5
