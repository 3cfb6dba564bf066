"""Generated images with every kind of annotation: ``scenes:``, or ``scenes:count=500,size=128x160``.

Rooms with textured, lit solids and people with jointed limbs that stand, float and hide one another
(:mod:`scenewise.data.scenes.rendering`). They are there to try any system without any data. Options, all of them
optional:

=======  ====================================================  ==============================
option   what it says                                          default
=======  ====================================================  ==============================
count    the number of images of the split                     1000 for train, 200 for others
size     height x width in pixels, or one number for both      128x128
seed     another number gives other images                     0
fields   the target fields, joined by ``+``                    all
objects  the most things in an image                           7
=======  ====================================================  ==============================

An image is a function of (seed, split, index), and of size and objects, but neither of count nor of fields: with a
larger count the first images stay. (Another processor or release of numpy may round a pixel differently.) Splits
never share a scene. Some images have no objects.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from scenewise.data.base import DataSet
from scenewise.data.scenes import rendering
from scenewise.data.scenes.rendering import (
    FIRST_THING,
    Ball,
    Box,
    Camera,
    Canvas,
    Figure,
    Frustum,
    Light,
    Paint,
    Plate,
    Room,
    Thing,
    between,
)
from scenewise.errors import UsageError, suggest
from scenewise.fields.dense import NormalMap
from scenewise.fields.keypoints import KeyPoints, Visibility
from scenewise.fields.semantic import SemanticMask
from scenewise.types import Sample, Skeleton, Target

THINGS = ("ball", "box", "can", "cone", "ring", "star", "figure")
CLASSES = (*THINGS, "wall", "ground")  # what things stand on and before comes last: it labels pixels, never boxes
COLORS = (
    (220, 60, 60), (70, 110, 220), (240, 160, 40), (150, 80, 200), (40, 180, 190), (240, 220, 70), (235, 120, 180),
    (150, 150, 150), (95, 135, 80),
)  # fmt: skip
FIGURE = THINGS.index("figure")
SPLITS = {"train": 1000, "val": 200, "test": 200}  # and how many images they have

FIGURE_SKELETON = Skeleton(rendering.JOINTS, rendering.SKELETON, rendering.FLIP_PAIRS)
INSTANCE_FIELDS = ("boxes", "labels", "ignore", "area", "masks", "keypoints", "visibility")
FIELDS = (*INSTANCE_FIELDS, "semantic", "boundary", "depth", "normals")
OPTIONS = ("count", "size", "seed", "fields", "objects")
RANGES = {"count": (1, 2**31 - 1), "seed": (0, 2**31 - 1), "objects": (0, 100)}
SIZES = range(32, 4097)

NEAREST = 0.4  # metres; nothing is closer to the camera
EMPTY_SHARE = 0.04  # of the images have no objects
FIGURE_SHARE = 0.3  # of the objects are people
SEEN_SHARE, SEEN_PIXELS = 0.15, 0.0005  # a thing of which less is seen (of itself, of the image) is marked as ignored


class Scenes(DataSet):
    """The built-in generator of labelled pictures.

    ``labels`` count things only; ``semantic`` labels every pixel, with walls and ground as well. ``masks``, ``boxes``
    and ``area`` are of what is seen of a thing; things of which nothing is seen are left out, and those of which next
    to nothing is seen are marked as ``ignore``. All things have keypoints, which are visible in figures only.
    ``boundary`` is 1 on the pixels of a thing (or wall, or ground) next to something else behind it. Depth and normals
    are known everywhere.

    Attributes:
        size: (height, width) of the images.
        skeleton: the joints of a figure, in order.
    """

    format = "scenes"
    needs_folder = False
    skeleton = FIGURE_SKELETON

    def __init__(self, root: Path = Path(), split: str = "train") -> None:
        """Open a split; ``root`` holds the options, such as ``Path("count=500,size=128x160")``."""
        if split not in SPLITS:
            raise UsageError(f"scenes: there is no split {split!r}{suggest(split, SPLITS)}; known: {', '.join(SPLITS)}")
        options = _parse(str(root))
        self.root, self.split = root, split
        self.classes, self.colors = CLASSES, COLORS
        self.count: int = options.get("count", SPLITS[split])
        self.size: tuple[int, int] = options.get("size", (128, 128))
        self.seed: int = options.get("seed", 0)
        self.objects: int = options.get("objects", 7)
        self.fields: frozenset[str] = options.get("fields", frozenset(FIELDS))

    @property
    def source(self) -> str:
        """The string that opens this data set."""
        return f"scenes:{'' if self.root == Path() else self.root}"

    def __len__(self) -> int:
        return self.count

    def image_id(self, index: int) -> str:
        """Split, seed and index."""
        return f"{self.split}-{self.seed}-{index:06d}"

    def scene(self, index: int) -> Scene:
        """The scene behind image ``index``, with its camera, its things and their places."""
        if not 0 <= index < self.count:
            raise IndexError(f"scenes: image {index} of {self.count}")
        rng = np.random.default_rng([self.seed, list(SPLITS).index(self.split), index])
        return Scene(rng, self.size, self.objects)

    def __getitem__(self, index: int) -> Sample:
        """The image and its target with ``fields`` and ``image_id``."""
        scene = self.scene(index)
        target: dict[str, Any] = {"image_id": self.image_id(index)}
        if self.fields & set(INSTANCE_FIELDS):
            target |= self._instances(scene)
        canvas = scene.canvas
        if "semantic" in self.fields:
            lookup = np.array([CLASSES.index("wall"), CLASSES.index("ground"), *scene.labels], np.uint8)
            target["semantic"] = SemanticMask(torch.from_numpy(lookup[canvas.image(canvas.owner)]))
        if "boundary" in self.fields:
            edges = boundary(canvas.image(canvas.owner), canvas.image(canvas.depth))
            target["boundary"] = tv_tensors.Mask(torch.from_numpy(edges))
        if "depth" in self.fields:
            target["depth"] = tv_tensors.Mask(torch.from_numpy(canvas.image(canvas.depth)))
        if "normals" in self.fields:
            target["normals"] = NormalMap(torch.from_numpy(canvas.image(canvas.normals)))
        return tv_tensors.Image(torch.from_numpy(scene.picture)), target  # type: ignore[return-value]

    def _instances(self, scene: Scene) -> Target:
        """The fields of what is seen of each thing, those of ``self.fields`` only."""
        owner = scene.canvas.image(scene.canvas.owner)
        area = np.bincount(scene.canvas.owner, minlength=FIRST_THING + len(scene.things))[FIRST_THING:]
        seen = np.flatnonzero(area)  # [K]
        owners = (seen + FIRST_THING).astype(np.uint8)
        area = area[seen]
        target: Target = {}
        if self.fields & {"boxes", "masks"}:
            masks = owner == owners[:, None, None]  # [K,H,W]
            if "masks" in self.fields:
                target["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
            if "boxes" in self.fields:
                target["boxes"] = tv_tensors.BoundingBoxes(
                    torch.from_numpy(tight_boxes(masks)), format="XYXY", canvas_size=self.size
                )
        if "labels" in self.fields:
            target["labels"] = torch.tensor([scene.labels[i] for i in seen], dtype=torch.int64)
        if "ignore" in self.fields:
            hardly = (area < SEEN_SHARE * scene.silhouettes[seen]) | (area < SEEN_PIXELS * owner.size)
            target["ignore"] = torch.from_numpy(hardly)
        if "area" in self.fields:
            target["area"] = torch.from_numpy(area.astype(np.float32))
        if "keypoints" in self.fields:
            points, visibility = scene.keypoints(seen)
            target["keypoints"] = KeyPoints.of(FIGURE_SKELETON)(torch.from_numpy(points), canvas_size=self.size)
            target["visibility"] = Visibility.of(FIGURE_SKELETON)(torch.from_numpy(visibility))
        return target


# -------------------------------------------------------------------------------------------------------------- options


def _parse(text: str) -> dict[str, Any]:
    """The options in ``count=500,size=128x160``; those that are not given are left out."""
    options: dict[str, Any] = {}
    for part in () if text in ("", ".") else text.split(","):
        name, equals, value = part.partition("=")
        if name not in OPTIONS:
            raise UsageError(
                f"scenes: there is no option {name!r}{suggest(name, OPTIONS)}; known: {', '.join(OPTIONS)}"
            )
        if not equals:
            raise UsageError(f"scenes: {name} has no value; expected options such as scenes:count=500,size=128x160")
        if name in options:
            raise UsageError(f"scenes: {name} is given twice")
        if name == "size":
            options[name] = _parse_size(value)
        elif name == "fields":
            options[name] = _parse_fields(value)
        else:
            options[name] = _parse_number(name, value, *RANGES[name])
    return options


def _parse_number(name: str, value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise UsageError(f"scenes: {name} is {value!r}; expected a whole number from {least} to {most}")
    return int(value)


def _parse_size(value: str) -> tuple[int, int]:
    sides = value.split("x")
    if len(sides) > 2 or not all(s.isascii() and s.isdigit() and int(s) in SIZES for s in sides):
        raise UsageError(
            f"scenes: size is {value!r}; expected height x width in pixels such as 128x160, "
            f"each {SIZES.start} to {SIZES.stop - 1}"
        )
    return int(sides[0]), int(sides[-1])


def _parse_fields(value: str) -> frozenset[str]:
    """The fields named, and those that they are of no use without: labels and ignore beside what is per thing."""
    fields = set(value.split("+"))
    unknown = sorted(fields - set(FIELDS))
    if unknown:
        name = unknown[0]
        raise UsageError(f"scenes: fields has {name!r}{suggest(name, FIELDS)}; known: {', '.join(FIELDS)}")
    if fields & set(INSTANCE_FIELDS):
        fields |= {"labels", "ignore"}
    if fields & {"keypoints", "visibility"}:
        fields |= {"keypoints", "visibility"}
    return frozenset(fields)


# --------------------------------------------------------------------------------------------------------------- scenes


class Scene:
    """A random room with things in it, painted.

    Attributes:
        things, labels: the things, and the class of each.
        silhouettes: int [things], the pixels that each would own if nothing hid it.
        canvas: who owns each pixel, at which depth and with which normal.
        picture: uint8 [3,H,W].
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], most: int) -> None:
        self.camera = _camera(rng, size)
        self.room = _room(rng, self.camera)
        light = _light(rng)
        self.things: list[Thing | Figure] = []
        self.labels: list[int] = []
        self._furnish(rng, most)
        self.canvas = Canvas(self.camera)
        self.room.draw(self.canvas)
        self.room.cast_shadows(self.canvas, light, self.things)
        self.silhouettes = np.array(
            [thing.draw(self.canvas, FIRST_THING + i) for i, thing in enumerate(self.things)], np.int64
        )
        gloss = np.array([0, 0] + [thing.gloss for thing in self.things], np.float32)
        self.picture = rendering.develop(rng, self.canvas, light, gloss)

    def keypoints(self, seen: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Points [K,P,2] and visibility [K,P] of the things ``seen``."""
        points = np.zeros((len(seen), len(rendering.JOINTS), 2), np.float32)
        visibility = np.zeros(points.shape[:2], np.int64)
        for row, i in enumerate(seen):
            thing = self.things[i]
            if isinstance(thing, Figure):
                points[row], visibility[row] = thing.joints(self.canvas, FIRST_THING + int(i))
        return points, visibility

    def _furnish(self, rng: np.random.Generator, most: int) -> None:
        """Put up to ``most`` things into the room, more often many than few, seldom none."""
        if rng.random() < EMPTY_SHARE:
            return
        for _ in range(math.ceil(most * rng.random() ** 0.7)):
            label = FIGURE if rng.random() < FIGURE_SHARE else int(rng.random() * FIGURE)
            make = self._figure if label == FIGURE else self._solid
            for _ in range(3):  # things may stand close, but should not run through each other
                thing = make(rng, label)
                if thing.center[2] - thing.reach < NEAREST:  # pushed there by a wall beside it
                    continue
                if not any(_collide(thing, other) for other in self.things):
                    self.things.append(thing)
                    self.labels.append(label)
                    break

    def _figure(self, rng: np.random.Generator, label: int) -> Figure:
        camera = self.camera
        stature = between(rng, 1.2, 1.95)
        depth = camera.focal * stature / (camera.size[0] * between(rng, 0.3, 0.95))
        across = camera.unproject(between(rng, 0.02, 0.98) * camera.size[1], 0, depth)[0]
        place = self.room.inside(np.array([across, camera.height, depth]), 0.5)
        back = math.pi if rng.random() < 0.25 else 0.0
        return Figure(rng, place, stature, back + between(rng, -0.9, 0.9), place[2] / camera.focal)

    def _solid(self, rng: np.random.Generator, label: int) -> Thing:
        camera, name = self.camera, THINGS[label]
        depth = 2.5 * 3.5 ** rng.random()  # metres
        radius = between(rng, 0.06, 0.2) * min(camera.size) * depth / camera.focal
        stands = rng.random() < 0.65
        tilt = 0.0 if stands else 0.45
        turn = rendering.rotation(
            between(rng, -0.7, 0.7) if name in ("ring", "star") else between(rng, -math.pi, math.pi),
            between(rng, -tilt, tilt),
            between(rng, -tilt, tilt) if name != "star" else between(rng, -0.6, 0.6),
        )
        solid, rise = _shape(rng, name, radius)
        x, y = between(rng, 0.02, 0.98) * camera.size[1], between(rng, 0.05, 0.7) * camera.size[0]
        center = camera.unproject(x, y, depth)
        lowest = camera.height - (rise if stands else solid.reach)
        center[1] = lowest if stands else min(center[1], lowest)
        center = self.room.inside(center, solid.reach)
        pixel = center[2] / camera.focal
        paint = Paint(rng, radius * between(rng, 0.35, 1.2), pixel * between(rng, 0.6, 1.3))
        shadow = np.array([solid.reach, rise, solid.reach]) * 0.9
        return Thing(solid, center, turn, paint, between(rng, 0, 0.5) if rng.random() < 0.5 else 0.0, shadow)


def _shape(rng: np.random.Generator, name: str, radius: float) -> tuple[Ball | Box | Frustum | Plate, float]:
    """A solid of the class ``name``, about ``radius`` metres in size, and how high its centre is when it stands."""
    if name == "ball":
        flat = between(rng, 0.6, 1.0) if rng.random() < 0.5 else 1.0
        return Ball((radius, radius * flat, radius)), radius * flat
    if name == "box":
        half = (radius * between(rng, 0.5, 1.0), radius * between(rng, 0.4, 1.1), radius * between(rng, 0.5, 1.0))
        return Box(half), half[1]
    if name == "can":
        return Frustum(width := radius * between(rng, 0.4, 0.75), width, radius), radius
    if name == "cone":
        return Frustum(0.0, radius * between(rng, 0.5, 0.85), radius), radius
    if name == "ring":
        return Plate(radius, between(rng, 0.45, 0.75), 0), radius
    points = 4 + int(rng.random() * 4)
    return Plate(radius * 1.15, between(rng, 0.38, 0.55), points), radius * 1.1


def _collide(one: Thing | Figure, other: Thing | Figure) -> bool:
    """Whether two things overlap, roughly: their shadows' ellipsoids, shrunk a little."""
    return bool((((one.center - other.center) / (one.extent + other.extent)) ** 2).sum() < 0.7)


def _camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    return Camera(
        size,
        focal=between(rng, 0.9, 1.3) * max(size),
        horizon=between(rng, 0.2, 0.5) * size[0],
        height=between(rng, 1.2, 1.9),
    )


def _room(rng: np.random.Generator, camera: Camera) -> Room:
    """A wall across, slanted, and mostly one more at a right angle to it, left or right."""
    angle, distance = between(rng, -0.5, 0.5), between(rng, 6.5, 12)
    walls = [(angle, distance)]
    if rng.random() < 0.6:
        walls.append((angle + math.copysign(math.pi / 2, rng.random() - 0.5), between(rng, 2.0, 4.5)))
    texel = distance / camera.focal
    wall = Paint(rng, between(rng, 0.5, 1.6), texel * between(rng, 0.7, 2), turned=rng.random() < 0.3)
    ground = Paint(rng, between(rng, 0.5, 1.8), 0.5 * texel, turned=rng.random() < 0.5)
    return Room(walls, wall, ground)


def _light(rng: np.random.Generator) -> Light:
    toward = np.array([between(rng, -1, 1), -between(rng, 0.5, 1.3), -between(rng, 0.3, 1.0)], np.float32)
    return Light(
        direction=toward / np.float32(np.linalg.norm(toward)),
        strength=between(rng, 0.6, 1.0),
        ambient=between(rng, 0.3, 0.5),
        tint=np.array([between(rng, 0.85, 1.1), between(rng, 0.9, 1.05), between(rng, 0.85, 1.1)], np.float32),
    )


# -------------------------------------------------------------------------------------------------------------- targets


def tight_boxes(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The boxes [K,4] around ``masks`` [K,H,W], none of which is empty."""
    rows, columns = (np.logical_or.reduce(masks, axis=axis) for axis in (2, 1))  # [K,H], [K,W]
    height, width = masks.shape[1:]
    left, top = columns.argmax(1), rows.argmax(1)
    right, bottom = width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)
    return np.stack((left, top, right, bottom), 1).astype(np.float32)


def boundary(owner: npt.NDArray[np.uint8], depth: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 at the pixels with a neighbour (left, right, above, below) of another owner behind them, else 0; [H,W].

    The contour is one pixel wide and belongs to what is in front, as in a mirrored image.
    """
    edges = np.zeros(owner.shape, np.bool_)
    for whose, how_far, edge in ((owner, depth, edges), (owner.T, depth.T, edges.T)):
        differ = whose[1:] != whose[:-1]
        later = how_far[1:] < how_far[:-1]  # the later of the two pixels is in front
        edge[1:] |= differ & later
        edge[:-1] |= differ & ~later
    return edges.astype(np.float32)
