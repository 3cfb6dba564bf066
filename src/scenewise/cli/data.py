"""The commands ``scenewise data ...``: check, look at, convert and split data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scenewise.cli.options import BadRecordOption, JsonOption, NeedsOption
from scenewise.cli.output import bar, bar_to, complain, print_json, print_table, tell_repairs
from scenewise.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

    from scenewise.data.check import DataReport

data_app = typer.Typer(help="Check, look at, convert and split data sets.", no_args_is_help=True)

SHOWN = 20  # rare classes that are named

SourceArgument = Annotated[str, typer.Argument(metavar="[FORMAT:]PATH")]
SplitsOption = Annotated[list[str] | None, typer.Option("--split", help="The split; all by default. May be repeated.")]
FieldsOption = Annotated[str | None, typer.Option(help="The fields to write, such as boxes+masks; all by default.")]
LossyOption = Annotated[
    bool, typer.Option("--lossy", help="Go on where the target format can't hold everything, and report what is lost.")
]
LinkOption = Annotated[bool, typer.Option("--link", help="Link to the images rather than copy them.")]
BackgroundOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="When objects become label maps: the class of all other pixels, or ignore."),
]


# ---- check


@data_app.command("check")
def data_check(
    source: SourceArgument,
    split: SplitsOption = None,
    needs: NeedsOption = None,
    json: JsonOption = False,
) -> None:
    """Say what is in a data set and what is wrong with it; the exit status is 1 if anything is."""
    from scenewise.data.check import check_data

    with bar_to("check") as progress:
        report = check_data(source, split, progress, needs=fields_of(needs))
    if json:
        print_json(_report(report))
    else:
        _show_content(report)
        _show_problems(report)
    if not report.ok:
        raise typer.Exit(1)


def _report(report: DataReport) -> dict[str, Any]:
    """What machines get."""
    return {
        "source": report.source,
        "ok": report.ok,
        "splits": report.splits,
        "classes": list(report.class_images),
        "class_images": report.class_images,
        "class_objects": report.class_objects,
        "class_pixels": report.class_pixels,
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in report.sizes.items()],
        "few": report.few,
        "problems": [
            {
                "file": group.first.file,
                "message": group.first.message,
                "severity": group.severity,
                "count": group.count,
                "files": list(group.files),
            }
            for group in report.groups(places=20)
        ],
    }


def _show_content(report: DataReport) -> None:
    """The contents."""
    from rich.table import Table

    from scenewise.data.check import FEW

    total = sum(report.splits.values())
    parts = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
    counts = f"{_counted(len(report.class_images), 'class')}, {_counted(total, 'image')}"
    print(f"{report.source}: {counts}{f' ({parts})' if parts else ''}")
    if report.sizes:
        print(f"sizes (width x height): {_sizes(report)}")
    if report.class_images:
        kinds = {"images": report.class_images} | ({"objects": report.class_objects} if report.class_objects else {})
        columns = [f"{split}\n{kind}" for split in report.splits for kind in kinds]
        table = Table("class", collapse_padding=True, pad_edge=False, show_edge=False)
        for column in columns + (["pixels"] if report.class_pixels else []):
            table.add_column(column, justify="right")
        pixels = max(1, sum(report.class_pixels.values()))
        for name in report.class_images:
            row = [f"{kinds[kind][name][split]:,}" for split in report.splits for kind in kinds]
            row += [f"{report.class_pixels[name] / pixels:.1%}"] if report.class_pixels else []
            table.add_row(name, *row)
        print_table(table)
    if report.few:
        rare = [f"{name} ({count})" for name, count in report.few.items()]
        more = f" and {len(rare) - SHOWN} more classes" if len(rare) > SHOWN else ""
        where = " and ".join(report.learned_from)
        print(
            f"warning: fewer than {FEW} objects in {where}: {', '.join(rare[:SHOWN])}{more}. "
            "A network learns little from so few: label more"
        )


def _sizes(report: DataReport) -> str:
    sizes = report.sizes
    (height, width), count = next(iter(sizes.items()))
    if len(sizes) == 1:
        return f"{width} x {height}"
    least, most = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    often = f"; {count:,} are {width} x {height}" if count > 1 else ""
    return f"{len(sizes)} different, from {least[1]} x {least[0]} to {most[1]} x {most[0]}{often}"


def _show_problems(report: DataReport) -> None:
    """What is wrong, equal problems together."""
    groups = report.groups()
    for group in groups:
        print(f"{'error' if group.severity == 'error' else 'suspicious'}: {group.first.file}: {group.first.message}")
        if group.count > 1:
            others = group.files[1:]
            places = f", such as in {', '.join(others)}" if others else ""
            print(f"    and {group.count - 1:,} more like it{places}")
    errors = sum(group.count for group in groups if group.severity == "error")
    suspicions = sum(group.count for group in groups) - errors
    print(f"{_counted(errors, 'error')}, {_counted(suspicions, 'suspicion')}" if groups else "nothing is wrong")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


# ---- show


@data_app.command("show")
def data_show(
    source: Annotated[str | None, typer.Argument(metavar="[FORMAT:]PATH", help="Not needed with --recipe.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="Overrides of the recipe, such as trainer.seed=3; only with --recipe."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Draw the samples as training by this recipe gets them, augmented.")
    ] = None,
    stage: Annotated[int, typer.Option(help="The stage, for a recipe with stages.", min=1)] = 1,
    epoch: Annotated[int, typer.Option(help="The epoch, by which the augmentation varies.", min=1)] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pictures.")] = Path("out"),
    split: Annotated[str, typer.Option(help="The split.")] = "train",
    count: Annotated[int, typer.Option(help="How many samples, spread evenly over the split.", min=1)] = 8,
    needs: NeedsOption = None,
    on_bad_record: BadRecordOption = "error",
) -> None:
    """Draw samples of a data set with their labels; or, with a recipe, as training sees them: resized and augmented."""
    if recipe is not None:
        words = [*([source] if source else []), *(overrides or [])]
        _show_training(recipe, words, stage, epoch, count, out)
        return
    if source is None or overrides:
        raise UsageError("data show needs a data set, as format:path or a path; or --recipe and its overrides")
    _show_data(source, split, count, needs, on_bad_record, out)


def _show_data(
    source: str, split: str, count: int, needs: str | None, on_bad_record: Literal["error", "skip", "fix"], out: Path
) -> None:
    from scenewise.data import open_data
    from scenewise.draw.pages import side_by_side
    from scenewise.results.picture import draw_sample

    data = open_data(source, split, needs=fields_of(needs), on_bad_record=on_bad_record, allow_unlabelled=True)
    tell_repairs(data)
    shown = min(count, len(data))
    with bar("draw", shown) as advance:
        for i in range(shown):
            index = i * len(data) // shown
            image, target = data[index]
            truth = draw_sample(image, target, data.classes, colors=data.colors, skeleton=data.skeleton)
            picture = side_by_side([("image", image), (f"{split} {data.image_id(index)}", truth)])
            _save(picture, out, data.image_id(index))
            advance(1)
    print(f"{shown} of {len(data)} samples of split {split} drawn in {out}")


def _show_training(recipe: Path, words: list[str], stage: int, epoch: int, count: int, out: Path) -> None:
    from scenewise.draw.pages import side_by_side
    from scenewise.engine.building import check_paths, model_block
    from scenewise.engine.seen import TrainingSamples
    from scenewise.recipe import load_recipe, parse_overrides
    from scenewise.results.picture import draw_sample

    loaded = load_recipe(recipe, parse_overrides(words), architecture=model_block)
    check_paths(loaded, recipe)
    stages = loaded.staged()
    if stage > len(stages):
        raise UsageError(f"--stage is {stage}; {recipe} has {len(stages)}")
    samples = TrainingSamples(stages[stage - 1], epoch - 1)
    data = samples.data
    tell_repairs(data)
    shown = min(count, len(samples))
    with bar("draw", shown) as advance:
        for position in range(shown):
            name, before, after = samples[position]
            panels = [
                (title, draw_sample(image, target, data.classes, colors=data.colors, skeleton=data.skeleton))
                for title, (image, target) in ((name, before), (f"epoch {epoch}, sample {position + 1}", after))
            ]
            _save(side_by_side(panels), out, f"{position + 1:03}-{name}")
            advance(1)
    print(f"the first {shown} of {len(samples)} samples that training sees in epoch {epoch}, drawn in {out}")


def _save(picture: Image, out: Path, name: str) -> None:
    from scenewise.files.atomic import atomic_path

    with atomic_path(out / f"{name.replace('/', '-')}.png") as temporary:
        picture.save(temporary, format="PNG")


# ---- convert and split


@data_app.command("convert")
def data_convert(
    source: SourceArgument,
    target: Annotated[
        str, typer.Argument(metavar="FORMAT:FOLDER", help="The format (coco, masks, voc or yolo) and a new folder.")
    ],
    split: SplitsOption = None,
    fields: FieldsOption = None,
    background: BackgroundOption = None,
    lossy: LossyOption = False,
    link: LinkOption = False,
    on_bad_record: BadRecordOption = "error",
    json: JsonOption = False,
) -> None:
    """Write a data set in another format: labels anew, images copied or linked, splits kept."""
    from scenewise.data.convert import convert_data

    with bar_to("convert") as progress:
        done = convert_data(
            source,
            target,
            splits=split,
            fields=fields_of(fields),
            background=background,
            lossy=lossy,
            link=link,
            on_bad_record=on_bad_record,
            progress=progress,
        )
    if json:
        print_json(vars(done))
        return
    _tell_losses(done.lost, done.notes)
    parts = [
        f"{split} {_counted(count, 'image')}"
        + (f" with {_counted(done.objects[split], 'object')}" if split in done.objects else "")
        for split, count in done.images.items()
    ]
    print(f"{done.target}: {', '.join(parts)}")


@data_app.command("split")
def data_split(
    source: SourceArgument,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FORMAT:FOLDER]", help="A new folder; without it, lists are written into the data set itself."
        ),
    ] = None,
    parts: Annotated[str, typer.Option(help="The splits and their shares, in any unit.")] = "train=80,val=20",
    by: Annotated[
        Literal["content", "name"], typer.Option(help="What the hash is taken of: the image's content or its name.")
    ] = ("content"),
    group: Annotated[
        str | None,
        typer.Option(
            help="What stays in one split: folder, prefix, or a regular expression whose match names the group."
        ),
    ] = None,
    stratify: Annotated[bool, typer.Option("--stratify", help="Keep the shares for the images of each class.")] = (
        False
    ),
    split: SplitsOption = None,
    fields: FieldsOption = None,
    background: BackgroundOption = None,
    lossy: LossyOption = False,
    link: LinkOption = False,
    on_bad_record: BadRecordOption = "error",
    json: JsonOption = False,
) -> None:
    """Give each image to a split, by a hash: images that are added later move none."""
    from scenewise.data.split import split_data

    with bar_to("split") as progress:
        done = split_data(
            source,
            target,
            parts=_parts(parts),
            by=by,
            group=group,
            stratify=stratify,
            splits=split,
            fields=fields_of(fields),
            background=background,
            lossy=lossy,
            link=link,
            on_bad_record=on_bad_record,
            progress=progress,
        )
    if json:
        print_json(vars(done))
        return
    _tell_losses(done.lost, done.notes)
    print_table(_split_table(done.images, done.classes))
    groups = f" in {', '.join(f'{count:,}' for count in done.groups.values())} groups" if group is not None else ""
    counts = ", ".join(f"{name} {_counted(count, 'image')}" for name, count in done.images.items())
    print(f"{done.target}: {counts}{groups}")


def _split_table(images: dict[str, int], classes: dict[str, dict[str, int]]) -> Table:
    from rich.table import Table

    table = Table("images with", collapse_padding=True, pad_edge=False, show_edge=False)
    for name in images:
        table.add_column(name, justify="right")
    for name, counts in classes.items():
        table.add_row(name, *(f"{counts[split]:,}" for split in images))
    return table


def _parts(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not equals or not name or name in found or number <= 0:
            raise UsageError(f"--parts is {text!r}; expected splits and shares, such as train=80,val=10,test=10")
        found[name] = number
    return found


def _tell_losses(lost: list[str], notes: list[str]) -> None:
    for line in lost:
        complain(f"lost: {line}")
    for line in notes:
        complain(f"note: {line}")


def fields_of(words: str | None) -> frozenset[str]:
    """The fields that are joined by ``+``."""
    return frozenset(words.split("+")) if words else frozenset()
