"""Predictions as JSON that reads back without loss.

What a prediction's JSON holds (:func:`to_record`; keys that do not apply are absent):

* ``format``: ``"scenewise-prediction-1"``.
* ``size`` (height, width), ``source``, ``classes``; ``skeleton`` where there are keypoints and it is known.
* ``fields``: the prediction's fields that are in the JSON; the rest of what it had is listed under ``omitted``.
* ``instances``: one record each, ``{"label", "class", "score", "box", "mask", "keypoints"}``; a mask is a COCO
  run-length code (:mod:`scenewise.ops.rle`). ``num_keypoints``: how many each instance has.
* ``semantic``: the label map as row-by-row runs; ``shares``: what part of the image each class covers, largest first.
* ``class_map``: the PNG beside it whose pixel values are the class numbers, 255 for none (the same as ``semantic``).
* ``arrays``: the ``.npz`` file beside it that holds the dense maps (:mod:`scenewise.results.folder` alone).

Coordinates are scenewise's own (see ``types.py``), in the pixels of the original image. Floats are float32 and stand
as the shortest decimal that gives the same float32 back. A number that is not finite is refused: JSON has none.
Dense float maps (boundary, depth, normals, flow, embedding) don't belong in JSON: they go into an ``.npz`` file. Class
scores before the softmax (``semantic_logits``) are not kept at all: C floats a pixel.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scenewise.errors import DataError, UsageError
from scenewise.fields.table import FIELDS, check, detached, given, misfit
from scenewise.ops import rle
from scenewise.types import Described, Skeleton

FORMAT = "scenewise-prediction-1"
JSON_FIELDS = tuple(name for name, field in FIELDS.items() if field.storage == "json")


def to_record(output: Described) -> dict[str, Any]:
    """``output`` as plain values, ready for ``json.dump``; :func:`from_record` reads them back.

    Raises:
        UsageError: the fields don't fit together, or a box, score or keypoint is not finite.
    """
    check(output)
    output = detached(output)
    values = given(output)
    kept = {name: value for name, value in values.items() if FIELDS[name].storage == "json"}
    record: dict[str, Any] = {
        "format": FORMAT,
        "size": [int(side) for side in output.size],
        "source": output.source,
        "classes": list(output.classes),
        "fields": list(kept),
        "omitted": [name for name in values if name not in kept],
    }
    if output.skeleton is not None:
        record["skeleton"] = output.skeleton.to_dict()
    if any(FIELDS[name].per_instance for name in values):
        record["instances"] = instance_records(output)
    for name, value in kept.items():
        record |= FIELDS[name].extras(value, output)
        if not FIELDS[name].per_instance:
            record[FIELDS[name].key] = FIELDS[name].encode(value, output)
    return record


def from_record(record: Mapping[str, Any], *, where: str = "prediction") -> dict[str, Any]:
    """What the prediction that :func:`to_record` wrote is made of, by the names of its attributes; tensors on the CPU,
    without the fields that were omitted.

    Args:
        record: what ``json.load`` gives.
        where: begins each error message, such as the file's name.

    Raises:
        DataError: the record is malformed; names the entry, what was found and what is expected.
    """
    if not isinstance(record, Mapping) or record.get("format") != FORMAT:
        found = repr(record.get("format")) if isinstance(record, Mapping) else type(record).__name__
        raise DataError(f"{where}: format is {found}; expected {FORMAT!r}")
    size, classes = _entry(record, "size", list, where), _entry(record, "classes", list, where)
    fields = _entry(record, "fields", list, where)
    if len(size) != 2 or not all(type(side) is int and 0 < side <= rle.MAX_PIXELS for side in size):
        raise DataError(f"{where}: size is {reprlib.repr(size)}; expected [height, width] in pixels")
    if not all(isinstance(name, str) for name in classes):
        raise DataError(f"{where}: classes has an entry that is not text; expected names")
    unknown = [name for name in fields if name not in JSON_FIELDS]
    if unknown:
        raise DataError(f"{where}: fields has {unknown[0]!r}; known: {', '.join(JSON_FIELDS)}")
    values: dict[str, Any] = {name: _decoded(name, record, (size[0], size[1]), where) for name in fields}
    skeleton = _skeleton(record, where)
    wrong = misfit(Described((size[0], size[1]), tuple(classes), skeleton=skeleton, **values))
    if wrong:
        raise DataError(f"{where}: {wrong}")
    source = record.get("source")
    return {"size": (size[0], size[1]), "classes": tuple(classes), "skeleton": skeleton, "source": source, **values}


def instance_records(output: Described) -> list[dict[str, Any]]:
    """One record per instance, with the entries that ``output`` (on the CPU) has."""
    columns: dict[str, list[Any]] = {}
    for name, value in given(output).items():
        field = FIELDS[name]
        if field.per_instance and field.storage == "json":
            columns[field.key] = field.encode(value, output)
            if output.classes and columns[field.key] and field.key == "label":
                columns["class"] = [output.classes[label] for label in columns["label"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _decoded(name: str, record: Mapping[str, Any], size: tuple[int, int], where: str) -> Tensor:
    """The field ``name`` of ``record``."""
    field = FIELDS[name]
    if not field.per_instance:
        return field.decode(record.get(field.key), record, size, where)
    instances = _entry(record, "instances", list, where)
    for index, instance in enumerate(instances):
        if not isinstance(instance, Mapping) or field.key not in instance:
            raise DataError(f"{where}: instances[{index}] has no {field.key!r}, which fields promises")
    return field.decode([instance[field.key] for instance in instances], record, size, where)


def _skeleton(record: Mapping[str, Any], where: str) -> Skeleton | None:
    if "skeleton" not in record:
        return None
    try:
        return Skeleton.from_dict(_entry(record, "skeleton", dict, where))
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None


def _entry(record: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """The entry ``name`` of ``record``, which has to be there and a ``kind``."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = {list: "a list", dict: "an object", int: "an integer"}
        raise DataError(f"{where}: {name} is {reprlib.repr(value)}; expected {kinds[kind]}")
    return value
