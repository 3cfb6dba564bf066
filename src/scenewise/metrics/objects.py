"""What the metrics of boxes, masks and keypoints ask of a prediction and a target, checked once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.fields.run_masks import RunMasks
from scenewise.types import Described, Target

# What each field looks like behind its first dimension, the instances.
_SHAPES = {"boxes": "[K,4]", "labels": "[K]", "scores": "[K]", "masks": "[K,H,W]", "keypoints": "[K,P,3]"}


def instances_of(
    prediction: Described, image: str, num_classes: int, fields: Sequence[str], *, classed: bool = True
) -> dict[str, Tensor]:
    """The ``scores``, ``labels`` (where ``classed``) and ``fields`` of a prediction, on the CPU, checked.

    Raises:
        UsageError: a field is missing or does not fit; names ``image``.
    """
    wanted = ("scores", *(("labels",) if classed else ()), *fields)
    values = {name: getattr(prediction, name) for name in wanted}
    return _checked(values, f"{image}: the prediction", num_classes, prediction.size)


def truths_of(
    target: Target,
    image: str,
    num_classes: int,
    fields: Sequence[str],
    size: tuple[int, int] | None = None,
    *,
    classed: bool = True,
) -> dict[str, Tensor]:
    """The ``ignore``, ``labels`` (where ``classed``) and ``fields`` of a target, and its ``area`` if it has one.

    ``size`` is the (height, width) that masks must have. Raises as :func:`instances_of` does.
    """
    values: dict[str, Any] = {name: target.get(name) for name in ((("labels",) if classed else ()) + tuple(fields))}
    checked = _checked(values, f"{image}: the target", num_classes, size)
    count = len(next(iter(checked.values())))
    for name, dtype in (("ignore", torch.bool), ("area", torch.float64)):
        value = target.get(name)
        if isinstance(value, Tensor):
            if tuple(value.shape) != (count,):
                raise UsageError(f"{image}: the target's {name} is {list(value.shape)}; expected [{count}]")
            checked[name] = value.detach().cpu().to(dtype)
    checked.setdefault("ignore", torch.zeros(count, dtype=torch.bool))
    return checked


def _checked(
    values: Mapping[str, Any], whose: str, num_classes: int, size: tuple[int, int] | None
) -> dict[str, Tensor]:
    checked: dict[str, Tensor] = {}
    count: int | None = None
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise UsageError(f"{whose} has no {name}; expected {_SHAPES[name]}")
        tensor = value if isinstance(value, RunMasks) else value.detach().as_subclass(Tensor).cpu()
        count = len(tensor) if count is None and tensor.ndim else count
        fits = tensor.ndim == _SHAPES[name].count(",") + 1 and len(tensor) == count
        fits = fits and (name != "boxes" or tensor.shape[1] == 4) and (name != "keypoints" or tensor.shape[2] == 3)
        fits = fits and (name != "masks" or size is None or tuple(tensor.shape[1:]) == tuple(size))
        if not fits:
            bound = f" with K = {count}" + (f", H = {size[0]}, W = {size[1]}" if name == "masks" and size else "")
            raise UsageError(f"{whose}'s {name} is {list(tensor.shape)}; expected {_SHAPES[name]}{bound}")
        _check_values(tensor, name, whose, num_classes)
        checked[name] = tensor
    return checked


def _check_values(tensor: Tensor, name: str, whose: str, num_classes: int) -> None:
    if name == "labels":
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise UsageError(f"{whose}'s labels are {tensor.dtype}; expected integers")
        bad = (tensor < 0) | (tensor >= num_classes)
        if bad.any():
            raise UsageError(f"{whose}'s labels have {int(tensor[bad][0])}; expected 0 to {num_classes - 1}")
    elif name == "masks":
        if tensor.dtype != torch.bool:
            raise UsageError(f"{whose}'s masks are {tensor.dtype}; expected bool")
    else:
        wrong = (~tensor.isfinite()).nonzero()  # [., dimensions]
        if len(wrong):
            index = int(wrong[0, 0])
            raise UsageError(f"{whose}'s {name} {index} is {tensor[index].tolist()}; expected finite numbers")
        if name == "boxes":
            turned = (tensor[:, 2:] < tensor[:, :2]).any(1)
            if turned.any():
                index = int(turned.nonzero()[0])
                raise UsageError(
                    f"{whose}'s box {index} is {tensor[index].tolist()}; expected x1 <= x2 and y1 <= y2 in pixels"
                )
