"""Weights that others have published, by name: which of our systems equals theirs, and how their tensors are called.

    >>> model = load_published("torchvision/fcn_resnet50")  # downloads 135 MB, once
    >>> model = load_published("torchvision/fcn_resnet50", "downloads/fcn_resnet50_coco-1167a1af.pth")

The table states what the publisher states: URLs, checksums and metrics are those of torchvision's
``models.segmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scenewise.catalog import build
from scenewise.checkpoint import read_tensors
from scenewise.download import PYTORCH_FILES, download
from scenewise.errors import CheckpointError, UsageError, suggest
from scenewise.model import Model
from scenewise.types import InputSpec

VOC_CLASSES = (
    *("__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
TORCHVISION_INPUT = InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), short_side=520)
TORCHVISION_TERMS = (
    "Published with torchvision (BSD-3-Clause), trained on COCO, whose annotations are CC BY 4.0 and whose images are "
    "under the terms of Flickr; torchvision leaves it to you to find out whether your use is permitted."
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

    @property
    def url(self) -> str:
        """Where the file is."""
        return self.base + self.filename

    def build(self) -> Model:
        """The model with random weights, in evaluation mode, with all that is known of it in ``info``."""
        model = build(self.system, self.classes, **self.arguments, input=self.input)
        model.info = {"published": self.name, "metrics": dict(self.metrics), "data": self.data, "terms": self.terms}
        return model.eval()


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
    # counts of training steps, which weights of the first years lack and prediction does not read
    needed = [name for name in theirs.values() if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in tensors]
    unknown = [name for name in tensors if name not in set(theirs.values())]
    if missing or unknown:
        what, names = ("lacks", missing) if missing else ("has unknown", unknown)
        raise CheckpointError(f"{source}: {what} {len(names)} tensors of {row.name}, the first {names[0]!r}")
    for key, value in own.items():
        found = tensors.get(theirs[key], value)
        if found.shape != value.shape:
            raise CheckpointError(
                f"{source}: {theirs[key]} has shape {list(found.shape)}; {row.name} needs {list(value.shape)}"
            )
    model.load_state_dict({key: tensors.get(name, own[key]) for key, name in theirs.items()})


def _their_name(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """The publisher's name of our tensor ``key``."""
    ours, theirs = next(pair for pair in names if key.startswith(pair[0]))
    return theirs + key[len(ours) :]
