"""A toy model of two images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from scenewise.model import Model
from scenewise.types import Batch, InputSpec, Interface, Output


class Moved(Model):
    """How much brighter the next image is, as a flow of so many pixels to the right."""

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        return Interface({"flow"}, {"flow"}, {"next_image"})

    def __init__(self) -> None:
        super().__init__((), InputSpec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
        self.scale = nn.Conv2d(3, 2, 1, bias=False)
        nn.init.constant_(self.scale.weight, 1.0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Output]:
        maps = self.scale(self.pixels(batch, "next_image") - self.pixels(batch))
        return [Output((h, w), flow=m[:, :h, :w]) for m, (h, w) in zip(maps, batch.sizes, strict=True)]
