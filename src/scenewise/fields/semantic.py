"""A class for each pixel, and the scores that it is chosen by.

Shapes: C classes, H x W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from scenewise.draw.colors import UNKNOWN, Color
from scenewise.draw.legends import PAGE, Row, percent
from scenewise.draw.look import Scene
from scenewise.draw.pages import borders, enlarged
from scenewise.errors import DataError, UsageError
from scenewise.fields.base import Average, Canvas, Field, How, Size, wrong_label
from scenewise.ops import rle
from scenewise.ops.resize import resize_argmax
from scenewise.ops.views import View
from scenewise.types import IGNORE, Described, Skeleton

MAX_ROWS = 30  # of a legend's classes; the smaller ones are summed up in the last


class SemanticMask(tv_tensors.Mask):
    """A class map. A type of its own, so that transforms can pad it with ``IGNORE`` and instance masks with 0."""


class Semantic(Field):
    """int64: the class of each pixel, 255 where there is none."""

    name = "semantic"
    blank = IGNORE
    shape = "HW"
    storage = "json"
    layer = "over"
    depth = 10

    def misfit(self, value: Tensor, whole: Described) -> str | None:
        """Labels that are no class."""
        return wrong_label(value, self.name, whole.classes, IGNORE)

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Resized to the nearest pixel."""
        return value if old == size else resize(value[None], list(size), InterpolationMode.NEAREST_EXACT)[0]

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored."""
        return view.map_back(value)

    def make_plain(self, target: dict[str, Any]) -> None:
        """Labels as int64."""
        target["semantic"] = target["semantic"].long()

    def encode(self, value: Tensor, whole: Described) -> Any:
        """Runs, row by row."""
        return rle.encode_labels(value)

    def extras(self, value: Tensor, whole: Described) -> dict[str, Any]:
        """What part of the image each class covers, largest first."""
        found = [
            {"label": label, "class": whole.classes[label], "share": round(share, 6)}
            for label, share in shares(value, len(whole.classes)).items()
        ]
        return {"shares": found}

    def summary(self, value: Tensor, whole: Described) -> list[str]:
        """What part of the image each class covers, largest first."""
        return [f"{whole.classes[label]} {share:.1%}" for label, share in shares(value, len(whole.classes)).items()]

    def facts(self, value: Tensor, whole: Described) -> dict[str, Any]:
        """The ``shares`` of the image that each class covers."""
        return {"shares": {whole.classes[label]: part for label, part in shares(value, len(whole.classes)).items()}}

    def decode(self, values: Any, record: Mapping[str, Any], size: Size, where: str) -> Tensor:
        """See :class:`~scenewise.fields.base.Field`."""
        if not isinstance(values, dict):
            raise DataError(f"{where}: semantic is {values!r}; expected an object")
        return torch.from_numpy(rle.decode_labels(values, where=f"{where}: semantic"))

    def paint(self, picture: Image.Image, value: Tensor, scene: Scene) -> Image.Image:
        """Each class's colour over ``picture``, thin light lines between regions; pixels to ignore stay as they are.

        The more opaque the colours, the more the image below turns to a lighter grey: over its own colours, and over
        dark ones, a class would not look like its swatch in the legend.
        """
        labels, colors, alpha, pen = value.numpy(), scene.class_colors, scene.look.alpha, scene.pen
        table = np.zeros((max(IGNORE, len(colors)) + 1, 3), dtype=np.uint8)
        table[: len(colors)] = colors
        tint = Image.fromarray(enlarged(table[labels], pen.factor))
        levels = [round(70 + level * 185 / 255) for level in range(256)]
        grey = ImageOps.grayscale(picture).point(levels).convert("RGB")
        mixed = Image.blend(Image.blend(picture, grey, alpha), tint, alpha)
        mixed = Image.composite(mixed, picture, Image.fromarray(enlarged(labels != IGNORE, pen.factor)))
        lines = borders(enlarged(labels, pen.factor), max(1, pen.line // 2))
        mixed.paste(PAGE, mask=Image.fromarray(lines.astype(np.uint8) * 140))
        return mixed

    def index_image(self, value: Tensor, colors: Sequence[Color]) -> Image.Image | None:
        """Class numbers, 255 where there is none, with a palette; 16-bit grey where classes have larger numbers."""
        labels = value.numpy()
        if len(colors) > IGNORE:
            return Image.fromarray(labels.astype(np.uint16))
        found = Image.fromarray(labels.astype(np.uint8))
        table = np.full((IGNORE + 1, 3), UNKNOWN, dtype=np.uint8)
        table[: len(colors)] = colors
        found.putpalette(table.tobytes())
        return found

    def legend(self, value: Tensor, scene: Scene) -> list[Row]:
        """The classes in the image and their shares of it, largest first; last, what has no label."""
        labels, classes, colors = value.numpy(), scene.classes, scene.class_colors
        counts = np.bincount(labels.reshape(-1), minlength=max(IGNORE, len(classes)) + 1)
        order = sorted((i for i in range(len(classes)) if counts[i] and i != IGNORE), key=lambda i: -counts[i])
        shown, rest = (order, []) if len(order) <= MAX_ROWS else (order[: MAX_ROWS - 1], order[MAX_ROWS - 1 :])
        rows = [Row((colors[i],), classes[i], percent(counts[i] / labels.size)) for i in shown]
        if rest:
            stripes = tuple(colors[i] for i in rest[:4])
            rows.append(Row(stripes, f"{len(rest)} more classes", percent(counts[rest].sum() / labels.size)))
        if counts[IGNORE]:
            rows.append(Row((), "no label", percent(counts[IGNORE] / labels.size)))
        return rows


class SemanticLogits(Field):
    """float32: the score of each class at each pixel, before the softmax; the user receives the most likely class."""

    name = "semantic_logits"
    gives = "semantic"
    target = False
    shape = "CHW"
    fusion = "mean"
    scored = True
    storage = "never"

    def restore(self, value: Tensor, old: Size, size: Size, done: Mapping[str, Tensor]) -> Tensor:
        """The best class, int64 [H,W], of the scores resized bilinearly."""
        return resize_argmax(value, size)

    def resize(self, value: Tensor, old: Size, size: Size) -> Tensor:
        """Bilinear."""
        return value if old == size else F.interpolate(value[None], size=size, mode="bilinear", align_corners=False)[0]

    def move_back(self, value: Tensor, view: View, skeleton: Skeleton | None) -> Tensor:
        """Turned and mirrored."""
        return view.map_back(value)

    def canvas(self, size: Size, average: Average, how: How) -> Canvas:
        """The mean or the maximum of logits or of probabilities."""
        return ScoreCanvas(size, average, how)


class ScoreCanvas(Canvas):
    """Class scores of one image, fused from views that arrive one at a time.

    Args:
        size: (height, width) of the image.
        average: what is fused, ``"logits"`` or ``"probabilities"``. The logarithms of averaged probabilities are the
            result's logits: their argmax and their softmax are those of the averages.
        how: the weighted ``"mean"``, or the ``"max"`` over the views at each class and pixel.

    Memory is one canvas, however many views there are.
    """

    def __init__(self, size: Size, average: Average = "probabilities", how: How = "mean") -> None:
        self.size, self.average, self.how = size, average, how
        self._canvas: Tensor | None = None  # [C,H,W] the weighted sum or the maximum; of probabilities, its logarithm
        self._weight: Tensor | None = None  # [H,W] the sum of weights

    def add(self, value: Tensor, weight: Tensor | float = 1.0, top: int = 0, left: int = 0) -> None:
        """Take in scores [C,h,w], before the softmax; see :class:`~scenewise.fields.base.Canvas`."""
        if self._canvas is None or self._weight is None:
            empty = 0.0 if self.average == "logits" and self.how == "mean" else -torch.inf
            self._canvas = value.new_full((len(value), *self.size), empty)
            self._weight = value.new_zeros(self.size)
        if len(value) != len(self._canvas):
            raise UsageError(f"class scores of {len(self._canvas)} classes can't be fused with those of {len(value)}")
        rows, columns = slice(top, top + value.shape[-2]), slice(left, left + value.shape[-1])
        canvas = self._canvas[:, rows, columns]
        weight = torch.as_tensor(weight, dtype=value.dtype, device=value.device)
        self._weight[rows, columns] += weight
        if self.average == "probabilities":
            value = value.log_softmax(0)
        if self.how == "max":
            torch.maximum(canvas, value, out=canvas)
        elif self.average == "logits":
            canvas += value * weight
        else:  # in logarithms, so that tiny probabilities survive
            canvas.copy_(torch.logaddexp(canvas, value + weight.log()))

    def result(self) -> Tensor:
        """The fused scores [C,H,W]."""
        assert self._canvas is not None
        assert self._weight is not None
        if self.how == "max":
            return self._canvas
        return self._canvas / self._weight if self.average == "logits" else self._canvas - self._weight.log()


def shares(labels: Tensor, classes: int) -> dict[int, float]:
    """What part of the image each label in ``labels`` [H,W] covers, largest first; 255 counts as part of the image."""
    known = labels[labels != IGNORE]
    counts = torch.bincount(known.flatten(), minlength=classes).tolist()
    total = max(1, labels.numel())
    found = {label: count / total for label, count in enumerate(counts[:classes]) if count}
    return dict(sorted(found.items(), key=lambda item: -item[1]))
