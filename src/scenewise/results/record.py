"""Predictions as files: JSON that reads back without loss, COCO results, and the picture beside them.

What a prediction's JSON holds (``to_json``; keys that do not apply are absent):

* ``format``: ``"scenewise-prediction-1"``.
* ``size`` (height, width), ``source``, ``classes``.
* ``fields``: the prediction's fields that are in the JSON; the rest of what it had is listed under ``omitted``.
* ``instances``: one record each, ``{"label", "class", "score", "box", "mask", "keypoints"}``; a mask is a COCO
  run-length code (:mod:`scenewise.ops.rle`). ``num_keypoints``: how many each instance has.
* ``semantic``: the label map as row-by-row runs; ``shares``: what part of the image each class covers, largest first.
* ``arrays``: the ``.npz`` file beside it that holds the dense maps (:func:`write_prediction` alone).

Coordinates are scenewise's own (see ``types.py``), in the pixels of the original image. Floats are float32 and stand
as the shortest decimal that gives the same float32 back. A number that is not finite is refused: JSON has none.
Dense float maps (boundary, depth, normals, embedding) don't belong in JSON: :func:`write_prediction` puts them into
an ``.npz``. Class scores before the softmax (``semantic_logits``) are not kept at all: C floats a pixel.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scenewise.errors import DataError, UsageError
from scenewise.files.atomic import atomic_path, write_text
from scenewise.ops import rle
from scenewise.types import IGNORE, INSTANCE_FIELDS, Prediction, Target

if TYPE_CHECKING:
    from scenewise.model import Model

FORMAT = "scenewise-prediction-1"
JSON_FIELDS = (*(name for name in INSTANCE_FIELDS if name != "roi_masks"), "semantic")
MAX_KEYPOINTS = 10_000  # an instance; what a file says beyond that is a mistake
ARRAY_FIELDS = ("boundary", "depth", "normals", "embedding")
_SHAPES = {  # K instances, P keypoints; H and W are the image's
    "boxes": "K4",
    "labels": "K",
    "scores": "K",
    "masks": "KHW",
    "roi_masks": "KMM",
    "keypoints": "KP3",
    "semantic": "HW",
    "semantic_logits": "CHW",
    "boundary": "HW",
    "depth": "HW",
    "normals": "3HW",
}
_KEYS = {"labels": "label", "scores": "score", "boxes": "box", "masks": "mask", "keypoints": "keypoints"}


def check(prediction: Prediction) -> None:
    """Refuse a prediction whose fields don't fit together.

    Raises:
        UsageError: a field's shape does not fit the image's size or the other fields, a label is no class, or a box,
            score or keypoint is not finite, which a model whose training diverged gives.
    """
    wrong = _misfit(prediction)
    if wrong:
        raise UsageError(f"prediction: {wrong}")


def detached(prediction: Prediction) -> Prediction:
    """``prediction`` on the CPU and without gradients, as numpy can read it."""
    values = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
    tensors: dict[str, Any] = {name: v.detach().cpu() for name, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(prediction, **tensors)


def to_json(prediction: Prediction) -> dict[str, Any]:
    """``prediction`` as plain values, ready for ``json.dump``; :func:`from_json` reads them back.

    Raises:
        UsageError: the fields don't fit together, or a box, score or keypoint is not finite.
    """
    check(prediction)
    prediction = detached(prediction)
    given = [f.name for f in dataclasses.fields(prediction) if isinstance(getattr(prediction, f.name), Tensor)]
    record: dict[str, Any] = {
        "format": FORMAT,
        "size": [int(side) for side in prediction.size],
        "source": prediction.source,
        "classes": list(prediction.classes),
        "fields": [name for name in given if name in JSON_FIELDS],
        "omitted": [name for name in given if name not in JSON_FIELDS],
    }
    if any(name in INSTANCE_FIELDS for name in given):
        record["instances"] = _instances(prediction)
    if prediction.keypoints is not None:
        record["num_keypoints"] = prediction.keypoints.shape[1]
    if prediction.semantic is not None:
        names = list(prediction.classes)
        record["shares"] = [
            {"label": names.index(name), "class": name, "share": round(share, 6)}
            for name, share in prediction.shares().items()
        ]
        record["semantic"] = rle.encode_labels(prediction.semantic)
    return record


def from_json(record: Mapping[str, Any], *, where: str = "prediction") -> Prediction:
    """The prediction that :func:`to_json` wrote, on the CPU; without the fields that it omitted.

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
        raise DataError(f"{where}: classes has an entry that is no text; expected names")
    unknown = [name for name in fields if name not in JSON_FIELDS]
    if unknown:
        raise DataError(f"{where}: fields has {unknown[0]!r}; known: {', '.join(JSON_FIELDS)}")
    height, width = size
    values: dict[str, Tensor] = {}
    instance_fields = [name for name in fields if name in INSTANCE_FIELDS]
    if instance_fields:
        instances = _entry(record, "instances", list, where)
        points = _entry(record, "num_keypoints", int, where) if "keypoints" in fields else 0
        if not 0 <= points <= MAX_KEYPOINTS:
            raise DataError(f"{where}: num_keypoints is {points}; expected 0 to {MAX_KEYPOINTS}")
        for name in instance_fields:
            values[name] = _instance_field(instances, name, (height, width), points, where)
    if "semantic" in fields:
        labels = rle.decode_labels(_entry(record, "semantic", dict, where), where=f"{where}: semantic")
        values["semantic"] = torch.from_numpy(labels)
    source = record.get("source")
    prediction = Prediction((height, width), tuple(classes), source=source, **values)
    wrong = _misfit(prediction)
    if wrong:
        raise DataError(f"{where}: {wrong}")
    return prediction


def to_coco(prediction: Prediction, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """``prediction`` as entries of a COCO results file, in COCO's conventions.

    Args:
        prediction: with scores, labels, and boxes, masks or keypoints.
        image_id: the image's id in the data set.
        category_ids: for each label, the data set's own id of that category.

    Returns:
        One entry an instance: ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height; the mask's where
        there are no boxes), ``segmentation`` (run-length code), ``keypoints`` (x, y, v in one list; x and y count
        from the centre of the first pixel, as COCO's do: half a pixel less than scenewise's).

    Raises:
        UsageError: a field that COCO results need is missing, the fields don't fit together, a number is not finite,
            or there are not as many category ids as classes.
    """
    check(prediction)
    if len(category_ids) != len(prediction.classes):
        raise UsageError(
            f"category_ids has {len(category_ids)} ids; expected one for each of the {len(prediction.classes)} classes"
        )
    if prediction.labels is None or prediction.scores is None:
        raise UsageError("prediction: COCO results need labels and scores; this one has no instances with both")
    if prediction.boxes is None and prediction.masks is None and prediction.keypoints is None:
        raise UsageError("prediction: COCO results need boxes, masks or keypoints; this one has none")
    entries = []
    for instance in _instances(detached(prediction)):
        entry = {
            "image_id": image_id,
            "category_id": int(category_ids[instance["label"]]),
            "score": instance["score"],
        }
        box = instance.get("box") or (rle.bbox(instance["mask"]) if "mask" in instance else None)
        if box is not None:
            corners = np.asarray(box, dtype=np.float32)
            entry["bbox"] = _decimals(np.concatenate([corners[:2], corners[2:] - corners[:2]]))
        if "mask" in instance:
            entry["segmentation"] = instance["mask"]
        if "keypoints" in instance:
            points = np.asarray(instance["keypoints"], dtype=np.float32).reshape(-1, 3)
            points[:, :2] -= 0.5
            entry["keypoints"] = _decimals(points.reshape(-1))
        entries.append(entry)
    return entries


class CocoResults:
    """Collects predictions as a COCO results file wants them; takes them one by one, as a metric does.

    Args:
        category_ids: for each label, the data set's own id of that category.
        numbers: the data set's own id of each image by its name; without it a name of digits is the id, and any other
            name stands for itself.
    """

    def __init__(self, category_ids: Sequence[int], numbers: Mapping[str, int] | None = None) -> None:
        self.category_ids, self.numbers = category_ids, numbers
        self.entries: list[dict[str, Any]] = []

    def add(self, prediction: Prediction, name: str) -> None:
        """Take the prediction for the image called ``name``."""
        number: int | str = int(name) if name.isdecimal() else name
        if self.numbers is not None:
            number = self.numbers[name]
        self.entries += to_coco(prediction, number, self.category_ids)

    def update(self, prediction: Prediction, target: Target) -> None:
        """Take one image of a data set."""
        self.add(prediction, target["image_id"])

    def merge(self, other: CocoResults) -> None:
        """Add what another process collected."""
        self.entries += other.entries

    def compute(self) -> dict[str, Any]:
        """No scores."""
        return {}

    def write(self, path: str | Path) -> None:
        """Write the file; one entry a line."""
        lines = (json.dumps(entry, allow_nan=False, ensure_ascii=False) for entry in self.entries)
        write_text(Path(path), "[\n" + ",\n".join(lines) + "\n]\n")


def category_ids(model: Model) -> list[int]:
    """The own ids of the data set that ``model`` learned from, for each label; 1, 2, ... where it had none."""
    return [int(number) for number in model.info.get("class_ids", range(1, len(model.classes) + 1))]


def write_prediction(
    prediction: Prediction, image: Any, out_dir: str | Path, name: str, **options: Any
) -> tuple[Path, Path]:
    """Write the picture and the JSON of ``prediction``, and an ``.npz`` of its dense float maps where it has any.

    Args:
        prediction: what was seen in the image.
        image: the image, as :func:`scenewise.results.picture.draw_prediction` takes it.
        out_dir: the folder; it is made where it is not there.
        name: the files' name without its ending; may name a folder below ``out_dir``, with slashes.
        options: passed to :func:`scenewise.results.picture.draw_prediction`.

    Returns:
        The paths of the picture, ``out_dir/name.png``, and of the JSON, ``out_dir/name.json``, which is written last.

    Raises:
        UsageError: the prediction does not fit the image or itself, ``name`` leads out of ``out_dir``, or the folder
            can't be written to.
    """
    from scenewise.results.picture import draw_prediction

    parts = PurePosixPath(name)
    if not parts.name or parts.is_absolute() or ".." in parts.parts:
        raise UsageError(f"name {name!r}: expected a file name without its ending, inside the folder {out_dir}")
    record = to_json(prediction)
    picture = draw_prediction(image, prediction, **options)
    base = Path(out_dir) / name
    arrays = {field: getattr(prediction, field) for field in record["omitted"] if field in ARRAY_FIELDS}
    if arrays:
        array_path = base.with_name(f"{base.name}.npz")
        with atomic_path(array_path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, **{field: value.detach().float().cpu().numpy() for field, value in arrays.items()}
            )
        record["arrays"] = array_path.name
        record["omitted"] = [field for field in record["omitted"] if field not in arrays]
    picture_path, json_path = base.with_name(f"{base.name}.png"), base.with_name(f"{base.name}.json")
    with atomic_path(picture_path) as temporary:
        picture.save(temporary, format="PNG", compress_level=4)  # photographs: as small as 6, in a third of the time
    write_text(json_path, _layout(record))
    return picture_path, json_path


def read_prediction(path: str | Path) -> Prediction:
    """The prediction whose JSON is in ``path``, with the dense maps of the ``.npz`` beside it where it names one.

    Raises:
        DataError: a file is missing or malformed.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error})") from None
    prediction = from_json(record, where=str(path))
    if "arrays" not in record:
        return prediction
    array_path = path.with_name(Path(str(record["arrays"])).name)
    try:
        with np.load(array_path, allow_pickle=False) as arrays:
            known = [name for name in ARRAY_FIELDS if name in arrays]
            values = {name: torch.from_numpy(arrays[name]) for name in known}
    except (OSError, ValueError) as error:
        raise DataError(f"{array_path}: can't be read; it holds dense maps of {path.name} ({error})") from None
    prediction = dataclasses.replace(prediction, **values)  # type: ignore[arg-type]
    wrong = _misfit(prediction)
    if wrong:
        raise DataError(f"{array_path}: {wrong}")
    return prediction


def _misfit(prediction: Prediction) -> str | None:
    """What does not fit in ``prediction``, as a sentence; None where all does."""
    known = {"H": prediction.size[0], "W": prediction.size[1]}
    for name, shape in _SHAPES.items():
        value = getattr(prediction, name)
        if value is None:
            continue
        sizes = tuple(value.shape)
        expected = [int(d) if d.isdigit() else known.get(d) for d in shape]
        if len(sizes) != len(shape) or any(e not in (None, s) for e, s in zip(expected, sizes, strict=True)):
            bound = ", ".join(f"{d} = {known[d]}" for d in dict.fromkeys(shape) if d in known)
            return f"{name} is {list(sizes)}; expected [{','.join(shape)}]" + (f" with {bound}" if bound else "")
        known.update({d: s for d, s in zip(shape, sizes, strict=True) if not d.isdigit()})
    return (
        _wrong_label(prediction.labels, "labels", prediction)
        or _wrong_label(prediction.semantic, "semantic", prediction)
        or _not_finite(prediction.boxes, "boxes")
        or _not_finite(prediction.scores, "scores")
        or _not_finite(prediction.keypoints, "keypoints")
    )


def _wrong_label(values: Tensor | None, name: str, prediction: Prediction) -> str | None:
    """Which of ``values`` is no label, as a sentence; None where all are."""
    if values is None or values.numel() == 0:
        return None
    if values.is_floating_point() or values.dtype == torch.bool:
        return f"{name} is {values.dtype}; expected integers"
    count = len(prediction.classes)
    bad = (values < 0) | (values >= count)
    also = ""
    if name == "semantic":
        bad &= values != IGNORE
        also = f", or {IGNORE} to ignore"
    if bad.any():
        return f"{name} has {int(values[bad][0])}; expected 0 to {count - 1} for the {count} classes{also}"
    return None


def _instances(prediction: Prediction) -> list[dict[str, Any]]:
    """One record an instance, with the entries that ``prediction`` has."""
    columns: dict[str, list[Any]] = {}
    if prediction.labels is not None:
        columns["label"] = prediction.labels.tolist()
        columns["class"] = [prediction.classes[label] for label in columns["label"]]
    for field in ("scores", "boxes", "keypoints"):
        value = getattr(prediction, field)
        if value is not None:
            columns[_KEYS[field]] = _decimals(value.float().numpy())
    if prediction.masks is not None:
        columns["mask"] = rle.encode(prediction.masks)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _not_finite(values: Tensor | None, name: str) -> str | None:
    """Which of the instances' ``values`` [K,...] is not finite, as a sentence; None where all are."""
    if values is None:
        return None
    finite = values.float().isfinite().reshape(len(values), math.prod(values.shape[1:])).all(1)
    if finite.all():
        return None
    index = int((~finite).nonzero()[0])
    return f"{name} of instance {index} is {reprlib.repr(values[index].tolist())}; expected finite numbers"


def _decimals(array: np.ndarray) -> list[Any]:
    """float32 ``array`` as nested lists of the shortest decimals that give the same float32 back."""
    return array.astype(np.str_).astype(np.float64).tolist()


def _entry(record: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """The entry ``name`` of ``record``, which has to be there and a ``kind``."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = {list: "a list", dict: "an object", int: "an integer"}
        raise DataError(f"{where}: {name} is {reprlib.repr(value)}; expected {kinds[kind]}")
    return value


def _instance_field(instances: list[Any], name: str, size: tuple[int, int], points: int, where: str) -> Tensor:
    """The Prediction's field ``name`` from the records of its instances."""
    key = _KEYS[name]
    for index, instance in enumerate(instances):
        if not isinstance(instance, Mapping) or key not in instance:
            raise DataError(f"{where}: instances[{index}] has no {key!r}, which fields promises")
    values = [instance[key] for instance in instances]
    if name == "masks":
        decoded = [
            rle.decode(code, size, where=f"{where}: instances[{index}].mask") for index, code in enumerate(values)
        ]
        return torch.from_numpy(np.stack(decoded)) if decoded else torch.zeros((0, *size), dtype=torch.bool)
    dtype, shape = {
        "labels": (torch.int64, ()),
        "scores": (torch.float32, ()),
        "boxes": (torch.float32, (4,)),
        "keypoints": (torch.float32, (points, 3)),
    }[name]
    arrays = []
    for index, value in enumerate(values):
        array = _array(value)
        if array is None or array.shape != shape or (name == "labels" and array.dtype.kind != "i"):
            kinds = {"labels": "an integer", "scores": "a finite number"}
            expected = kinds.get(name, f"finite numbers of shape {list(shape)}")
            raise DataError(f"{where}: instances[{index}].{key} is {reprlib.repr(value)}; expected {expected}")
        arrays.append(array)
    return torch.tensor(np.stack(arrays), dtype=dtype) if arrays else torch.zeros((0, *shape), dtype=dtype)


def _array(value: Any) -> np.ndarray | None:
    """``value`` as an array of numbers that float32 holds, or None where it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    if array.size == 0:
        array = array.astype(np.float64)
    return array if array.dtype.kind in "if" and (np.abs(array) <= np.finfo(np.float32).max).all() else None


def _layout(record: Mapping[str, Any]) -> str:
    """``record`` as JSON with one entry, and one instance, a line: short enough to read, and to compare by lines."""
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
