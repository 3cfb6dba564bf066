"""Forward and backward of each loss against torch's, torchvision's, torchmetrics' or segmentation_models_pytorch's own.

    python benchmarks/losses.py                     # 360 x 480, 21 classes, batch 2
    python benchmarks/losses.py --only dice lovasz --rounds 20

Both run in turn in one process on the same random logits and labels, a tenth of which is void. Before anything is
timed, the values are asserted equal, where the definitions are (segmentation_models_pytorch counts absent classes as 0;
here all classes occur). Printed are the milliseconds of forward and backward together in the best round of each (other
work on the machine can only add to it) and their ratio, by the clock and by the processor's time: above 1, scenewise is
the faster one.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import torchmetrics.functional.image as torchmetrics
import torchvision
from torch import Tensor

from scenewise.losses.cross_entropy import binary_cross_entropy, cross_entropy
from scenewise.losses.edges import balanced_edges
from scenewise.losses.focal import binary_focal, focal
from scenewise.losses.lovasz import lovasz_hinge, lovasz_softmax
from scenewise.losses.normals import normal_difference
from scenewise.losses.overlap import dice, jaccard, tversky
from scenewise.losses.smoothness import total_variation
from scenewise.types import IGNORE

Function = Callable[[Tensor, Tensor], Tensor]


class Pair(NamedTuple):
    """A loss and its peer, with what they are given."""

    name: str
    peer: str
    theirs: Function
    ours: Function
    logits: Tensor
    target: Tensor


def softmax_focal(logits: Tensor, target: Tensor) -> Tensor:
    """The usual composition; no package at hand has one that leaves void out."""
    terms = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    return ((1 - torch.exp(-terms)) ** 2 * terms).sum() / (target != IGNORE).sum()


def binary_by_torch(logits: Tensor, target: Tensor) -> Tensor:
    counted = target != IGNORE
    terms = F.binary_cross_entropy_with_logits(logits, target.masked_fill(~counted, 0), reduction="none")
    return (terms * counted).sum() / counted.sum()


def focal_by_torchvision(logits: Tensor, target: Tensor) -> Tensor:
    counted = target != IGNORE
    return torchvision.ops.sigmoid_focal_loss(logits[counted], target[counted], reduction="mean")


def balanced_by_torch(logits: Tensor, target: Tensor) -> Tensor:
    beta = 1 - target.mean((1, 2, 3), keepdim=True)
    weights = torch.where(target == 1, beta, 1 - beta)
    return F.binary_cross_entropy_with_logits(logits, target, weight=weights, reduction="sum") / len(logits)


def pairs(size: tuple[int, int], classes: int, batch: int) -> Iterator[Pair]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, *size, generator=generator)
    labels = torch.randint(0, classes, (batch, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    weights = torch.rand(classes, generator=generator)
    options = {"mode": "multiclass", "ignore_index": IGNORE}

    def row(name: str, peer: str, theirs: Function, ours: Function) -> Pair:
        return Pair(name, peer, theirs, ours, logits, labels)

    yield row("cross-entropy", "torch", lambda z, t: F.cross_entropy(z, t, ignore_index=IGNORE), cross_entropy)
    yield row(
        "cross-entropy, class weights",
        "torch",
        lambda z, t: F.cross_entropy(z, t, weights, ignore_index=IGNORE),
        lambda z, t: cross_entropy(z, t, class_weights=weights),
    )
    yield row(
        "cross-entropy, smoothed",
        "torch",
        lambda z, t: F.cross_entropy(z, t, ignore_index=IGNORE, label_smoothing=0.1),
        lambda z, t: cross_entropy(z, t, label_smoothing=0.1),
    )
    yield row("focal", "torch, composed", softmax_focal, focal)
    yield row("sigmoid-focal", "smp", smp.losses.FocalLoss(**options), lambda z, t: binary_focal(z, t, alpha=None))
    yield row("jaccard", "smp", smp.losses.JaccardLoss(**options), jaccard)
    yield row("dice", "smp", smp.losses.DiceLoss(**options), dice)
    yield row("tversky", "smp", smp.losses.TverskyLoss(**options, alpha=0.3, beta=0.7), tversky)
    yield row("lovasz", "smp", smp.losses.LovaszLoss(**options), lovasz_softmax)
    yield row(
        "total-variation",
        "torchmetrics",
        lambda z, t: torchmetrics.total_variation(z.softmax(1), reduction="mean"),
        lambda z, t: total_variation(z.softmax(1)),
    )
    truth = (torch.rand(logits.shape, generator=generator) < 0.1).float()
    void = truth.masked_fill((labels == IGNORE)[:, None], IGNORE)
    yield Pair("binary-cross-entropy", "torch, composed", binary_by_torch, binary_cross_entropy, logits, void)
    yield Pair("sigmoid-focal, memberships", "torchvision", focal_by_torchvision, binary_focal, logits, void)
    single, edges = logits[:, :1].contiguous(), truth[:, :1].contiguous()
    yield Pair("balanced-edges", "torch, composed", balanced_by_torch, balanced_edges, single, edges)
    yield Pair(
        "lovasz-hinge",
        "smp",
        lambda z, t: smp.losses.LovaszLoss("binary", ignore_index=IGNORE)(z[:, 0], t[:, 0]),
        lambda z, t: lovasz_hinge(z[:, 0], t[:, 0]),
        single,
        edges,
    )
    normals = F.normalize(torch.randn(batch, 3, *size, generator=generator), dim=1)
    yield Pair(
        "normals",
        "torch",
        lambda z, t: (1 - F.cosine_similarity(z, t, dim=1)).mean(),
        normal_difference,
        logits[:, :3].contiguous(),
        normals,
    )


def timed(loss: Function, logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Seconds of the clock and of the processor, over all threads."""
    logits = logits.detach().requires_grad_()
    wall, processor = time.perf_counter(), time.process_time()
    loss(logits, target).backward()
    return time.perf_counter() - wall, time.process_time() - processor


def measured(pair: Pair, rounds: int) -> dict[str, str | float]:
    theirs, ours = pair.theirs(pair.logits, pair.target), pair.ours(pair.logits, pair.target)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for loss in (pair.theirs, pair.ours):
        timed(loss, pair.logits, pair.target)  # a round that nobody counts
    times = []
    for number in range(rounds):
        order = (pair.theirs, pair.ours) if number % 2 else (pair.ours, pair.theirs)
        found = {loss: timed(loss, pair.logits, pair.target) for loss in order}
        times.append((found[pair.theirs], found[pair.ours]))
    peer, own, peer_processor, own_processor = (
        min(times_of[which][clock] for times_of in times) for clock in (0, 1) for which in (0, 1)
    )
    return {
        "loss": pair.name,
        "peer": pair.peer,
        "peer ms": round(1e3 * peer, 1),
        "scenewise ms": round(1e3 * own, 1),
        "ratio": round(peer / own, 2),
        "ratio of processor time": round(peer_processor / own_processor, 2),
    }


def cpu_features() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="the losses whose name begins so")
    arguments = parser.parse_args()
    height, width = (int(part) for part in arguments.size.split("x"))
    print(
        f"# {cpu_features()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"segmentation_models_pytorch {smp.__version__}, best of {arguments.rounds}"
    )
    for pair in pairs((height, width), arguments.classes, arguments.batch):
        if arguments.only is None or pair.name.startswith(tuple(arguments.only)):
            print(json.dumps(measured(pair, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
