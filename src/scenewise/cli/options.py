"""Options that several commands share, and what becomes of their words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from scenewise.errors import UsageError, suggest

if TYPE_CHECKING:
    from scenewise.model import Model
    from scenewise.types import Skeleton

Blend = Literal["mean", "gaussian", "crop"]
Average = Literal["logits", "probabilities"]
How = Literal["mean", "max"]

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A packaged or published name, a checkpoint, or a pipeline's YAML file."),
]
WeightsOption = Annotated[Path | None, typer.Option(help="A local copy of published weights, in place of a download.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")]
PrecisionOption = Annotated[
    Literal["32", "bf16", "16"], typer.Option(help="Numeric precision of the network; 16 needs a GPU.")
]
FlipOption = Annotated[bool, typer.Option("--flip", help="Also predict on the mirrored image, and fuse both.")]
ScalesOption = Annotated[
    str | None, typer.Option(help="Predict at these scales of the image and fuse, such as 0.75,1,1.25.")
]
TurnsOption = Annotated[
    str | None,
    typer.Option(help="Predict on the image turned counterclockwise by these degrees and fuse, such as 0,90,180,270."),
]
FuseOption = Annotated[
    How | None,
    typer.Option(help="How --scales, --turns and --flip are fused: by the mean (the default) or the maximum."),
]
TilesOption = Annotated[str | None, typer.Option(help="Predict in overlapping tiles of HxW pixels, such as 512x512.")]
OverlapOption = Annotated[
    str | None,
    typer.Option(help="Overlap of tiles in pixels, such as 192, or as a share, such as 0.5; by default a third."),
]
BlendOption = Annotated[
    Blend | None,
    typer.Option(
        help="Of overlapping tiles: the mean (the default), a mean weighted towards centres, or centres alone."
    ),
]
AverageOption = Annotated[
    Average | None,
    typer.Option(
        help="Whether logits or probabilities are fused; by default logits of tiles and probabilities of views."
    ),
]
CrfOption = Annotated[
    str | None,
    typer.Option(
        metavar="default|NAME=VALUE,...",
        help="Refine class scores by a fully connected CRF; its parameters, such as position_sigma=50,color_sigma=10.",
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=PATH",
        help="A further input of the model: a file of tensors, or a folder of images, matched by the images' names.",
    ),
]
ProposalsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file of the images' proposals; short for --input proposals=FILE.")
]
SkeletonOption = Annotated[
    str | None,
    typer.Option(
        metavar="coco|lsp|FILE.json", help="The skeleton of the keypoints, where the checkpoint does not state it."
    ),
]
BadRecordOption = Annotated[
    Literal["error", "skip", "fix"], typer.Option(help="What to do about invalid records, such as a box without area.")
]
NeedsOption = Annotated[
    str | None, typer.Option(help="The target fields wanted, such as boxes+keypoints, by which a reader is chosen.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="The device, such as cpu or cuda; by default the GPU if there is one.")
]


def load_model(model: str, weights_file: Path | None, skeleton: str | None = None) -> Model:
    """The model of that name, with the ``skeleton`` of its keypoints where one is given.

    Raises:
        UsageError: there is no such skeleton, or the model fills no keypoints.
    """
    from scenewise.weights.load import load

    loaded = load(model, weights_file=weights_file)
    if skeleton is not None:
        if "keypoints" not in loaded.fills:
            raise UsageError(f"--skeleton is {skeleton!r}, and {model} fills {', '.join(sorted(loaded.fills))}")
        loaded.skeleton = _skeleton_of(skeleton)
    return loaded


def _skeleton_of(word: str) -> Skeleton:
    from scenewise.fields.keypoints import SKELETONS
    from scenewise.files.json_file import read_json
    from scenewise.types import Skeleton

    if word in SKELETONS:
        return SKELETONS[word]
    path = Path(word).expanduser()
    if not path.is_file():
        raise UsageError(f"--skeleton is {word!r}{suggest(word, SKELETONS)}; expected {_skeletons()}")
    values = read_json(path, what="a skeleton")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: holds a {type(values).__name__}; expected {SKELETON_FILE}")
    try:
        return Skeleton.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}; expected {SKELETON_FILE}") from None


SKELETON_FILE = '{"names": [...], "links": [[a, b], ...], "pairs": [[left, right], ...]}'


def _skeletons() -> str:
    from scenewise.fields.keypoints import SKELETONS

    return f"{', '.join(SKELETONS)}, or a JSON file: {SKELETON_FILE}"


def inputs_of(model: Model, given: list[str] | None, proposals: Path | None) -> dict[str, Path]:
    """The files of what ``model`` takes beside the image, by name.

    Raises:
        UsageError: a word is not NAME=PATH, a name comes twice, or the model takes no such input.
    """
    from scenewise.engine.predict import check_inputs

    words = [*(given or []), *([] if proposals is None else [f"proposals={proposals}"])]
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--input is {word!r}; expected NAME=PATH, such as proposals=boxes.safetensors")
        if name in found:
            raise UsageError(f"--input: {name} is given twice")
        found[name] = Path(path)
    check_inputs(model.takes, found)
    return found


def device_of(name: str | None) -> Any:
    """The device of that name; the GPU, if there is one, where none is given."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r}: {str(error).splitlines()[0]}") from None


class Procedures(NamedTuple):
    """The words of the inference procedures, as the commands take them."""

    flip: bool
    scales: str | None
    turns: str | None
    fuse: How | None
    tiles: str | None
    overlap: str | None
    blend: Blend | None
    average: Average | None
    crf: str | None


def procedures_of(model: Model, words: Procedures) -> list[Any]:
    """The inference procedures, the innermost first.

    Raises:
        UsageError: an option can't be read, or goes with one that is not there.
    """
    of_views = words.scales is not None or words.flip or words.turns is not None
    of_tiles = words.tiles is not None
    for option, value, with_it, needed in (
        ("--overlap", words.overlap, of_tiles, "--tiles"),
        ("--blend", words.blend, of_tiles, "--tiles"),
        ("--fuse", words.fuse, of_views, "--scales, --flip or --turns"),
        ("--average", words.average, of_views or of_tiles, "--tiles, --scales, --flip or --turns"),
    ):
        if value is not None and not with_it:
            raise UsageError(f"{option} is {value!r}; it goes with {needed}, which is not given")
    _check_fused(model, words)
    found = [] if words.tiles is None else [_tiles(model, words.tiles, words)]
    if of_views:
        found.append(_views(model, words))
    if words.crf is not None:
        found.append(_crf(model, words.crf))
    return found


def _check_fused(model: Model, words: Procedures) -> None:
    """Raise a :class:`UsageError` where an option is about a kind of field that the model does not fill."""
    from scenewise.fields.table import FIELDS

    maps = [name for name in model.fills if FIELDS[name].fusion == "mean"]
    scored = [name for name in model.fills if FIELDS[name].scored]
    for option, value, about, found in (
        ("--fuse", words.fuse, "maps", maps),
        ("--average", words.average, "scores of classes at each pixel", scored),
    ):
        if value is not None and not found:
            fills = ", ".join(sorted(model.fills))
            raise UsageError(f"{option} is {value!r}; it is for {about}, and this model fills {fills}")


def _tiles(model: Model, tiles: str, words: Procedures) -> Any:
    from scenewise.engine.tiles import Tiles, check_maps

    check_maps(sorted(model.fills))
    try:
        height, width = (int(part) for part in tiles.lower().split("x"))
    except ValueError:
        raise UsageError(f"--tiles is {tiles!r}; expected HEIGHTxWIDTH in pixels, such as 512x512") from None
    divisor = model.input.size_divisor
    if height % divisor or width % divisor:
        raise UsageError(f"--tiles is {tiles!r}; this model takes multiples of {divisor} pixels")
    options: dict[str, Any] = {"blend": words.blend, "average": words.average}
    if words.overlap is not None:
        try:
            options["overlap"] = float(words.overlap) if "." in words.overlap else int(words.overlap)
        except ValueError:
            raise UsageError(
                f"--overlap is {words.overlap!r}; expected pixels, such as 192, or a share, such as 0.5"
            ) from None
    return Tiles((height, width), **{name: value for name, value in options.items() if value is not None})


def _crf(model: Model, words: str) -> Any:
    import yaml

    from scenewise.engine.crf import check_scored, refined

    check_scored(model.fills)
    given: dict[str, Any] = {}
    for part in [] if words == "default" else words.split(","):
        name, equals, value = part.partition("=")
        if not (name and equals and value) or name in given:
            raise UsageError(
                f"--crf is {words!r}; expected default, or NAME=VALUE with commas and each name once, such as "
                "position_sigma=50,color_sigma=10"
            )
        try:
            given[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            given[name] = value
    return refined("--crf", given)


def _views(model: Model, words: Procedures) -> Any:
    from scenewise.engine.augmented import Augmented

    scales = "1" if words.scales is None else words.scales
    turns = "0" if words.turns is None else words.turns
    try:
        factors = tuple(float(part) for part in scales.split(","))
    except ValueError:
        raise UsageError(f"--scales is {scales!r}; expected numbers with commas, such as 0.75,1,1.25") from None
    try:
        quarters = [divmod(int(part), 90) for part in turns.split(",")]
    except ValueError:
        quarters = [(0, 1)]
    if any(rest for _, rest in quarters):
        raise UsageError(f"--turns is {turns!r}; expected multiples of 90 degrees with commas, such as 0,90,180,270")
    if words.flip:
        _check_sides(model)
    options = {"fusion": words.fuse, "average": words.average}
    return Augmented(
        scales=factors,
        flip=words.flip,
        quarter_turns=tuple(quarter % 4 for quarter, _ in quarters),
        size_divisor=model.input.size_divisor,
        skeleton=model.skeleton,
        **{name: value for name, value in options.items() if value is not None},  # type: ignore[arg-type]
    )


def _check_sides(model: Model) -> None:
    """Raise a :class:`UsageError` where left and right keypoints would change places and are not known."""
    if "keypoints" in model.fills and (model.skeleton is None or model.skeleton.sides() is None):
        said = "does not say what its keypoints are" if model.skeleton is None else "does not say which these are"
        raise UsageError(
            f"--flip: left and right keypoints change places in a mirrored image, and the checkpoint {said}; give "
            f"--skeleton {_skeletons()}"
        )
