"""Average precision and recall as COCO measures them: of boxes, masks and keypoints, equal to pycocotools to the bit.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014; the keypoints' similarity (OKS): Ronchi and Perona,
"Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017, sec. 2. What defines the numbers is the
COCO API's ``cocoeval.py``. Thresholds of IoU or OKS 0.50, 0.55, ..., 0.95; the precision at 101 recalls; at most 100
detections of a class in an image (20 for keypoints).

* ``ignore`` marks crowds: any number of detections may match one, by the share of the detection that lies within it,
  and those are neither true nor false positives. For keypoints, objects without a labelled keypoint are ignored as
  well.
* Sizes are those of ground-truth objects: small below 32^2 pixels of ``area``, medium to 96^2, large above (both bounds
  belong to both sides). A detection without a match is left out where its own area is out of range: the box's area for
  boxes, the mask's for masks (pycocotools takes the box's there if a results file has both), that of the box around the
  points for keypoints.
* Equal scores keep the order of detections in an image, and that of images by their number.

The matching itself is done by hotcoco, a native implementation, which is only handed values that were checked here and
run-length codes that were made here: it ends the process on some malformed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.fields.run_masks import codes_of
from scenewise.metrics.base import Metric, Setting, image_key, image_label
from scenewise.metrics.objects import instances_of, truths_of
from scenewise.metrics.store import Float64, Images, Objects
from scenewise.ops import rle
from scenewise.types import Described, Target

Kind = Literal["box", "mask", "keypoints"]
KINDS: tuple[Kind, ...] = ("box", "mask", "keypoints")

# Of COCO's 17 keypoints: how far annotators differ, as a share of the object's scale. Source: the COCO API.
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)  # fmt: skip
OTHER_SIGMA = 0.062  # where nothing is known of the keypoints: the mean of COCO's

FIELDS = {"box": "boxes", "mask": "masks", "keypoints": "keypoints"}
_NATIVE = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
_CHUNK = 64  # images that are handed over at once; the dictionaries of all would take more memory than all else
_ALL, _LAST = 0, -1  # the first range of areas, the largest number of detections


class CocoMetrics(Metric):
    """COCO's scores of boxes, masks and keypoints over a data set.

    Args:
        classes: names, in label order.
        kinds: what is measured; predictions and targets must have the fields of each.
        sigmas: one for each keypoint: the distance, as a share of the square root of the object's area, up to which
            people place it. By default COCO's for 17 keypoints, and 0.062, their mean, for any other number.
        order: the number of each image by its name, which decides the order of equal scores; COCO's image ids. By
            default images are put in the order of the numbers that their names are, or of the names.
    """

    def __init__(
        self,
        classes: Sequence[str],
        kinds: Sequence[Kind] = KINDS,
        *,
        sigmas: Sequence[float] | None = None,
        order: Mapping[str, int] | None = None,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise UsageError(f"kinds is {tuple(kinds)!r}; expected some of {', '.join(KINDS)}")
        if sigmas is not None and not all(sigma > 0 for sigma in sigmas):
            raise UsageError(f"sigmas is {tuple(sigmas)}; expected numbers above 0")
        self.classes = tuple(classes)
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.sigmas = None if sigmas is None else tuple(float(sigma) for sigma in sigmas)
        self.order = order
        self.images = Images()

    @classmethod
    def of(cls, setting: Setting, measured: tuple[str, ...], **parameters: Any) -> CocoMetrics:
        """Of the kinds that the fields ``measured`` are."""
        kinds = [kind for kind in KINDS if FIELDS[kind] in measured]
        return cls(setting.classes, kinds, **{"order": setting.order, **parameters})

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``boxes``, ``masks``, ``keypoints`` with ``labels``, and the prediction's ``scores``.

        The target's ``ignore`` is False by default, and its ``area`` that of the mask, else of the box.

        Raises:
            UsageError: a field is missing or does not fit; names the image.
        """
        where, count = image_label(prediction, target), len(self.classes)
        fields = [FIELDS[kind] for kind in self.kinds]
        found = instances_of(prediction, where, count, fields)
        kept = best_of_each_class(found["scores"].float().numpy(), found["labels"].numpy())
        if len(kept) < len(found["scores"]):
            found = {name: value[kept] for name, value in found.items()}
        if "keypoints" in fields and "boxes" not in fields:
            fields.append("boxes")  # an ignored person is near where its box is
        truth = truths_of(target, where, count, fields, prediction.size)
        if "keypoints" in fields:
            self._check_points(found["keypoints"].shape[1], truth["keypoints"].shape[1], where)
        self.images.append(image_key(target), prediction.size, compact(found), compact(truth))

    def _check_points(self, found: int, truth: int, where: str) -> None:
        known = self.images.truths.shape("keypoints")
        expected = len(self.sigmas) if self.sigmas is not None else known[0] if known is not None else truth
        for what, points in (("prediction", found), ("target", truth)):
            if points != expected:
                raise UsageError(f"{where}: the {what} has {points} keypoints per instance; expected {expected}")

    def merge(self, other: CocoMetrics) -> None:
        """Add what another process counted."""
        mine, theirs = ((m.classes, m.kinds, m.sigmas) for m in (self, other))
        if mine != theirs:
            raise UsageError(f"can't merge COCO scores of {theirs} into those of {mine} (classes, kinds, sigmas)")
        self.images.extend(other.images)

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where there is no truth to measure by.

        Returns:
            For each kind a dictionary. ``box`` and ``mask``: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``,
            ``AR1``, ``AR10``, ``AR100``, ``ARs``, ``ARm``, ``ARl``. ``keypoints``: ``AP``, ``AP50``, ``AP75``,
            ``APm``, ``APl``, ``AR``, ``AR50``, ``AR75``, ``ARm``, ``ARl``. Each has ``per_class``: ``AP``, ``AP50`` and
            the number of ground-truth objects that count (``truths``) per class name. And the number of ``images``.
        """
        scores: dict[str, Any] = {}
        for kind in self.kinds:
            precision, recall = evaluate(kind, self.images, len(self.classes), order=self.order, sigmas=self.sigmas)
            summary = _keypoint_scores if kind == "keypoints" else _object_scores
            scores[kind] = {**summary(precision, recall), "per_class": self._per_class(precision, kind)}
        scores["images"] = len(self.images)
        return scores

    def _per_class(self, precision: Float64, kind: Kind) -> dict[str, Any]:
        table = self.images.truths
        counts = np.zeros(len(self.classes), np.int64)
        if table.rows:
            counted = ~table.column("ignore")
            if kind == "keypoints":
                counted &= (table.column("keypoints")[:, :, 2] > 0).any(1)
            counts = np.bincount(table.column("labels")[counted], minlength=len(self.classes))
        return {
            name: {
                "AP": mean_of(precision[:, :, label, _ALL, _LAST]),
                "AP50": mean_of(precision[0, :, label, _ALL, _LAST]),
                "truths": int(counts[label]),
            }
            for label, name in enumerate(self.classes)
        }


def _object_scores(precision: Float64, recall: Float64) -> dict[str, float | None]:
    """The twelve numbers of boxes and masks; see :func:`evaluate` for the arrays."""
    every, small, medium, large = range(4)
    return {
        "AP": mean_of(precision[..., every, _LAST]),
        "AP50": mean_of(precision[0, ..., every, _LAST]),
        "AP75": mean_of(precision[5, ..., every, _LAST]),
        "APs": mean_of(precision[..., small, _LAST]),
        "APm": mean_of(precision[..., medium, _LAST]),
        "APl": mean_of(precision[..., large, _LAST]),
        "AR1": mean_of(recall[..., every, 0]),
        "AR10": mean_of(recall[..., every, 1]),
        "AR100": mean_of(recall[..., every, 2]),
        "ARs": mean_of(recall[..., small, _LAST]),
        "ARm": mean_of(recall[..., medium, _LAST]),
        "ARl": mean_of(recall[..., large, _LAST]),
    }


def _keypoint_scores(precision: Float64, recall: Float64) -> dict[str, float | None]:
    """The ten numbers of keypoints, which have no small objects."""
    every, medium, large = range(3)
    scores: dict[str, float | None] = {}
    for name, values in (("AP", precision), ("AR", recall)):
        scores |= {
            name: mean_of(values[..., every, _LAST]),
            f"{name}50": mean_of(values[0, ..., every, _LAST]),
            f"{name}75": mean_of(values[5, ..., every, _LAST]),
            f"{name}m": mean_of(values[..., medium, _LAST]),
            f"{name}l": mean_of(values[..., large, _LAST]),
        }
    return scores


def mean_of(values: Float64) -> float | None:
    """The mean of those of ``values`` that are defined (not -1); None where none is."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else None


def best_of_each_class(scores: npt.NDArray[Any], labels: npt.NDArray[Any], most: int = 100) -> npt.NDArray[np.int64]:
    """The places of the ``most`` best-scored detections of each class, ascending: no others affect the scores."""
    if len(scores) <= most:
        return np.arange(len(scores))
    order = np.lexsort((-scores, labels))  # stable: equal scores stay in order
    ordered = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < most])


def compact(values: Mapping[str, Tensor]) -> Objects:
    """What is kept of checked fields: masks as run-length codes."""
    codes = codes_of(values["masks"]) if "masks" in values and len(values["masks"]) else []
    return Objects(
        labels=values["labels"].numpy().astype(np.int32),
        scores=values["scores"].float().numpy() if "scores" in values else None,
        ignore=values["ignore"].numpy() if "ignore" in values else None,
        area=None if "scores" in values else _area_of(values, codes),  # a detection's follows from what is measured
        boxes=values["boxes"].float().numpy() if "boxes" in values else None,
        keypoints=values["keypoints"].float().numpy() if "keypoints" in values else None,
        masks=[code["counts"] for code in codes] if "masks" in values else None,
    )


def _area_of(values: Mapping[str, Tensor], codes: Sequence[Mapping[str, Any]]) -> Float64:
    """The areas of the ground-truth objects in pixels, float64 [K]: as stated, else of the masks, else of the boxes."""
    if "area" in values:
        return values["area"].numpy()
    if "masks" in values:
        return np.array([rle.area(code) for code in codes], np.float64)
    width, height = _corner_and_size(values["boxes"].numpy()).T[2:]
    found: Float64 = width * height
    return found


def _corner_and_size(boxes: npt.NDArray[Any]) -> Float64:
    """COCO's x, y, width, height of ``boxes`` [K,4], in float64."""
    corners = boxes.astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    return corners


# ---- handing over to the native implementation


def evaluate(
    kind: Kind,
    images: Images,
    num_classes: int,
    *,
    order: Mapping[str, int] | None = None,
    sigmas: Sequence[float] | None = None,
    most: Sequence[int] | None = None,
    class_agnostic: bool = False,
) -> tuple[Float64, Float64]:
    """Precision and recall as COCO's evaluation has them; -1 where there is no truth to measure by.

    Args:
        kind: what is compared.
        images: what they hold.
        num_classes: C.
        order, sigmas: see :class:`CocoMetrics`.
        most: M numbers of detections in an image, ascending; COCO's by default.
        class_agnostic: whether any detection may match any truth; C is 1 in the result.

    Returns:
        float64 [10,101,C,A,M], by threshold, recall, class, range of areas (all, small, medium, large; no small ones
        for keypoints) and number of detections; and recall [10,C,A,M].
    """
    import hotcoco

    params = hotcoco.Params(_NATIVE[kind])
    if most is not None:
        params.max_dets = list(most)
    params.use_cats = not class_agnostic
    shape = (10, 101, 1 if class_agnostic else num_classes, len(params.area_rng), len(params.max_dets))
    if images.truths.rows == 0:
        return np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    if kind == "keypoints":
        params.kpt_oks_sigmas = list(sigmas if sigmas is not None else _default_sigmas(images))
    categories = [{"id": label + 1, "name": str(label)} for label in range(num_classes)]
    stream = hotcoco.StreamingEval(categories, _NATIVE[kind], params=params)
    read_truths = images.truths.reader("ignore", "area", "boxes", FIELDS[kind])
    read_found = images.detections.reader("scores", FIELDS[kind])
    first = 1  # the id of the next truth: COCO's matching takes 0 for none
    places = images.in_order(order)
    for start in range(0, len(places), _CHUNK):
        chunk = places[start : start + _CHUNK]
        records = [
            {"id": number, "height": images.sizes[place][0], "width": images.sizes[place][1]}
            for number, place in enumerate(chunk, start + 1)
        ]
        truths: list[dict[str, Any]] = []
        for number, place in enumerate(chunk, start + 1):
            objects = read_truths(place)
            truths += _truth_records(kind, objects, images.sizes[place], number, first)
            first += len(objects)
        found = [read_found(place) for place in chunk]
        if kind == "box":
            stream.update(records, truths, _box_table(found, start + 1))
        else:
            sizes = [images.sizes[place] for place in chunk]
            stream.update(records, truths, _detection_records(kind, found, sizes, start + 1))
    run = stream.finalize()
    run.accumulate()
    result = run.eval
    assert result is not None
    precision, recall = (np.asarray(result[name], np.float64) for name in ("precision", "recall"))
    return precision.reshape(shape), recall.reshape(shape[0], *shape[2:])


def _default_sigmas(images: Images) -> tuple[float, ...]:
    shape = images.truths.shape("keypoints")
    assert shape is not None
    return COCO_SIGMAS if shape[0] == len(COCO_SIGMAS) else (OTHER_SIGMA,) * shape[0]


def _truth_records(
    kind: Kind, truths: Objects, size: tuple[int, int], number: int, first: int
) -> Iterator[dict[str, Any]]:
    """COCO's annotations of image ``number``, with ids from ``first`` on."""
    assert truths.ignore is not None
    assert truths.area is not None
    columns: dict[str, Any] = {
        "id": range(first, first + len(truths)),
        "image_id": [number] * len(truths),
        "category_id": (truths.labels + 1).tolist(),
        "iscrowd": truths.ignore.astype(int).tolist(),
        "area": truths.area.tolist(),
    }
    if truths.boxes is not None and kind != "mask":
        columns["bbox"] = _corner_and_size(truths.boxes).tolist()
    if kind == "keypoints":
        assert truths.keypoints is not None
        columns["num_keypoints"] = (truths.keypoints[:, :, 2] > 0).sum(1).tolist()
    return _with_shapes(kind, columns, truths, size)


def _box_table(found: Sequence[Objects], number: int) -> Float64:
    """The boxes found in the images from ``number`` on, as COCO's table [K,7]: image, corner and size, score, class."""
    images = np.repeat(np.arange(number, number + len(found)), [len(objects) for objects in found])
    boxes, scores, labels = (
        np.concatenate([getattr(objects, name) for objects in found]) for name in ("boxes", "scores", "labels")
    )
    return np.column_stack([images, _corner_and_size(boxes), scores.astype(np.float64), labels + 1])


def _detection_records(
    kind: Kind, found: Sequence[Objects], sizes: Sequence[tuple[int, int]], number: int
) -> list[dict[str, Any]]:
    """COCO's results of masks or keypoints in the images from ``number`` on."""
    records: list[dict[str, Any]] = []
    for image, (objects, size) in enumerate(zip(found, sizes, strict=True), number):
        assert objects.scores is not None
        columns: dict[str, Any] = {
            "image_id": [image] * len(objects),
            "category_id": (objects.labels + 1).tolist(),
            "score": objects.scores.tolist(),
        }
        records += _with_shapes(kind, columns, objects, size)
    return records


def _with_shapes(
    kind: Kind, columns: dict[str, Any], objects: Objects, size: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """A record a row of ``columns``, with the masks or keypoints of ``objects``."""
    if kind == "mask":
        assert objects.masks is not None
        columns["segmentation"] = [{"size": size, "counts": counts} for counts in objects.masks]
    if kind == "keypoints":
        assert objects.keypoints is not None
        points = objects.keypoints.astype(np.float64)
        points[:, :, :2] -= 0.5  # COCO counts from the centre of the first pixel, its boxes from its corner
        columns["keypoints"] = points.reshape(len(objects), 3 * points.shape[1]).tolist()
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
