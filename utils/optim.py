"""AdamW with the right parameters in the right group, and the learning rate as a function."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from configs.schema import OptimConfig


def build_optimizer(network: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over every trainable parameter, each in exactly one group.

    Matrices of linear and convolution layers decay; norms, biases and layer scales do not. (In
    the released code bare parameters such as layer scales are in no group, fault 20, and frozen
    ones are in one, fault 21.)
    """
    decaying = {
        id(module.weight)
        for module in network.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


def learning_rate(
    step: int, *, peak: float, num_steps: int, num_warmup_steps: int, power: float
) -> float:
    """Learning rate of a step: linear warm-up to ``peak``, then ``(1 - progress) ** power``.

    Both pieces meet at ``peak`` (the released code jumps there, fault 44).

    Args:
        step: 0 for the first optimiser step.
        peak: the highest rate, reached in step ``num_warmup_steps``.
        num_steps: steps of the whole run.
        num_warmup_steps: steps of the warm-up.
        power: exponent of the decay.
    """
    if step < num_warmup_steps:
        return peak * (step + 1) / (num_warmup_steps + 1)
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return peak * (1 - progress) ** power


def build_schedule(config: OptimConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of a recipe, as a function of the step."""
    return partial(
        learning_rate,
        peak=config.lr,
        num_steps=config.num_epochs * steps_per_epoch,
        num_warmup_steps=config.warmup_epochs * steps_per_epoch,
        power=config.poly_power,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use ``lr`` in the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
