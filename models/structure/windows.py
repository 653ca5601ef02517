"""Structure maps of large images from overlapping windows: one id per object, one scale of values.

Windows are mapped independently: segment ids, and scale and shift of relative depth, are unrelated
between neighbours. ``utils.mosaic`` joins the windows.
"""

from collections.abc import Sequence

import numpy as np

from models.structure.generator import StructureGenerator
from models.structure.segments import canonical
from utils.boxes import Box, window_starts
from utils.mosaic import (
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


class Windowed(StructureGenerator):
    """A generator applied to large images in windows.

    An image no larger than a window is passed on unchanged. A larger one is cut into evenly spaced
    windows of one size, whose maps are all held in memory. Together with the intermediate results
    this takes four to five 32-bit maps of the image while the overlap is at most a quarter of a
    window, and eight where it is half of one.

    Args:
        generator: computes the map of a window.
        window_px: side of a window; a shorter side of the image is taken whole.
        overlap_px: minimum overlap of neighbours, 1 to ``window_px - 1``. Segments are matched, and
            values aligned, on the pixels of the overlaps.
    """

    def __init__(self, generator: StructureGenerator, *, window_px: int, overlap_px: int) -> None:
        self._generator = generator
        self._window_px = window_px
        self._overlap_px = overlap_px
        self.kind = generator.kind
        self.weights_sha256 = generator.weights_sha256
        self.images_per_batch = generator.images_per_batch

    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the maps of images of any sizes, as ``StructureGenerator`` says."""
        layouts = [self._windows(*image.shape[:2]) for image in images]
        small = [i for i, layout in enumerate(layouts) if len(layout.boxes) == 1]
        whole = self._generator.generate_batch([images[i] for i in small]) if small else []
        maps = dict(zip(small, whole, strict=True))
        return [
            maps[i] if i in maps else self._join(image, layouts[i])
            for i, image in enumerate(images)
        ]

    def _windows(self, height: int, width: int) -> Layout:
        size = min(height, self._window_px), min(width, self._window_px)
        rows = window_starts(height, self._window_px, self._overlap_px)
        columns = window_starts(width, self._window_px, self._overlap_px)
        return lay_out([Box(top, left, *size) for top in rows for left in columns])

    def _join(self, image: np.ndarray, layout: Layout) -> np.ndarray:
        """Compute the maps of the windows of an image, and join them to one map."""
        crops = [image[box.slices] for box in layout.boxes]
        maps: list[np.ndarray] = []
        for first in range(0, len(crops), self.images_per_batch):
            maps += self._generator.generate_batch(crops[first : first + self.images_per_batch])
        overlaps = {}  # of two windows: views of both maps
        for i, j in layout.pairs:
            one, other = overlap_of(layout.boxes[i], layout.boxes[j])
            overlaps[i, j] = maps[i][one], maps[j][other]
        joint: np.ndarray
        if self.kind == "values":  # align them to one scale, and blend
            moments = {pair: overlap_moments(*both) for pair, both in overlaps.items()}
            alignment = align(moments, len(maps))
            aligned = {index: alignment.apply(index, values) for index, values in enumerate(maps)}
            joint = np.zeros(image.shape[:2], dtype=np.float32)
            for index, box in enumerate(layout.boxes):
                joint[box.slices] = blend(layout, index, aligned)
            return joint
        # Segments that agree where windows overlap get one id.
        matches = {pair: match_segments(*both) for pair, both in overlaps.items()}
        tables = join_segments([int(ids.max()) for ids in maps], matches)
        by_index = dict(enumerate(maps))
        joint = np.zeros(image.shape[:2], dtype=np.int32)
        for index, box in enumerate(layout.boxes):
            joint[box.slices] = paste(layout, index, by_index, tables)
        return canonical(joint)
