"""Legends: swatches with names, the scale of depth, the key of normals, and how they are put beside a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scenewise.draw.colors import UNKNOWN, Color, depth_color, flow_color, normal_color
from scenewise.errors import UsageError

PAGE, INK, FAINT = (255, 255, 255), (32, 33, 36), (110, 113, 120)
Side = Literal["right", "bottom"]


@dataclass(frozen=True)
class Pen:
    """Sizes in pixels that fit a picture: the factor of enlargement, the letter size, the width of lines."""

    factor: int
    em: int
    line: int
    font: ImageFont.FreeTypeFont

    @classmethod
    def of(cls, height: int, width: int, min_width: int, font: str | Path | None) -> Pen:
        """The pen for an image of ``height`` x ``width``, which is enlarged to at least ``min_width``.

        Raises:
            UsageError: the font can't be read.
        """
        factor = max(1, min(math.ceil(min_width / width), 2000 // height))  # strips must not become endless
        em = max(13, round(0.016 * factor * math.sqrt(height * width)))
        if font is None:
            loaded = ImageFont.load_default(em)
        else:
            try:
                loaded = ImageFont.truetype(str(font), em)
            except OSError:
                raise UsageError(f"font {font}: can't be read; expected a TrueType or OpenType file") from None
        return cls(factor, em, max(2, round(em / 7)), loaded)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """A line of a legend. A swatch of several colours is striped; one of none is an empty frame."""

    colors: tuple[Color, ...]
    name: str
    value: str


def with_legend(picture: Image.Image, rows: list[Row], where: bool | Side, pen: Pen) -> Image.Image:
    """``picture`` with the legend at its right or below it; where it is left open, where the result is smaller."""
    choices = []
    if where in (True, "right"):
        fit = max(1, int((picture.height - 1.2 * pen.em) / _row_height(pen)))
        block = _legend_block(rows, math.ceil(len(rows) / fit), pen)
        choices.append(beside(picture, block))
    if where in (True, "bottom"):
        columns = picture.width // _legend_block(rows, 1, pen).width
        if columns or where == "bottom":
            choices.append(_below(picture, _legend_block(rows, max(1, min(columns, len(rows))), pen)))
    return min(choices, key=lambda choice: choice.width * choice.height)


def _row_height(pen: Pen) -> int:
    return round(1.6 * pen.em)


def _legend_block(rows: list[Row], columns: int, pen: Pen) -> Image.Image:
    """The legend's ``rows`` in as many columns, filled one column after the other."""
    em, tall = pen.em, _row_height(pen)
    names = [shortened(row.name, pen.font, 20 * em) for row in rows]
    name_width = max(pen.font.getlength(name) for name in names)
    value_width = max(pen.font.getlength(row.value) for row in rows)
    wide = math.ceil(1.7 * em + name_width + em + value_width)  # swatch, name, value
    gap = round(1.6 * em)
    each = math.ceil(len(rows) / columns)
    block = Image.new("RGB", (columns * (wide + gap) + em, round(each * tall + 1.2 * em)), PAGE)
    ink = ImageDraw.Draw(block)
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        x = em + (i // each) * (wide + gap)
        y = round(0.6 * em) + (i % each) * tall
        _swatch(ink, (x, y + (tall - em) // 2), row.colors, em)
        ink.text((x + 1.7 * em, y + tall / 2), name, fill=INK, font=pen.font, anchor="lm")
        ink.text((x + wide, y + tall / 2), row.value, fill=FAINT, font=pen.font, anchor="rm")
    return block


def _swatch(ink: ImageDraw.ImageDraw, corner: tuple[int, int], colors: tuple[Color, ...], em: int) -> None:
    """A square of ``colors``, in stripes where there are several, with a fine frame."""
    x, y = corner
    for i, color in enumerate(colors):
        left, right = x + i * em // len(colors), x + (i + 1) * em // len(colors)
        ink.rectangle((left, y, right, y + em), fill=color)
    ink.rectangle((x, y, x + em, y + em), outline=(150, 150, 150), width=max(1, em // 16))


def beside(picture: Image.Image, block: Image.Image) -> Image.Image:
    """``picture`` with ``block`` at its right."""
    page = Image.new("RGB", (picture.width + block.width, max(picture.height, block.height)), PAGE)
    page.paste(picture, (0, 0))
    page.paste(block, (picture.width, 0))
    return page


def _below(picture: Image.Image, block: Image.Image) -> Image.Image:
    page = Image.new("RGB", (max(picture.width, block.width), picture.height + block.height), PAGE)
    page.paste(picture, (0, 0))
    page.paste(block, (0, picture.height))
    return page


def shortened(text: str, font: ImageFont.FreeTypeFont, limit: float) -> str:
    """``text``, or as much of it as fits ``limit`` pixels with an ellipsis."""
    if font.getlength(text) <= limit:
        return text
    while text and font.getlength(text + "…") > limit:
        text = text[:-1]
    return text.rstrip() + "…"


def depth_scale(height: int, near: float, far: float, unknown: bool, pen: Pen) -> Image.Image:
    """The strip with the colour scale, far at the top, and a swatch for unknown depth.

    Args:
        height: in pixels; the strip is higher where that is too little to read.
        near: metres at the lower end.
        far: metres at the upper end, more than ``near``.
        unknown: whether there is unknown depth in the picture.
        pen: the sizes.
    """
    em = pen.em
    height = max(height, 10 * em)
    ticks = _round_numbers(near, far)
    digits = max([0] + [len(f"{t:g}".partition(".")[2]) for t in ticks])
    labels = [f"{t:.{digits}f} m" for t in ticks]
    text_width = max([pen.font.getlength(text) for text in [*labels, "unknown" if unknown else ""]])
    strip = Image.new("RGB", (math.ceil(4 * em + text_width), height), PAGE)
    ink = ImageDraw.Draw(strip)
    top, bottom = em, height - em - (2 * em if unknown else 0)
    column = depth_color(np.linspace(0, 1, bottom - top))[:, None]
    strip.paste(Image.fromarray(np.repeat(column, round(1.4 * em), 1)), (em, top))
    edge = em + round(1.4 * em)
    for tick, label in zip(ticks, labels, strict=True):
        y = top + (far - tick) / (far - near) * (bottom - top - 1)
        ink.line([(edge, y), (edge + em // 3, y)], fill=INK, width=max(1, pen.line // 2))
        ink.text((edge + 0.7 * em, y), label, fill=INK, font=pen.font, anchor="lm")
    if unknown:
        _swatch(ink, (em, round(bottom + 0.9 * em)), (UNKNOWN,), em)
        ink.text((edge + 0.7 * em, bottom + 1.4 * em), "unknown", fill=INK, font=pen.font, anchor="lm")
    return strip


def _round_numbers(low: float, high: float) -> list[float]:
    """Three to eight round numbers from ``low`` to ``high`` > ``low``."""
    span = high - low
    unit = 10 ** math.floor(math.log10(span))
    step = next(s * unit for s in (0.2, 0.25, 0.5, 1, 2) if span / (s * unit) <= 7)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 9) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def normal_key(height: int, pen: Pen) -> Image.Image:
    """The strip that explains the colours of normals: a ball as the camera sees it."""
    em, radius = pen.em, 3 * pen.em
    lines = ("right: red", "up: green", "to the camera: blue")
    width = math.ceil(max(2 * radius, *(pen.font.getlength(text) for text in lines))) + 2 * em
    strip = Image.new("RGB", (width, max(height, 2 * radius + 7 * em)), PAGE)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1] / radius
    inside = x**2 + y**2 <= 1
    ball = normal_color(np.stack([x, y, -np.sqrt(np.clip(1 - x**2 - y**2, 0, None))], -1))
    strip.paste(Image.fromarray(ball), (em, em), Image.fromarray(inside))
    ink = ImageDraw.Draw(strip)
    for row, text in enumerate(lines):
        ink.text((em, 2 * radius + (2.5 + 1.5 * row) * em), text, fill=INK, font=pen.font, anchor="lm")
    return strip


def flow_key(height: int, longest: float, pen: Pen) -> Image.Image:
    """The strip that explains the colours of flow: a wheel, whose rim stands for a movement of ``longest`` pixels."""
    em, radius = pen.em, 3 * pen.em
    text = f"rim: {longest:.3g} px"
    width = math.ceil(max(2 * radius, pen.font.getlength(text))) + 2 * em
    strip = Image.new("RGB", (width, max(height, 2 * radius + 4 * em)), PAGE)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1] / radius
    wheel = flow_color(np.stack([x, y], -1))
    strip.paste(Image.fromarray(wheel), (em, em), Image.fromarray(x**2 + y**2 <= 1))
    ImageDraw.Draw(strip).text((em, 2 * radius + 2.5 * em), text, fill=INK, font=pen.font, anchor="lm")
    return strip


def percent(share: float) -> str:
    """``share`` as a reader wants it, such as ``12.3 %``."""
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
