"""Predictions in a folder: a picture and a JSON file per image, an ``.npz`` file of its dense float maps, and a PNG of
class numbers of its class map."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from scenewise.draw.colors import Color
from scenewise.errors import DataError, UsageError
from scenewise.fields.table import FIELDS, detached, given, misfit
from scenewise.files.atomic import atomic_path
from scenewise.results.record import from_record, to_record
from scenewise.types import Described

ARRAY_FIELDS = tuple(name for name, field in FIELDS.items() if field.storage == "arrays")


CLASS_MAP = ".classes.png"  # the ending of the PNG of class numbers


def write_output(
    picture: Image.Image, output: Described, out_dir: str | Path, name: str, colors: Sequence[Color] = ()
) -> tuple[Path, Path]:
    """Write a picture and the JSON of ``output``, an ``.npz`` of its dense float maps and a PNG of the class numbers of
    its class map, where it has any.

    Args:
        picture: what is drawn of it.
        output: the prediction.
        out_dir: the folder; it is made where it is not there.
        name: the files' name without its ending; may name a folder below ``out_dir``, with slashes.
        colors: of the classes, in the palette of ``out_dir/name.classes.png``.

    Returns:
        The paths of the picture, ``out_dir/name.png``, and of the JSON, ``out_dir/name.json``.

    Raises:
        UsageError: the prediction does not fit itself, ``name`` leads out of ``out_dir``, or the folder can't be
            written to.
        StorageError: a file can't be written, as where the disk is full; then none of them is.
    """
    parts = PurePosixPath(name)
    if not parts.name or parts.is_absolute() or ".." in parts.parts:
        raise UsageError(f"name {name!r}: expected a file name without its ending, inside the folder {out_dir}")
    record = to_record(output)
    base = Path(out_dir) / name
    arrays = {field: getattr(output, field) for field in record["omitted"] if field in ARRAY_FIELDS}
    array_path, picture_path, json_path = (base.with_name(f"{base.name}.{ending}") for ending in ("npz", "png", "json"))
    maps = [FIELDS[field].index_image(value, colors) for field, value in given(detached(output)).items()]
    class_map = next((image for image in maps if image is not None), None)
    class_map_path = base.with_name(f"{base.name}{CLASS_MAP}")
    if class_map is not None:
        record["class_map"] = class_map_path.name
    if arrays:
        record["arrays"] = array_path.name
        record["omitted"] = [field for field in record["omitted"] if field not in arrays]
    with ExitStack() as files:  # all have their names only when all are written; the last that is opened gets its first
        files.enter_context(atomic_path(json_path)).write_text(_layout(record), encoding="utf-8")
        # photographs: as small with level 4 as with 6, in a third of the time
        picture.save(files.enter_context(atomic_path(picture_path)), format="PNG", compress_level=4)
        if class_map is not None:
            class_map.save(files.enter_context(atomic_path(class_map_path)), format="PNG")
        if arrays:
            with files.enter_context(atomic_path(array_path)).open("wb") as file:
                np.savez_compressed(
                    file, **{field: value.detach().float().cpu().numpy() for field, value in arrays.items()}
                )
    return picture_path, json_path


def read_output(path: str | Path) -> dict[str, Any]:
    """What the prediction whose JSON is in ``path`` is made of, with the dense maps of the ``.npz`` beside it where it
    names one; by the names of its attributes.

    Raises:
        DataError: a file is missing or malformed.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from None
    values = from_record(record, where=str(path))
    if "arrays" not in record:
        return values
    array_path = path.with_name(Path(str(record["arrays"])).name)
    try:
        with np.load(array_path, allow_pickle=False) as arrays:
            known = [name for name in ARRAY_FIELDS if name in arrays]
            values |= {name: torch.from_numpy(arrays[name]) for name in known}
    except (OSError, ValueError) as error:
        raise DataError(f"{array_path}: can't be read; it holds dense maps of {path.name} ({error})") from None
    wrong = misfit(dataclasses.replace(Described(values["size"]), **values))
    if wrong:
        raise DataError(f"{array_path}: {wrong}")
    return values


def _layout(record: Mapping[str, Any]) -> str:
    """``record`` as JSON with one entry, and one instance, per line: short enough to read, and to compare by lines."""
    lines = []
    for key, value in record.items():
        # a path may hold bytes that are no text, which only escapes carry over
        dump = functools.partial(json.dumps, allow_nan=False, ensure_ascii=key == "source")
        if key == "instances" and value:
            text = "[\n  " + ",\n  ".join(dump(instance) for instance in value) + "\n ]"
        else:
            text = dump(value)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
