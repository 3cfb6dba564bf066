"""Models as this machine runs them fastest: the same numbers, whichever the machine."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from scenewise.engine.predict import prepare
from scenewise.nn import arrange
from scenewise.nn.arrange import SplitGradientConv2d, SplitInputConv2d, arrange_for_prediction, arrange_for_training
from scenewise.nn.machine import this_cpu
from scenewise.systems.segmentation.fcn import FCNResNet
from scenewise.types import Batch


@pytest.fixture(params=["none", "wide", "all"])
def split(request, monkeypatch):
    """Each machine's choice in turn."""
    monkeypatch.setattr(arrange, "split_gradients", lambda: request.param)
    return request.param


def is_split(layer: nn.Module) -> bool:
    return isinstance(layer, SplitGradientConv2d)


def convolution(**options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(16, 5, 3, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"bias": False}],
    ids=["valid", "strided", "dilated", "no bias"],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_torchs_convolution(options, memory_format, split):
    plain = convolution(**options)
    arranged = arrange_for_training(copy.deepcopy(plain))
    assert is_split(arranged) is (split == "all" or (split == "wide" and "dilation" in options))
    images = torch.randn(2, 16, 9, 11).contiguous(memory_format=memory_format)
    for layer in (plain, arranged):
        x = images.clone().requires_grad_()
        y = layer(x)
        (y**2).sum().backward()
        layer.seen = [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
    for found, expected in zip(arranged.seen, plain.seen, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)  # sums of some hundred terms of size 1 to 10


@pytest.mark.parametrize("frozen", ["weight", "bias", "input"])
def test_only_the_gradients_that_are_asked_for_are_there(frozen, monkeypatch):
    monkeypatch.setattr(arrange, "split_gradients", lambda: "all")
    layer = arrange_for_training(convolution())
    x = torch.randn(1, 16, 5, 5, requires_grad=frozen != "input")
    if frozen != "input":
        getattr(layer, frozen).requires_grad_(False)
    layer(x).sum().backward()
    for name, value in (("weight", layer.weight), ("bias", layer.bias), ("input", x)):
        assert (value.grad is None) is (name == frozen)


def test_second_gradients_are_there_too(monkeypatch):
    """Gradient penalties need them."""
    monkeypatch.setattr(arrange, "split_gradients", lambda: "all")
    layer = arrange_for_training(convolution()).double()
    weight = layer.weight

    def run(x, w, b):
        return arrange._SplitGradient.apply(x, w, b, (1, 1), (1, 1), (1, 1))

    x = torch.randn(1, 16, 3, 3, dtype=torch.float64, requires_grad=True)
    small = weight.detach()[:2].clone().requires_grad_()
    bias = layer.bias.detach()[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, small, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, small, bias), fast_mode=True)


def test_layers_that_gain_nothing_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(arrange, "split_gradients", lambda: "all")
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 7), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 3)
    )
    arrange_for_training(layers)
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 3 + [SplitGradientConv2d]
    arrange_for_prediction(layers)
    assert {type(layer) for layer in layers} == {nn.Conv2d}


def test_a_training_step_and_the_prediction_after_it_are_the_same(split):
    torch.manual_seed(0)
    model = FCNResNet(("a", "b"), backbone="resnet18", dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 40, generator=generator)
    batch = Batch(images, [(32, 40)] * 2, [{"semantic": torch.randint(0, 2, (32, 40), generator=generator)}] * 2)
    reference = copy.deepcopy(model)
    arrange_for_training(model)
    dilated = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
    assert dilated
    assert all(map(is_split, dilated)) is (split != "none")
    assert is_split(model.backbone.network.layer1[0].conv1) is (split == "all")
    assert list(model.state_dict()) == list(reference.state_dict())
    for one in (model, reference):
        torch.stack(list(one.losses(batch).values())).sum().backward()
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        scale = expected.grad.abs().max().clamp(min=1e-3)
        assert (found.grad - expected.grad).abs().max() <= 1e-4 * scale, name  # batch-norm over few pixels
    ready = prepare(model)
    assert not any(map(is_split, ready.modules()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())  # folded all the same
    with torch.no_grad():
        expected = reference.eval().predict(batch)[0].semantic_logits
        found = ready.predict(batch)[0].semantic_logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_mixed_precision_runs_torchs_own(monkeypatch):
    monkeypatch.setattr(arrange, "split_gradients", lambda: "all")
    layer = arrange_for_training(convolution())
    x = torch.randn(1, 16, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert "SplitGradient" not in type(y.grad_fn).__name__
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
def test_wide_dilated_convolutions_are_summed_over_parts_of_their_input(monkeypatch, bias):
    """With AMX and in bfloat16: as near to the exact sums as torch's own, and in float32 the same bits."""
    torch.manual_seed(0)
    amx = dataclasses.replace(this_cpu(), features=("avx512f", "amx_bf16"), limit=None, x86=True)
    plain = nn.Conv2d(1100, 8, 3, padding=12, dilation=12, bias=bias).eval()
    images = torch.randn(1, 1100, 20, 24)
    for cpu in (amx, dataclasses.replace(amx, features=("avx512f",))):
        monkeypatch.setattr(arrange, "this_cpu", lambda cpu=cpu: cpu)
        arranged = arrange_for_prediction(copy.deepcopy(plain))
        assert isinstance(arranged, SplitInputConv2d) is cpu.amx
        with torch.inference_mode():
            wanted = plain(images)
            torch.testing.assert_close(arranged(images), wanted)
            halved = copy.deepcopy(arranged).bfloat16()(images.bfloat16())
            theirs = copy.deepcopy(plain).bfloat16()(images.bfloat16())
        assert halved.dtype == torch.bfloat16
        error, usual = ((found.float() - wanted).abs().mean() for found in (halved, theirs))
        assert error < 1.2 * usual < 0.1


def test_narrow_and_dense_convolutions_stay(monkeypatch):
    amx = dataclasses.replace(this_cpu(), features=("avx512f", "amx_bf16"), limit=None, x86=True)
    monkeypatch.setattr(arrange, "this_cpu", lambda: amx)
    for layer in (
        nn.Conv2d(512, 8, 3, padding=12, dilation=12),
        nn.Conv2d(1024, 8, 3, padding=2, dilation=2),
        nn.Conv2d(1024, 8, 1),
        nn.Conv2d(1024, 1024, 3, padding=12, dilation=12, groups=1024),
    ):
        assert type(arrange_for_prediction(layer)) is nn.Conv2d
