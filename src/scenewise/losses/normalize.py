"""How a sum over pixels, anchors or objects becomes a mean that does not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

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
