"""Samples of any kind -> 8-bit RGB: which values become black and white, which bands are shown."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import ConfigError, DataError

Stretch = tuple[float, float]  # the values that become 0 and 255


def check_stretch(stretch: Stretch | None) -> None:
    """Whether a range of values can be stretched.

    Raises:
        ConfigError: it is empty, reversed or infinite.
    """
    if stretch is None:
        return
    low, high = stretch
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"stretch is {low} to {high}; give two numbers, the lower one first")


class Levels:
    """Values of one type -> 0..255, linear between two of them, clipped outside.

    Args:
        dtype: of the values, in native byte order.
        stretch: the values that become 0 and 255; None: the whole range of an unsigned type of 8 or
            16 bits.
        path: the file that the values come from, for the message.

    Raises:
        DataError: the type has no agreed black and white, and no stretch is given.
    """

    def __init__(self, dtype: np.dtype, stretch: Stretch | None, path: Path) -> None:
        unsigned = dtype.kind == "u" and dtype.itemsize <= 2
        if stretch is None and not unsigned:
            raise DataError(
                f"{path} holds {dtype.name} values, of which nobody knows which are black and "
                "white; state the two values (stretch), or convert it to 8 bits"
            )
        self._range = stretch or (0, np.iinfo(dtype).max)
        self._same = dtype == np.uint8 and self._range == (0, 255)
        self._table: np.ndarray | None = None
        if not self._same and dtype.kind in "ui" and dtype.itemsize <= 2:
            unsigned_type = np.dtype(f"u{dtype.itemsize}")
            every = np.arange(np.iinfo(unsigned_type).max + 1).astype(unsigned_type)
            self._table = self._scale(every.view(dtype))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values of the type, any shape -> uint8; what is no number becomes 0."""
        if self._same:
            return values
        if self._table is None:
            return self._scale(values)
        return self._table[np.ascontiguousarray(values).view(f"u{values.itemsize}")]

    def _scale(self, values: np.ndarray) -> np.ndarray:
        low, high = self._range
        share = (values.astype(np.float64) - low) / (high - low)
        return np.rint(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)


def shown_bands(samples: np.ndarray) -> np.ndarray:
    """The bands of ``(H, W, bands)`` that are shown: the first three, or the first as grey."""
    return samples[:, :, : 3 if samples.shape[2] >= 3 else 1]


def as_three_bands(bands: np.ndarray) -> np.ndarray:
    """``(H, W, 1 or 3)`` -> ``(H, W, 3)`` that shares no memory with what is not shown."""
    return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))


def cmyk_to_rgb(samples: np.ndarray) -> np.ndarray:
    """``(H, W, 4)`` uint8 inks -> ``(H, W, 3)`` uint8 RGB, as Pillow does it."""
    height, width = samples.shape[:2]
    return np.asarray(Image.frombytes("CMYK", (width, height), samples.tobytes()).convert("RGB"))
