"""Deterministic, resumable samplers; every sample once over all ranks, without padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True, kw_only=True)
class SampleKey:
    """Index of a sample, and the seed of its augmentation."""

    index: int
    seed: tuple[int, int, int]  # (run seed, epoch, position in the epoch)


@dataclass(kw_only=True, eq=False)
class TrainBatches(Sampler[list[SampleKey]]):
    """Sampler of this rank's part of every training batch, from any position.

    The order of an epoch depends on (seed, epoch) alone, and the seed of a sample on its position
    in the epoch. So batches are the same for any number of ranks and loader processes, and a run is
    resumed at the next batch without reading the past ones.
    """

    num_samples: int  # of the data set; one smaller than a batch is repeated to fill it
    batch_size: int  # over all ranks; a multiple of ``world_size``
    seed: int  # of the run
    # Per epoch. 0: one pass over the data, without its last, incomplete batch. Larger numbers take
    # several passes, each in another order.
    num_batches: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        self.num_batches = self.num_batches or max(1, self.num_samples // self.batch_size)
        self.epoch, self.start = 0, 0

    def set_position(self, epoch: int, start: int) -> None:
        """Start the next iteration at batch ``start`` of ``epoch``."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.num_batches - self.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        needed = self.num_batches * self.batch_size
        repeats = -(-needed // self.num_samples)
        order = np.concatenate([rng.permutation(self.num_samples) for _ in range(repeats)])
        for batch in range(self.start, self.num_batches):
            first = batch * self.batch_size
            positions = range(first + self.rank, first + self.batch_size, self.world_size)
            yield [
                SampleKey(index=int(order[position]), seed=(self.seed, self.epoch, position))
                for position in positions
            ]
