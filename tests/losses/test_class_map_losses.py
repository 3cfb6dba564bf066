"""Each loss against a loop over pixels written from its formula, and against other packages where they are there."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from scenewise.errors import UsageError
from scenewise.losses.class_weights import ClassFrequency, class_weights
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
from scenewise.ops.edge_weights import edge_distances
from scenewise.types import IGNORE

CLASS_LOSSES = [
    cross_entropy,
    balanced_cross_entropy,
    binary_cross_entropy,
    edge_cross_entropy,
    focal,
    binary_focal,
    ohem_cross_entropy,
    jaccard,
    dice,
    generalized_dice,
    tversky,
    lovasz_softmax,
    lovasz_hinge,
]
OVERLAP_LOSSES = [jaccard, dice, tversky, lovasz_softmax]
ALL = {
    "cross-entropy": cross_entropy,
    "smoothed": lambda z, t: cross_entropy(z, t, label_smoothing=0.1),
    "weighted": lambda z, t: cross_entropy(z, t, class_weights=torch.tensor([1.0, 0.5, 2.0, 0.0])),
    "sum": lambda z, t: cross_entropy(z, t, norm="none"),
    "balanced": balanced_cross_entropy,
    "balanced-effective": lambda z, t: balanced_cross_entropy(z, t, mode="effective", beta=0.9, clip=(0.1, 0.5)),
    "edge": edge_cross_entropy,
    "edge-band": lambda z, t: edge_cross_entropy(z, t, band=1, norm="all-weights"),
    "binary": binary_cross_entropy,
    "binary-weighted": lambda z, t: binary_cross_entropy(
        z, t, positive_weight=3.0, class_weights=torch.tensor([1.0, 0.5, 2.0, 0.0])
    ),
    "focal": focal,
    "sigmoid-focal": binary_focal,
    "sigmoid-focal-factors": lambda z, t: binary_focal(z, t, alpha=None, norm="pixels", gamma=1.5),
    "focal-half": lambda z, t: focal(z, t, gamma=0.5),
    "ohem": lambda z, t: ohem_cross_entropy(z, t, threshold=0.3, min_kept=3),
    "jaccard": jaccard,
    "jaccard-image": lambda z, t: jaccard(z, t, scope="image", smooth=1.0, classes="all"),
    "jaccard-log": lambda z, t: jaccard(z, t, log=True, squared=True),
    "dice": dice,
    "dice-squared": lambda z, t: dice(z, t, squared=True, scope="image"),
    "dice-sigmoid": lambda z, t: dice(z, t, activation="sigmoid", background=False),
    "generalized-dice": generalized_dice,
    "generalized-dice-image": lambda z, t: generalized_dice(z, t, scope="image", classes="all", power=1, smooth=0.1),
    "tversky": tversky,
    "focal-tversky": lambda z, t: tversky(z, t, gamma=4 / 3),
    "lovasz": lovasz_softmax,
    "lovasz-image": lambda z, t: lovasz_softmax(z, t, scope="image", classes="all"),
    "hinge": lambda z, t: lovasz_hinge(z[:, 0], torch.where(t == IGNORE, IGNORE, t % 2)),
    "hinge-image": lambda z, t: lovasz_hinge(z[:, 0], torch.where(t == IGNORE, IGNORE, t % 2), scope="image"),
    "hinge-classes": lovasz_hinge,
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
    if loss in (cross_entropy, focal, ohem_cross_entropy):
        weights = {"class_weights": torch.rand(300)}
        expected = loss(logits[..., :2], target[..., :2], **weights)
        torch.testing.assert_close(loss(logits, target, **weights), expected)


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


def test_all_norms_of_weighted_pixels():
    logits, target = example()
    class_weights = torch.tensor([0.2, 1.0, 3.0, 0.7], dtype=torch.float64)
    pixel_weights = torch.rand(target.shape, dtype=torch.float64)
    terms, of_class, of_both = 0.0, 0.0, 0.0
    for n, i, j in (target != IGNORE).nonzero().tolist():
        label, w = int(target[n, i, j]), pixel_weights[n, i, j].item()
        terms -= class_weights[label].item() * w * math.log(logits[n, :, i, j].softmax(0)[label])
        of_class, of_both = of_class + class_weights[label].item(), of_both + class_weights[label].item() * w
    count = int((target != IGNORE).sum())
    divisors = {"weights": of_class, "pixels": count, "all-weights": of_both, "images": 2, "none": 1}
    for norm, value in divisors.items():
        ours = cross_entropy(logits, target, class_weights=class_weights, pixel_weights=pixel_weights, norm=norm)
        assert ours.item() == pytest.approx(terms / value, rel=1e-6), norm
    plain = cross_entropy(logits, target, norm="none")
    torch.testing.assert_close(plain, F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 3.0, 0.7], dtype=torch.float64)])
def test_shares_as_target(smoothing, weights):
    """Shares of 0 and 1 are the labels; others give the mean of -sum(p log q)."""
    logits, target = example()
    counted = target != IGNORE
    hard = F.one_hot(target.masked_fill(~counted, 0), 4).movedim(3, 1).double()
    hard[(~counted)[:, None].expand_as(hard)] = IGNORE
    options = {"class_weights": weights, "label_smoothing": smoothing}
    torch.testing.assert_close(cross_entropy(logits, hard, **options), cross_entropy(logits, target, **options))
    soft = torch.rand_like(logits).softmax(1)
    log = logits.log_softmax(1)
    expected = -(soft * log).sum(1).mean()
    torch.testing.assert_close(cross_entropy(logits, soft), expected)
    soft[1, 2, 0, 0] = IGNORE
    expected = -(soft * log).sum(1)[soft[:, 2] != IGNORE].mean()
    torch.testing.assert_close(cross_entropy(logits, soft), expected)
    assert gradcheck(lambda z: cross_entropy(z, soft[:, :, :2, :2], **options), logits[:, :, :2, :2].requires_grad_())


# ---- balanced


@pytest.mark.parametrize("mode", ["inverse", "median", "inverse-log", "effective"])
def test_balanced_takes_its_weights_from_the_batch(mode):
    logits, target = example(only=3)  # class 3 does not occur
    target[1][target[1] == 2] = 0  # and class 2 not in the second image
    counts = ClassFrequency(4)
    counts.update(target)
    weights = class_weights(counts, mode, beta=0.9)
    expected = cross_entropy(logits, target, class_weights=weights)
    torch.testing.assert_close(balanced_cross_entropy(logits, target, mode=mode, beta=0.9), expected, rtol=1e-6, atol=0)


# ---- borders between classes


def distance_loop(labels):
    """From each labelled pixel to the nearest of another class, by looking at all."""
    height, width = labels.shape
    found = torch.full(labels.shape, math.inf)
    for i, j in (labels != IGNORE).nonzero().tolist():
        for a in range(height):
            for b in range(width):
                if labels[a, b] not in (IGNORE, labels[i, j]):
                    found[i, j] = min(found[i, j].item(), math.hypot(a - i, b - j))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 3, (2, 3, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(3, 2)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    expected = torch.stack([distance_loop(labels) for labels in target])
    torch.testing.assert_close(edge_distances(target), expected)
    near = torch.where(expected <= 2, expected, math.inf)
    torch.testing.assert_close(edge_distances(target, 2), near)


def test_distances_without_a_border():
    target = torch.tensor([[[3, 3, 3], [3, IGNORE, 3]]])
    assert edge_distances(target).isinf().all()
    assert edge_distances(torch.full((1, 2, 3), IGNORE)).isinf().all()
    assert edge_distances(torch.tensor([[[0, 1, 1]]])).tolist() == [[[1, 1, 2]]]


def test_edge_cross_entropy_equals_loop():
    logits, target = example(31, size=(6, 7))
    distances = torch.stack([distance_loop(labels) for labels in target])
    for band, weigh in (
        (None, lambda d: 1 + 4 * math.exp(-(d**2) / (2 * 1.5**2))),
        (1.5, lambda d: 1 + 4 * (d <= 1.5)),
    ):
        terms, weights = 0.0, 0.0
        for n, i, j in (target != IGNORE).nonzero().tolist():
            w = weigh(distances[n, i, j].item())
            terms -= w * math.log(logits[n, :, i, j].softmax(0)[target[n, i, j]])
            weights += w
        ours = edge_cross_entropy(logits, target, w0=4, sigma=1.5, band=band)
        assert ours.item() == pytest.approx(terms / int((target != IGNORE).sum()), rel=1e-6)
        ours = edge_cross_entropy(logits, target, w0=4, sigma=1.5, band=band, norm="all-weights")
        assert ours.item() == pytest.approx(terms / weights, rel=1e-6)


# ---- each class a question of its own


def questions(logits, target):
    """(class, logit, answer) of each class of each pixel that counts."""
    if target.dim() == 3:
        places = [(n, c, i, j) for n, i, j in (target != IGNORE).nonzero().tolist() for c in range(logits.shape[1])]
        return [(c, logits[n, c, i, j].item(), float(target[n, i, j] == c)) for n, c, i, j in places]
    return [
        (c, logits[n, c, i, j].item(), target[n, c, i, j].item())
        for n, c, i, j in (target != IGNORE).nonzero().tolist()
    ]


def memberships(logits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    target[torch.rand(logits.shape, generator=generator) < 0.2] = IGNORE
    return target


@pytest.mark.parametrize("labels", [True, False])
def test_binary_cross_entropy_equals_loop(labels):
    logits, target = example()
    target = target if labels else memberships(logits)
    weights = [0.5, 2.0, 1.0, 0.0]
    terms, divisor = 0.0, 0.0
    for c, z, p in questions(logits, target):
        q = 1 / (1 + math.exp(-z))
        terms -= weights[c] * (3 * p * math.log(q) + (1 - p) * math.log(1 - q))
        divisor += weights[c]
    ours = binary_cross_entropy(logits, target, positive_weight=3.0, class_weights=torch.tensor(weights))
    assert ours.item() == pytest.approx(terms / divisor)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("norm", ["pixels", "positives", "factors"])
def test_binary_focal_equals_loop(labels, norm):
    logits, target = example()
    target = target if labels else memberships(logits).round()
    terms, factors, positives, count = 0.0, 0.0, 0, 0
    for _, z, p in questions(logits, target):
        q = 1 / (1 + math.exp(-z)) if p else 1 / (1 + math.exp(z))
        terms -= (0.3 if p else 0.7) * (1 - q) ** 1.5 * math.log(q)
        factors, positives, count = factors + (1 - q) ** 1.5, positives + p, count + 1
    divisor = {"pixels": count, "positives": positives, "factors": factors}[norm]
    ours = binary_focal(logits, target, alpha=0.3, gamma=1.5, norm=norm)
    assert ours.item() == pytest.approx(terms / divisor)


def test_binary_losses_equal_torch_and_torchvision():
    from torchvision.ops import sigmoid_focal_loss

    logits, _ = example(classes=1)
    truth = (torch.rand(logits.shape, dtype=torch.float64) < 0.4).double()
    torch.testing.assert_close(binary_cross_entropy(logits, truth), F.binary_cross_entropy_with_logits(logits, truth))
    torch.testing.assert_close(binary_focal(logits, truth), sigmoid_focal_loss(logits, truth, reduction="mean"))


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


def memberships_overlap_loop(logits, target, score):
    """The mean over classes of 1 - score(sum qp, sum q, sum p) with soft truths."""
    losses = []
    for c in range(logits.shape[1]):
        found = [(1 / (1 + math.exp(-z)), p) for label, z, p in questions(logits, target) if label == c]
        losses.append(1 - score(sum(q * p for q, p in found), sum(q for q, _ in found), sum(p for _, p in found)))
    return sum(losses) / len(losses)


def test_soft_memberships_equal_loop():
    logits, _ = example(classes=3)
    target = memberships(logits)
    expected = memberships_overlap_loop(logits, target, lambda hit, q, p: hit / (q + p - hit))
    assert jaccard(logits, target).item() == pytest.approx(expected)
    expected = memberships_overlap_loop(logits, target, lambda hit, q, p: 2 * hit / (q + p))
    assert dice(logits, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [jaccard, dice, tversky, lovasz_softmax, generalized_dice])
def test_the_sigmoid_of_labels_is_that_of_memberships(loss):
    logits, target = example(only=3)
    counted = (target != IGNORE)[:, None].expand_as(logits)
    each = F.one_hot(target.masked_fill(target == IGNORE, 0), 4).movedim(3, 1).masked_fill(~counted, IGNORE)
    torch.testing.assert_close(loss(logits, target, activation="sigmoid"), loss(logits, each))


@pytest.mark.parametrize("loss", [*OVERLAP_LOSSES, lovasz_hinge])
def test_listed_classes_and_background(loss):
    logits, target = example()
    single = [loss(logits, target, class_weights=torch.eye(4)[c]) for c in range(4)]
    torch.testing.assert_close(loss(logits, target, classes=(3, 1)), (single[1] + single[3]) / 2)
    torch.testing.assert_close(loss(logits, target, background=False), torch.stack(single[1:]).mean())
    with pytest.raises(UsageError, match="classes has 4; expected labels from 0 to 3"):
        loss(logits, target, classes=(1, 4))


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("scope", ["batch", "image"])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_generalized_dice_equals_loop(power, scope, classes):
    logits, target = example(37, images=3, only=3)
    target[2] = IGNORE
    counted = pixels(logits, target)
    groups = [counted] if scope == "batch" else [[p for p in counted if p[0] == n] for n in range(2)]
    losses = []
    for group in groups:
        above = below = 0.0
        for label in range(4):
            truth = sum(t == label for _, _, t in group)
            if truth or classes == "all":
                weight = 1 / max(1, truth) ** power
                above += weight * 2 * sum(q[label] for _, q, t in group if t == label)
                below += weight * (sum(q[label] for _, q, _ in group) + truth)
        losses.append(1 - above / below)
    ours = generalized_dice(logits, target, power=power, scope=scope, classes=classes)
    assert ours.item() == pytest.approx(sum(losses) / len(losses))


def test_generalized_dice_keeps_its_digits_with_large_areas():
    logits, target = torch.randn(1, 3, 400, 500), torch.randint(0, 2, (1, 400, 500))
    exact = generalized_dice(logits.double(), target).item()
    assert generalized_dice(logits, target).item() == pytest.approx(exact, rel=1e-5)


def test_sums_of_many_pixels_keep_their_digits():
    """Added up one by one in float32, a sum of 10^6 values is wrong in the fourth digit."""
    logits, target = torch.randn(1, 2, 1000, 1000), torch.randint(0, 2, (1, 1000, 1000))
    for loss in (jaccard, dice):
        assert loss(logits, target).item() == pytest.approx(loss(logits.double(), target).item(), rel=1e-6)


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


def test_lovasz_hinge_of_one_absent_class_is_its_largest_error():
    logits = torch.tensor([[[-3.0, 0.5, 2.0, 9.0]]])
    assert lovasz_hinge(logits, torch.tensor([[[0, 0, 0, IGNORE]]])).item() == 3


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_lovasz_hinge_of_classes_is_the_mean_of_each_against_the_rest(scope):
    logits, target = example(41)
    each = [
        lovasz_hinge(logits[:, c], torch.where(target == IGNORE, IGNORE, (target == c).long()), scope=scope)
        for c in range(4)
    ]
    assert all((labels == c).any() for labels in target for c in range(4))
    torch.testing.assert_close(lovasz_hinge(logits, target, scope=scope), torch.stack(each).mean())


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


def test_binary_focal_equals_segmentation_models_pytorch(smp):
    """What they call multiclass is the mean over classes of each against the rest."""
    logits, target = example(43)
    theirs = smp.FocalLoss("multiclass", ignore_index=IGNORE)(logits, target)
    torch.testing.assert_close(binary_focal(logits, target, alpha=None), theirs)


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


@pytest.mark.parametrize("kind", ["anisotropic", "isotropic", "squared"])
def test_changes_cost_less_where_the_image_changes(kind):
    logits, target = example(47)
    q, counted, image = logits.softmax(1), target != IGNORE, torch.rand(2, 3, 4, 5, dtype=torch.float64)
    total = 0.0
    for n, i, j in counted.nonzero().tolist():
        steps, edges = [], []
        for a, b in ((i + 1, j), (i, j + 1)):
            if a < 4 and b < 5 and counted[n, a, b]:
                steps.append(q[n, :, a, b] - q[n, :, i, j])
                edges.append((image[n, :, a, b] - image[n, :, i, j]).abs().mean().item())
        if kind == "isotropic":
            if len(steps) == 2:
                size = (steps[0] ** 2 + steps[1] ** 2 + 1e-12).sqrt().sum().item()
                total += math.exp(-3 * math.hypot(*edges)) * size
        else:
            for step, edge in zip(steps, edges, strict=True):
                total += math.exp(-3 * edge) * (step.abs() if kind == "anisotropic" else step**2).sum().item()
    assert total_variation(q, counted=counted, kind=kind, image=image, kappa=3).item() == pytest.approx(total / 2)
    options = {"kind": kind, "norm": "images", "inside": counted, "image": image}
    assert smoothness(logits, target, **options, kappa=3.0).item() == pytest.approx(total / 2)
    plain = total_variation(q, counted=counted, kind=kind)
    torch.testing.assert_close(smoothness(logits, target, **options), plain)


def test_smoothness_reads_no_label():
    logits, target = example()
    everywhere = total_variation(logits.softmax(1), norm="pairs")
    torch.testing.assert_close(smoothness(logits, target), everywhere)
    torch.testing.assert_close(smoothness(logits, torch.full_like(target, IGNORE)), everywhere)


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 2, 1, 4), (1, 2, 4, 1)])
def test_total_variation_of_lines(shape):
    assert total_variation(torch.ones(shape)).item() == 0


# ---- errors


def test_unknown_choices():
    logits, target = example()
    with pytest.raises(
        UsageError, match="norm is 'mean'; expected 'weights', 'pixels', 'all-weights', 'images' or 'none'"
    ):
        cross_entropy(logits, target, norm="mean")
    for loss in OVERLAP_LOSSES:
        with pytest.raises(UsageError, match="scope is 'pixel'; expected 'batch' or 'image'"):
            loss(logits, target, scope="pixel")
        with pytest.raises(UsageError, match="classes is 'some'; expected 'present' or 'all'"):
            loss(logits, target, classes="some")
    for wrong in (-1, 1.5):
        with pytest.raises(UsageError, match=f"min_kept is {wrong}; expected a number of pixels, or a share"):
            ohem_cross_entropy(logits, target, min_kept=wrong)
    with pytest.raises(UsageError, match="activation is 'tanh'; expected 'softmax' or 'sigmoid'"):
        dice(logits, target, activation="tanh")
    with pytest.raises(UsageError, match="norm is 'sum'; expected 'pixels' or 'positives' or 'factors'"):
        binary_focal(logits, target, norm="sum")
    with pytest.raises(UsageError, match="class weights: mode is 'mean'; expected inverse, median"):
        balanced_cross_entropy(logits, target, mode="mean")
    with pytest.raises(UsageError, match="kind is 'l2'; expected 'anisotropic' or 'isotropic' or 'squared'"):
        total_variation(logits, kind="l2")
