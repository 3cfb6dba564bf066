"""A small configuration of each system, for the tests that walk over the catalog: one row per system.

Small enough that all that the contract asks of a system takes less than two seconds; see CONTRIBUTING.md.
"""

from __future__ import annotations

from typing import Any

TINY = "test_resnet"  # timm's, 0.5 million parameters
TWO_STAGES: dict[str, Any] = {
    "backbone": TINY,
    "features": {"channels": 16},
    "anchors": {"sizes": [[8], [16], [32], [48], [64]]},
    "proposals": {"train_after_nms": 60, "after_nms": 30},
    "head": {"channels": 32},
    "sampler": {"samples": 64},
    "detections": {"count": 10},
    "input": {"size_divisor": 32},
}
SMALL: dict[str, dict[str, Any]] = {
    "crf-rnn": {"backbone": TINY, "color_sigma": 20.0, "training_iterations": 2, "iterations": 2},
    "deeplab-v3": {"backbone": TINY, "aspp_channels": 8, "multi_grid": None},
    "deeplab-v3-plus": {"backbone": TINY, "aspp_channels": 8, "decoder_channels": 8, "skip_channels": [4]},
    "fast-rcnn": {
        "backbone": TINY,
        "roi": "align",  # RoIPool sees near proposals as equal, and which of equal scores is first is left to rounding
        "head": {"channels": 32, "size": 3},
        "search": {"width": None, "min_side": 8, "max_boxes": 40},
        "input": {"size_divisor": 32},
    },
    "faster-rcnn": TWO_STAGES,
    "fcn": {"backbone": TINY},
    "fcn-resnet": {"backbone": TINY},
    "keypoint-rcnn": {**TWO_STAGES, "keypoints": {"count": 14, "convs": 2, "channels": 16, "size": 28}},
    "mask-rcnn": {**TWO_STAGES, "mask": {"convs": 2, "channels": 16, "size": 14}},
    "r-fcn": {
        "backbone": TINY,
        "channels": 32,
        "k": 3,
        "anchors": {"sizes": [[16, 32]]},
        "proposals": {"channels": 32, "train_after_nms": 50, "after_nms": 40, "border_anchors": True},
        "hard_examples": 32,
        "detections": {"count": 10},
        "input": {"size_divisor": 32},
    },
    "rcnn": {
        "backbone": TINY,
        "crop_size": 32,
        "context": 4,
        "hidden": [16],
        "search": {"width": None, "min_side": 8, "max_boxes": 40},
    },
    "retinanet": {
        "backbone": TINY,
        "features": {"channels": 16},
        "anchors": {"sizes": [[12, 16], [24, 32], [48, 56], [64, 80], [96, 128]]},
        "head": {"convs": 1},
        "detections": {"score": 0.005, "count": 10},
        "input": {"size_divisor": 32},
    },
    "rpn": {name: TWO_STAGES[name] for name in ("backbone", "features", "anchors", "proposals", "input")},
    "single-object": {"backbone": TINY, "input": {"size": [64, 96]}},
    "sliding-window": {
        "backbone": TINY,
        "level": 2,
        "window": 24,
        "stride": 8,
        "pyramid": {"sides": [24]},
        "detections": {"count": 10},
    },
    "ssd": {
        "backbone": TINY,
        "strides": [8],
        "extra": [16],
        "boxes": {"scales": [0.2, 0.45, 0.9], "ratios": [[1, 2, 0.5]] * 2},
        "positive_iou": 0.3,  # so that boxes of both maps are objects
        "detections": {"score": 0.05, "count": 10},
        "candidates": 40,
    },
    "unet": {"width": 4, "depth": 2, "padding": "same"},
}

TOYS: dict[str, dict[str, Any]] = {  # of kinds that the catalog does not have yet
    "tests.engine.toys:Adversarial": {},  # two players
    "tests.engine.toys:Deep": {},  # a measure of each pixel, without classes
    "tests.engine.toy_flow:Matching": {},  # two images in
    "tests.systems.toys:Poses": {},  # instances without boxes
}
NO_BACKGROUND = {"single-object", "ssd"}  # takes for granted that there is an object: without any, nothing is learned
