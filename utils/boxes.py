"""Places along one side of an image: where windows begin, which pixels a resize keeps."""

import numpy as np


def window_starts(length_px: int, window_px: int, overlap_px: int) -> list[int]:
    """Starts of windows that cover ``0..length_px``, evenly spaced, the last one flush.

    Neighbours share at least ``overlap_px``. A length up to the window size gives one window.
    """
    if length_px <= window_px:
        return [0]
    num_steps = -(-(length_px - window_px) // (window_px - overlap_px))
    return [round(i * (length_px - window_px) / num_steps) for i in range(num_steps + 1)]


def nearest_pixels(length: int, new_length: int) -> np.ndarray:
    """For every pixel of a resized side, the pixel whose centre is nearest, ``(new_length,)``."""
    return (2 * np.arange(new_length) + 1) * length // (2 * new_length)
