"""Prediction: from any image to a :class:`Prediction` in that image's own coordinates.

image -> resized as the model's InputSpec says -> batch -> Model.predict -> mapped back to the image
                                                   └ procedures (tiles, flips, ...) stand around it ┘
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from scenewise.data.loader import to_float
from scenewise.engine.allocator import keep_memory
from scenewise.engine.fusion import Predictor as Predict
from scenewise.errors import UsageError
from scenewise.files.images import as_image
from scenewise.model import Model
from scenewise.nn.folding import fold_batchnorm
from scenewise.ops.masks import paste_masks
from scenewise.ops.resize import resize_argmax
from scenewise.types import Batch, InputSpec, Prediction

Precision = Literal["32", "bf16", "16"]
Procedure = Callable[[Predict], Predict]  # such as engine.tiles.Tiles and engine.augmented.Augmented
ImageLike = Any  # a path, a PIL image, a uint8 array [H,W,3], or a tensor [3,H,W]


class Predictor:
    """A model made ready to predict: a copy with folded batch-norms and channels-last weights, in some precision.

    Making one costs about as much as one prediction; keep it where many images are predicted one at a time.

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
        self.classes, self.input = model.classes, model.input
        self.model = prepare(model, precision, self.device)
        self.run: Predict = self.model.predict
        for procedure in procedures:
            self.run = procedure(self.run)

    def __call__(self, images: Sequence[Tensor]) -> list[Prediction]:
        """What the model sees in ``images``, uint8 or float 0..1 [3,H,W] each, in their own coordinates, on the CPU.

        They make one batch. Give images of one size: smaller ones are padded, and the padding is seen, too.
        """
        with torch.inference_mode():
            return predict_images(self.run, self.input, images, self.device)


def prepare(model: Model, precision: Precision = "32", device: torch.device | str = "cpu") -> Model:
    """A copy of ``model`` for prediction alone: the same numbers, faster.

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
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        if any(isinstance(m, torch.nn.BatchNorm2d) for m in ready.modules()):
            fold_batchnorm(ready, _probe(ready))
    if precision != "32":
        ready = ready.to(torch.bfloat16 if precision == "bf16" else torch.float16)
    return ready.to(device).to(memory_format=torch.channels_last)


def _probe(model: Model) -> Callable[[], Tensor]:
    """Runs ``model`` on a small random image and gives all that it fills, as one flat tensor."""
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)).to(model.device)
    batch = Batch.of([image], size_divisor=model.input.size_divisor)

    return lambda: model.probe(batch)


def predict(
    model: Model,
    images: ImageLike | Iterable[ImageLike],
    *,
    score: float = 0.0,
    precision: Precision = "32",
    procedures: Sequence[Procedure] = (),
    device: torch.device | str | None = None,
) -> Any:
    """What ``model`` sees in one image or in several.

    Args:
        model: any scenewise model.
        images: a path, a PIL image, a uint8 array [H,W,3] or a tensor [3,H,W] (uint8, or float 0..1); or several of
            them in a list, tuple or generator.
        score: instances below it are left out.
        precision, procedures, device: see :class:`Predictor`.

    Returns:
        A :class:`Prediction` for one image, a list of them for several; in each image's own coordinates, on the CPU.

    Raises:
        DataError: a file can't be read. UsageError: a value is no image.

    Example:
        >>> result = predict(load("street-scenes"), "street.jpg")
        >>> result.shares()
        {'road': 0.31, 'building': 0.24, ...}
    """
    predictor = Predictor(model, precision=precision, procedures=procedures, device=device)
    if isinstance(images, list | tuple) or (isinstance(images, Iterable) and not _is_image(images)):
        return [_predict_one(predictor, image, score) for image in images]
    return _predict_one(predictor, images, score)


def _is_image(value: Any) -> bool:
    return isinstance(value, str | Path | Tensor) or hasattr(value, "__array_interface__")


def _predict_one(predictor: Predictor, source: ImageLike, score: float) -> Prediction:
    image, name = as_image(source)
    found = predictor([image])[0]
    return dataclasses.replace(found, source=name).above(score)


def predict_images(
    predict: Predict,
    spec: InputSpec,
    images: Sequence[Tensor],
    device: Any = "cpu",
    *,
    proposals: Sequence[Tensor] = (),
) -> list[Prediction]:
    """What ``predict`` sees in ``images`` (uint8 or float [3,H,W] each), in their own coordinates, on the CPU.

    The images are resized as ``spec`` says and make one batch; they should have one size, or padding is fed, too.
    ``proposals``, boxes [P,4] in the coordinates of each image or none at all, are for systems that take them.
    """
    fed = []
    for image in images:
        fed.append(fit(image, spec))
    batch = Batch.of(fed, size_divisor=spec.size_divisor)
    if proposals:
        batch.proposals = [
            boxes.as_subclass(Tensor) * boxes.new_tensor([w / image.shape[-1], h / image.shape[-2]]).repeat(2)
            for boxes, image, (h, w) in zip(proposals, images, batch.sizes, strict=True)
        ]
    found = predict(batch.to(device))
    return [restore(p, (image.shape[-2], image.shape[-1])) for p, image in zip(found, images, strict=True)]


def fit(image: Tensor, spec: InputSpec) -> Tensor:
    """``image`` (uint8 or float [3,H,W]) as float32 0..1, resized as ``spec`` says."""
    size = list(spec.resized(*image.shape[-2:]))
    if size == list(image.shape[-2:]):
        return to_float(image)
    if spec.antialias:
        return to_float(F.resize(image, size, antialias=True)).clamp_(0, 1)
    return torch.nn.functional.interpolate(to_float(image)[None], size, mode="bilinear")[0]


def restore(prediction: Prediction, size: tuple[int, int]) -> Prediction:
    """``prediction`` in the coordinates of an image of ``size`` (height, width) that was resized for the model.

    Boxes and keypoints are scaled; masks in the frames of their boxes are pasted into the image; class scores are
    resized bilinearly before the best class is chosen.
    """
    height, width = size[0] / prediction.size[0], size[1] / prediction.size[1]
    changed: dict[str, Any] = {"size": size, "semantic_logits": None, "roi_masks": None}
    if prediction.semantic_logits is not None:
        changed["semantic"] = resize_argmax(prediction.semantic_logits, size)
    if prediction.boxes is not None:
        changed["boxes"] = prediction.boxes * prediction.boxes.new_tensor([width, height, width, height])
    if prediction.masks is not None:
        changed["masks"] = F.resize(prediction.masks, list(size), InterpolationMode.NEAREST_EXACT)
    if prediction.roi_masks is not None:
        changed["masks"] = paste_masks(prediction.roi_masks, changed["boxes"], size)
    if prediction.keypoints is not None:
        changed["keypoints"] = prediction.keypoints * prediction.keypoints.new_tensor([width, height, 1])
    return dataclasses.replace(prediction, **changed).to("cpu")
