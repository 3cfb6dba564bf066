"""The commands: what each takes, what it calls, and what it prints."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from scenewise.cli.data import data_app
from scenewise.cli.options import (
    AverageOption,
    BadRecordOption,
    BlendOption,
    CrfOption,
    DeviceOption,
    FlipOption,
    FuseOption,
    InputOption,
    JsonOption,
    ModelOption,
    OverlapOption,
    PrecisionOption,
    Procedures,
    ProposalsOption,
    ScalesOption,
    SkeletonOption,
    TilesOption,
    TurnsOption,
    WeightsOption,
    device_of,
    inputs_of,
    load_model,
    procedures_of,
)
from scenewise.cli.output import bar, complain, print_json, print_table, tell_repairs
from scenewise.errors import DataError, ScenewiseError, StorageError, UsageError
from scenewise.version import VERSION

if TYPE_CHECKING:
    from rich.table import Table

    from scenewise.catalog import Option
    from scenewise.data.inputs import InputFile
    from scenewise.engine.folder import Written
    from scenewise.model import Model
    from scenewise.weights.published import Published

app = typer.Typer(
    name="scenewise",
    help="Detection, segmentation, instances and poses: train, evaluate and predict with one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command; errors that a user can cause are one message without a traceback."""
    warnings.showwarning = _show_warning
    try:
        status = app(standalone_mode=False)  # an Exit's status, or None
    except ScenewiseError as error:
        complain(str(error))
        sys.exit(getattr(error, "status", 2))
    except KeyboardInterrupt:
        complain("stopped")
        sys.exit(130)
    except Exception as error:
        status = _usage_status(error)
        if status is None:
            raise
    sys.exit(status or 0)


def _usage_status(error: Exception) -> int | None:
    """The exit status for what typer raises on purpose, its message shown; None for any other error."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # bad usage
        error.show()
        return int(error.exit_code)
    return 130 if type(error).__name__ == "Abort" else None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line, without the place in the code that gave it."""
    print(f"scenewise: warning: {message}", file=file or sys.stderr)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        parts = [f"{name} {version(name)}" for name in ("torch", "torchvision", "timm")]
        print(f"scenewise {VERSION} (Python {sys.version.split()[0]}, {', '.join(parts)})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# ---- predict


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER|GLOB...", help="The images.")],
    model: ModelOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for pictures and JSON files.")] = Path("out"),
    score: Annotated[float, typer.Option(help="Leave out instances whose score is below this.")] = 0.5,
    weights_file: WeightsOption = None,
    precision: PrecisionOption = "32",
    flip: FlipOption = False,
    scales: ScalesOption = None,
    turns: TurnsOption = None,
    fuse: FuseOption = None,
    tiles: TilesOption = None,
    overlap: OverlapOption = None,
    blend: BlendOption = None,
    average: AverageOption = None,
    crf: CrfOption = None,
    skeleton: SkeletonOption = None,
    proposals: ProposalsOption = None,
    input: InputOption = None,
    boxes: Annotated[bool, typer.Option("--boxes/--no-boxes", help="Whether boxes are drawn.")] = True,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """See what is in images: a picture and a JSON file for each, and a table of what was found.

    A model of class maps writes them as PNGs of class numbers besides, NAME.classes.png.
    A model that finds objects gives all of them as one COCO results file besides, coco_results.json. Without --model
    the packaged models are listed, and nothing is done.
    """
    if model is None:
        print_table(_packaged_table())
        raise UsageError("which model? Give --model NAME, one of these, or --model FILE, a checkpoint")
    from scenewise.engine.folder import predict_to_folder
    from scenewise.engine.predict import Predictor
    from scenewise.fields.table import summary
    from scenewise.files.atomic import make_folder
    from scenewise.results.coco import CocoResults, category_ids

    names = dict(_outputs(images, out))
    _keep_inputs(names, out)
    loaded = load_model(model, weights_file, skeleton)
    words = Procedures(flip, scales, turns, fuse, tiles, overlap, blend, average, crf)
    further = _opened_inputs(inputs_of(loaded, input, proposals), list(names))
    procedures = procedures_of(loaded, words)
    predictor = Predictor(loaded, precision=precision, procedures=procedures, device=device_of(device))
    make_folder(out)
    if (loaded.input.channels, loaded.input.bits) == (3, 8):  # else pages may be channels
        _tell_pages(names)
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    objects = CocoResults(category_ids(loaded)) if {"labels", "scores"} <= loaded.fills else None
    full: StorageError | None = None
    with bar("predict", len(names)) as advance:
        look = {"boxes": boxes, **_look(loaded)}
        for path, done, error in predict_to_folder(predictor, names, out, score=score, inputs=further, **look):
            if isinstance(error, DataError | UsageError):  # one bad file does not lose the others
                complain(f"{error}" if str(path) in str(error) else f"{path}: {error}")
            elif isinstance(error, StorageError):
                full = error
                break
            elif done is None:
                raise error or AssertionError("nothing was written, and no error says why")
            else:
                found[str(path)] = _told(done), summary(done.prediction)
                if objects is not None:
                    objects.add(done.prediction, names[path])
            advance(1)
    try:
        if objects is not None:
            objects.write(out / "coco_results.json")
    except StorageError as error:
        full = full or error
    if json:
        print_json({"model": model, "images": {path: its for path, (its, _) in found.items()}})
    else:
        _print_found({path: told for path, (_, told) in found.items()}, len(names), out)
    if full is not None:
        left = f"; the first that is not is {path}" if len(found) < len(names) else ""
        raise StorageError(
            f"{full}. {len(found)} of {len(names)} images are done, and their files in {out} are whole{left}. Make "
            "room, then give the same command again"
        )
    if len(found) < len(names):
        raise typer.Exit(2)


def _told(written: Written) -> dict[str, Any]:
    """What ``--json`` says of an image."""
    from scenewise.fields.table import facts

    record, prediction = written
    its = {"picture": str(record.with_suffix(".png")), "json": str(record), "size": list(prediction.size)}
    return {**its, **facts(prediction)}


def _outputs(patterns: list[str], out: Path) -> Iterator[tuple[Path, str]]:
    """Each image file that ``patterns`` name, and the name for what is written about it to ``out``."""
    import glob

    from scenewise.files.images import IMAGE_SUFFIXES

    taken: set[str] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files, base = _images_below(path, out), path
            if not files:
                raise UsageError(f"{path}: no image in this folder; known endings: {', '.join(sorted(IMAGE_SUFFIXES))}")
        elif path.exists() or not glob.has_magic(pattern):
            files, base = [path], path.parent
        else:
            files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not files:
                raise UsageError(f"{pattern}: no file fits this pattern")
            base = files[0].parent
        for file in files:
            inside = file.relative_to(base) if file.is_relative_to(base) else Path(file.name)
            name = inside.with_suffix("").as_posix()
            # a.jpg beside a.png, the same name in two folders; or ..jpg
            if taken & _pictures_of(name) or not inside.stem.strip("."):
                name = inside.as_posix().replace(".", "_")
            number, start = 2, name
            while taken & _pictures_of(name):
                name, number = f"{start}-{number}", number + 1
            taken |= _pictures_of(name)
            yield file, name


def _pictures_of(name: str) -> set[str]:
    """The PNGs that may be written about an image under ``name``."""
    return {f"{name}.png", f"{name}.classes.png"}


def _images_below(folder: Path, out: Path) -> list[Path]:
    """The images in ``folder`` and its sub-folders but ``out``, sorted; says which other files are there."""
    from scenewise.data.folders import passed_over
    from scenewise.files.images import IMAGE_SUFFIXES

    results = out.resolve()
    images: list[Path] = []
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or (results != folder.resolve() and results in path.resolve().parents):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif not path.name.startswith("."):
            others.append(path.relative_to(folder).as_posix())
    if others:
        complain(f"{folder}: {passed_over(others)}")
    return images


def _tell_pages(images: Iterable[Path]) -> None:
    """Say which of ``images`` have several pages, of which only the first is looked at."""
    from scenewise.files.images import count_pages

    tiffs = (path for path in images if path.suffix.lower() in (".tif", ".tiff"))
    counts = {path: count for path in tiffs if (count := count_pages(path)) > 1}
    if counts:
        named = ", ".join(f"{path} ({count} pages)" for path, count in [*counts.items()][:5])
        more = f" and {len(counts) - 5} more files" if len(counts) > 5 else ""
        complain(f"only the first page of a TIFF is looked at: {named}{more}")
        warnings.filterwarnings("ignore", message=r".*: has \d+ pages; the first is read")


def _keep_inputs(names: dict[Path, str], out: Path) -> None:
    """Raise a :class:`UsageError` where what is written to ``out`` would take the place of an image, or of a file that
    no prediction wrote."""
    inputs = {(found.st_dev, found.st_ino): path for path in names if (found := _stat(path)) is not None}
    for path, name in names.items():
        written = [out / f"{name}.png", out / f"{name}.json"]
        class_map = out / f"{name}.classes.png"
        if (map_there := _stat(class_map)) is not None and (map_there.st_dev, map_there.st_ino) in inputs:
            raise UsageError(f"{class_map}: is one of the images; expected another folder as --out")
        there = {file: found for file in written if (found := _stat(file)) is not None}
        for file, found in there.items():
            place = f"what is found in {path} would take its place; expected another folder as --out"
            if (found.st_dev, found.st_ino) in inputs:
                raise UsageError(f"{file}: is one of the images, and {place}")
            if len(there) == 1:  # a prediction is both
                other = next(other for other in written if other != file)
                raise UsageError(f"{file}: no prediction wrote it ({other.name} is not beside it), and {place}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _opened_inputs(files: dict[str, Path], images: list[Path]) -> dict[str, tuple[InputFile, dict[Path, str]]]:
    """For each input its file, and under which of the file's names the value of each of ``images`` is."""
    from scenewise.data.inputs import names_in, open_input

    opened = {name: open_input(name, path) for name, path in files.items()}
    return {name: (file, dict(zip(images, names_in(file, name, images), strict=True))) for name, file in opened.items()}


def _look(model: Model) -> dict[str, Any]:
    """The options of drawings that the model brings."""
    colors = model.info.get("colors")
    return {"colors": [tuple(color) for color in colors]} if colors else {}


def _print_found(found: dict[str, list[str]], asked: int, out: Path) -> None:
    """What was found in each image, and how many of those that were ``asked`` for are done."""
    from rich.table import Table

    from scenewise.results.tables import Name

    table = Table("image", "found")
    for path, words in found.items():
        table.add_row(Name(path), ", ".join(words) or "nothing")
    if found:
        print_table(table)
    print(f"{len(found)} of {asked} images done; pictures and JSON files are in {out}")


# ---- train


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA|RECIPE",
            help="A folder of labelled images (or format:path), or a YAML file; not with --resume.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="Such as epochs=30 batch_size=8 image_size=640, or optimizer.lr=0.001."
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="The folder of a stopped run, to go on with it.")] = None,
    json: JsonOption = False,
) -> None:
    """Train a model on labelled images, or as a recipe says. Ctrl-C stops after the step; --resume goes on from there.

    With data in place of a recipe, its labels decide what is trained; what is chosen is printed first.
    """
    from scenewise.engine.train import train as run_training
    from scenewise.recipe import parse_overrides

    words = list(overrides or [])
    if recipe is not None and resume is not None and "=" in recipe and not Path(recipe).exists():
        words.insert(0, recipe)  # `train --resume RUN key=value`
        recipe = None
    run = run_training(recipe, parse_overrides(words), resume=resume)
    if json:
        print_json(
            {
                "folder": str(run.folder),
                "finished": run.finished,
                "epochs": run.epochs,
                "monitor": run.monitor,
                "best": run.best,
                "scores": run.scores,
                "pictures": [str(file) for file in run.pictures],
            }
        )
    elif run.finished:
        best = "" if run.best is None else f"; best {run.monitor} {run.best:.4f}"
        print(f"trained {run.epochs} epochs{best}; the checkpoints are in {run.folder}")
    if not run.finished:
        complain(f"stopped; go on with: scenewise train --resume {run.folder}")
        raise typer.Exit(130)


# ---- evaluate


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A path, the folder of a run, or a packaged or published name.")
    ],
    data: Annotated[str, typer.Option(help="The data set, as format:path or a path.")],
    split: Annotated[
        str | None, typer.Option(help="The split; by default the one that the model was validated on, else test.")
    ] = None,
    weights_file: WeightsOption = None,
    precision: PrecisionOption = "32",
    flip: FlipOption = False,
    scales: ScalesOption = None,
    turns: TurnsOption = None,
    fuse: FuseOption = None,
    tiles: TilesOption = None,
    overlap: OverlapOption = None,
    blend: BlendOption = None,
    average: AverageOption = None,
    crf: CrfOption = None,
    skeleton: SkeletonOption = None,
    proposals: ProposalsOption = None,
    input: InputOption = None,
    device: DeviceOption = None,
    workers: Annotated[int, typer.Option(help="Number of processes that load samples.")] = 0,
    on_bad_record: BadRecordOption = "error",
    metrics: Annotated[
        str | None, typer.Option(help="Further metrics, such as boundary-f1,dice, or your own as module:Class.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the predicted objects as a COCO results file.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a model on a data set with the field's metrics."""
    from scenewise.data import open_data
    from scenewise.engine.evaluate import check_classes, usual_split
    from scenewise.engine.evaluate import evaluate as run_evaluation
    from scenewise.metrics.table import truth_for
    from scenewise.results.tables import score_tables

    asked = [name.strip() for name in metrics.split(",")] if metrics else []
    loaded = load_model(checkpoint, weights_file, skeleton)
    words = Procedures(flip, scales, turns, fuse, tiles, overlap, blend, average, crf)
    needs = loaded.needs | truth_for(loaded.fills, asked)
    split = split or usual_split(loaded, data)
    opened = open_data(data, split, needs=needs, on_bad_record=on_bad_record)
    tell_repairs(opened)
    check_classes(loaded, opened, checkpoint)
    with bar("evaluate", len(opened)) as advance:
        scores = run_evaluation(
            loaded,
            opened,
            precision=precision,
            procedures=procedures_of(loaded, words),
            metrics=asked,
            device=device_of(device),
            workers=workers,
            results=results,
            inputs=inputs_of(loaded, input, proposals),
            tick=advance,
        )
    if json:
        print_json(scores)
        return
    print(f"{opened.source}, split {opened.split}: {len(opened)} images")
    for table in score_tables(scores):
        print_table(table)


# ---- proposals


@app.command()
def proposals(
    finder: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A model that returns boxes, or selective-search.")
    ],
    data: Annotated[str, typer.Option(help="The data set, as format:path or a path.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The output file, ending in .safetensors.")],
    split: Annotated[str, typer.Option(help="The split.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Maximum number of boxes per image.")] = 2000,
    precision: PrecisionOption = "32",
    device: DeviceOption = None,
    on_bad_record: BadRecordOption = "error",
) -> None:
    """Find boxes that may hold an object in each image, for systems that take proposals from a file."""
    from scenewise.data import open_data
    from scenewise.engine.proposals import write_proposals

    model: Any = finder if finder == "selective-search" else load_model(finder, None)
    opened = open_data(data, split, needs=frozenset({"boxes"}), on_bad_record=on_bad_record, allow_unlabelled=True)
    tell_repairs(opened)
    with bar("proposals", len(opened)) as advance:
        write_proposals(
            model, opened, split, out, count=count, precision=precision, device=device_of(device), tick=advance
        )
    print(f"the proposals of {len(opened)} images are in {out}")


# ---- info


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|FILE|RUN", help="A name, a checkpoint, a pipeline's YAML file, or a run.")
    ],
    json: JsonOption = False,
) -> None:
    """Tell what a model is: system, classes, input, data, scores, terms and lineage."""
    from scenewise.engine.info import info as look_up

    found = look_up(model)
    if json:
        print_json(found.to_dict())
    else:
        print(found)


# ---- models


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="A system, to see its options.")] = None,
    json: JsonOption = False,
) -> None:
    """List the systems and the models that are ready to use, or one system's options with their defaults."""
    if name is None:
        _list_models(json)
    else:
        _describe_system(name, json)


def _list_models(json: bool) -> None:
    """The systems with their papers, the packaged models and the published ones."""
    from rich.table import Column, Table

    from scenewise.catalog import SYSTEMS
    from scenewise.weights.published import PUBLISHED

    if json:
        print_json(
            {
                "systems": [{"name": s.name, "task": s.task, "paper": s.paper} for s in SYSTEMS.values()],
                "packaged": _packaged(),
                "published": [
                    {"name": p.name, "system": p.system, "finds": _finds(p), "megabytes": p.size, "terms": p.terms}
                    for p in PUBLISHED.values()
                ],
            }
        )
        return
    table = Table("system", "task", "paper")
    for system in SYSTEMS.values():
        table.add_row(system.name, system.task, system.paper)
    print_table(table)
    print_table(_packaged_table())
    table = Table(Column("published (--model)", overflow="fold"), "finds", "MB")
    for row in PUBLISHED.values():
        table.add_row(row.name, _finds(row), f"{row.size:.0f}")
    print_table(table)
    for terms in dict.fromkeys(row.terms for row in PUBLISHED.values()):
        print(textwrap.fill(f"Published models are downloaded when they are named. {terms}", 100))


def _finds(row: Published) -> str:
    """What a published model finds, in a few words."""
    from scenewise.catalog import find

    return f"{find(row.system).task}: {_few(row.classes)}"


def _few(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    shown = [name for name in names if name != "__background__"]
    more = len(shown) - 3
    return ", ".join(shown[:3]) + (f" and {more} more" if more > 0 else "")


def _packaged() -> list[dict[str, Any]]:
    from scenewise.weights.packaged import PACKAGED

    return [
        {
            "name": row.name,
            "system": row.system,
            "finds": row.finds,
            "terms": row.terms,
            "lineage": list(row.lineage),
            "package": row.package or "scenewise",
            "installed": row.installed,
        }
        for row in PACKAGED.values()
    ]


def _packaged_table() -> Table:
    """The packaged models: what each finds, under which terms, and whether it is there."""
    from rich.table import Table

    from scenewise.weights.packaged import PACKAGED

    table = Table("packaged (--model)", "finds", "terms")
    for row in PACKAGED.values():
        there = "" if row.installed else f"; not installed: {row.how}"
        table.add_row(row.name, row.finds, f"{row.terms}{there}")
    return table


def _describe_system(name: str, json: bool) -> None:
    """A system's paper, what it reads and fills, and its options with the entries of those that are specs."""
    from scenewise.catalog import entries_of, find, interface_of, options
    from scenewise.weights.packaged import PACKAGED
    from scenewise.weights.published import PUBLISHED

    if name in PACKAGED or name in PUBLISHED:
        raise UsageError(f"{name}: a model, not a system; what is known of it: scenewise info {name}")
    system = find(name)
    known, entries = options(name), entries_of(name)
    facts: dict[str, Any] = {"name": name, "task": system.task, "paper": system.paper}
    asked = [option.name for option in known.values() if option.required and option.name != "classes"]
    if asked:  # only whoever builds it can tell
        facts |= dict.fromkeys(("needs", "fills", "takes"), None if json else f"depends on {', '.join(asked)}")
    else:
        interface = interface_of(name, {})
        facts |= {key: sorted(getattr(interface, key)) for key in ("needs", "fills", "takes")}
    if json:
        rows = [
            {**_option(option), "entries": [_option(entry) for entry in entries.get(key, {}).values()]}
            for key, option in known.items()
        ]
        print_json({**facts, "options": rows})
        return
    for key, value in facts.items():
        print(f"{key:6} {', '.join(value) if isinstance(value, list) else value}")
    for key, option in known.items():
        print()
        _print_option(option, option.name, "")
        for entry in entries.get(key, {}).values():
            _print_option(entry, f"{key}.{entry.name}", "    ")


def _option(option: Option) -> dict[str, Any]:
    """An option, or an entry of one, as JSON tells it."""
    default = None if option.required else _plain(option.default)
    return {"option": option.name, "takes": option.describe(), "default": default, "about": option.about}


def _print_option(option: Option, name: str, indent: str) -> None:
    default = "" if option.required else f" = {option.default!r}"
    print(f"{indent}{name}: {option.describe()}{default}")
    about = re.sub(r":\w+:`~?([\w.]+)`", r"\1", option.about).replace("``", "")
    if about:
        print(textwrap.fill(about, 100, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    "))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
