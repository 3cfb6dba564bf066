"""Weights for classes of unequal frequency, from the pixels counted over a training set.

Void pixels are counted nowhere. What is counted is what is given: to weigh what the model will see, count after the
remapping of classes, and before random crops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.types import IGNORE, Sample

WeightMode = Literal["inverse", "median", "inverse-log", "effective"]


class Labelled(Protocol):
    """What is needed of a data set to count its classes."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, index: int) -> Sample:
        """An image and its target, which has ``semantic``."""


class ClassFrequency:
    """Counts of the pixels of each class over many label maps; exact.

    Attributes:
        pixels: int64 [C], n_c: the pixels of class c.
        image_pixels: int64 [C], m_c: the labelled pixels of all images in which c occurs.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise UsageError(f"num_classes is {num_classes}; expected 1 or more")
        self.num_classes = num_classes
        self.pixels = torch.zeros(num_classes, dtype=torch.int64)
        self.image_pixels = torch.zeros(num_classes, dtype=torch.int64)

    def update(self, target: Tensor) -> None:
        """Count one image's label map, integers [H,W], or those of several, [N,H,W]; other values than 0..C-1 are void.

        Raises:
            UsageError: ``target`` is neither [H,W] nor [N,H,W].
        """
        if target.dim() not in (2, 3):
            raise UsageError(f"target is {list(target.shape)}; expected [H,W] or [N,H,W]")
        for labels in target.long().reshape(-1, *target.shape[-2:]):
            void_beside = labels.flatten().clamp(-1, self.num_classes) + 1  # 0 and C + 1 are void
            found = torch.bincount(void_beside, minlength=self.num_classes + 2)[1:-1].cpu()
            found[IGNORE : IGNORE + 1] = 0  # void even where there are more classes
            self.pixels += found
            self.image_pixels += found.sum() * (found > 0)

    def merge(self, other: ClassFrequency) -> None:
        """Add what ``other`` counted."""
        if other.num_classes != self.num_classes:
            raise UsageError(f"can't merge the counts of {other.num_classes} classes into those of {self.num_classes}")
        self.pixels += other.pixels
        self.image_pixels += other.image_pixels

    def to_dict(self) -> dict[str, list[int]]:
        """The counts, ready for JSON; :meth:`from_dict` reads them back."""
        return {"pixels": self.pixels.tolist(), "image_pixels": self.image_pixels.tolist()}

    def weights(self, mode: WeightMode = "median") -> tuple[float, ...]:
        """:func:`class_weights` as plain numbers, as the systems' ``class_weights`` takes them."""
        return tuple(class_weights(self, mode).tolist())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassFrequency:
        """The counts that :meth:`to_dict` wrote.

        Raises:
            UsageError: an entry is missing, or the two differ in length.
        """
        for name in ("pixels", "image_pixels"):
            if name not in values:
                raise UsageError(f"class counts: there is no entry {name!r}; expected pixels and image_pixels")
        pixels, image_pixels = (torch.tensor(values[name], dtype=torch.int64) for name in ("pixels", "image_pixels"))
        if pixels.shape != image_pixels.shape:
            raise UsageError(f"class counts: {len(pixels)} pixels, {len(image_pixels)} image_pixels; expected as many")
        counts = cls(len(pixels))
        counts.pixels, counts.image_pixels = pixels, image_pixels
        return counts


def count_classes(data: Labelled) -> ClassFrequency:
    """The pixels of each class over all images of ``data``, a data set with label maps. Reads every file.

    Raises:
        UsageError: an image has no label map.
    """
    counts = ClassFrequency(len(data.classes))
    for index in range(len(data)):
        target = data[index][1]
        if "semantic" not in target:
            name = target.get("image_id", f"number {index}")
            raise UsageError(f"class weights: image {name} has no label map; expected the target field semantic")
        counts.update(target["semantic"])
    return counts


def class_weights(
    counts: ClassFrequency,
    mode: WeightMode = "median",
    *,
    beta: float = 0.9999,
    clip: tuple[float, float] | None = None,
    renormalize: bool = False,
) -> Tensor:
    """The weight of each class, float32 [C]; 0 for classes without pixels.

    With n_c pixels of class c, m_c labelled pixels of the images that show it, M labelled pixels in all and C classes:

    ==============  ============================  =============================================================
    mode            weight                        source
    ==============  ============================  =============================================================
    "inverse"       M / (C n_c)
    "median"        median(f) / f_c, f = n / m    Eigen and Fergus, ICCV 2015, sec. 4.3; SegNet
    "inverse-log"   1 / ln(1.02 + n_c / M)        Paszke et al., ENet, 2016, sec. 5.2
    "effective"     (1 - beta) / (1 - beta^n_c)   Cui et al., Class-balanced loss, CVPR 2019, eq. 3
    ==============  ============================  =============================================================

    Args:
        counts: what was counted.
        mode: which of them. The median is over the classes that occur.
        beta: 0..1 without 1, for "effective". Classes of far more than 1 / (1 - beta) pixels weigh alike.
        clip: the lowest and the highest weight of classes that occur.
        renormalize: scale the weights, after clipping, to a mean of 1 over the classes that occur.

    Raises:
        UsageError: nothing was counted, or an argument is none of the above.
    """
    if not (counts.pixels > 0).any():
        raise UsageError("class weights: no labelled pixel was counted")
    weights = weights_of_counts(counts.pixels, counts.image_pixels, mode, beta=beta, clip=clip)
    if renormalize:
        weights = weights / weights[counts.pixels > 0].mean()
    return weights.float()


def weights_of_counts(
    pixels: Tensor,
    image_pixels: Tensor,
    mode: WeightMode,
    *,
    beta: float = 0.9999,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """:func:`class_weights` of plain counts [C], float64 [C]; all 0 where nothing was counted."""
    if not 0 <= beta < 1:
        raise UsageError(f"class weights: beta is {beta}; expected 0 or more, and less than 1")
    occurs = pixels > 0
    pixels = pixels.double()
    if mode == "inverse":
        weights = pixels.sum() / (len(pixels) * pixels)
    elif mode == "median":
        frequency = pixels / image_pixels  # NaN where a class does not occur
        weights = frequency.nanquantile(0.5) / frequency
    elif mode == "inverse-log":
        weights = 1 / torch.log(1.02 + pixels / pixels.sum())
    elif mode == "effective":
        weights = (1 - beta) / (1 - beta**pixels)
    else:
        raise UsageError(f"class weights: mode is {mode!r}; expected inverse, median, inverse-log or effective")
    if clip is not None:
        weights = weights.clamp(*clip)
    return weights.masked_fill(~occurs, 0.0)


def label_counts(target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """n_c and m_c, int64 [C], of the label maps ``target`` [N,H,W] with 0..C-1 and ``IGNORE``; on their device."""
    counted = (target != IGNORE).flatten(1)
    labels = target.flatten(1).masked_fill(~counted, 0)
    found = torch.zeros(len(target), num_classes, dtype=torch.int64, device=target.device)
    found = found.scatter_add(1, labels, counted.long())  # [N,C]
    return found.sum(0), (found.sum(1, keepdim=True) * (found > 0)).sum(0)
