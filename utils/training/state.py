"""Everything that changes while training, in one object, saved and restored whole."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.distributed import DistContext
from utils.precision import Precision
from utils.training.checkpoint import Checkpoint, Identity, check_weights, save_checkpoint
from utils.training.ema import Ema
from utils.training.finite import LossWatch, check_weights_are_finite
from utils.training.seed import random_state, restore_random_state, seed_torch


class TrainState:
    """Network, optimiser, average, loss scaling, counters, best score, random state.

    Args:
        network: the bare network, already on its device.
        optimizer: over its trainable parameters.
        precision: holds the loss scaling.
        ema: averaged weights, or None.
        identity: what goes into every checkpoint beside the weights.
        dist: this process.
        compiled: whether the network that is trained is compiled.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        ema: Ema | None,
        identity: Identity,
        dist: DistContext,
        compiled: bool = False,
    ) -> None:
        self.network = network
        self._synced_network = dist.wrap(network)
        self.ddp_network = torch.compile(self._synced_network) if compiled else self._synced_network
        self.optimizer = optimizer
        self.precision = precision
        self.ema = ema
        self.identity = identity
        self.dist = dist
        self.loss_watch = LossWatch(dist)
        self.epoch = 0  # epochs completed
        self.step_in_epoch = 0  # steps completed in the current epoch
        self.step = 0  # steps completed
        self.best_score = -1.0  # below every possible score
        self.best_epoch = 0
        self.num_stale = 0  # validations since the best one

    @property
    def num_classes(self) -> int:
        """Number of classes that are trained and scored."""
        return len(self.identity.classes)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass; the ranks meet in the last one of a step."""
        return nullcontext() if is_last else self.dist.without_sync(self._synced_network)

    def take_step(self, max_norm: float, loss: Tensor, tile_ids: tuple[str, ...]) -> None:
        """Clipping to ``max_norm`` (0: none), optimiser, average, counters.

        Args:
            max_norm: of the gradient.
            loss: this rank's, to be looked at before the next save.
            tile_ids: what it was computed on.
        """
        self.precision.step(self.network, self.optimizer, max_norm)
        self.step += 1
        self.step_in_epoch += 1
        self.loss_watch.note(self.step, loss, tile_ids)
        if self.ema is not None:
            self.ema.update(self.network, self.step)

    def count_epoch(self) -> None:
        """One more epoch is done."""
        self.epoch += 1
        self.step_in_epoch = 0

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Inside the block, the network has the weights that are evaluated, in eval mode."""
        self.network.eval()
        if self.ema is None:
            yield
        else:
            with self.ema.applied_to(self.network):
                yield
        self.network.train()

    def is_best(self, score: float) -> bool:
        """Remember a validation score; True if it is the highest so far (nan never is)."""
        self.num_stale += 1
        if not score > self.best_score:
            return False
        self.best_score, self.best_epoch, self.num_stale = score, self.epoch, 0
        return True

    def progress(self) -> dict[str, Any]:
        """The counters and the best score, as plain values."""
        return {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "step": self.step,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "num_stale": self.num_stale,
        }

    def save(self, folder: Path, *copies: str) -> None:
        """Write ``last.pth``, from which training goes on. Call on all ranks.

        Args:
            folder: the run folder.
            copies: names of further checkpoints to write, for evaluation only: ``best.pth``.

        Raises:
            DataError: a loss or a weight is not finite; what was saved before stays.
        """
        weights = self.network.state_dict()
        self.loss_watch.check()
        check_weights_are_finite(weights, self.step, self.dist)
        random_states = self.dist.gather(random_state())
        if not self.dist.is_main:
            return
        average = weights if self.ema is None else self.ema.average
        common: dict[str, Any] = {"identity": self.identity, "progress": self.progress()}
        for name in copies:
            save_checkpoint(folder / name, weights=average, **common)
        training = {
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "random_states": random_states,
        }
        save_checkpoint(folder / "last.pth", weights=average, training=training, **common)

    def restore(self, checkpoint: Checkpoint | None, seed: int) -> None:
        """Go on from a ``last.pth``, counters included; without one, stay at the beginning.

        With another number of ranks than before, the random state (dropout, stochastic depth) is
        drawn anew from the seed and the step; data and weights are the same.
        """
        if checkpoint is None:
            return
        assert checkpoint.training is not None
        training = checkpoint.training
        check_weights(self.network, training["weights"], str(checkpoint.path))
        self.network.load_state_dict(training["weights"], strict=False)
        self.optimizer.load_state_dict(training["optimizer"])
        self.precision.load_state_dict(training["precision"])
        if self.ema is not None:
            device = self.dist.device
            self.ema.average = {k: v.to(device) for k, v in checkpoint.weights.items()}
        for name, value in checkpoint.progress.items():
            setattr(self, name, value)
        states = training["random_states"]
        if len(states) == self.dist.world_size:
            restore_random_state(states[self.dist.rank])
        else:
            seed_torch(seed + self.step, self.dist.rank)
