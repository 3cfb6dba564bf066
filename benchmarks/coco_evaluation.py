"""COCO's scores of boxes and masks: scenewise against pycocotools, equal numbers, time and memory.

    python benchmarks/coco_evaluation.py --images 5000

Each evaluator runs in a process of its own, one after the other, on the same made-up images: 7 truths and 40 detections
each, ellipses of 80 classes in 480 x 640 pixels, the detections near the truths. "collect" is what happens image by
image (masks to run-length codes, records kept), "evaluate" all that follows until the scores are there. Time is that of
the clock, and in brackets that of the processor, over all threads; memory is the peak of the process over what it held
before the first image.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

HEIGHT, WIDTH, CLASSES, TRUTHS, FOUND = 480, 640, 80, 7, 40
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def images(count: int) -> Iterator[dict[str, Any]]:
    """Boxes (corners, float32), masks bool [K,H,W], labels and scores of each image."""
    for index in range(count):
        rng = np.random.default_rng(index)
        sides = rng.uniform(8, 200, (TRUTHS, 2))
        corners = rng.uniform(0, 1, (TRUTHS, 2)) * ([WIDTH, HEIGHT] - sides)
        truths = np.concatenate([corners, corners + sides], 1)
        source = rng.integers(0, TRUTHS, FOUND)
        found = truths[source] + rng.normal(0, 0.08, (FOUND, 4)) * np.tile(sides[source], 2)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        labels = rng.integers(0, CLASSES, TRUTHS)
        guesses = np.where(rng.random(FOUND) < 0.7, labels[source], rng.integers(0, CLASSES, FOUND))
        truths, found = (np.clip(b, 0, [WIDTH, HEIGHT] * 2).astype(np.float32) for b in (truths, found))
        yield {
            "truths": truths,
            "labels": labels,
            "truth_masks": ellipses(truths),
            "found": found,
            "guesses": guesses,
            "found_masks": ellipses(found),
            "scores": rng.random(FOUND).astype(np.float32),
        }


def ellipses(boxes: np.ndarray) -> np.ndarray:
    """The masks bool [K,H,W] of the ellipses within ``boxes`` [K,4]."""
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), np.bool_)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        rows, columns = slice(int(y1), int(np.ceil(y2))), slice(int(x1), int(np.ceil(x2)))
        y = (np.arange(rows.start, rows.stop) + 0.5 - (y1 + y2) / 2) / max(1, y2 - y1)
        x = (np.arange(columns.start, columns.stop) + 0.5 - (x1 + x2) / 2) / max(1, x2 - x1)
        mask[rows, columns] = y[:, None] ** 2 + x**2 <= 0.25
    return masks


class Stopwatch:
    """Adds up wall and processor time by part."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Measures what is inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        sums = self.parts.setdefault(part, [0.0, 0.0])
        sums[0] += time.perf_counter() - wall
        sums[1] += time.process_time() - cpu


def with_scenewise(count: int, watch: Stopwatch) -> dict[str, Any]:
    import hotcoco  # noqa: F401  so that its import is no part of what is measured
    import torch

    from scenewise.metrics.coco import CocoMetrics
    from scenewise.types import Prediction

    before = memory()
    names = tuple(str(label) for label in range(CLASSES))
    metrics = CocoMetrics(names, ("box", "mask"))
    for index, image in enumerate(images(count)):
        values = {name: torch.from_numpy(array) for name, array in image.items()}
        with watch("collect"):
            found = {"boxes": values["found"], "masks": values["found_masks"], "labels": values["guesses"]}
            prediction = Prediction((HEIGHT, WIDTH), names, scores=values["scores"], **found)
            truth = {"boxes": values["truths"], "masks": values["truth_masks"], "labels": values["labels"]}
            metrics.update(prediction, {"image_id": str(index + 1), **truth})
    with watch("evaluate"):
        scores = metrics.compute()
    return {
        "scores": {kind: [scores[kind][name] for name in NAMES] for kind in ("box", "mask")},
        "memory": peak() - before,
    }


def with_pycocotools(count: int, watch: Stopwatch) -> dict[str, Any]:
    from pycocotools import mask as mask_api
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    before = memory()
    annotations: list[dict[str, Any]] = []
    results: dict[str, list[dict[str, Any]]] = {"box": [], "mask": []}
    for index, image in enumerate(images(count)):
        with watch("collect"):
            codes = {k: mask_api.encode(np.asfortranarray(image[k].transpose(1, 2, 0).view(np.uint8)))
                     for k in ("truth_masks", "found_masks")}  # fmt: skip
            boxes = {name: image[name].astype(np.float64) for name in ("truths", "found")}
            for value in boxes.values():
                value[:, 2:] -= value[:, :2]
            rows = zip(boxes["truths"].tolist(), image["labels"].tolist(), codes["truth_masks"], strict=True)
            for box, label, code in rows:
                record = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": label + 1, "iscrowd": 0}
                area = int(mask_api.area(code))
                annotations.append({**record, "bbox": box, "segmentation": code, "area": area})
            columns = (image["guesses"].tolist(), image["scores"].tolist(), boxes["found"].tolist())
            for label, score, box, code in zip(*columns, codes["found_masks"], strict=True):
                record = {"image_id": index + 1, "category_id": label + 1, "score": score}
                results["box"].append({**record, "bbox": box})
                results["mask"].append({**record, "segmentation": code})
    scores = {}
    with watch("evaluate"), contextlib.redirect_stdout(io.StringIO()):
        truths = COCO()
        truths.dataset = {
            "images": [{"id": index + 1, "height": HEIGHT, "width": WIDTH} for index in range(count)],
            "categories": [{"id": label + 1, "name": str(label)} for label in range(CLASSES)],
            "annotations": annotations,
        }
        truths.createIndex()
        for kind, native in (("box", "bbox"), ("mask", "segm")):
            run = COCOeval(truths, truths.loadRes(results.pop(kind)), native)
            run.evaluate()
            run.accumulate()
            run.summarize()
            scores[kind] = run.stats.tolist()
    return {"scores": scores, "memory": peak() - before}


def memory() -> float:
    """The resident memory of this process now, in MiB (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """The highest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--only", choices=("scenewise", "pycocotools"), help=argparse.SUPPRESS)  # one of the processes
    arguments = parser.parse_args()
    if arguments.only:
        watch = Stopwatch()
        run = {"scenewise": with_scenewise, "pycocotools": with_pycocotools}[arguments.only]
        print(json.dumps({**run(arguments.images, watch), "parts": watch.parts}))
        return
    print(f"{arguments.images:,} images, {arguments.images * FOUND:,} detections; {os.cpu_count()} cores, "
          f"load {', '.join(f'{load:.1f}' for load in os.getloadavg())} before")  # fmt: skip
    found = {}
    for name in ("scenewise", "pycocotools"):
        command = [sys.executable, __file__, "--images", str(arguments.images), "--only", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        parts = ", ".join(f"{p} {wall:.1f} s ({cpu:.1f} s)" for p, (wall, cpu) in found[name]["parts"].items())
        print(f"{name:12} {parts}, peak {found[name]['memory']:.0f} MiB", flush=True)
    ours, theirs = found["scenewise"], found["pycocotools"]
    assert ours["scores"] == theirs["scores"], "the scores differ"
    print(f"all {2 * len(NAMES)} scores are equal; box AP {ours['scores']['box'][0]:.6f}, "
          f"mask AP {ours['scores']['mask'][0]:.6f}")  # fmt: skip
    for part, (wall, cpu) in ours["parts"].items():
        other_wall, other_cpu = theirs["parts"][part]
        print(f"{part}: {other_wall / wall:.1f} times as fast ({other_cpu / cpu:.1f} in processor time)")
    print(f"memory: {ours['memory'] / theirs['memory']:.2f} of pycocotools'; load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
