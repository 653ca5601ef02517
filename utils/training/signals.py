"""Leaving a run in good order when it is told to: SIGTERM (Slurm, torchrun) and Ctrl-C."""

import signal
from types import FrameType, TracebackType

import torch

from utils.distributed import DistContext
from utils.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Remembers that a signal asked the run to end, until a step is complete.

    Use as a context manager, in the main thread. A second Ctrl-C ends the program at once.

    Args:
        dist: this process.
        every_steps: with several ranks, how often they ask each other; asking makes them wait.
    """

    def __init__(self, dist: DistContext, every_steps: int) -> None:
        self._dist = dist
        self._every_steps = every_steps if dist.world_size > 1 else 1
        self._signal = 0  # the number of the signal that came; 0: none

    def __enter__(self) -> "StopRequest":
        self._before = [signal.signal(number, self._receive) for number in _SIGNALS]
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def came(self, step: int) -> bool:
        """Whether any rank was asked to stop, the same answer on all. Call on all ranks."""
        if step % self._every_steps:
            return False
        asked = self._dist.sum(torch.tensor(int(self._signal > 0), device=self._dist.device))
        return bool(asked)

    def leave(self) -> None:
        """End the program: the run is saved. Call on all ranks.

        No rank leaves before the main one has saved: launchers kill the others when one is gone.

        Raises:
            Interrupted: always.
        """
        self._dist.barrier()
        raise Interrupted(self._signal or signal.SIGTERM)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
