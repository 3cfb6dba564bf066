"""What proposals save: the regions that each detector looks at, and its seconds for an image.

    python benchmarks/regions.py                  on a photograph of scikit-learn's, with a ResNet-18

The same classifier network, of random weights, in all of them: sliding windows cropped one by one and read off one map,
R-CNN and Fast R-CNN on 2,000 proposals of selective search, Faster R-CNN with its own 300. The shorter side is 600
pixels for the last two, as in their papers. The search is timed by itself, once; the rest are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from sklearn.datasets import load_sample_image

from scenewise.catalog import build
from scenewise.engine.predict import predict_images, prepare
from scenewise.model import Model
from scenewise.ops.selective_search import selective_search

CLASSES = [f"class {i}" for i in range(20)]
INPUT = {"short_side": 600, "long_side": 1000}
WINDOWS = {"pyramid": {"smallest": 64.0, "octaves": 2, "scales_per_octave": 1}, "stride": 32}
C4 = {"design": "c4", "head": {"kind": "stage"}}


def systems(backbone: str) -> list[tuple[str, Model, bool]]:
    """What is compared: its name, the model, whether it takes proposals from outside."""
    torch.manual_seed(0)
    fed = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    found = [
        ("sliding windows, one by one", "sliding-window", {"dense": False, **WINDOWS}, fed, False),
        ("sliding windows, dense", "sliding-window", WINDOWS, fed, False),
        ("R-CNN", "rcnn", {"head": "softmax"}, fed, True),
        ("Fast R-CNN", "fast-rcnn", C4, fed | INPUT, True),
        ("Faster R-CNN", "faster-rcnn", C4 | {"proposals": {"after_nms": 300}}, fed | INPUT, False),
    ]
    return [
        (name, prepare(build(system, CLASSES, backbone=backbone, input=spec, **options)), takes)
        for name, system, options, spec, takes in found
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    image = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1).contiguous()
    start = time.perf_counter()
    proposals = selective_search(image)
    searched = time.perf_counter() - start
    print(f"{'selective search':30} {len(proposals):6} regions {searched:8.2f} s")
    for name, model, takes in systems(arguments.backbone):
        seconds = []
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            predict_images(model.predict, model.input, [image], proposals=[proposals] if takes else ())
            seconds.append(time.perf_counter() - start)
        size = int(image.shape[-2]), int(image.shape[-1])
        if hasattr(model, "windows"):
            count = len(model.windows(size))
        else:
            count = len(proposals) if takes else 300
        took = statistics.median(seconds)
        with_search = f"   {took + searched:8.2f} s with the search" if takes else ""
        print(f"{name:30} {count:6} regions {took:8.2f} s{with_search}", flush=True)


if __name__ == "__main__":
    main()
