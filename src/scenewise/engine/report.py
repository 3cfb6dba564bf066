"""What a run without a recipe begins and ends with: its choices as a table, pictures, the commands that come next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from scenewise.data import DataSet
from scenewise.draw.pages import side_by_side
from scenewise.engine.building import open_validation_data
from scenewise.engine.defaults import Start
from scenewise.engine.evaluate import choose_metrics
from scenewise.engine.log import flattened
from scenewise.engine.predict import Predictor
from scenewise.engine.progress import duration
from scenewise.engine.run import Run
from scenewise.fields.table import plain_target, take_inputs
from scenewise.files.atomic import atomic_path, make_folder
from scenewise.metrics.table import scores_of, smaller_is_better
from scenewise.model import Model
from scenewise.recipe import Recipe
from scenewise.results.picture import draw_sample
from scenewise.results.prediction import Prediction
from scenewise.weights.load import load

JUDGED = 60  # validation images at most, evenly spread, among which the best and the worst are looked for
SHOWN = 3  # of each
SURE = 0.5  # the score from which an object is drawn


def tell_start(start: Start, console: Console) -> None:
    """Print what was chosen and why, and how long it will take."""
    console.print(start.headline, highlight=False, markup=False, soft_wrap=True)
    table = Table("", "chosen", "why")
    for row in start.choices:
        table.add_row(*map(escape, row))
    console.print(table)
    for note in start.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"about {duration(60 * start.minutes)} in all, by the first steps' speed; change anything by key=value, such "
        "as image_size=640 epochs=30 batch_size=4 budget=30",
        highlight=False,
        soft_wrap=True,
    )


@dataclass(frozen=True)
class Judged:
    """A validation image, and how well its prediction fits: the score that chose the best epoch, of it alone."""

    index: int
    value: float
    prediction: Prediction


def write_pictures(run: Run, recipe: Recipe) -> tuple[Path, ...]:
    """Draw the best and the worst validation images of ``run``: labels and prediction side by side.

    Returns:
        The files, ``best-1.png``, ... and ``worst-1.png``, ... in the run's folder ``pictures``; none without
        validation.
    """
    data = open_validation_data(recipe)
    if data is None or run.monitor is None or not run.best_checkpoint.is_file():
        return ()
    model = load(run.best_checkpoint)
    data = data.seen_as(model.input)
    judged = _judged(model, data, run.monitor, recipe)
    folder = run.folder / "pictures"
    make_folder(folder)
    count = min(SHOWN, max(1, len(judged) // 2)) if judged else 0
    files = []
    for word, chosen in (("best", judged[:count]), ("worst", judged[::-1][:count])):
        for number, one in enumerate(chosen, 1):
            with atomic_path(folder / f"{word}-{number}.png") as temporary:
                _page(data, one, run.monitor, model).save(temporary, format="PNG")
            files.append(folder / f"{word}-{number}.png")
    return tuple(files)


def _judged(model: Model, data: DataSet, monitor: str, recipe: Recipe) -> list[Judged]:
    """Some images of ``data`` with their predictions, from the best to the worst; those without any truth left out."""
    predictor = Predictor(model)
    found = []
    fewer = False
    step = max(1, math.ceil(len(data) / JUDGED))
    for index in range(0, len(data), step):
        image, target = data.sample(index)
        _, inputs = take_inputs([target])
        prediction = predictor([image.as_subclass(Tensor)], inputs=inputs)[0]
        metrics = choose_metrics(model.fills, data, recipe.metrics).metrics
        for metric in metrics:
            metric.update(prediction, plain_target(target, bitmaps=False))
        value = flattened(scores_of(metrics)).get(monitor)
        fewer = smaller_is_better(metrics, monitor)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append(Judged(index, float(value), prediction))
    return sorted(found, key=lambda one: one.value, reverse=not fewer)


def _page(data: DataSet, one: Judged, monitor: str, model: Model) -> Image.Image:
    """The labels and the prediction of an image, side by side."""
    image, target = data.sample(one.index)
    colors = data.colors
    labels = draw_sample(image, target, data.classes, colors, skeleton=data.skeleton)
    found = one.prediction.draw(image.as_subclass(Tensor), score=SURE, colors=colors)
    name = data.image_id(one.index)
    return side_by_side([(f"{name}: labels", labels), (f"prediction, {monitor} {one.value:.3f}", found)])


def tell_end(run: Run, source: str, console: Console) -> None:
    """Print where the pictures are, and the three commands that come next."""
    if run.pictures:
        best, worst = run.pictures[0], next(file for file in run.pictures if file.name == "worst-1.png")
        console.print(
            f"pictures of its best and worst validation images: {best} to {run.pictures[-1].name}, worst first in "
            f"{worst.name}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print("next:", highlight=False)
    for line in next_commands(run, source):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def next_commands(run: Run, source: str) -> tuple[str, str, str]:
    """To use the model of ``run``, to measure it, and to train on from it."""
    return (
        f"scenewise predict IMAGES --model {run.folder}",
        f"scenewise evaluate {run.folder} --data {source}",
        f"scenewise train {source} init={run.folder} budget=20",
    )
