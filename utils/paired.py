"""What differs between two predictions of the same images, and how far it would move with others.

A paired bootstrap: both are scored on the same draws of source images (``utils.bootstrap``), so
that what makes an image hard for both cancels. Predictions that are compared image by image differ
far more surely than their own intervals, which may overlap widely, would tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from utils.bootstrap import draw_times, interval_of, scores_of_draws
from utils.metrics import scores


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


@dataclass(frozen=True, kw_only=True)
class PairedIntervals:
    """Scores of the second minus those of the first."""

    num_sources: int  # that have a counted pixel; below two there are no intervals
    miou: Difference
    iou: tuple[Difference, ...]  # of each class


def paired_intervals(
    confusions_a: np.ndarray, confusions_b: np.ndarray, left_out: Sequence[int] = ()
) -> PairedIntervals:
    """What ``b`` scores more than ``a``, over the same draws of source images.

    The mIoU of each is that of ``utils.metrics``, so the difference is that of the two reported
    numbers, also where only one of them predicts a class that no target pixel has.

    Args:
        confusions_a: ``(sources, C, C)`` pixel counts of each source image; images without a
            counted pixel are not drawn.
        confusions_b: the same of the other prediction, for the same images in the same order.
        left_out: indices of classes that the mean does not count.

    Raises:
        ValueError: the two do not belong to the same targets.
    """
    if confusions_a.shape != confusions_b.shape:
        raise ValueError(f"confusions are {confusions_a.shape} and {confusions_b.shape}")
    if not np.array_equal(confusions_a.sum(axis=2), confusions_b.sum(axis=2)):
        raise ValueError("the two count other target pixels, so their images are not the same")
    counted = confusions_a.any(axis=(1, 2))
    both = confusions_a[counted], confusions_b[counted]
    a, b = (scores(torch.from_numpy(confusions.sum(axis=0)), left_out) for confusions in both)
    num_sources, num_classes = int(counted.sum()), confusions_a.shape[1]
    miou_ends, iou_ends = (np.nan, np.nan), [(np.nan, np.nan)] * num_classes
    if num_sources >= 2:
        times = draw_times(num_sources)
        drawn_a, drawn_b = (scores_of_draws(confusions, times, left_out) for confusions in both)
        miou_ends = interval_of(drawn_b[0] - drawn_a[0])
        iou_ends = [interval_of(column) for column in (drawn_b[1] - drawn_a[1]).T]
    return PairedIntervals(
        num_sources=num_sources,
        miou=_difference(a.miou, b.miou, miou_ends),
        iou=tuple(_difference(*found) for found in zip(a.iou, b.iou, iou_ends, strict=True)),
    )


def _difference(a: float, b: float, ends: tuple[float, float]) -> Difference:
    return Difference(value=b - a, low=ends[0], high=ends[1])
