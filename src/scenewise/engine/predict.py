"""Prediction: from any image to a :class:`~scenewise.results.prediction.Prediction` in that image's own coordinates.

image -> resized as the model's InputSpec says -> batch -> Model.predict -> mapped back to the image
                                                   └ procedures (tiles, flips, ...) stand around it ┘
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from scenewise.engine.allocator import keep_memory
from scenewise.engine.fusion import Predict
from scenewise.engine.sources import image_files, model_named
from scenewise.errors import UsageError
from scenewise.fields.table import find_input, resized_inputs
from scenewise.files.images import as_image
from scenewise.model import Model
from scenewise.nn.arrange import arrange_for_prediction
from scenewise.nn.folding import fold_batchnorm
from scenewise.nn.machine import warn_of_bf16
from scenewise.ops.resize import fit
from scenewise.results.prediction import Prediction
from scenewise.types import Batch, InputSpec, Output

Precision = Literal["32", "bf16", "16"]
Procedure = Callable[[Predict], Predict]  # such as engine.tiles.Tiles and engine.augmented.Augmented
ImageLike = Any  # a path, a PIL image, a uint8 array [H,W,3], or a tensor [3,H,W]


class Predictor:
    """A model made ready to predict: a copy with folded batch-norms and channels-last weights, in some precision.

    Making that copy costs about as much as one prediction. It is kept as long as ``model`` lives, for the next
    predictor of the same precision and device, and made anew where anything in the model has changed since.

    Args:
        model: is not changed.
        precision: ``"32"``, or half precision ``"bf16"`` or ``"16"`` (GPU only) of weights and activations.
        procedures: inference procedures around ``Model.predict``, the first innermost.
        device: where to compute; the model's own by default.
    """

    def __init__(
        self,
        model: Model,
        *,
        precision: Precision = "32",
        procedures: Sequence[Procedure] = (),
        device: torch.device | str | None = None,
    ) -> None:
        self.device = torch.device(device) if device is not None else model.device
        self.classes, self.input, self.skeleton = model.classes, model.input, model.skeleton
        self.takes = model.takes
        self.model = ready(model, precision, self.device)
        self.run: Predict = self.model.predict
        for procedure in procedures:
            self.run = procedure(self.run)

    def __call__(
        self, images: Sequence[Tensor], *, inputs: Mapping[str, Sequence[Tensor]] | None = None
    ) -> list[Prediction]:
        """What the model finds in ``images``, uint8 or float 0..1 [3,H,W] each, in their own coordinates, on the CPU.

        They make one batch. Give images of one size: smaller ones are padded, and the padding is fed, too. ``inputs``
        are what the model takes besides, by name, one per image and in its coordinates.
        """
        check_inputs(self.takes, inputs or {})
        with torch.inference_mode():
            found = predict_images(self.run, self.input, images, self.device, inputs=inputs)
        return [
            Prediction.of(output, (image.shape[-2], image.shape[-1]), self.classes, self.skeleton)
            for output, image in zip(found, images, strict=True)
        ]


def check_inputs(takes: frozenset[str], names: Iterable[str]) -> None:
    """Raise a :class:`UsageError` unless a model that takes these inputs takes all that are named."""
    for name in names:
        if name not in takes:
            known = ", ".join(sorted(takes)) or "none"
            raise UsageError(f"the model takes no input {name!r}; inputs that it takes: {known}")


def ready(model: Model, precision: Precision = "32", device: torch.device | str = "cpu") -> Model:
    """What :func:`prepare` makes of ``model``, kept with it; made anew where its weights, its attributes, the mode, the
    precision or the device are others than before."""
    mark = [precision, str(device), *_contents(model)]
    kept = _READY.pop(model, None)  # one of a kind at a time
    if kept is None or len(kept[0]) != len(mark) or not all(map(_same, kept[0], mark)):
        kept = (mark, prepare(model, precision, device))
    _READY[model] = kept
    return kept[1]


_READY: WeakKeyDictionary[Model, tuple[list[Any], Model]] = WeakKeyDictionary()


def _contents(model: Model) -> list[Any]:
    """All that a prepared copy depends on: attributes of every module, and each tensor's place, version and bits' sum.

    The last finds changes through ``tensor.data``, which no version counts. This is done at each call of ``predict``,
    and has to cost next to nothing beside it.
    """
    found: list[Any] = []
    for module in model.modules():
        attributes = vars(module)
        found.append(tuple(attributes))
        found += [len(value) if isinstance(value, dict) else value for value in attributes.values()]
    tensors = [*model.parameters(), *model.buffers()]
    found.append(tuple(tensor.data_ptr() for tensor in tensors))
    found.append(tuple(None if tensor.is_inference() else tensor._version for tensor in tensors))
    with torch.no_grad():
        found.append(tuple(map(_sum_of_bits, tensors)))
    return found


def _sum_of_bits(values: Tensor) -> int:
    """The sum of ``values`` as whole numbers of 64 bits, modulo 2^64: it is exact, so that no change of a single one
    gets lost. Where their bytes make no such numbers, of smaller ones."""
    size = values.element_size()
    whole = values.numel() * size % 8 == 0
    words = values.detach().reshape(-1).view(torch.int64 if whole else _WORDS[size])
    return int(np.add.reduce(words.numpy())) if words.device.type == "cpu" else int(words.sum())


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by their bytes


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, bool | int | float | str | tuple) and one == other)


def prepare(model: Model, precision: Precision = "32", device: torch.device | str = "cpu") -> Model:
    """A copy of ``model`` for prediction alone: the same numbers, faster.

    Warns, once, where bf16 is asked of a CPU that has no instructions for it.

    Raises:
        UsageError: float16 on the CPU.
    """
    device = torch.device(device)
    if precision not in ("32", "bf16", "16"):
        raise UsageError(f"precision is {precision!r}; expected '32', 'bf16' or '16'")
    if precision == "16" and device.type == "cpu":
        raise UsageError("precision 16 needs a GPU; on the CPU give bf16 or 32")
    if device.type == "cpu":
        keep_memory()
        if precision == "bf16":
            warn_of_bf16()
    ready = arrange_for_prediction(copy.deepcopy(model).eval().requires_grad_(False))
    with torch.inference_mode(False), torch.no_grad():
        if any(isinstance(m, torch.nn.BatchNorm2d) for m in ready.modules()):
            fold_batchnorm(ready, _probe(ready))
    if precision != "32":
        ready = ready.to(torch.bfloat16 if precision == "bf16" else torch.float16)
    return ready.to(device).to(memory_format=torch.channels_last)


def _probe(model: Model) -> Callable[[], Tensor]:
    """Runs ``model`` on a small random image and returns all that it fills, as one flat tensor."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(model.input.channels, 96, 128, generator=generator).to(model.device)
    inputs = {name: [find_input(name).example(image)] for name in model.takes}
    batch = Batch.of([image], size_divisor=model.input.size_divisor, inputs=inputs)

    return lambda: model.probe(batch)


def predict(
    model: Model | str | Path,
    images: ImageLike | Iterable[ImageLike],
    *,
    score: float = 0.0,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    precision: Precision = "32",
    procedures: Sequence[Procedure] = (),
    device: torch.device | str | None = None,
) -> Any:
    """What ``model`` finds in one image or in several.

    Args:
        model: any scenewise model, or what :func:`~scenewise.weights.load.load` takes: a packaged or published name, a
            checkpoint's path, the folder of a run.
        images: a path, a PIL image, an array [H,W,3] or a tensor [3,H,W] (uint8, or floats in 0..1); or several of them
            in a list, tuple or generator; or the path of a folder or a glob, whose images are taken in the order of
            their names.
        score: instances below it are left out.
        inputs: what the model takes besides, by name, such as ``{"proposals": boxes}``; one such mapping per image
            where there are several.
        precision, procedures, device: see :class:`Predictor`.

    Returns:
        A :class:`~scenewise.results.prediction.Prediction` for one image, a list of them for several; in each image's
        own coordinates, on the CPU.

    Raises:
        DataError: a file can't be read. UsageError: a value is no image, or the model takes no such input.

    Example:
        >>> result = predict(load("street-scenes"), "street.jpg")
        >>> result.shares()
        {'road': 0.31, 'building': 0.24, ...}
    """
    if isinstance(model, str | Path):
        model = model_named(model)
    predictor = Predictor(model, precision=precision, procedures=procedures, device=device)
    if isinstance(images, str | Path):
        images = image_files(images) or images
    if isinstance(images, list | tuple) or (isinstance(images, Iterable) and not _is_image(images)):
        several = list(images)
        if inputs is None or isinstance(inputs, Mapping):
            if inputs:
                raise UsageError("inputs: expected one mapping per image, as there are several images")
            inputs = [{}] * len(several)
        if len(inputs) != len(several):
            raise UsageError(
                f"inputs: found {len(inputs)} mappings; expected one for each of the {len(several)} images"
            )
        return [_predict_one(predictor, image, more, score) for image, more in zip(several, inputs, strict=True)]
    if inputs is not None and not isinstance(inputs, Mapping):
        raise UsageError("inputs: expected a mapping from names to values, as there is one image")
    return _predict_one(predictor, images, inputs or {}, score)


def _is_image(value: Any) -> bool:
    return isinstance(value, str | Path | Tensor) or hasattr(value, "__array_interface__")


def _predict_one(predictor: Predictor, source: ImageLike, inputs: Mapping[str, Any], score: float) -> Prediction:
    image, name = as_image(source, predictor.input.channels, predictor.input.bits)
    given = {key: [find_input(key).read(value)] for key, value in inputs.items()}
    found = predictor([image], inputs=given)[0]
    found.source = name
    return found.above(score)


def predict_images(
    predict: Predict,
    spec: InputSpec,
    images: Sequence[Tensor],
    device: Any = "cpu",
    *,
    inputs: Mapping[str, Sequence[Tensor]] | None = None,
) -> list[Output]:
    """What ``predict`` returns for ``images`` (uint8 or float [3,H,W] each), in the coordinates of what it was fed.

    The images are resized as ``spec`` says and make one batch; they should have one size, or padding is fed, too.
    ``inputs``, one per image and in its coordinates, are resized with them.
    """
    batch = Batch.of([fit(image, spec) for image in images], size_divisor=spec.size_divisor)
    if inputs:
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch.inputs = resized_inputs({k: list(v) for k, v in inputs.items()}, sizes, batch.sizes)
    return predict(batch.to(device))
