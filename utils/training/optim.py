"""Optimiser with parameter groups, and the learning rate as a function of the step."""

import math
from typing import Any

import torch
from torch import nn

from configs.schema import OptimConfig
from utils.errors import ConfigError


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe over every trainable parameter, each in exactly one group.

    Weight decay applies to the matrices of linear and convolution layers, not to norms, biases and
    layer scales. (In the released code bare parameters such as layer scales are in no group, fault
    20, and frozen ones are in one, fault 21.) Groups have a factor of the learning rate,
    ``lr_factor``.

    Raises:
        ConfigError: a key of ``lr_factors`` is not a prefix of any trainable parameter's name.
    """
    decaying = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    factors = _factors(list(trainable), config.lr_factors)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in trainable.items():
        decays = id(parameter) in decaying
        options = {"weight_decay": config.weight_decay * decays, "lr_factor": factors[name]}
        group = groups.setdefault((not decays, factors[name]), {"params": [], **options})
        group["params"].append(parameter)
    in_order = [groups[key] for key in sorted(groups)]
    # fused: one kernel for all parameters instead of a dozen for each.
    if config.optimizer == "sgd":
        return torch.optim.SGD(in_order, lr=config.lr, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(in_order, lr=config.lr, fused=True)


def _factors(names: list[str], factors: dict[str, float]) -> dict[str, float]:
    """Return the factor of each parameter: that of its longest prefix among the keys, else 1."""
    for key in factors:
        if not any(f"{name}.".startswith(f"{key}.") for name in names):
            parts = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ConfigError(
                f"optim.lr_factors names '{key}', which begins no trainable parameter's name; "
                f"names begin with {', '.join(parts)}"
            )
    by_length = sorted(factors, key=len, reverse=True)
    return {
        name: next((factors[key] for key in by_length if f"{name}.".startswith(f"{key}.")), 1.0)
        for name in names
    }


def learning_rate(step: int, config: OptimConfig, steps_per_epoch: int) -> float:
    """Return the learning rate of a step (from 0): linear warm-up to ``lr``, then decay to 0.

    The schedule is continuous at the peak, the first step after the warm-up (the released code
    jumps there, fault 44). With ``progress`` from 0 there to 1 at the end of the run, ``poly`` is
    ``(1 - progress) ** poly_power``, and ``cosine`` half a cosine wave.
    """
    num_warmup_steps = config.warmup_epochs * steps_per_epoch
    if step < num_warmup_steps:
        return config.lr * (step + 1) / (num_warmup_steps + 1)
    num_steps = config.num_epochs * steps_per_epoch
    progress = (step - num_warmup_steps) / (num_steps - num_warmup_steps)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (1 - progress) ** config.poly_power


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step, times the factor of each group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
