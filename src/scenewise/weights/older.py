"""What checkpoints of former formats hold, in today's words: tensors, arguments and defaults that have changed since.

Format 1 is that of versions before 0.1; format 2 is today's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_BOX_HEAD = (
    ("head.", "box_head.body."),
    ("classifier.", "box_head.classifier."),
    ("corrector.", "box_head.box_regressor."),
)

# Prefixes of the tensors' names in a file of format 1, and of today's; the first that fits counts.
RENAMED_TENSORS: dict[str, tuple[tuple[str, str], ...]] = {
    "fast-rcnn": _BOX_HEAD,
    "faster-rcnn": _BOX_HEAD,
    "keypoint-rcnn": (*_BOX_HEAD, ("keypoint_head.enlarge.", "keypoint_head.keypoint_logits.")),
    "mask-rcnn": (
        *_BOX_HEAD,
        ("mask_head.classifier.", "mask_head.mask_logits."),
        ("mask_head.boundary.", "mask_head.boundary_logits."),
    ),
}

# Arguments in a header of format 1, and where they are now: an argument, or a field of one.
RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {
    "r-fcn": {"rpn_channels": "proposals.channels"},
    "rpn": {"channels": "proposals.channels"},
}

_PROPOSALS = {
    "train_before_nms": 2000, "train_after_nms": 2000, "before_nms": 1000, "after_nms": 1000, "border_anchors": True,
    "channels": None,
}  # fmt: skip
_TWO_STAGES: dict[str, dict[str, Any]] = {
    "features": {"output_stride": 16},
    "proposals": _PROPOSALS,
    "head": {"channels": 1024, "dropout": 0.0},
    "sampler": {"samples": 512},
    "detections": {"nms_iou": 0.5},
}

# What a header of format 1 leaves out, where today's default is another.
FORMER_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "fast-rcnn": {"head": {"channels": 4096, "dropout": 0.5}, "sampler": {"samples": 64, "lowest_iou": 0.1}},
    "faster-rcnn": _TWO_STAGES,
    "keypoint-rcnn": _TWO_STAGES,
    "mask-rcnn": {**_TWO_STAGES, "mask": {"size": 28}},
    "rpn": {"proposals": _PROPOSALS},
}
FORMER_ONE_MAP_ANCHORS = {"sizes": [[32, 64, 128, 256, 512]]}  # of faster-rcnn and rpn without a pyramid


def todays_arguments(system: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The ``arguments`` in a header of format 1 as today's; ``build`` takes them."""
    found: dict[str, Any] = dict(arguments)
    for name, former in FORMER_DEFAULTS.get(system, {}).items():
        found[name] = former | (found.get(name) or {})
    if system in ("faster-rcnn", "rpn") and found.get("design", "fpn") != "fpn":
        found.setdefault("anchors", FORMER_ONE_MAP_ANCHORS)
    for old, new in RENAMED_ARGUMENTS.get(system, {}).items():
        if old in found:
            name, _, field = new.partition(".")
            value = found.pop(old)
            found[name] = {**(found.get(name) or {}), field: value} if field else value
    return found


def todays_tensors(system: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``tensors`` of a file of format 1 under their names of today."""
    return {_todays_name(name, RENAMED_TENSORS.get(system, ())): value for name, value in tensors.items()}


def _todays_name(name: str, renamed: tuple[tuple[str, str], ...]) -> str:
    for old, new in renamed:
        if name.startswith(old):
            return new + name[len(old) :]
    return name
