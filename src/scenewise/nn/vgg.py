"""VGG16 with its fully-connected layers as convolutions.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
https://arxiv.org/abs/1409.1556; as convolutions: Long et al., CVPR 2015, sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from scenewise.errors import CheckpointError

Padding = Literal["caffe", "same"]

PLAN = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # configuration D, a pool after each
HIDDEN = 4096
TORCHVISION_FILE = ("vgg16-397923af.pth", "397923af")


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map lie on the image: cell i is centred on pixel ``start + stride * i``, on either axis.

    Pixels are numbered by their centres, from 0. A cell that sees padding may lie at a negative pixel.
    """

    stride: int = 1
    start: float = 0.0

    def conv(self, kernel: int, stride: int = 1, padding: int = 0) -> Grid:
        """The grid after a convolution or pooling."""
        return Grid(self.stride * stride, self.start + self.stride * ((kernel - 1) / 2 - padding))

    def transposed(self, kernel: int, stride: int) -> Grid:
        """The grid after a transposed convolution without padding."""
        step = self.stride // stride
        return Grid(step, self.start - step * (kernel - 1) / 2)

    def cell(self, pixel: float) -> int:
        """The cell that is centred on ``pixel``."""
        cell = (pixel - self.start) / self.stride
        assert cell == int(cell), f"no cell of {self} is centred on pixel {pixel}"
        return int(cell)


class VGG16(nn.Module):
    """The maps of pool3, pool4 and fc7, at strides 8, 16 and 32.

    Poolings round up, so an image of any size has at least one cell.

    Args:
        weights: ``"imagenet"`` for torchvision's published ones, a file that holds the state of torchvision's or
            timm's ``vgg16``, or None for random ones.
        padding: ``"caffe"``: 100 zeros around the image and none at fc6, as released by Long et al., so that every
            pixel is seen by a whole fc6 window; ``"same"``: 1 around the image and 3 at fc6, which keeps sizes and
            costs less memory.
        dropout: after fc6 and fc7.
        width_factor: the number of channels as a share of the paper's; published weights need 1.

    ``channels``, ``strides`` and ``grids`` describe the maps that :meth:`forward` returns, in the same order.
    """

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        padding: Padding = "caffe",
        dropout: float = 0.5,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__()
        plan = [[_scaled(channels, width_factor) for channels in stage] for stage in PLAN]
        hidden = _scaled(HIDDEN, width_factor)
        self.strides = [8, 16, 32]
        self.channels = [plan[2][-1], plan[3][-1], hidden]
        self.grids: list[Grid] = []
        self.taps: list[int] = []  # the layers of `features` whose outputs are pool3, pool4 and pool5

        layers: list[nn.Module] = []
        inputs, grid = 3, Grid()
        for stage in plan:
            for outputs in stage:
                pad = 100 if padding == "caffe" and not layers else 1
                layers += [nn.Conv2d(inputs, outputs, 3, padding=pad), nn.ReLU(inplace=True)]
                inputs, grid = outputs, grid.conv(3, padding=pad)
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            grid = grid.conv(2, 2)
            if grid.stride >= 8:
                self.taps.append(len(layers) - 1)
                self.grids.append(grid)
        pad = 0 if padding == "caffe" else 3
        self.grids[-1] = grid.conv(7, padding=pad)

        self.features = nn.Sequential(*layers)  # numbered as in torchvision
        self.fc6 = nn.Conv2d(inputs, hidden, 7, padding=pad)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al.'s; from smaller random weights the deep layers do not start to learn
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if weights is not None:
            self.load_weights(weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """pool3, pool4 and fc7 of ``images`` [N,3,H,W]."""
        maps = []
        x = images
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        x = self.dropout(self.fc6(x).relu_())
        maps[-1] = self.dropout(self.fc7(x).relu_())
        return maps

    def load_weights(self, weights: str | Path) -> None:
        """Fill the network with ImageNet weights (``"imagenet"``) or those of a file; see the class.

        Raises:
            DownloadError: torchvision's file could not be fetched.
            CheckpointError: a tensor is missing or has another number of elements; names it.
        """
        self.load_classifier(*vgg_state(weights))

    def load_classifier(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take the weights of the classifier whose state is ``state``: torchvision's ``vgg16`` or timm's.

        The matrix of a fully-connected layer over a [C,7,7] map becomes a 7x7 convolution's kernel: both number the
        inputs by channel, row, column. The last layer, which scores ImageNet's classes, is left out.
        """
        timm = "pre_logits.fc1.weight" in state
        fc6, fc7 = ("pre_logits.fc1", "pre_logits.fc2") if timm else ("classifier.0", "classifier.3")
        converted = {}
        for key, value in self.state_dict().items():
            name = key.replace("fc6", fc6).replace("fc7", fc7)
            if name not in state:
                raise CheckpointError(f"{source}: lacks {name!r}; expected torchvision's or timm's vgg16")
            if state[name].numel() != value.numel():
                raise CheckpointError(
                    f"{source}: {name} has shape {list(state[name].shape)}; VGG16 needs {value.numel():,} elements "
                    f"for {list(value.shape)}"
                )
            converted[key] = state[name].reshape(value.shape)
        self.load_state_dict(converted)


def vgg_state(weights: str | Path) -> tuple[Mapping[str, Tensor], str]:
    """The tensors of a VGG16 classifier, torchvision's published one (``"imagenet"``) or of a file, and their path.

    Raises:
        DownloadError: torchvision's file could not be fetched.
    """
    from scenewise.files.tensors import read_tensors

    if weights == "imagenet":
        from scenewise.files.download import download

        path = download(*TORCHVISION_FILE, instead="give the file of a VGG16 as backbone_weights, or none")
    else:
        path = Path(weights)
    return read_tensors(path), str(path)


def _scaled(channels: int, factor: float) -> int:
    return max(1, round(channels * factor))
