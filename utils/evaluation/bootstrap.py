"""Percentile-bootstrap confidence intervals over source images.

Pixels of one image, and tiles of one source image, are correlated, so whole source images are
resampled with replacement, as many as there are (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). The interval covers the choice of images, not that of a training
seed.
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


def bootstrap(confusions: np.ndarray, left_out: Sequence[int] = ()) -> Intervals | None:
    """Return the intervals that contain the scores of 95 % of the draws.

    Args:
        confusions: ``(sources, C, C)`` pixel counts of each source image; images without a counted
            pixel are not drawn.
        left_out: indices of classes excluded from the mean.

    Returns:
        None for fewer than two images with a counted pixel: one image has no spread.
    """
    counted = confusions[confusions.any(axis=(1, 2))]
    num_sources = len(counted)
    if num_sources < 2:
        return None
    miou, iou = scores_of_draws(counted, draw_times(num_sources), left_out)
    return Intervals(
        num_sources=num_sources,
        miou=interval_of(miou),
        iou=tuple(interval_of(column) for column in iou.T),
    )


def draw_times(num_sources: int) -> np.ndarray:
    """Return how often each draw takes each image, ``(NUM_DRAWS, num_sources)``; fixed seed."""
    drawn = np.random.default_rng(SEED).integers(num_sources, size=(NUM_DRAWS, num_sources))
    return np.stack([np.bincount(row, minlength=num_sources) for row in drawn])


def scores_of_draws(
    confusions: np.ndarray, times: np.ndarray, left_out: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of each draw.

    Args:
        confusions: ``(sources, C, C)`` pixel counts of each source image.
        times: ``(draws, sources)``, see ``draw_times``.
        left_out: indices of classes excluded from the mean.

    Returns:
        mIoU ``(draws,)`` and IoU ``(draws, C)``; nan where a draw lacks the class.
    """
    counted, num_classes = confusions.astype(np.float64), confusions.shape[1]
    hits = times @ np.diagonal(counted, axis1=1, axis2=2)
    union = times @ (counted.sum(axis=2) + counted.sum(axis=1)) - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    kept = [index for index in range(num_classes) if index not in set(left_out)]
    return nan_mean(iou[:, kept], axis=1), iou


def interval_of(values: np.ndarray) -> tuple[float, float]:
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
