"""What one-stage detectors do with unusual objects and numbers: the same for all of them."""

from __future__ import annotations

import warnings

import pytest
import torch

from scenewise.catalog import build
from scenewise.engine.predict import predict
from scenewise.nn.dense_head import Reach
from scenewise.types import Batch
from tests.systems.small import NO_BACKGROUND, SMALL

DENSE = ("retinanet", "ssd")


def model_of(name, classes=("a", "b"), **options):
    torch.manual_seed(0)
    return build(name, classes, **{**SMALL[name], **options})


def batch_of(model, *boxes, size=(96, 128)):
    """A batch of images of ``size``, each with these boxes."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *(model.input.size or size), generator=generator) for _ in boxes]
    targets = [
        {
            "boxes": torch.tensor(b, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.arange(len(b)) % len(model.classes),
        }
        for b in boxes
    ]
    return Batch.of(images, targets, size_divisor=model.input.size_divisor)


def step(model, batch):
    """The loss of ``batch`` and of the same one after a small step along its gradient."""
    terms = model.losses(batch)
    loss = torch.stack(list(terms.values())).sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained)
    assert all(g.isfinite().all() for g in gradients)
    with torch.no_grad():
        scale = 0.01 / max(1.0, float(torch.stack([g.norm() for g in gradients]).norm()))
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter -= scale * gradient
        return float(loss), float(torch.stack(list(model.losses(batch).values())).sum())


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(
    "boxes",
    [[[0, 0, 128, 96]], [[50.2, 40.1, 51.0, 40.6]], [[3, 3, 3.5, 90]], []],
    ids=["as large as the image", "smaller than a cell", "thinner than a cell", "none"],
)
def test_objects_of_any_size_are_learned(name, boxes):
    """Each has an anchor, that which overlaps it most, and training on it lowers the loss."""
    model = model_of(name).eval()
    first, last = step(model, batch_of(model, boxes))
    assert last < first or (name in NO_BACKGROUND and not boxes and first == 0)
    if boxes:
        assert float(model.losses(batch_of(model, boxes))["box"].detach()) > 0


@pytest.mark.parametrize("name", DENSE)
def test_a_thousand_objects(name):
    """More than anchors of some levels; with the default limits no more than the usual number is returned."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(1000, 2, generator=generator) * torch.tensor([110.0, 80.0])
    boxes = torch.cat([corner, corner + 4 + 12 * torch.rand(1000, 2, generator=generator)], 1)
    model = model_of(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most of these reach no anchor, which is said
        first, last = step(model, batch_of(model, boxes.tolist()))
    assert last < first
    assert len(predict(model, torch.rand(3, 96, 128))) <= model.detections.count


@pytest.mark.parametrize("name", DENSE)
def test_one_class(name):
    model = model_of(name, ("cell",)).eval()
    first, last = step(model, batch_of(model, [[10, 10, 40, 50]]))
    assert last < first
    found = predict(model, torch.rand(3, 96, 128))
    assert not found.labels.any()


@pytest.mark.parametrize("name", DENSE)
@torch.no_grad()
def test_a_batch_of_different_sizes(name):
    """Boxes lie within their own image, not in the padding, and losses are finite."""
    model = model_of(name).eval()
    images = [torch.rand(3, 96, 128), torch.rand(3, 64, 40), torch.rand(3, 30, 128)]
    for found, image in zip(predict(model, images), images, strict=True):
        height, width = image.shape[1:]
        assert len(found) > 0
        assert (found.boxes[:, 2] <= width + 1e-3).all()  # they may have been resized
        assert (found.boxes[:, 3] <= height + 1e-3).all()
    if model.input.size is None:
        target = {"boxes": torch.tensor([[2.0, 2.0, 20.0, 20.0]]), "labels": torch.tensor([0])}
        terms = model.losses(Batch.of(images, [target] * 3, size_divisor=model.input.size_divisor))
        assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("name", DENSE)
def test_anchors_that_match_no_object_are_told(name):
    """Once, with the share of objects that none reaches."""
    model = model_of(name).eval()
    tiny = [[4.0 * i, 50, 4.0 * i + 1.5, 51] for i in range(12)]
    with torch.no_grad():
        model.losses(batch_of(model, tiny))  # twelve objects are too few to judge by
        with pytest.warns(UserWarning, match=r"anchors: 100% of the first 24 objects are reached by no anchor"):
            model.losses(batch_of(model, tiny))
        model.losses(batch_of(model, tiny))


def test_anchors_that_reach_half_of_the_objects_are_enough():
    reach = Reach(0.5)
    reach.see([torch.tensor([[0.5, 0.1]] * 12 + [[0.2, 0.3]] * 12), torch.zeros(0, 2)])
    reach.see([torch.zeros(100, 2)])
    assert (reach.seen, reach.reached) == (24, 12)


@pytest.mark.parametrize("name", DENSE)
@torch.no_grad()
def test_scores_that_are_not_numbers_are_no_detections(name):
    model = model_of(name).eval()
    for parameter in model.parameters():
        parameter.fill_(float("nan"))
        break
    assert len(predict(model, torch.rand(3, 96, 128))) == 0
    assert any(term.isnan() for term in model.losses(batch_of(model, [[10, 10, 40, 50]])).values())
