"""Refinement of class scores by the fully connected CRF, as a procedure; see :mod:`scenewise.engine.fusion`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scenewise.catalog import build_spec
from scenewise.engine.fusion import Predict
from scenewise.errors import UsageError
from scenewise.fields.table import FIELDS, given
from scenewise.ops.crf import DenseCRF
from scenewise.types import Batch, Output


@dataclass(frozen=True)
class Refined:
    """Refines what a predictor's class scores say of each pixel by the image, as Chen et al. (DeepLab, ICLR 2015) do.

    Args:
        crf: the field and its parameters.

    What comes of it are logits again, the logarithms of the marginals, at the size of the image that the predictor was
    fed; standard deviations of position are in its pixels. Other fields stay as they are; a model without scores of
    classes per pixel is refused.
    """

    crf: DenseCRF = field(default_factory=DenseCRF)

    def __call__(self, predict: Predict) -> Predict:
        """A predictor that refines what ``predict`` returns."""

        def run(batch: Batch) -> list[Output]:
            images = (image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.sizes, strict=True))
            found = []
            for image, output in zip(images, predict(batch), strict=True):
                values = given(output)
                check_scored(values)
                changed: dict[str, Any] = {
                    name: self.crf(value, image) for name, value in values.items() if FIELDS[name].scored
                }
                found.append(dataclasses.replace(output, **changed))
            return found

        return run


def refined(what: str, parameters: Mapping[str, Any]) -> Refined:
    """The procedure with a field of these ``parameters``, checked; ``what`` asks for it, for messages.

    Raises:
        UsageError: names the parameter, what was found and what it takes.
    """
    return Refined(build_spec(what, DenseCRF, parameters))


def check_scored(filled: Iterable[str]) -> None:
    """Raise a :class:`UsageError` unless one of these fields is the scores of classes at each pixel."""
    names = sorted(filled)
    if not any(FIELDS[name].scored for name in names):
        raise UsageError(f"crf: refines scores of classes at each pixel, and this model fills {', '.join(names)}")
