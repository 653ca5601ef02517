"""Everything that changes while training, in one object, saved and restored whole."""

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
from utils.training.checkpoint import Checkpoint, Identity, check_weights, save_checkpoint


def seed_torch(seed: int, rank: int = 0) -> None:
    """Seed torch on every device. Samples carry seeds of their own and do not depend on this."""
    torch.manual_seed(seed * 1_000_003 + rank)


def random_state() -> dict[str, Tensor]:
    """State of torch's generators, as plain tensors."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Put back what ``random_state`` gave."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


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
