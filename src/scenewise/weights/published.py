"""Weights that others have published, by name: which of our systems equals theirs, and how their tensors are called.

    >>> model = load_published("torchvision/fcn_resnet50")  # downloads 135 MB, once
    >>> model = load_published("torchvision/fcn_resnet50", "downloads/fcn_resnet50_coco-1167a1af.pth")

The table states what the publisher states: URLs, checksums and metrics are those of torchvision's
``models.segmentation`` and ``models.detection``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scenewise.catalog import build
from scenewise.errors import CheckpointError, UsageError, suggest
from scenewise.files.download import PYTORCH_FILES, download
from scenewise.files.tensors import read_tensors
from scenewise.model import Model
from scenewise.types import InputSpec

VOC_CLASSES = (
    *("__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
COCO_OUTPUTS = (  # of torchvision's detectors: COCO's category ids, N/A where no category has the number
    *("__background__", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "N/A", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse"),
    *("sheep", "cow", "elephant", "bear", "zebra", "giraffe", "N/A", "backpack", "umbrella", "N/A", "N/A", "handbag"),
    *("tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket", "bottle", "N/A", "wine glass", "cup", "fork", "knife", "spoon"),
    *("bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    *("chair", "couch", "potted plant", "bed", "N/A", "dining table", "N/A", "N/A", "toilet", "N/A", "tv", "laptop"),
    *("mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "N/A"),
    *("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
COCO_CLASSES = tuple(name for name in COCO_OUTPUTS[1:] if name != "N/A")
TORCHVISION_INPUT = InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), short_side=520)
DETECTION_INPUT = InputSpec(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size_divisor=32, short_side=800, long_side=1333,
    antialias=False,
)  # fmt: skip
TORCHVISION_TERMS = (
    "Published with torchvision (BSD-3-Clause), trained on COCO, whose annotations are CC BY 4.0 and whose images are "
    "under the terms of Flickr; torchvision leaves it to you to find out whether your use is permitted."
)
TORCHVISION_LINEAGE = (
    "data: COCO train2017 (annotations CC BY 4.0, images under the terms of Flickr)",
    "backbone: torchvision's ImageNet weights (BSD-3-Clause)",
)

# Our names on the left, theirs on the right; the first prefix that fits counts.
FCN_NAMES = (
    ("backbone.network.", "backbone."),
    ("classifier.", "classifier."),
    ("auxiliary.", "aux_classifier."),
)
DEEPLAB_NAMES = (
    ("backbone.network.", "backbone."),
    ("context.", "classifier.0."),
    ("classifier.0.", "classifier.1."),
    ("classifier.1.", "classifier.2."),
    ("classifier.3.", "classifier.4."),
    ("auxiliary.", "aux_classifier."),
)
TWO_STAGE_NAMES = (
    ("features.backbone.network.", "backbone.body."),
    *((f"features.pyramid.lateral.{i}.", f"backbone.fpn.inner_blocks.{i}.0.") for i in range(4)),
    *((f"features.pyramid.output.{i}.", f"backbone.fpn.layer_blocks.{i}.0.") for i in range(4)),
    ("rpn.conv.", "rpn.head.conv.0.0."),
    ("rpn.objectness.", "rpn.head.cls_logits."),
    ("rpn.deltas.", "rpn.head.bbox_pred."),
    ("box_head.body.first.", "roi_heads.box_head.fc6."),
    ("box_head.body.second.", "roi_heads.box_head.fc7."),
    ("box_head.classifier.", "roi_heads.box_predictor.cls_score."),
    ("box_head.box_regressor.", "roi_heads.box_predictor.bbox_pred."),
    *((f"mask_head.layers.{2 * i}.", f"roi_heads.mask_head.{i}.0.") for i in range(4)),
    ("mask_head.layers.8.", "roi_heads.mask_predictor.conv5_mask."),
    ("mask_head.mask_logits.", "roi_heads.mask_predictor.mask_fcn_logits."),
    ("keypoint_head.layers.", "roi_heads.keypoint_head."),
    ("keypoint_head.keypoint_logits.", "roi_heads.keypoint_predictor.kps_score_lowres."),
)
# Files were published before torchvision put each convolution into a block; how their names have become today's.
TWO_STAGE_RENAMES = (
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"roi_heads.mask_head.{i}.0.") for i in range(4)),
)
TWO_STAGE_V2_NAMES = (
    ("features.backbone.network.", "backbone.body."),
    ("features.pyramid.lateral.", "backbone.fpn.inner_blocks."),
    ("features.pyramid.output.", "backbone.fpn.layer_blocks."),
    *((f"rpn.conv.{2 * i}.", f"rpn.head.conv.{i}.0.") for i in range(2)),
    *((f"box_head.body.layers.{3 * i + j}.", f"roi_heads.box_head.{i}.{j}.") for i in range(4) for j in range(2)),
    ("box_head.body.first.", "roi_heads.box_head.5."),
    *((f"mask_head.layers.{3 * i + j}.", f"roi_heads.mask_head.{i}.{j}.") for i in range(4) for j in range(2)),
    ("mask_head.layers.12.", "roi_heads.mask_predictor.conv5_mask."),
    *(names for names in TWO_STAGE_NAMES if names[0].startswith(("rpn.", "box_head.c", "box_head.box", "mask_head.m"))),
)
ONE_STAGE_NAMES = (
    ("features.backbone.network.", "backbone.body."),
    *((f"features.pyramid.lateral.{i}.", f"backbone.fpn.inner_blocks.{i}.0.") for i in range(3)),
    *((f"features.pyramid.output.{i}.", f"backbone.fpn.layer_blocks.{i}.0.") for i in range(3)),
    *((f"features.pyramid.coarser.{i}.", f"backbone.fpn.extra_blocks.p{6 + i}.") for i in range(2)),
    ("class_logits.", "head.classification_head.cls_logits."),
    ("box_deltas.", "head.regression_head.bbox_reg."),
)
RETINANET_NAMES = (
    *ONE_STAGE_NAMES,
    *((f"class_tower.{2 * i}.", f"head.classification_head.conv.{i}.0.") for i in range(4)),
    *((f"box_tower.{2 * i}.", f"head.regression_head.conv.{i}.0.") for i in range(4)),
)
RETINANET_RENAMES = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    *((rf"^(head\.\w+\.conv)\.{2 * i}\.(weight|bias)$", rf"\1.{i}.0.\2") for i in range(4)),
)
RETINANET_V2_NAMES = (
    *ONE_STAGE_NAMES,
    *((f"class_tower.{3 * i + j}.", f"head.classification_head.conv.{i}.{j}.") for i in range(4) for j in range(2)),
    *((f"box_tower.{3 * i + j}.", f"head.regression_head.conv.{i}.{j}.") for i in range(4) for j in range(2)),
)
RETINANET: dict[str, Any] = {  # torchvision's: coarser maps from the pyramid, sizes cut to whole pixels, an L1 loss
    "features": {"strides": (8, 16, 32), "coarser": "p5"},
    "anchors": {"sizes": tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512))},
    "box_loss": "l1",
    "detections": {"count": 300},
}
RETINANET_V2: dict[str, Any] = {
    **RETINANET,
    "features": {"strides": (8, 16, 32), "coarser": "c5", "frozen_norm": False},
    "head": {"norm": "group"},
    "box_loss": "giou",
}
SSD_NAMES = (
    ("maps.backbone.scale", "backbone.scale_weight"),
    ("maps.backbone.early.", "backbone.features."),
    ("maps.backbone.late.", "backbone.extra.0."),
    ("maps.backbone.fc.", "backbone.extra.0.7."),
    *((f"maps.extra.{i}.", f"backbone.extra.{i + 1}.") for i in range(4)),
    ("class_logits.", "head.classification_head.module_list."),
    ("box_deltas.", "head.regression_head.module_list."),
)
SSDLITE_NAMES = (
    ("maps.backbone.early.", "backbone.features.0."),
    ("maps.backbone.late.", "backbone.features.1."),
    ("maps.extra.", "backbone.extra."),
    *((f"class_before.{i}.", f"head.classification_head.module_list.{i}.0.") for i in range(6)),
    *((f"class_logits.{i}.", f"head.classification_head.module_list.{i}.1.") for i in range(6)),
    *((f"box_before.{i}.", f"head.regression_head.module_list.{i}.0.") for i in range(6)),
    *((f"box_deltas.{i}.", f"head.regression_head.module_list.{i}.1.") for i in range(6)),
)
SSD300: dict[str, Any] = {
    "matcher": "best",
    "boxes": {"scales": (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), "clip": True},
}
SSDLITE: dict[str, Any] = {
    "backbone": "mobilenet_v3_large",
    "size": 320,
    "lite": True,
    "extra": (512, 256, 256, 128),
    "boxes": {
        "scales": (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
        "ratios": ((1.0, 2.0, 0.5, 3.0, 1 / 3),) * 6,
        "clip": True,
    },
    "matcher": "best",
    "candidates": 300,
    "detections": {"score": 0.001, "nms_iou": 0.55, "count": 300},
}
BATCHNORM_EPS = 1e-5  # torch's default, which our backbones have
V2 = {  # torchvision's second round of detectors: batch-norms and more convolutions
    "features": {"norm": "batch", "frozen_norm": False},
    "proposals": {"convs": 2},
    "head": {"kind": "conv", "convs": 4, "norm": "batch"},
}
DEEPLAB = {"output_stride": 8, "multi_grid": None, "head_conv": True, "auxiliary": True}  # torchvision's always so


@dataclass(frozen=True)
class Published:
    """One row of the table: a file, and the model that it fills."""

    name: str
    system: str  # in the catalog
    arguments: Mapping[str, Any]  # that make the system equal to the publisher's network
    names: tuple[tuple[str, str], ...]  # prefixes of our tensors' names and of theirs
    filename: str
    sha256: str  # the first digits, which the file's name carries
    size: float  # MB
    metrics: Mapping[str, float]  # as the publisher states them
    base: str = PYTORCH_FILES
    classes: tuple[str, ...] = VOC_CLASSES
    input: InputSpec = TORCHVISION_INPUT
    data: str = "COCO val2017, the 20 classes of PASCAL VOC and background"  # that the metrics are of
    terms: str = TORCHVISION_TERMS
    lineage: tuple[str, ...] = TORCHVISION_LINEAGE
    renames: tuple[tuple[str, str], ...] = ()  # patterns of names of former years, and what became of them
    outputs: tuple[str, ...] = ()  # the publisher's, background first, N/A for those without a class; (): our classes
    norm_eps: float | None = None  # of the publisher's batch-norms; None: torch's

    @property
    def url(self) -> str:
        """Where the file is."""
        return self.base + self.filename

    def build(self) -> Model:
        """The model with random weights, in evaluation mode, with all that is known of it in ``info``."""
        model = build(self.system, self.classes, **self.arguments, input=self.input)
        model.info = {
            "published": self.name,
            "data": "COCO train2017",
            "metrics": {"data": self.data, **self.metrics},
            "terms": self.terms,
            "lineage": list(self.lineage),
        }
        return model.eval()

    @property
    def kept(self) -> list[int]:
        """The publisher's outputs that are ours, the background's first."""
        return [i for i, name in enumerate(self.outputs) if name != "N/A"]


def _detector(
    name: str, system: str, filename: str, size: float, metrics: Mapping[str, float], **rest: Any
) -> Published:
    """A row of torchvision's detectors, trained on COCO; by default of two stages on a ResNet-50 with a pyramid."""
    values = {
        "arguments": {},
        "input": DETECTION_INPUT,
        "classes": COCO_CLASSES,
        "outputs": COCO_OUTPUTS,
        "data": "COCO val2017",
        "names": TWO_STAGE_NAMES,
        "renames": TWO_STAGE_RENAMES,
        "norm_eps": 0.0,  # they were trained so; torchvision sets it when it loads them
        **rest,
    }
    digest = filename.rsplit("-", 1)[1].removesuffix(".pth")
    return Published(
        name=f"torchvision/{name}",
        system=system,
        filename=filename,
        sha256=digest,
        size=size,
        metrics=metrics,
        **values,
    )


PUBLISHED: dict[str, Published] = {
    row.name: row
    for row in (
        Published(
            "torchvision/fcn_resnet50",
            "fcn-resnet",
            {"backbone": "resnet50", "auxiliary": True},
            FCN_NAMES,
            "fcn_resnet50_coco-1167a1af.pth",
            "1167a1af",
            135.0,
            {"mean_iou": 0.605, "pixel_accuracy": 0.914},
        ),
        Published(
            "torchvision/fcn_resnet101",
            "fcn-resnet",
            {"backbone": "resnet101", "auxiliary": True},
            FCN_NAMES,
            "fcn_resnet101_coco-7ecb50ca.pth",
            "7ecb50ca",
            207.7,
            {"mean_iou": 0.637, "pixel_accuracy": 0.919},
        ),
        Published(
            "torchvision/deeplabv3_resnet50",
            "deeplab-v3",
            {"backbone": "resnet50", **DEEPLAB},
            DEEPLAB_NAMES,
            "deeplabv3_resnet50_coco-cd0a2569.pth",
            "cd0a2569",
            160.5,
            {"mean_iou": 0.664, "pixel_accuracy": 0.924},
        ),
        Published(
            "torchvision/deeplabv3_resnet101",
            "deeplab-v3",
            {"backbone": "resnet101", **DEEPLAB},
            DEEPLAB_NAMES,
            "deeplabv3_resnet101_coco-586e9e4e.pth",
            "586e9e4e",
            233.2,
            {"mean_iou": 0.674, "pixel_accuracy": 0.924},
        ),
        _detector(
            "fasterrcnn_resnet50_fpn",
            "faster-rcnn",
            "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
            159.7,
            {"box.AP": 0.370},
        ),
        _detector(
            "maskrcnn_resnet50_fpn",
            "mask-rcnn",
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
            169.8,
            {"box.AP": 0.379, "mask.AP": 0.346},
        ),
        _detector(
            "fasterrcnn_resnet50_fpn_v2",
            "faster-rcnn",
            "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
            167.1,
            {"box.AP": 0.467},
            arguments=V2,
            names=TWO_STAGE_V2_NAMES,
            renames=(),
            norm_eps=None,
        ),
        _detector(
            "maskrcnn_resnet50_fpn_v2",
            "mask-rcnn",
            "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
            177.2,
            {"box.AP": 0.474, "mask.AP": 0.418},
            arguments={**V2, "mask": {"norm": "batch"}},
            names=TWO_STAGE_V2_NAMES,
            renames=(),
            norm_eps=None,
        ),
        _detector(
            "keypointrcnn_resnet50_fpn",
            "keypoint-rcnn",
            "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
            226.1,
            {"box.AP": 0.546, "keypoints.AP": 0.650},
            arguments={"keypoints": {"shift": 0.5}},  # trained with COCO's numbers unchanged from its files
            classes=("person",),
            outputs=("no person", "person"),
            data="COCO val2017, people",
        ),
        _detector(
            "retinanet_resnet50_fpn",
            "retinanet",
            "retinanet_resnet50_fpn_coco-eeacb38b.pth",
            130.3,
            {"box.AP": 0.364},
            arguments=RETINANET,
            names=RETINANET_NAMES,
            renames=RETINANET_RENAMES,
        ),
        _detector(
            "ssd300_vgg16",
            "ssd",
            "ssd300_vgg16_coco-b556d3b4.pth",
            136.0,
            {"box.AP": 0.251},
            arguments=SSD300,
            names=SSD_NAMES,
            renames=(),
            norm_eps=None,
            input=InputSpec(
                mean=(0.48235, 0.45882, 0.40784), std=(1 / 255, 1 / 255, 1 / 255), size=(300, 300), antialias=False
            ),
        ),
        _detector(
            "ssdlite320_mobilenet_v3_large",
            "ssd",
            "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
            13.4,
            {"box.AP": 0.213},
            arguments=SSDLITE,
            names=SSDLITE_NAMES,
            renames=(),
            norm_eps=None,
            input=InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=(320, 320), antialias=False),
        ),
        _detector(
            "retinanet_resnet50_fpn_v2",
            "retinanet",
            "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
            146.0,
            {"box.AP": 0.415},
            arguments=RETINANET_V2,
            names=RETINANET_V2_NAMES,
            renames=(),
            norm_eps=None,
        ),
    )
}


def find_published(name: str) -> Published:
    """The row of ``name``; a :class:`UsageError` with the nearest name where there is none."""
    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UsageError(f"there are no published weights {name!r}{suggest(name, PUBLISHED)}; known: {known}")
    return PUBLISHED[name]


def load_published(name: str, weights_file: str | Path | None = None) -> Model:
    """The published model ``name``, in evaluation mode.

    Args:
        name: of the table, such as ``"torchvision/deeplabv3_resnet50"``.
        weights_file: the publisher's file (.pth), or the same tensors as .safetensors. Without it the file is
            downloaded to ``$SCENEWISE_CACHE`` or ``~/.cache/scenewise``, its checksum is verified, and it is kept.

    Raises:
        UsageError: there is no such name.
        DownloadError: the file could not be fetched or verified; says what to do instead.
        CheckpointError: the file holds other tensors; names the first. No code in it is run.
    """
    row = find_published(name)
    if weights_file is None:
        path = download(row.filename, row.sha256, base=row.base, instead="give a local copy as weights_file")
    else:
        path = Path(weights_file)
    tensors = read_tensors(path)
    model = row.build()
    fill_published(model, tensors, row, str(path))
    return model


def fill_published(model: Model, tensors: Mapping[str, Tensor], row: Published, source: str) -> None:
    """Put the publisher's ``tensors`` into ``model``, which is a model of ``row``; every one must be there and fit.

    Raises:
        CheckpointError: names ``source`` and the first tensor that is missing, unknown or has another shape.
    """
    own = model.state_dict()
    theirs = {key: _their_name(key, row.names) for key in own}
    tensors = {_today(name, row.renames): value for name, value in tensors.items()}
    # counts of training steps, which weights of the first years lack and prediction does not read
    needed = [name for name in theirs.values() if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in tensors]
    unknown = [name for name in tensors if name not in set(theirs.values())]
    if missing or unknown:
        what, names = ("lacks", missing) if missing else ("has unknown", unknown)
        raise CheckpointError(f"{source}: {what} {len(names)} tensors of {row.name}, the first {names[0]!r}")
    found = {key: tensors.get(name, own[key]) for key, name in theirs.items()}
    for key, value in found.items():
        expected = _their_shape(key, own[key], row)
        if list(value.shape) != expected:
            raise CheckpointError(f"{source}: {theirs[key]} has shape {list(value.shape)}; {row.name} needs {expected}")
    model.load_state_dict({key: _ours(key, value, row) for key, value in found.items()})


@dataclass(frozen=True)
class ClassRows:
    """A layer whose rows are the publisher's outputs: how many rows each has, and whether the background has some.

    ``by_anchor``: the rows are those of all outputs for the first anchor, then for the second, and so on; ours are
    those of the first class for all anchors, and so on.
    """

    rows: int = 1
    background: bool = True
    by_anchor: bool = False


BY_CLASS = {
    ("", "box_head.classifier."): ClassRows(),
    ("", "box_head.box_regressor."): ClassRows(rows=4),
    ("", "mask_head.mask_logits."): ClassRows(background=False),
    ("retinanet", "class_logits."): ClassRows(background=False, by_anchor=True),
    ("ssd", "class_logits."): ClassRows(by_anchor=True),
}  # by system, where another has a layer of that name, and by the start of our tensor's name


def _class_rows(key: str, row: Published) -> ClassRows | None:
    """The entry of ``BY_CLASS`` of our tensor ``key``, where the publisher's outputs are not ours."""
    fitting = (e for (system, start), e in BY_CLASS.items() if key.startswith(start) and system in ("", row.system))
    return next(fitting, None) if row.outputs else None


def _rows_of_one(own: Tensor, layer: ClassRows, row: Published) -> int:
    """How many rows of our tensor ``own`` belong to one class."""
    return len(own) // (len(row.classes) + layer.background) if layer.by_anchor else layer.rows


def _their_shape(key: str, own: Tensor, row: Published) -> list[int]:
    """The shape that the publisher's tensor for our tensor ``own`` must have."""
    layer = _class_rows(key, row)
    return list(own.shape) if layer is None else [_rows_of_one(own, layer, row) * len(row.outputs), *own.shape[1:]]


def _ours(key: str, value: Tensor, row: Published) -> Tensor:
    """The publisher's tensor ``value`` as ours: only the rows of our classes, and with our batch-norm's epsilon."""
    layer = _class_rows(key, row)
    if layer is not None:
        kept = row.kept if layer.background else row.kept[1:]
        by_class = (
            value.unflatten(0, (-1, len(row.outputs))).transpose(0, 1)
            if layer.by_anchor
            else (value.unflatten(0, (-1, layer.rows)))
        )  # [outputs,rows,...]
        found: Tensor = by_class[kept].flatten(0, 1)
        return found
    if row.norm_eps is not None and key.endswith("running_var"):
        return value + row.norm_eps - BATCHNORM_EPS
    return value


def _today(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    """What the publisher calls the tensor ``name`` today."""
    for old, new in renames:
        name = re.sub(old, new, name)
    return name


def _their_name(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """The publisher's name of our tensor ``key``."""
    ours, theirs = next(pair for pair in names if key.startswith(pair[0]))
    return theirs + key[len(ours) :]
