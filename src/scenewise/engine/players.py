"""Players: who trains which parameters, with which optimizer, and how a step is taken.

Most systems have one player, which trains all of it. A system that names several (``Model.players``), such as a
generator and a discriminator, keys its losses as ``player/term``. Each player minimises the sum of its own terms over
its own parameters, with an optimizer, a gradient scaler and a moving average of its own; its backward pass leaves
nothing in the gradients of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scenewise.errors import TrainingError, UsageError
from scenewise.model import Model
from scenewise.recipe import OptimizerSettings, Recipe

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
ALONE = ""  # the name of a system's only player


class Player:
    """One player of a training run.

    Args:
        name: as in the keys of losses; ``ALONE`` for the only one.
        parameters: those that it trains.
        optimizer: of these parameters.
        settings: how they follow gradients.
        ema: the decay of their moving average, where it is another than the rest's.
        scaled: whether gradients are scaled for float16 by a scaler of its own.
    """

    def __init__(
        self,
        name: str,
        parameters: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        settings: OptimizerSettings,
        *,
        ema: float | None = None,
        scaled: bool = False,
    ) -> None:
        self.name, self.parameters, self.optimizer, self.settings = name, parameters, optimizer, settings
        self.ema = ema
        device = parameters[0].device.type
        self.scaler = torch.amp.GradScaler(device) if scaled else None
        self.skipped = 0  # steps in a row whose gradients overflowed

    def own(self, terms: Mapping[str, Tensor]) -> list[Tensor]:
        """The terms that this player minimises."""
        return [value for name, value in terms.items() if self.name == ALONE or name.split("/")[0] == self.name]

    def set_rate(self, factor: float) -> None:
        """The learning rate of each parameter group, ``factor`` times its own."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def overflowed(self, norm: Tensor, most: int, step: int) -> bool:
        """Whether the gradients' ``norm`` is not finite; then they are dropped and the step is not taken.

        Raises:
            TrainingError: it is the ``most``-th step in a row.
        """
        if bool(torch.isfinite(norm)):
            self.skipped = 0
            return False
        self.skipped += 1
        if self.skipped >= most:
            whose = f" of player {self.name!r}" if self.name else ""
            raise TrainingError(
                f"step {step}: the gradients{whose} of {self.skipped} steps in a row overflowed; "
                "lower optimizer.lr, give trainer.clip_norm, or train with trainer.precision 32"
            )
        self.optimizer.zero_grad()
        return True

    def state(self) -> dict[str, Any]:
        """What is not in the optimizer: JSON values."""
        return {"scaler": None if self.scaler is None else self.scaler.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])


def make_players(model: Model, recipe: Recipe, *, scaled: bool = False) -> list[Player]:
    """The players of ``model`` with their optimizers, as ``recipe`` has them.

    Raises:
        UsageError: a parameter is in no player or in two, a player has none, or the recipe has settings for a player
        that
            there is not.
    """
    parties = parties_of(model)
    for name in recipe.optimizer.players:
        if name not in parties:
            known = ", ".join(party for party in parties if party) or "the system has only one"
            raise UsageError(f"optimizer.players has {name!r}, and there is no such player; players: {known}")
    players = []
    for name, members in parties.items():
        settings = recipe.optimizer.of_player(name)
        optimizer = make_optimizer(model, settings, members)
        chosen = [p for p in members if p.requires_grad]
        own = recipe.optimizer.players.get(name)
        ema = None if own is None else own.ema
        players.append(Player(name, chosen, optimizer, settings, ema=ema, scaled=scaled and name != ALONE))
    return players


def parties_of(model: Model) -> dict[str, list[nn.Parameter]]:
    """The parameters of each player of ``model``, by its name.

    Raises:
        UsageError: a parameter is in no player or in two, or a player has none.
    """
    found = {name: list(parameters) for name, parameters in model.players().items()}
    if not found:
        return {ALONE: list(model.parameters())}
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    owner: dict[int, str] = {}
    for player, parameters in found.items():
        if not parameters or "/" in player or not player:
            raise UsageError(
                f"players: {player!r} has {len(parameters)} parameters; expected a name without / and some"
            )
        for parameter in parameters:
            if id(parameter) not in named:
                raise UsageError(f"players: {player!r} has a parameter that is none of the model's")
            if id(parameter) in owner:
                raise UsageError(
                    f"players: {named[id(parameter)]} belongs to {owner[id(parameter)]!r} and {player!r}; expected one"
                )
            owner[id(parameter)] = player
    left = [name for key, name in named.items() if key not in owner]
    if left:
        raise UsageError(f"players: {left[0]} belongs to no player; players: {', '.join(found)}")
    return found


def check_terms(players: Iterable[Player], terms: Mapping[str, Tensor]) -> None:
    """Raise a :class:`UsageError` unless each of ``terms`` is some player's and each player has one."""
    names = [player.name for player in players]
    if names == [ALONE]:
        return
    for term in terms:
        if "/" not in term or term.split("/")[0] not in names:
            known = ", ".join(names)
            raise UsageError(f"losses: {term!r} is not a player's term; expected PLAYER/TERM, players: {known}")
    for name in names:
        if not any(term.startswith(f"{name}/") for term in terms):
            raise UsageError(f"losses: player {name!r} has no term; found {', '.join(terms)}")


def make_optimizer(
    model: Model, settings: OptimizerSettings, members: Iterable[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """The optimizer, with a parameter group for each pair of learning rate and weight decay.

    Args:
        model: whose parameters are trained.
        settings: how they follow gradients.
        members: the parameters of one player; None for all.
    """
    chosen = None if members is None else {id(parameter) for parameter in members}
    plain = {
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        for key, p in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or key == "bias"
    }
    undecayed = tuple(f"{name}." for name, module in model.named_modules() if not getattr(module, "decays", True))
    used: set[str] = set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or (chosen is not None and id(parameter) not in chosen):
            continue
        prefix = max((g for g in settings.groups if name.startswith(g)), key=len, default=None)
        lr = settings.lr
        if prefix is not None:
            used.add(prefix)
            lr *= settings.groups[prefix]
        spared = name.startswith(undecayed) or (name in plain and not settings.decay_norm_and_bias)
        decay = 0.0 if spared else settings.weight_decay
        groups.setdefault((lr, decay), []).append(parameter)
    unused = sorted(set(settings.groups) - used)
    if unused:
        raise UsageError(f"optimizer.groups has {unused[0]!r}, and no trained parameter's name begins with it")
    if not groups:
        raise UsageError("trainer.freeze leaves no parameter to train")
    listed = [{"params": p, "lr": lr, "base_lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    if settings.name == "sgd":
        return torch.optim.SGD(listed, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(
            listed, lr=settings.lr, momentum=settings.momentum, alpha=settings.alpha, eps=settings.eps
        )
    cls = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return cls(listed, lr=settings.lr, betas=settings.betas, eps=settings.eps)


# ---- what is not trained


def freeze(model: Model, prefixes: tuple[str, ...], norm: str) -> None:
    """Mark what is not trained: parameters without gradients, batch-norms in ``frozen_norms``."""
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            parts = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
            raise UsageError(
                f"trainer.freeze has {prefix!r}, and no parameter's name begins with it; parts: {', '.join(parts)}"
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


# ---- moving averages


class Average:
    """The exponential moving average of a model's weights and buffers.

    The decay at step t (from 1) is min(decay, (1 + t) / (10 + t)), so that early averages follow quickly.

    Args:
        model: whose average it is.
        decay: of all weights.
        decays: other ones for the weights of some parameters, by name; 0 keeps the present weight.
    """

    def __init__(self, model: Model, decay: float, decays: Mapping[str, float] | None = None) -> None:
        self.module, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay
        self.decays = dict(decays or {})

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move the average towards ``model``'s present weights."""
        for (name, mine), theirs in zip(self.module.state_dict().items(), model.state_dict().values(), strict=True):
            decay = min(self.decays.get(name, self.decay), (1 + step) / (10 + step))
            if mine.is_floating_point():
                mine.lerp_(theirs.to(mine.dtype), 1 - decay)
            else:
                mine.copy_(theirs)


def decays_of(model: Model, players: Iterable[Player]) -> dict[str, float]:
    """The decays of the averages of players that have their own, by the parameters' names."""
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    return {named[id(p)]: player.ema for player in players if player.ema is not None for p in player.parameters}
