"""Views of an image: turned by right angles and mirrored, and what was found in them moved back to the image.

Shapes: boxes [...,4], maps [...,H,W]. A view is first turned counterclockwise, then mirrored left to right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """How a view was made of an image.

    Attributes:
        size: (height, width) of the view.
        turns: counterclockwise turns by 90 degrees.
        flip: whether it was mirrored left to right after that.
    """

    size: tuple[int, int]
    turns: int = 0
    flip: bool = False

    @classmethod
    def of(cls, size: tuple[int, int], turns: int = 0, flip: bool = False) -> View:
        """The view of an upright image of ``size`` (height, width)."""
        return cls(size if turns % 2 == 0 else size[::-1], turns, flip)

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the view before it was turned."""
        return self.size if self.turns % 2 == 0 else self.size[::-1]

    def map(self, image: Tensor) -> Tensor:
        """The view of the upright ``image`` [...,H,W]."""
        image = torch.rot90(image, self.turns, (-2, -1)) if self.turns % 4 else image
        return image.flip(-1) if self.flip else image

    def map_back(self, values: Tensor) -> Tensor:
        """Undoes :meth:`map`."""
        values = values.flip(-1) if self.flip else values
        return torch.rot90(values, -self.turns, (-2, -1)) if self.turns % 4 else values

    def boxes(self, boxes: Tensor) -> Tensor:
        """Where :meth:`map` moves ``boxes`` of the upright image."""
        boxes = _turned(boxes, self.upright, self.turns)
        return boxes_mirrored(boxes, self.size[1]) if self.flip else boxes

    def boxes_back(self, boxes: Tensor) -> Tensor:
        """Undoes :meth:`boxes`."""
        boxes = boxes_mirrored(boxes, self.size[1]) if self.flip else boxes
        return _turned(boxes, self.size, -self.turns)

    def points_back(self, points: Tensor) -> Tensor:
        """``points`` [...,2] (x, y) of the view in the upright image."""
        return self.boxes_back(torch.cat((points, points), -1))[..., :2]

    def vectors_back(self, vectors: Tensor) -> Tensor:
        """``vectors`` [2 or more,...], whose first two components are x (right) and y (down) in the view, as the
        upright image has them. Where they stand is not changed: see :meth:`map_back`."""
        x, y, *rest = vectors.unbind(0)
        if self.flip:
            x = -x
        for _ in range(self.turns % 4):  # clockwise by a right angle: right becomes down
            x, y = -y, x
        return torch.stack((x, y, *rest))


def boxes_scaled(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """``boxes`` [...,4] of an image of size ``old`` (height, width), in the coordinates of its copy of size ``new``."""
    height, width = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor([width, height, width, height])


def boxes_mirrored(boxes: Tensor, width: int) -> Tensor:
    """``boxes`` [...,4] of an image of ``width``, in its mirror image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)


def _turned(boxes: Tensor, size: tuple[int, int], turns: int) -> Tensor:
    """``boxes`` of an image of ``size`` after ``turns`` counterclockwise turns of it."""
    height, width = size
    for _ in range(turns % 4):
        x1, y1, x2, y2 = boxes.unbind(-1)
        boxes = torch.stack([y1, width - x2, y2, width - x1], -1)
        height, width = width, height
    return boxes
