"""The loader: an order for each epoch, randomness from (seed, epoch, index) alone, shares that make up the batch."""

from __future__ import annotations

import torch

from scenewise.data import open_data
from scenewise.data.loader import Epochs, seeded, training_batches


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


def test_seeding_leaves_the_other_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a = torch.rand(1)
    with seeded(1, 2):
        torch.rand(5)
    assert torch.equal(torch.cat([a, torch.rand(1)]), expected)


def test_processes_share_each_batch_and_a_later_start_skips():
    whole = list(Epochs(10, 4, seed=0, epoch=3))
    halves = [list(Epochs(10, 4, seed=0, epoch=3, rank=rank, world=2)) for rank in (0, 1)]
    assert whole == [a + b for a, b in zip(*halves, strict=True)]
    assert list(Epochs(10, 4, seed=0, epoch=3, start=1)) == whole[1:]
    assert len({index for batch in whole for _, index in batch}) == 8
    assert whole != list(Epochs(10, 4, seed=0, epoch=4))
