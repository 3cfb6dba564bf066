"""A part of a split, such as ``train[:80%]``: the images whose content hash lies in that share.

A data set that has no split of its own for validation is trained on ``train[:80%]`` and validated on ``train[80%:]``.
Such names stand wherever that of a split does. An image's place follows from a hash of its file's bytes: it is the same
on every machine, images that are added move none, and equal images are in one part. Shares are met on average.
"""

from __future__ import annotations

import copy
import re
from hashlib import blake2b

import numpy as np

from scenewise.data.base import DataSet
from scenewise.data.instances import InstanceDataSet
from scenewise.data.label_maps import LabelMapDataSet
from scenewise.errors import DataError, UsageError
from scenewise.types import InputSpec, Sample

FORM = re.compile(r"(?P<split>[^\[\]]+)\[(?:(?P<start>[\d.]+)%)?:(?:(?P<stop>[\d.]+)%)?\]")


def parse_part(name: str) -> tuple[str, tuple[float, float] | None]:
    """The split that ``name`` names, and the share of it from 0 to 1: ``("train", (0.0, 0.8))`` of ``train[:80%]``.

    Raises:
        UsageError: what stands in the brackets is no share.
    """
    if not name.endswith("]") or "[" not in name:
        return name, None
    found = FORM.fullmatch(name)
    try:
        if found is None:
            raise ValueError
        start, stop = float(found["start"] or 0) / 100, float(found["stop"] or 100) / 100
        if not 0 <= start < stop <= 1:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"split {name!r}: expected a split and a share of it, such as train[:80%] or train[80%:]"
        ) from None
    return found["split"], (start, stop)


def content_key(data: DataSet, index: int) -> bytes:
    """The hash of the content of image ``index``: of its file's bytes, or of its pixels where it is no file.

    Raises:
        DataError: the file can't be read.
    """
    if not isinstance(data, InstanceDataSet | LabelMapDataSet):
        return blake2b(np.ascontiguousarray(data[index][0].numpy()).tobytes(), digest_size=16).digest()
    file = data.image_path(index)
    try:
        return blake2b(file.read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from None


def place_of(key: bytes) -> float:
    """The number from 0 to below 1 that follows from a hash."""
    return int.from_bytes(key[:8], "big") / 2**64


class Part(DataSet):
    """Those images of ``whole`` whose content hash lies in a share.

    Args:
        whole: an opened split.
        split: what the part is called, such as ``train[:80%]``.
        share: from 0 to 1.

    Raises:
        DataError: there are none, or an image can't be read.
    """

    def __init__(self, whole: DataSet, split: str, share: tuple[float, float]) -> None:
        start, stop = share
        self.indices = [i for i in range(len(whole)) if start <= place_of(content_key(whole, i)) < stop]
        if not self.indices:
            raise DataError(
                f"{whole.source}: split {split!r} has none of the {len(whole)} images of {whole.split!r}, since the "
                "hash of their content decides; give it a larger share"
            )
        self.split = split
        self._take(whole)

    def _take(self, whole: DataSet) -> None:
        """Let this be a part of ``whole``."""
        self.whole = whole
        for name in ("root", "classes", "colors", "fields", "skeleton", "notes", "repairs", "faults", "image_form"):
            if hasattr(whole, name):
                setattr(self, name, getattr(whole, name))
        if hasattr(whole, "class_ids"):
            self.class_ids: tuple[int, ...] = whole.class_ids
        numbers = getattr(whole, "image_ids", None)
        self.image_ids = None if numbers is None else numbers[self.indices]
        self.benchmarks = whole.benchmarks  # type: ignore[misc]  # those of the format, as the class has them elsewhere

    @property
    def source(self) -> str:
        """That of the whole."""
        return self.whole.source

    def only(self, fields: frozenset[str]) -> DataSet:
        """See :meth:`DataSet.only`."""
        return self._of(self.whole.only(fields))

    def seen_as(self, spec: InputSpec) -> DataSet:
        """See :meth:`DataSet.seen_as`."""
        return self._of(self.whole.seen_as(spec))

    def _of(self, whole: DataSet) -> DataSet:
        changed = copy.copy(self)
        changed._take(whole)
        return changed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """The sample of the whole."""
        return self.whole[self._place(index)]

    def image_id(self, index: int) -> str:
        """That of the whole."""
        return self.whole.image_id(self._place(index))

    def unlabelled(self, needs: frozenset[str] = frozenset()) -> str:
        """That of the whole."""
        return self.whole.unlabelled(needs)

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self.indices):
            raise IndexError(f"{self.source}: image {index} of {len(self.indices)} in {self.split}")
        return self.indices[index]
