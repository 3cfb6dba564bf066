"""Lines and dots over a picture: boxes, limbs, joints, arrows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from scenewise.draw.colors import Array, Color
from scenewise.draw.legends import PAGE

Links = Sequence[tuple[int, int]]


class Strokes:
    """Lines and dots to lay over a picture, smoothed by drawing them larger where the picture is small."""

    def __init__(self, size: tuple[int, int]) -> None:
        pixels = size[0] * size[1]
        self.up = 3 if pixels < 1e6 else 2 if pixels < 4e6 else 1  # steps don't show on large pictures
        self.size = size
        self.layer = Image.new("RGBA", (size[0] * self.up, size[1] * self.up), (0, 0, 0, 0))
        self.ink = ImageDraw.Draw(self.layer)

    def box(self, box: Array, color: Color, line: int) -> None:
        """The outline of ``box`` (x1, y1, x2, y2), inside its sides, with a dark hair line around."""
        width, height = self.size
        limit = [width, height, width, height]
        line = max(1, min(line, round(min(box[2] - box[0], box[3] - box[1]) / 24)))  # finer around small objects
        x1, y1, x2, y2 = (round(float(v) * self.up) for v in np.clip(box, -4 * line, np.add(limit, 4 * line)))
        x2, y2 = max(x1 + 1, x2) - 1, max(y1 + 1, y2) - 1
        hair = self.up
        frame = (x1 - hair, y1 - hair, x2 + hair, y2 + hair)
        self.ink.rectangle(frame, outline=(0, 0, 0, 110), width=line * self.up + 2 * hair)
        self.ink.rectangle((x1, y1, x2, y2), outline=(*color, 255), width=line * self.up)

    def pose(self, keypoints: Array, links: Links, color: Color, line: int) -> None:
        """Joints and limbs of ``keypoints`` [P,3]; an unseen joint is a ring, an unknown one is left out."""
        known = keypoints[:, 2] > 0
        if not known.any():
            return
        extent = float(np.ptp(keypoints[known, :2], axis=0).max())
        line = min(2 * line, max(1, round(extent / 110)))  # people far away need finer lines, near ones bolder
        points = [(float(x) * self.up, float(y) * self.up) for x, y, _ in keypoints]
        width, radius = line * self.up, 1.5 * line * self.up
        limbs = [(points[a], points[b]) for a, b in links if known[a] and known[b]]
        # first a dark rim below all limbs, so that they show on any background
        for fill, extra in (((0, 0, 0, 130), 2 * self.up), ((*color, 255), 0)):
            for a, b in limbs:
                self.ink.line([a, b], fill=fill, width=width + extra)
        for (x, y), visible in zip(points, keypoints[:, 2], strict=True):
            if visible > 0:
                rim, inner = (color, PAGE) if visible < 2 else (PAGE, color)
                self._dot(x, y, radius + 0.6 * width, rim)
                self._dot(x, y, radius, inner)

    def _dot(self, x: float, y: float, radius: float, color: Color) -> None:
        self.ink.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*color, 255))

    def on(self, picture: Image.Image) -> Image.Image:
        """``picture`` with the strokes."""
        layer = self.layer if self.up == 1 else self.layer.resize(self.size, Image.Resampling.BOX)
        picture = picture.copy()
        picture.paste(layer, mask=layer)
        return picture
