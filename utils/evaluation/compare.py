"""Whether one setting is better than another: paired differences and how sure they are.

Scores of all settings are taken on the same draws of source images, so that what makes an image
hard for all of them cancels. Where a setting was trained with several seeds, its
score is the mean over them, and every draw takes the seeds, too, with replacement: a hierarchical
bootstrap (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.evaluation.bootstrap import NUM_DRAWS, SEED, draw_times, interval_of, scores_of_draws


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two scores, as fractions in -1..1, and the ends of its 95 % interval.

    The difference is nan for a class that does not occur in one of the two, and the ends are where
    no draw has one, or where there are fewer than two source images.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero (False for nan)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Scores of a setting, fractions or nan: mIoU in column 0, IoU of the C classes after it."""

    of_seeds: np.ndarray  # (seeds, 1 + C), on all source images
    drawn: np.ndarray  # (draws, 1 + C), mean over seeds; no draws of fewer than two source images

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds, ``(1 + C,)``."""
        return _mean_of_known(self.of_seeds)

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Of each column; nan without draws."""
        return [interval_of(column) for column in self.drawn.T]


def sample(confusions: np.ndarray, left_out: Sequence[int] = (), number: int = 0) -> Sample:
    """Score a setting on all source images and on draws of them.

    Draws are paired with those of another setting on the same sources in the same order.

    Args:
        confusions: ``(seeds, sources, C, C)`` pixel counts; sources without a counted pixel are not
            drawn.
        left_out: indices of classes that the mean does not count.
        number: of the setting, another one for each: their seeds are drawn independently.
    """
    counted = confusions[:, confusions.any(axis=(0, 2, 3))]
    num_seeds, num_sources = counted.shape[:2]
    whole, times = np.ones((1, num_sources)), draw_times(max(1, num_sources))

    def scored(taken: np.ndarray) -> np.ndarray:
        """``(seeds, draws, 1 + C)``."""
        found = [scores_of_draws(each, taken, left_out) for each in counted]
        return np.stack([np.column_stack(columns) for columns in found])

    of_seeds = scored(whole)[:, 0]
    if num_sources < 2:
        return Sample(of_seeds=of_seeds, drawn=np.empty((0, of_seeds.shape[1])))
    rng = np.random.default_rng([SEED, number])
    seeds = rng.integers(num_seeds, size=(num_seeds, NUM_DRAWS, 1))
    drawn = np.take_along_axis(scored(times), seeds, axis=0)
    return Sample(of_seeds=of_seeds, drawn=_mean_of_known(drawn))


def differences(reference: Sample, other: Sample) -> list[Difference]:
    """What ``other`` scores more, in mIoU and in the IoU of every class, draw by draw."""
    ends = [interval_of(column) for column in (other.drawn - reference.drawn).T]
    values = other.mean - reference.mean
    return [
        Difference(value=float(value), low=low, high=high)
        for value, (low, high) in zip(values, ends, strict=True)
    ]


def spread_over_seeds(found: Sample) -> float:
    """Standard deviation of the mIoU over the seeds; nan for one seed."""
    mious = found.of_seeds[:, 0]
    return float(mious.std(ddof=1)) if len(mious) > 1 else np.nan


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without what is nan; nan where all is."""
    known = ~np.isnan(values)
    number = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
