"""Eroded labels: borders of objects are ignored, for nobody draws them to the pixel.

A labelled pixel is ignored if a pixel of another class is within the radius, by the distance of
their centres: the erosion of every region by a disc. The ISPRS benchmark describes its eroded
labels ("noBoundary") so, with 3 pixels, and most papers score against them.

Two things are no border, as for the scores at borders (``utils.evaluation.boundary``): pixels that
are ignored already, and the edge of the image. Nobody knows what is beyond.
"""

import math

import numpy as np

from configs.schema import IGNORE_INDEX

RADIUS_PX = 3  # of the disc, where a data set has no eroded labels of its own
_STRIP_ROWS = 128  # a strip and what is made of it stay in the cache


def erode(target: np.ndarray, radius_px: int = RADIUS_PX) -> np.ndarray:
    """Ignore what is within a disc of another class.

    Args:
        target: ``(H, W)`` uint8 class indices, 255 = ignored.
        radius_px: of the disc; pixels at exactly this distance are within it.

    Returns:
        ``(H, W)`` uint8, a new array.
    """
    eroded = target.copy()
    for top in range(0, target.shape[0], _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, target.shape[0])
        first = max(0, top - radius_px)
        strip = target[first : bottom + radius_px]
        ignored = strip == IGNORE_INDEX
        # An ignored pixel is never the lowest nor the highest class of a disc.
        low = _over_disc(strip, radius_px, np.minimum, IGNORE_INDEX)
        high = _over_disc(np.where(ignored, np.uint8(0), strip), radius_px, np.maximum, 0)
        rows = slice(top - first, bottom - first)
        eroded[top:bottom][low[rows] != high[rows]] = IGNORE_INDEX
    return eroded


def _over_disc(values: np.ndarray, radius_px: int, combine: np.ufunc, neutral: int) -> np.ndarray:
    """Combine the values in the disc around every pixel: a span in each of its rows."""
    height, width = values.shape
    padded = np.pad(values, radius_px, constant_values=neutral)
    result: np.ndarray | None = None
    spread, half = padded[:, radius_px : radius_px + width], 0
    for distance in range(radius_px, -1, -1):  # from the shortest spans to the longest
        if (wider := math.isqrt(radius_px**2 - distance**2)) != half:
            half = wider
            spread = _over_span(
                padded[:, radius_px - half : radius_px + width + half], half, combine
            )
        for top in {radius_px - distance, radius_px + distance}:
            rows = spread[top : top + height]
            result = rows.copy() if result is None else combine(result, rows, out=result)
    assert result is not None
    return result


def _over_span(values: np.ndarray, half: int, combine: np.ufunc) -> np.ndarray:
    """Combine ``2 half + 1`` neighbours in every row; as many columns fewer, but one."""
    span = 1
    while span < 2 * half + 1:
        step = min(span, 2 * half + 1 - span)  # two halves that overlap: it changes nothing
        values = combine(values[:, :-step], values[:, step:])
        span += step
    return values
