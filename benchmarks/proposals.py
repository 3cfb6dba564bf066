"""How well selective search covers the objects of a data set, and how long it takes.

    python benchmarks/proposals.py coco:data/coco --split val2017 --images 40 --mode fast

Prints, over the first images: proposals per image, the recall at IoU 0.5, the mean average best overlap (MABO: of the
best overlap of each object the mean over a class, then over the classes), and the seconds of processor time an image.
Crowds and difficult objects are left out. Published (Uijlings et al. 2013, VOC 2007 test): fast 2134 boxes, recall
0.98, MABO 80.4.
"""

from __future__ import annotations

import argparse
import importlib.util
import time

import torch
from torch import Tensor

from scenewise.data import open_data
from scenewise.ops.boxes import box_iou
from scenewise.ops.selective_search import selective_search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--mode", choices=("fast", "quality"), default="fast")
    parser.add_argument("--max-boxes", type=int, default=2000)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--min-side", type=float, default=20.0)
    arguments = parser.parse_args()
    data = open_data(arguments.data, arguments.split, needs=frozenset({"boxes", "labels"}))
    overlaps: dict[int, list[float]] = {}
    counts, seconds = [], 0.0
    for index in range(min(arguments.images, len(data))):
        image, target = data[index]
        start = time.process_time()
        boxes = selective_search(
            image.as_subclass(Tensor),
            mode=arguments.mode,
            max_boxes=arguments.max_boxes,
            width=arguments.width,
            min_side=arguments.min_side,
        )
        seconds += time.process_time() - start
        counts.append(len(boxes))
        truth, labels = target["boxes"].as_subclass(Tensor), target["labels"]
        kept = ~target.get("ignore", torch.zeros_like(labels, dtype=torch.bool))
        best = box_iou(truth[kept], boxes).amax(1) if len(boxes) else torch.zeros(int(kept.sum()))
        for label, overlap in zip(labels[kept].tolist(), best.tolist(), strict=True):
            overlaps.setdefault(label, []).append(overlap)
    every = [overlap for found in overlaps.values() for overlap in found]
    mabo = sum(sum(found) / len(found) for found in overlaps.values()) / len(overlaps)
    way = "scikit-image's" if importlib.util.find_spec("skimage") else "plain"
    print(f"{data.source} {data.split}: {len(counts)} images, {len(every)} objects; {way} initial segmentation")
    print(f"proposals per image {sum(counts) / len(counts):8.0f}")
    print(f"recall at 0.5      {sum(o >= 0.5 for o in every) / len(every):8.3f}")
    print(f"MABO               {100 * mabo:8.1f}")
    print(f"seconds an image   {seconds / len(counts):8.2f}")


if __name__ == "__main__":
    main()
