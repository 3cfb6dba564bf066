"""Each loss against a loop over pixels written from its formula, and against other packages where they are there."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.cross_entropy import (
    balanced_cross_entropy,
    binary_cross_entropy,
    cross_entropy,
    edge_cross_entropy,
    ohem_cross_entropy,
)
from scenewise.losses.focal import binary_focal, focal
from scenewise.losses.lovasz import lovasz_hinge, lovasz_softmax
from scenewise.losses.overlap import dice, generalized_dice, jaccard, tversky
from scenewise.losses.smoothness import smoothness, total_variation
from scenewise.types import IGNORE

CLASS_LOSSES = [cross_entropy, focal, ohem_cross_entropy, jaccard, dice, tversky, lovasz_softmax]
OVERLAP_LOSSES = [jaccard, dice, tversky, lovasz_softmax]
ALL = {
    "cross-entropy": cross_entropy,
    "smoothed": lambda z, t: cross_entropy(z, t, label_smoothing=0.1),
    "weighted": lambda z, t: cross_entropy(z, t, class_weights=torch.tensor([1.0, 0.5, 2.0, 0.0])),
    "focal": focal,
    "focal-half": lambda z, t: focal(z, t, gamma=0.5),
    "ohem": lambda z, t: ohem_cross_entropy(z, t, threshold=0.3, min_kept=3),
    "jaccard": jaccard,
    "jaccard-image": lambda z, t: jaccard(z, t, scope="image", smooth=1.0, classes="all"),
    "jaccard-log": lambda z, t: jaccard(z, t, log=True, squared=True),
    "dice": dice,
    "dice-squared": lambda z, t: dice(z, t, squared=True, scope="image"),
    "tversky": tversky,
    "focal-tversky": lambda z, t: tversky(z, t, gamma=4 / 3),
    "lovasz": lovasz_softmax,
    "lovasz-image": lambda z, t: lovasz_softmax(z, t, scope="image", classes="all"),
    "hinge": lambda z, t: lovasz_hinge(z[:, 0], torch.where(t == IGNORE, IGNORE, t % 2)),
    "hinge-image": lambda z, t: lovasz_hinge(z[:, 0], torch.where(t == IGNORE, IGNORE, t % 2), scope="image"),
    "total-variation": lambda z, t: total_variation(z.softmax(1), counted=t != IGNORE),
    "isotropic": lambda z, t: total_variation(z.softmax(1), counted=t != IGNORE, kind="isotropic", norm="pairs"),
}


def example(seed=0, images=2, classes=4, size=(4, 5), only=None):
    """Logits in float64 and a target with void, of the first ``only`` classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, *size, dtype=torch.float64, generator=generator)
    target = torch.randint(0, only or classes, (images, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.25] = IGNORE
    return logits, target


def pixels(logits, target):
    """(image, probabilities, truth) of each pixel that counts, as plain numbers."""
    q = logits.softmax(1)
    return [
        (n, q[n, :, i, j].tolist(), int(target[n, i, j]))
        for n, i, j in (target != IGNORE).nonzero().tolist()
    ]  # fmt: skip


# ---- what all of them obey


@pytest.mark.parametrize("name", ALL)
def test_gradient(name):
    logits, target = example(size=(3, 3))
    logits.requires_grad_()
    assert ALL[name](logits, target).dtype == torch.float64
    assert gradcheck(lambda z: ALL[name](z, target), logits)


@pytest.mark.parametrize("name", ALL)
def test_nothing_counts(name):
    logits = (300 * torch.randn(2, 4, 3, 5)).half().requires_grad_()  # sums of these overflow in float16
    loss = ALL[name](logits, torch.full((2, 3, 5), IGNORE))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", ALL)
def test_void_pixels_do_not_matter(name):
    logits, target = example()
    other = torch.where((target == IGNORE)[:, None], 50 * torch.randn_like(logits), logits)
    assert ALL[name](other, target).item() == pytest.approx(ALL[name](logits, target).item(), rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_one_image_of_two_is_void(name):
    logits, target = example()
    target[1] = IGNORE
    alone, both = ALL[name](logits[:1], target[:1]), ALL[name](logits, target)
    if name == "total-variation":  # divided by the number of images
        both = 2 * both
    assert both.item() == pytest.approx(alone.item(), rel=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_float32_is_finite(name, scale):
    logits, target = example()
    logits = (scale * logits).float().requires_grad_()
    loss = ALL[name](logits, target)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened(dtype):
    logits, target = example()
    logits = logits.to(dtype)
    for name, loss in ALL.items():
        if "total" not in name and name != "isotropic":  # their softmax is outside
            assert torch.equal(loss(logits, target), loss(logits.float(), target)), name


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_void_is_void_with_more_than_255_classes(loss):
    logits = torch.randn(1, 300, 1, 3)
    target = torch.tensor([[[299, 3, IGNORE]]])
    torch.testing.assert_close(loss(logits, target), loss(logits[..., :2], target[..., :2]))


# ---- cross-entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 3.0, 0.7], dtype=torch.float64)])
def test_cross_entropy_equals_torch(smoothing, weights):
    logits, target = example()
    ours = cross_entropy(logits, target, class_weights=weights, label_smoothing=smoothing)
    theirs = F.cross_entropy(logits, target, weights, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)


def test_cross_entropy_weights_and_norms():
    logits, target = example()
    class_weights = torch.tensor([0.2, 1.0, 3.0, 0.7])
    pixel_weights = torch.rand(target.shape)
    terms, weights = [], []
    for n, i, j in (target != IGNORE).nonzero().tolist():
        label = target[n, i, j]
        weights.append(class_weights[label].item())
        log = math.log(logits[n, :, i, j].softmax(0)[label])
        terms.append(-weights[-1] * pixel_weights[n, i, j].item() * log)
    options = {"class_weights": class_weights, "pixel_weights": pixel_weights}
    by_weights = cross_entropy(logits, target, **options)
    by_pixels = cross_entropy(logits, target, **options, norm="pixels")
    assert by_weights.item() == pytest.approx(sum(terms) / sum(weights), rel=1e-6)  # the weights are float32
    assert by_pixels.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_classes_without_weight_alone():
    logits, target = example(only=1)
    logits.requires_grad_()
    loss = cross_entropy(logits, target, class_weights=torch.tensor([0.0, 1.0, 1.0, 1.0]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


# ---- hard pixels


def hardest(logits, target, threshold, min_kept):
    losses = sorted((-math.log(q[t]) for _, q, t in pixels(logits, target)), reverse=True)
    kept = [loss for rank, loss in enumerate(losses) if rank < min_kept or math.exp(-loss) <= threshold]
    return sum(kept) / len(kept)


@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.6, 1), (0.1, 3), (0.0, 5), (0.0, 10**6), (1.0, 1), (0.05, 20), (0.2, 0)]
)
def test_ohem_equals_loop(threshold, min_kept):
    logits, target = example()
    ours = ohem_cross_entropy(logits, target, threshold=threshold, min_kept=min_kept)
    assert ours.item() == pytest.approx(hardest(logits, target, threshold, min_kept))


def test_ohem_keeps_a_share():
    logits, target = example()
    count = math.ceil(0.25 * int((target != IGNORE).sum()))
    ours = ohem_cross_entropy(logits, target, threshold=0.0, min_kept=0.25)
    assert ours.item() == pytest.approx(hardest(logits, target, 0.0, count))


def test_ohem_of_no_hard_pixel_is_zero():
    logits = F.one_hot(torch.tensor([[[0, 1]]]), 2).permute(0, 3, 1, 2) * 20.0
    assert ohem_cross_entropy(logits, torch.tensor([[[0, 1]]]), threshold=0.5, min_kept=0).item() == 0


# ---- overlaps


def overlap_loop(logits, target, score, scope="batch", classes="present", power=1):
    """The mean over groups and classes of 1 - score(TP, sum of q or q^2, sum of p)."""
    num_classes = logits.shape[1]
    counted = pixels(logits, target)
    groups = [counted] if scope == "batch" else [[p for p in counted if p[0] == n] for n in range(len(logits))]
    means = []
    for group in groups:
        losses = []
        for label in range(num_classes):
            hit = sum(q[label] for _, q, t in group if t == label)
            called = sum(q[label] ** power for _, q, _ in group)
            truth = sum(t == label for _, _, t in group)
            if truth or (classes == "all" and group):
                losses.append(1 - score(hit, called, truth))
        if losses:
            means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


@pytest.mark.parametrize("only", [None, 2])
@pytest.mark.parametrize("scope", ["batch", "image"])
@pytest.mark.parametrize(("smooth", "classes"), [(0.0, "present"), (1.0, "present"), (1.0, "all")])
@pytest.mark.parametrize("squared", [False, True])
def test_jaccard_dice_tversky_equal_loop(only, scope, smooth, classes, squared):
    logits, target = example(3, only=only)
    target[0, 2:] = IGNORE
    options = {"scope": scope, "classes": classes, "smooth": smooth}
    power = 2 if squared else 1

    def expected(score, power=1):
        return pytest.approx(overlap_loop(logits, target, score, scope, classes, power), rel=1e-9)

    assert jaccard(logits, target, squared=squared, **options).item() == expected(
        lambda hit, called, truth: (hit + smooth) / (called + truth - hit + smooth), power
    )
    assert dice(logits, target, squared=squared, **options).item() == expected(
        lambda hit, called, truth: (2 * hit + smooth) / (called + truth + smooth), power
    )
    assert tversky(logits, target, alpha=0.2, beta=0.9, **options).item() == expected(
        lambda hit, called, truth: (hit + smooth) / (hit + 0.2 * (called - hit) + 0.9 * (truth - hit) + smooth)
    )


def test_log_jaccard_and_focal_tversky():
    logits, target = example(classes=2, only=1)
    iou = 1 - jaccard(logits, target)
    torch.testing.assert_close(jaccard(logits, target, log=True), -iou.log())
    torch.testing.assert_close(tversky(logits, target, gamma=4 / 3), tversky(logits, target) ** 0.75)


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_tversky_generalises_dice_and_jaccard(scope):
    logits, target = example(5)
    torch.testing.assert_close(
        tversky(logits, target, alpha=0.5, beta=0.5, scope=scope), dice(logits, target, scope=scope)
    )
    torch.testing.assert_close(
        tversky(logits, target, alpha=1, beta=1, scope=scope), jaccard(logits, target, scope=scope)
    )


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_image_scope_is_the_mean_over_images(loss):
    logits, target = example(images=3)
    alone = [loss(z[None], t[None]) for z, t in zip(logits, target, strict=True)]
    torch.testing.assert_close(loss(logits, target, scope="image"), torch.stack(alone).mean())


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_class_weights_choose_the_mean(loss):
    logits, target = example()
    single = [loss(logits, target, class_weights=torch.eye(4)[c]) for c in range(4)]
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(loss(logits, target), torch.stack(single).mean())
    expected = (torch.stack(single) * weights).sum() / weights.sum()
    torch.testing.assert_close(loss(logits, target, class_weights=weights), expected)


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_perfect_and_wrong(loss):
    target = torch.tensor([[[0, 1, 1], [2, 2, IGNORE]]])
    right = 60.0 * F.one_hot(target.clamp(max=2), 3).permute(0, 3, 1, 2)
    assert loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(right.roll(1, 1), target).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_memberships_are_a_binary_question_a_class(loss):
    """Sigmoid of z equals softmax of (0, z); classes are judged one by one; void may differ between them."""
    logits, _ = example(classes=2)
    target = torch.randint(0, 2, logits.shape)
    target[torch.rand(target.shape) < 0.2] = IGNORE
    each = [
        loss(torch.stack([torch.zeros_like(z), z], 1), t, class_weights=torch.tensor([0.0, 1.0]))
        for z, t in zip(logits.unbind(1), target.unbind(1), strict=True)
    ]
    torch.testing.assert_close(loss(logits, target), torch.stack(each).mean())
    torch.testing.assert_close(loss(logits[:, :1], target[:, :1]), each[0])


@pytest.mark.parametrize("loss", [jaccard, dice, tversky])
def test_absent_class_is_pushed_down_where_all_classes_count(loss):
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss(logits, torch.zeros(1, 3, 3, dtype=torch.int64), classes="all", smooth=1.0).backward()
    assert (logits.grad[:, 1] > 0).all()


# ---- Lovász


def iou_loss_of_errors(wrong, truth):
    """1 - IoU of a class with the pixels ``wrong`` misjudged, as a set function (Berman et al., eq. 6)."""
    missed = sum(w and t for w, t in zip(wrong, truth, strict=True))
    added = sum(w and not t for w, t in zip(wrong, truth, strict=True))
    union = sum(truth) + added
    return (missed + added) / union if union else 0.0


def lovasz_loop(errors, truth):
    """The extension by its definition: errors by falling size, times the rise of the set function (eq. 7 and 8)."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    wrong, before, total = [False] * len(errors), 0.0, 0.0
    for index in order:
        wrong[index] = True
        now = iou_loss_of_errors(wrong, truth)
        total += errors[index] * (now - before)
        before = now
    return total


@pytest.mark.parametrize("only", [None, 2])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_equals_its_definition(only, classes):
    logits, target = example(7, only=only)
    counted = pixels(logits, target)
    losses = []
    for label in range(4):
        truth = [t == label for _, _, t in counted]
        if any(truth) or classes == "all":
            losses.append(lovasz_loop([abs((t == label) - q[label]) for _, q, t in counted], truth))
    assert lovasz_softmax(logits, target, classes=classes).item() == pytest.approx(sum(losses) / len(losses))


def test_lovasz_of_hard_errors_is_one_minus_iou():
    _, target = example(11)
    called = torch.randint(0, 4, target.shape)
    logits = 1e4 * F.one_hot(called, 4).permute(0, 3, 1, 2).double()
    counted = pixels(logits, target)
    losses = []
    for label in range(4):
        truth = [t == label for _, _, t in counted]
        wrong = [(q[label] > 0.5) != is_it for is_it, (_, q, _) in zip(truth, counted, strict=True)]
        if any(truth):
            losses.append(iou_loss_of_errors(wrong, truth))
    assert lovasz_softmax(logits, target).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    torch.testing.assert_close(lovasz_softmax(logits, target), jaccard(logits, target))


def test_lovasz_keeps_its_digits_with_many_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 1000, 1000, generator=generator)
    target = torch.randint(0, 2, (1, 1000, 1000), generator=generator)
    gradients = []
    for z in (logits.requires_grad_(), logits.detach().double().requires_grad_()):
        lovasz_softmax(z, target).backward()
        gradients.append(z.grad.double())
    # The probabilities are good to 1e-7, and with them the order of pixels of nearly equal error.
    assert (gradients[0] - gradients[1]).abs().sum() < 1e-4 * gradients[1].abs().sum()


def test_lovasz_hinge_equals_its_definition():
    logits, target = example(13, classes=1, only=2)
    target = (target == 0).long().masked_fill(target == IGNORE, IGNORE)
    target[0, :2], target[1, 0] = 1, 0
    losses = []
    for z, t in zip(logits[:, 0], target, strict=True):
        kept = t != IGNORE
        signs = (2 * t[kept] - 1).double()
        losses.append(lovasz_loop((1 - z[kept] * signs).clamp(min=0).tolist(), (t[kept] == 1).tolist()))
    assert lovasz_hinge(logits[:, 0], target, scope="image").item() == pytest.approx(sum(losses) / 2)
    assert lovasz_hinge(logits[:1, 0], target[:1]).item() == pytest.approx(losses[0])


# ---- segmentation_models_pytorch


@pytest.fixture(scope="module")
def smp():
    return pytest.importorskip("segmentation_models_pytorch", reason="an optional reference").losses


@pytest.mark.parametrize("only", [None, 2])
def test_overlaps_equal_segmentation_models_pytorch(smp, only):
    """There, absent classes have the loss 0 and count in the mean; here they are left out of it."""
    logits, target = example(17, only=only)
    present = len(target[target != IGNORE].unique()) / 4
    options = {"mode": "multiclass", "ignore_index": IGNORE}
    torch.testing.assert_close(present * jaccard(logits, target), smp.JaccardLoss(**options)(logits, target))
    torch.testing.assert_close(present * dice(logits, target), smp.DiceLoss(**options)(logits, target))
    theirs = smp.TverskyLoss(**options, alpha=0.3, beta=0.7)(logits, target)
    torch.testing.assert_close(present * tversky(logits, target), theirs)


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_lovasz_equals_segmentation_models_pytorch(smp, scope):
    logits, target = example(19)
    options = {"ignore_index": IGNORE, "per_image": scope == "image"}
    theirs = smp.LovaszLoss("multiclass", **options)(logits.float(), target)
    torch.testing.assert_close(lovasz_softmax(logits.float(), target, scope=scope), theirs)
    binary = torch.where(target == IGNORE, IGNORE, target % 2)
    theirs = smp.LovaszLoss("binary", **options)(logits[:, 0].float(), binary)
    torch.testing.assert_close(lovasz_hinge(logits[:, 0].float(), binary, scope=scope), theirs)


# ---- total variation


def test_total_variation_golden():
    halves = torch.zeros(1, 2, 4, 4)
    halves[:, 0, :, :2] = halves[:, 1, :, 2:] = 1
    assert total_variation(halves).item() == 8  # 4 crossings in each of 2 channels
    assert total_variation(halves, norm="pairs").item() == pytest.approx(8 / 24)
    assert total_variation(halves.repeat(3, 1, 1, 1)).item() == 8
    # 3 of the 4 rows have a neighbour below, too
    assert total_variation(halves, kind="isotropic").item() == pytest.approx(6, abs=1e-4)


@pytest.mark.parametrize("kind", ["anisotropic", "isotropic", "squared"])
@pytest.mark.parametrize("norm", ["images", "pairs"])
def test_total_variation_equals_loop(kind, norm):
    logits, target = example(23)
    q, counted = logits.softmax(1), target != IGNORE
    total, pairs = 0.0, 0
    for n, i, j in counted.nonzero().tolist():
        steps = []
        for a, b in ((i + 1, j), (i, j + 1)):
            if a < 4 and b < 5 and counted[n, a, b]:
                steps.append(q[n, :, a, b] - q[n, :, i, j])
        if kind == "isotropic":
            if len(steps) == 2:
                total, pairs = total + (steps[0] ** 2 + steps[1] ** 2 + 1e-12).sqrt().sum().item(), pairs + 1
        else:
            pairs += len(steps)
            total += sum((s.abs() if kind == "anisotropic" else s**2).sum().item() for s in steps)
    ours = total_variation(q, counted=counted, kind=kind, norm=norm).item()
    assert ours == pytest.approx(total / (2 if norm == "images" else pairs))


def test_total_variation_equals_torchmetrics():
    from torchmetrics.functional.image import total_variation as reference

    q = example(29)[0].softmax(1)
    torch.testing.assert_close(total_variation(q), reference(q, reduction="mean"))


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 2, 1, 4), (1, 2, 4, 1)])
def test_total_variation_of_lines(shape):
    assert total_variation(torch.ones(shape)).item() == 0


# ---- errors


def test_unknown_choices():
    logits, target = example()
    with pytest.raises(UsageError, match="norm is 'mean'; expected 'weights', 'pixels', 'all-weights', 'images' or 'none'"):
        cross_entropy(logits, target, norm="mean")
    for loss in OVERLAP_LOSSES:
        with pytest.raises(UsageError, match="scope is 'pixel'; expected 'batch' or 'image'"):
            loss(logits, target, scope="pixel")
        with pytest.raises(UsageError, match="classes is 'some'; expected 'present' or 'all'"):
            loss(logits, target, classes="some")
    with pytest.raises(UsageError, match="kind is 'l2'; expected 'anisotropic' or 'isotropic' or 'squared'"):
        total_variation(logits, kind="l2")
