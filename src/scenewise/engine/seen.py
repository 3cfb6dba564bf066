"""What training sees: its samples in their order, resized for the model and augmented."""

from __future__ import annotations

from torch import Tensor

from scenewise.catalog import build, options
from scenewise.data.base import DataSet
from scenewise.data.loader import Epochs, TrainingSet
from scenewise.engine.building import open_training_data, training_transform
from scenewise.recipe import Recipe
from scenewise.types import Sample, Target


class TrainingSamples:
    """The samples of one epoch, from 0, of a training run by ``recipe``, exactly as the run sees them.

    The model is built for its input alone, with random weights.

    Attributes:
        data: what the recipe trains on.

    Raises:
        UsageError, DataError: the recipe does not fit its data.
    """

    def __init__(self, recipe: Recipe, epoch: int = 0) -> None:
        self.data: DataSet = open_training_data(recipe)
        without = {name: None for name in ("backbone_weights",) if name in options(recipe.system)}
        model = build(recipe.system, self.data.classes, **{**recipe.arguments, **without})
        self.data = self.data.seen_as(model.input)
        settings = recipe.trainer
        transform = training_transform(recipe, model.input)
        self._set = TrainingSet(self.data, transform, settings.seed, model.needs, model.takes)
        batch = min(settings.batch_size, len(self.data))
        batches = Epochs(len(self.data), batch, seed=settings.seed, epoch=epoch)
        self._places = [place for batch in batches for place in batch]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, position: int) -> tuple[str, Sample, tuple[Tensor, Target]]:
        """The name of the image, its sample in the data set, and what training is fed."""
        epoch, index = self._places[position]
        (seen,) = self._set.__getitems__([(epoch, index)])
        return self.data.image_id(index), self.data.only(self._set.data.fields)[index], seen
