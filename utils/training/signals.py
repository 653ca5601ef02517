"""Graceful shutdown on SIGTERM (Slurm, torchrun) and SIGINT (Ctrl-C)."""

import signal
from types import FrameType, TracebackType

import torch

from utils.distributed import DistContext
from utils.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Signal handler that defers SIGTERM and SIGINT until a step is complete.

    Use as a context manager, in the main thread. A second Ctrl-C ends the program at once.

    Args:
        dist: this process.
        every_steps: with several ranks, the interval at which they exchange requests, which makes
            them wait.
    """

    def __init__(self, dist: DistContext, every_steps: int) -> None:
        self._dist = dist
        self._every_steps = every_steps if dist.world_size > 1 else 1
        self._signal = 0  # number of the signal received; 0: none

    def __enter__(self) -> "StopRequest":
        self._before = [signal.signal(number, self._receive) for number in _SIGNALS]
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop_requested(self, step: int) -> bool:
        """Return True on all ranks if any rank received a signal. Call on all ranks."""
        if step % self._every_steps:
            return False
        received = torch.tensor(int(self._signal > 0), device=self._dist.device)
        return bool(self._dist.sum(received))

    def stop(self) -> None:
        """End the program after the run was saved. Call on all ranks.

        No rank ends before the main one has saved: launchers kill the others when one is gone.

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
