"""What flows between the rooms: samples, batches, outputs, and what a model is fed.

Conventions (they hold everywhere):

* image: RGB. ``uint8 [3,H,W]`` in a sample, ``float32 [3,H,W]`` in 0..1 in a batch.
* boxes: ``float32 [K,4]``, x1, y1, x2, y2 in pixels, continuous; pixel (row i, column j) covers [j,j+1) x [i,i+1).
* labels: ``int64 [K]``, 0..C-1, an index into ``classes``; there is no background entry.
* semantic: ``[H,W]`` of the same indices, ``IGNORE`` (255) where unknown; uint8 in a sample, int64 in a batch.
* masks: ``bool [K,H,W]``.
* keypoints: ``float32 [K,P,3]`` x, y, visibility 0/1/2; the centre of column j is x = j + 0.5.
* boundary: ``float32 [H,W]`` in 0..1; depth: ``float32 [H,W]`` in metres, NaN where unknown;
  normals: ``float32 [3,H,W]``, unit vectors, camera frame x right, y down, z forward;
  flow: ``float32 [2,H,W]``, where each pixel has moved to in the next image, in pixels (x, y), NaN where unknown.

What can be done with each kind of output (resizing, mirroring, drawing, writing, ...) is in :mod:`scenewise.fields`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import reprlib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypedDict

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from torchvision import tv_tensors

from scenewise.errors import UsageError

STRICT: Any = {  # as a spec's __pydantic_config__: a misspelt entry in a recipe is an error, and so is NaN
    "extra": "forbid",
    "allow_inf_nan": False,
}
Positive = Annotated[float, Field(gt=0)]  # what an argument of a system takes; its bounds are part of its type
Weight = Annotated[float, Field(ge=0)]  # a factor, such as that of a loss
Share = Annotated[float, Field(ge=0, le=1)]  # a part of a whole, an overlap, a probability
Dropout = Annotated[float, Field(ge=0, lt=1)]  # the probability that a value is dropped
Channels = Annotated[int, Field(ge=1, le=65536)]  # of a feature map
Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=1, le=65536)]  # a side of an image
Layers = Annotated[int, Field(ge=0, le=64)]  # how many stand one after the other
Side = Annotated[int, Field(ge=1, le=512)]  # of a grid, in cells
IGNORE = 255  # the semantic label of pixels that neither loss nor metric counts


class Target(TypedDict, total=False):
    """What is known about one image. A reader gives the fields its format has, a model lists those it needs.

    In a sample each is the tensor type that its kind of output names (``scenewise.fields``): ``boxes`` is
    ``tv_tensors.BoundingBoxes``, ``masks``, ``boundary`` and ``depth`` are ``tv_tensors.Mask``, and so on, so that
    every transform of torchvision's v2 moves all of them together; ``keypoints`` are ``[K,P,2]`` with ``visibility``
    ``[K,P]`` beside them. The loader makes plain tensors of them and joins the visibility to the keypoints.

    Further inputs of a model (``proposals``, ``next_image``) travel with the target until the batch is put together.
    """

    image_id: str  # the name of the image within its data set
    boxes: Tensor  # [K,4]
    labels: Tensor  # [K]
    ignore: Tensor  # bool [K]: crowd or difficult; never trained as a positive
    masks: Tensor  # bool [K,H,W]
    keypoints: Tensor
    visibility: Tensor
    area: Tensor  # float32 [K]: the annotated area in pixels, where the format states one
    semantic: Tensor  # [H,W]
    boundary: Tensor  # [H,W]
    depth: Tensor  # [H,W]
    normals: Tensor  # [3,H,W]
    flow: Tensor  # [2,H,W]
    proposals: Tensor  # float32 [P,4]: boxes that may hold an object, found by another system
    next_image: Tensor  # [3,H,W]: the image that follows


Sample = tuple[tv_tensors.Image, Target]


@dataclass(frozen=True)
class InputSpec:
    """All that is needed to feed a model: how an image is resized, normalised and padded.

    At most one of ``scale``, ``size`` and ``short_side`` says how an image is resized for prediction; with none of
    them it is taken as it is. ``mean`` and ``std`` apply to 0..1 RGB. Batches are padded at the right and bottom to
    a multiple of ``size_divisor``; padding is zero after normalisation.

    With other ``channels`` than 3 images are not RGB: their bands are taken as their files have them (see
    :func:`scenewise.files.images.read_bands`), and ``mean`` and ``std`` have as many numbers; left out, 0.5 and 0.25.

    Attributes:
        mean, std: of each channel, of values in 0..1.
        channels: of an image.
        bits: what an image keeps of each value: 8, or 16 where its file has them.
        size_divisor: height and width of a batch are multiples of it.
        scale: height and width times this.
        size: exactly this (height, width).
        short_side: the shorter side becomes this, the longer follows.
        long_side: with short_side: the longer side becomes at most this.
        antialias: False: plain bilinear, without rounding to 8 bits; as torchvision's detectors resize.
    """

    __pydantic_config__ = STRICT
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    bits: Literal[8, 16] = 8
    size_divisor: Count = 1
    scale: Positive | None = None
    size: tuple[Pixels, Pixels] | None = None
    short_side: Pixels | None = None
    long_side: Pixels | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        for name, usual in (("mean", 0.5), ("std", 0.25)):
            numbers = getattr(self, name)
            if self.channels != 3 and numbers == getattr(type(self), name):
                object.__setattr__(self, name, (usual,) * self.channels)
            elif len(numbers) != self.channels:
                raise UsageError(
                    f"input: {name} has {len(numbers)} numbers; expected one for each of the {self.channels} channels"
                )
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
        """The spec that :meth:`to_dict` wrote.

        Raises:
            UsageError: an entry is unknown or does not fit.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise UsageError(f"input: unknown entry {unknown[0]!r}; known: {', '.join(sorted(names))}")
        try:
            checked: InputSpec = _input_adapter().validate_python(dict(values))
        except ValidationError as error:
            fault = error.errors()[0]
            name = fault["loc"][0]
            message = fault["msg"].replace("Input should be", "expected")
            message = message if "expected" in message else f"expected another form ({message})"
            raise UsageError(f"input: {name} is {reprlib.repr(values[str(name)])}; {message}") from None
        return checked


@functools.cache
def _input_adapter() -> TypeAdapter[InputSpec]:
    return TypeAdapter(InputSpec)


@dataclass(frozen=True, init=False)
class Interface:
    """What a system reads and returns; it may depend on the arguments that the system is built with.

    Attributes:
        needs: the target fields that ``losses`` reads.
        fills: the fields of :class:`Output` that ``predict`` fills.
        takes: further inputs beside the image, such as ``proposals`` or ``next_image``.
    """

    needs: frozenset[str]
    fills: frozenset[str]
    takes: frozenset[str]

    def __init__(self, needs: Iterable[str], fills: Iterable[str], takes: Iterable[str] = ()) -> None:
        for name, names in (("needs", needs), ("fills", fills), ("takes", takes)):  # any collection of names will do
            object.__setattr__(self, name, frozenset(names))


@dataclass(frozen=True)
class Skeleton:
    """What is known of keypoints; it travels with the data set, the checkpoint and the prediction.

    Attributes:
        names: of the P keypoints, in order; empty where they have none.
        links: pairs of indices that a drawing joins.
        pairs: pairs of indices, a left and a right keypoint each, which change places in a mirrored image. None: not
            stated; they then follow from names such as ``left_eye`` and ``right_eye``, ``L_eye``, ``eye_r``.

    Raises:
        UsageError: an index occurs in two pairs, or is not that of a keypoint.
    """

    names: tuple[str, ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    pairs: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for field in ("links", "pairs"):
            value = getattr(self, field)
            if value is None:
                continue
            if not all(len(pair) == 2 and all(type(i) is int and i >= 0 for i in pair) for pair in value):
                raise UsageError(f"skeleton: {field} is {value}; expected pairs of indices of keypoints, from 0")
            object.__setattr__(self, field, tuple((int(a), int(b)) for a, b in value))
            last = max((i for pair in value for i in pair), default=-1)
            if self.names and last >= len(self.names):
                raise UsageError(f"skeleton: {field} has keypoint {last}; there are {len(self.names)}, counted from 0")
        joints = [i for pair in self.pairs or () for i in pair]
        if len(set(joints)) < len(joints):
            raise UsageError(f"skeleton: pairs is {self.pairs}; expected each keypoint in one pair at most")

    def sides(self) -> tuple[tuple[int, int], ...] | None:
        """The left and right keypoints that change places in a mirrored image; None where that is not known.

        Stated pairs count; else those that the names make. None where a name has a side and no counterpart, and where
        there is neither a name nor a pair.
        """
        if self.pairs is not None:
            return self.pairs
        if not self.names:
            return None
        found: dict[str, dict[str, list[int]]] = {}
        for index, name in enumerate(self.names):
            side, rest = _side_of(name, self.names)
            if side:
                found.setdefault(rest, {}).setdefault(side, []).append(index)
        pairs = []
        for sides in found.values():
            if len(sides.get("left", ())) != 1 or len(sides.get("right", ())) != 1:
                return None
            pairs.append((sides["left"][0], sides["right"][0]))
        return tuple(sorted(pairs))

    def mirrored_order(self, count: int) -> list[int]:
        """For each of ``count`` keypoints of a mirrored object the index of the one that it was.

        Raises:
            UsageError: the sides are not known, or a pair names a keypoint that there is not.
        """
        pairs = self.sides()
        if pairs is None:
            named = [name for name in self.names if _side_of(name, self.names)[0]]
            what = f"the names ({', '.join(named)}) have sides that don't pair up" if named else "they have no names"
            raise UsageError(
                f"mirroring {count} keypoints exchanges left and right ones, and which these are is not known: {what}. "
                "State pairs of left and right keypoints in the skeleton, or an empty list where there are none"
            )
        last = max((i for pair in pairs for i in pair), default=-1)
        if last >= count:
            raise UsageError(
                f"the skeleton's pairs of left and right keypoints name keypoint {last}; there are {count}, counted "
                "from 0"
            )
        order = list(range(count))
        for left, right in pairs:
            order[left], order[right] = right, left
        return order

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; :meth:`from_dict` reads them back."""
        pairs = None if self.pairs is None else [list(pair) for pair in self.pairs]
        return {"names": list(self.names), "links": [list(link) for link in self.links], "pairs": pairs}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """The skeleton that :meth:`to_dict` wrote.

        Raises:
            UsageError: an entry is unknown or of another form.
        """
        unknown = sorted(set(values) - {"names", "links", "pairs"})
        if unknown:
            raise UsageError(f"skeleton: unknown entry {unknown[0]!r}; known: names, links, pairs")
        try:
            pairs = values.get("pairs")
            return cls(
                tuple(str(name) for name in values.get("names", ())),
                tuple((a, b) for a, b in values.get("links", ())),
                None if pairs is None else tuple((a, b) for a, b in pairs),
            )
        except (TypeError, ValueError):
            raise UsageError("skeleton: expected names, and links and pairs as lists of two indices each") from None


def _side_of(name: str, names: Sequence[str]) -> tuple[str, str]:
    """The side that the keypoint's ``name`` states (``"left"``, ``"right"`` or ``""``), and the rest of the name."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    for sides in (("left", "right"), ("l", "r")):
        for index, word in enumerate(words):
            if word in sides and len(words) > 1:
                return ("left", "right")[sides.index(word)], " ".join(words[:index] + words[index + 1 :])
    lowered = {other.lower() for other in names}
    for long, short in (("left", "right"), ("right", "left")):  # leftankle
        if len(words) == 1 and words[0].startswith(long) and short + words[0][len(long) :] in lowered:
            return long, words[0][len(long) :]
    for side, initial, other in (("left", "l", "r"), ("right", "r", "l")):  # lankle, where there is a rankle
        if len(words) == 1 and words[0][0] == initial and len(words[0]) > 2 and other + words[0][1:] in lowered:
            return side, words[0][1:]
    return "", name


@dataclass
class Batch:
    """Images of one step, zero-padded at the right and bottom to one size, with their true sizes and targets.

    Attributes:
        images: float32 [N,C,H,W], 0..1; RGB unless the model's input has other channels.
        sizes: N times (height, width) of the image before padding.
        targets: N targets as plain tensors; empty for prediction. Dense maps have the true size of their image.
        inputs: by name, N tensors each, what a system takes beside the image: ``proposals`` [P,4], ``next_image``
            [3,h,w]; in the coordinates of the batch's images. A name that is not there was not given.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[Target] = dataclasses.field(default_factory=list)
    inputs: dict[str, list[Tensor]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(
        cls,
        images: Sequence[Tensor],
        targets: Sequence[Target] = (),
        size_divisor: int = 1,
        inputs: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Batch:
        """The batch of ``images``, padded to their common size and to ``size_divisor``.

        Each is [3,h,w], uint8 or floats in 0..1. uint8 is divided by 255 on its way into the batch.
        """
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height = _round_up(max(h for h, _ in sizes), size_divisor)
        width = _round_up(max(w for _, w in sizes), size_divisor)
        given = {name: list(values) for name, values in (inputs or {}).items()}
        return cls(_padded(images, (height, width)), sizes, list(targets), given)

    @property
    def padded(self) -> bool:
        """Whether any image is smaller than the canvas."""
        return any(size != self.canvas for size in self.sizes)

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the images, padding included."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all its tensors on ``device``."""
        targets = [
            {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in t.items()}
            for t in self.targets
        ]
        inputs = {k: [v.to(device, non_blocking=True) for v in values] for k, values in self.inputs.items()}
        return Batch(self.images.to(device, non_blocking=True), self.sizes, targets, inputs)  # type: ignore[arg-type]

    def stacked(self, field: str, fill: float) -> Tensor:
        """The targets' dense maps ``field`` as one tensor [N,...,H,W] of the canvas' size, ``fill`` in the padding."""
        maps = [target[field] for target in self.targets]  # type: ignore[literal-required]
        canvas = tuple(self.images.shape[-2:])
        if all(tuple(m.shape[-2:]) == canvas for m in maps):
            return torch.stack(maps)
        joined: Tensor = maps[0].new_full((len(maps), *maps[0].shape[:-2], *canvas), fill)
        for row, m in zip(joined, maps, strict=True):
            row[..., : m.shape[-2], : m.shape[-1]] = m
        return joined

    def further_images(self, name: str) -> Tensor:
        """The input ``name``, an image of each image's size, as one tensor [N,3,H,W] of the canvas' size.

        Raises:
            UsageError: the batch came without it.
        """
        if len(self.inputs.get(name, ())) != len(self):
            found = len(self.inputs.get(name, ()))
            raise UsageError(
                f"input {name!r} was given for {found} of {len(self)} images; this model takes one per image: "
                f"inputs={{{name!r}: ...}}, or --input {name}=PATH in the command"
            )
        return _padded(self.inputs[name], self.canvas)


def _padded(images: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
    """``images`` [C,h,w], uint8 or floats in 0..1, as float32 [N,C,H,W] on a ``canvas`` (H, W), zero beyond each."""
    if len(images) == 1 and tuple(images[0].shape[-2:]) == canvas and images[0].dtype == torch.float32:
        return images[0][None]
    filled = all(tuple(image.shape[-2:]) == canvas for image in images)  # there is no padding to be made zero
    make = torch.empty if filled else torch.zeros
    joined = make((len(images), len(images[0]), *canvas), device=images[0].device)
    for row, image in zip(joined, images, strict=True):
        h, w = image.shape[-2:]
        if image.dtype == torch.uint8:
            torch.div(image, 255, out=row[:, :h, :w])
        else:
            row[:, :h, :w] = image
    return joined


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor


_OF_CLASSES = {"of classes": True}  # of a field that refers to the model's classes


@dataclass
class Output:
    """What a model returns for one image, in the coordinates of the batch's image. Fields that it does not fill are
    None.

    A system fills ``semantic_logits`` (class scores before the softmax, at the size of the image), from which
    ``scenewise.predict`` makes ``semantic`` at the size of the original image; likewise ``roi_masks``, masks in the
    frames of the boxes, become ``masks``.
    """

    size: tuple[int, int]  # (height, width) of the image that the coordinates refer to
    _: KW_ONLY
    boxes: Tensor | None = None  # float32 [K,4]
    labels: Tensor | None = dataclasses.field(default=None, metadata=_OF_CLASSES)  # int64 [K]
    scores: Tensor | None = None  # float32 [K], 0..1
    masks: Tensor | None = None  # bool [K,H,W]
    roi_masks: Tensor | None = None  # float32 [K,M,M]: the probability of the object in each cell of its box
    keypoints: Tensor | None = None  # float32 [K,P,3]
    semantic: Tensor | None = dataclasses.field(default=None, metadata=_OF_CLASSES)  # int64 [H,W]
    semantic_logits: Tensor | None = dataclasses.field(default=None, metadata=_OF_CLASSES)  # float32 [C,H,W]
    boundary: Tensor | None = None  # float32 [H,W]
    depth: Tensor | None = None  # float32 [H,W]
    normals: Tensor | None = None  # float32 [3,H,W]
    flow: Tensor | None = None  # float32 [2,H,W]
    embedding: Tensor | None = None  # float32 [D] of the image, or [D,H,W] of its pixels


OF_CLASSES = frozenset(f.name for f in dataclasses.fields(Output) if "of classes" in f.metadata)


@dataclass
class Described(Output):
    """An output with what its numbers mean: the names of classes and keypoints, and where the image came from."""

    classes: tuple[str, ...] = ()  # names, in label order; empty where nothing is labelled
    _: KW_ONLY
    skeleton: Skeleton | None = None  # of the keypoints
    source: str | None = None  # where the image came from: a path, or None


def is_misplaced_bool(value: Any, type_: Any) -> bool:
    """Whether a truth value stands in ``value`` where its type wants a number, for which Python would take it."""
    if typing.get_origin(type_) is typing.Annotated:
        type_ = typing.get_args(type_)[0]
    kind, inner = typing.get_origin(type_), typing.get_args(type_)
    if kind in (typing.Union, UnionType):
        able = [member for member in inner if _may_hold(member, value)]
        return bool(able) and all(is_misplaced_bool(value, member) for member in able)
    if isinstance(value, bool):
        return not (type_ in (bool, str, Any, object) or (kind is typing.Literal and value in inner))
    if isinstance(value, Mapping):
        if dataclasses.is_dataclass(type_):
            hints = typing.get_type_hints(type_, include_extras=True)
            return any(is_misplaced_bool(entry, hints[key]) for key, entry in value.items() if key in hints)
        if isinstance(kind, type) and issubclass(kind, Mapping):
            return any(is_misplaced_bool(entry, inner[1]) for entry in value.values())
    elif isinstance(value, list | tuple) and isinstance(kind, type) and issubclass(kind, Sequence) and inner:
        types_ = inner if kind is tuple and Ellipsis not in inner else inner[:1] * len(value)
        return any(is_misplaced_bool(entry, member) for entry, member in zip(value, types_, strict=False))
    return False


def _may_hold(type_: Any, value: Any) -> bool:
    """Whether a value as the mapping, the list or the plain value that ``value`` is may be of ``type_``."""
    if typing.get_origin(type_) is Annotated:
        type_ = typing.get_args(type_)[0]
    kind = typing.get_origin(type_) or type_
    if isinstance(value, Mapping):
        return dataclasses.is_dataclass(type_) or (isinstance(kind, type) and issubclass(kind, Mapping))
    return not isinstance(value, list | tuple) or (isinstance(kind, type) and issubclass(kind, Sequence))
