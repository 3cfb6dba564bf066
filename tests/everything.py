"""A data set that has whatever a system may ask for: for the tests that walk over the catalog."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scenewise.data import DataSet, open_data
from scenewise.data.loader import Collate, plain
from scenewise.fields.base import Field
from scenewise.fields.table import FIELDS, INPUTS
from scenewise.types import OF_CLASSES, Batch, Sample

SIZE = (64, 96)


class Everything(DataSet):
    """Four generated scenes of ``SIZE`` with every target field and every further input that the tables know.

    What the generator does not draw is made up: of a field, a value of the shape that it states; of an input, its own
    example and, where other models find it (``Input.found_in``), the truth of that and the same a little shifted. So a
    new kind of output or input is in here as soon as it has its row.
    """

    split = "train"

    def __init__(self) -> None:
        self.scenes = open_data(f"scenes:count=4,size={SIZE[0]}x{SIZE[1]}")
        self.classes, self.skeleton = self.scenes.classes, self.scenes.skeleton
        self.fields = frozenset(name for name, field in FIELDS.items() if field.target)
        self.inputs = {name: _Examples(self, name) for name in INPUTS}

    def __len__(self) -> int:
        return len(self.scenes)

    def image_id(self, index: int) -> str:
        return str(index)

    def __getitem__(self, index: int) -> Sample:
        image, drawn = self.scenes[index]
        target: dict[str, Any] = dict(drawn)
        generator = torch.Generator().manual_seed(index)
        known = {"K": len(target["labels"]), "H": SIZE[0], "W": SIZE[1]}
        for name in sorted(self.fields - set(target)):
            target[name] = _made_up(FIELDS[name], known, len(self.classes), generator)
        target = {name: value for name, value in target.items() if name in self.fields or name not in FIELDS}
        return image, target  # type: ignore[return-value]

    def taking(self, names: Iterable[str]) -> Everything:
        """The same data set with these further inputs only."""
        lean = copy.copy(self)
        lean.inputs = {name: self.inputs[name] for name in names}
        return lean

    def batch(self, *indices: int) -> Batch:
        """The images of these indices with all that is known of them."""
        return Collate()([plain(*self.sample(index)) for index in indices])


class _Examples(Mapping[str, Tensor]):
    """A value of the input ``name`` for each image of ``data``."""

    def __init__(self, data: Everything, name: str) -> None:
        self.data, self.one = data, INPUTS[name]

    def __getitem__(self, image_id: str) -> Tensor:
        image, target = self.data.scenes[int(image_id)]
        example = self.one.example(image.as_subclass(Tensor) / 255)
        if self.one.found_in is None:
            return example
        truth: Tensor = target[self.one.found_in].as_subclass(Tensor)  # type: ignore[literal-required]
        shifted = self.one.resize(truth, SIZE, (SIZE[0] - 5, SIZE[1] - 5))
        return torch.cat([truth, shifted, example])

    def __iter__(self) -> Any:
        return iter(map(self.data.image_id, range(len(self))))

    def __len__(self) -> int:
        return len(self.data)


def _made_up(field: Field, known: Mapping[str, int], classes: int, generator: torch.Generator) -> Tensor:
    """A value of the shape that ``field`` states; dimensions that are free are of 4."""
    shape = [int(letter) if letter.isdigit() else known.get(letter, 4) for letter in field.shape]
    if field.name in OF_CLASSES:
        return torch.randint(classes, shape, generator=generator)
    return torch.rand(shape, generator=generator)
