"""Prediction by overlapping tiles: equal to the whole image where it must be, and its plain definition elsewhere."""

import pytest
import torch
import torch.nn.functional as F

from scenewise.engine.tiles import Tiles
from scenewise.errors import UsageError
from scenewise.types import Batch, Output

CLASSES = ("a", "b", "c")
KERNEL = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def pointwise(batch):
    """A model that looks at one pixel at a time."""
    return answers(F.conv2d(batch.images, 3 * KERNEL[:, :, 2:3, 2:3]), batch)


def local(batch):
    """A model that looks two pixels far, and sees zeros beyond the image."""
    return answers(F.conv2d(batch.images, KERNEL, padding=2), batch)


def answers(logits, batch):
    return [
        Output(size=(h, w), semantic_logits=row[:, :h, :w]) for row, (h, w) in zip(logits, batch.sizes, strict=True)
    ]


def images(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch.of([torch.rand(3, h, w, generator=generator) for h, w in sizes])


def scores(predictions):
    return [p.semantic_logits for p in predictions]


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("blend", ["mean", "gaussian", "crop"])
@pytest.mark.parametrize("overlap", [0, 3, 5, 0.5, 1 / 3])
def test_a_pointwise_model_sees_no_tiles(blend, overlap, average):
    batch = images((23, 40), (8, 11), (5, 30), (31, 9), (1, 1))
    found = Tiles((8, 11), overlap, blend, average, batch_size=4)(pointwise)(batch)
    for prediction, whole in zip(found, pointwise(batch), strict=True):
        assert prediction.size == whole.size
        wanted = whole.semantic_logits if average == "logits" else whole.semantic_logits.log_softmax(0)
        torch.testing.assert_close(prediction.semantic_logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("blend", ["mean", "gaussian"])
def test_overlaps_are_averaged(blend, average):
    """Against the plain sum over tiles at 0, 6, 12, ... with the last one shifted to the end."""
    batch = images((21, 16))
    bell = [torch.exp(-((torch.arange(n) - (n - 1) / 2) ** 2) / 2 / (n / 8) ** 2) for n in (9, 12)]
    weight = torch.outer(*bell) if blend == "gaussian" else torch.ones(9, 12)
    total, weights = torch.zeros(3, 21, 16), torch.zeros(21, 16)
    for top in (0, 6, 12):
        for left in (0, 4):
            tile = batch.images[:, :, top : top + 9, left : left + 12]
            [logits] = scores(local(Batch(tile, [(9, 12)])))
            part = logits if average == "logits" else logits.softmax(0)
            total[:, top : top + 9, left : left + 12] += weight * part
            weights[top : top + 9, left : left + 12] += weight
    wanted = total / weights
    [found] = scores(Tiles((9, 12), 3, blend, average)(local)(batch))
    found = found if average == "logits" else found.softmax(0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_where_the_tiles_lie():
    seen = []

    def record(batch):
        seen.extend(int(tile[0, 0, 0]) for tile in batch.images)
        return answers(batch.images, batch)

    line = Batch.of([torch.arange(20.0).expand(3, 1, 20)])
    for tiles, wanted in (
        (Tiles((1, 8), 0), [0, 8, 12]),
        (Tiles((1, 8), 0.5), [0, 4, 8, 12]),
        (Tiles((1, 10), 0), [0, 10]),
        (Tiles((1, 20), 0), [0]),
        (Tiles((1, 7), 1 / 3), [0, 5, 10, 13]),  # PSPNet's step: two thirds of the side, rounded up
        (Tiles((3, 8), 0, "crop"), [0, 8, 16]),
        (Tiles((3, 8), 2, "crop"), [1, 5, 11, 17]),  # from -1 on (mirrored: 1) in steps of 6
    ):
        seen.clear()
        tiles(record)(line)
        assert seen == wanted, tiles


def test_a_tile_larger_than_the_image_is_filled_by_mirroring():
    seen = []

    def record(batch):
        seen.append(batch.images)
        return answers(batch.images, batch)

    batch = images((4, 5))
    [found] = scores(Tiles((9, 7))(record)(batch))
    assert torch.equal(seen[0][0], F.pad(F.pad(batch.images, (0, 2, 0, 3), "reflect"), (0, 0, 0, 2), "reflect")[0])
    assert torch.equal(found, batch.images[0])


def test_centres_are_exact_where_the_overlap_covers_the_view():
    batch = images((30, 41))
    inside = (..., slice(2, -2), slice(2, -2))  # at the image's border, mirrored pixels stand for the model's zeros
    [whole] = scores(local(batch))
    [enough] = scores(Tiles((12, 10), 4, "crop")(local)(batch))
    torch.testing.assert_close(enough[inside], whole[inside])
    [too_little] = scores(Tiles((12, 10), 2, "crop")(local)(batch))
    assert not torch.allclose(too_little[inside], whole[inside], atol=1e-3)


@pytest.mark.parametrize("blend", ["mean", "gaussian", "crop"])
def test_the_number_of_tiles_at_once_changes_nothing(blend):
    batch = images((25, 18), (9, 30))
    one, many = (scores(Tiles((8, 8), 4, blend, batch_size=n)(local)(batch)) for n in (1, 5))
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b)


def test_tiny_probabilities_survive():
    def sure(batch):
        logits = torch.zeros(len(batch), 3, *batch.images.shape[-2:])
        logits[:, 0] = 500
        return answers(logits, batch)

    [found] = scores(Tiles((4, 4), 2, "gaussian", "probabilities")(sure)(images((9, 9))))
    assert found.isfinite().all()
    torch.testing.assert_close(found[0] - found[1], torch.full((9, 9), 500.0))


def test_wrong_settings_are_refused():
    with pytest.raises(UsageError, match=r"size is \(0, 5\); expected a \(height, width\) of 1 or more"):
        Tiles((0, 5))
    for overlap in (8, -1, 1.0, -0.1):
        with pytest.raises(UsageError, match=rf"overlap is {overlap}; expected a share .* or pixels as 0 to 7"):
            Tiles((8, 10), overlap)
    with pytest.raises(UsageError, match="batch_size is 0"):
        Tiles((8, 8), batch_size=0)


def test_a_model_without_class_scores_is_refused():
    def boxes(batch):
        return [Output(size=size, boxes=torch.zeros(0, 4)) for size in batch.sizes]

    with pytest.raises(UsageError, match=r"tiles: maps of pixels can be joined, and this model fills boxes"):
        Tiles((8, 8))(boxes)(images((9, 9)))
