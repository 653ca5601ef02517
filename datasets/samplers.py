"""Deterministic, resumable samplers; every sample once over all ranks, without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True, kw_only=True)
class SampleKey:
    """Index of a sample, and the seed of its augmentation."""

    index: int
    seed: tuple[int, int, int]  # (run seed, epoch, position in the epoch)


class TrainBatches(Sampler[list[SampleKey]]):
    """Sampler of this rank's part of every training batch, from any position.

    The order of an epoch depends on (seed, epoch) alone, and the seed of a sample on its position
    in the epoch. So batches are the same for any number of ranks and loader processes, and a run is
    resumed at the next batch without reading the past ones.

    Args:
        num_samples: size of the data set. The last, incomplete batch of an epoch is dropped; a data
            set smaller than a batch is repeated to fill one.
        batch_size: samples per step, over all ranks; a multiple of ``world_size``.
        num_batches: batches per epoch; None: one pass over the data. Larger numbers take several
            passes, each in another order.
        seed: seed of the run.
        rank, world_size: this process and the number of processes.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        batch_size: int,
        seed: int,
        num_batches: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self.num_batches = num_batches or max(1, num_samples // batch_size)
        self.epoch, self.start = 0, 0

    def set_position(self, epoch: int, start: int) -> None:
        """Start the next iteration at batch ``start`` of ``epoch``."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.num_batches - self.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = np.random.default_rng((self._seed, self.epoch))
        needed = self.num_batches * self._batch_size
        repeats = -(-needed // self._num_samples)
        order = np.concatenate([rng.permutation(self._num_samples) for _ in range(repeats)])
        for batch in range(self.start, self.num_batches):
            first = batch * self._batch_size
            positions = range(first + self._rank, first + self._batch_size, self._world_size)
            yield [
                SampleKey(index=int(order[position]), seed=(self._seed, self.epoch, position))
                for position in positions
            ]


class EvalOrder(Sampler[list[SampleKey]]):
    """Sampler of given samples one by one, in order."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return ([SampleKey(index=index, seed=(0, 0, index))] for index in self._indices)
