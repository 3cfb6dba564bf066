"""Atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scenewise.errors import UsageError
from scenewise.nn.layers import conv_bn_relu


class ImagePooling(nn.Sequential):
    """The mean over the whole map, through a 1x1 convolution, spread over the map again.

    Its batch-norm sees one value an image. With one image alone there is no variance to learn from, so training on
    batches of one image is refused, as in torchvision; evaluation, and batch-norm set to evaluation, take any number.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N,inputs,H,W] -> [N,outputs,H,W], the same value everywhere."""
        if isinstance(self[2], nn.BatchNorm2d) and self[2].training and len(x) == 1:
            raise UsageError(
                "the ASPP's image pooling can't be trained on a batch of one image: its batch-norm needs two or more. "
                "Raise the batch size, freeze batch-norm, or turn image_pooling off where the system has that option"
            )
        pooled: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # of torch's Sequential
        return pooled.expand(-1, -1, *x.shape[-2:])


class ASPP(nn.Module):
    """Parallel convolutions of one map at several rates, concatenated and projected.

    A 1x1 convolution, a 3x3 convolution for each of ``rates``, and with ``image_pooling`` the image's mean, all with
    batch-norm and ReLU; their concatenation goes through a 1x1 convolution and dropout.

    Source: Chen et al. 2017 (DeepLabV3), sec. 3.3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        image_pooling: bool = True,
        separable: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_bn_relu(inputs, outputs, 1)])
        self.convs.extend(conv_bn_relu(inputs, outputs, 3, dilation=rate, separable=separable) for rate in rates)
        if image_pooling:
            self.convs.append(ImagePooling(inputs, outputs))
        self.project = nn.Sequential(*conv_bn_relu(len(self.convs) * outputs, outputs, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """[N,inputs,H,W] -> [N,outputs,H,W]."""
        found: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], 1))
        return found
