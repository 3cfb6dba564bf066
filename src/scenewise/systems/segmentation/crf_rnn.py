"""CRF-RNN: mean field of a fully connected CRF as the last layers of a network, all trained together.

Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, https://arxiv.org/abs/1502.03240.
In order of the paper: an iteration of mean field as a stack of layers (sec. 4.1: message passing, weighting of the
filters' outputs, compatibility transform, adding the unaries, normalisation), the recurrence (sec. 4.2), the network in
front, FCN-8s (sec. 5). As in the release, the weights of both kernels and the compatibility are matrices over the
classes; the former start diagonal and the latter as Potts.

Where we differ: the loss is a mean over pixels; see ``fcn.py`` for the network in front.

Shapes: N images of H x W pixels, C classes; the P = H W pixels of one image in rows.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scenewise.nn.semantic import CROSS_ENTROPY, LossTerms
from scenewise.nn.vgg import Padding
from scenewise.ops.crf import DenseCRF, Normalization, normalized, pixels
from scenewise.systems.segmentation.fcn import FCN, UpsamplingName
from scenewise.types import Batch, Dropout, InputSpec, Weight

Sigma = Annotated[float, Field(gt=0, lt=1e6)]
Iterations = Annotated[int, Field(ge=0, le=1000)]


class CRFRNN(FCN):
    """FCN, and mean field on its scores.

    Args:
        classes: names of the classes, in label order.
        backbone: ``"vgg16"`` with its fully-connected layers as convolutions, or a timm feature extractor.
        backbone_weights: ``"imagenet"``, a local file, or None for random weights.
        stride: that of the finest map that the FCN scores.
        padding: of VGG16: ``"caffe"`` or ``"same"``; see the system ``fcn``.
        upsampling: the FCN's enlargements by 2: ``"bilinear"``, ``"learned"`` or ``"dense"``.
        at_once: the scaling that lets all of the FCN's strides be trained in one go.
        dropout: after fc6 and fc7; for other backbones, before the stride-32 map is scored.
        width_factor: VGG16's number of channels as a share of the paper's.
        appearance_weight: of the kernel of position and colour, at the start.
        position_sigma: its standard deviation of position, in pixels; fixed.
        color_sigma: its standard deviation of colour, of 255; fixed.
        smoothness_weight: of the kernel of position alone, at the start.
        smoothness_sigma: its standard deviation, in pixels; fixed.
        training_iterations: of mean field in training.
        iterations: of mean field in prediction.
        normalization: how a kernel filters: ``"after"`` divides its sums by those of ones; see ``DenseCRF``.
        filter: of the appearance kernel: ``"lattice"``, or ``"exact"`` for up to 16,384 pixels.
        passes: of the lattice; more are slower and nearer to the exact filter.
        loss: the weight of each loss by its name, or a mapping of its ``weight`` and its own parameters.
        class_weights: the weight of each class in the cross-entropy.
        input: how images are resized and normalised; by default as the backbone's weights want it.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        backbone: str = "vgg16",
        backbone_weights: str | None = None,
        stride: Literal[8, 16, 32] = 8,
        padding: Padding | None = None,
        upsampling: UpsamplingName = "bilinear",
        at_once: bool = False,
        dropout: Dropout = 0.5,
        width_factor: Annotated[float, Field(gt=0, le=4)] = 1.0,
        appearance_weight: Weight = 5.0,
        position_sigma: Sigma = 160.0,
        color_sigma: Sigma = 3.0,
        smoothness_weight: Weight = 3.0,
        smoothness_sigma: Sigma = 3.0,
        training_iterations: Iterations = 5,
        iterations: Iterations = 10,
        normalization: Normalization = "after",
        filter: Literal["lattice", "exact"] = "lattice",
        passes: Annotated[int, Field(ge=1, le=8)] = 1,
        loss: LossTerms = CROSS_ENTROPY,
        class_weights: tuple[Weight, ...] | None = None,
        input: InputSpec | None = None,
    ) -> None:
        super().__init__(
            classes,
            backbone=backbone,
            backbone_weights=backbone_weights,
            stride=stride,
            padding=padding,
            upsampling=upsampling,
            at_once=at_once,
            dropout=dropout,
            width_factor=width_factor,
            loss=loss,
            class_weights=class_weights,
            input=input,
        )
        kernels = DenseCRF(
            appearance_weight,
            position_sigma,
            color_sigma,
            smoothness_weight,
            smoothness_sigma,
            iterations=iterations,
            normalization=normalization,
            filter=filter,
            passes=passes,
        )
        self.crf = MeanField(len(self.classes), kernels, training_iterations)

    def logits(self, batch: Batch) -> Tensor:
        """[N,C,H,W] at the resolution of the batch's images; 0 beyond an image's own size."""
        scores = super().logits(batch)
        height, width = scores.shape[-2:]
        refined = [
            F.pad(self.crf(row[:, :h, :w], image[:, :h, :w]), (0, width - w, 0, height - h))
            for row, image, (h, w) in zip(scores, batch.images, batch.sizes, strict=True)
        ]
        return torch.stack(refined)


class MeanField(nn.Module):
    """Iterations of mean field whose weights are learned.

    With its first weights it equals :class:`~scenewise.ops.crf.DenseCRF`, but for the bound on probabilities there.

    Args:
        classes: how many.
        crf: the kernels, the weights to start from, and the iterations in evaluation mode.
        training_iterations: those in training mode.
    """

    decays = False  # weight decay would draw the kernels' weights to 0

    def __init__(self, classes: int, crf: DenseCRF, training_iterations: int) -> None:
        super().__init__()
        self.kernels, self.training_iterations = crf, training_iterations
        self.appearance = nn.Parameter(crf.appearance_weight * torch.eye(classes))
        self.smoothness = nn.Parameter(crf.smoothness_weight * torch.eye(classes))
        self.compatibility = nn.Parameter(-torch.eye(classes))  # Potts, but for what is the same for all classes

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """The scores [C,H,W] of one image after the last iteration, before the softmax.

        Args:
            logits: float [C,H,W], the unaries' negatives.
            image: float 0..1 [D,H,W].
        """
        wide = torch.promote_types(logits.dtype, torch.float32)  # half precision is too coarse for sums over pixels
        unary = pixels(logits.to(wide))
        filters = [
            normalized(kernel, len(unary), unary.detach(), self.kernels.normalization)
            for kernel in self.kernels.kernels(image.detach().to(wide))
        ]
        weights = [weight.to(wide) for weight in (self.appearance, self.smoothness)]
        scores = unary
        for _ in range(self.training_iterations if self.training else self.kernels.iterations):
            beliefs = scores.softmax(1)
            messages = [kernel(beliefs) @ weight.T for kernel, weight in zip(filters, weights, strict=True)]
            scores = unary - (messages[0] + messages[1]) @ self.compatibility.to(wide).T
        return scores.T.reshape(logits.shape).to(logits.dtype)
