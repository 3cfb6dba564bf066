"""How fast this machine trains: the first steps of a run, on a model that is thrown away."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from scenewise.data import DataSet
from scenewise.data.loader import random_states_kept, training_batches
from scenewise.engine.allocator import keep_memory
from scenewise.engine.building import build_model, open_training_data, open_validation_data, training_transform
from scenewise.engine.predict import predict_images
from scenewise.model import Model
from scenewise.nn.arrange import arrange_for_training
from scenewise.recipe import Recipe

STEPS = 3  # that are measured, after one that is not
MARGIN = 1.1  # what a step takes besides: logs, saved states, a machine that does other work


@dataclass(frozen=True)
class Pace:
    """What was measured.

    Attributes:
        step: seconds of an optimizer step.
        image: seconds of validating an image.
        images, validated: of the training and the validation part.
        memory: bytes that a step takes per image of its batch, besides what the process had before; 0 where that is not
            known.
    """

    step: float
    image: float
    images: int
    validated: int
    memory: float

    def seconds(self, recipe: Recipe) -> float:
        """What training by ``recipe`` takes, as far as it follows from what was measured."""
        settings = recipe.trainer
        steps = settings.epochs * (self.images // (settings.batch_size * settings.accumulate))
        validations = -(-settings.epochs // settings.validate_every)
        return MARGIN * (steps * self.step + validations * self.validated * self.image)


def measure(recipe: Recipe) -> Pace:
    """The pace of a run by ``recipe``; random states stay as they are, and nothing is written.

    Raises:
        UsageError, DataError: the recipe does not fit its data.
    """
    lean = recipe.model_copy(update={"data": recipe.data.model_copy(update={"class_weights": None})})
    data, validation = open_training_data(lean), open_validation_data(lean)
    on_gpu = recipe.trainer.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if device.type == "cpu":
        keep_memory()
    with random_states_kept():
        model = build_model(lean, data, validation)
        arrange_for_training(model)
        model.to(device)
        before = _memory(device)
        step = _seconds_of_a_step(recipe, model, data.seen_as(model.input), device)
        memory = max(0.0, _memory(device) - before) / min(recipe.trainer.batch_size, len(data))
        image = 0.0 if validation is None else _seconds_of_an_image(model, validation.seen_as(model.input), device)
    return Pace(step, image, len(data), 0 if validation is None else len(validation), memory)


def _seconds_of_a_step(recipe: Recipe, model: Model, data: DataSet, device: torch.device) -> float:
    """The median of some optimizer steps; with a learning rate of 0."""
    settings = recipe.trainer
    size = min(settings.batch_size, len(data))
    batches = training_batches(
        data,
        [[(0, (step * size + i) % len(data)) for i in range(size)] for step in range(STEPS + 1)],
        transform=training_transform(recipe, model.input),
        seed=settings.seed,
        needs=model.needs,
        takes=model.takes,
        size_divisor=model.input.size_divisor,
        workers=0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model.train()
    taken, start = [], time.perf_counter()
    for batch in batches:
        loss = torch.stack([*model.losses(batch.to(device)).values()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the GPU
        taken.append(time.perf_counter() - start)
        start = time.perf_counter()
    return median(taken[1:]) * settings.accumulate


def _seconds_of_an_image(model: Model, data: DataSet, device: torch.device) -> float:
    """The last of some validation images: reading and prediction."""
    model.eval()
    taken = 0.0
    with torch.inference_mode():
        for index in range(min(STEPS, len(data))):
            start = time.perf_counter()
            picture = data.sample(index)[0].as_subclass(Tensor)
            predict_images(model.predict, model.input, [picture], device)
            taken = time.perf_counter() - start
    return taken


def _memory(device: torch.device) -> float:
    """The most bytes that the process has had on ``device``; 0 where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
