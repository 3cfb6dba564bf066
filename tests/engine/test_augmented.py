"""Test-time augmentation and ensembles: identities, and the plain definition."""

import pytest
import torch
import torch.nn.functional as F

from scenewise.engine.augmented import Augmented, Ensemble
from scenewise.engine.tiles import Tiles
from scenewise.errors import UsageError
from scenewise.types import Batch, Prediction

CLASSES = ("a", "b", "c")
KERNEL = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))


def model(batch, kernel=KERNEL):
    logits = F.conv2d(batch.images, 3 * kernel, padding=1)
    return [
        Prediction(size=(h, w), classes=CLASSES, semantic_logits=row[:, :h, :w])
        for row, (h, w) in zip(logits, batch.sizes, strict=True)
    ]


def pointwise(batch):
    """Sees one pixel at a time, and so commutes with mirroring and turning."""
    kernel = torch.zeros_like(KERNEL)
    kernel[:, :, 1, 1] = KERNEL[:, :, 1, 1]
    return model(batch, kernel)


def images(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch.of([torch.rand(3, h, w, generator=generator) for h, w in sizes])


BATCH = ((12, 15), (9, 20), (12, 20))


def assert_same(found, wanted, average="logits"):
    for a, b in zip(found, wanted, strict=True):
        assert (a.size, a.classes) == (b.size, b.classes)
        scores = b.semantic_logits if average == "logits" else b.semantic_logits.log_softmax(0)
        torch.testing.assert_close(a.semantic_logits, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_one_view_is_the_image_itself(average, fusion):
    batch = images(*BATCH)
    assert_same(Augmented(flip=False, average=average, fusion=fusion)(model)(batch), model(batch), average)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_views_of_a_pointwise_model_agree(average, fusion):
    """Mirroring and turning are undone, in batches of images of different sizes too."""
    batch = images(*BATCH)
    augmented = Augmented(flip=True, quarter_turns=(0, 1, 2, 3), average=average, fusion=fusion)(pointwise)
    assert_same(augmented(batch), pointwise(batch), average)


def test_a_mirrored_image_has_the_mirrored_prediction():
    batch = images((12, 15))
    mirrored = Batch.of([batch.images[0].flip(-1)])
    augmented = Augmented(scales=(0.5, 1.0, 1.4), flip=True)(model)
    [straight], [back] = augmented(batch), augmented(mirrored)
    torch.testing.assert_close(back.semantic_logits.flip(-1), straight.semantic_logits, rtol=1e-4, atol=1e-4)
    alone = Augmented(flip=False)(model)
    assert not torch.allclose(alone(mirrored)[0].semantic_logits.flip(-1), alone(batch)[0].semantic_logits, atol=0.1)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scales_are_fused(average, fusion):
    image = torch.rand(1, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    views = []
    for size in ((5, 6), (10, 13), (15, 20)):  # half of 13 is 6.5, rounded to the even 6
        resized = F.interpolate(image, size=size, mode="bilinear", antialias=size[0] < 10) if size[0] != 10 else image
        logits = model(Batch(resized, [size]))[0].semantic_logits
        logits = F.interpolate(logits[None], size=(10, 13), mode="bilinear")[0]
        views.append(logits if average == "logits" else logits.softmax(0))
    views = torch.stack(views)
    wanted = views.mean(0) if fusion == "mean" else views.amax(0)
    augmented = Augmented(scales=(0.5, 1.0, 1.5), flip=False, average=average, fusion=fusion)
    [found] = augmented(model)(Batch.of([image[0]]))
    found = found.semantic_logits if average == "logits" else found.semantic_logits.exp()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_averaged_probabilities_come_back_from_the_softmax():
    [found] = Augmented(scales=(0.7, 1.0), flip=True)(model)(images((12, 15)))
    probabilities = found.semantic_logits.exp()
    torch.testing.assert_close(found.semantic_logits.softmax(0), probabilities)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(12, 15))


def test_views_are_padded_as_the_model_wants():
    seen = []

    def record(batch):
        seen.append(tuple(batch.images.shape[-2:]))
        return model(batch)

    Augmented(scales=(1.0, 0.5), flip=False, size_divisor=8)(record)(images((20, 13)))
    assert seen == [(24, 16), (16, 8)]


def test_an_ensemble_of_one_model_is_the_model():
    batch = images(*BATCH)
    for average in ("logits", "probabilities"):
        assert_same(Ensemble((model, model, model), average=average)(batch), model(batch), average)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0), (2.0, 6.0)])
def test_an_ensemble_averages(weights):
    batch = images((6, 7))
    found = Ensemble((model, pointwise), weights)(batch)[0].semantic_logits.exp()
    one, other = (m(batch)[0].semantic_logits.softmax(0) for m in (model, pointwise))
    torch.testing.assert_close(found, (one + other) / 2 if weights is None else (one + 3 * other) / 4)


def test_procedures_compose():
    batch = images((12, 15), (9, 20))
    predictor = Ensemble((Augmented()(Tiles((8, 8), 0.5, "gaussian")(pointwise)), pointwise))
    assert_same(predictor(batch), pointwise(batch), "probabilities")


def test_wrong_settings_are_refused():
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(UsageError, match="expected one or more positive numbers"):
            Augmented(scales=scales)
    with pytest.raises(UsageError, match="quarter_turns is empty"):
        Augmented(quarter_turns=())
    with pytest.raises(UsageError, match="there is no predictor"):
        Ensemble(())
    for weights in ((1.0,), (1.0, 0.0)):
        with pytest.raises(UsageError, match="expected a positive number for each of the 2 predictors"):
            Ensemble((model, model), weights)


def test_models_of_other_classes_are_refused():
    def other(batch):
        return [Prediction(p.size, ("a", "b", "d"), semantic_logits=p.semantic_logits) for p in model(batch)]

    with pytest.raises(UsageError, match="the views' classes disagree: a, b, c and a, b, d"):
        Ensemble((model, other))(images((5, 5)))
