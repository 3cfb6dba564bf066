"""How a sum over pixels, anchors or objects becomes a mean that does not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

from scenewise.errors import UsageError

Norm = Literal["weights", "pixels", "all-weights", "images", "none"]

_JOINT: ContextVar[bool] = ContextVar("scenewise.joint_counts", default=True)


@contextmanager
def own_counts() -> Iterator[None]:
    """Inside, each process counts by itself and waits for no other: for validation, where one may have more images."""
    token = _JOINT.set(False)
    try:
        yield
    finally:
        _JOINT.reset(token)


def mean_count(count: Tensor | float, device: torch.device | None = None) -> Tensor:
    """``count`` averaged over all training processes, at least a tiny positive number; detached.

    A loss that divides its sum by this number, and whose gradients are then averaged over the processes, equals the
    loss of one process that sees the joint batch. Without several processes it is ``count`` itself. All processes must
    come here equally often: a loss must not return early where one of them has nothing to count.

    Returns:
        A scalar, float64 where ``count`` is, else float32.
    """
    dtype = torch.float64 if isinstance(count, Tensor) and count.dtype == torch.float64 else torch.float32
    total = torch.as_tensor(count, dtype=dtype, device=device).detach().clone()
    if _JOINT.get() and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total /= torch.distributed.get_world_size()
    return total.clamp(min=1e-12)


def total_over_processes(count: Tensor) -> Tensor:
    """``count`` summed over all training processes: the counts of the joint batch; detached."""
    total = count.detach().clone()
    if _JOINT.get() and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total


def divisor(
    norm: Norm, counted: Tensor, class_weights: Tensor | None = None, pixel_weights: Tensor | None = None
) -> Tensor:
    """What the sum of the terms of single pixels is divided by.

    Args:
        norm: ``"weights"``: the sum of the class weights of the pixels that count, as in torch; ``"pixels"``: their
            number; ``"all-weights"``: the sum of their class weights times their pixel weights; ``"images"``: the
            number of images; ``"none"``: 1, for the plain sum over the joint batch.
        counted: bool [N,...]: the pixels that count.
        class_weights: [N,...]: the weight of each pixel's class; None for 1.
        pixel_weights: [N,...]: the weight of each pixel; None for 1.

    Raises:
        UsageError: ``norm`` is none of these.
    """
    if norm == "pixels":
        return mean_count(counted.sum())
    if norm == "images":
        return mean_count(len(counted), counted.device)
    if norm == "none":
        whole = total_over_processes(torch.ones((), device=counted.device))  # the number of processes
        return 1 / whole
    if norm not in ("weights", "all-weights"):
        raise UsageError(f"norm is {norm!r}; expected 'weights', 'pixels', 'all-weights', 'images' or 'none'")
    total = counted if class_weights is None else class_weights * counted
    if norm == "all-weights" and pixel_weights is not None:
        total = total * pixel_weights
    return mean_count(total.sum())
