"""Transforms by name, as recipes write them, and the resizing that a model's InputSpec asks for.

A transform is any callable ``(image, target) -> (image, target)``: those of ``torchvision.transforms.v2`` by their
class name, scenewise's own, or ``module:Class`` for the user's. In a recipe::

    transforms:
      - ScaleJitter: {target_size: [360, 480], scale_range: [0.6, 1.8]}
      - RandomCrop: {size: [360, 480], pad_if_needed: true, fill: {SemanticMask: 255, others: 0}}
      - RandomHorizontalFlip
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from scenewise.errors import UsageError, suggest
from scenewise.fields.dense import NormalMap
from scenewise.fields.flow import FlowMap
from scenewise.fields.semantic import SemanticMask
from scenewise.own import own_function
from scenewise.types import InputSpec, Sample, Target

Transform = Callable[..., Any]

OWN: dict[str, str] = {  # scenewise's own transforms: name -> module:class below scenewise.data
    "BoxesFromMasks": "transforms.objects:BoxesFromMasks",
    "ElasticDeformation": "transforms.elastic:ElasticDeformation",
}

FILL_TYPES = {
    "Image": tv_tensors.Image,
    "Mask": tv_tensors.Mask,
    "SemanticMask": SemanticMask,
    "NormalMap": NormalMap,
    "FlowMap": FlowMap,
    "others": "others",
}


def build_transforms(entries: Sequence[str | Mapping[str, Any] | Transform]) -> Transform | None:
    """One transform that applies ``entries`` in turn, or None where there are none.

    Args:
        entries: each a name, ``{name: {argument: value}}``, or a callable.

    Raises:
        UsageError: a name is unknown or its arguments do not fit.
    """
    steps = [_build(i, entry) for i, entry in enumerate(entries)]
    return v2.Compose(steps) if steps else None


def _build(position: int, entry: str | Mapping[str, Any] | Transform) -> Transform:
    place = f"transforms.{position}"
    if callable(entry):
        return entry
    if isinstance(entry, str):
        name, arguments = entry, None
    elif len(entry) == 1:
        ((name, arguments),) = entry.items()
    else:
        raise UsageError(f"{place} is {dict(entry)!r}; expected one name, or {{name: {{argument: value}}}}")
    cls = _find(name, place)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UsageError(f"{place}: {name} is given {arguments!r}; expected {{argument: value}}")
    try:
        return cls(**{k: _argument(k, v, place) for k, v in (arguments or {}).items()})  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place}: {name}: {error}") from None


def _find(name: str, place: str) -> Any:
    if ":" in name or name in OWN:
        return own_function(name if ":" in name else f"scenewise.data.{OWN[name]}", place)
    known = [n for n in dir(v2) if n[0].isupper() and isinstance(getattr(v2, n), type)]
    if name not in known:
        raise UsageError(
            f"{place}: there is no transform {name!r}{suggest(name, [*known, *OWN])}; "
            "expected a class of torchvision.transforms.v2, of scenewise, or module:Class"
        )
    return getattr(v2, name)


def _argument(name: str, value: Any, place: str) -> Any:
    if name == "fill" and isinstance(value, Mapping):
        for key in value:
            if key not in FILL_TYPES:
                raise UsageError(f"{place}: fill has {key!r}; expected {', '.join(FILL_TYPES)}")
        return {FILL_TYPES[k]: v for k, v in value.items()}
    if name == "interpolation" and isinstance(value, str):
        return InterpolationMode(value)
    return tuple(value) if isinstance(value, list) else value


class ResizeToInput:
    """Resizes a sample as ``spec`` says: images bilinear, maps nearest, boxes and keypoints too."""

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec

    def __call__(self, image: Tensor, target: Target) -> Sample:
        """The resized sample; the same one where its size is right."""
        size = self.spec.resized(*image.shape[-2:])
        if size == tuple(image.shape[-2:]):
            return image, target  # type: ignore[return-value]
        resized = {k: F.resize(v, list(size)) if isinstance(v, tv_tensors.TVTensor) else v for k, v in target.items()}
        return F.resize(image, list(size), antialias=self.spec.antialias), resized  # type: ignore[return-value]
