"""Whether the memory of an evaluation stays flat over many images.

    python benchmarks/evaluation_memory.py --images 1000

Evaluates the packaged network on generated pictures and prints the resident memory of the process after every hundred.
"""

from __future__ import annotations

import argparse
import resource

from scenewise.catalog import build
from scenewise.data import open_data
from scenewise.engine.evaluate import evaluate


def resident() -> float:
    """The resident memory of this process now, in MiB (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", default="240x320")
    arguments = parser.parse_args()
    data = open_data(f"scenes:count={arguments.images},size={arguments.size},fields=semantic", "val")
    model = build("deeplab-v3-plus", data.classes, backbone="efficientnet_lite0", aspp_channels=64, decoder_channels=64)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if done % 100 == 0:
            print(f"{done:5} images  {resident():7.1f} MiB", flush=True)

    evaluate(model, data, tick=tick)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
