"""Sliding minimum and maximum, and eroded labels (ISPRS "noBoundary").

Erosion ignores a labelled pixel if a pixel of another class lies within the radius, measured
between pixel centres: every region is eroded by a disc. The ISPRS benchmark describes its eroded
labels this way, with a radius of 3 pixels, and most papers score against them.

Neither ignored pixels nor the edge of the image count as a border, as in
``utils.evaluation.boundary``: the class beyond them is unknown.
"""

import math

import numpy as np

from configs.schema import IGNORE_INDEX

RADIUS_PX = 3  # of the disc, where a data set has no eroded labels of its own
_STRIP_ROWS = 128  # a strip and what is made of it stay in the cache


def sliding(values: np.ndarray, radius_px: int, combine: np.ufunc, axis: int) -> np.ndarray:
    """Reduce each window of ``2 radius_px + 1`` neighbours along one axis of a 2-D array.

    Windows of 1, 2, 4, ... values are combined from two halves; the halves of the last one overlap,
    which is harmless because ``combine`` is idempotent (minimum, maximum, bitwise or).

    Returns:
        Array shorter by ``2 radius_px`` along ``axis``: pad ``values`` first.
    """
    span = 1
    while span < 2 * radius_px + 1:
        step = min(span, 2 * radius_px + 1 - span)
        if axis == 0:
            values = combine(values[:-step], values[step:])
        else:
            values = combine(values[:, :-step], values[:, step:])
        span += step
    return values


def erode(target: np.ndarray, radius_px: int = RADIUS_PX) -> np.ndarray:
    """Return labels in which every pixel within a disc of another class is ignored.

    Args:
        target: ``(H, W)`` uint8 class indices, 255 = ignored.
        radius_px: radius of the disc; a pixel at exactly this distance lies within it.

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
    """Reduce the disc around each pixel, one row of the disc at a time.

    Rows at the same distance from the centre have the same width, and the widths grow towards the
    centre, so each horizontal reduction serves two rows.
    """
    height, width = values.shape
    padded = np.pad(values, radius_px, constant_values=neutral)
    result: np.ndarray | None = None
    spread, half = padded[:, radius_px : radius_px + width], 0
    for distance in range(radius_px, -1, -1):  # from the shortest spans to the longest
        if (wider := math.isqrt(radius_px**2 - distance**2)) != half:
            half = wider
            columns = slice(radius_px - half, radius_px + width + half)
            spread = sliding(padded[:, columns], half, combine, axis=1)
        for top in {radius_px - distance, radius_px + distance}:
            rows = spread[top : top + height]
            result = rows.copy() if result is None else combine(result, rows, out=result)
    assert result is not None
    return result
