"""Pipeline: two models in a row behind one name; the second is run on the detections of the first.

The first finds boxes in an image. What lies in each of them is cut out of the image at its full resolution and fed to
the second, as its ``InputSpec`` says; what the second finds in a crop, a class, keypoints, a mask, is then known of the
object, in the coordinates of the image. So do classifiers of detections (Girshick et al., R-CNN, CVPR 2014) and poses
that are found person by person (Papandreou et al., "Towards Accurate Multi-person Pose Estimation in the Wild", CVPR
2017, sec. 3).

Where the second model takes what the first finds beside the image, such as Fast R-CNN the boxes of a region proposal
network, it is fed the image itself and those, and the result is its own.

A pipeline is a :class:`~scenewise.model.Model`: it is loaded, saved, evaluated and drawn like any other. Its models are
trained one by one. The first may be a pipeline itself, so that three and more models stand in a row.

Shapes: K instances of an image, C channels, H x W pixels of an image, h x w pixels of a crop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from scenewise.errors import UsageError, suggest
from scenewise.fields.table import (
    FIELDS,
    INPUTS,
    above,
    count,
    find_input,
    from_crop,
    from_view,
    given,
    replace,
    resized_inputs,
    select,
)
from scenewise.model import Model
from scenewise.ops.resize import fit
from scenewise.ops.views import View
from scenewise.types import OF_CLASSES, Batch, Count, InputSpec, Interface, Output, Positive, Share

Joined = Literal["product", "first", "second"]
ROUNDING = 1e-3  # pixels; a crop's side that reaches no farther into the next pixel ends before it
OF_LABELS = ("class_ids", "colors")  # what of a model's info is about its classes
FOUND_IN = {name: one.found_in for name, one in INPUTS.items() if one.found_in is not None}  # an input -> a field


class Pipeline(Model):
    """The boxes of one model, and what a second one finds in each of them.

    The image is resized for the first model as that one's ``input`` says, and each crop for the second as its own one
    says. What the second fills takes the place of what the first has of the same kind: a classifier's labels those of
    the detector. An instance in whose crop the second finds nothing leaves the result. Instances come best first.

    Args:
        first: a model that fills ``boxes``.
        second: a model that says something of a crop as a whole: it fills some of labels, scores, keypoints and masks,
            for one instance per crop at most.
        enlarge: factor on both sides of a box, about its centre, for the object's surroundings.
        ratio: height / width of crops: the shorter side of a box is made longer, before it is enlarged. None: a box
            keeps its own, and is stretched where the second model takes images of a fixed size.
        only: classes of the first model whose instances the second is run on; all others are dropped from the result.
            None: every class.
        score: instances that the first model gives a lower one leave the result.
        count: the largest number of instances per image that the second is run on, the best; the others are dropped
            from the result. None: all.
        scores: of an instance: the ``"product"`` of both models' scores, or those of the ``"first"`` or ``"second"``.
            Where one model alone has scores, they are those.
        batch_size: crops that the second model is fed at once; bounds the memory.

    What of a crop lies beyond the image is the second model's mean colour, 0 after normalisation.

    Raises:
        UsageError: the models don't fit together; says what each fills.
    """

    first: Model
    second: Model

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        """What both fill together, and what the first takes; it needs nothing, as it is not trained as one."""
        # each is asked once: models may be pipelines of pipelines, and asking twice would double at each of them
        first, second = (model.interface(**model.arguments) for model in (arguments["first"], arguments["second"]))
        if second.takes:
            return Interface(needs=frozenset(), fills=second.fills, takes=first.takes)
        filled = {name for name in first.fills if not _replaced(name, second.fills)} | second.fills
        return Interface(needs=frozenset(), fills=frozenset(filled), takes=first.takes)

    def __init__(
        self,
        first: Model,
        second: Model,
        *,
        enlarge: Positive = 1.0,
        ratio: Positive | None = None,
        only: tuple[str, ...] | None = None,
        score: Share = 0.0,
        count: Count | None = None,
        scores: Joined = "product",
        batch_size: Count = 16,
    ) -> None:
        _check_models(first, second)
        namer = second if "labels" in second.fills or second.takes else first
        super().__init__(namer.classes, InputSpec(channels=first.input.channels, bits=first.input.bits))
        self.first, self.second = first, second
        self.skeleton = second.skeleton if "keypoints" in second.fills or second.takes else first.skeleton
        self.info = {key: namer.info[key] for key in OF_LABELS if key in namer.info}
        self.enlarge, self.ratio, self.score, self.count = enlarge, ratio, score, count
        self.only = (only,) if isinstance(only, str) else None if only is None else tuple(only)
        self.scores, self.batch_size = scores, batch_size
        self._check_options()

    def _check_options(self) -> None:
        for name, value in (("enlarge", self.enlarge), ("ratio", self.ratio)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"pipeline: {name} is {value}; expected a number above 0")
        for name, number in (("batch_size", self.batch_size), ("count", self.count)):
            if number is not None and number < 1:
                raise UsageError(f"pipeline: {name} is {number}; expected 1 or more")
        if self.only is not None and "labels" not in self.first.fills:
            raise UsageError(f"pipeline: only is {', '.join(self.only)}, and the first model fills no labels")
        for name in self.only or ():
            if name not in self.first.classes:
                known = self.first.classes
                raise UsageError(
                    f"pipeline: only has {name!r}{suggest(name, known)}; classes of the first model: {', '.join(known)}"
                )
        if self.scores not in get_args(Joined):
            raise UsageError(f"pipeline: scores is {self.scores!r}; expected {', '.join(get_args(Joined))}")
        for model, name in ((self.first, "first"), (self.second, "second")):
            if self.scores == name and "scores" not in model.fills:
                raise UsageError(f"pipeline: scores is {name!r}, and the {name} model ({_told(model)}) fills none")
        if self.score > 0 and "scores" not in self.first.fills:
            raise UsageError(f"pipeline: score is {self.score}, and the first model ({_told(self.first)}) fills none")

        of_crops = {"enlarge": 1.0, "ratio": None, "scores": "product"}
        for name, default in of_crops.items() if self.second.takes else ():
            if getattr(self, name) != default:
                raise UsageError(
                    f"pipeline: {name} is {getattr(self, name)!r}, and the second model ({_told(self.second)}) is fed "
                    "no crops, but the image and what it takes"
                )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """There are none.

        Raises:
            UsageError: always; the models are trained one by one.
        """
        raise UsageError("pipeline: it is not trained as one; train its models one by one and make a pipeline of them")

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Output]:
        """What both find, in the coordinates of the batch's images."""
        images = [image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.sizes, strict=True)]
        found = [self._chosen(output) for output in self._found(images, batch)]
        if self.second.takes:
            values = {name: [getattr(one, FOUND_IN[name]) for one in found] for name in self.second.takes}
            outputs = self.second.predict(self._whole_batch(images, batch, values))
            return [from_view(o, View(o.size), size, None) for o, size in zip(outputs, batch.sizes, strict=True)]
        crops = [
            Crop.around(box, image, self.ratio, self.enlarge)
            for image, output in zip(images, found, strict=True)
            for box in _boxes(output)
        ]
        # without any, one crop is looked at whose result is thrown away: it tells the shapes of what is empty
        seen = self._seen(crops or [Crop(images[0], 0, 0, *batch.sizes[0])])
        empty = {name: value[:0] for name, value in given(seen[0]).items()}
        results, done = [], 0
        for output in found:
            mine = seen[done : done + count(output)] if crops else []
            done += count(output)
            results.append(self._joined(output, mine, empty))
        return results

    def probe(self, batch: Batch) -> Tensor:
        """The outputs of the first model, and those of the second for each whole image."""
        images = [image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.sizes, strict=True)]
        parts = [self.first.probe(self._batch_for_first(images, batch))]
        if self.second.takes:
            values = {name: [find_input(name).example(image) for image in images] for name in self.second.takes}
            parts.append(self.second.probe(self._whole_batch(images, batch, values)))
        else:
            whole = [Crop(image, 0, 0, *size) for image, size in zip(images, batch.sizes, strict=True)]
            parts += [self.second.probe(self._batch_for_second([crop])) for crop in whole]
        return torch.cat([part.float().flatten() for part in parts])

    # ---- the first model

    def _batch_for_first(self, images: Sequence[Tensor], batch: Batch) -> Batch:
        spec = self.first.input
        fed = Batch.of([fit(image, spec) for image in images], size_divisor=spec.size_divisor)
        fed.inputs = resized_inputs(batch.inputs, batch.sizes, fed.sizes)
        return fed

    def _found(self, images: Sequence[Tensor], batch: Batch) -> list[Output]:
        """What the first model finds, in the coordinates of the images."""
        outputs = self.first.predict(self._batch_for_first(images, batch))
        return [
            from_view(output, View(output.size), size, None) for output, size in zip(outputs, batch.sizes, strict=True)
        ]

    def _chosen(self, output: Output) -> Output:
        """The instances that the second model is run on."""
        if self.score > 0:
            output = above(output, self.score)
        if self.only is not None and output.labels is not None:
            wanted = output.labels.new_tensor([self.first.classes.index(name) for name in self.only])
            output = select(output, torch.isin(output.labels, wanted))
        if self.count is not None and count(output) > self.count:
            best = slice(self.count) if output.scores is None else output.scores.argsort(descending=True, stable=True)
            output = select(select(output, best), slice(self.count))
        return output

    # ---- the second model

    def _whole_batch(self, images: Sequence[Tensor], batch: Batch, values: dict[str, list[Tensor]]) -> Batch:
        """The images as the second model is fed them, with what it takes."""
        spec = self.second.input
        fed = Batch.of([fit(image, spec) for image in images], size_divisor=spec.size_divisor)
        fed.inputs = resized_inputs(values, batch.sizes, fed.sizes)
        return fed

    def _batch_for_second(self, crops: Sequence[Crop]) -> Batch:
        spec = self.second.input
        return Batch.of([fit(crop.pixels(spec.mean), spec) for crop in crops], size_divisor=spec.size_divisor)

    def _seen(self, crops: Sequence[Crop]) -> list[Output]:
        """What the second model finds in each of ``crops``, in the coordinates of the crop's image; crops of one size
        are fed together, ``batch_size`` at once."""
        seen: dict[int, Output] = {}
        for group in _groups([self.second.input.resized(crop.height, crop.width) for crop in crops], self.batch_size):
            outputs = self.second.predict(self._batch_for_second([crops[i] for i in group]))
            for index, output in zip(group, outputs, strict=True):
                if count(output) > 1:
                    raise UsageError(
                        f"pipeline: the second model ({_told(self.second)}) finds {count(output)} instances in a crop; "
                        "expected one at most"
                    )
                crop = crops[index]
                size = (int(crop.image.shape[-2]), int(crop.image.shape[-1]))
                seen[index] = from_crop(output, crop.left, crop.top, (crop.height, crop.width), size)
        return [seen[index] for index in range(len(crops))]

    # ---- both

    def _joined(self, output: Output, seen: Sequence[Output], empty: dict[str, Tensor]) -> Output:
        """What the first found in an image, with what the second has ``seen`` in the crop of each instance."""
        kept = [index for index, one in enumerate(seen) if count(one)]
        output = select(output, torch.tensor(kept, dtype=torch.int64, device=_boxes(output).device))
        theirs = {name: torch.cat([getattr(seen[i], name) for i in kept]) if kept else empty[name] for name in empty}
        for name, value in theirs.items():
            if FIELDS[name].shape == "KHW" and not len(value):
                theirs[name] = value.new_zeros((0, *output.size))
        own = output.scores
        values: dict[str, Any] = {name: None for name in given(output) if _replaced(name, self.second.fills)}
        values |= theirs
        if own is not None and "scores" in theirs:
            both = {"product": own * theirs["scores"], "first": own, "second": theirs["scores"]}
            values["scores"] = both[self.scores]
        joined = replace(output, values)
        if joined.scores is None:
            return joined
        return select(joined, joined.scores.argsort(descending=True, stable=True))


class Crop(NamedTuple):
    """A part of an ``image`` [C,H,W] of whole pixels, from row ``top`` and column ``left`` on; it may reach beyond the
    image."""

    image: Tensor
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, box: Tensor, image: Tensor, ratio: float | None, enlarge: float) -> Crop:
        """The smallest crop that holds ``box`` [4] after it was cut off at the image's border, brought to ``ratio``
        (height / width) and enlarged; at least one pixel.

        Raises:
            UsageError: the box is not finite.
        """
        if not bool(box.isfinite().all()):
            raise UsageError(f"pipeline: the first model gives the box {box.tolist()}; expected finite numbers")
        limits = box.new_tensor([image.shape[-1], image.shape[-2]]).repeat(2)
        x1, y1, x2, y2 = box.clamp(min=0).minimum(limits).tolist()
        width, height = max(1.0, x2 - x1), max(1.0, y2 - y1)
        if ratio is not None:
            width, height = max(width, height / ratio), max(height, width * ratio)
        left, right = _span((x1 + x2) / 2, width * enlarge)
        top, bottom = _span((y1 + y2) / 2, height * enlarge)
        return cls(image, top, left, bottom - top, right - left)

    def pixels(self, fill: Sequence[float]) -> Tensor:
        """The crop [C,h,w]; beyond the image, the colour ``fill``."""
        height, width = self.image.shape[-2:]
        y1, x1 = max(0, self.top), max(0, self.left)
        y2, x2 = min(height, self.top + self.height), min(width, self.left + self.width)
        inside = self.image[:, y1:y2, x1:x2]
        if inside.shape[-2:] == (self.height, self.width):
            return inside
        crop = inside.new_tensor(fill).view(-1, 1, 1).repeat(1, self.height, self.width)
        crop[:, y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left] = inside
        return crop


def _span(center: float, length: float) -> tuple[int, int]:
    """The first pixel and the one behind the last that hold ``length`` about ``center``; at least one pixel."""
    start = math.floor(center - length / 2 + ROUNDING)
    return start, max(start + 1, math.ceil(center + length / 2 - ROUNDING))


def _groups(sizes: Sequence[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """The indices of equal ``sizes``, at most this many together."""
    places: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        places.setdefault(size, []).append(index)
    for indices in places.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]


def _boxes(output: Output) -> Tensor:
    assert output.boxes is not None
    return output.boxes


def _replaced(name: str, fills: frozenset[str]) -> bool:
    """Whether a second model that ``fills`` these gives what the user receives from the first one's field ``name``."""
    return FIELDS[name].gives in {FIELDS[other].gives for other in fills}


def _told(model: Model) -> str:
    return f"{type(model).__name__}, which fills {', '.join(sorted(model.fills))}"


def _check_models(first: Model, second: Model) -> None:
    """Raise a :class:`UsageError` unless the two fit together."""
    for name, model in (("first", first), ("second", second)):
        if not isinstance(model, Model):
            raise UsageError(f"pipeline: {name} is {model!r}; expected a model, such as scenewise.load gives")
    for name in ("channels", "bits"):
        one, other = getattr(first.input, name), getattr(second.input, name)
        if one != other:
            raise UsageError(
                f"pipeline: the first model takes images of {one} {name}, the second of {other}; expected the same"
            )
    if "boxes" not in first.fills:
        raise UsageError(
            f"pipeline: the first model ({_told(first)}) finds no boxes; expected one that does, as a detector"
        )
    if second.takes:
        lacking = sorted(name for name in second.takes if FOUND_IN.get(name) not in first.fills)
        if lacking:
            raise UsageError(
                f"pipeline: the second model ({_told(second)}) takes {', '.join(lacking)} beside the image, which the "
                f"first ({_told(first)}) does not find"
            )
        return
    fitting = [name for name, field in FIELDS.items() if field.output and field.shifts and name != "boxes"]
    wrong = sorted(name for name in second.fills if name not in fitting)
    if wrong:
        raise UsageError(
            f"pipeline: the second model ({_told(second)}) fills {wrong[0]}, which can't become that of the first "
            f"one's object; expected one that fills some of {', '.join(fitting)}"
        )
    also = sorted(name for name in first.fills if name in OF_CLASSES and not _replaced(name, second.fills))
    if "labels" in second.fills and also and first.classes != second.classes:
        raise UsageError(
            f"pipeline: the second model ({_told(second)}) has classes of its own, and {also[0]} of the first refers "
            f"to others ({', '.join(first.classes)})"
        )
