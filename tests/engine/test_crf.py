"""Refinement by the CRF as a procedure."""

import pytest
import torch

from scenewise.engine.augmented import Augmented
from scenewise.engine.crf import Refined
from scenewise.errors import UsageError
from scenewise.ops.crf import DenseCRF
from scenewise.types import Batch, Output


def scores(batch):
    """Class scores that follow the colours."""
    return [
        Output((h, w), semantic_logits=5 * image[:, :h, :w], depth=image[0, :h, :w])
        for image, (h, w) in zip(batch.images, batch.sizes, strict=True)
    ]


def test_each_image_of_a_batch_is_refined_by_itself_without_its_padding():
    images = [torch.rand(3, 8, 12), torch.rand(3, 10, 9)]
    crf = DenseCRF(iterations=2)
    found = Refined(crf)(scores)(Batch.of(images))
    for output, image in zip(found, images, strict=True):
        torch.testing.assert_close(output.semantic_logits, crf(5 * image, image))
        assert torch.equal(output.depth, image[0])


def test_it_goes_around_other_procedures():
    batch = Batch.of([torch.rand(3, 8, 12)])
    flipped = Augmented(flip=True)(scores)
    found = Refined(DenseCRF(iterations=1))(flipped)(batch)[0]
    wanted = DenseCRF(iterations=1)(flipped(batch)[0].semantic_logits, batch.images[0])
    torch.testing.assert_close(found.semantic_logits, wanted)


def test_models_without_class_scores_are_refused():
    def depth(batch):
        return [Output((8, 8), depth=torch.rand(8, 8))]

    with pytest.raises(UsageError, match="refines scores of classes at each pixel, and this model fills depth"):
        Refined()(depth)(Batch.of([torch.rand(3, 8, 8)]))
