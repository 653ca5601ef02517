"""Exponential moving average of the weights, which is what is evaluated if it is switched on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """``average <- d * average + (1 - d) * weights`` after every step.

    ``d = min(decay, (1 + step) / (10 + step))``: early on, the average follows quickly, so that the
    random start is forgotten. Buffers (the statistics of batch norm) are averaged like weights,
    counters are copied.

    Args:
        network: its ``state_dict`` decides what is averaged; frozen parts are not in it.
        decay: the limit of d, below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.average = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step number ``step`` (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Inside the block, ``network`` has the averaged weights; afterwards its own again."""
        own = {key: value.detach().clone() for key, value in network.state_dict().items()}
        _copy(self.average, network)
        try:
            yield
        finally:
            _copy(own, network)


@torch.no_grad()
def _copy(state: dict[str, Tensor], network: nn.Module) -> None:
    for key, value in network.state_dict().items():
        value.copy_(state[key])
