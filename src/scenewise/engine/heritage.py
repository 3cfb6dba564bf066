"""Before the first step: the weights that a run starts with, what of them is carried over, what it descends from."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from scenewise.engine.progress import Progress
from scenewise.errors import CheckpointError
from scenewise.model import Model
from scenewise.recipe import Recipe
from scenewise.weights.lineage import inherited, of_backbone
from scenewise.weights.load import load
from scenewise.weights.transfer import Transferred, transfer

LEAST = 0.1  # of a model's numbers: what has to be in what it starts with
LISTED = 12  # classes of a kind in the table


def start_weights(model: Model, recipe: Recipe, progress: Progress) -> None:
    """Give ``model`` the weights of the models in the recipe's ``init`` where they fit, of the last of those that do;
    say which stay as they were built, and note terms and lineage in ``model.info``.

    Raises:
        CheckpointError: a checkpoint does not fit, or all of them together have too little in common with the model.
    """
    weights = recipe.arguments.get("backbone_weights")
    if weights is not None and not recipe.sources:
        model.info = {**model.info, **of_backbone(str(recipe.arguments.get("backbone")), str(weights))}
    if not recipe.sources:
        return
    left: dict[str, str] = {}  # the last reason why a tensor stays as it was
    known = []
    for number, source in enumerate(recipe.sources):
        other = load(source, weights_file=recipe.init_weights_file)
        done = transfer(model, other, source)
        left = {key: line for key, line in done.left.items() if number == 0 or key in left}
        known.append((source, other.info))
        if done.by_name and model.classes:
            progress.show(_classes_told(done, source))
    _check_in_common(model, left, recipe)
    model.info = {**model.info, **inherited(known)}
    names = ", ".join(recipe.sources)
    for line in left.values():
        progress.note(f"not in {names}, newly initialised: {line}")
    progress.note(f"starts with {len(model.state_dict()) - len(left)} tensors of {names}")


def _classes_told(done: Transferred, source: str) -> Table:
    """What becomes of the classes of a checkpoint."""
    table = Table(
        "classes", "", title=f"class layers of {escape(source)}, by the names of classes", title_justify="left"
    )
    for what, names in (("carried over", done.carried), ("new", done.new), ("not needed", done.dropped)):
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            table.add_row(what, escape(", ".join(names[:LISTED]) + more))
    return table


def _check_in_common(model: Model, left: dict[str, str], recipe: Recipe) -> None:
    """Raise a :class:`CheckpointError` where less than :data:`LEAST` of the numbers of ``model`` are not ``left``."""
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    share = 1 - sum(sizes[name] for name in left) / max(1, sum(sizes.values()))
    if share < LEAST:
        first = next(iter(left.values()))
        raise CheckpointError(
            f"init is {', '.join(recipe.sources)}: it has {share:.1%} of the model's numbers; the first that it lacks: "
            f"{first}. Leave out the block model, which then is that of the checkpoint, or leave out init"
        )
