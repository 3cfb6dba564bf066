"""The loader: an order for each epoch, randomness from (seed, epoch, index) alone, shares that make up the batch."""

from __future__ import annotations

import random

import numpy as np
import torch

from scenewise.data import open_data
from scenewise.data.loader import Carrying, Epochs, TrainingSet, pack, training_batches, unpack


def draws(epoch: int, seed: int = 0) -> dict[str, float]:
    """What a random transform draws for each image of an epoch."""

    def transform(image, target):
        return torch.rand(1).expand(3, 32, 32), target

    data = open_data("scenes:count=6,size=32,fields=semantic")
    order = Epochs(6, 2, seed=seed, epoch=epoch)
    found = {}
    for batch in training_batches(data, order, transform=transform, seed=seed):
        for image, target in zip(batch.images, batch.targets, strict=True):
            found[target["image_id"]] = image[0, 0, 0].item()
    return found


def test_each_image_of_each_epoch_draws_numbers_of_its_own():
    first, second, other = draws(0), draws(1), draws(0, seed=1)
    assert len(first) == 6
    assert len({*first.values(), *second.values(), *other.values()}) == 18
    assert draws(0) == first


def all_kinds() -> list[float]:
    """A number from each of the generators that transforms may draw from."""
    return [torch.rand(1).item(), float(np.random.rand()), random.random()]


def test_loading_leaves_the_surrounding_random_numbers_alone():
    def transform(image, target):
        all_kinds()
        return image, target

    data = open_data("scenes:count=6,size=32,fields=semantic")
    found = []
    for between in (False, True):
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        drawn = []
        for _ in (
            training_batches(data, Epochs(6, 2, seed=0, epoch=0), transform=transform, seed=0) if between else "abc"
        ):
            drawn += all_kinds()
        found.append(drawn)
    assert found[0] == found[1]


def test_an_image_draws_the_same_in_any_batch_and_process():
    def draws(batch_size: int, workers: int) -> dict[str, list[float]]:
        order = Epochs(6, batch_size, seed=0, epoch=0)
        batches = training_batches(data, order, transform=draw, seed=0, workers=workers)
        return {
            t["image_id"]: i.flatten()[:3].tolist() for b in batches for i, t in zip(b.images, b.targets, strict=True)
        }

    data = open_data("scenes:count=6,size=32,fields=semantic")
    assert len(draws(2, 0)) == 6
    assert draws(2, 0) == draws(3, 0) == draws(2, 2)


def draw(image, target):
    return torch.tensor(all_kinds()).repeat(1024).view(3, 32, 32), target


def test_unpacking_undoes_packing():
    target = {
        "image_id": "a",
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.rand(3, 5, 7) > 0.5,
        "visibility": torch.arange(3),
        "depth": torch.rand(5, 7, dtype=torch.float64).T,
    }
    samples = [(torch.arange(105, dtype=torch.uint8).view(5, 7, 3).permute(2, 0, 1), target), (torch.rand(3, 1, 1), {})]
    for (image, target), (same, other) in zip(samples, unpack(pack(samples)), strict=True):
        torch.testing.assert_close(same, image, rtol=0, atol=0)
        assert list(other) == list(target)
        torch.testing.assert_close({**other, "image_id": 0}, {**target, "image_id": 0}, rtol=0, atol=0)


def test_processes_share_each_batch_and_a_later_start_skips():
    whole = list(Epochs(10, 4, seed=0, epoch=3))
    halves = [list(Epochs(10, 4, seed=0, epoch=3, rank=rank, world=2)) for rank in (0, 1)]
    assert whole == [a + b for a, b in zip(*halves, strict=True)]
    assert list(Epochs(10, 4, seed=0, epoch=3, start=1)) == whole[1:]
    assert len({index for batch in whole for _, index in batch}) == 8
    assert whole != list(Epochs(10, 4, seed=0, epoch=4))


def test_which_images_a_process_has_is_told():
    """Those that it is at, or had last; none of a process that is another's or had nothing to do yet."""
    data = open_data("scenes:count=50,size=32,fields=semantic")
    carrying = Carrying(TrainingSet(data, None, 0, None, frozenset()), 2)
    assert carrying.told_of(0) == carrying.told_of(77) == ""
    names = [data.image_id(index) for index in range(50)]
    for state, verb in ((1, "was at"), (0, "last had")):
        carrying.held[1, :5] = torch.tensor([77, state, 2, 3, 1])
        assert carrying.told_of(77) == f"it {verb} the images {names[3]}, {names[1]} of {data.source}"
    assert carrying.told_of(78) == ""
    carrying._loaded([(0, index) for index in range(40)], lambda: None)  # in no loader process: nothing is noted
    assert carrying.held[0].tolist() == [0] * len(carrying.held[0])
    carrying.held[0, :3] = torch.tensor([79, 1, 40])
    assert carrying.told_of(79).endswith(f" and 8 more of {data.source}")
