"""How fast samples reach the model.

    python benchmarks/data_speed.py                      # the generator behind scenes: alone
    python benchmarks/data_speed.py path/to/camvid       # and scenewise's loader against a plain torchvision one

The plain loader is what one would write by hand: a Dataset that opens image and label map with PIL, the same transforms
of torchvision's v2, and a DataLoader with its default collation. Both read the same files, give batches of float32
images and int64 class maps, and run in turn in this process (and the same number of worker processes), in many short
rounds, after one pass each that nobody times. scenewise also seeds each sample, checks its labels and carries targets
of any kind; that is in its time. Printed are the medians over the rounds: samples a second by the clock, processor time
a sample (of the workers, too; it depends less on what else the machine does), and the ratio of each round's pair.
"""

from __future__ import annotations

import argparse
import os
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

from scenewise.data.loader import Epochs, training_batches
from scenewise.data.readers.camvid import CamVid
from scenewise.data.scenes.scenes import Scenes

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


def measured(batches: Callable[[], Iterable[object]]) -> tuple[float, float]:
    """Seconds and processor seconds a sample of ``batches()``, from asking for the first to having the last."""
    start, used = time.perf_counter(), processor_seconds()
    count = sum(1 for _ in batches()) * BATCH
    seconds = time.perf_counter() - start
    return seconds / count, (processor_seconds() - used) / count


def processor_seconds() -> float:
    """What this process and its workers that have ended have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare(data: CamVid, plain: Plain, workers: int, rounds: int) -> None:
    """Time both loaders in turn, each first in every other round, and print a line."""
    transform = v2.Compose(transforms())
    needs = frozenset({"semantic"})

    def ours() -> Iterable[object]:
        order = Epochs(len(data), BATCH, seed=0, epoch=0)
        return training_batches(data, order, transform=transform, seed=0, needs=needs, workers=workers)

    def theirs() -> Iterable[object]:
        return DataLoader(plain, BATCH, shuffle=True, drop_last=True, num_workers=workers)

    measured(ours), measured(theirs)
    found: list[tuple[float, ...]] = []
    for turn in range(rounds):
        if turn % 2:
            b, a = measured(theirs), measured(ours)
        else:
            a, b = measured(ours), measured(theirs)
        found.append((*a, *b, b[0] / a[0], b[1] / a[1]))
    wall, cpu, plain_wall, plain_cpu, ratio, cpu_ratio = (
        statistics.median(column) for column in zip(*found, strict=True)
    )
    low, high = statistics.quantiles([row[4] for row in found], n=4)[::2]
    print(
        f"{workers} workers, {rounds} rounds, load {os.getloadavg()[0]:.1f}: "
        f"scenewise {1 / wall:.1f}/s ({cpu * 1e3:.1f} ms CPU), plain torchvision {1 / plain_wall:.1f}/s "
        f"({plain_cpu * 1e3:.1f} ms), "
        f"ratio {ratio:.2f} (half of the rounds {low:.2f} to {high:.2f}), CPU {cpu_ratio:.2f}"
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
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--images", type=int, default=300, help="a round of the generator")
    parser.add_argument(
        "--samples", type=int, default=64, help="a round of the loaders: the split's first so many images"
    )
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
