"""The rule by which overlapping masks become one segment map, spelled out mask by mask."""

from collections.abc import Sequence

import numpy as np


def paint_literally(masks: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Make one int32 map (0 = under no mask) of ``(H, W)`` bool masks that overlap and leave gaps.

    Larger masks are painted first, so a smaller mask lies over a larger one. Of two masks of equal
    area the one that holds the first pixel (in raster order) in which they differ lies on top, so
    the order of ``masks`` never matters. Numbers have gaps where a mask is hidden altogether.
    """
    keys = [(-int(mask.sum()), np.packbits(mask).tobytes()) for mask in masks]
    ids = np.zeros(shape, dtype=np.int32)
    for number, index in enumerate(sorted(range(len(keys)), key=keys.__getitem__), start=1):
        ids[masks[index]] = number
    return ids
