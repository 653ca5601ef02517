"""Expected calibration error.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017: pixels are
sorted into 15 bins of equal width by their confidence (the largest softmax probability); the error
is the absolute difference between mean confidence and accuracy of each bin, weighted by its number
of pixels.
"""

from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX

NUM_BINS = 15
COUNTS = ("pixels", "pixels_correct", "confidence")
# Confidences are summed as integer multiples of this, so that the order of summation is irrelevant.
_UNIT = 2.0**-24
_STRIP_PX = 1 << 16  # the softmax of this many pixels stays small


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Fractions in 0..1; nan where there is no pixel."""

    error: float  # expected calibration error
    confidence: float  # mean over all pixels
    accuracy: float  # fraction of correct pixels
    bin_pixels: tuple[int, ...]  # bin i holds confidences in (i / NUM_BINS, (i + 1) / NUM_BINS]
    bin_confidence: tuple[float, ...]
    bin_accuracy: tuple[float, ...]


def calibration_counts(
    logits: np.ndarray, target: np.ndarray, prediction: np.ndarray
) -> np.ndarray:
    """Count pixels by confidence; counts of several images are added.

    Args:
        logits: ``(C, H, W)`` float32; where they are not finite, the confidence counts as 0.
        target: ``(H, W)`` uint8 class indices, 255 = not counted.
        prediction: ``(H, W)`` uint8 class indices.

    Returns:
        ``(NUM_BINS, len(COUNTS))`` int64: pixels, correct pixels, and the sum of their confidences
        in units of 2**-24.
    """
    counts = np.zeros((NUM_BINS, len(COUNTS)), dtype=np.int64)
    rows = max(1, _STRIP_PX // max(1, target.shape[1]))
    for top in range(0, target.shape[0], rows):
        part = slice(top, top + rows)
        strip = logits[:, part]
        # Largest softmax probability, without the softmax of the other classes.
        with np.errstate(invalid="ignore"):
            confidence = 1 / np.exp(strip - strip.max(axis=0)).sum(axis=0)
        units = np.rint(np.nan_to_num(confidence).astype(np.float64) / _UNIT)
        place = np.ceil(units * (NUM_BINS * _UNIT)).clip(min=1).astype(np.int64) - 1
        # One histogram of 2 x NUM_BINS cells and one for ignored pixels: wrong, correct, ignored.
        place += NUM_BINS * (target[part] == prediction[part])
        place[target[part] == IGNORE_INDEX] = 2 * NUM_BINS
        groups, size = place.ravel(), 2 * NUM_BINS + 1
        pixels = np.bincount(groups, minlength=size)
        # Sums of integers in float64 are exact below 2**53.
        summed = np.bincount(groups, weights=units.ravel(), minlength=size).astype(np.int64)
        wrong, correct = slice(0, NUM_BINS), slice(NUM_BINS, 2 * NUM_BINS)
        counts[:, 0] += pixels[wrong] + pixels[correct]
        counts[:, 1] += pixels[correct]
        counts[:, 2] += summed[wrong] + summed[correct]
    return counts


def calibration(counts: np.ndarray) -> Calibration:
    """Return the expected calibration error of summed counts, in float64."""
    pixels, correct, units = counts.T
    occupied, total = np.maximum(pixels, 1), max(1, int(pixels.sum()))
    bin_confidence, bin_accuracy = units * _UNIT / occupied, correct / occupied
    error = float((pixels / total * np.abs(bin_confidence - bin_accuracy)).sum())
    nothing = not pixels.any()
    empty = pixels == 0
    return Calibration(
        error=np.nan if nothing else error,
        confidence=np.nan if nothing else float(units.sum() * _UNIT / total),
        accuracy=np.nan if nothing else float(correct.sum() / total),
        bin_pixels=tuple(pixels.tolist()),
        bin_confidence=tuple(np.where(empty, np.nan, bin_confidence).tolist()),
        bin_accuracy=tuple(np.where(empty, np.nan, bin_accuracy).tolist()),
    )
