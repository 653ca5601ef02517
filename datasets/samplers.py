"""Which sample comes when: every sample exactly once over all ranks, repeatable from a position."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True, kw_only=True)
class SampleKey:
    """A sample and the seed of everything random about it."""

    index: int
    seed: tuple[int, int, int]  # (run seed, epoch, place in the epoch)


class TrainBatches(Sampler[list[SampleKey]]):
    """This rank's part of every training batch, from a settable position on.

    The order of an epoch depends on (seed, epoch) alone, and the seed of a sample on its place in
    the epoch. So the batches are the same for any number of ranks and of loader processes, and a
    resumed run goes on at the next batch without reading the past ones.

    Args:
        num_samples: size of the data set. The last, incomplete batch of an epoch is left out; a
            data set smaller than a batch is repeated to fill one.
        batch_size: samples a step, over all ranks; a multiple of ``world_size``.
        num_batches: batches of an epoch; None: one pass over the data. More than a pass are
            several, each in another order, the last one cut off.
        seed: seed of the run.
        rank, world_size: this process and how many there are.
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
        """Begin the next iteration at batch ``start`` of ``epoch``."""
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
            places = range(first + self._rank, first + self._batch_size, self._world_size)
            yield [
                SampleKey(index=int(order[place]), seed=(self._seed, self.epoch, place))
                for place in places
            ]


class EvalOrder(Sampler[list[SampleKey]]):
    """The samples of this rank by themselves, in order; none is padded or drawn."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return ([SampleKey(index=index, seed=(0, 0, index))] for index in self._indices)
