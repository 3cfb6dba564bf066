"""Metric: what every metric can do. A new one is one class that subclasses it, and its row in ``table.py``; one's own
is ``module:Class``, named in a recipe, in :func:`~scenewise.engine.evaluate.evaluate` or after ``--metrics``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from scenewise.errors import UsageError
from scenewise.types import Described, Skeleton, Target

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Setting:
    """What metrics are built for: a model, and the data set that it is measured on.

    Attributes:
        classes: names, in label order.
        fills: the fields of :class:`~scenewise.types.Described` that the model's predictions have.
        fields: the target fields that the data set has.
        skeleton: of its keypoints, where it is known.
        order: the format's own number of each image by its name, where it has any; COCO's evaluation orders images by
            it.
    """

    classes: tuple[str, ...]
    fills: frozenset[str]
    fields: frozenset[str]
    skeleton: Skeleton | None = None
    order: Mapping[str, int] | None = None


class Metric(ABC):
    """Counts over many images, in memory that does not grow with pixels, and the scores that follow.

    ``measures`` and ``truth`` are read where the metric is named as ``module:Class``; those that the package has stand
    in its table.

    Attributes:
        measures: fields of :class:`~scenewise.types.Described`, such as ``semantic``; the metric is for models whose
            predictions have one of them.
        truth: the target fields that it compares with.
        main: the score by which a model is usually chosen, its dotted path in :meth:`compute`; empty for none.
        smaller_is_better: the dotted paths of the scores that are errors; of the others, more is better.
    """

    measures: ClassVar[frozenset[str]] = frozenset()
    truth: ClassVar[frozenset[str]] = frozenset()
    main: ClassVar[str] = ""
    smaller_is_better: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, setting: Setting, measured: tuple[str, ...], **parameters: Any) -> Self:
        """The metric for ``setting``, of which it measures the fields ``measured``.

        ``parameters`` are keyword arguments of the constructor, as a recipe has them. By default the constructor's
        first argument is ``classes``.
        """
        return cls(setting.classes, **parameters)  # type: ignore[call-arg]

    @abstractmethod
    def update(self, prediction: Described, target: Target) -> None:
        """Count one image. The prediction and the target have the same size."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another process counted."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """The scores by name, ready for JSON; undefined ones are None."""


def mean(values: Iterable[float]) -> float | None:
    """The exact mean of ``values``, whatever their order; None where there are none."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


def defined(value: float) -> float | None:
    """``value``, None where it is NaN."""
    return None if math.isnan(value) else value


def image_key(target: Target) -> str:
    """The image's name within its data set, empty where it has none. Images are put in the order of their names, so
    that the number of processes and the order of arrival change nothing, not even among equal scores."""
    return target.get("image_id", "")


def image_label(prediction: Described, target: Target) -> str:
    """What error messages call the image."""
    return f"image {target.get('image_id', prediction.source or 'without a name')}"


def maps_of(prediction: Described, target: Target, name: str, shape: str) -> tuple[Tensor, Tensor]:
    """The map ``name`` of a prediction and of its target, on one device, checked to be of one size.

    Args:
        prediction, target: of one image.
        name: the field.
        shape: what it is, for messages, such as ``"[H,W]"``.

    Raises:
        UsageError: one of them is missing, or their sizes differ; names the image.
    """
    found, truth = getattr(prediction, name), target.get(name)
    for which, value in (("prediction", found), ("target", truth)):
        if not isinstance(value, Tensor):
            raise UsageError(f"{image_label(prediction, target)}: the {which} has no {name}; expected {shape}")
    assert isinstance(truth, Tensor)
    if found.shape != truth.shape:
        raise UsageError(
            f"{image_label(prediction, target)}: {name} is {list(found.shape)} in the prediction and "
            f"{list(truth.shape)} in the target; expected one size"
        )
    return found, truth.as_subclass(Tensor).to(found.device)
