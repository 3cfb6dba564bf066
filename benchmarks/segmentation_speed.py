"""How fast DeepLabV3 and FCN on ResNet-50 predict and train, against torchvision's own models with the same weights.

    python benchmarks/segmentation_speed.py                      # prediction, fp32 and bf16, 360x480 and 512x1024
    python benchmarks/segmentation_speed.py --train              # and the training step
    python benchmarks/segmentation_speed.py --rounds 5 --sizes 360x480
    python benchmarks/segmentation_speed.py --isa avx2           # as on a CPU with AVX2 and no more

Both run in turn in one process, on the same random images and weights. Timed is what a user waits for from the batch
to the class map: torchvision's ``model(normalised images)["out"].argmax(1)`` in evaluation mode and inference mode,
against scenewise's ``Predictor``. Before anything is timed, the outputs are asserted equal: logits within 1e-4 of
their largest value at fp32, and the class maps of bf16 on most pixels. The training step is forward, loss (cross-
entropy; both with the auxiliary head at torchvision's weight of 0.5), backward and an SGD step, at batch 2. Printed
are medians over the rounds and the ratio of the pairs. What bf16 costs on real images is told by ``scenewise evaluate
street-scenes --data camvid:... --precision bf16`` beside the same without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from common import add_isa, cpu_label, machine_line, restart_under
from torch import Tensor, nn

from scenewise.engine.predict import Predictor
from scenewise.model import Model
from scenewise.nn.arrange import arrange_for_training
from scenewise.types import Batch
from scenewise.weights.published import PUBLISHED, fill_published

SYSTEMS = {"deeplabv3_resnet50": "torchvision/deeplabv3_resnet50", "fcn_resnet50": "torchvision/fcn_resnet50"}


def pair(name: str) -> tuple[nn.Module, Model]:
    """torchvision's model with random weights and batch-norm statistics, and ours with the same."""
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.__dict__[name](
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    ).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
    row = PUBLISHED[SYSTEMS[name]]
    ours = row.build()
    ours.input = dataclasses.replace(ours.input, short_side=None)  # both see the image at the size that is named
    fill_published(ours, theirs.state_dict(), row, name)
    return theirs, ours


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turn(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median ratio of first to second, after one round each that nobody times."""
    first(), second()
    times = [(timed(first), timed(second)) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(a / b for a, b in times),
    )


def prediction(name: str, size: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    theirs, ours = pair(name)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, [size])
    normalised = ours.pixels(batch).contiguous()
    rows = []
    for precision in ("32", "bf16"):
        predictor = Predictor(ours, precision=precision)
        with torch.inference_mode():
            expected = theirs(normalised)["out"]
            found = predictor.run(batch)[0].semantic_logits[None]
            if precision == "32":
                assert (found - expected).abs().max() <= 1e-4 * expected.abs().max(), "the outputs differ"
            same = (found.argmax(1) == expected.argmax(1)).float().mean().item()
            assert same > (0.9999 if precision == "32" else 0.9), f"only {same:.2%} of the class map agree"
            a, b, ratio = in_turn(
                lambda: theirs(normalised)["out"].argmax(1),
                lambda predictor=predictor: predictor([images[0]]),
                rounds,
            )
        rows.append(
            {
                "what": "predict",
                "model": name,
                "size": f"{size[0]}x{size[1]}",
                "precision": precision,
                "torchvision images/s": round(1 / a, 3),
                "scenewise images/s": round(1 / b, 3),
                "ratio": round(ratio, 3),
                "same classes": round(same, 5),
            }
        )
    return rows


def training(name: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    theirs, ours = pair(name)
    ours.auxiliary_weight = 0.5
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *size, generator=generator)
    target = torch.randint(0, 21, (2, *size), generator=generator)
    batch = Batch(images, [size] * 2, [{"semantic": t} for t in target])
    normalised = ours.pixels(batch).contiguous()
    theirs.train()
    arrange_for_training(ours.train())  # as the engine does
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-4, momentum=0.9) for m in (theirs, ours)]

    def step_theirs() -> None:
        out = theirs(normalised)
        loss = F.cross_entropy(out["out"], target) + 0.5 * F.cross_entropy(out["aux"], target)
        apply(loss, optimizers[0])

    def step_ours() -> None:
        apply(torch.stack(list(ours.losses(batch).values())).sum(), optimizers[1])

    def apply(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    a, b, ratio = in_turn(step_theirs, step_ours, rounds)
    return {
        "what": "train step, batch 2",
        "model": name,
        "size": f"{size[0]}x{size[1]}",
        "precision": "32",
        "torchvision images/s": round(2 / a, 3),
        "scenewise images/s": round(2 / b, 3),
        "ratio": round(ratio, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["360x480", "512x1024"])
    parser.add_argument("--models", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--train", action="store_true", help="time the training step, too")
    add_isa(parser)
    arguments = parser.parse_args()
    restart_under(arguments.isa)
    print(machine_line(arguments.rounds), flush=True)
    for name in arguments.models:
        for text in arguments.sizes:
            height, width = (int(part) for part in text.split("x"))
            for row in prediction(name, (height, width), arguments.rounds):
                print(json.dumps({**row, "cpu": cpu_label()}), flush=True)
        if arguments.train:
            height, width = (int(part) for part in arguments.sizes[0].split("x"))
            row = training(name, (height, width), arguments.rounds)
            print(json.dumps({**row, "cpu": cpu_label()}), flush=True)


if __name__ == "__main__":
    main()
