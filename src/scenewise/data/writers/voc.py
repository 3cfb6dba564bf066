"""Pascal VOC's boxes, or its label maps.

Boxes: ``JPEGImages``, ``Annotations``, ``ImageSets/Main/SPLIT.txt``, and ``classes.txt`` for the order of the classes.
Label maps: ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation/SPLIT.txt``, and, as CVAT writes it,
``labelmap.txt`` for the classes and their colours. Each pixel is the label of its class, 255 to ignore it; the PNGs
have the colours as their palette.

VOC counts pixels from 1 and includes the last, so a box x1, y1, x2, y2 is x1 + 1, y1 + 1, x2, y2 there, and one of a
pixel's width or less has no form in it. Fractions are kept. Crowds are ``difficult``.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from scenewise.data.label_colors import VOC_VOID, voc_colors
from scenewise.data.writers.base import MAX_CLASSES, Record, Writer, short
from scenewise.errors import UsageError

LIST_TRAP = re.compile(r"\s-?[01]$|^[\"'\s]|[\"'\s]$|\\")  # what readers of lists cut off or change


class VOCWriter(Writer):
    """Writes XML files of boxes, or index PNGs."""

    format = "voc"
    holds = frozenset({"boxes", "labels", "ignore", "area", "semantic"})
    one_of = (frozenset({"boxes"}), frozenset({"semantic"}))

    def begin(self) -> None:
        """Say what is lost of the data set as a whole."""
        self._lists: dict[str, list[str]] = {}
        self._files: dict[str, Path | None] = {}  # by the image's name, for all splits share a folder
        self.maps = "semantic" in self.whole.fields
        self.plain_names("labelmap.txt" if self.maps else "classes.txt")
        if self.maps:
            self._begin_maps()
        else:
            self.lose_colors()
            self.renumbered(range(1, len(self.whole.classes) + 1))

    def _begin_maps(self) -> None:
        """Decide which colours classes have."""
        classes = self.whole.classes
        if len(classes) > MAX_CLASSES:
            raise UsageError(f"{self.whole.source}: {len(classes)} classes; voc holds {MAX_CLASSES}")
        for name in classes:
            if name.startswith("#"):
                raise UsageError(f"{self.whole.source}: class {name!r}: labelmap.txt takes # for a comment; rename it")
        self.renumbered(range(len(classes)))
        self.colors = self.whole.colors or voc_colors(len(classes))
        if len({*self.colors, VOC_VOID}) <= len(classes):
            what = "colours of the classes, some of which are equal or VOC's for 255"
            self.losses.lose(what, "VOC's are taken", 0, self.whole.source)
            self.colors = voc_colors(len(classes))
        rest = [VOC_VOID] * (256 - len(classes))
        self._palette = [channel for color in (*self.colors, *rest) for channel in color]

    def add(self, record: Record) -> None:
        """Write one image with its labels."""
        if record.name in self._files:
            if record.file is not None and self._files[record.name] == record.file:  # in two splits: listed twice
                self._lists.setdefault(record.split, []).append(record.name)
                return
            record.name = f"{record.split}/{record.name}"
        self._files[record.name] = record.file
        if not self.maps:
            self.note_areas(record)
        name = self.place_image(record, "JPEGImages")
        listed = name if LIST_TRAP.search(record.name) else record.name
        if LIST_TRAP.search(listed) or not listed.isprintable():
            raise UsageError(f"{record.file or record.name}: VOC's lists can't hold this name; rename the file")
        self._lists.setdefault(record.split, []).append(listed)
        if self.maps:
            self._write_map(record)
            return
        path = self.folder / "Annotations" / f"{record.name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = ElementTree.ElementTree(self._annotation(record, name))
        ElementTree.indent(tree)
        tree.write(path, encoding="utf-8", xml_declaration=False)

    def _write_map(self, record: Record) -> None:
        labels = Image.fromarray(record.target["semantic"].numpy().astype(np.uint8)).convert("P")
        labels.putpalette(self._palette)
        path = self.folder / "SegmentationClass" / f"{record.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels.save(path)

    def finish(self) -> None:
        """Write the lists and the names of the classes."""
        folder = self.folder / "ImageSets" / ("Segmentation" if self.maps else "Main")
        folder.mkdir(parents=True, exist_ok=True)
        for split, names in self._lists.items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if self.maps:
            rows = zip(self.whole.classes, self.colors, strict=True)
            lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in rows]
            text = "".join(["# label:color_rgb:parts:actions\n", *lines])
            (self.folder / "labelmap.txt").write_text(text, encoding="utf-8")
            return
        text = "".join(f"{name}\n" for name in self.whole.classes)
        (self.folder / "classes.txt").write_text(text, encoding="utf-8")

    def _annotation(self, record: Record, name: str) -> ElementTree.Element:
        root = ElementTree.Element("annotation")
        folder, _, file = f"JPEGImages/{name}".rpartition("/")
        ElementTree.SubElement(root, "folder").text = folder
        ElementTree.SubElement(root, "filename").text = file
        size = ElementTree.SubElement(root, "size")
        height, width = record.size
        for side, value in (("width", width), ("height", height), ("depth", 3)):
            ElementTree.SubElement(size, side).text = str(value)
        ElementTree.SubElement(root, "segmented").text = "0"
        boxes, ignored = record.boxes(), record.ignored()
        for k, label in enumerate(record.labels()):
            corners = short(boxes[k] + np.array([1, 1, 0, 0]))
            if corners[2] <= corners[0] or corners[3] <= corners[1]:
                where = f"{record.split}, image {record.name}"
                self.losses.lose("box{es} no wider or no higher than a pixel", "left out", 1, where)
                continue
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = self.whole.classes[label]
            ElementTree.SubElement(item, "pose").text = "Unspecified"
            ElementTree.SubElement(item, "truncated").text = "0"
            ElementTree.SubElement(item, "difficult").text = str(int(ignored[k]))
            place = ElementTree.SubElement(item, "bndbox")
            for corner, number in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                ElementTree.SubElement(place, corner).text = str(int(number) if number == int(number) else number)
        return root
