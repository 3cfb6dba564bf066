"""Models in the order of memory, and with the kernels, that are fastest on this machine."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scenewise.nn.layers import GridLinear
from scenewise.nn.machine import Split, split_gradients, this_cpu

Module = TypeVar("Module", bound=nn.Module)


def arrange_for_training(model: Module) -> Module:
    """``model`` itself, its weights in channels-last order, its convolutions as they train fastest.

    On some CPUs its convolutions become :class:`SplitGradientConv2d`; :func:`arrange_for_prediction` undoes that.
    """
    split = split_gradients()
    if split != "none":
        for module in model.modules():
            if type(module) is nn.Conv2d and _gains(module, split):
                module.__class__ = SplitGradientConv2d  # same attributes, other arithmetic
    return model.to(memory_format=torch.channels_last)


def arrange_for_prediction(model: Module) -> Module:
    """``model`` itself, its weights in channels-last order, its convolutions as they predict fastest.

    It is for prediction alone: its state no longer fits other models.
    """
    amx = this_cpu().amx
    for module in model.modules():
        if type(module) is SplitGradientConv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
        if amx and type(module) is nn.Conv2d and _is_wide_and_dilated(module):
            module.__class__ = SplitInputConv2d  # same attributes, other arithmetic
        elif isinstance(module, GridLinear):
            module.put_channels_last()
    return model.to(memory_format=torch.channels_last)


def _gains(conv: nn.Conv2d, split: Split) -> bool:
    """Whether the slow gradient is one of ``conv``'s: it sees several pixels, and neither few channels nor groups."""
    wide = conv.dilation != (1, 1) or conv.in_channels >= 1024
    return (
        conv.groups == 1
        and max(conv.kernel_size) > 1
        and conv.in_channels >= 16
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and (wide or split == "all")
    )


def _is_wide_and_dilated(conv: nn.Conv2d) -> bool:
    """Whether oneDNN is slow at ``conv`` in bfloat16 with AMX: measured at 2,048 channels and dilations 4 to 36, four
    to nine times; not at 512 channels or fewer."""
    several = max(conv.kernel_size) > 1 and max(conv.dilation) >= 4
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return several and plain and conv.in_channels >= 1024


class SplitInputConv2d(nn.Conv2d):
    """A convolution that in bfloat16 on the CPU is the sum of several, each of some of the input's channels.

    Sums between them are in float32. In other precisions, and off the CPU, it is ``nn.Conv2d``.
    """

    CHANNELS = 256

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.bfloat16 or torch.is_grad_enabled():
            whole: Tensor = super()._conv_forward(input, weight, bias)
            return whole
        found: Tensor | None = None
        for x, w in zip(input.split(self.CHANNELS, 1), weight.split(self.CHANNELS, 1), strict=True):
            x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
            part = nn.functional.conv2d(x, w, None, self.stride, self.padding, self.dilation).float()
            found = part if found is None else found.add_(part)
        assert found is not None
        return (found if bias is None else found.add_(bias.float()[:, None, None])).to(input.dtype)


class SplitGradientConv2d(nn.Conv2d):
    """A convolution in channels-last order whose weights' gradient is computed in contiguous order.

    The numbers are those of ``nn.Conv2d``, up to the order of sums. In bfloat16, without gradients and off the CPU it
    is one altogether.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = (
            not torch.is_grad_enabled()
            or not weight.requires_grad
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        )
        output: Tensor
        if plain:
            output = super()._conv_forward(input, weight, bias)
        else:
            output = _SplitGradient.apply(input, weight, bias, self.stride, self.padding, self.dilation)
        return output


class _SplitGradient(torch.autograd.Function):
    """A convolution of one group; see :class:`SplitGradientConv2d`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = (stride, padding, dilation, False, (0, 0), 1)  # not transposed, no output padding, one group
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        found: list[Tensor | None] = [None] * 3
        backward = torch.ops.aten.convolution_backward
        if of_x:
            found[0] = backward(gradient, x, weight, None, *ctx.options, (True, False, False))[0]
        if of_weight or of_bias:
            gradient, x, weight = gradient.contiguous(), x.contiguous(), weight.contiguous()
            channels = (weight.shape[0],)
            found[1:] = backward(gradient, x, weight, channels, *ctx.options, (False, of_weight, of_bias))[1:]
        return *found, None, None, None
