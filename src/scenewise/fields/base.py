"""Field: what every kind of output can do. A new kind is one file that subclasses it, and its row in ``table.py``.

A value is the tensor of one image. Everything that is generic (mapping back to the image, test-time views, ensembles,
JSON, pictures, crops) is a loop over the table, so a field says about itself:

* its shape, and what does not fit (:meth:`Field.misfit`);
* how it goes back to the image, from a resized one (:meth:`Field.resize`, :meth:`Field.restore`), from a view
  (:meth:`Field.move_back`) and from a crop (:meth:`Field.shift`);
* how several of it become one (``fusion``, :meth:`Field.canvas`);
* how it is written and read (``storage``, :meth:`Field.encode`, :meth:`Field.decode`);
* how it is painted (``layer`` and what goes with it);
* as a target: what its tensors are in a sample, and what of it a crop leaves (:meth:`Field.cut`).

Shapes: K instances, P keypoints, C classes, H x W pixels of the image.
"""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import register_kernel

from scenewise.draw.colors import Array, Color
from scenewise.draw.legends import Row
from scenewise.draw.look import Scene
from scenewise.draw.strokes import Strokes
from scenewise.errors import DataError, UsageError
from scenewise.ops.views import View
from scenewise.types import Described, Skeleton

Average = Literal["logits", "probabilities"]
How = Literal["mean", "max"]
Size = tuple[int, int]  # (height, width)
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class Field:
    """One kind of output or of ground truth; the defaults are those of something that is known of a whole image.

    Attributes:
        name: that of the attribute of :class:`~scenewise.types.Output`, and of the target where data sets know it.
        shape: a letter or digit per dimension: K is the number of instances (then each row is of one), H and W are the
            image's, digits are fixed, other letters are free but the same wherever they occur.
        gives: the field that the user receives in its place; its own name where that is itself.
        output: whether it is a field of :class:`~scenewise.types.Output`; else it is known of targets alone.
        target: whether it is a field of :class:`~scenewise.types.Target`; else data sets don't know it.
        fusion: what becomes of it over several views or models: their ``"mean"``, the ``"union"`` of their instances;
            ``"refuse"``: an error.
        storage: where it is kept: in the prediction's ``"json"``, in ``"arrays"`` beside it, or ``"never"``.
        layer: whether it is painted ``"over"`` the image together with others, has a ``"panel"`` of its own, or None.
        title: above its panel.
        depth: of two that are painted over the image, the one with the larger number lies on top.
        told_apart: whether instances that have it are given a colour each rather than that of their class.
        blank: the value of a pixel that is not known; None where every value is one that is known.
        scored: whether it holds class scores, of which either logits or probabilities are fused over views.
    """

    name: ClassVar[str]
    shape: ClassVar[str]
    gives: ClassVar[str]
    output: ClassVar[bool] = True
    target: ClassVar[bool] = True
    fusion: ClassVar[Literal["mean", "union", "refuse"]] = "refuse"
    storage: ClassVar[Literal["json", "arrays", "never"]] = "arrays"
    layer: ClassVar[Literal["over", "panel"] | None] = None
    title: ClassVar[str] = ""
    depth: ClassVar[int] = 0
    told_apart: ClassVar[bool] = False
    blank: ClassVar[float | None] = None
    scored: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            cls.gives = vars(cls).get("gives", cls.name)

    @property
    def per_instance(self) -> bool:
        """Whether its rows are those of instances."""
        return self.shape.startswith("K")

    @property
    def dense(self) -> bool:
        """Whether it has a value at each pixel of the image."""
        return self.shape.endswith("HW") and not self.per_instance

    # ---- what does not fit

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """What is wrong with the numbers in ``value``, as a sentence; None where nothing is. Shapes are checked
        before."""
        return None

    # ---- back to the image

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """The value for an image of ``size`` (height, width), of which the model was fed a copy of size ``old``."""
        return value

    def restore(self, value: Tensor, old: Size, size: Size, done: Mapping[str, Tensor]) -> Tensor:
        """What the user receives, the field ``gives``, for an image of ``size``; ``done`` are the fields before this
        one in the table, restored."""
        return self.resize(value, old, size)

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """The value in the upright image of size ``view.upright``, from a ``view`` of it."""
        return value

    @property
    def shifts(self) -> bool:
        """Whether :meth:`shift` has a value for the whole image."""
        return type(self).shift is not Field.shift

    def shift(self, value: Tensor, left: int, top: int, size: Size) -> Tensor:
        """The value of a crop in the image of ``size`` that it was cut from, at column ``left`` and row ``top``; a crop
        may begin before the image and end behind it.

        Raises:
            UsageError: it has no place in another image.
        """
        raise UsageError(f"{self.name} of a crop can't be put into the whole image")

    # ---- several of it

    def canvas(self, size: Size, average: Average, how: How) -> Canvas:
        """What values of views are gathered on, for the image of ``size``; for fields whose ``fusion`` is the mean."""
        return MeanCanvas(self, size, how)

    def finish(self, mean: Tensor) -> Tensor:
        """The value that the ``mean`` of several stands for."""
        return mean

    # ---- writing and reading

    @property
    def key(self) -> str:
        """What it is called in a record, of an instance or of the image."""
        return self.name

    def encode(self, value: Tensor, whole: Described) -> Any:
        """The value as JSON has it; of a field of instances, a list of K such values."""
        raise NotImplementedError(f"{self.name} is not kept in JSON")

    def extras(self, value: Tensor, whole: Described) -> dict[str, Any]:
        """Further entries of the record."""
        return {}

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """What :meth:`encode` wrote; ``values`` are K where it is a field of instances.

        Raises:
            DataError: malformed; names ``where``, what was found and what is expected.
        """
        raise NotImplementedError(f"{self.name} is not kept in JSON")

    def summary(self, value: Tensor, whole: Described) -> list[str]:
        """A summary in a few words, such as how many of which class; nothing where other fields cover it."""
        return []

    def facts(self, value: Tensor, whole: Described) -> dict[str, Any]:
        """The same for machines, by name; JSON values."""
        return {}

    # ---- pictures

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """``picture`` with the value: over the image, or as a panel of its own, with its legend."""
        return picture

    def index_image(self, value: Tensor, colors: Sequence[Color]) -> Image.Image | None:
        """The map as an image whose pixel values are class numbers, for programs that read such; None for all others.

        Args:
            value: [H,W].
            colors: of the classes, as viewers show them.
        """
        return None

    def stroke(self, strokes: Strokes, value: Array, color: Color, scene: Scene) -> None:
        """Draw one instance's row of the value, in the image's coordinates, onto ``strokes``."""

    def legend(self, value: Tensor, scene: Scene) -> list[Row]:
        """Lines of the legend."""
        return []

    def tag_boxes(self, value: Tensor, reach: float) -> Array | None:
        """Where instances' tags stand: boxes [K,4] in the image's coordinates, NaN for none; None: not known from this.

        Args:
            value: [K,...].
            reach: how far a tag stands from a point.
        """
        return None

    def words(self, value: Tensor, index: int, scene: Scene) -> str:
        """What the tag of instance ``index`` says of it."""
        return ""

    # ---- as a target

    companions: ClassVar[frozenset[str]] = frozenset()  # target fields that this one says more of, and goes with

    def make_plain(self, target: dict[str, Any]) -> None:
        """Change what has to change in a sample's ``target`` of plain tensors on its way to the model."""

    def cut(self, target: Mapping[str, Any], size: Size) -> Cut:
        """What a crop has left of the field in ``target``, whose image is now of ``size``."""
        return Cut()


@dataclass(frozen=True)
class Cut:
    """What a crop has left of one field of a target.

    Attributes:
        changes: target fields whose values change, such as boxes that are clipped.
        kept: bool [K]: which instances are still in the image; None where the field does not tell.
    """

    changes: Mapping[str, Tensor] | None = None
    kept: Tensor | None = None


class Canvas(ABC):
    """Gathers the values of one field from views of an image that arrive one at a time. Views need not cover the image,
    but together they must."""

    @abstractmethod
    def add(self, value: Tensor, weight: Tensor | float = 1.0, top: int = 0, left: int = 0) -> None:
        """Take in a view's value [...,h,w], which begins at row ``top`` and column ``left`` of the image.

        ``weight`` is positive, a number or [h,w]; without effect on a maximum.
        """

    @abstractmethod
    def result(self) -> Tensor:
        """The value of the image."""


class MeanCanvas(Canvas):
    """The weighted mean, or the maximum, over the views, at each pixel over those that know it (are finite)."""

    def __init__(self, field: Field, size: Size, how: How = "mean") -> None:
        if how == "max" and field.dense and field.shape != "HW":
            raise UsageError(f"the maximum of {field.name} over views means nothing; fuse by the mean")
        self.field, self.size, self.how = field, size, how
        self._sum: Tensor | None = None
        self._weight: Tensor | None = None

    def add(self, value: Tensor, weight: Tensor | float = 1.0, top: int = 0, left: int = 0) -> None:
        """See :class:`Canvas`."""
        dense = self.field.dense or value.dim() == 3
        if self._sum is None or self._weight is None:
            shape = (*value.shape[:-2], *self.size) if dense else tuple(value.shape)
            self._sum = value.new_full(shape, -torch.inf if self.how == "max" else 0.0)
            self._weight = value.new_zeros(self.size if dense else ())
        place: tuple[Any, ...]
        if dense:
            place = (..., slice(top, top + value.shape[-2]), slice(left, left + value.shape[-1]))
            known = value.isfinite().reshape(-1, *value.shape[-2:]).all(0)
        else:
            place, known = (), value.isfinite().all()
        share = torch.as_tensor(weight, dtype=value.dtype, device=value.device) * known
        self._weight[place] += share
        if self.how == "max":
            self._sum[place] = torch.maximum(self._sum[place], value.masked_fill(~known, -torch.inf))
        else:
            self._sum[place] += value.masked_fill(~known, 0) * share

    def result(self) -> Tensor:
        """See :class:`Canvas`; NaN where no view knows a pixel."""
        assert self._sum is not None
        assert self._weight is not None
        known = self._weight > 0
        value = self._sum if self.how == "max" else self._sum / self._weight
        return self.field.finish(torch.where(known, value, torch.nan))


def kernel_of(transform: Callable[..., Any], kind: type[tv_tensors.TVTensor]) -> Callable[[Kernel], Kernel]:
    """Declares the decorated function to be what torchvision's ``transform`` does to tensors of this ``kind``."""
    register: Callable[[Kernel], Kernel] = register_kernel(transform, kind)
    return register


def like(old: Tensor, new: Tensor) -> Tensor:
    """``new`` as the type of ``old``, where that is one of torchvision's."""
    return tv_tensors.wrap(new, like=old) if isinstance(old, tv_tensors.TVTensor) else new


def not_finite(value: Tensor, name: str) -> str | None:
    """Which of the instances' ``value`` [K,...] is not finite, as a sentence; None where all are."""
    finite = value.float().isfinite().reshape(len(value), math.prod(value.shape[1:])).all(1)
    if finite.all():
        return None
    index = int((~finite).nonzero()[0])
    return f"{name} of instance {index} is {reprlib.repr(value[index].tolist())}; expected finite numbers"


def wrong_label(value: Tensor, name: str, classes: Sequence[str], ignored: int | None = None) -> str | None:
    """Which of ``value`` is no label, as a sentence; None where all are. ``ignored`` may stand beside the labels."""
    if value.numel() == 0:
        return None
    if value.is_floating_point() or value.dtype == torch.bool:
        return f"{name} is {value.dtype}; expected integers"
    count = len(classes)
    bad = (value < 0) | (value >= count)
    if ignored is not None:
        bad &= value != ignored
    if bad.any():
        also = "" if ignored is None else f", or {ignored} to ignore"
        return f"{name} has {int(value[bad][0])}; expected 0 to {count - 1} for the {count} classes{also}"
    return None


def decimals(array: Array) -> list[Any]:
    """float32 ``array`` as nested lists of the shortest decimals that give the same float32 back."""
    return array.astype(np.str_).astype(np.float64).tolist()  # type: ignore[no-any-return]


def decode_rows(
    values: Sequence[Any], key: str, dtype: torch.dtype, shape: tuple[int, ...], expected: str, where: str
) -> Tensor:
    """The tensor [K,*shape] of K instances' ``values``, each a number or nested lists of them.

    Raises:
        DataError: one is of another shape, not finite, or no integer where ``dtype`` is one.
    """
    arrays = []
    for index, value in enumerate(values):
        array = _numbers(value)
        if array is None or array.shape != shape or (not dtype.is_floating_point and array.dtype.kind != "i"):
            raise DataError(f"{where}: instances[{index}].{key} is {reprlib.repr(value)}; expected {expected}")
        arrays.append(array)
    return torch.tensor(np.stack(arrays), dtype=dtype) if arrays else torch.zeros((0, *shape), dtype=dtype)


def _numbers(value: Any) -> Array | None:
    """``value`` as an array of numbers that float32 holds, or None where it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    if array.size == 0:
        array = array.astype(np.float64)
    return array if array.dtype.kind in "if" and (np.abs(array) <= np.finfo(np.float32).max).all() else None
