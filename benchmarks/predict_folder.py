"""The whole call, from image files to pictures: images per second, with and without overlap, beside a loop in Python.

    python benchmarks/predict_folder.py photos/ --model blood-cells --rounds 3

Three ways do the same work in turn, in one process, on copies of the same image files:

- ``command``: what ``scenewise predict`` runs, reading and writing beside the network;
- ``one by one``: the same three steps, one after another;
- ``loop`` and ``held``: ``scenewise.predict(model, file)`` for each file, and the same with one ``Predictor`` that is
  held, both without pictures; the last column is their ratio.

``--command`` times the command itself in a process of its own, too, imports included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine_line

import scenewise
from scenewise.engine.folder import predict_to_folder
from scenewise.files.images import IMAGE_SUFFIXES, as_image


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of ``work``."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--command", action="store_true", help="time the command in a process of its own, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = {path: path.stem for path in files}
    model = scenewise.load(options.model)
    predictor = scenewise.Predictor(model)
    spec = model.input

    def one_by_one(out: Path) -> None:
        for path, name in names.items():
            image, _ = as_image(path, spec.channels, spec.bits)
            predictor([image])[0].above(0.5).save(out, name, image=image)

    def held() -> None:
        for path in files:
            image, _ = as_image(path, spec.channels, spec.bits)
            predictor([image])

    print(machine_line(options.rounds))
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        ways: dict[str, Callable[[], object]] = {
            "command": lambda: list(predict_to_folder(predictor, names, out, score=0.5)),
            "one by one": lambda: one_by_one(out),
            "loop": lambda: [scenewise.predict(model, path) for path in files],
            "held": held,
        }
        if options.command:
            words = [str(options.folder), "--model", options.model, "--out", str(out / "seen")]
            call = [sys.executable, "-c", "from scenewise.cli import main; main()", "predict", *words]
            ways["whole process"] = lambda: subprocess.run(call, check=True, capture_output=True)
        predictor([as_image(files[0], spec.channels, spec.bits)[0]])
        for number in range(options.rounds):
            for name in ways if number % 2 == 0 else reversed(ways):
                times.setdefault(name, []).append(seconds(ways[name]))
    print(f"# {len(files)} images, {options.model}; load at the end {os.getloadavg()[0]:.1f}")
    print(f"{'way':14} {'s':>8} {'CPU s':>8} {'images/s':>9}")
    for name, found in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:14} {wall:8.2f} {cpu:8.2f} {len(files) / wall:9.2f}")
    for one, other in (("command", "one by one"), ("loop", "held")):
        ratios = [statistics.median(a[k] / b[k] for a, b in zip(times[one], times[other], strict=True)) for k in (0, 1)]
        print(f"{one} / {other}: {ratios[0]:.3f} of the time, {ratios[1]:.3f} of the CPU time (medians of the rounds)")


if __name__ == "__main__":
    main()
