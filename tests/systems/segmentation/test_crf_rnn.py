"""CRF-RNN: its layers against mean field, their gradients, and that they learn."""

import pytest
import torch

from scenewise.catalog import build
from scenewise.engine.players import make_optimizer
from scenewise.ops.crf import DenseCRF
from scenewise.recipe import OptimizerSettings
from scenewise.systems.segmentation.crf_rnn import MeanField
from scenewise.systems.segmentation.fcn import FCN
from scenewise.types import Batch

TINY = {"backbone": "test_resnet", "training_iterations": 3}


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("normalization", ["symmetric", "before", "after", "none"])
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_the_first_weights_are_those_of_mean_field(normalization, filter):
    crf = DenseCRF(2.0, 5.0, 30.0, 1.5, 1.2, iterations=4, normalization=normalization, filter=filter)
    logits, image = 3 * random(3, 9, 11), random(3, 9, 11, seed=1)
    layer = MeanField(3, crf, 4).double().eval()
    torch.testing.assert_close(layer(logits, image).softmax(0), crf(logits, image).exp(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_gradients(filter):
    layer = MeanField(3, DenseCRF(2.0, 3.0, 60.0, 1.5, 1.2, filter=filter), 3).double()
    image = random(3, 6, 6, seed=1)
    start = [p.detach() + 0.1 * random(3, 3, seed=i) for i, p in enumerate(layer.parameters())]

    def run(logits, *weights):
        return torch.func.functional_call(
            layer, dict(zip(dict(layer.named_parameters()), weights, strict=True)), (logits, image)
        )

    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in (random(3, 6, 6), *start)])


def test_images_of_a_batch_are_refined_without_their_padding():
    torch.manual_seed(0)
    model = build("crf-rnn", ["a", "b"], **TINY, filter="exact").eval()
    for parameter in model.scores.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    small, large = torch.rand(3, 32, 32), torch.rand(3, 48, 64)
    batch = Batch.of([large, small])
    together = model.predict(batch)[1].semantic_logits
    alone = model.crf(FCN.logits(model, batch)[1][:, :32, :32], small)
    torch.testing.assert_close(together, alone)


def test_iterations_of_training_and_of_prediction():
    layer = MeanField(2, DenseCRF(iterations=0, filter="exact"), 1)
    logits, image = torch.rand(2, 6, 7), torch.rand(3, 6, 7)
    assert torch.equal(layer.eval()(logits, image), logits)
    assert not torch.equal(layer.train()(logits, image), logits)


def test_the_weights_of_the_kernels_are_not_decayed():
    model = build("crf-rnn", ["a", "b"], **TINY)
    settings = OptimizerSettings(name="sgd", lr=0.1, weight_decay=0.1, decay_norm_and_bias=True)
    spared = [
        p
        for group in make_optimizer(model, settings).param_groups
        for p in group["params"]
        if not group["weight_decay"]
    ]
    assert {id(p) for p in spared} == {id(p) for p in model.crf.parameters()}


def test_learns_to_follow_colours():
    """The layers learn to follow colours where a third of the scores that they are given are wrong."""
    torch.manual_seed(0)
    layer = MeanField(2, DenseCRF(0.05, 12.0, 30.0, 0.05, 1.0, filter="exact"), 3)

    def example():
        labels = (torch.arange(20) >= int(torch.randint(5, 15, ()))).long().expand(16, 20)
        image = labels.float().expand(3, 16, 20) * 0.7 + 0.1 * torch.rand(3, 16, 20)
        noisy = torch.where(torch.rand(16, 20) < 0.35, 1 - labels, labels)
        return torch.nn.functional.one_hot(noisy, 2).permute(2, 0, 1).float(), image, labels

    def accuracy():
        torch.manual_seed(1)
        return sum(
            (layer(scores, image).argmax(0) == labels).float().mean().item() / 8
            for scores, image, labels in (example() for _ in range(8))
        )

    before = accuracy()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.2)
    for _ in range(30):
        scores, image, labels = example()
        loss = torch.nn.functional.cross_entropy(layer(scores, image)[None], labels[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before < 0.75
    assert accuracy() > 0.95
