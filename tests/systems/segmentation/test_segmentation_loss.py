from typing import get_args

import pytest
import torch

from scenewise.errors import UsageError
from scenewise.losses.table import LOSSES, losses_for
from scenewise.nn.semantic import SegmentationLoss
from scenewise.types import IGNORE

FUNCTIONS = {
    "cross-entropy": losses.cross_entropy,
    "focal": focal,
    "ohem": losses.ohem_cross_entropy,
    "jaccard": losses.jaccard,
    "dice": losses.dice,
    "tversky": losses.tversky,
    "lovasz": losses.lovasz_softmax,
}


def example():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 6, 7), generator=generator)
    target[0, :2] = IGNORE
    return torch.randn(2, 3, 6, 7, generator=generator), target


def test_names_are_the_type():
    assert get_args(LossName) == tuple(LOSSES) == tuple(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_term(name):
    logits, target = example()
    terms = SegmentationLoss({name: 0.5}, 3, None)(logits, target)
    torch.testing.assert_close(terms, {name: 0.5 * FUNCTIONS[name](logits, target)})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_class_weights_reach_the_means_over_pixels(name):
    logits, target = example()
    weights = (0.1, 2.0, 5.0)
    options = {"class_weights": torch.tensor(weights)} if name in ("cross-entropy", "focal", "ohem") else {}
    terms = SegmentationLoss({name: 1.0}, 3, weights)(logits, target)
    torch.testing.assert_close(terms, {name: FUNCTIONS[name](logits, target, **options)})


def test_terms_add_up_as_composed_by_hand():
    """0.1 CE + 0.9 (1 - Dice), of a Kaggle winner."""
    logits, target = example()
    terms = SegmentationLoss({"cross-entropy": 0.1, "dice": 0.9}, 3, None)(logits, target)
    assert list(terms) == ["cross-entropy", "dice"]
    expected = 0.1 * losses.cross_entropy(logits, target) + 0.9 * losses.dice(logits, target)
    torch.testing.assert_close(sum(terms.values()), expected)


def test_integer_weights_are_numbers_too():
    logits, target = example()
    assert SegmentationLoss({"cross-entropy": 1}, 3, (1, 2, 3))(logits, target)["cross-entropy"].isfinite()


def test_weights_are_no_part_of_the_checkpoint():
    assert not SegmentationLoss({"dice": 1.0}, 2, (1.0, 2.0)).state_dict()


def test_errors():
    with pytest.raises(
        UsageError, match=r"loss: there is no 'dise'; did you mean 'dice'\?; known: cross-entropy, focal"
    ):
        SegmentationLoss({"dise": 1.0}, 3, None)
    with pytest.raises(UsageError, match="class_weights has 2 numbers; expected one for each of 3 classes"):
        SegmentationLoss({"dice": 1.0}, 3, (1.0, 2.0))
