"""The table of every kind of output, the table of further inputs, and what is done to all of them alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision import tv_tensors

from scenewise.errors import UsageError
from scenewise.fields.base import Field, Size
from scenewise.fields.dense import Boundary, Depth, Embedding, Normals
from scenewise.fields.flow import Flow
from scenewise.fields.inputs import Input, NextImage, Proposals
from scenewise.fields.keypoints import Keypoints, KeypointVisibility
from scenewise.fields.masks import Masks, RoIMasks
from scenewise.fields.objects import Area, Boxes, Ignore, Labels, Scores
from scenewise.fields.run_masks import RunMasks
from scenewise.fields.semantic import Semantic, SemanticLogits
from scenewise.ops.views import View
from scenewise.types import Batch, Described, Output, Skeleton, Target

FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Labels(),
        Scores(),
        Boxes(),
        Masks(),
        RoIMasks(),
        Keypoints(),
        Semantic(),
        SemanticLogits(),
        Boundary(),
        Depth(),
        Normals(),
        Flow(),
        Embedding(),
        Ignore(),
        Area(),
        KeypointVisibility(),
    )
}

INPUTS: dict[str, Input] = {one.name: one for one in (Proposals(), NextImage())}

AnyOutput = TypeVar("AnyOutput", bound=Output)


# ---- outputs


def given(output: Output) -> dict[str, Tensor]:
    """The fields of ``output`` that are filled, in the order of the table."""
    values = {name: getattr(output, name) for name, field in FIELDS.items() if field.output}
    return {name: value for name, value in values.items() if value is not None}


def count(output: Output) -> int:
    """The number of instances; 0 where there are none."""
    return next((len(value) for name, value in given(output).items() if FIELDS[name].per_instance), 0)


def select(output: AnyOutput, index: Any) -> AnyOutput:
    """``output`` with the instances that ``index`` (slice, index or bool tensor) selects."""
    return replace(output, {n: v[index] for n, v in given(output).items() if FIELDS[n].per_instance})


def above(output: AnyOutput, score: float) -> AnyOutput:
    """``output`` with the instances whose score is at least ``score``; itself where it has no scores."""
    return output if output.scores is None else select(output, output.scores >= score)


def moved_to(output: AnyOutput, device: torch.device | str) -> AnyOutput:
    """``output`` with all its tensors on ``device``."""
    return replace(output, {name: value.to(device) for name, value in given(output).items()})


def detached(output: AnyOutput) -> AnyOutput:
    """``output`` on the CPU and without gradients, as numpy can read it."""
    return replace(output, {name: value.detach().cpu() for name, value in given(output).items()})


def replace(output: AnyOutput, values: Mapping[str, Any], **others: Any) -> AnyOutput:
    """``output`` with these fields in place of its own."""
    return dataclasses.replace(output, **values, **others)


def restore(output: Output, size: Size) -> dict[str, Tensor]:
    """The fields that the user receives from ``output``, in the coordinates of an image of ``size`` (height, width)
    that was resized for the model; on the CPU."""
    done: dict[str, Tensor] = {}
    for name, value in given(output).items():
        done[FIELDS[name].gives] = FIELDS[name].restore(value, output.size, size, done)
    return {name: value.to("cpu") for name, value in done.items()}


def from_view(output: Output, view: View, size: Size, skeleton: Skeleton | None) -> Output:
    """What was found in a ``view`` of an image, in the coordinates of the image of ``size``.

    Raises:
        UsageError: the view is mirrored and has keypoints whose sides are not known.
    """
    values = {}
    for name, value in given(output).items():
        upright = FIELDS[name].move_back(value, view, skeleton)
        values[name] = FIELDS[name].resize(upright, view.upright, size)
    return dataclasses.replace(output, size=size, **values)  # type: ignore[arg-type]


def from_crop(output: Output, left: int, top: int, crop: Size, size: Size) -> Output:
    """What was found in a ``crop`` of that size, cut from the image of ``size`` at column ``left`` and row ``top`` and
    resized for the model, in the coordinates of the image.

    Raises:
        UsageError: it has a field that has no place in the whole image.
    """
    values = {
        name: FIELDS[name].shift(FIELDS[name].resize(value, output.size, crop), left, top, size)
        for name, value in given(output).items()
    }
    return dataclasses.replace(output, size=size, **values)  # type: ignore[arg-type]


def summary(output: Described) -> list[str]:
    """What was found, in a few words each."""
    found = [words for name, value in given(output).items() for words in FIELDS[name].summary(value, output)]
    return found or ([f"{count(output)} instances"] if count(output) else [])


def facts(output: Described) -> dict[str, Any]:
    """The same for machines, by name; JSON values."""
    return {key: fact for name, v in given(output).items() for key, fact in FIELDS[name].facts(v, output).items()}


def check(output: Described) -> None:
    """Refuse an output whose fields don't fit together.

    Raises:
        UsageError: a field's shape does not fit the image's size or the other fields, a label is no class, or a number
            is not finite where it has to be, as from a model whose training diverged.
    """
    wrong = misfit(output)
    if wrong:
        raise UsageError(f"prediction: {wrong}")


def misfit(output: Described) -> str | None:
    """What does not fit in ``output``, as a sentence; None where all does."""
    known = {"H": output.size[0], "W": output.size[1]}
    values = given(output)
    for name, value in values.items():
        shape = FIELDS[name].shape
        if shape == "D" and value.dim() == 3:
            shape = "DHW"  # an embedding of each pixel
        sizes = tuple(value.shape)
        expected = [int(d) if d.isdigit() else known.get(d) for d in shape]
        if len(sizes) != len(shape) or any(e not in (None, s) for e, s in zip(expected, sizes, strict=True)):
            bound = ", ".join(f"{d} = {known[d]}" for d in dict.fromkeys(shape) if d in known)
            return f"{name} is {list(sizes)}; expected [{','.join(shape)}]" + (f" with {bound}" if bound else "")
        known.update({d: s for d, s in zip(shape, sizes, strict=True) if not d.isdigit()})
    return next((wrong for name, value in values.items() if (wrong := FIELDS[name].misfit(value, output))), None)


# ---- targets


def with_companions(fields: Iterable[str]) -> frozenset[str]:
    """``fields`` and those that say more of them, such as ``ignore`` of ``boxes``."""
    wanted = frozenset(fields)
    return wanted | {name for name, field in FIELDS.items() if field.companions & wanted}


def plain_target(target: Mapping[str, Any], *, bitmaps: bool = True) -> Target:
    """A sample's target as models read it: plain tensors, keypoints joined with their visibility, labels as int64.

    Without ``bitmaps``, as for a measurement, masks that are still runs stay so.
    """
    result: dict[str, Any] = {
        key: value.as_subclass(Tensor)
        if isinstance(value, tv_tensors.TVTensor) and (bitmaps or not isinstance(value, RunMasks))
        else value
        for key, value in target.items()
    }
    for field in FIELDS.values():
        if field.name in result:
            field.make_plain(result)
    return result  # type: ignore[return-value]


def drop_lost(image: Tensor, target: Mapping[str, Any]) -> Target:
    """``target`` without the instances that its transforms have moved out of ``image`` [3,H,W], and what is left of the
    others cut off at the border."""
    size = (int(image.shape[-2]), int(image.shape[-1]))
    values: dict[str, Any] = dict(target)
    kept: Tensor | None = None
    for name, field in FIELDS.items():
        if name not in target:
            continue
        cut = field.cut(target, size)
        values |= cut.changes or {}
        if cut.kept is not None:
            kept = cut.kept if kept is None else kept & cut.kept
    if kept is not None and not bool(kept.all()):
        for name, field in FIELDS.items():
            if name in values and field.per_instance:
                values[name] = rows_of(values[name], kept)
    return values  # type: ignore[return-value]


def rows_of(value: Tensor, index: Tensor) -> Tensor:
    """The rows of a target's ``value`` that ``index`` selects, as the same type."""
    rows = value.as_subclass(Tensor)[index]
    return tv_tensors.wrap(rows, like=value) if isinstance(value, tv_tensors.TVTensor) else rows


# ---- inputs


def take_inputs(targets: list[Target]) -> tuple[list[Target], dict[str, list[Tensor]]]:
    """``targets`` without the further inputs that travel with them, and those by name; each where all images have it.

    Raises:
        UsageError: some images have an input and others don't.
    """
    inputs: dict[str, list[Tensor]] = {}
    for name in INPUTS:
        having = [target for target in targets if name in target]
        if having and len(having) < len(targets):
            raise UsageError(f"{len(having)} of {len(targets)} images come with {name}; expected all of them or none")
        if having:
            inputs[name] = [target[name] for target in targets]  # type: ignore[literal-required]
    rest = [{key: value for key, value in target.items() if key not in INPUTS} for target in targets]
    return rest, inputs  # type: ignore[return-value]


def resized_inputs(inputs: Mapping[str, list[Tensor]], old: list[Size], new: list[Size]) -> dict[str, list[Tensor]]:
    """``inputs`` of images of the sizes ``old``, for their copies of the sizes ``new``."""
    return {
        name: [find_input(name).resize(v.as_subclass(Tensor), a, b) for v, a, b in zip(values, old, new, strict=True)]
        for name, values in inputs.items()
    }


def inputs_of_views(batch: Batch, views: list[View]) -> dict[str, list[Tensor]]:
    """The inputs of ``batch`` for a view of each of its images."""
    return {
        name: [
            find_input(name).move(find_input(name).resize(value, size, view.upright), view)
            for value, size, view in zip(values, batch.sizes, views, strict=True)
        ]
        for name, values in batch.inputs.items()
    }


def find_input(name: str) -> Input:
    """The row of the input ``name``; a :class:`UsageError` where there is none."""
    if name not in INPUTS:
        raise UsageError(f"there is no input {name!r}; known: {', '.join(INPUTS)}")
    return INPUTS[name]
