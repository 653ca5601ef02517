"""Maps of large images from overlapping windows: one id an object, one scale of values.

What a network makes of a window stands alone: its ids mean nothing next door, and its relative
depth has a scale and shift of its own. ``utils.mosaic`` brings the windows together.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from models.structure.segments import canonical
from utils.boxes import window_starts
from utils.mosaic import (
    Box,
    Layout,
    align,
    blend,
    join_segments,
    lay_out,
    match_segments,
    overlap_moments,
    overlap_of,
    paste,
)

if TYPE_CHECKING:  # it builds the generators, this one too
    from models.structure.build import StructureGenerator


class Joined(NamedTuple):
    """A map, and how well the windows agreed of which it was made."""

    map: np.ndarray  # (H, W) as the generator makes it
    residual: float | None  # of values: RMS difference where windows overlap, in units of the map;
    # None where nothing was aligned: segments, or an image of one window


class Windowed:
    """A generator that sees large images in windows.

    An image that is no larger than a window goes to the generator as it is. A larger one is cut
    into windows of one size, evenly spread, whose maps are all held in memory. With what is made of
    them that is four to five 32-bit maps of the whole image while the overlap is at most a quarter
    of a window, and eight where it is half of one.

    Args:
        generator: what makes the map of a window.
        window_px: side of a window; a side of the image that is shorter is taken whole.
        overlap_px: least number of pixels that neighbours share, from 1 to below ``window_px``.
            What windows make of these pixels joins their segments and aligns their values.
    """

    def __init__(self, generator: "StructureGenerator", *, window_px: int, overlap_px: int) -> None:
        if not 0 < overlap_px < window_px:
            raise ValueError(
                f"overlap_px is {overlap_px}; windows of {window_px} px must share at least 1 px "
                f"and less than {window_px}"
            )
        self._generator = generator
        self._window_px = window_px
        self._overlap_px = overlap_px
        self.kind: Literal["segments", "values"] = generator.kind
        self.weights_sha256 = generator.weights_sha256
        self.images_per_batch = generator.images_per_batch

    def generate(self, image: np.ndarray) -> np.ndarray:
        """Make the map of one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Segments: ``(H, W)`` uint16 ids, canonical. Values: ``(H, W)`` float32.

        Raises:
            DataError: more segments than a 16-bit map can hold.
        """
        return self.generate_joined([image])[0].map

    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Make the maps of several images of any sizes, each as ``generate`` does."""
        return [joined.map for joined in self.generate_joined(images)]

    def generate_joined(self, images: Sequence[np.ndarray]) -> list[Joined]:
        """Make the maps as ``generate_batch`` does, with the residuals of their windows."""
        layouts = [self._windows(*image.shape[:2]) for image in images]
        small = [i for i, layout in enumerate(layouts) if len(layout.boxes) == 1]
        whole = self._generator.generate_batch([images[i] for i in small]) if small else []
        maps = dict(zip(small, whole, strict=True))
        return [
            Joined(maps[i], None) if i in maps else self._join(image, layouts[i])
            for i, image in enumerate(images)
        ]

    def _windows(self, height: int, width: int) -> Layout:
        size = min(height, self._window_px), min(width, self._window_px)
        rows = window_starts(height, self._window_px, self._overlap_px)
        columns = window_starts(width, self._window_px, self._overlap_px)
        return lay_out([Box(top, left, *size) for top in rows for left in columns])

    def _join(self, image: np.ndarray, layout: Layout) -> Joined:
        cuts = [
            image[box.top_px : box.top_px + box.height_px, box.left_px : box.left_px + box.width_px]
            for box in layout.boxes
        ]
        maps: list[np.ndarray] = []
        for first in range(0, len(cuts), self.images_per_batch):
            maps += self._generator.generate_batch(cuts[first : first + self.images_per_batch])
        if self.kind == "values":
            return Joined(*join_values(layout, maps))
        return Joined(canonical(join_ids(layout, maps)), None)


def join_ids(layout: Layout, maps: Sequence[np.ndarray]) -> np.ndarray:
    """Bring the segment maps of all pieces of an image together.

    Args:
        layout: the pieces; together they cover the image.
        maps: ``(H, W)`` integer ids of each piece, 0 = no segment.

    Returns:
        ``(H, W)`` int32 of the whole image. Segments that agree where pieces overlap have one id;
        ids have gaps. A segment may have several parts.
    """
    pairs = {}
    for i, j in layout.pairs:
        one, other = overlap_of(layout.boxes[i], layout.boxes[j])
        pairs[i, j] = match_segments(maps[i][one], maps[j][other])
    tables = join_segments([int(ids.max()) for ids in maps], pairs)
    joint = np.zeros((layout.frame.height_px, layout.frame.width_px), dtype=np.int32)
    known = dict(enumerate(maps))
    for index in range(len(maps)):
        _place(joint, layout, index)[:] = paste(layout, index, known, tables)
    return joint


def join_values(layout: Layout, maps: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Bring the values of all pieces of an image to one scale and blend them.

    Args:
        layout: the pieces; together they cover the image.
        maps: ``(H, W)`` finite values of each piece, each with a scale and shift of its own.

    Returns:
        ``(H, W)`` float32 of the whole image, and the RMS difference of overlapping pieces after
        the alignment in units of that map (``utils.mosaic.Alignment``).
    """
    moments = {}
    for i, j in layout.pairs:
        one, other = overlap_of(layout.boxes[i], layout.boxes[j])
        moments[i, j] = overlap_moments(maps[i][one], maps[j][other])
    alignment = align(moments, len(maps))
    aligned = {index: alignment.apply(index, values) for index, values in enumerate(maps)}
    joint = np.zeros((layout.frame.height_px, layout.frame.width_px), dtype=np.float32)
    for index in range(len(maps)):
        _place(joint, layout, index)[:] = blend(layout, index, aligned)
    return joint, alignment.residual


def _place(joint: np.ndarray, layout: Layout, index: int) -> np.ndarray:
    """Where a piece lies in the joint map, as a view."""
    here, _ = overlap_of(layout.frame, layout.boxes[index])
    return joint[here]
