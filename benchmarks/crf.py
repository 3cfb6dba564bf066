"""The fully connected CRF: seconds and peak memory against the image's size and the number of classes.

    python benchmarks/crf.py                                   # a photograph at several sizes, 21 classes
    python benchmarks/crf.py --peer ENV/bin/python             # also pydensecrf2 1.1, which that environment has

The peer runs in a process of its own, on the same unaries and image; its marginals and ours are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import cpu_label, machine_line
from detection_speed import read_images

from scenewise.ops.crf import DenseCRF

PEER = """
import json, sys, time
import numpy as np
from pydensecrf import densecrf
data = np.load(sys.argv[1])
crf = json.loads(sys.argv[2])
unary, image = np.ascontiguousarray(data["unary"]), np.ascontiguousarray(data["image"])
start = time.perf_counter()
field = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
field.setUnaryEnergy(unary.reshape(len(unary), -1))
field.addPairwiseGaussian(sxy=crf["smoothness_sigma"], compat=crf["smoothness_weight"])
field.addPairwiseBilateral(
    sxy=crf["position_sigma"], srgb=crf["color_sigma"], rgbim=image, compat=crf["appearance_weight"]
)
found = np.array(field.inference(crf["iterations"]))
print(time.perf_counter() - start)
np.save(sys.argv[3], found.reshape(unary.shape))
"""


def scores_of(image: torch.Tensor, classes: int) -> torch.Tensor:
    """Class scores [C,H,W] that follow the image's colours, with noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(classes, 3, generator=generator)
    distance = ((image[None] - colours[..., None, None]) ** 2).sum(1)
    return -8 * distance + torch.randn(classes, *image.shape[-2:], generator=generator)


def peer_run(
    python: str, crf: DenseCRF, logits: torch.Tensor, image: torch.Tensor
) -> tuple[float, np.ndarray[Any, Any]]:
    """The peer's seconds and marginals."""
    unary = -logits.log_softmax(0).clamp(min=float(np.log(crf.min_probability)))
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.npz"), Path(folder, "made.npy")
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        np.savez(given, unary=unary.numpy(), image=pixels)
        words = [python, "-c", PEER, str(given), json.dumps(vars(crf)), str(made)]
        seconds = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        return seconds, np.load(made)


def measure(image: torch.Tensor, classes: int, crf: DenseCRF, rounds: int, peer: str | None) -> None:
    """Time one size and print a line of JSON."""
    logits = scores_of(image, classes)
    own, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        found = crf(logits, image).exp()
        own.append(time.perf_counter() - start)
        if peer is not None:
            seconds, marginals = peer_run(peer, crf, logits, image)
            theirs.append(seconds)
    line: dict[str, Any] = {"size": list(image.shape[-2:]), "classes": classes, "passes": crf.passes}
    line["seconds"] = round(statistics.median(own), 3)
    if peer is not None:
        line["peer seconds"] = round(statistics.median(theirs), 3)
        line["ratio"] = round(statistics.median(t / o for t, o in zip(theirs, own, strict=True)), 2)
        line["mean difference"] = round(float(np.abs(marginals - found.numpy()).mean()), 5)
        line["same class"] = round(float((marginals.argmax(0) == found.numpy().argmax(0)).mean()), 4)
    print(json.dumps({**line, "cpu": cpu_label()}), flush=True)


def main() -> None:
    """Read the words and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", default=["180x240", "360x480", "720x960"])
    parser.add_argument("--classes", type=int, nargs="+", default=[21])
    parser.add_argument("--peer", help="the Python of an environment that has pydensecrf2")
    arguments = parser.parse_args()
    print(machine_line(arguments.rounds))
    photo = read_images([], 1)[0][None] / 255
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        image = F.interpolate(photo, size=(height, width), mode="bilinear", antialias=True)[0]
        image = (image * 255).round() / 255
        for classes in arguments.classes:
            measure(image, classes, DenseCRF(passes=arguments.passes), arguments.rounds, arguments.peer)


if __name__ == "__main__":
    main()
