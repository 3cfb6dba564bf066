"""A folder of images and index PNGs: ``images/SPLIT``, ``labels/SPLIT`` and ``classes.json``.

Each pixel is the label of its class, 255 to ignore it. Where classes have colours, the PNGs have them as a palette.
"""

from __future__ import annotations

import json

from PIL import Image

from scenewise.data.writers.base import MAX_CLASSES, Record, Writer
from scenewise.errors import UsageError


class MasksWriter(Writer):
    """Writes index PNGs."""

    format = "masks"
    holds = frozenset({"semantic"})

    def begin(self) -> None:
        """Say what is lost of the data set as a whole."""
        self._palette: list[int] = []
        self.plain_names("classes.json")
        if len(self.whole.classes) > MAX_CLASSES:
            raise UsageError(f"{self.whole.source}: {len(self.whole.classes)} classes; masks holds {MAX_CLASSES}")
        self.renumbered(range(len(self.whole.classes)))
        if self.whole.colors is not None:
            grey = next(level for level in range(224, -1, -1) if (level,) * 3 not in self.whole.colors)  # of no class
            colors = [*self.whole.colors, *[(grey,) * 3] * (256 - len(self.whole.colors))]
            self._palette = [channel for color in colors for channel in color]

    def add(self, record: Record) -> None:
        """Write one image with its label map."""
        if "/" in record.name:
            self.losses.note("image{s} from sub-folders, with - in place of / in the name", 1)
            record.name = record.name.replace("/", "-")
        self.place_image(record, f"images/{record.split}")
        labels = Image.fromarray(record.target["semantic"].numpy().astype("uint8"))
        if self._palette:
            labels = labels.convert("P")
            labels.putpalette(self._palette)
        path = self.folder / "labels" / record.split / f"{record.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels.save(path)

    def finish(self) -> None:
        """Write classes.json."""
        content: dict[str, object] = {"classes": list(self.whole.classes)}
        if self.whole.colors is not None:
            content["colors"] = [list(color) for color in self.whole.colors]
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (self.folder / "classes.json").write_text(text + "\n", encoding="utf-8")
