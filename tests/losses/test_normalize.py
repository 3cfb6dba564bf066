"""The mean of two processes' gradients is the gradient of one process with the joint batch."""

import pytest
import torch

from scenewise.losses.cross_entropy import (
    balanced_cross_entropy,
    binary_cross_entropy,
    cross_entropy,
    edge_cross_entropy,
    ohem_cross_entropy,
)
from scenewise.losses.focal import binary_focal, focal
from scenewise.losses.lovasz import lovasz_softmax
from scenewise.losses.normalize import mean_count
from scenewise.losses.overlap import dice, generalized_dice, jaccard, tversky
from scenewise.losses.smoothness import total_variation
from scenewise.types import IGNORE

WEIGHTS = torch.tensor([0.3, 1.0, 4.0])
EXACT = {
    "cross-entropy": lambda z, t: cross_entropy(z, t, label_smoothing=0.1),
    "weighted": lambda z, t: cross_entropy(z, t, class_weights=WEIGHTS),
    "focal": lambda z, t: focal(z, t, class_weights=WEIGHTS),
    "focal-normalized": lambda z, t: focal(z, t, normalized=True),
    "binary-cross-entropy": lambda z, t: binary_cross_entropy(z, t, positive_weight=2.0),
    "balanced-cross-entropy": balanced_cross_entropy,
    "edge-cross-entropy": lambda z, t: edge_cross_entropy(z, t, sigma=2.0, norm="all-weights"),
    "images": lambda z, t: cross_entropy(z, t, norm="images"),
    "sum": lambda z, t: cross_entropy(z, t, norm="none"),
    "sigmoid-focal": lambda z, t: binary_focal(z, t, norm="positives"),
    "generalized-dice": lambda z, t: generalized_dice(z, t, scope="image"),
    "ohem": lambda z, t: ohem_cross_entropy(z, t, threshold=0.4, min_kept=0),
    "jaccard": lambda z, t: jaccard(z, t, scope="image"),
    "dice": lambda z, t: dice(z, t, scope="image"),
    "tversky": lambda z, t: tversky(z, t, scope="image"),
    "lovasz": lambda z, t: lovasz_softmax(z, t, scope="image"),
    "total-variation": lambda z, t: total_variation(z.softmax(1), counted=t != IGNORE),
    "pairs": lambda z, t: total_variation(z.softmax(1), counted=t != IGNORE, norm="pairs"),
}
SPLITS = {"even": [[0, 1], [2, 3]], "one-sees-void-alone": [[0, 3], [1, 2]]}


def example():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 4, 5, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 3, (4, 4, 5), generator=generator)
    target[0], target[3] = IGNORE, IGNORE
    target[2, :3] = IGNORE
    return logits, target


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


def train_step(rank, folder):
    """What each of two processes does: all losses on its share of the images, by both splits."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    logits, target = example()
    results = {"count": mean_count(torch.tensor([3, 5][rank])), "half": mean_count(0.5 * rank)}
    for split, shares in SPLITS.items():
        rows = shares[rank]
        for name, loss in EXACT.items():
            results[split, name] = value_and_gradient(loss, logits[rows], target[rows])
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(train_step, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_counts_are_averaged(results):
    assert [r["count"].item() for r in results] == [4, 4]
    assert [r["half"].item() for r in results] == [0.25, 0.25]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", EXACT)
def test_two_processes_equal_one(results, name, split):
    logits, target = example()
    value, gradient = value_and_gradient(EXACT[name], logits, target)
    assert gradient.any()
    mean = torch.zeros_like(gradient)
    for shares, result in zip(SPLITS[split], results, strict=True):
        mean[shares] = result[split, name][1] / 2  # what averaging the parameters' gradients makes of it
    # a sum of float32 weights is good to 1e-7
    torch.testing.assert_close(mean, gradient, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(sum(r[split, name][0] for r in results) / 2, value, rtol=1e-6, atol=1e-12)


def test_alone():
    assert mean_count(3).item() == 3
    assert mean_count(torch.tensor(7)).dtype == torch.float32
    exact = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert mean_count(exact).item() == 0.1
    assert not mean_count(exact).requires_grad
    assert 0 < mean_count(0).item() < 1e-9
