"""pycocotools as the oracle: the same images, once as COCO's dictionaries and once as scenewise's types."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scenewise.metrics.coco import CocoMetrics
from scenewise.results.prediction import Prediction

NATIVE = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
Record = dict[str, Any]


def reference(
    kind: str,
    dataset: Record,
    results: list[Record],
    *,
    sigmas: np.ndarray | None = None,
    most: list[int] | None = None,
    class_agnostic: bool = False,
) -> COCOeval:
    """pycocotools' evaluation, accumulated and summarised. Results hold ``bbox``, ``segmentation`` and ``keypoints``;
    those of the kind alone are handed over, as a box beside a mask would change the area that counts."""
    field = {"box": "bbox", "mask": "segmentation", "keypoints": "keypoints"}[kind]
    kept = [{k: r[k] for k in ("image_id", "category_id", "score", field)} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truths, found = COCO(), COCO()
        truths.dataset = copy.deepcopy(dataset)
        truths.createIndex()
        if kept:
            found = truths.loadRes(copy.deepcopy(kept))
        else:  # loadRes takes no empty list
            found.dataset = {"images": truths.dataset["images"], "categories": truths.dataset["categories"]}
            found.dataset["annotations"] = []
            found.createIndex()
        run = COCOeval(truths, found, NATIVE[kind])
        if sigmas is not None:
            run.params.kpt_oks_sigmas = sigmas
        if most is not None:
            run.params.maxDets = most
        run.params.useCats = int(not class_agnostic)
        run.evaluate()
        run.accumulate()
        if most is None:
            run.summarize()
    return run


def samples(dataset: Record, results: list[Record], points: int = 17) -> Iterator[tuple[Prediction, dict[str, Any]]]:
    """The same as pairs of a prediction and a target, in the order of ``dataset["images"]``."""
    names = tuple(c["name"] for c in dataset["categories"])
    labels = {c["id"]: label for label, c in enumerate(dataset["categories"])}
    oracle = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        oracle.dataset = copy.deepcopy(dataset)
        oracle.createIndex()
    for image in dataset["images"]:
        size = (image["height"], image["width"])
        truths = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        found = [r for r in results if r["image_id"] == image["id"]]
        prediction = Prediction(
            size,
            names,
            boxes=_boxes(found),
            labels=_labels(found, labels),
            scores=torch.tensor([r["score"] for r in found], dtype=torch.float32),
            masks=_masks([mask_api.decode(r["segmentation"]) for r in found if "segmentation" in r], size),
            keypoints=_points(found, points),
        )
        target = {
            "image_id": f"{image['id']:012}",
            "boxes": _boxes(truths),
            "labels": _labels(truths, labels),
            "ignore": torch.tensor([bool(a["iscrowd"]) for a in truths], dtype=torch.bool),
            "area": torch.tensor([a["area"] for a in truths], dtype=torch.float64),
            "masks": _masks([oracle.annToMask(a) for a in truths if "segmentation" in a], size),
            "keypoints": _points(truths, points),
        }
        yield prediction, target


def measured(
    classes: int | tuple[str, ...], kinds: tuple[Any, ...], pairs: Iterable[Any], **options: Any
) -> CocoMetrics:
    """scenewise's metrics, updated with ``pairs``."""
    names = tuple(f"c{i}" for i in range(classes)) if isinstance(classes, int) else classes
    metrics = CocoMetrics(names, kinds, **options)
    for prediction, target in pairs:
        metrics.update(prediction, target)
    return metrics


def _boxes(records: list[Record]) -> torch.Tensor:
    boxes = torch.tensor([r["bbox"] for r in records], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _labels(records: list[Record], labels: dict[int, int]) -> torch.Tensor:
    return torch.tensor([labels[r["category_id"]] for r in records], dtype=torch.int64)


def _masks(arrays: list[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays).astype(bool)) if arrays else torch.zeros((0, *size), dtype=torch.bool)


def _points(records: list[Record], points: int) -> torch.Tensor:
    flat = [r.get("keypoints", [0] * 3 * points) for r in records]
    values = torch.tensor(flat, dtype=torch.float64).reshape(len(records), points, 3)
    values[..., :2] += 0.5
    return values


def random_case(
    seed: int, *, images: int = 6, classes: int = 3, most: int = 12, points: int = 17, scores: int | None = None
) -> tuple[Record, list[Record]]:
    """Truths and detections full of trouble: crowds, images and classes without objects, areas on the bounds, empty
    masks, boxes without width, unlabelled people, exact copies, ``scores`` different scores only."""
    rng = np.random.default_rng(seed)
    height, width = 24, 32
    dataset: Record = {
        "images": [{"id": int(i), "height": height, "width": width} for i in rng.permutation(images) + 1],
        "categories": [{"id": 7 * c + 3, "name": f"c{c}"} for c in range(classes)],
        "annotations": [],
    }
    ids = [c["id"] for c in dataset["categories"]]
    results = []
    for image in range(1, images + 1):
        truths = [_random_record(rng, image, ids, height, width, points) for _ in range(_count(rng, 6))]
        for truth in truths:
            truth["id"] = len(dataset["annotations"]) + 1
            truth["iscrowd"] = int(rng.random() < 0.2)
            w, h = truth["bbox"][2:]
            truth["area"] = float(rng.choice([w * h, 1024, 9216, np.nextafter(1024, 0), 9216.5, 0, 1e5, 1e10]))
            kept = np.reshape(truth["keypoints"], (-1, 3))
            kept[:, 2] = 0 if rng.random() < 0.2 else rng.integers(0, 3, points)
            truth["num_keypoints"] = int((kept[:, 2] > 0).sum())
            truth["keypoints"] = kept.ravel().tolist()
            dataset["annotations"].append(truth)
        for _ in range(_count(rng, most)):
            found = _random_record(rng, image, ids, height, width, points)
            if truths and rng.random() < 0.7:
                found |= _near(rng, truths[rng.integers(len(truths))], height, width)
            value = np.float32(rng.random())
            found["score"] = float(value if scores is None else np.float32(np.floor(value * scores) / scores))
            results.append(found)
    return dataset, results


def _count(rng: np.random.Generator, most: int) -> int:
    return int(rng.integers(0, most + 1)) * int(rng.random() > 0.15)


def _random_record(
    rng: np.random.Generator, image: int, ids: list[int], height: int, width: int, points: int
) -> Record:
    x, y = (int(rng.integers(0, side - 1)) for side in (width, height))
    w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
    box = [float(v) for v in (x, y, w if rng.random() > 0.05 else 0, h)]
    joints = np.stack([rng.integers(x, x + w, points), rng.integers(y, y + h, points), np.full(points, 2)], 1)
    record = {"image_id": image, "category_id": ids[int(rng.integers(len(ids)))], "bbox": box}
    return record | {"segmentation": _code(rng, box, height, width), "keypoints": joints.ravel().tolist()}


def _near(rng: np.random.Generator, truth: Record, height: int, width: int) -> Record:
    """A detection at ``truth``, or in one case of three exactly there; quarters of pixels are exact in float32."""
    spread = 0 if rng.random() < 0.3 else 8
    box = np.array(truth["bbox"]) + rng.integers(-spread, spread + 1, 4) / 4
    box = np.maximum(box, 0).tolist()
    joints = np.reshape(truth["keypoints"], (-1, 3)).astype(float)
    joints[:, :2] += rng.integers(-spread, spread + 1, (len(joints), 2)) / 4
    code = truth["segmentation"] if spread == 0 else _code(rng, box, height, width)
    category = truth["category_id"] if rng.random() < 0.8 else None
    found = {"bbox": box, "segmentation": code, "keypoints": joints.ravel().tolist()}
    return found if category is None else found | {"category_id": category}


def _code(rng: np.random.Generator, box: list[float], height: int, width: int) -> Record:
    x, y, w, h = (int(v) for v in box)
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y : y + h + 1, x : x + w + 1] = rng.random() > 0.05
    code = mask_api.encode(mask)
    return {"size": [height, width], "counts": code["counts"].decode()}
