"""``load``: a model by a packaged or published name, or from a checkpoint's path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from scenewise.errors import CheckpointError, UsageError, suggest
from scenewise.model import Model
from scenewise.weights.checkpoint import load_checkpoint

PACKAGED = ("street-scenes", "blood-cells", "nuclei")  # names of the checkpoints in scenewise/weights


def load(model: str | Path, *, weights_file: str | Path | None = None) -> Model:
    """A model in evaluation mode.

    Args:
        model: the name of a model that comes with scenewise (``street-scenes``, ``blood-cells``, ``nuclei``), of
            published weights (``torchvision/deeplabv3_resnet50``), or a checkpoint's path.
        weights_file: for published weights: a local file in their own format, in place of a download.

    Raises:
        CheckpointError: the file is missing or does not fit.
        DownloadError: published weights could not be fetched or verified.
    """
    name = str(model)
    if name in PACKAGED:
        if weights_file is not None:
            raise UsageError(f"load: weights_file goes with published weights, not with {name!r}")
        with resources.as_file(resources.files("scenewise") / "weights" / f"{name}.safetensors") as path:
            return load_checkpoint(path)
    from scenewise.weights.published import PUBLISHED, load_published

    if name in PUBLISHED:
        return load_published(name, weights_file)
    if weights_file is not None:
        raise UsageError(
            f"load: there are no published weights {name!r}{suggest(name, PUBLISHED)}; known: {', '.join(PUBLISHED)}"
        )
    if not Path(model).exists():
        known = [*PACKAGED, *PUBLISHED]
        raise CheckpointError(
            f"{name}: neither a file nor a known name{suggest(name, known)}; known names: {', '.join(known)}"
        )
    return load_checkpoint(model)
