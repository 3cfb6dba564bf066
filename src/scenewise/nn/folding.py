"""Folding batch-norm into the convolution before it: the same numbers with one pass over memory less."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from scenewise.nn.arrange import SplitInputConv2d


def fold_batchnorm(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Fold each batch-norm that sees nothing but one convolution's output into that convolution, in place.

    Which ones do is observed, not guessed: ``run`` is called and the tensors are followed. It is called once more to
    see that the result is the same.

    Args:
        model: in evaluation mode.
        run: runs the model on some input and gives a result that depends on all of it.

    Returns:
        The number of batch-norms that are gone.
    """
    pairs, before = _observe(model, run)
    places = {module: (parent, name) for parent in model.modules() for name, module in parent.named_children()}
    for norm, conv in pairs.items():
        with torch.no_grad():
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,  # type: ignore[arg-type]
                norm.running_var,  # type: ignore[arg-type]
                norm.eps,
                norm.weight,
                norm.bias,
            )
        parent, name = places[norm]
        setattr(parent, name, getattr(norm, "act", None) or nn.Identity())  # timm's BatchNormAct2d has its activation
    after = run()
    scale = before.abs().max().clamp(min=1e-6)
    if (after - before).abs().max() > 1e-3 * scale:
        warnings.warn("folding the batch-norms changed the result; please report this model", stacklevel=2)
    return len(pairs)


def _observe(model: nn.Module, run: Callable[[], Tensor]) -> tuple[dict[nn.BatchNorm2d, nn.Conv2d], Tensor]:
    """The batch-norms whose input was always the output of one and the same convolution; and ``run``'s result."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors, so that no id is used again
    feeds: dict[nn.BatchNorm2d, set[nn.Module | None]] = {}
    users: dict[nn.Module, set[nn.BatchNorm2d]] = {}

    def conv_done(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)  # type: ignore[assignment]

    def norm_called(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        conv, _ = made.get(id(inputs[0]), (None, None))
        feeds.setdefault(module, set()).add(conv)  # type: ignore[arg-type]
        if conv is not None:
            users.setdefault(conv, set()).add(module)  # type: ignore[arg-type]

    hooks: list[Any] = []
    for module in model.modules():
        if type(module) in (nn.Conv2d, SplitInputConv2d):
            hooks.append(module.register_forward_hook(conv_done))
        elif isinstance(module, nn.BatchNorm2d) and not module.training and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(norm_called))
    try:
        result = run()
    finally:
        for hook in hooks:
            hook.remove()
    pairs = {}
    for norm, convs in feeds.items():
        (conv, *others) = convs
        if not others and isinstance(conv, nn.Conv2d) and len(users[conv]) == 1:
            pairs[norm] = conv
    return pairs, result
