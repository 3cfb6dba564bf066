"""What flows between the rooms: samples, batches, predictions, and what a model wants to be fed.

Conventions (they hold everywhere):

* image: RGB. ``uint8 [3,H,W]`` in a sample, ``float32 [3,H,W]`` in 0..1 in a batch.
* boxes: ``float32 [K,4]``, x1, y1, x2, y2 in pixels, continuous; pixel (row i, column j) covers [j,j+1) x [i,i+1).
* labels: ``int64 [K]``, 0..C-1, an index into ``classes``; there is no background entry.
* semantic: ``[H,W]`` of the same indices, ``IGNORE`` (255) where unknown; uint8 in a sample, int64 in a batch.
* masks: ``bool [K,H,W]``.
* keypoints: ``float32 [K,P,3]`` x, y, visibility 0/1/2; the centre of column j is x = j + 0.5.
* boundary: ``float32 [H,W]`` in 0..1; depth: ``float32 [H,W]`` in metres, NaN where unknown;
  normals: ``float32 [3,H,W]``, unit vectors, camera frame x right, y down, z forward.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import register_kernel

from scenewise.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

STRICT: Any = {"extra": "forbid"}  # as a spec's __pydantic_config__: a misspelt entry in a recipe is an error
IGNORE = 255  # the semantic label of pixels that neither loss nor metric counts


class SemanticMask(tv_tensors.Mask):
    """A class map. A type of its own, so that transforms can pad it with ``IGNORE`` and instance masks with 0."""


class NormalMap(tv_tensors.Mask):
    """Surface normals ``[3,H,W]``. Flips and rotations of the image turn the vectors with it; transforms that have no
    counterpart for a camera (affine, perspective, elastic) are refused."""


class KeyPoints(tv_tensors.KeyPoints):
    """Points in scenewise's coordinates (the centre of column j is j + 0.5).

    A type of its own for flips alone: torchvision's map x to W - 1 - x, a pixel away from where they put boxes and
    pixels; here x becomes W - x. A flip does not exchange left and right joints.
    """


@register_kernel(functional.horizontal_flip, NormalMap)
def _mirror_normals(normals: NormalMap) -> NormalMap:
    flipped = functional.horizontal_flip_mask(normals.as_subclass(Tensor))
    flipped[..., 0, :, :].neg_()
    return NormalMap(flipped)


@register_kernel(functional.vertical_flip, NormalMap)
def _upend_normals(normals: NormalMap) -> NormalMap:
    flipped = functional.vertical_flip_mask(normals.as_subclass(Tensor))
    flipped[..., 1, :, :].neg_()
    return NormalMap(flipped)


@register_kernel(functional.rotate, NormalMap)
def _rotate_normals(normals: NormalMap, angle: float, *args: Any, **kwargs: Any) -> NormalMap:
    kwargs.pop("interpolation", None)  # the mask's kernel takes the nearest pixel always
    x, y, z = functional.rotate_mask(normals.as_subclass(Tensor), angle, *args, **kwargs).unbind(-3)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))  # counter-clockwise, and y points down
    return NormalMap(torch.stack((cos * x + sin * y, cos * y - sin * x, z), -3))


def _refuse_normals(normals: NormalMap, *args: Any, **kwargs: Any) -> NormalMap:
    raise UsageError(
        "transforms: surface normals can be cropped, resized, flipped and rotated, "
        "but not sheared or distorted (affine, perspective, elastic); leave that transform out"
    )


for _transform in (functional.affine, functional.perspective, functional.elastic):
    register_kernel(_transform, NormalMap)(_refuse_normals)


@register_kernel(functional.horizontal_flip, KeyPoints)
def _mirror_keypoints(points: KeyPoints) -> KeyPoints:
    flipped = points.as_subclass(Tensor).clone()
    flipped[..., 0] = points.canvas_size[1] - flipped[..., 0]
    return KeyPoints(flipped, canvas_size=points.canvas_size)


@register_kernel(functional.vertical_flip, KeyPoints)
def _upend_keypoints(points: KeyPoints) -> KeyPoints:
    flipped = points.as_subclass(Tensor).clone()
    flipped[..., 1] = points.canvas_size[0] - flipped[..., 1]
    return KeyPoints(flipped, canvas_size=points.canvas_size)


class Target(TypedDict, total=False):
    """What is known about one image. A reader gives the fields its format has, a model lists those it needs.

    In a sample, ``boxes`` is ``tv_tensors.BoundingBoxes``, ``masks``, ``boundary`` and ``depth`` are
    ``tv_tensors.Mask``, ``semantic`` is :class:`SemanticMask`, ``normals`` is :class:`NormalMap`, and ``keypoints`` is
    :class:`KeyPoints` ``[K,P,2]`` with ``visibility`` ``[K,P]`` beside it, so that every transform of
    torchvision's v2 moves all of them together. The loader makes plain tensors of them and joins the visibility to
    the keypoints.
    """

    image_id: str  # the name of the image within its data set
    boxes: Tensor  # [K,4]
    labels: Tensor  # [K]
    ignore: Tensor  # bool [K]: crowd or difficult; never trained as a positive
    masks: Tensor  # bool [K,H,W]
    keypoints: Tensor
    visibility: Tensor
    area: Tensor  # float32 [K]: the annotated area in pixels, where the format states one
    proposals: Tensor  # float32 [P,4]: boxes that may hold an object, found by another system
    semantic: Tensor  # [H,W]
    boundary: Tensor  # [H,W]
    depth: Tensor  # [H,W]
    normals: Tensor  # [3,H,W]


Sample = tuple[tv_tensors.Image, Target]


@dataclass(frozen=True)
class InputSpec:
    """All that is needed to feed a model: how an image is resized, normalised and padded.

    At most one of ``scale``, ``size`` and ``short_side`` says how an image is resized for prediction; with none of
    them it is taken as it is. ``mean`` and ``std`` apply to 0..1 RGB. Batches are padded at the right and bottom to
    a multiple of ``size_divisor``; padding is zero after normalisation.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size_divisor: int = 1
    scale: float | None = None  # height and width times this
    size: tuple[int, int] | None = None  # exactly this (height, width)
    short_side: int | None = None  # the shorter side becomes this, the longer follows
    long_side: int | None = None  # with short_side: the longer side becomes at most this
    antialias: bool = True  # False: plain bilinear, without rounding to 8 bits; as torchvision's detectors resize

    def __post_init__(self) -> None:
        given = [name for name in ("scale", "size", "short_side") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"input: {' and '.join(given)} exclude each other; give one of scale, size, short_side")
        if self.long_side is not None and self.short_side is None:
            raise UsageError("input: long_side needs short_side")
        if self.size_divisor < 1:
            raise UsageError(f"input: size_divisor is {self.size_divisor}; expected 1 or more")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) at which an image of ``height`` x ``width`` is fed to the model."""
        if self.size is not None:
            return self.size
        factor = 1.0
        if self.scale is not None:
            factor = self.scale
        elif self.short_side is not None:
            factor = self.short_side / min(height, width)
            if self.long_side is not None:
                factor = min(factor, self.long_side / max(height, width))
        return max(1, int(height * factor + 1e-6)), max(1, int(width * factor + 1e-6))

    def to_dict(self) -> dict[str, Any]:
        """The fields that are not at their default, ready for JSON or YAML; :meth:`from_dict` reads them back."""
        default = InputSpec()
        return {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(default, k)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """The spec that :meth:`to_dict` wrote."""
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise UsageError(f"input: unknown entry {unknown[0]!r}; known: {', '.join(sorted(names))}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


@dataclass
class Batch:
    """Images of one step, zero-padded at the right and bottom to one size, with their true sizes and targets.

    Attributes:
        images: float32 [N,3,H,W], RGB, 0..1.
        sizes: N times (height, width) of the image before padding.
        targets: N targets as plain tensors; empty for prediction. Dense maps have the true size of their image.
        proposals: N times boxes [P,4] for systems that take them from outside; empty where there are none.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[Target] = dataclasses.field(default_factory=list)
    proposals: list[Tensor] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(cls, images: Sequence[Tensor], targets: Sequence[Target] = (), size_divisor: int = 1) -> Batch:
        """The batch of ``images``, padded to their common size and to ``size_divisor``.

        Each is [3,h,w], uint8 or floats in 0..1. uint8 is divided by 255 on its way into the batch.
        """
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height = _round_up(max(h for h, _ in sizes), size_divisor)
        width = _round_up(max(w for _, w in sizes), size_divisor)
        if len(images) == 1 and sizes[0] == (height, width) and images[0].dtype == torch.float32:
            joined = images[0][None]
        else:
            filled = all(size == (height, width) for size in sizes)  # there is no padding to be made zero
            make = torch.empty if filled else torch.zeros
            joined = make((len(images), 3, height, width), device=images[0].device)
            for row, image, (h, w) in zip(joined, images, sizes, strict=True):
                if image.dtype == torch.uint8:
                    torch.div(image, 255, out=row[:, :h, :w])
                else:
                    row[:, :h, :w] = image
        proposals = [target["proposals"] for target in targets if "proposals" in target]
        return cls(joined, sizes, list(targets), proposals)

    @property
    def padded(self) -> bool:
        """Whether any image is smaller than the canvas."""
        canvas = tuple(self.images.shape[-2:])
        return any(size != canvas for size in self.sizes)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all its tensors on ``device``."""
        targets = [
            {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in t.items()}
            for t in self.targets
        ]
        proposals = [boxes.to(device, non_blocking=True) for boxes in self.proposals]
        return Batch(self.images.to(device, non_blocking=True), self.sizes, targets, proposals)  # type: ignore[arg-type]

    def stacked(self, field: str, fill: float) -> Tensor:
        """The targets' dense maps ``field`` as one tensor [N,...,H,W] of the canvas' size, ``fill`` in the padding."""
        maps = [target[field] for target in self.targets]  # type: ignore[literal-required]
        canvas = tuple(self.images.shape[-2:])
        if all(tuple(m.shape[-2:]) == canvas for m in maps):
            return torch.stack(maps)
        joined = maps[0].new_full((len(maps), *maps[0].shape[:-2], *canvas), fill)
        for row, m in zip(joined, maps, strict=True):
            row[..., : m.shape[-2], : m.shape[-1]] = m
        return joined


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor


INSTANCE_FIELDS = ("boxes", "labels", "scores", "masks", "roi_masks", "keypoints")
DENSE_FIELDS = ("semantic", "semantic_logits", "boundary", "depth", "normals")


@dataclass
class Prediction:
    """What a model sees in one image. Fields that the model does not fill are None.

    A system's ``predict`` fills ``semantic_logits`` (class scores before the softmax, at the size of the image);
    ``scenewise.predict`` maps them to the size of the original image and gives ``semantic``. Likewise a system that
    finds masks in the frames of its boxes fills ``roi_masks``, and ``scenewise.predict`` gives ``masks``.
    """

    size: tuple[int, int]  # (height, width) of the image that the coordinates refer to
    classes: tuple[str, ...]
    boxes: Tensor | None = None  # float32 [K,4]
    labels: Tensor | None = None  # int64 [K]
    scores: Tensor | None = None  # float32 [K], 0..1
    masks: Tensor | None = None  # bool [K,H,W]
    roi_masks: Tensor | None = None  # float32 [K,M,M]: the probability of the object in each cell of its box
    keypoints: Tensor | None = None  # float32 [K,P,3]
    semantic: Tensor | None = None  # int64 [H,W]
    semantic_logits: Tensor | None = None  # float32 [C,H,W]
    boundary: Tensor | None = None  # float32 [H,W]
    depth: Tensor | None = None  # float32 [H,W]
    normals: Tensor | None = None  # float32 [3,H,W]
    embedding: Tensor | None = None  # float32 [D] or [D,H,W]
    source: str | None = None  # where the image came from: a path, or None

    def __len__(self) -> int:
        """The number of instances; 0 where the prediction has none."""
        for name in INSTANCE_FIELDS:
            value = getattr(self, name)
            if value is not None:
                return len(value)
        return 0

    def __getitem__(self, index: Any) -> Prediction:
        """The prediction with the instances that ``index`` (int, slice, index or bool tensor) selects."""
        if isinstance(index, int):
            index = [index]
        return self._map({name: lambda v: v[index] for name in INSTANCE_FIELDS})

    def above(self, score: float) -> Prediction:
        """The prediction with the instances whose score is at least ``score``; itself where it has no scores."""
        return self if self.scores is None else self[self.scores >= score]

    def to(self, device: torch.device | str) -> Prediction:
        """The same prediction with all its tensors on ``device``."""
        return self._map({f.name: lambda v: v.to(device) for f in dataclasses.fields(self)})

    def _map(self, change: dict[str, Any]) -> Prediction:
        values = {name: getattr(self, name) for name in change}
        return dataclasses.replace(
            self, **{name: change[name](value) for name, value in values.items() if isinstance(value, Tensor)}
        )

    def shares(self) -> dict[str, float]:
        """The share of the image's pixels that each class in ``semantic`` covers, largest first."""
        if self.semantic is None:
            return {}
        known = self.semantic[self.semantic != IGNORE]
        counts = torch.bincount(known.flatten(), minlength=len(self.classes)).tolist()
        total = max(1, self.semantic.numel())
        found = {name: count / total for name, count in zip(self.classes, counts, strict=False) if count}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def draw(self, image: Any, **options: Any) -> PILImage:
        """A picture of ``image`` with this prediction on it; see :func:`scenewise.results.picture.draw_prediction`."""
        from scenewise.results.picture import draw_prediction

        return draw_prediction(image, self, **options)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dump``; see :func:`scenewise.results.record.to_json`."""
        from scenewise.results.record import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Prediction:
        """The prediction that :meth:`to_json` wrote; see :func:`scenewise.results.record.from_json`."""
        from scenewise.results.record import from_json

        return from_json(record)

    def to_coco(self, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Entries of a COCO results file; see :func:`scenewise.results.record.to_coco`."""
        from scenewise.results.record import to_coco

        return to_coco(self, image_id, category_ids)
