"""What systems take beside the image: boxes from elsewhere, a second image.

An input travels with the target through transforms and views until the batch is put together, so it says how it is
resized and mirrored, and what a file of it looks like.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.errors import UsageError
from scenewise.fields.base import Size
from scenewise.files.images import as_image
from scenewise.ops.resize import resize_image
from scenewise.ops.views import View, boxes_scaled


class Input(ABC):
    """One kind of further input; a value is the tensor of one image.

    Attributes:
        name: by which systems take it, in ``Interface.takes`` and ``Batch.inputs``.
        about: what it is, in a few words.
        found_in: the output field that another model finds it in; None where no model does.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    found_in: ClassVar[str | None] = None

    @abstractmethod
    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """The value for a copy of ``size`` (height, width) of the image of size ``old``."""

    @abstractmethod
    def move(self, value: Tensor, view: View) -> Tensor:
        """The value for a ``view`` of the upright image of size ``view.upright``."""

    @abstractmethod
    def read(self, value: Any) -> Tensor:
        """The tensor that the user's ``value`` stands for.

        Raises:
            UsageError: it is none.
        """

    @abstractmethod
    def example(self, image: Tensor) -> Tensor:
        """A value that fits ``image`` [3,H,W], to try a model with."""

    @abstractmethod
    def as_target(self, value: Tensor, size: Size) -> Any:
        """The value as a sample of an image of ``size`` carries it, so that transforms move it with the image."""


class Proposals(Input):
    """float32 [P,4]: boxes x1, y1, x2, y2 in pixels of the image, best first."""

    name = "proposals"
    about = "boxes that may hold an object"
    found_in = "boxes"

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Scaled."""
        return boxes_scaled(value, old, size)

    def move(self, value: Tensor, view: View) -> Tensor:
        """Turned and mirrored."""
        return view.boxes(value)

    def read(self, value: Any) -> Tensor:
        """Boxes [P,4] as a tensor, an array or nested lists."""
        try:
            boxes = torch.as_tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"proposals: found a {type(value).__name__}; expected boxes [P,4]") from None
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not bool(boxes.isfinite().all()):
            raise UsageError(f"proposals: found {list(boxes.shape)}; expected finite boxes [P,4]")
        return boxes

    def example(self, image: Tensor) -> Tensor:
        """Two boxes."""
        height, width = image.shape[-2:]
        return image.new_tensor([[width / 5, height / 6, width / 1.5, height / 1.2], [0, 0, width, height]])

    def as_target(self, value: Tensor, size: Size) -> Any:
        """Bounding boxes."""
        return tv_tensors.BoundingBoxes(value, format="XYXY", canvas_size=size)


class NextImage(Input):
    """The image that follows, uint8 or float in 0..1, [3,H,W], of the image's size."""

    name = "next_image"
    about = "the image that follows"

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """As the image is: float32 in 0..1.

        Raises:
            UsageError: it has another size than the image.
        """
        if tuple(value.shape[-2:]) != tuple(old):
            found = "x".join(map(str, value.shape[-2:]))
            raise UsageError(f"{self.name} has {found} pixels; expected {old[0]}x{old[1]}, as the image has")
        return resize_image(value, size)

    def move(self, value: Tensor, view: View) -> Tensor:
        """Turned and mirrored."""
        return view.map(value)

    def read(self, value: Any) -> Tensor:
        """Anything that an image may be."""
        return as_image(value)[0]

    def example(self, image: Tensor) -> Tensor:
        """The same image, moved by a pixel."""
        return image.roll(1, -1)

    def as_target(self, value: Tensor, size: Size) -> Any:
        """An image."""
        return tv_tensors.Image(value)
