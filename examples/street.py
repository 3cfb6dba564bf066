"""Draws a street as a camera in a car sees it, and labels its pixels with ``street-scenes``: out/street.png.

    python examples/street.py out

The drawing is made of polygons and random numbers alone, so that nobody's photograph and nobody's terms are needed. The
weights of the model are a package of their own (CC BY-NC 4.0); without them the drawing alone is written.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import scenewise
from scenewise.errors import MissingExtraError

HEIGHT, WIDTH, FINE = 360, 480, 2  # pixels; drawn FINE times as large
FOCAL, EYE = 330 * FINE, 1.4  # pixels, and metres above the road
CENTER = (250 * FINE, 150 * FINE)  # where the road ends
NEAR, FAR = 1.2, 200.0  # metres ahead
Point = tuple[float, float, float]  # metres to the right, metres ahead, metres above the road
Color = tuple[int, int, int]
WALLS = ((150, 88, 68), (178, 140, 108), (196, 186, 170), (128, 76, 62), (165, 120, 90), (205, 196, 184))


class Street:
    """A drawing in perspective."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE))
        self.pen = ImageDraw.Draw(self.image)

    def at(self, side: float, ahead: float, above: float) -> tuple[float, float]:
        """Where a point is seen."""
        return CENTER[0] + FOCAL * side / ahead, CENTER[1] + FOCAL * (EYE - above) / ahead

    def face(self, points: Sequence[Point], color: Sequence[float]) -> None:
        """A polygon in space."""
        self.pen.polygon([self.at(*point) for point in points], fill=tuple(int(value) for value in color))

    def upright(self, x: tuple[float, float], above: tuple[float, float], ahead: float, color: Sequence[float]) -> None:
        """A rectangle that faces the camera."""
        corners = [(x[0], above[0]), (x[1], above[0]), (x[1], above[1]), (x[0], above[1])]
        self.face([(side, ahead, height) for side, height in corners], color)

    def along(
        self, side: float, ahead: tuple[float, float], above: tuple[float, float], color: Sequence[float]
    ) -> None:
        """A rectangle along the street."""
        corners = [(ahead[0], above[0]), (ahead[0], above[1]), (ahead[1], above[1]), (ahead[1], above[0])]
        self.face([(side, depth, height) for depth, height in corners], color)

    def ground(self, x: tuple[float, float], ahead: tuple[float, float], color: Sequence[float], above: float) -> None:
        """A rectangle that lies."""
        corners = [(x[0], ahead[0]), (x[1], ahead[0]), (x[1], ahead[1]), (x[0], ahead[1])]
        self.face([(side, depth, above) for side, depth in corners], color)

    def sky_and_road(self) -> None:
        for y in range(HEIGHT * FINE):
            t = min(1.0, y / CENTER[1])
            self.pen.line((0, y, WIDTH * FINE, y), fill=(int(176 + 60 * t), int(196 + 40 * t), int(220 + 20 * t)))
        self.ground((-40, 40), (NEAR, FAR), (120, 116, 110), 0)
        self.ground((-3.7, 3.7), (NEAR, FAR), (84, 84, 88), 0)
        for sign in (-1, 1):
            self.ground((sign * 3.7, sign * 7.2), (NEAR, FAR), (166, 158, 152), 0.12)
            self.along(sign * 3.7, (NEAR, FAR), (0, 0.12), (200, 196, 190))
        for ahead in range(3, 90, 6):
            self.ground((-0.07, 0.07), (ahead, ahead + 3), (205, 205, 200), 0)

    def houses(self) -> None:
        edges = (6, 15, 24, 32, 42, 54, 70, 95)
        for side in (-7.2, 7.2):
            for a, b in reversed(list(itertools.pairwise(edges))):
                tall = float(self.random.uniform(7, 11))
                color = np.array(WALLS[int(self.random.integers(len(WALLS)))]) * (0.8 if side < 0 else 1.0)
                self.along(side, (a, b), (0, tall), color)
                roof = ((side, a, tall), (side * 1.3, a, tall + 2.4), (side * 1.3, b, tall + 2.4), (side, b, tall))
                self.face(roof, (92, 76, 74))
                self.upright((side, 2 * side), (0, tall), a, color * 0.82)
                for floor in np.arange(1.0, tall - 1.6, 2.9):
                    for ahead in np.arange(a + 0.9, b - 1.4, 2.6):
                        self.along(side, (ahead, ahead + 1.2), (floor, floor + 1.6), (58, 66, 78))
                        self.along(side, (ahead, ahead + 1.2), (floor, floor + 0.12), (225, 220, 212))

    def tree(self, side: float, ahead: float, tall: float) -> None:
        (x, y), (_, top), thick = self.at(side, ahead, 0), self.at(side, ahead, tall * 0.55), FOCAL * 0.16 / ahead
        self.pen.polygon(
            [(x - thick, y), (x + thick, y), (x + thick / 2, top), (x - thick / 2, top)], fill=(70, 56, 46)
        )
        crown = FOCAL * tall * 0.3 / ahead
        for _ in range(260):
            angle, away = self.random.uniform(0, 2 * np.pi), np.sqrt(self.random.uniform()) * crown
            u, v = x + away * np.cos(angle), top - crown / 2 + away * np.sin(angle) * 0.85
            leaf, green = crown * self.random.uniform(0.06, 0.16), int(self.random.uniform(50, 112))
            self.pen.ellipse((u - leaf, v - leaf, u + leaf, v + leaf), fill=(green * 2 // 3, green, green * 2 // 5))

    def car(self, side: float, ahead: float, color: Color) -> None:
        paint = np.array(color)
        self.ground((side - 0.95, side + 0.95), (ahead, ahead + 4), (44, 44, 48), 0.02)
        inner = side - 0.85 if side > 0 else side + 0.85
        self.along(inner, (ahead, ahead + 4), (0.3, 0.95), paint * 0.7)
        window = (
            (inner, ahead + 0.5, 0.95),
            (inner, ahead + 0.9, 1.42),
            (inner, ahead + 2.8, 1.42),
            (inner, ahead + 3.4, 0.95),
        )
        self.face(window, (40, 46, 54))
        self.upright((side - 0.85, side + 0.85), (0.28, 0.98), ahead, paint)
        glass = ((-0.8, ahead, 0.98), (0.8, ahead, 0.98), (0.66, ahead + 0.5, 1.45), (-0.66, ahead + 0.5, 1.45))
        self.face([(side + x, depth, height) for x, depth, height in glass], (48, 56, 66))
        self.upright((side - 0.66, side + 0.66), (1.42, 1.5), ahead + 0.5, paint * 0.9)
        for x in (side - 0.72, side + 0.72):
            self.upright((x - 0.1, x + 0.1), (0.62, 0.82), ahead, (190, 36, 32))
            self.upright((x - 0.13, x + 0.13), (0, 0.34), ahead, (22, 22, 24))
        self.upright((side - 0.26, side + 0.26), (0.5, 0.64), ahead, (228, 214, 120))

    def person(self, side: float, ahead: float, coat: Color) -> None:
        metre, (x, y) = FOCAL / ahead, self.at(side, ahead, 0.12)
        for leg in (-0.09, 0.09):
            self.upright((side + leg - 0.08, side + leg + 0.08), (0.12, 1.0), ahead, (44, 46, 60))
        body = (x - 0.24 * metre, y - 1.5 * metre, x + 0.24 * metre, y - 0.78 * metre)
        self.pen.rounded_rectangle(body, radius=0.1 * metre, fill=coat)
        head = (x - 0.11 * metre, y - 1.76 * metre, x + 0.11 * metre, y - 1.5 * metre)
        self.pen.ellipse(head, fill=(196, 150, 124))

    def lamp(self, side: float, ahead: float) -> None:
        self.upright((side - 0.07, side + 0.07), (0.1, 5.5), ahead, (88, 90, 92))
        self.upright((side, side - np.sign(side) * 1.2), (5.45, 5.58), ahead, (88, 90, 92))

    def finished(self) -> Image.Image:
        """The drawing as a camera takes it: a little soft, with some noise."""
        small = self.image.filter(ImageFilter.GaussianBlur(1.2)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        noisy = np.asarray(small) + self.random.normal(0, 4, (HEIGHT, WIDTH, 1))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_street(seed: int = 7) -> Image.Image:
    """A street with houses, trees, cars and people."""
    street = Street(seed)
    street.sky_and_road()
    street.houses()
    for ahead in (62, 44, 30):
        street.tree(6.3, ahead, 7)
        street.tree(-6.2, ahead + 5, 7.5)
    street.lamp(4.6, 26)
    street.lamp(-4.6, 18)
    for side, ahead, color in (
        (-2.7, 26, (150, 152, 156)),
        (2.7, 21, (160, 40, 38)),
        (1.5, 34, (70, 90, 130)),
        (-2.7, 13, (40, 70, 120)),
        (2.7, 11.5, (196, 198, 200)),
    ):
        street.car(side, ahead, color)
    street.tree(6.4, 15, 6.5)
    street.person(-4.8, 11, (130, 44, 40))
    street.person(4.6, 13, (52, 74, 60))
    street.person(-5.4, 15, (60, 60, 70))
    street.lamp(4.2, 9.5)
    return street.finished()


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    out.mkdir(parents=True, exist_ok=True)
    picture = draw_street()
    try:
        model = scenewise.load("street-scenes")
    except MissingExtraError as error:
        picture.save(out / "street.png")
        sys.exit(f"the drawing alone is in {out / 'street.png'}; {error}")
    seen = scenewise.predict(model, picture)
    print(seen)
    labelled = seen.draw(picture, colors=[tuple(color) for color in model.info["colors"]])
    scenewise.side_by_side([("drawn", picture), ("street-scenes", labelled)]).save(out / "street.png")


if __name__ == "__main__":
    main()
