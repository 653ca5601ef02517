"""How well the borders of classes are met: boundary IoU and boundary F1 at several widths.

Boundary IoU is that of Cheng, Girshick, Dollar, Berg and Kirillov, "Boundary IoU: Improving
Object-Centric Image Segmentation Evaluation", CVPR 2021: the IoU of those pixels of target and
prediction that are within a width of their own contour. Boundary F1 is the BF score of Csurka,
Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013:
precision is the share of the predicted contour that has the target's contour of the same class
within a width, recall the reverse, F1 their harmonic mean.

Distances are chessboard distances, so "within w" is the square of side 2 w + 1 (as in the released
code of boundary IoU, which erodes with 3x3 squares). A pixel is within w of the contour of its
class if that square holds a pixel of another class; the contour itself is w = 1. Two things are no
border, because nobody knows what is beyond: ignored pixels (they are ignored in the prediction
too) and the edge of the image.

Differs from both papers: pixels are counted over all images and divided once, as in
``utils.evaluation.metrics``. Differs from the released code of boundary IoU: the edge of the image
is no contour. Differs from Csurka et al.: chessboard instead of Euclidean distance, and a distance
equal to the width is within it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX

WIDTHS_PX = (1, 2, 4, 8)
# What is counted of each width and class, in pixels.
COUNTS = (
    "near_target",  # target pixels of the class within the width of their contour
    "near_prediction",  # predicted ones likewise
    "near_both",  # pixels that are both
    "contour_target",  # contour of the target
    "contour_prediction",
    "found_target",  # ... of it, within the width of the predicted contour
    "found_prediction",  # ... of it, within the width of the target's contour
)
_STRIP_ROWS = 256  # a strip and its margins stay in the cache, whatever the size of the image
_BITS = 8  # classes whose contours are widened together


@dataclass(frozen=True, kw_only=True)
class BoundaryScores:
    """Fractions in 0..1 by width and class; nan where neither has a contour of the class."""

    widths_px: tuple[int, ...]
    iou: np.ndarray  # (widths, C)
    f1: np.ndarray  # (widths, C)


def boundary_counts(
    target: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    widths_px: Sequence[int] = WIDTHS_PX,
) -> np.ndarray:
    """Count what the scores are made of; counts of several images are added.

    Args:
        target: ``(H, W)`` uint8 class indices, 255 = ignored.
        prediction: ``(H, W)`` uint8 class indices; anything where the target is ignored.
        num_classes: number of classes C.
        widths_px: ascending, 1 or more.

    Returns:
        ``(len(widths_px), C, len(COUNTS))`` int64.
    """
    counts = np.zeros((len(widths_px), num_classes, len(COUNTS)), dtype=np.int64)
    margin = max(widths_px) + 1  # a contour that is so far away, and what makes it one
    for top in range(0, target.shape[0], _STRIP_ROWS):
        first, bottom = max(0, top - margin), min(top + _STRIP_ROWS, target.shape[0])
        strip = target[first : bottom + margin]
        predicted = np.where(strip == IGNORE_INDEX, strip, prediction[first : bottom + margin])
        _count_strip(counts, strip, predicted, slice(top - first, bottom - first), widths_px)
    return counts


def _count_strip(
    counts: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    rows: slice,
    widths_px: Sequence[int],
) -> None:
    """Add what is found in some rows of a strip; the others are there to be seen from them."""
    labels = (target, prediction)
    contours = [next(near_contour(side, (1,))) for side in labels]
    inside = np.zeros(target.shape, dtype=bool)
    inside[rows] = True
    places = [np.flatnonzero(contour & inside) for contour in contours]
    classes = [side.take(place) for side, place in zip(labels, places, strict=True)]
    met = [
        _contour_within(
            labels[1 - side], contours[1 - side], classes[side], places[side], widths_px
        )
        for side in (0, 1)
    ]
    agree = inside & (target == prediction)
    near = zip(*(near_contour(side, widths_px) for side in labels), strict=True)
    for number, (near_target, near_prediction) in enumerate(near):
        counted = (
            target[rows][near_target[rows]],
            prediction[rows][near_prediction[rows]],
            target[near_target & near_prediction & agree],
            *classes,
            classes[0][met[0][number]],
            classes[1][met[1][number]],
        )
        for column, found in enumerate(counted):
            counts[number, :, column] += np.bincount(found, minlength=counts.shape[1])


def near_contour(labels: np.ndarray, widths_px: Sequence[int]) -> Iterator[np.ndarray]:
    """Which pixels are within each width of the contour of their own class.

    Args:
        labels: ``(H, W)`` uint8 class indices, 255 = ignored.
        widths_px: ascending.

    Yields:
        ``(H, W)`` bool for each width.
    """
    ignored = labels == IGNORE_INDEX
    low, high = labels, np.where(ignored, np.uint8(0), labels)  # ignored: never the extreme
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
    widths_px: Sequence[int],
) -> np.ndarray:
    """Whether pixels have a contour of their class within each width.

    Every class is a bit, so the contours of eight classes are widened at once.

    Args:
        labels: ``(H, W)`` uint8, the class of every pixel of the contour.
        contour: ``(H, W)`` bool.
        classes: ``(N,)`` uint8, the class of each pixel in question.
        places: ``(N,)``, where they are in the flattened image.
        widths_px: ascending.

    Returns:
        ``(len(widths_px), N)`` bool.
    """
    met = np.zeros((len(widths_px), classes.size), dtype=bool)
    for first in range(0, int(classes.max(initial=0)) + 1, _BITS):
        bit_of = np.zeros(256, dtype=np.uint8)
        bit_of[first : first + _BITS] = 1 << np.arange(min(_BITS, 256 - first))
        bits, own = bit_of[labels] * contour, bit_of[classes]
        before = 0
        for number, width in enumerate(widths_px):
            bits = _widen(bits, width - before, np.bitwise_or, 0)
            before = width
            met[number] |= (bits.take(places) & own) != 0
    return met


def _widen(values: np.ndarray, radius: int, combine: np.ufunc, neutral: int) -> np.ndarray:
    """Combine the values in the square of side ``2 radius + 1`` around every pixel.

    Spans of 1, 2, 4 ... values are combined from two halves, the last one from two that overlap,
    which changes nothing for minimum, maximum and or.
    """
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (radius, radius)
        values = np.pad(values, padding, constant_values=neutral)
        span = 1
        while span < 2 * radius + 1:
            step = min(span, 2 * radius + 1 - span)
            one, other = (slice(None, -step), slice(step, None))
            if axis == 0:
                values = combine(values[one], values[other])
            else:
                values = combine(values[:, one], values[:, other])
            span += step
    return values


def boundary_scores(counts: np.ndarray, widths_px: Sequence[int] = WIDTHS_PX) -> BoundaryScores:
    """Scores of summed counts.

    A class whose contour is in only one of target and prediction has 0.
    """
    columns = dict(zip(COUNTS, np.moveaxis(counts, -1, 0).astype(np.float64), strict=True))
    occurs = columns["contour_target"] + columns["contour_prediction"] > 0

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(occurs, part / np.maximum(whole, 1), np.nan)

    both = columns["near_both"]
    union = columns["near_target"] + columns["near_prediction"] - both
    precision = share(columns["found_prediction"], columns["contour_prediction"])
    recall = share(columns["found_target"], columns["contour_target"])
    f1 = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    return BoundaryScores(widths_px=tuple(widths_px), iou=share(both, union), f1=f1)
