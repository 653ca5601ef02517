"""Training state: everything that changes while training, saved and restored as a whole."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.distributed import DistContext
from utils.errors import DataError
from utils.precision import Precision
from utils.training.checkpoint import Checkpoint, Identity, load_trained, save_checkpoint

_COUNTERS = ("epoch", "step_in_epoch", "step", "best_score", "best_epoch", "num_stale")


def seed_torch(seed: int, rank: int = 0) -> None:
    """Seed torch on every device. Samples have their own seeds and do not depend on this."""
    torch.manual_seed(seed * 1_000_003 + rank)


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's generators as plain tensors."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Restore the result of ``random_state``."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class Ema:
    """Exponential moving average of weights, ``average <- d * average + (1 - d) * weights``.

    ``d = min(decay, (1 + step) / (10 + step))``: early on, the average follows quickly, so that the
    random initialisation is forgotten. Buffers (the statistics of batch norm) are averaged like
    weights, counters are copied.

    Args:
        network: its ``state_dict`` is averaged; frozen parts are not in it.
        decay: the limit of d, below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.average = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Include the weights after optimiser step number ``step`` (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)


class NonFiniteGuard:
    """Detection of NaN and infinity in losses and weights before a checkpoint is written.

    Losses are kept on the device and read together, because reading makes the device wait: at
    every report, and before every save. Nothing is saved that has not been checked.

    Args:
        dist: this process.
    """

    def __init__(self, dist: DistContext) -> None:
        self._dist = dist
        self._unread: list[tuple[int, Tensor, tuple[str, ...]]] = []

    def note(self, step: int, loss: Tensor, tile_ids: tuple[str, ...]) -> None:
        """Remember the loss of a step and its tiles until the next check."""
        self._unread.append((step, loss.detach(), tile_ids))

    def check_losses(self) -> None:
        """Read the losses since the last check. Call on all ranks.

        Raises:
            DataError: a loss is not finite; names the first such step and the tiles of the ranks
                concerned, the same on all ranks.
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
        affected = self._dist.gather(() if math.isfinite(loss.item()) else tile_ids)
        names = ", ".join(name for ids in affected for name in ids)
        raise DataError(
            f"the loss is not finite at step {step} (tiles: {names}), and nothing was saved since; "
            "lower optim.lr, set run.precision=fp32, or check these tiles"
        )

    def check_weights(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Refuse weights that are not finite. Call on all ranks.

        A finite loss can have a gradient that is not, which the weights show a step before the
        loss.

        Raises:
            DataError: names the step and the first such weight, the same on all ranks.
        """
        are_finite = torch.stack([value.isfinite().all() for value in weights.values()])
        own = None
        if not are_finite.all():
            own = [name for name, finite in zip(weights, are_finite, strict=True) if not finite]
        affected = [names for names in self._dist.gather(own) if names]
        if affected:
            raise DataError(
                f"{len(affected[0])} of {len(weights)} weights are not finite after step {step} "
                f"(first: {affected[0][0]}), and they were not saved; lower optim.lr, or set "
                "run.precision=fp32"
            )


class TrainState:
    """Network, optimiser, averaged weights, loss scaling, counters, best score, random state.

    Args:
        network: the bare network, on its device.
        optimizer: over its trainable parameters.
        precision: has the state of the loss scaling.
        ema: averaged weights, or None.
        identity: stored in every checkpoint beside the weights.
        dist: this process.
        compiled: compile the network for training.
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
        self.guard = NonFiniteGuard(dist)
        self.epoch = 0  # epochs completed
        self.step_in_epoch = 0  # steps completed in the current epoch
        self.step = 0  # steps completed
        self.best_score = -1.0  # below every possible score
        self.best_epoch = 0
        self.num_stale = 0  # validations since the best one

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of a micro-batch; only the last one of a step synchronises ranks."""
        return nullcontext() if is_last else self.dist.without_sync(self._synced_network)

    def take_step(self, max_norm: float, loss: Tensor, tile_ids: tuple[str, ...]) -> None:
        """Clip the gradient, step the optimiser, update averaged weights and counters.

        Args:
            max_norm: largest norm of the gradient; 0: no clipping.
            loss: of this rank, checked before the next save.
            tile_ids: tiles of the batch.
        """
        self.precision.step(self.network, self.optimizer, max_norm)
        self.step += 1
        self.step_in_epoch += 1
        self.guard.note(self.step, loss, tile_ids)
        if self.ema is not None:
            self.ema.update(self.network, self.step)

    def count_epoch(self) -> None:
        """Count a completed epoch."""
        self.epoch += 1
        self.step_in_epoch = 0

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Put the network in eval mode with the averaged weights, if any, inside the block."""
        average = {} if self.ema is None else self.ema.average
        weights = self.network.state_dict()
        own = {key: weights[key].clone() for key in average}
        self.network.load_state_dict(average, strict=False)  # copies; frozen weights are not there
        self.network.eval()
        try:
            yield
        finally:
            self.network.train()
            self.network.load_state_dict(own, strict=False)

    def is_best(self, score: float) -> bool:
        """Record a validation score; return True if it is the highest so far (nan never is)."""
        self.num_stale += 1
        if not score > self.best_score:
            return False
        self.best_score, self.best_epoch, self.num_stale = score, self.epoch, 0
        return True

    def progress(self) -> dict[str, Any]:
        """Return counters and best score as plain values."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def save(self, folder: Path, *copies: str) -> None:
        """Write ``last.pth``, from which training resumes. Call on all ranks.

        Args:
            folder: the run folder.
            copies: names of further checkpoints to write, for evaluation only: ``best.pth``.

        Raises:
            DataError: a loss or a weight is not finite; earlier checkpoints stay.
        """
        weights = self.network.state_dict()
        self.guard.check_losses()
        self.guard.check_weights(weights, self.step)
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

    def restore(self, checkpoint: Checkpoint, seed: int) -> None:
        """Resume from a ``last.pth``, counters included.

        With another number of ranks than before, the random state (dropout, stochastic depth) is
        drawn anew from the seed and the step; data and weights are the same.

        Raises:
            DataError: the checkpoint does not fit the network, or is incomplete.
        """
        training, path = checkpoint.training, checkpoint.path
        if training is None or (missing := set(_COUNTERS) - checkpoint.progress.keys()):
            lacks = "a training state" if training is None else ", ".join(sorted(missing))
            raise DataError(f"{path} lacks {lacks}; restore the file, or delete the run folder")
        load_trained(self.network, training["weights"], path)
        self.optimizer.load_state_dict(training["optimizer"])
        self.precision.load_state_dict(training["precision"])
        if self.ema is not None:
            device = self.dist.device
            self.ema.average = {k: v.to(device) for k, v in checkpoint.weights.items()}
        for name in _COUNTERS:
            setattr(self, name, checkpoint.progress[name])
        states = training["random_states"]
        if len(states) == self.dist.world_size:
            restore_random_state(states[self.dist.rank])
        else:
            seed_torch(seed + self.step, self.dist.rank)
