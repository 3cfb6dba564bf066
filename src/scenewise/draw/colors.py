"""Colours: palettes that tell things apart, scales for depth and normals, and what can be read on what."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]  # RGB, 0..255
Array = npt.NDArray[Any]

UNKNOWN: Color = (224, 224, 224)  # depth and normals that are not known

# Seven of Okabe and Ito's colours, then five that stay apart from them and from each other in OKLab, also as people
# with protanopia or deuteranopia see them (tests/test_draw.py measures it).
_DOZEN: tuple[Color, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167),
    (125, 10, 70), (70, 25, 170), (130, 245, 240), (190, 55, 245), (125, 75, 10),
)  # fmt: skip

# Far to near: dark violet to pale yellow; lightness rises evenly from 0.26 to 0.95 in OKLCH, so that equal steps of
# depth look equal and the order survives grey printing; hue turns from 278 to 100 degrees on the way.
_DEPTH_COLORS = (
    (27, 26, 83), (69, 30, 120), (118, 35, 140), (170, 46, 130), (218, 65, 103),
    (248, 102, 90), (254, 152, 105), (255, 199, 127), (255, 241, 156),
)  # fmt: skip


def palette(n: int) -> list[Color]:
    """``n`` RGB colours that tell ``n`` things apart; the same ones each time, and the first ones of ``palette(n+1)``.

    The first dozen is picked by hand; each further one is the RGB colour that is farthest, in OKLab, from all before
    it. They repeat after some 2,500.
    """
    colors = _DOZEN if n <= len(_DOZEN) else _spread_palette()
    return [colors[i % len(colors)] for i in range(n)]


def shades(color: Color, n: int) -> list[Color]:
    """``n`` shades of ``color``'s hue, from dark to light; neighbours in the list are far apart."""
    lab = oklab(np.asarray(color))
    place = (np.arange(n) * 0.618034) % 1  # the golden ratio: however many there are, they spread evenly
    lightness = 0.42 + 0.46 * place
    wanted = np.stack([lightness, np.broadcast_to(lab[1], n), np.broadcast_to(lab[2], n)], -1)
    found = np.zeros((n, 3))
    todo = np.ones(n, dtype=np.bool_)
    for strength in np.linspace(1, 0, 21):  # as colourful as sRGB can show it at this lightness
        linear = _linear_of_oklab(wanted * np.array([1, strength, strength]))
        fits = todo & ((linear > -1e-4) & (linear < 1 + 1e-4)).all(-1)
        found[fits], todo = linear[fits], todo & ~fits
    light = found.clip(0, 1)
    rgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return [(int(r), int(g), int(b)) for r, g, b in (rgb * 255).round()]


def depth_color(place: Array) -> Array:
    """RGB uint8 [...,3] for ``place`` in 0 (far) to 1 (near)."""
    steps = np.linspace(0, 1, len(_DEPTH_COLORS))
    channels = [np.interp(place, steps, channel) for channel in np.transpose(_DEPTH_COLORS)]
    found: Array = np.stack(channels, -1).round().astype(np.uint8)
    return found


def normal_color(normals: Array) -> Array:
    """RGB uint8 [...,3] of unit vectors [...,3] (x right, y down, z forward); grey where not finite or zero."""
    known = np.isfinite(normals).all(-1) & (np.abs(normals).sum(-1) > 0)
    colors = (np.where(known[..., None], normals, 0) * np.array([1, -1, -1], dtype=np.float32) + 1) * 127.5
    return np.where(known[..., None], colors.round().clip(0, 255), UNKNOWN[0]).astype(np.uint8)


def flow_color(flow: Array) -> Array:
    """RGB uint8 [...,3] of vectors [...,2] (x right, y down) of length 0 to 1: white where nothing moves, the hue that
    of the direction, as strong as it is far; grey where not finite."""
    x, y = flow[..., 0], flow[..., 1]
    known = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(known, x, 0), np.where(known, y, 0)
    strength = np.clip(np.hypot(x, y), 0, 1)[..., None]
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1 * 6  # red to the right, then yellow, green, cyan, blue as it turns down
    corner = np.stack([np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)], -1).clip(0, 1)
    colors = 255 * (1 - strength * (1 - corner))
    return np.where(known[..., None], colors.round(), UNKNOWN[0]).astype(np.uint8)


def readable_on(color: Color) -> Color:
    """Black or white, whichever contrasts more with ``color`` (the contrast ratio of WCAG 2.2)."""
    luminance = float(_linear(np.asarray(color)) @ np.array([0.2126, 0.7152, 0.0722]))
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


@functools.cache
def _spread_palette() -> tuple[Color, ...]:
    """The dozen, then all usable colours of a grid, each the farthest from those before it."""
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = oklab(grid)
    # neither near black or white, where hues look alike, nor grey, which would pass for a part of the photograph, nor
    # so strong that it outshines the rest
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > 0.38) & (lab[:, 0] < 0.93) & (chroma > 0.07) & (chroma < 0.22)
    grid, lab = grid[usable], lab[usable]
    nearest = np.linalg.norm(lab[:, None] - oklab(np.asarray(_DOZEN))[None], axis=-1).min(1)
    colors = list(_DOZEN)
    for _ in range(len(grid)):
        best = int(nearest.argmax())
        colors.append(tuple(grid[best].tolist()))
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[best], axis=-1))
        nearest[best] = -1
    return tuple(colors)


def _linear(rgb: Array) -> Array:
    """sRGB 0..255 as linear light 0..1 (IEC 61966-2-1)."""
    value = rgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _linear_of_oklab(lab: Array) -> Array:
    """Linear light of OKLab, beyond 0..1 where sRGB has no such colour; undoes :func:`oklab` but for its last step."""
    found: Array = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T
    return found


_TO_CONES = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip


def oklab(rgb: Array) -> Array:
    """OKLab [...,3] of sRGB 0..255 [...,3]: distances in it are about as large as they look.

    Source: B. Ottosson, "A perceptual color space for image processing", 2020.
    """
    found: Array = np.cbrt(_linear(rgb) @ _TO_CONES.T) @ _TO_LAB.T
    return found
