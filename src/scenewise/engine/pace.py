"""How fast this machine trains: the first steps of a run, on a model that is thrown away."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from scenewise.data.loader import random_states_kept, training_batches
from scenewise.engine.allocator import keep_memory
from scenewise.engine.building import build_model, open_training_data, open_validation_data, training_transform
from scenewise.engine.predict import predict_images
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
    settings = recipe.trainer
    device = torch.device("cuda" if settings.accelerator in ("auto", "cuda") and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_memory()
    with random_states_kept():
        model = build_model(lean, data, validation)
        data = data.seen_as(model.input)
        arrange_for_training(model)
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
        size = min(settings.batch_size, len(data))
        places = [[(0, (step * size + i) % len(data)) for i in range(size)] for step in range(STEPS + 1)]
        batches = iter(
            training_batches(
                data,
                places,
                transform=training_transform(recipe, model.input),
                seed=settings.seed,
                needs=model.needs,
                takes=model.takes,
                size_divisor=model.input.size_divisor,
                workers=0,
            )
        )
        before = _memory(device)
        taken = []
        for _ in range(STEPS + 1):
            start = time.perf_counter()
            terms = model.losses(next(batches).to(device))
            loss = torch.stack([*terms.values()]).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            taken.append(time.perf_counter() - start)
        memory = max(0.0, _memory(device) - before) / size
        image = 0.0
        if validation is not None:
            seen = validation.seen_as(model.input)
            model.eval()
            with torch.inference_mode():
                for index in range(min(3, len(seen))):
                    start = time.perf_counter()
                    picture = seen.sample(index)[0].as_subclass(Tensor)
                    predict_images(model.predict, model.input, [picture], device)
                    image = time.perf_counter() - start
    step = median(taken[1:]) * settings.accumulate
    return Pace(step, image, len(data), 0 if validation is None else len(validation), memory)


def _memory(device: torch.device) -> float:
    """The most bytes that the process has had on ``device``, as far as the system tells."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
