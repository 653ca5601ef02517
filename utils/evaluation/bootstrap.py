"""Percentile-bootstrap confidence intervals of scores and of their paired differences.

Pixels of one image, and tiles of one source image, are correlated, so whole source images are
resampled with replacement, as many as there are (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). The interval covers the choice of images, not that of a training
seed.

All settings are scored on the same draws, so that the difficulty of an image, common to all of
them, cancels: paired intervals are far narrower than a comparison of each setting's own intervals
suggests. Where a setting was trained with several seeds, its score is the mean over them, and each
draw resamples the seeds as well: a hierarchical bootstrap (Davison and Hinkley, "Bootstrap Methods
and their Application", 1997, section 3.8).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS, SEED, LEVEL = 1000, 0, 0.95


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Lower and upper ends of intervals, fractions in 0..1; nan where no draw has the class."""

    num_sources: int  # source images with a counted pixel
    miou: tuple[float, float]
    iou: tuple[tuple[float, float], ...]  # of each class


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two scores, a fraction in -1..1, with the ends of its 95 % interval.

    The value is nan for a class that does not occur on one side; the ends are nan where no draw has
    a value, and for fewer than two source images.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Return True if the interval lies on one side of zero (False for nan)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Scores of a setting, fractions or nan: mIoU in column 0, then the IoU of the C classes."""

    num_sources: int  # source images with a counted pixel
    of_seeds: np.ndarray  # (seeds, 1 + C), on all source images
    drawn: np.ndarray  # (draws, 1 + C), mean over seeds; 0 draws for fewer than two source images

    @property
    def mean(self) -> np.ndarray:
        """Return the mean over the seeds, ``(1 + C,)``."""
        return nan_mean(self.of_seeds, axis=0)

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Return the interval of each column; nan without draws."""
        return [_interval(column) for column in self.drawn.T]

    @property
    def spread(self) -> float:
        """Return the standard deviation of the mIoU over the seeds; nan for one seed."""
        mious = self.of_seeds[:, 0]
        return float(mious.std(ddof=1)) if len(mious) > 1 else np.nan


def sample(confusions: np.ndarray, left_out: Sequence[int] = (), number: int = 0) -> Sample:
    """Score a setting on all source images and on draws of them.

    Draws are paired with those of any other setting with the same sources in the same order.

    Args:
        confusions: ``(seeds, sources, C, C)`` pixel counts; sources without a counted pixel are not
            drawn.
        left_out: indices of classes excluded from the mean.
        number: index of the setting, so that the seeds of each are drawn independently.
    """
    counted = confusions[:, confusions.any(axis=(0, 2, 3))]
    num_seeds, num_sources = counted.shape[:2]

    def scored(times: np.ndarray) -> np.ndarray:
        """Return the scores of draws that take each source so often, ``(seeds, draws, 1 + C)``."""
        return np.stack([_scores_of_draws(each, times, left_out) for each in counted])

    of_seeds = scored(np.ones((1, num_sources)))[:, 0]
    drawn = np.empty((0, of_seeds.shape[1]))
    if num_sources > 1:
        images = np.random.default_rng(SEED).integers(num_sources, size=(NUM_DRAWS, num_sources))
        times = np.stack([np.bincount(row, minlength=num_sources) for row in images])
        rng = np.random.default_rng([SEED, number])
        seeds = rng.integers(num_seeds, size=(num_seeds, NUM_DRAWS, 1))
        drawn = nan_mean(np.take_along_axis(scored(times), seeds, axis=0), axis=0)
    return Sample(num_sources=num_sources, of_seeds=of_seeds, drawn=drawn)


def differences(reference: Sample, other: Sample) -> list[Difference]:
    """Return the gains of ``other`` in mIoU and in the IoU of each class, paired by draw."""
    ends = [_interval(column) for column in (other.drawn - reference.drawn).T]
    values = other.mean - reference.mean
    return [
        Difference(value=float(value), low=low, high=high)
        for value, (low, high) in zip(values, ends, strict=True)
    ]


def bootstrap(confusions: np.ndarray, left_out: Sequence[int] = ()) -> Intervals | None:
    """Return the intervals of a single setting, ``(sources, C, C)`` pixel counts.

    None for fewer than two images with a counted pixel: one image has no spread.
    """
    found = sample(confusions[None], left_out)
    if found.num_sources < 2:
        return None
    miou, *iou = found.intervals
    return Intervals(num_sources=found.num_sources, miou=miou, iou=tuple(iou))


def _scores_of_draws(
    confusions: np.ndarray, times: np.ndarray, left_out: Sequence[int]
) -> np.ndarray:
    """Return mIoU and IoU of draws, ``(draws, 1 + C)``; nan where a draw lacks the class.

    Args:
        confusions: ``(sources, C, C)`` pixel counts of each source image.
        times: ``(draws, sources)``, how often each draw takes each image.
        left_out: indices of classes excluded from the mean.
    """
    counted, num_classes = confusions.astype(np.float64), confusions.shape[1]
    hits = times @ np.diagonal(counted, axis1=1, axis2=2)
    union = times @ (counted.sum(axis=2) + counted.sum(axis=1)) - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    kept = [index for index in range(num_classes) if index not in set(left_out)]
    return np.column_stack([nan_mean(iou[:, kept], axis=1), iou])


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return the ends that contain 95 % of the draws that are not nan; nan if all are."""
    known = values[~np.isnan(values)]
    if not known.size:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean along an axis, nan excluded; nan, without a warning, where all values are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)
