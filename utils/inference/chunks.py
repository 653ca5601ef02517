"""Chunks of a large image: groups of prediction windows that share one set of structure maps.

Every window lies in exactly one chunk, and neighbouring chunks overlap as their windows do. So maps
need no joining, memory does not grow with the image, and windows of two chunks are blended like any
others, without a seam.
"""

from collections.abc import Iterator, Sequence

from utils.boxes import Box, window_starts

# Largest side of a chunk, unless a window is larger. An image up to this size is one chunk. Chunks
# overlap, so 14 % of the pixels get two maps with windows of 512 px that overlap by 128 px; larger
# chunks would lower that and take more memory.
CHUNK_PX = 2048
# A map holds 65,535 segments. Superpixels of noise are twice as many as their grid has cells.
_SEGMENTS_ACROSS = 128


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
        self._height, self._width = (min(window_px, length) for length in size)
        # Starts of the windows of each row of chunks, and of each column of chunks.
        self._rows, self._columns = (
            _groups(window_starts(length, window_px, overlap_px), min(window_px, length), side_px)
            for length in size
        )

    @property
    def num_across(self) -> int:
        """Return the number of chunks in a row."""
        return len(self._columns)

    def covering(self, rows: slice) -> Iterator[Box]:
        """Yield the chunks of all windows that touch some rows, in the order of these windows."""
        for tops in self._rows:
            if any(top < rows.stop and top + self._height > rows.start for top in tops):
                for lefts in self._columns:
                    yield self._chunk(tops, lefts)

    def of_window(self, window: Box) -> Box:
        """Return the chunk that a window belongs to."""
        return self._chunk(
            next(tops for tops in self._rows if window.top_px in tops),
            next(lefts for lefts in self._columns if window.left_px in lefts),
        )

    def split_rows(self, num_parts: int) -> list[slice]:
        """Split the image's rows among ranks, where a new row of chunks begins.

        Returns:
            At most ``num_parts`` consecutive ranges of rows; fewer if there are fewer rows of
            chunks.
        """
        num_parts = min(num_parts, len(self._rows))
        firsts = [self._rows[index * len(self._rows) // num_parts] for index in range(num_parts)]
        ends = [*(tops[0] for tops in firsts[1:]), self._rows[-1][-1] + self._height]
        return [slice(tops[0], end) for tops, end in zip(firsts, ends, strict=True)]

    def _chunk(self, tops: Sequence[int], lefts: Sequence[int]) -> Box:
        """Return the rectangle of some windows."""
        height, width = tops[-1] - tops[0] + self._height, lefts[-1] - lefts[0] + self._width
        return Box(tops[0], lefts[0], height, width)


def _groups(starts: Sequence[int], window_px: int, side_px: int) -> list[list[int]]:
    """Group the windows along one axis: as many in a chunk as fit in ``side_px``, at least one."""
    groups: list[list[int]] = []
    for start in starts:
        if groups and start + window_px - groups[-1][0] <= side_px:
            groups[-1].append(start)
        else:
            groups.append([start])
    return groups
