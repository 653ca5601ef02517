"""Boundary IoU and boundary F1 at several widths.

Boundary IoU is that of Cheng, Girshick, Dollar, Berg and Kirillov, "Boundary IoU: Improving
Object-Centric Image Segmentation Evaluation", CVPR 2021: the IoU of those pixels of target and
prediction that are within a width of their own contour. Boundary F1 is the BF score of Csurka,
Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013:
precision is the fraction of the predicted contour that has a target contour of the same class
within a width, recall the reverse, F1 their harmonic mean.

Distances are chessboard distances, so "within w" is the square of side 2 w + 1 (as in the released
code of boundary IoU, which erodes with 3x3 squares). A pixel is within w of the contour of its
class if that square holds a pixel of another class; the contour itself is w = 1. Ignored pixels
(ignored in the prediction too) and the edge of the image are no border, because the class beyond
them is unknown.

Differs from both papers: pixels are counted over all images and divided once, as in
``utils.evaluation.metrics``. Differs from the released code of boundary IoU: the edge of the image
is no contour. Differs from Csurka et al.: chessboard instead of Euclidean distance, and a distance
equal to the width is within it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.evaluation.morphology import sliding

WIDTHS_PX = (1, 2, 4, 8)  # ascending
# Pixel counts for each width and class.
COUNTS = (
    "near_target",  # target pixels of the class within the width of their contour
    "near_prediction",  # predicted ones likewise
    "near_both",  # pixels that are both
    "contour_target",  # contour pixels of the target
    "contour_prediction",
    "matched_target",  # those within the width of the predicted contour
    "matched_prediction",  # those within the width of the target contour
)
_STRIP_ROWS = 256  # a strip and its margins stay in the cache, whatever the size of the image
_BITS = 8  # classes whose contours are widened together


@dataclass(frozen=True, kw_only=True)
class BoundaryScores:
    """Fractions in 0..1 by width and class; nan where neither has a contour of the class."""

    iou: np.ndarray  # (widths, C)
    f1: np.ndarray  # (widths, C)


def boundary_counts(
    target: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Return the pixel counts behind the scores; counts of several images are added.

    Args:
        target: ``(H, W)`` uint8 class indices, 255 = ignored.
        prediction: ``(H, W)`` uint8 class indices; anything where the target is ignored.
        num_classes: number of classes C.

    Returns:
        ``(len(WIDTHS_PX), C, len(COUNTS))`` int64.
    """
    counts = np.zeros((len(WIDTHS_PX), num_classes, len(COUNTS)), dtype=np.int64)
    margin = WIDTHS_PX[-1] + 1  # the farthest contour in reach, and the pixel beyond it
    for top in range(0, target.shape[0], _STRIP_ROWS):
        first, bottom = max(0, top - margin), min(top + _STRIP_ROWS, target.shape[0])
        strip = target[first : bottom + margin]
        predicted = np.where(strip == IGNORE_INDEX, strip, prediction[first : bottom + margin])
        _count_strip(counts, strip, predicted, slice(top - first, bottom - first))
    return counts


def _count_strip(
    counts: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    rows: slice,
) -> None:
    """Add the counts of ``rows`` to ``counts``; the other rows of the strip are context only."""
    labels = (target, prediction)
    # 1. Contour pixels of target and prediction inside ``rows``: their places and classes.
    contours = [next(_near_contour(side, (1,))) for side in labels]
    inside = np.zeros(target.shape, dtype=bool)
    inside[rows] = True
    places = [np.flatnonzero(contour & inside) for contour in contours]
    classes = [side.take(place) for side, place in zip(labels, places, strict=True)]
    # 2. For each of them: does the other side have a contour of this class within each width?
    matched = [
        _contour_within(labels[1 - side], contours[1 - side], classes[side], places[side])
        for side in (0, 1)
    ]
    # 3. Pixels near their own contour, and the counts of each class in the order of COUNTS.
    agree = inside & (target == prediction)
    near = zip(*(_near_contour(side, WIDTHS_PX) for side in labels), strict=True)
    for number, (near_target, near_prediction) in enumerate(near):
        counted = (
            target[rows][near_target[rows]],
            prediction[rows][near_prediction[rows]],
            target[near_target & near_prediction & agree],
            *classes,
            classes[0][matched[0][number]],
            classes[1][matched[1][number]],
        )
        for column, class_indices in enumerate(counted):
            counts[number, :, column] += np.bincount(class_indices, minlength=counts.shape[1])


def _near_contour(labels: np.ndarray, widths_px: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the mask of the pixels within each width of the contour of their own class.

    ``labels`` is ``(H, W)`` uint8 with 255 = ignored; the widths ascend.
    """
    ignored = labels == IGNORE_INDEX
    # A pixel is near a contour where minimum and maximum of its square differ. Ignored pixels are
    # given the neutral value of each, so that they are never the extreme.
    low, high = labels, np.where(ignored, np.uint8(0), labels)
    before = 0
    for width in widths_px:
        low = _widen(low, width - before, np.minimum, IGNORE_INDEX)
        high = _widen(high, width - before, np.maximum, 0)
        before = width
        yield (low != high) & ~ignored


def _contour_within(
    labels: np.ndarray,
    contour: np.ndarray,
    classes: np.ndarray,
    places: np.ndarray,
) -> np.ndarray:
    """Return True for pixels with a contour of their class within each width, ``(widths, N)``.

    Each class is one bit, so the contours of eight classes are widened at once.

    Args:
        labels: ``(H, W)`` uint8, the class of every pixel of ``contour``.
        contour: ``(H, W)`` bool.
        classes: ``(N,)`` uint8, class of each queried pixel.
        places: ``(N,)``, their indices into the flattened image.
    """
    matched = np.zeros((len(WIDTHS_PX), classes.size), dtype=bool)
    for first in range(0, int(classes.max(initial=0)) + 1, _BITS):
        bit_of = np.zeros(256, dtype=np.uint8)
        bit_of[first : first + _BITS] = 1 << np.arange(min(_BITS, 256 - first))
        bits, own = bit_of[labels] * contour, bit_of[classes]
        before = 0
        for number, width in enumerate(WIDTHS_PX):
            bits = _widen(bits, width - before, np.bitwise_or, 0)
            before = width
            matched[number] |= (bits.take(places) & own) != 0
    return matched


def _widen(values: np.ndarray, radius_px: int, combine: np.ufunc, neutral: int) -> np.ndarray:
    """Reduce the square of side ``2 radius_px + 1`` around each pixel; the shape is kept."""
    padded = np.pad(values, radius_px, constant_values=neutral)
    return sliding(sliding(padded, radius_px, combine, axis=0), radius_px, combine, axis=1)


def boundary_scores(counts: np.ndarray) -> BoundaryScores:
    """Return the scores of summed counts.

    A class with a contour in only one of target and prediction scores 0.
    """
    columns = dict(zip(COUNTS, np.moveaxis(counts, -1, 0).astype(np.float64), strict=True))
    occurs = columns["contour_target"] + columns["contour_prediction"] > 0

    def fraction(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(occurs, part / np.maximum(whole, 1), np.nan)

    both = columns["near_both"]
    union = columns["near_target"] + columns["near_prediction"] - both
    precision = fraction(columns["matched_prediction"], columns["contour_prediction"])
    recall = fraction(columns["matched_target"], columns["contour_target"])
    f1 = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    return BoundaryScores(iou=fraction(both, union), f1=f1)
