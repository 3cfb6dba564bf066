"""Pictures as pages: images enlarged, side by side, and areas of pixels grown and outlined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scenewise.draw.colors import Array
from scenewise.draw.legends import INK, PAGE, Pen, shortened
from scenewise.errors import UsageError
from scenewise.files.images import as_image, shown_bands

ImageLike = str | Path | Image.Image | Array | Tensor

IMAGE_HEIGHT = "scenewise.image_height"  # in a picture's `info`: how much of its height is the image, not the legend


def side_by_side(
    pictures: Sequence[tuple[str, ImageLike]], *, height: int | None = None, font: str | Path | None = None
) -> Image.Image:
    """``pictures`` in a row, each with its title above it, on a white page.

    Args:
        pictures: titles and images. All images are brought to one height; legends that
            :func:`~scenewise.results.picture.draw_output` or
            :func:`draw_sample` put beside or below them do not count.
        height: that height in pixels; by default that of the highest image.
        font: a TrueType file; needed for scripts that Pillow's own Latin font lacks.
    """
    if not pictures:
        raise UsageError("side_by_side: no pictures; expected at least one (title, image)")
    images = [as_rgb(image) for _, image in pictures]
    heights = [image.info.get(IMAGE_HEIGHT, image.height) for image in images]
    height = height or max(heights)
    images = [scaled(image, height / own) for image, own in zip(images, heights, strict=True)]
    pen = Pen.of(height, max(image.width for image in images), 1, font)
    gap, head = pen.em, round(2.1 * pen.em)
    width = sum(image.width for image in images) + gap * (len(images) + 1)
    page = Image.new("RGB", (width, head + max(image.height for image in images) + gap), PAGE)
    ink = ImageDraw.Draw(page)
    x = gap
    for (title, _), image in zip(pictures, images, strict=True):
        text = shortened(title, pen.font, image.width)
        ink.text((x, head / 2), text, fill=INK, font=pen.font, anchor="lm")
        page.paste(image, (x, head))
        x += image.width + gap
    return page


def as_rgb(image: ImageLike) -> Image.Image:
    """``image`` as a PIL image of mode RGB."""
    if isinstance(image, Image.Image) and image.mode == "RGB":
        return image
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] != 3:
        image = shown_bands(image)
    pixels, _ = as_image(image)  # [3,H,W]
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """``image`` with both sides times ``factor``."""
    if factor == 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def enlarged(array: Array, factor: int) -> Array:
    """``array`` [h,w,...] with each pixel as a square of ``factor`` pixels."""
    return array if factor == 1 else array.repeat(factor, 0).repeat(factor, 1)


def borders(labels: Array, width: int) -> Array:
    """bool [H,W]: lines of ``width`` pixels where neighbours differ."""
    lines = np.zeros(labels.shape, dtype=np.bool_)
    lines[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    lines[:-1] |= labels[1:] != labels[:-1]
    return grown(lines, (width - 1) / 2)


def grown(mask: Array, radius: float) -> Array:
    """``mask`` grown by a square: ``radius`` pixels to each side, a half one to the right and bottom only."""
    before, after = math.floor(radius), math.ceil(radius)
    for axis in (0, 1):
        wider = mask.copy()
        source, grown = np.moveaxis(mask, axis, 0), np.moveaxis(wider, axis, 0)
        for shift in range(1, min(after, len(source) - 1) + 1):
            grown[shift:] |= source[:-shift]
            if shift <= before:
                grown[:-shift] |= source[shift:]
        mask = wider
    return mask


def mask_box(mask: Array) -> tuple[int, int, int, int] | None:
    """The smallest box x1, y1, x2, y2 around ``mask``; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
