"""RunMasks: masks of objects that stay runs of pixels until after the image is resized and cropped.

A sample's ``masks`` are of this type. For every transform of torchvision's v2, and for any other code, they are
``tv_tensors.Mask`` of bool [K,H,W], which they become, once and in place, when something asks for their pixels. Until
then

* resizing, cropping, mirroring and padding only note which row and column of the file's mask each row and column of
  the new one is: equal to what torchvision does with the bitmaps, pixel by pixel;
* turning, shearing and other distortions go through bitmaps of a few objects at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunctionSubclass
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from scenewise.ops import rle
from scenewise.ops.runs import Bool, Int64, Runs

PIECE = 2**25  # bytes of bitmaps that are made at a time

_PROPERTIES = (
    "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_sparse", "is_quantized", "is_meta",
    "itemsize", "nbytes", "is_leaf", "grad_fn",
)  # fmt: skip
_METHODS = (
    "size",
    "dim",
    "numel",
    "nelement",
    "element_size",
    "is_floating_point",
    "is_complex",
    "__len__",
    "get_device",
)
_OF_NO_PIXEL = frozenset(
    [getattr(Tensor, name).__get__ for name in _PROPERTIES] + [getattr(Tensor, name) for name in _METHODS]
)


class RunMasks(tv_tensors.Mask):
    """Masks bool [K,H,W] of which there may be no bitmap yet; see :meth:`of`."""

    _runs: Runs | None = None  # None: this is a bitmap like any other
    _rows: Int64  # [H], the row of each row in the runs' masks; -1: nothing is there
    _columns: Int64  # [W], likewise

    @classmethod
    def of(cls, runs: Runs, rows: Int64 | None = None, columns: Int64 | None = None) -> RunMasks:
        """The masks of ``runs`` at these ``rows`` and ``columns``, all of them by default."""
        rows = np.arange(runs.size[0]) if rows is None else rows
        columns = np.arange(runs.size[1]) if columns is None else columns
        masks = torch.zeros((), dtype=torch.bool).expand(len(runs), len(rows), len(columns)).as_subclass(cls)
        masks._runs, masks._rows, masks._columns = runs, rows, columns
        return masks

    @property
    def is_runs(self) -> bool:
        """Whether there is no bitmap yet."""
        return self._runs is not None

    def runs(self) -> Runs:
        """The runs of the masks as they are now."""
        if self._runs is None:
            return Runs.of_bitmaps(self.as_subclass(Tensor).numpy())
        if self._is_whole():
            return self._runs
        parts = [Runs.of_bitmaps(piece.numpy()) for piece in self.pieces()]
        return Runs.joined(parts) if parts else Runs.of((), (len(self._rows), len(self._columns)))

    def bitmap(self, index: int) -> Bool:
        """The bitmap [H,W] of one mask."""
        if self._runs is None:
            return np.asarray(self.as_subclass(Tensor)[index].numpy())
        found: Bool = self._runs.select(np.array([index])).bitmaps(self._rows, self._columns)[0]
        return found

    def pieces(self) -> Iterator[Tensor]:
        """The bitmaps bool [k,H,W] of a few masks at a time, at least one each; nothing where there are none."""
        count, height, width = self.shape
        step = max(1, PIECE // max(1, height * width))
        for start in range(0, count, step):
            index = np.arange(start, min(start + step, count))
            if self._runs is None:
                yield self.as_subclass(Tensor)[start : start + step]
            else:
                yield torch.from_numpy(self._runs.select(index).bitmaps(self._rows, self._columns))

    def _is_whole(self) -> bool:
        assert self._runs is not None
        sizes = zip((self._rows, self._columns), self._runs.size, strict=True)
        return all(np.array_equal(index, np.arange(size)) for index, size in sizes)

    def _become_bitmap(self) -> None:
        if self._runs is not None:
            bitmap = torch.from_numpy(self._runs.bitmaps(self._rows, self._columns))
            self._runs = None
            with DisableTorchFunctionSubclass():
                self.data = bitmap

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type[Tensor], ...],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Whatever is done with the pixels makes a bitmap of the masks first."""
        if func not in _OF_NO_PIXEL:
            masks = args[0] if args else None
            if isinstance(masks, RunMasks) and masks.is_runs:
                if func in (Tensor.detach, Tensor.cpu):
                    return masks
                if func is Tensor.__getitem__ and isinstance(args[1], slice | list | np.ndarray | Tensor):
                    chosen = masks._chosen(args[1])
                    if chosen is not None:
                        return chosen
            for value in (*args, *(kwargs or {}).values()):
                for one in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(one, RunMasks):
                        one._become_bitmap()
        return super().__torch_function__(func, types, args, kwargs)

    def as_subclass(self, cls: Any) -> Any:
        """The bitmaps as another type; itself where that is its own."""
        if self._runs is not None and cls is type(self):
            return self
        self._become_bitmap()  # torch asks no subclass before it does this
        return super().as_subclass(cls)

    def _chosen(self, index: Any) -> RunMasks | None:
        """Some of the masks, where ``index`` is a slice or a list of some of them."""
        assert self._runs is not None
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1 or index.dtype.kind not in "bi" or (index.dtype == bool and len(index) != len(self)):
                return None
        return type(self).of(self._runs.select(np.arange(len(self))[index]), self._rows, self._columns)

    def __deepcopy__(self, memo: dict[int, Any]) -> RunMasks:
        return self._twin() if self._runs is not None else super().__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._runs is None:
            return super().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]  # of torch's Tensor
        return type(self).of, (self._runs, self._rows, self._columns)

    def _twin(self, rows: Int64 | None = None, columns: Int64 | None = None) -> RunMasks:
        """The same masks at other ``rows`` and ``columns``."""
        assert self._runs is not None
        return type(self).of(
            self._runs, self._rows if rows is None else rows, self._columns if columns is None else columns
        )


def know_run_masks(transform: Any) -> None:
    """Have ``transform``, where it is a module of torchvision's v2, treat :class:`RunMasks` as ``tv_tensors.Mask``.

    What its steps are told for each type, such as ``fill={tv_tensors.Mask: 0, "others": 255}``, is looked up by the
    type itself.
    """
    for value in vars(transform).values() if isinstance(transform, nn.Module) else ():
        for step in value if isinstance(value, list | tuple) else (value,):  # Compose, RandomApply, RandomChoice, ...
            know_run_masks(step)
        if isinstance(value, dict) and tv_tensors.Mask in value:
            value[RunMasks] = value[tv_tensors.Mask]


def areas_of(masks: Tensor) -> Int64:
    """The pixels of each mask, int64 [K]."""
    if isinstance(masks, RunMasks) and masks.is_runs:
        return masks.runs().areas()
    return np.asarray(masks.as_subclass(Tensor).flatten(1).sum(1).numpy())


def bitmap_of(masks: Tensor, index: int) -> Bool:
    """The bitmap [H,W] of one of ``masks`` bool [K,H,W], which may be :class:`RunMasks`."""
    return masks.bitmap(index) if isinstance(masks, RunMasks) else np.asarray(masks[index].numpy())


def codes_of(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's run-length codes of ``masks`` bool [K,H,W], which may be :class:`RunMasks`."""
    if isinstance(masks, RunMasks) and masks.is_runs:
        return masks.runs().codes()
    return rle.encode(masks.as_subclass(Tensor).numpy())


def resized(
    masks: RunMasks,
    size: Sequence[int] | int | None,
    interpolation: Any = InterpolationMode.NEAREST,
    max_size: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """See ``torchvision.transforms.v2.functional.resize``: masks take the nearest pixel, by whichever rule."""
    if not masks.is_runs:
        return _as_bitmap(F.resize, masks, size, interpolation, max_size, **kwargs)
    none = tv_tensors.Mask(torch.zeros((0, *masks.shape[1:]), dtype=torch.bool))
    height, width = F.resize(none, size, interpolation, max_size, **kwargs).shape[1:]  # type: ignore[arg-type]
    lines = []
    for line, side in ((masks._rows, height), (masks._columns, width)):
        numbers = tv_tensors.Mask(torch.arange(float(len(line))).reshape(1, -1, 1))  # torch itself says which it takes
        lines.append(line[F.resize(numbers, [side, 1], interpolation).flatten().long().numpy()])
    return masks._twin(*lines)


def cropped(masks: RunMasks, top: int, left: int, height: int, width: int) -> Tensor:
    """See ``torchvision.transforms.v2.functional.crop``; what is beyond the masks is empty."""
    if not masks.is_runs:
        return _as_bitmap(F.crop, masks, top, left, height, width)
    return masks._twin(_cut(masks._rows, top, height), _cut(masks._columns, left, width))


def _cut(line: Int64, start: int, length: int) -> Int64:
    place = np.arange(start, start + length)
    inside = (place >= 0) & (place < len(line))
    return np.where(inside, line[np.where(inside, place, 0)] if len(line) else -1, -1)


def resized_crop(
    masks: RunMasks, top: int, left: int, height: int, width: int, size: Sequence[int], *args: Any, **kwargs: Any
) -> Tensor:
    """See ``torchvision.transforms.v2.functional.resized_crop``, which takes the nearest pixel whatever is asked."""
    return F.resize(F.crop(masks, top, left, height, width), list(size))


def mirrored(masks: RunMasks) -> Tensor:
    """See ``torchvision.transforms.v2.functional.horizontal_flip``."""
    return masks._twin(columns=masks._columns[::-1]) if masks.is_runs else _as_bitmap(F.horizontal_flip, masks)


def upended(masks: RunMasks) -> Tensor:
    """See ``torchvision.transforms.v2.functional.vertical_flip``."""
    return masks._twin(rows=masks._rows[::-1]) if masks.is_runs else _as_bitmap(F.vertical_flip, masks)


def padded(masks: RunMasks, padding: Sequence[int] | int, fill: Any = None, padding_mode: str = "constant") -> Tensor:
    """See ``torchvision.transforms.v2.functional.pad``."""
    sides = [padding] * 4 if isinstance(padding, int) else list(padding) * (4 // max(1, len(padding)))
    filled = any(fill) if isinstance(fill, list | tuple) else bool(fill)
    if not masks.is_runs:
        return _as_bitmap(F.pad, masks, padding, fill, padding_mode)
    if len(sides) != 4 or min(sides) < 0 or (filled and padding_mode == "constant"):
        return _piecewise(F.pad)(masks, padding, fill, padding_mode)
    left, top, right, bottom = sides
    more: dict[str, Any] = {"constant_values": -1} if padding_mode == "constant" else {}
    rows, columns = (
        np.pad(line, ends, mode=padding_mode, **more)  # type: ignore[call-overload]
        for line, ends in ((masks._rows, (top, bottom)), (masks._columns, (left, right)))
    )
    return masks._twin(rows, columns)


def _piecewise(functional: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``functional`` for RunMasks, by way of the bitmaps of a few masks at a time."""

    def kernel(masks: RunMasks, *args: Any, **kwargs: Any) -> Tensor:
        if not masks.is_runs or not len(masks):
            return _as_bitmap(functional, masks, *args, **kwargs)
        parts = [functional(tv_tensors.Mask(piece), *args, **kwargs) for piece in masks.pieces()]
        return RunMasks.of(Runs.joined([Runs.of_bitmaps(part.as_subclass(Tensor).numpy()) for part in parts]))

    return kernel


def _as_bitmap(functional: Callable[..., Tensor], masks: RunMasks, *args: Any, **kwargs: Any) -> Tensor:
    return functional(masks.as_subclass(Tensor).as_subclass(tv_tensors.Mask), *args, **kwargs)


def _register() -> None:
    kernels: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
        F.resize: resized,
        F.crop: cropped,
        F.resized_crop: resized_crop,
        F.horizontal_flip: mirrored,
        F.vertical_flip: upended,
        F.pad: padded,
        **{
            functional: _piecewise(functional)
            for functional in (F.affine, F.rotate, F.perspective, F.elastic, F.center_crop)
        },
    }
    for functional, kernel in kernels.items():
        F.register_kernel(functional, RunMasks)(kernel)


_register()
