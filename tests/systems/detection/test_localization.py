"""Classification with localisation: losses equal torch's own, it learns, and images without objects are harmless."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scenewise.ops.boxes import box_iou
from scenewise.systems.detection.localization import SingleObject, largest_object
from scenewise.types import Batch, InputSpec

CLASSES = ("dark", "light")
PLAIN = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def squares(seed: int, count: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for _ in range(count):
        image = 0.5 + 0.02 * torch.randn(3, 48, 64, generator=rng)
        x1, y1 = int(torch.randint(0, 36, (), generator=rng)), int(torch.randint(0, 24, (), generator=rng))
        w, h = (int(torch.randint(14, 24, (), generator=rng)) for _ in range(2))
        label = int(torch.randint(0, 2, (), generator=rng))
        image[:, y1 : y1 + h, x1 : x1 + w] += 0.6 * label - 0.3
        images.append(image.clamp(0, 1))
        box = torch.tensor([[x1, y1, min(x1 + w, 64), min(y1 + h, 48)]]).float()
        targets.append({"boxes": box, "labels": torch.tensor([label])})
    return Batch.of(images, targets)


def formula(kind: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """For boxes as centre, width, height."""
    if kind == "iou":
        low = torch.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
        high = torch.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
        shared = (high - low).clamp(min=0).prod()
        return 1 - shared / (a[2:].prod() + b[2:].prod() - shared)
    if kind == "smooth-l1":
        return F.smooth_l1_loss(a, b, reduction="sum")
    return (a - b).square().sum() if kind == "l2" else (a - b).abs().sum()


@pytest.mark.parametrize("kind", ["l2", "l1", "smooth-l1", "iou"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_losses_equal_their_formulas(kind, class_specific):
    torch.manual_seed(0)
    model = SingleObject(
        CLASSES, backbone="resnet10t", box_loss=kind, box_weight=2.0, class_specific=class_specific, input=PLAIN
    ).eval()
    torch.nn.init.normal_(model.locator.weight, std=0.05)
    batch = squares(0, 3)
    logits, boxes = model._locate(batch)
    terms = model.losses(batch)
    labels = torch.cat([t["labels"] for t in batch.targets])
    total = torch.zeros(())
    for i, target in enumerate(batch.targets):
        corners = target["boxes"][0] / torch.tensor([64, 48, 64, 48])
        wanted = torch.cat(((corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]))
        mine = boxes[i, int(labels[i]) if class_specific else 0]
        total = total + formula(kind, mine, wanted) / 3
    torch.testing.assert_close(terms["box"], 2 * total)
    torch.testing.assert_close(terms["class"], F.cross_entropy(logits, labels))


def test_it_learns_and_is_measured_by_the_localisation_rule():
    torch.manual_seed(0)
    options = {"box_loss": "smooth-l1", "box_weight": 10.0, "pool_size": 2, "input": PLAIN}
    model = SingleObject(CLASSES, backbone="resnet10t", **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 60)
    for step in range(60):
        torch.stack(list(model.train().losses(squares(step, 8)).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    held_out = squares(1000, 40)
    found, truth = model.eval().predict(held_out), torch.cat([t["boxes"] for t in held_out.targets])
    overlap = torch.cat([box_iou(p.boxes, t[None])[0] for p, t in zip(found, truth, strict=True)]).detach()
    right = torch.cat([p.labels == t["labels"] for p, t in zip(found, held_out.targets, strict=True)])
    constant = box_iou(truth.mean(0, keepdim=True), truth)[0]  # always the mean box, and always the right class
    assert overlap.mean() > 1.5 * constant.mean()
    assert (right & (overlap >= 0.5)).sum() > 2 * (constant >= 0.5).sum()


def test_padding_changes_nothing_but_what_the_network_sees_at_the_border():
    torch.manual_seed(0)
    model = SingleObject(CLASSES, backbone="resnet10t", input=PLAIN).eval()
    batch = squares(0, 1)
    alone = model.predict(batch)[0]
    together = model.predict(Batch.of([batch.images[0], torch.rand(3, 64, 96)]))[0]
    assert alone.size == together.size == (48, 64)
    assert len(alone.boxes) == 1
    torch.testing.assert_close(alone.scores, together.scores, atol=0.1, rtol=0)


def test_the_largest_object_that_is_no_crowd_and_images_without_any():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 9, 9], [0, 0, 5, 5]])
    assert largest_object({"boxes": boxes}) == 1
    assert largest_object({"boxes": boxes, "ignore": torch.tensor([False, True, False])}) == 2
    assert largest_object({"boxes": boxes[:0]}) is None
    assert largest_object({"boxes": boxes, "ignore": torch.ones(3, dtype=torch.bool)}) is None
    model = SingleObject(CLASSES, backbone="resnet10t", input=PLAIN)
    batch = squares(0, 2)
    for target in batch.targets:
        target["boxes"], target["labels"] = target["boxes"][:0], target["labels"][:0]
    total = torch.stack(list(model.losses(batch).values())).sum()
    total.backward()
    assert total == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
