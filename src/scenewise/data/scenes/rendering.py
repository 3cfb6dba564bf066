"""Ray casting of small rooms in numpy: solids and jointed figures, textured, lit, and hiding one another.

It serves :mod:`scenewise.data.scenes.scenes`. Every surface is intersected with the rays of the pixels' centres and the
nearest one wins, so that picture, ownership, depth and normals agree by construction. Solids and the room are exact.
Figures are capsules drawn at the scale of their middle: their depth and normals are off by what perspective does
within a limb.

Frame: that of the camera, x right, y down, z forward, in metres. The ray of a pixel is (x, y, 1), so the distance along
it is the depth z. Shapes: H, W of the image; h, w of a window in it; N pixels of a surface; L limbs.
"""

from __future__ import annotations

import colorsys
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Window = tuple[slice, slice]  # rows, columns
Integers = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]
# From which pixels of those that a thing covers it wins (bool [M], N of them) to their normals and albedo [3,N].
Shade = Callable[[Booleans], tuple[Array, Array]]

WALL, GROUND, FIRST_THING = 0, 1, 2  # who owns a pixel; thing k is FIRST_THING + k
NOISE_SIZE, NOISE_LAYERS = 256, 8  # a power of two, so that coordinates wrap by masking their low bits


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from ``low`` to ``high``; several times as fast as ``rng.uniform``."""
    return low + (high - low) * rng.random()


# --------------------------------------------------------------------------------------------------- colour and texture


@functools.cache
def noise_bank() -> Array:
    """Tileable noise [layers, size, size], mean 0, within -1..1, from cloudy (layer 0) to grainy (the last).

    White noise filtered to a spectrum of 1 / frequency ** slope. The same in every process: its seed is fixed.
    """
    frequencies = np.hypot(np.fft.fftfreq(NOISE_SIZE)[:, None], np.fft.rfftfreq(NOISE_SIZE)[None]) * NOISE_SIZE
    frequencies[0, 0] = np.inf  # drops the mean
    layers = []
    for layer, slope in enumerate(np.linspace(2.2, 0.6, NOISE_LAYERS)):
        white = np.random.default_rng([20240, layer]).standard_normal((NOISE_SIZE, NOISE_SIZE))
        field = np.fft.irfft2(np.fft.rfft2(white) * frequencies**-slope, s=(NOISE_SIZE, NOISE_SIZE))
        layers.append(np.clip(field / (2 * field.std()), -1, 1))
    return np.stack(layers).astype(np.float32)


def random_color(rng: np.random.Generator) -> Array:
    """RGB in 0..1 of any hue, from greyish to strong, neither black nor white."""
    hue, saturation, value = rng.random(), rng.random() ** 1.2, between(rng, 0.3, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, 0.9 * saturation, value), np.float32)


class Paint:
    """A two-coloured pattern with grain, over two surface coordinates in metres.

    Args:
        period: how often the pattern repeats, in metres.
        texel: the size of a grain, in metres.
        kinds: the patterns to draw from.
    """

    KINDS = ("plain", "stripes", "checks", "dots", "marble", "bricks")

    def __init__(
        self, rng: np.random.Generator, period: float, texel: float, kinds: Sequence[str] = KINDS, turned: bool = True
    ) -> None:
        self.kind = kinds[int(rng.random() * len(kinds))]
        self.base, self.accent = random_color(rng), random_color(rng)
        self.period = period
        angle = between(rng, 0, math.pi) if turned else 0.0
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        self.texels = 1 / texel
        self.grain = between(rng, 0.1, 0.5)
        self.layer = noise_bank()[int(rng.random() * NOISE_LAYERS)].reshape(-1)
        self.shift = between(rng, 0, NOISE_SIZE)

    def __call__(self, u: Array, v: Array, footprint: Array | None = None) -> Array:
        """The albedo [3,N] at ``u``, ``v`` [N].

        ``footprint`` is the size of a pixel on the surface in metres: a pattern that is too fine for it fades out,
        as it does in a camera.
        """
        grain = self._noise(u * self.texels, v * self.texels)  # [N]
        if self.kind == "plain":
            color = self.base[:, None] * (1 + self.grain * grain)
        else:
            scale = 2 * math.pi / self.period
            cos, sin = np.float32(scale * self.cos), np.float32(scale * self.sin)
            amount = self._pattern(u * cos + v * sin, v * cos - u * sin, grain)
            if footprint is not None:
                fade = np.clip(self.period / (4 * footprint) - 0.5, 0, 1)
                amount = 0.5 + (amount - 0.5) * fade
            color = (self.base[:, None] + (self.accent - self.base)[:, None] * amount) * (1 + self.grain * grain)
        return color

    def _noise(self, u: Array, v: Array) -> Array:
        """The grain at ``u``, ``v``, in texels."""
        # Casting rounds towards 0, which would mirror the noise there: 4096, a multiple of its size, moves that away.
        rows = (v + (self.shift + 4096)).astype(np.int32) & (NOISE_SIZE - 1)
        columns = (u + 4096).astype(np.int32) & (NOISE_SIZE - 1)
        found: Array = self.layer.take(rows * NOISE_SIZE + columns)
        return found

    def _pattern(self, u: Array, v: Array, grain: Array) -> Array:
        """How much of the accent shows, 0..1; ``u`` and ``v`` have the period 2 pi."""
        if self.kind == "stripes":
            return np.clip(0.5 + 3 * np.sin(u), 0, 1)
        if self.kind == "checks":
            return np.clip(0.5 + 4 * np.sin(u) * np.sin(v), 0, 1)
        if self.kind == "dots":
            return np.clip(3 * (np.cos(u) + np.cos(v) - 0.6), 0, 1)
        if self.kind == "marble":
            found: Array = 0.5 + 0.5 * np.sin(u + 4 * grain)
            return found
        course = np.floor(v * (1 / math.pi))  # bricks: two courses to a period, each shifted by half a brick
        across, along = v - math.pi * course, u * 0.5 + (math.pi / 2) * (course % 2)
        joint = (np.sin(across) < 0.22) | (np.abs(np.sin(along)) < 0.12)
        return np.where(joint, 1, 0.25 * grain).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- camera


class Camera:
    """A level pinhole camera above the ground.

    Args:
        size: (height, width) of the image.
        focal: focal length in pixels.
        horizon: row of the horizon, in pixels.
        height: above the ground, in metres.
    """

    def __init__(self, size: tuple[int, int], focal: float, horizon: float, height: float) -> None:
        self.size, self.focal, self.horizon, self.height = size, focal, horizon, height
        self.x = ((np.arange(size[1], dtype=np.float32) + (0.5 - size[1] / 2)) / focal)[None]  # [1,W]
        self.y = ((np.arange(size[0], dtype=np.float32) + (0.5 - horizon)) / focal)[:, None]  # [H,1]

    def project(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Image coordinates [..., 2] (x, y; the centre of column j is j + 0.5) of ``points`` [..., 3]."""
        plane = points[..., :2] * (self.focal / points[..., 2:])
        found: npt.NDArray[np.floating] = plane + np.array([self.size[1] / 2, self.horizon], plane.dtype)
        return found

    def unproject(self, x: float, y: float, depth: float) -> npt.NDArray[np.float64]:
        """The point [3] at ``depth`` that is seen at ``x``, ``y``."""
        scale = depth / self.focal
        return np.array([(x - self.size[1] / 2) * scale, (y - self.horizon) * scale, depth])

    def window(self, center: npt.NDArray[np.floating], radius: float) -> Window:
        """The pixels that may see the ball of ``radius`` about ``center``, which is in front of the camera.

        For its points p': |p'/z' - p/z| <= radius |p| / (z (z - radius)). The window is clipped and may be empty.
        """
        (height, width), (x, y), depth = self.size, self.project(center), float(center[2])
        reach = self.focal * radius * float(np.linalg.norm(center)) / (depth * (depth - radius))
        return (
            slice(min(height, max(0, math.floor(y - reach))), max(0, min(height, math.ceil(y + reach)))),
            slice(min(width, max(0, math.floor(x - reach))), max(0, min(width, math.ceil(x + reach)))),
        )


class Canvas:
    """What is known of each pixel so far. All is flat: M = H * W pixels, row by row.

    Attributes:
        depth: [M]. normals, albedo: [3,M]. lit: [M], 1 where nothing is in the light's way. owner: uint8 [M].
    """

    def __init__(self, camera: Camera) -> None:
        pixels = camera.size[0] * camera.size[1]
        self.camera = camera
        self.depth = np.empty(pixels, np.float32)
        self.normals = np.empty((3, pixels), np.float32)
        self.albedo = np.empty((3, pixels), np.float32)
        self.lit = np.empty(pixels, np.float32)
        self.owner = np.empty(pixels, np.uint8)

    def image(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The view [...,H,W] of ``values`` [...,M]."""
        return values.reshape(*values.shape[:-1], *self.camera.size)

    def paint(self, owner: int, pixels: Integers, depth: Array, shade: Shade) -> None:
        """Give ``owner`` those of ``pixels`` [N], each named once, where ``depth`` [N] is nearer than what is there."""
        nearer = depth < self.depth[pixels]
        pixels = pixels[nearer]
        if not len(pixels):
            return
        self.normals[:, pixels], self.albedo[:, pixels] = shade(nearer)
        self.depth[pixels] = depth[nearer]
        self.lit[pixels] = 1
        self.owner[pixels] = owner


# --------------------------------------------------------------------------------------------------------------- solids


class Solid(ABC):
    """A shape about the origin of a frame of its own."""

    reach: float  # no point is farther from the origin

    @abstractmethod
    def hit(self, origin: Array, direction: Array) -> Array:
        """How far along the rays ``origin`` [3] + t ``direction`` [3,h,w] the surface is met; inf where it is not."""

    @abstractmethod
    def normal(self, points: Array, direction: Array) -> Array:
        """Outward unit normals [3,N] at ``points`` [3,N] of the surface, seen along ``direction`` [3,N]."""


class Ball(Solid):
    """An ellipsoid with the half-axes ``radii``."""

    def __init__(self, radii: tuple[float, float, float]) -> None:
        self.radii = np.array(radii, np.float32)
        self.reach = max(radii)

    def hit(self, origin: Array, direction: Array) -> Array:
        """The nearer root of a quadratic."""
        o, d = origin / self.radii, direction / self.radii[:, None, None]
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
        root = b * b - a * (o @ o - 1)
        return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)

    def normal(self, points: Array, direction: Array) -> Array:
        """The gradient of the ellipsoid's equation."""
        gradient = points / (self.radii**2)[:, None]
        found: Array = gradient / np.sqrt((gradient * gradient).sum(0))
        return found


class Box(Solid):
    """A cuboid with the half-edges ``half``."""

    def __init__(self, half: tuple[float, float, float]) -> None:
        self.half = np.array(half, np.float32)
        self.reach = math.hypot(*half)

    def hit(self, origin: Array, direction: Array) -> Array:
        """Where the ray has entered all three slabs, if it has not left one by then."""
        inverse = 1 / np.where(direction == 0, np.float32(1e-9), direction)
        middle, reach = -origin[:, None, None] * inverse, self.half[:, None, None] * np.abs(inverse)
        enter, leave = (middle - reach).max(0), (middle + reach).min(0)
        return np.where(enter < leave, enter, np.inf)

    def normal(self, points: Array, direction: Array) -> Array:
        """That of the face which the point is on."""
        face = np.abs(points / self.half[:, None]).argmax(0)[None]  # [1,N]
        normals = np.zeros_like(points)
        np.put_along_axis(normals, face, np.sign(np.take_along_axis(points, face, 0)), 0)
        return normals


class Frustum(Solid):
    """A can (``top == bottom``) or a cone (``top == 0``) about the y axis, which points down; closed at both ends."""

    def __init__(self, top: float, bottom: float, half: float) -> None:
        self.half = half
        self.middle, self.slope = (top + bottom) / 2, (bottom - top) / (2 * half)  # radius at y: middle + slope * y
        self.reach = math.hypot(max(top, bottom), half)

    def hit(self, origin: Array, direction: Array) -> Array:
        """The nearer of the mantle and the end that faces the ray.

        The rays come from outside and make a larger angle with the axis than the mantle does, so that a > 0 and the
        smaller root is where they enter.
        """
        ox, oy, oz = (float(v) for v in origin)
        dx, dy, dz = direction
        radius = self.middle + self.slope * oy
        a = dx * dx + dz * dz - (self.slope**2) * (dy * dy)
        b = ox * dx + oz * dz - (self.slope * radius) * dy
        root = b * b - a * (ox * ox + oz * oz - radius * radius)
        side = (-b - np.sqrt(np.maximum(root, 0))) / a
        at = oy + side * dy
        side = np.where((root > 0) & (np.abs(at) <= self.half), side, np.inf)
        end = math.copysign(self.half, oy)  # the end on the camera's side; edge-on, the rays miss both
        cap = (end - oy) / np.where(dy == 0, np.float32(1e-9), dy)
        px, pz = ox + cap * dx, oz + cap * dz
        radius = self.middle + self.slope * end
        cap = np.where((px * px + pz * pz <= radius * radius) & (cap > 0), cap, np.inf)
        return np.minimum(side, cap)

    def normal(self, points: Array, direction: Array) -> Array:
        """Radial, tilted by the slope; along the axis on the ends."""
        x, y, z = points
        radius = np.sqrt(x * x + z * z)
        on_end = (self.half - np.abs(y)) < (
            self.middle + self.slope * y - radius
        )  # nearer to the end than to the mantle
        scale = 1 / (np.maximum(radius, 1e-6) * math.hypot(1, self.slope))
        side = np.stack((x * scale, np.full_like(x, -self.slope / math.hypot(1, self.slope)), z * scale))
        end = np.stack((np.zeros_like(x), np.sign(y), np.zeros_like(x)))
        return np.where(on_end, end, side)


class Plate(Solid):
    """A flat shape in the plane z = 0: a ring (``points == 0``) or a star.

    ``inner`` is the radius of the hole, or of the star's inner corners, as a share of ``radius``.
    """

    def __init__(self, radius: float, inner: float, points: int) -> None:
        self.radius, self.inner, self.points = radius, inner, points
        self.reach = radius

    def hit(self, origin: Array, direction: Array) -> Array:
        """Where the ray meets the plane, if that is inside the outline."""
        t = -origin[2] / np.where(direction[2] == 0, np.float32(1e-9), direction[2])
        x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
        distance = np.sqrt(x * x + y * y) * (1 / self.radius)
        if self.points:
            inside = self._star(x, y, distance)
        else:
            inside = (distance < 1) & (distance > self.inner)
        return np.where(inside & (t > 0), t, np.inf)

    def _star(self, x: Array, y: Array, distance: Array) -> Booleans:
        """On the inner side of the edge from the tip at (1, 0) to the inner corner, after folding all tips onto one."""
        half = math.pi / self.points
        angle = np.abs(np.mod(np.arctan2(x, -y) + half, 2 * half) - half)  # 0 at a tip, half at an inner corner
        corner_x, corner_y = self.inner * math.cos(half), self.inner * math.sin(half)
        along, across = distance * np.cos(angle), distance * np.sin(angle)
        return along * corner_y + across * (1 - corner_x) < corner_y

    def normal(self, points: Array, direction: Array) -> Array:
        """Towards the viewer, whichever side is seen."""
        normals = np.zeros_like(points)
        normals[2] = -np.sign(direction[2])
        return normals


@dataclass
class Thing:
    """A solid at its place: ``rotation`` [3,3] and ``center`` [3] take its own frame to the camera's."""

    solid: Solid
    center: npt.NDArray[np.float64]
    rotation: Array
    paint: Paint
    gloss: float
    extent: npt.NDArray[
        np.float64
    ]  # [3], half-axes of the ellipsoid, upright in the camera's frame, that casts its shadow

    @property
    def reach(self) -> float:
        """No point is farther from the centre."""
        return self.solid.reach

    def draw(self, canvas: Canvas, owner: int) -> int:
        """Paint it; how many pixels it would own if nothing hid it."""
        camera = canvas.camera
        window = camera.window(self.center, self.solid.reach)
        x, y = camera.x[:, window[1]], camera.y[window[0]]
        if not x.size or not y.size:
            return 0
        to_own = self.rotation.T
        center = self.center.astype(np.float32)
        origin = -(to_own @ center)
        direction = to_own[:, 0, None, None] * x + (to_own[:, 1, None, None] * y + to_own[:, 2, None, None])  # [3,h,w]
        depth = self.solid.hit(origin, direction)  # [h,w]
        rows, columns = np.nonzero(depth < np.inf)
        distance = depth[rows, columns].astype(np.float32, copy=False)

        def shade(nearer: Booleans) -> tuple[Array, Array]:
            rays = direction[:, rows[nearer], columns[nearer]]  # [3,N]
            points = origin[:, None] + distance[nearer] * rays
            x, y, z = self.solid.normal(points, rays)
            turn = self.rotation[:, :, None]  # written out, for a matrix product's last bit may depend on its threads
            normals = turn[:, 0] * x + turn[:, 1] * y + turn[:, 2] * z
            # The third coordinate is mixed in, so that no face of a solid is seen along a texture's streaks.
            albedo = self.paint(points[0] + 0.7 * points[2], points[1] + 0.45 * points[2])
            return normals, albedo

        pixels = (rows + window[0].start) * camera.size[1] + (columns + window[1].start)
        canvas.paint(owner, pixels, distance, shade)
        return len(pixels)


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Array:
    """Turns about y (yaw), then x (pitch), then z (roll), as a matrix [3,3] from a thing's frame to the camera's."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    found: Array = (turn @ nod @ tilt).astype(np.float32)
    return found


# -------------------------------------------------------------------------------------------------------------- figures

JOINTS = (
    "head", "neck", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
FLIP_PAIRS = ((2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13))  # left and right, which a mirror exchanges
SKELETON = (
    (0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (2, 8), (3, 9), (8, 9),
    (8, 10), (9, 11), (10, 12), (11, 13),
)  # fmt: skip

HEAD, NECK, PELVIS, LEFT_TOE, RIGHT_TOE = 0, 1, 14, 15, 16  # points of the body; those up to 13 are the joints
SKIN, SHIRT, TROUSERS, SHOES = range(4)
LIMBS = (  # from point, to point, radius at both as a share of the body's height, what it wears; None: differs
    (0, 0, 0.066, 0.066, SKIN),
    (0, 1, 0.034, 0.034, SKIN),
    (1, 14, 0.075, 0.07, SHIRT),
    (2, 3, 0.042, 0.042, SHIRT),
    (2, 8, 0.05, 0.052, SHIRT),
    (3, 9, 0.05, 0.052, SHIRT),
    (8, 9, 0.056, 0.056, TROUSERS),
    (2, 4, 0.038, 0.03, SHIRT),
    (3, 5, 0.038, 0.03, SHIRT),
    (4, 6, 0.03, 0.024, None),
    (5, 7, 0.03, 0.024, None),
    (8, 10, 0.055, 0.04, TROUSERS),
    (9, 11, 0.055, 0.04, TROUSERS),
    (10, 12, 0.038, 0.028, TROUSERS),
    (11, 13, 0.038, 0.028, TROUSERS),
    (12, 15, 0.028, 0.024, SHOES),
    (13, 16, 0.028, 0.024, SHOES),
)
LIMB_ENDS = np.array([limb[:2] for limb in LIMBS])  # [L,2]
LIMB_RADII = np.array([limb[2:4] for limb in LIMBS])  # [L,2]
JOINT_RADII = np.array([LIMB_RADII[joint == LIMB_ENDS].max() for joint in range(len(JOINTS))])  # of the body around it


def random_pose(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The points of a body 1 high [17,3], in its own frame: to its left, up, forward, from the pelvis.

    Joints in the order of ``JOINTS``, then the pelvis and the toes.
    """
    lean, bow = between(rng, -0.12, 0.12), between(rng, -0.1, 0.25)
    points = np.zeros((17, 3))
    points[HEAD], points[NECK] = (0.41 * lean, 0.405, 0.41 * bow), (0.3 * lean, 0.3, 0.3 * bow)
    for side, sign in enumerate((1.0, -1.0)):
        shoulder, elbow, wrist, hip, knee, ankle = (2 + side, 4 + side, 6 + side, 8 + side, 10 + side, 12 + side)
        points[shoulder] = points[NECK] + (0.105 * sign, -0.025, 0)
        raised = between(rng, 0.05, 0.7) if rng.random() < 0.5 else between(rng, 0.5, 2.7)
        swing = between(rng, -0.7, 0.7)
        points[elbow] = points[shoulder] + 0.17 * _limb(raised, swing, sign)
        bent = between(rng, -0.2, 1.8)
        points[wrist] = points[elbow] + 0.16 * _limb(
            raised + (bent if rng.random() < 0.6 else -bent), swing + 0.3, sign
        )
        points[hip] = (0.058 * sign, -0.01, 0)
        stride = between(rng, -0.6, 0.6)
        spread = between(rng, 0.0, 0.35)
        points[knee] = points[hip] + 0.235 * _limb(spread, stride, sign)
        points[ankle] = points[knee] + 0.235 * _limb(0.6 * spread, stride - between(rng, 0, 0.8), sign)
        points[LEFT_TOE + side] = points[ankle] + (0.02 * sign, -0.005, 0.06)
    return points


def _limb(raised: float, swing: float, sign: float) -> npt.NDArray[np.float64]:
    """A unit vector (left, up, forward): ``raised`` to the side from hanging down, then swung forward."""
    return np.array([sign * math.sin(raised), -math.cos(raised) * math.cos(swing), math.cos(raised) * math.sin(swing)])


def _limb_pixels(
    camera: Camera, ends: npt.NDArray[np.floating], radii: npt.NDArray[np.float64]
) -> tuple[Integers, Integers, Integers]:
    """Limb, column and row [M] of all pixels in the rectangles around the limbs, clipped to the image.

    Limbs are small beside the figure, so this list is far shorter than limbs times the figure's pixels.
    """
    low = np.floor((ends - radii[..., None]).min(1)).astype(np.intp)  # [L,2], x and y
    high = np.ceil((ends + radii[..., None]).max(1)).astype(np.intp)
    edges = np.array([camera.size[1], camera.size[0]])
    low = np.clip(low, 0, edges)
    width, height = (np.clip(high, 0, edges) - low).T
    count = width * height  # [L]
    limb = np.repeat(np.arange(len(ends)), count)
    place = np.arange(len(limb)) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(place, width[limb])
    return limb, column + low[limb, 0], row + low[limb, 1]


def _nearest(pixels: Integers, depth: Array, starts: Integers, camera: Camera) -> Integers:
    """Which of the hits ``pixels`` [M], ``depth`` [M] is the nearest in its pixel; one for each pixel that is hit.

    Within a group (hits ``starts[i]`` to ``starts[i + 1]``) no pixel is named twice; of equal depths the first wins.
    """
    nearest = np.full(camera.size[0] * camera.size[1], np.inf, np.float32)
    winner = np.full(len(nearest), -1)
    for start, stop in itertools.pairwise(starts):
        here, depths = pixels[start:stop], depth[start:stop]
        better = np.flatnonzero(depths < nearest[here])
        nearest[here[better]] = depths[better]
        winner[here[better]] = better + start
    return winner[winner >= 0]


def _from_and_by(ends: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of values ``ends`` [L,2] at both ends of the limbs: the first, and by how much the other is larger; [L] each."""
    return ends[:, 0], ends[:, 1] - ends[:, 0]


class Figure:
    """A person with jointed limbs, standing on the ground.

    Args:
        place: [3], the point of the ground below the pelvis.
        stature: height in metres.
        yaw: where it faces; 0 is the camera, positive to the camera's right.
        pixel: the size of a pixel at its place, in metres.
    """

    gloss = 0.05

    def __init__(
        self, rng: np.random.Generator, place: npt.NDArray[np.float64], stature: float, yaw: float, pixel: float
    ) -> None:
        pose = random_pose(rng) * stature
        self.forward = np.array([math.sin(yaw), 0, -math.cos(yaw)])
        left = np.array([math.cos(yaw), 0, math.sin(yaw)])
        points = pose[:, :1] * left + pose[:, 1:2] * np.array([0, -1, 0]) + pose[:, 2:] * self.forward
        foot = points[12:, 1].max() + 0.026 * stature  # y points down; the sole is below ankle and toe
        self.points = points + (place - np.array([0, foot, 0]))  # [17,3]
        self.stature = stature
        self.center = self.points[PELVIS]
        self.reach = 0.75 * stature  # an arm stretched upwards, at most
        self.extent = np.array([0.16, 0.5, 0.16]) * stature
        sleeves, shorts = rng.random() < 0.5, rng.random() < 0.3
        self.wears = np.array([limb[4] if limb[4] is not None else (SHIRT if sleeves else SKIN) for limb in LIMBS])
        if shorts:
            self.wears[[13, 14]] = SKIN
        self.skin = np.array(colorsys.hsv_to_rgb(between(rng, 0.04, 0.1), between(rng, 0.3, 0.65), 1), np.float32)
        self.skin *= between(rng, 0.35, 0.95)
        self.hair = random_color(rng) * np.float32(0.55)
        self.bald = rng.random() < 0.1
        self.cloth = {
            SHIRT: Paint(rng, between(rng, 0.12, 0.35), pixel, ("plain", "stripes", "checks", "dots", "marble")),
            TROUSERS: Paint(rng, between(rng, 0.12, 0.35), pixel, ("plain", "plain", "stripes", "marble")),
            SHOES: Paint(rng, 1.0, pixel, ("plain",)),
        }

    def draw(self, canvas: Canvas, owner: int) -> int:
        """Paint it; how many pixels it would own if nothing hid it."""
        camera = canvas.camera
        pixels, depth, limb, normals = self._surface(camera)
        scale = self.center[2] / camera.focal  # metres a pixel
        x, y = camera.project(self.center) - 0.5

        def shade(nearer: Booleans) -> tuple[Array, Array]:
            rows, columns = np.divmod(pixels[nearer], camera.size[1])
            u, v = ((columns - x) * scale).astype(np.float32), ((rows - y) * scale).astype(np.float32)
            return normals[:, nearer], self._albedo(limb[nearer], normals[:, nearer], u, v)

        canvas.paint(owner, pixels, depth, shade)
        return len(pixels)

    def _surface(self, camera: Camera) -> tuple[Integers, Array, Integers, Array]:
        """The pixels [N] that the figure covers, and of each depth [N], the limb in front [N] and its normal [3,N].

        A limb is what is nearer to a segment in the image than a radius, which runs evenly from end to end, and its
        surface is as high above the segment as it would be on a round limb.
        """
        flat = camera.project(self.points)  # [17,2]
        radii = LIMB_RADII * (self.stature * camera.focal / self.points[LIMB_ENDS, 2])  # [L,2], pixels
        limb, columns, rows = _limb_pixels(camera, flat[LIMB_ENDS], radii)
        x0, y0, along_x, along_y, length, first, widens, near, recedes = self._limb_table(flat, radii)[:, limb]  # [M]
        x, y = columns.astype(np.float32) + (0.5 - x0), rows.astype(np.float32) + (0.5 - y0)
        share = np.minimum(np.maximum((x * along_x + y * along_y) * length, 0), 1)  # of the way along the limb
        x, y, radius = x - share * along_x, y - share * along_y, first + share * widens
        height = radius * radius - x * x - y * y  # squared
        hit = np.flatnonzero(height > 0)
        height = np.sqrt(height[hit])
        scale = np.float32(self.center[2] / camera.focal)  # metres a pixel
        depth = (near + share * recedes)[hit] - height * scale
        pixels, limb = rows[hit] * camera.size[1] + columns[hit], limb[hit]
        front = _nearest(pixels, depth, np.searchsorted(limb, np.arange(len(LIMBS) + 1)), camera)
        hit, height = hit[front], height[front]
        # On a ball the normal is (x, y, -height) / radius; between a limb's ends it leans by how the axis recedes.
        lean = np.where((share[hit] > 0) & (share[hit] < 1), height * (recedes * length)[hit] / scale, 0)
        normals = np.stack((x[hit] + lean * along_x[hit], y[hit] + lean * along_y[hit], -height))
        normals /= np.sqrt((normals * normals).sum(0))
        return pixels[front], depth[front], limb[front], normals

    def _limb_table(self, flat: npt.NDArray[np.floating], radii: npt.NDArray[np.float64]) -> Array:
        """[9,L]: start x, y; along x, y; 1 / length squared; radius and its growth, in pixels; depth and its growth."""
        start, end = flat[LIMB_ENDS[:, 0]], flat[LIMB_ENDS[:, 1]]  # [L,2]
        along = end - start
        length = np.maximum((along * along).sum(1), 1e-6)  # the head has none
        rows = (*start.T, *along.T, 1 / length, *_from_and_by(radii), *_from_and_by(self.points[LIMB_ENDS, 2]))
        return np.stack(rows).astype(np.float32)

    def _albedo(self, limb: Integers, normals: Array, u: Array, v: Array) -> Array:
        """[3,N] at ``u``, ``v`` [N], metres right of and below the pelvis."""
        worn = self.wears[limb]
        albedo = np.empty_like(normals)
        albedo[:] = self.skin[:, None]
        for what, paint in self.cloth.items():
            here = worn == what
            albedo[:, here] = paint(u[here], v[here])
        if not self.bald:  # hair: the crown and the back of the head
            facing = normals[0] * self.forward[0] + normals[2] * self.forward[2]
            albedo[:, (limb == 0) & ((normals[1] < -0.55) | (facing < 0.05))] = self.hair[:, None]
        return albedo

    def joints(self, canvas: Canvas, owner: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Image coordinates [14,2] and COCO's visibility [14] of its joints, once all is painted.

        2: seen. 1: in the image, but behind another thing or another limb. 0, and at (0, 0): outside of the image.
        """
        height, width = canvas.camera.size
        flat = canvas.camera.project(self.points[: len(JOINTS)])
        columns, rows = np.floor(flat).astype(int).T
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        columns, rows = np.where(inside, columns, 0), np.where(inside, rows, 0)
        surface = self.points[: len(JOINTS), 2] - JOINT_RADII * self.stature
        pixels = rows * width + columns
        hidden = canvas.depth[pixels] < surface - 0.035 * self.stature  # by a limb in front of the joint's own
        seen = (canvas.owner[pixels] == owner) & ~hidden
        visibility = np.where(inside, np.where(seen, 2, 1), 0)
        return np.where(inside[:, None], flat, 0).astype(np.float32), visibility


# ------------------------------------------------------------------------------------------------------- room and light


@dataclass(frozen=True)
class Light:
    """A distant light. ``direction`` [3] is the unit vector towards it; strengths are factors of the albedo."""

    direction: Array
    strength: float
    ambient: float
    tint: Array  # [3]


class Room:
    """The ground and one or two walls that stand on it.

    Args:
        walls: of each wall the angle of its normal (0: facing the camera; positive: turned to the right) and its
            distance from the camera in metres.
    """

    def __init__(self, walls: Sequence[tuple[float, float]], wall_paint: Paint, ground_paint: Paint) -> None:
        self.normals = [(math.sin(angle), math.cos(angle)) for angle, _ in walls]  # x, z; away from the camera
        self.distances = [distance for _, distance in walls]
        self.wall_paint, self.ground_paint = wall_paint, ground_paint

    def inside(self, center: npt.NDArray[np.float64], margin: float) -> npt.NDArray[np.float64]:
        """``center`` [3], moved so that it is ``margin`` metres away from every wall."""
        moved: npt.NDArray[np.float64] = center.copy()
        for (x, z), distance in zip(self.normals, self.distances, strict=True):
            excess = moved[0] * x + moved[2] * z + margin - distance
            if excess > 0:
                moved[0] -= x * excess
                moved[2] -= z * excess
        return moved

    def draw(self, canvas: Canvas) -> None:
        """Paint the whole canvas.

        A plane at the distance d with the normal n is at the depth d / (n . ray), and the room is what is nearest.
        """
        camera = canvas.camera
        walls = np.concatenate([(camera.x * x + z) / d for (x, z), d in zip(self.normals, self.distances, strict=True)])
        which = walls.argmax(0)  # [W], the wall that a column shows
        wall = walls.max(0)[None]  # [1,W], 1 / depth
        ground = camera.y * np.float32(1 / camera.height)  # [H,1], 1 / depth
        depth = canvas.image(canvas.depth)
        np.divide(1, np.maximum(ground, wall), out=depth)
        facing = np.array([(-x, 0, -z) for x, z in self.normals], np.float32).T[:, which]  # [3,W]
        canvas.image(canvas.normals)[:] = facing[:, None]
        on_ground = (ground > wall).reshape(-1)  # [M]
        canvas.owner[:] = np.where(on_ground, GROUND, WALL)
        canvas.lit[:] = 1
        self._paint_walls(canvas, facing, on_ground)
        if on_ground.any():
            self._paint_ground(canvas, on_ground)

    def _paint_walls(self, canvas: Canvas, facing: Array, on_ground: Booleans) -> None:
        """The walls' albedo, on all rows that show some wall: whole rows are quicker than single pixels."""
        camera, depth = canvas.camera, canvas.image(canvas.depth)
        rows = slice(np.flatnonzero(~on_ground)[-1] // camera.size[1] + 1)
        run = depth[rows] * (camera.x * facing[2] - facing[0])  # at right angles to the wall's normal
        rise = depth[rows] * camera.y[rows]
        footprint = depth[rows] * np.float32(1 / camera.focal)
        albedo = self.wall_paint(run.reshape(-1), rise.reshape(-1), footprint.reshape(-1))
        canvas.albedo[:, : albedo.shape[1]] = albedo

    def _paint_ground(self, canvas: Canvas, on_ground: Booleans) -> None:
        """The ground's albedo and normals, from the first row on that shows some ground."""
        camera = canvas.camera
        first = np.flatnonzero(on_ground)[0] // camera.size[1] * camera.size[1]
        here, away = on_ground[first:], canvas.depth[first:]
        across = (canvas.image(canvas.depth) * camera.x).reshape(-1)[first:]
        footprint = away * away * np.float32(1 / (camera.focal * camera.height))  # seen at a grazing angle
        np.copyto(canvas.albedo[:, first:], self.ground_paint(across, away, footprint), where=here)
        np.copyto(canvas.normals[:, first:], np.array([0, -1, 0], np.float32)[:, None], where=here)

    def cast_shadows(self, canvas: Canvas, light: Light, things: Sequence[Thing | Figure]) -> None:
        """Darken the room where a thing, taken as an ellipsoid, is in the light's way, softly at the rim.

        Before the things are painted, and at half resolution: a shadow's rim is blurred anyway.
        """
        if not things:
            return
        camera = canvas.camera
        depth = canvas.image(canvas.depth)[::2, ::2]
        points = np.stack((depth * camera.x[:, ::2], depth * camera.y[::2], depth)).reshape(3, -1)
        centers = np.array([t.center for t in things], np.float32)[:, :, None]  # [K,3,1]
        extents = np.array([t.extent for t in things], np.float32)[:, :, None]
        away = (centers - points) / extents  # [K,3,N], in units in which the ellipsoids are unit balls
        toward = light.direction[:, None] / extents  # [K,3,1]
        ahead = (away * toward).sum(1)  # [K,N]
        distance = (away * away).sum(1) - ahead * ahead / (toward * toward).sum(1)  # of the ball from the ray, squared
        shadow = np.where(ahead > 0, np.clip(1.5 - distance, 0, 1), 0).max(0)
        half = 1 - 0.85 * shadow.reshape(depth.shape)
        height, width = camera.size
        canvas.image(canvas.lit)[:] = half.repeat(2, 0).repeat(2, 1)[:height, :width]


def develop(rng: np.random.Generator, canvas: Canvas, light: Light, gloss: Array) -> npt.NDArray[np.uint8]:
    """The picture [3,H,W] of the canvas: diffuse and specular light, the lens's blur, the sensor's noise.

    Args:
        rng: for the noise.
        canvas: with all things painted.
        light: what lights it.
        gloss: [owners], how strong each owner's highlights are.
    """
    normals, toward = canvas.normals, light.direction
    diffuse = normals[0] * toward[0] + normals[1] * toward[1] + normals[2] * toward[2]
    np.maximum(diffuse, 0, out=diffuse)
    diffuse *= canvas.lit
    halfway = toward + np.array([0, 0, -1], np.float32)  # between the light and the viewer, taken as straight ahead
    halfway /= np.float32(np.linalg.norm(halfway))
    shine = np.maximum(normals[0] * halfway[0] + normals[1] * halfway[1] + normals[2] * halfway[2], 0)
    for _ in range(5):
        shine *= shine  # to the power of 32
    shine *= gloss[canvas.owner] * canvas.lit
    diffuse *= light.strength
    diffuse += light.ambient
    diffuse = canvas.image(diffuse)
    diffuse *= 1 + 0.18 * _uneven_light(rng, diffuse.shape)
    picture = canvas.image(canvas.albedo) * diffuse
    picture += canvas.image(shine)
    picture *= light.tint[:, None, None]
    _blur(picture, between(rng, 0.08, 0.22))
    noise = np.frombuffer(rng.bytes(picture.size), np.uint8).reshape(picture.shape)
    amplitude = between(rng, 0.02, 0.12)  # peak to peak
    picture += noise * np.float32(amplitude / 255)
    picture -= np.float32(amplitude / 2)
    np.clip(picture, 0, 1, out=picture)
    picture *= 255
    found: npt.NDArray[np.uint8] = picture.astype(np.uint8)
    return found


def _uneven_light(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Clouds [H,W] within -1..1 of the image's size."""
    rows, columns = (
        (np.arange(n) * 128 // max(size) + int(rng.random() * NOISE_SIZE)) & (NOISE_SIZE - 1) for n in size
    )
    found: Array = noise_bank()[0][rows[:, None], columns]
    return found


def _blur(picture: Array, weight: float) -> None:
    """Mix each pixel of ``picture`` [3,H,W] with its four neighbours, in place; ``weight`` is that of a neighbour."""
    for axis in (1, 2):
        lines = np.moveaxis(picture, axis, -1)
        step = (lines[..., 1:] - lines[..., :-1]) * np.float32(weight)
        lines[..., :-1] += step
        lines[..., 1:] -= step
