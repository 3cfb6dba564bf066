"""Which boxes a second stage is trained on, what they cost, and which come out."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from scenewise.errors import UsageError
from scenewise.nn.roi_heads import RoISampler, Sampled, detections, sample_rois, second_stage_losses
from scenewise.ops.boxes import DetectionSpec, decode_boxes
from scenewise.ops.matching import HardExamples

TRUTH = torch.tensor([[10.0, 10, 50, 50], [60, 20, 90, 80]])


def target(ignore=(False, False)):
    return {"boxes": TRUTH, "labels": torch.tensor([2, 0]), "ignore": torch.tensor(ignore)}


def proposals(count=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 70
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 60], 1)


def test_objects_and_background_follow_the_overlaps():
    torch.manual_seed(0)
    boxes = proposals()
    sampled = sample_rois([boxes], [target()], RoISampler(samples=64, positive_fraction=0.25))
    assert len(sampled.boxes[0]) == 64
    iou = box_iou(sampled.boxes[0], TRUTH)
    best = iou.max(1)
    positive = sampled.labels > 0
    assert int(positive.sum()) == 16
    assert torch.equal(positive, best.values >= 0.5)
    assert torch.equal(sampled.truth[0][positive], best.indices[positive])
    assert torch.equal(sampled.labels[positive], target()["labels"][best.indices[positive]] + 1)
    back = decode_boxes(sampled.deltas[positive], sampled.boxes[0][positive], (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(back, TRUTH[best.indices[positive]], rtol=1e-4, atol=1e-3)


def test_the_true_boxes_are_among_the_proposals_where_asked():
    nothing = torch.zeros(0, 4)
    with_truth = sample_rois([nothing], [target()], RoISampler())
    assert torch.equal(with_truth.boxes[0], TRUTH)
    assert with_truth.labels.tolist() == [3, 1]
    without = sample_rois([nothing], [target()], RoISampler(), add_truth=False)
    assert without.labels.shape == (0,)


def test_an_image_without_objects_gives_background():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    sampled = sample_rois([proposals(30), proposals(20, 1)], [empty, target()], RoISampler(samples=8))
    assert sampled.labels[:8].tolist() == [0] * 8
    boxes, truth, labels = sampled.objects()
    assert boxes[0].shape == (0, 4)
    assert len(truth[1]) == len(labels) == int((sampled.labels > 0).sum())


def test_a_crowd_is_neither_an_object_nor_background():
    boxes = torch.tensor([[62.0, 22, 88, 60], [12, 12, 48, 48], [0, 60, 20, 90]])  # in the crowd, on the object, beside
    sampled = sample_rois([boxes], [target(ignore=(False, True))], RoISampler(), add_truth=False)
    assert sampled.boxes[0].tolist() == boxes[1:].tolist()
    assert sampled.labels.tolist() == [3, 0]
    boxes, truth, _ = sampled.objects()
    assert truth[0].tolist() == [0]


def test_fast_rcnns_background_overlaps_a_little():
    sampled = sample_rois([proposals()], [target()], RoISampler(lowest_iou=0.1, samples=400), add_truth=False)
    best = box_iou(sampled.boxes[0], TRUTH).max(1).values
    assert best.min() >= 0.1
    assert (best < 0.5).any()


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 3, 0, 1, 0, 0, 2])
    sampled = Sampled([torch.zeros(4, 4), torch.zeros(3, 4)], labels, [], torch.randn(7, 4, generator=generator))
    return torch.randn(7, 4, generator=generator), torch.randn(7, 16, generator=generator), sampled


def brute_force(logits, deltas, sampled, beta):
    of_class, of_box = [], []
    for row, label in enumerate(sampled.labels.tolist()):
        of_class.append(-F.log_softmax(logits[row], 0)[label])
        error = (deltas[row, 4 * label : 4 * label + 4] - sampled.deltas[row]).abs()
        smooth = torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta).sum()
        of_box.append(smooth if label else torch.zeros(()))
    return torch.stack(of_class), torch.stack(of_box)


def test_losses_equal_the_formula(scored):
    logits, deltas, sampled = scored
    of_class, of_box = brute_force(logits, deltas, sampled, 0.5)
    terms = second_stage_losses(logits, deltas, sampled, beta=0.5)
    torch.testing.assert_close(terms["class"], of_class.mean())
    torch.testing.assert_close(terms["box"], of_box.sum() / 7)


def test_only_the_hardest_boxes_of_each_image_count(scored):
    logits, deltas, sampled = scored
    of_class, of_box = brute_force(logits, deltas, sampled, 1.0)
    both = of_class + of_box
    kept = torch.cat([both[:4].topk(2).indices, both[4:].topk(2).indices + 4])
    terms = second_stage_losses(logits, deltas, sampled, beta=1.0, hard=2)
    torch.testing.assert_close(terms["class"], of_class[kept].sum() / 4)
    torch.testing.assert_close(terms["box"], of_box[kept].sum() / 4)


def test_of_overlapping_boxes_only_the_hardest_counts(scored):
    """The first image's boxes are all in one place, so one of them is left; the second's are apart."""
    logits, deltas, sampled = scored
    apart = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    sampled.boxes = [torch.tensor([[0.0, 0, 9, 9]]).expand(4, 4), apart]
    of_class, of_box = brute_force(logits, deltas, sampled, 1.0)
    both = of_class + of_box
    kept = torch.cat([both[:4].topk(1).indices, both[4:].topk(2).indices + 4])
    terms = second_stage_losses(logits, deltas, sampled, beta=1.0, hard=HardExamples(2, nms_iou=0.7))
    torch.testing.assert_close(terms["class"], of_class[kept].sum() / 3)
    torch.testing.assert_close(terms["box"], of_box[kept].sum() / 3)
    with pytest.raises(UsageError, match="hard_examples: count is 0; expected 1 or more"):
        HardExamples(0)


def test_no_boxes_cost_nothing_and_keep_their_gradients():
    logits = torch.zeros(0, 4, requires_grad=True)
    deltas = torch.zeros(0, 16, requires_grad=True)
    none = Sampled([torch.zeros(0, 4)], torch.zeros(0, dtype=torch.int64), [], torch.zeros(0, 4))
    total = sum(second_stage_losses(logits, deltas, none).values())
    assert total == 0
    total.backward()


def test_detections_equal_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    boxes = proposals(60)
    scores = torch.randn(60, 4, generator=generator).mul(2).softmax(1)
    deltas = torch.randn(60, 16, generator=generator)
    spec = DetectionSpec(score=0.3, nms_iou=0.4, count=12)
    found = detections(scores, deltas, [boxes], [(64, 96)], spec)[0]
    candidates = []
    for row in range(60):
        for label in range(3):
            if scores[row, label + 1] > 0.3:
                delta = deltas[row, 4 * label + 4 : 4 * label + 8]
                box = decode_boxes(delta[None], boxes[row : row + 1], (10.0, 10.0, 5.0, 5.0))[0]
                box = torch.stack([box[0].clamp(0, 96), box[1].clamp(0, 64), box[2].clamp(0, 96), box[3].clamp(0, 64)])
                if min(box[2] - box[0], box[3] - box[1]) >= 0.01:
                    candidates.append((float(scores[row, label + 1]), label, box))
    candidates.sort(key=lambda c: -c[0])
    kept = []
    for score, label, box in candidates:
        if all(other != label or box_iou(box[None], b[None]) <= 0.4 for _, other, b in kept):
            kept.append((score, label, box))
    kept = kept[:12]
    assert found.labels.tolist() == [label for _, label, _ in kept]
    torch.testing.assert_close(found.scores, torch.tensor([score for score, _, _ in kept]))
    torch.testing.assert_close(found.boxes, torch.stack([box for _, _, box in kept]))


def test_box_voting_moves_a_box_to_the_mean_of_its_rivals():
    boxes = torch.tensor([[10.0, 10, 40, 40], [13, 10, 43, 40], [50, 50, 60, 60], [10, 10, 40, 40]])
    scores = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.4, 0.4], [0.1, 0.6, 0.3], [0.2, 0.1, 0.7]])
    found = detections(
        scores, torch.zeros(4, 4), [boxes], [(64, 64)], DetectionSpec(score=0.35, nms_iou=0.4, voting_iou=0.5)
    )[0]
    assert found.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.7, 0.6]))
    x = [(0.8 * 10 + 0.4 * 13) / 1.2, (0.7 * 10 + 0.4 * 13) / 1.1]  # of each class its own
    expected = [[x[0], 10, x[0] + 30, 40], [x[1], 10, x[1] + 30, 40], [50, 50, 60, 60]]
    torch.testing.assert_close(found.boxes, torch.tensor(expected))


def test_suppression_across_classes_and_soft_suppression():
    boxes = torch.tensor([[10.0, 10, 40, 40], [11, 10, 41, 40]])
    scores = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    deltas = torch.zeros(2, 4)
    sizes = [(64, 64)]

    def found(**options):
        return detections(scores, deltas, [boxes], sizes, DetectionSpec(score=0.15, **options))[0]

    assert found().labels.tolist() == [0, 1]
    assert found(class_agnostic=True).labels.tolist() == [0]
    soft = found(class_agnostic=True, nms="soft-linear")
    assert soft.labels.tolist() == [0] or float(soft.scores[1]) < 0.2
    gaussian = found(class_agnostic=True, nms="soft-gaussian")
    assert gaussian.scores[0] == pytest.approx(0.8)
    assert len(gaussian.boxes) == 1 or float(gaussian.scores[1]) < 0.5
    assert found(nms="soft-gaussian").labels.tolist() == [0, 1]
