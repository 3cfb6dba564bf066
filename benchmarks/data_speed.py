"""How fast samples reach the model.

    python benchmarks/data_speed.py                      # the generator behind scenes: alone
    python benchmarks/data_speed.py path/to/camvid       # and scenewise's loader against a plain torchvision one

The plain loader is what one would write by hand: a Dataset that opens image and label map with PIL, the same transforms
of torchvision's v2, and a DataLoader with its default collation. Both read the same files, give batches of float32
images and int64 class maps, and run in turn in this process (and the same number of worker processes), after one pass
each that nobody times. scenewise also seeds each sample, checks its labels and carries targets of any kind; that is in
its time. Printed are the medians over the rounds, and the ratio of each round's pair.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from scenewise.data.camvid import CamVid
from scenewise.data.loader import Epochs, training_batches
from scenewise.data.scenes import Scenes

BATCH = 8


def transforms() -> list[v2.Transform]:
    return [v2.RandomResizedCrop((360, 480), scale=(0.4, 1.0), antialias=True), v2.RandomHorizontalFlip()]


class Plain(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of images and label maps, as one writes it by hand."""

    def __init__(self, images: list[Path], labels: list[Path]) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                *transforms(),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.open(self.images[index]).convert("RGB")
        label = tv_tensors.Mask(torch.from_numpy(np.array(Image.open(self.labels[index]))))
        return self.transform(image, label)


def rate(batches: Callable[[], Iterable[object]]) -> float:
    """Samples a second over all of ``batches()``, from asking for the first to having the last."""
    start = time.perf_counter()
    count = sum(1 for _ in batches())
    return count * BATCH / (time.perf_counter() - start)


def compare(data: CamVid, plain: Plain, workers: int, rounds: int) -> None:
    """Time both loaders in turn and print a line."""
    transform = v2.Compose(transforms())
    needs = frozenset({"semantic"})

    def ours() -> Iterable[object]:
        order = Epochs(len(data), BATCH, seed=0, epoch=0)
        return training_batches(data, order, transform=transform, seed=0, needs=needs, workers=workers)

    def theirs() -> Iterable[object]:
        return DataLoader(plain, BATCH, shuffle=True, drop_last=True, num_workers=workers)

    rate(ours), rate(theirs)
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    ours_rate, plain_rate = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{workers} workers: scenewise {ours_rate:7.1f}/s, plain torchvision {plain_rate:7.1f}/s, "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def generate(options: str, rounds: int, images: int) -> None:
    """Time the generator in this process and print a line."""
    data = Scenes(Path(options))
    data[0]  # makes the texture bank
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for index in range(images):
            data[index]
        times.append(images / (time.perf_counter() - start))
    print(f"scenes:{options:<44} {statistics.median(times):7.1f}/s ({min(times):.1f} to {max(times):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path, nargs="?", help="the folder of camvid: in the SegNet layout")
    parser.add_argument("--split", default="train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--images", type=int, default=300, help="a round of the generator")
    parser.add_argument("--samples", type=int, help="use only so many of the split's images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, numpy {np.__version__}, one thread")
    if options.camvid is not None:
        data = CamVid(options.camvid, options.split)
        data.pairs = data.pairs[: options.samples]
        indices = range(len(data))
        plain = Plain([data.image_path(i) for i in indices], [data.label_path(i) for i in indices])
        print(f"{len(data)} images of {options.split}, batches of {BATCH}, RandomResizedCrop and RandomHorizontalFlip")
        for workers in options.workers:
            compare(data, plain, workers, options.rounds)
    print("The generator, one process:")
    for fields in ("fields=semantic", "fields=boxes", "fields=boxes+masks", "fields=keypoints", "fields=depth+normals"):
        generate(f"size=128,{fields}", options.rounds, options.images)
    generate("size=128", options.rounds, options.images)
    generate("size=256,fields=semantic", options.rounds, options.images)


if __name__ == "__main__":
    main()
