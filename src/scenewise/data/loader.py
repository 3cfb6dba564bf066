"""From a data set to batches: order, seeds, transforms, collation. Every random choice is a function of
(seed, epoch, index), so the number of worker processes changes nothing."""

from __future__ import annotations

import os
import random
import re
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scenewise.data.base import DataSet
from scenewise.errors import LoaderError, ScenewiseError
from scenewise.fields.run_masks import know_run_masks
from scenewise.fields.table import drop_lost, plain_target, take_inputs, with_companions
from scenewise.types import Batch, Sample, Target

Transform = Callable[..., Any]


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence([p % 2**32 for p in parts]).generate_state(2, np.uint64)[0] >> np.uint64(1))


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Afterwards torch's, numpy's and Python's random numbers go on as if nothing had been drawn or seeded inside."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)


def seed_all(*parts: int) -> None:
    """From here on, torch's (on the CPU), numpy's and Python's random numbers follow from ``parts``."""
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


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


class TrainingSet(Dataset[Sample]):
    """Samples after their transforms, by batches of (epoch, index)."""

    def __init__(
        self,
        data: DataSet,
        transform: Transform | None,
        seed: int,
        needs: frozenset[str] | None,
        takes: frozenset[str],
    ) -> None:
        self.data = data if needs is None else data.only(needs)
        self.transform, self.seed, self.needs, self.takes = transform, seed, needs, takes
        know_run_masks(transform)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        return self.__getitems__([place])[0]

    def index_of(self, place: tuple[int, int]) -> int:
        """The index of the image at (epoch, index)."""
        return place[1]

    def __getitems__(self, places: list[tuple[int, int]]) -> list[Sample]:
        """The samples of one batch, as DataLoader asks for them."""
        with random_states_kept():
            return [self._sample(epoch, index) for epoch, index in places]

    def _sample(self, epoch: int, index: int) -> Sample:
        seed_all(self.seed, epoch, index)
        image, target = self.data.sample(index)
        if self.needs is not None:
            kept = {"image_id", *with_companions(self.needs), *self.takes}
            target = {k: v for k, v in target.items() if k in kept}  # type: ignore[assignment]
        if self.transform is not None:
            image, target = self.transform(image, target)
        return image, drop_lost(image, target)


class Carried(NamedTuple):
    """An error on its way out of a loader process, where DataLoader would make one text of it and its traceback."""

    error: ScenewiseError


class Loaded(Protocol):
    """What loader processes read samples from."""

    data: DataSet

    def __len__(self) -> int: ...

    def __getitem__(self, place: Any) -> Any: ...

    def index_of(self, place: Any) -> int:
        """The index in ``data`` of the image at ``place``."""


class Carrying(Dataset[Any]):
    """``samples`` for loader processes: errors that a user can cause come out as results (see :func:`raise_carried`),
    and it is known which images each process has.

    Attributes:
        held: for each process, in memory that all share: its number, whether it is ``AT_WORK``, the number of images
            and the indices of the first ones, int64 [workers, 3 + HELD].
    """

    def __init__(self, samples: Loaded, workers: int, finish: Callable[[Any], Any] | None = None) -> None:
        """``finish`` is what a process does to a batch before it goes to the parent."""
        self.samples, self.finish = samples, finish
        self.held = torch.zeros(workers, 3 + HELD, dtype=torch.int64).share_memory_()
        if (watched := _WATCHED.get()) is not None:
            watched.append(self)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Any) -> Any:
        return self._loaded([place], lambda: self.samples[place])

    def __getitems__(self, places: Any) -> Any:
        """The samples of one batch, finished, or the error."""
        return self._loaded(places, lambda: self.samples.__getitems__(places))  # type: ignore[attr-defined]

    def _loaded(self, places: Sequence[Any], load: Callable[[], Any]) -> Any:
        info = torch.utils.data.get_worker_info()
        row = self.held[info.id] if info is not None else torch.zeros_like(self.held[0])
        indices = [self.samples.index_of(place) for place in places]
        listed = indices[:HELD] + [0] * (HELD - len(indices))
        row.copy_(torch.tensor([os.getpid(), AT_WORK, len(indices), *listed]))
        try:
            found = load()
            return found if self.finish is None else self.finish(found)
        except ScenewiseError as error:
            return Carried(error)
        finally:
            row[1] = 0

    def told_of(self, process: int) -> str:
        """Which images the process of that number has or had last, in words; empty where it is none of these."""
        for number, state, count, *indices in self.held.tolist():
            if number == process and count:
                names = ", ".join(self.samples.data.image_id(index) for index in indices[:count])
                more = f" and {count - HELD} more" if count > HELD else ""
                verb = "was at" if state == AT_WORK else "last had"
                return f"it {verb} the image{'' if count == 1 else 's'} {names}{more} of {self.samples.data.source}"
        return ""


HELD, AT_WORK = 32, 1
_WATCHED: ContextVar[deque[Carrying] | None] = ContextVar("watched", default=None)  # by deaths_named: the latest


@contextmanager
def deaths_named(setting: str) -> Iterator[None]:
    """Have the death of a loader process inside be one error; ``setting`` is what their number is called.

    DataLoader raises it as a RuntimeError, at any place of the code, for a signal tells of it.

    Raises:
        LoaderError: a process ended; names the images that it had. The others were ended, too.
    """
    watched: deque[Carrying] = deque(maxlen=4)  # processes of training and of validation
    token = _WATCHED.set(watched)
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and not DEATH.search(str(error)):
            raise
        for child in torch.multiprocessing.active_children():
            if child.daemon:
                child.kill()  # the others wait for a signal that they leave to their parent
                child.join()
        what = (str(error) or type(error).__name__).splitlines()[0].rstrip(" .")
        dead = [int(number) for numbers in DEATH.findall(what) for number in numbers.split(",")]
        told = "".join(f"; {words}" for number in dead for one in watched if (words := one.told_of(number)))
        raise LoaderError(
            f"a process that loads images ended: {what}{told}. That happens when memory runs out: give fewer {setting} "
            "or a smaller batch"
        ) from None
    finally:
        _WATCHED.reset(token)


DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")  # a living one's error says "worker process"


def raise_carried(result: Any) -> Any:
    """``result``; the error that it carries is raised."""
    if isinstance(result, Carried):
        raise result.error
    return result


def plain(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """The sample as the model sees it: plain tensors, keypoints joined with their visibility.

    The image stays uint8 where it is: it is made float when the batch is put together, which is less to move.
    """
    return image.as_subclass(Tensor), plain_target(target)


class Collate:
    """Puts samples together to a :class:`Batch` padded to ``size_divisor``."""

    def __init__(self, size_divisor: int = 1) -> None:
        self.size_divisor = size_divisor

    def __call__(self, samples: list[tuple[Tensor, Target]]) -> Batch:
        """The batch of ``samples``."""
        targets, inputs = take_inputs([target for _, target in samples])
        return Batch.of([image for image, _ in samples], targets, self.size_divisor, inputs)


class _Place(NamedTuple):
    """Where in a block of bytes a tensor lies."""

    start: int
    stop: int
    shape: torch.Size
    dtype: torch.dtype


class Packed(NamedTuple):
    """The samples of a batch on their way out of a loader process: see :func:`pack`."""

    block: Tensor  # uint8: the bytes of all tensors
    rows: list[dict[str, Any]]  # for each sample, its image under "" and its target, with a _Place for each tensor


def pack(samples: list[Sample]) -> Packed:
    """``samples`` with all their tensors in one block.

    Each tensor that a process sends costs an open file and several system calls, and each byte costs twice, so samples
    travel together and as they are: uint8 where the batch will have float32 and int64, an eighth to a quarter of it.
    """
    rows: list[dict[str, Any]] = []
    parts: list[tuple[_Place, Tensor]] = []
    stop = 0
    for image, target in samples:
        row = {"": image, **target}
        for key, value in row.items():
            if isinstance(value, Tensor):
                start = -(-stop // 16) * 16  # where every dtype may begin
                stop = start + value.nbytes
                parts.append((_Place(start, stop, value.shape, value.dtype), value.as_subclass(Tensor)))
                row[key] = parts[-1][0]
        rows.append(row)
    block = torch.empty(stop, dtype=torch.uint8)
    for place, part in parts:
        _at(place, block).copy_(part)
    return Packed(block, rows)


def unpack(packed: Packed) -> list[tuple[Tensor, Target]]:
    """The samples that :func:`pack` was given, as plain tensors that share the block."""
    samples = []
    for row in packed.rows:
        sample = {k: _at(v, packed.block) if isinstance(v, _Place) else v for k, v in row.items()}
        samples.append((sample.pop(""), sample))
    return samples  # type: ignore[return-value]


def _at(place: _Place, block: Tensor) -> Tensor:
    return block[place.start : place.stop].view(place.dtype).view(place.shape)


def _as_they_are(samples: list[Sample]) -> list[Sample]:
    return samples


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and termination reach the whole process group; the parent finishes its step and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def training_batches(
    data: DataSet,
    order: Iterable[list[tuple[int, int]]],
    *,
    transform: Transform | None,
    seed: int,
    needs: frozenset[str] | None = None,
    takes: frozenset[str] = frozenset(),
    size_divisor: int = 1,
    workers: int = 0,
) -> Batches:
    """The batches of (epoch, index) in ``order``, transformed; the same ones for any number of ``workers``.

    They can be gone through more than once. Where that ends early, close the iterator: its processes then end, too.
    """
    samples = TrainingSet(data, transform, seed, needs, takes)
    loader: DataLoader[Any] = DataLoader(
        Carrying(samples, workers, pack) if workers else samples,
        batch_sampler=order,
        collate_fn=_as_they_are,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_parent,
        generator=torch.Generator(),  # DataLoader seeds its processes; that shall draw nothing from the user's numbers
    )
    return Batches(loader, Collate(size_divisor))


class Batches:
    """The batches of the samples that a loader gives, packed or as they are."""

    def __init__(self, loader: DataLoader[Any], collate: Collate) -> None:
        self.loader, self.collate = loader, collate

    def __iter__(self) -> Generator[Batch, None, None]:
        loading: Any = iter(self.loader)
        try:
            for result in loading:
                samples = raise_carried(result)
                if isinstance(samples, Packed):
                    samples = unpack(samples)
                yield self.collate([plain(*sample) for sample in samples])
        finally:
            # Python's exit waits for the processes, which leave signals to their parent; an error's traceback would
            # keep them.
            if self.loader.num_workers:
                loading._shutdown_workers()
