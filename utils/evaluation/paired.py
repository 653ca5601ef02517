"""What differs between two predictions of the same images, and how far it would move with others.

A paired bootstrap: both are scored on the same draws of source images
(``utils.evaluation.compare``), so that what makes an image hard for both cancels. Predictions that
are compared image by image differ far more surely than their own intervals, which may overlap
widely, would tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.evaluation.compare import Difference, differences, sample


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

    The mIoU of each is that of ``utils.evaluation.metrics``, so the difference is that of the two
    reported numbers, also where only one of them predicts a class that no target pixel has.

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
    one, other = (
        sample(confusions[np.newaxis], left_out) for confusions in (confusions_a, confusions_b)
    )
    miou, *iou = differences(one, other)
    num_sources = int(confusions_a.any(axis=(1, 2)).sum())
    return PairedIntervals(num_sources=num_sources, miou=miou, iou=tuple(iou))
