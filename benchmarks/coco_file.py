"""Opening an annotation file of the size of COCO's train2017, with scenewise and with pycocotools.

    python benchmarks/coco_file.py                     makes the file where it is not there, and measures
    python benchmarks/coco_file.py --images 5000       a smaller one
    python benchmarks/coco_file.py --images 1000000 --per-image 10 --boxes --no-peer      ten million boxes

Each is opened in a process of its own; the peak of its resident memory is the system's figure for it. Then two loader
processes read every record of an epoch in random order, boxes and outlines but no pixels, and the memory that each has
for itself (not shared with its parent) is compared before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

IMAGES, PER_IMAGE, CATEGORIES = 118_287, 7.27, 80  # as in train2017, with 860,001 objects


def write_file(path: Path, images: int, per_image: float, boxes: bool) -> None:
    """An annotation file with polygons of about 40 points, or boxes only, a crowd now and then, and the fields that
    COCO's have."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    address = "http://images.cocodataset.org/train2017/"
    with path.open("w") as file:
        file.write('{"info": {"description": "made up"}, "licenses": [], "images": [')
        for i in range(images):
            image = {"license": 3, "file_name": f"{i:012}.jpg", "coco_url": f"{address}{i:012}.jpg", "height": 480}
            image |= {
                "width": 640,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": f"{address}{i}_z.jpg",
                "id": i,
            }
            file.write((", " if i else "") + json.dumps(image))
        file.write('], "annotations": [')
        count = round(images * per_image)
        owners = rng.permutation(np.repeat(np.arange(images), -(-count // images)))[:count].tolist()
        shapes = [_shape(rng, crowd=number % 100 == 0, boxes=boxes) for number in range(5000)]
        for number, owner in enumerate(owners):
            shape = shapes[number % len(shapes)]
            category = number % CATEGORIES + 1
            file.write(", " if number else "")
            file.write(f'{shape}, "image_id": {owner}, "category_id": {category}, "id": {number + 1}}}')
        categories = [{"supercategory": "thing", "id": i + 1, "name": f"class {i}"} for i in range(CATEGORIES)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


def _shape(rng: np.random.Generator, crowd: bool, boxes: bool) -> str:
    """An annotation without its ids and its closing brace."""
    width, height = rng.uniform(8, 300, 2)
    x, y = rng.uniform(0, 1, 2) * (640 - width, 480 - height)
    angle = np.linspace(0, 2 * np.pi, max(3, int(rng.gamma(1.6, 25))), endpoint=False)
    outline = np.stack([x + width * (0.5 + 0.5 * np.cos(angle)), y + height * (0.5 + 0.5 * np.sin(angle))], 1).round(2)
    low, high = outline.min(0), outline.max(0)
    code: object = [outline.ravel().tolist()]
    if crowd:
        runs = rng.multinomial(480 * 640, np.ones(120) / 120).tolist()
        code, low, high = {"counts": runs, "size": [480, 640]}, np.zeros(2), np.array([640.0, 480.0])
    box = [*low.tolist(), *(high - low).round(2).tolist()]
    code = [] if boxes else code
    return json.dumps({"segmentation": code, "area": box[2] * box[3] / 2, "iscrowd": int(crowd), "bbox": box})[:-1]


OPEN = {
    "scenewise": "from scenewise.data.readers.coco import Coco\nfrom pathlib import Path\n"
    "start = time.perf_counter(), time.process_time()\n"
    "data = Coco(Path(sys.argv[1]), 'all', images='.')\ncount = len(data.labels)\nassert not data.faults",
    "scenewise, boxes only": "from scenewise.data.readers.coco import Coco\nfrom pathlib import Path\n"
    "start = time.perf_counter(), time.process_time()\n"
    "data = Coco(Path(sys.argv[1]), 'all', images='.', needs=frozenset({'boxes', 'labels'}))\ncount = len(data.labels)",
    "pycocotools": "from pycocotools.coco import COCO\nstart = time.perf_counter(), time.process_time()\n"
    "data = COCO(sys.argv[1])\ncount = len(data.anns)",
}


def measure(name: str, path: Path) -> None:
    """Open ``path`` in a process of its own, and print what it took."""
    program = f"""
import resource, sys, time
{OPEN[name]}
took = time.perf_counter() - start[0], time.process_time() - start[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{name:24} {{count:,}} objects in {{took[0]:.1f}} s ({{took[1]:.1f}} s of the processor), peak {{peak:.2f}} GiB")
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    print(done.stdout.splitlines()[-1], flush=True)


class Records:
    """All of a data set's records but the pixels."""

    def __init__(self, data: object) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        data = self.data
        rows = data.rows(index)  # type: ignore[attr-defined]
        masks = data._masks(rows[:1], (480, 640)) if index % 20 == 0 else rows  # type: ignore[attr-defined]
        read = len(data.image_id(index)) + len(data.boxes[rows]) + len(masks)  # type: ignore[attr-defined]
        return os.getpid(), read, private_memory() if index % 500 == 0 else -1


def private_memory() -> int:
    """KiB of this process that no other shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def growth(path: Path) -> None:
    """Print by how much loader processes grow over an epoch."""
    import torch

    from scenewise.data.readers.coco import Coco

    data = Coco(path, "all", images=".")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    loader = torch.utils.data.DataLoader(Records(data), sampler=order, batch_size=None, num_workers=2)  # type: ignore[arg-type, var-annotated]
    seen: dict[int, list[int]] = {}
    start = time.perf_counter()
    for process, _, memory in loader:
        if memory >= 0:
            seen.setdefault(process, []).append(memory)
    for values in seen.values():
        text = f"{values[0] / 1024:.0f} MiB of its own early, {values[-1] / 1024:.0f} MiB at the end"
        print(f"a loader process         {text} ({len(data):,} images in {time.perf_counter() - start:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--per-image", type=float, default=PER_IMAGE, help="objects per image")
    parser.add_argument("--boxes", action="store_true", help="no outlines")
    parser.add_argument("--no-peer", action="store_true", help="without pycocotools")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/scenewise-coco"))
    arguments = parser.parse_args()
    kind = "boxes" if arguments.boxes else "made"
    path = arguments.folder / f"{kind}_{arguments.images}_{arguments.per_image:g}.json"
    if not path.exists():
        write_file(path, arguments.images, arguments.per_image, arguments.boxes)
        for index in range(0, arguments.images, max(1, arguments.images // 200)):
            (arguments.folder / f"{index:012}.jpg").touch()
    print(f"{path.stat().st_size / 2**20:.0f} MiB, {arguments.images:,} images; load {os.getloadavg()[0]:.1f}")
    for name in OPEN:
        if name != "pycocotools" or not arguments.no_peer:
            measure(name, path)
    growth(path)


if __name__ == "__main__":
    main()
