"""Chunks of a large image: groups of prediction windows that share one set of structure maps.

Every window lies in exactly one chunk, and neighbouring chunks overlap as their windows do. So maps
need no joining, memory does not grow with the image, and windows of two chunks are blended like any
others, without a seam.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from utils.boxes import Box, window_starts

# Largest side of a chunk, unless a window is larger. An image up to this size is one chunk. Chunks
# overlap, so 14 % of the pixels get two maps with windows of 512 px that overlap by 128 px; larger
# chunks would lower that and take more memory.
CHUNK_PX = 2048
# A map holds 65,535 segments. Superpixels of noise are twice as many as their grid has cells.
_SEGMENTS_ACROSS = 128


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Pixels of a chunk along one axis, and the starts of its windows."""

    pixels: slice
    starts: tuple[int, ...]


class ChunkGrid:
    """The chunks of one image.

    Args:
        size: height and width of the image.
        window_px: side of the prediction windows.
        overlap_px: least overlap of neighbouring windows.
        segment_px: side of a superpixel if the maps hold superpixels, which limits the chunks.
    """

    def __init__(
        self,
        size: tuple[int, int],
        window_px: int,
        overlap_px: int,
        segment_px: int | None = None,
    ) -> None:
        side_px = CHUNK_PX
        if segment_px is not None:
            side_px = min(side_px, _SEGMENTS_ACROSS * segment_px)
        self._rows, self._columns = (
            _spans(length, window_px, overlap_px, side_px) for length in size
        )
        self._height = min(window_px, size[0])

    @property
    def num_across(self) -> int:
        """Chunks in a row."""
        return len(self._columns)

    def covering(self, rows: slice) -> Iterator[Box]:
        """Yield the chunks of all windows that touch some rows, in the order of these windows."""
        for span in self._rows:
            if any(top < rows.stop and top + self._height > rows.start for top in span.starts):
                for columns in self._columns:
                    yield _box(span.pixels, columns.pixels)

    def of_window(self, window: Box) -> Box:
        """Return the chunk that a window belongs to."""
        rows, columns = (
            next(span.pixels for span in spans if start in span.starts)
            for spans, start in ((self._rows, window.top_px), (self._columns, window.left_px))
        )
        return _box(rows, columns)

    def split_rows(self, num_parts: int) -> list[slice]:
        """Split the image's rows among ranks, where a new row of chunks begins.

        Returns:
            At most ``num_parts`` consecutive ranges of rows; fewer if there are fewer rows of
            chunks.
        """
        tops = [span.starts[0] for span in self._rows]
        num_parts = min(num_parts, len(tops))
        begins = [tops[index * len(tops) // num_parts] for index in range(num_parts)]
        ends = [*begins[1:], self._rows[-1].pixels.stop]
        return [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]


def _spans(length_px: int, window_px: int, overlap_px: int, side_px: int) -> list[_Span]:
    """Group the windows along one axis: as many in a chunk as fit in ``side_px``, at least one."""
    side = min(window_px, length_px)
    groups: list[list[int]] = []
    for start in window_starts(length_px, window_px, overlap_px):
        if groups and start + side - groups[-1][0] <= side_px:
            groups[-1].append(start)
        else:
            groups.append([start])
    return [
        _Span(pixels=slice(group[0], group[-1] + side), starts=tuple(group)) for group in groups
    ]


def _box(rows: slice, columns: slice) -> Box:
    return Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
