"""What a training run is made of: the data, the model, what of it is frozen, the optimizer."""

from __future__ import annotations

import torch
from torch import nn

from scenewise.catalog import build, interface_of, options
from scenewise.data import DataSet, open_data
from scenewise.data.inputs import with_inputs
from scenewise.data.loader import mix_seed
from scenewise.engine.evaluate import truth_for
from scenewise.errors import UsageError
from scenewise.model import Model
from scenewise.recipe import Recipe

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


def open_training_data(recipe: Recipe) -> DataSet:
    """The training split that the recipe names, with the fields that its system needs."""
    data, needs = recipe.data, interface_of(recipe.system, recipe.arguments).needs
    opened = open_data(
        data.train,
        data.train_split,
        needs=needs,
        on_bad_record=data.on_bad_record,
        allow_unlabelled=data.allow_unlabelled,
    )
    return with_inputs(opened, data.inputs)


def open_validation_data(recipe: Recipe) -> DataSet | None:
    """The validation split, with what predictions and losses are held against; None where the recipe has none."""
    data, interface = recipe.data, interface_of(recipe.system, recipe.arguments)
    if data.val_split is None:
        return None
    needs = truth_for(interface.needs, interface.fills)
    source = data.val or data.train
    opened = open_data(
        source,
        data.val_split,
        needs=needs,
        on_bad_record=data.on_bad_record,
        allow_unlabelled=data.allow_unlabelled,
    )
    return with_inputs(opened.only(needs), data.val_inputs)


def build_model(recipe: Recipe, data: DataSet, validation: DataSet | None) -> Model:
    """The recipe's model for the classes of ``data``, its weights a function of the seed."""
    if validation is not None and validation.classes != data.classes:
        raise UsageError(f"the classes of {data.source} and {validation.source} differ")
    arguments = recipe.arguments
    if recipe.data.class_weights is not None:
        if "class_weights" not in options(recipe.system):
            raise UsageError(f"data.class_weights is given, but {recipe.system} takes no class_weights")
        from scenewise.losses.class_weights import count_classes

        arguments["class_weights"] = count_classes(data).weights(recipe.data.class_weights)
    torch.manual_seed(mix_seed(recipe.trainer.seed))
    model = build(recipe.system, data.classes, **arguments)
    lacking = model.needs - data.fields
    if lacking:
        raise UsageError(
            f"{recipe.system} needs {', '.join(sorted(lacking))}, which {data.source} does not have "
            f"(it has {', '.join(sorted(data.fields))})"
        )
    model.skeleton = data.skeleton if "keypoints" in model.fills else None
    return model


def freeze(model: Model, prefixes: tuple[str, ...], norm: str) -> None:
    """Mark what is not trained: parameters without gradients, batch-norms in ``frozen_norms``."""
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            parts = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
            raise UsageError(
                f"trainer.freeze has {prefix!r}, and no parameter's name begins so; parts: {', '.join(parts)}"
            )
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes or ("\0",)):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.frozen = norm != "none" or name.startswith(prefixes or ("\0",))  # type: ignore[assignment]
            if norm == "all":
                for parameter in module.parameters():
                    parameter.requires_grad_(False)


def hold_frozen(model: Model) -> None:
    """Put the frozen batch-norms into evaluation mode, after ``model.train()``."""
    for module in model.modules():
        if getattr(module, "frozen", False):
            module.eval()


def make_optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer, with a parameter group for each pair of learning rate and weight decay."""
    settings = recipe.optimizer
    plain = {
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        for key, p in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or key == "bias"
    }
    used: set[str] = set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = max((g for g in settings.groups if name.startswith(g)), key=len, default=None)
        lr = settings.lr
        if prefix is not None:
            used.add(prefix)
            lr *= settings.groups[prefix]
        decay = 0.0 if name in plain and not settings.decay_norm_and_bias else settings.weight_decay
        groups.setdefault((lr, decay), []).append(parameter)
    unused = sorted(set(settings.groups) - used)
    if unused:
        raise UsageError(f"optimizer.groups has {unused[0]!r}, and no trained parameter's name begins so")
    if not groups:
        raise UsageError("trainer.freeze leaves no parameter to train")
    listed = [{"params": p, "lr": lr, "base_lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    if settings.name == "sgd":
        return torch.optim.SGD(listed, lr=settings.lr, momentum=settings.momentum)
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(listed, lr=settings.lr, momentum=settings.momentum)
    cls = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return cls(listed, lr=settings.lr, betas=settings.betas)
