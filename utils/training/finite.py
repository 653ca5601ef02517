"""No run goes on, and none is saved, after a loss or a weight that is not a finite number."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from utils.distributed import DistContext
from utils.errors import DataError


class LossWatch:
    """Keeps the losses of the last steps on the device, and reads all of them back at once.

    Reading makes the device wait, so it is done now and then: whenever losses are reported, and
    before anything is saved. What is saved has therefore been looked at, up to its last step.

    Args:
        dist: this process.
    """

    def __init__(self, dist: DistContext) -> None:
        self._dist = dist
        self._unread: list[tuple[int, Tensor, tuple[str, ...]]] = []

    def note(self, step: int, loss: Tensor, tile_ids: tuple[str, ...]) -> None:
        """Remember a step's loss, and the tiles it was computed on, until the next look."""
        self._unread.append((step, loss.detach(), tile_ids))

    def check(self) -> None:
        """Read the losses since the last look. Call on all ranks.

        Raises:
            DataError: one is not finite; names the first such step and the tiles of the ranks
                that had it, the same on all ranks.
        """
        if not self._unread:
            return
        own = torch.stack([loss for _, loss, _ in self._unread])
        total, unread = self._dist.sum(own).tolist(), self._unread
        self._unread = []
        wrong = next((i for i, value in enumerate(total) if not math.isfinite(value)), None)
        if wrong is None:
            return
        step, loss, tile_ids = unread[wrong]
        found = self._dist.gather(() if math.isfinite(loss.item()) else tile_ids)
        names = ", ".join(name for part in found for name in part)
        raise DataError(
            f"the loss is not finite at step {step} (tiles: {names}), and nothing was saved since; "
            "lower optim.lr, set run.precision=fp32, or check these tiles"
        )


def check_weights_are_finite(weights: Mapping[str, Tensor], step: int, dist: DistContext) -> None:
    """Refuse weights with a value that is not finite. Call on all ranks.

    A finite loss can have a gradient that is not; the weights then show it a step before the loss.

    Raises:
        DataError: names the step and the first such weight, the same on all ranks.
    """
    are_finite = torch.stack([value.isfinite().all() for value in weights.values()])
    own = None
    if not are_finite.all():
        own = [name for name, is_finite in zip(weights, are_finite, strict=True) if not is_finite]
    found = [names for names in dist.gather(own) if names]
    if found:
        raise DataError(
            f"{len(found[0])} of {len(weights)} weights are not finite after step {step} (first: "
            f"{found[0][0]}), and they were not saved; lower optim.lr, or set run.precision=fp32"
        )
