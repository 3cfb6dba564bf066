"""Forms of annotations that no reader takes: what they are, and what their tools write instead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

HEAD = 4096  # bytes of a file that are looked at
FILES = 40  # files that are looked at


class Form(NamedTuple):
    """How a form is told by a file's name and its first bytes, what it is called, and what to do."""

    ending: str
    head: re.Pattern[bytes]
    name: str
    cure: str


FORMS = (
    Form(".json", re.compile(rb'^\s*\[\s*\{(?=.*"coordinates")(?=.*"annotations?")', re.S), "CreateML's JSON",
         "export COCO or YOLO from the tool"),
    Form(".json", re.compile(rb'"(?:rectangle|polygon|keypoint|brush)labels"|"from_name"\s*:', re.S),
         "Label Studio's own JSON", "export COCO, YOLO or Pascal VOC from Label Studio"),
    Form(".json", re.compile(rb'"vid_list"|"__VIA_PROJECT_ID__"'), "VIA 3's projects",
         "draw in VIA 2, whose projects are read, or export COCO"),
    Form(".json", re.compile(rb'"assets"\s*:\s*\{.*"(?:boundingBox|tags)"|"visitedAssetIds"|"sourceConnection"', re.S),
         "VoTT's JSON", "export Pascal VOC from VoTT"),
    Form(".ndjson", re.compile(rb'"data_row"'), "Labelbox's NDJSON", "convert it to COCO with Labelbox's own tools"),
    Form(".xml", re.compile(rb"<annotations>.*<(?:meta|version)>", re.S), "CVAT's XML (CVAT for images)",
         "export COCO 1.0, Pascal VOC or YOLO from CVAT"),
    Form(".csv", re.compile(rb"^(?:\xef\xbb\xbf)?ImageID,"), "Open Images' CSV", "convert it to COCO"),
    Form(".csv", re.compile(rb"^(?:\xef\xbb\xbf)?filename,width,height,class,xmin"), "TensorFlow's CSV of boxes",
         "export COCO, YOLO or Pascal VOC from the tool"),
    Form(".txt", re.compile(rb"\A[A-Za-z_]+(?: -?\d+(?:\.\d+)?){14,15}\s*$", re.M), "KITTI's text files",
         "convert them to COCO or YOLO"),
    Form(".tfrecord", re.compile(rb""), "TFRecord", "export COCO, YOLO or Pascal VOC from the tool"),
)  # fmt: skip


def foreign_format(path: Path) -> str:
    """What a folder or file is that no reader takes, with the cure: a clause for messages; empty where it is not known.

    It looks at the beginnings of a few files, and raises nothing.
    """
    for file in islice(_files(path), FILES):
        ending = file.suffix.lower()
        try:
            with file.open("rb") as stream:
                head = stream.read(HEAD)
        except OSError:
            continue
        for form in FORMS:
            if form.ending == ending and form.head.search(head):
                return f"{file} has the form of {form.name}, which is not read: {form.cure}"
    return ""


def _files(path: Path) -> Iterator[Path]:
    """Files with an ending of ``FORMS`` in ``path``, the upper ones first, at most two folders deep."""
    if path.is_file():
        yield path
        return
    endings = {form.ending for form in FORMS}
    for inner, folders, names in os.walk(path):
        depth = len(Path(inner).relative_to(path).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < 2 else []
        yield from (Path(inner) / name for name in sorted(names) if os.path.splitext(name)[1].lower() in endings)
