"""Options that several commands share, and what becomes of their words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scenewise.errors import UsageError

if TYPE_CHECKING:
    from scenewise.model import Model

ModelOption = Annotated[str, typer.Option("--model", "-m", help="A packaged or published name, or a checkpoint.")]
WeightsOption = Annotated[Path | None, typer.Option(help="Published weights as a local file, in place of a download.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
PrecisionOption = Annotated[Literal["32", "bf16", "16"], typer.Option(help="Of the computation; 16 needs a GPU.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Also see the mirrored image, and fuse.")]
ScalesOption = Annotated[str | None, typer.Option(help="Fuse what these sizes of the image show, such as 0.75,1,1.25.")]
TilesOption = Annotated[str | None, typer.Option(help="See the image in overlapping tiles of HxW pixels.")]
BadRecordOption = Annotated[
    Literal["error", "skip", "fix"], typer.Option(help="What to do about a box without an area, and the like.")
]
NeedsOption = Annotated[str | None, typer.Option(help="Target fields, such as boxes+keypoints, to choose a reader by.")]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cpu or cuda; by default the GPU if there is one.")]


def load_model(model: str, weights_file: Path | None) -> Model:
    """The model of that name."""
    from scenewise.weights.load import load

    return load(model, weights_file=weights_file)


def inputs_of(proposals: Path | None) -> dict[str, Path]:
    """The files of further inputs, by name."""
    return {} if proposals is None else {"proposals": proposals}


def device_of(name: str | None) -> Any:
    """The device of that name; the GPU, if there is one, where none is given."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r}: {str(error).splitlines()[0]}") from None


def procedures_of(model: Any, tiles: str | None, scales: str | None, flip: bool) -> list[Any]:
    """The inference procedures, the innermost first."""
    from scenewise.engine.augmented import Augmented
    from scenewise.engine.tiles import Tiles

    found: list[Any] = []
    if tiles is not None:
        try:
            height, width = (int(part) for part in tiles.lower().split("x"))
        except ValueError:
            raise UsageError(f"--tiles is {tiles!r}; expected HEIGHTxWIDTH in pixels, such as 512x512") from None
        found.append(Tiles((height, width)))
    if scales is not None or flip:
        try:
            factors = tuple(float(part) for part in (scales or "1").split(","))
        except ValueError:
            raise UsageError(f"--scales is {scales!r}; expected numbers with commas, such as 0.75,1,1.25") from None
        divisor = model.input.size_divisor
        found.append(Augmented(scales=factors, flip=flip, size_divisor=divisor, skeleton=model.skeleton))
    return found
