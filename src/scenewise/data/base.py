"""DataSet: what every reader gives, and the reader of image and label-map pairs that several formats share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torchvision import tv_tensors

from scenewise.data.images import read_image, read_label_map
from scenewise.errors import DataError
from scenewise.types import IGNORE, Sample, SemanticMask, Target


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set: which file (and record of it), and a sentence with what was found and expected.

    An ``error`` makes the record unusable as it is; a ``suspicion`` is a likely mistake that only a person can judge.
    """

    file: str
    message: str
    severity: Literal["error", "suspicion"] = "error"

    def __str__(self) -> str:
        mark = "" if self.severity == "error" else "suspicious: "
        return f"{self.file}: {mark}{self.message}"


class DataSet(torch.utils.data.Dataset[Sample], ABC):
    """The samples of one split of a data set.

    Attributes:
        source: the ``format:path`` string that opens it.
        split: which part of it.
        classes: names, in label order.
        colors: an RGB colour for each class, or None where the format has none.
        fields: the target fields that its samples have.
        needs_folder: whether the path in ``format:path`` must exist; where not, it is up to the reader what it means.
    """

    format: ClassVar[str]
    fields: frozenset[str]
    needs_folder: ClassVar[bool] = True

    root: Path
    split: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] | None = None

    @property
    def source(self) -> str:
        """The ``format:path`` string that opens this data set."""
        return f"{self.format}:{self.root}"

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The image (``tv_tensors.Image``, uint8 [3,H,W]) and its target.

        Raises:
            DataError: the record is bad; names the file, what was found and what is expected.
        """

    @abstractmethod
    def image_id(self, index: int) -> str:
        """The name of image ``index`` within the data set."""

    def problems(self) -> Iterator[Problem]:
        """All that is wrong with the data set, file by file; nothing where it is sound."""
        for index in range(len(self)):
            try:
                self[index]
            except DataError as error:
                file, _, message = str(error).partition(": ")
                yield Problem(file, message or file)


class LabelMapDataSet(DataSet):
    """Images and label maps in pairs of files.

    A subclass fills ``pairs``, ``classes`` and, where the files hold other numbers than the labels, ``lookup``.
    """

    fields = frozenset({"semantic"})

    pairs: list[tuple[Path, Path]]  # the image's and the label map's file
    lookup: torch.Tensor | None = None  # uint8 [256] -> label; IGNORE for values that do not count, see `invalid`
    invalid: frozenset[int] | None = None  # file values that are errors; None: all that are no class and not IGNORE

    def __len__(self) -> int:
        return len(self.pairs)

    def image_id(self, index: int) -> str:
        """The image file's name without its ending."""
        return self.pairs[index][0].stem

    def __getitem__(self, index: int) -> Sample:
        """The image and ``{"image_id", "semantic"}``."""
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        values = read_label_map(label_path)  # uint8 [H,W]
        if values.shape != image.shape[-2:]:
            raise DataError(
                f"{label_path}: the label map is {values.shape[1]} x {values.shape[0]} pixels (width x height); "
                f"its image {image_path.name} is {image.shape[2]} x {image.shape[1]}"
            )
        labels = self._labels(values, label_path)
        target: Target = {"image_id": self.image_id(index), "semantic": SemanticMask(labels)}
        return tv_tensors.Image(image), target

    def _labels(self, values: torch.Tensor, path: Path) -> torch.Tensor:
        if self.lookup is not None:
            labels = self.lookup[values.long()]
        else:
            labels = values
        bad = self._bad_values(values)
        if bad is not None:
            row, column = bad
            raise DataError(
                f"{path}: pixel (row {row}, column {column}) has value {int(values[row, column])}; "
                f"expected {self._expected_values()}"
            )
        return labels

    def _bad_values(self, values: torch.Tensor) -> tuple[int, int] | None:
        """The first pixel (row, column) whose value is neither a class nor to be ignored, or None."""
        if self.invalid is not None:
            wrong_table = torch.zeros(256, dtype=torch.bool)
            wrong_table[list(self.invalid)] = True
            wrong = wrong_table[values.long()] if self.invalid else torch.zeros_like(values, dtype=torch.bool)
        else:
            wrong = (values >= len(self.classes)) & (values != IGNORE)
        if not wrong.any():
            return None
        row, column = wrong.nonzero()[0].tolist()
        return row, column

    def _expected_values(self) -> str:
        return f"0 to {len(self.classes) - 1} for the {len(self.classes)} classes, or {IGNORE} to ignore the pixel"
