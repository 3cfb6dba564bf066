"""The table of formats that can be written."""

from __future__ import annotations

from scenewise.data.writers.base import Writer
from scenewise.data.writers.coco import CocoWriter
from scenewise.data.writers.masks import MasksWriter
from scenewise.data.writers.voc import VOCWriter
from scenewise.data.writers.yolo import YoloWriter

WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "masks": MasksWriter,
    "voc": VOCWriter,
    "yolo": YoloWriter,
}
