"""From a data set to batches: order, seeds, transforms, collation. Every random choice is a function of
(seed, epoch, index), so the number of worker processes changes nothing."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from scenewise.data.base import DataSet
from scenewise.types import Batch, Target

Transform = Callable[..., Any]


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence([p % 2**32 for p in parts]).generate_state(2, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Inside, torch's, numpy's and Python's random numbers follow from ``parts``; afterwards they go on as before."""
    seed = mix_seed(*parts)
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)


class Epochs(Sampler[list[tuple[int, int]]]):
    """The training batches of one epoch, from step ``start`` on, as lists of (epoch, index).

    Each epoch visits the images in an order of its own. ``batch_size`` counts over all ``world`` processes; each takes
    its share of every batch. Images that do not fill a batch are left out of that epoch.
    """

    def __init__(
        self, images: int, batch_size: int, *, seed: int, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.images, self.batch_size, self.seed, self.epoch, self.start = images, batch_size, seed, epoch, start
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.images // self.batch_size - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(mix_seed(self.seed, self.epoch)))
        share = self.batch_size // self.world
        for step in range(self.start, self.images // self.batch_size):
            first = step * self.batch_size + self.rank * share
            yield [(self.epoch, int(i)) for i in order[first : first + share]]


class _Transformed(Dataset[tuple[Tensor, Target]]):
    """Samples after their transforms, as plain tensors; indexed by (epoch, index)."""

    def __init__(self, data: DataSet, transform: Transform | None, seed: int, needs: frozenset[str] | None) -> None:
        self.data = data if needs is None else data.only(needs)
        self.transform, self.seed, self.needs = transform, seed, needs

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, where: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, index = where
        image, target = self.data[index]
        if self.needs is not None:
            extra = {"image_id", "ignore"} | ({"visibility"} if "keypoints" in self.needs else set())
            target = {k: v for k, v in target.items() if k in self.needs or k in extra}  # type: ignore[assignment]
        if self.transform is not None:
            with seeded(self.seed, epoch, index):
                image, target = self.transform(image, target)
        return plain(image, target)


def plain(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """The sample as the model sees it: plain tensors, keypoints joined with their visibility.

    The image stays uint8 where it is: it is made float when the batch is put together, which is less to move.
    """
    result: dict[str, Any] = {}
    for key, value in target.items():
        if isinstance(value, tv_tensors.TVTensor):
            value = value.as_subclass(Tensor)
        result[key] = value
    if "visibility" in result:
        visibility = result.pop("visibility")
        result["keypoints"] = torch.cat([result["keypoints"].float(), visibility[..., None].float()], -1)
    if "semantic" in result:
        result["semantic"] = result["semantic"].long()
    return image.as_subclass(Tensor), result  # type: ignore[return-value]


def to_float(image: Tensor) -> Tensor:
    """``image`` as float32 in 0..1; uint8 is divided by 255."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


class Collate:
    """Puts samples together to a :class:`Batch` padded to ``size_divisor``."""

    def __init__(self, size_divisor: int = 1) -> None:
        self.size_divisor = size_divisor

    def __call__(self, samples: list[tuple[Tensor, Target]]) -> Batch:
        """The batch of ``samples``."""
        return Batch.of([to_float(image) for image, _ in samples], [t for _, t in samples], self.size_divisor)


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and termination reach the whole process group; the parent finishes its step and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def training_batches(
    data: DataSet,
    order: Epochs,
    *,
    transform: Transform | None,
    seed: int,
    needs: frozenset[str] | None = None,
    size_divisor: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """A loader of the batches in ``order``, transformed; the same batches for any number of ``workers``."""
    return DataLoader(
        _Transformed(data, transform, seed, needs),  # type: ignore[arg-type]
        batch_sampler=order,  # type: ignore[arg-type]
        collate_fn=Collate(size_divisor),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_parent,
    )
