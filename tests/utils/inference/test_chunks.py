"""Chunks of large images: every window lies in one, and they come in the order of the windows."""

import pytest

from utils.boxes import Box, window_starts
from utils.inference import chunks
from utils.inference.chunks import ChunkGrid


def windows_of(size, window_px, overlap_px):
    sides = [min(window_px, length) for length in size]
    tops, lefts = (window_starts(length, window_px, overlap_px) for length in size)
    return [Box(top, left, *sides) for top in tops for left in lefts]


def holds(chunk, window):
    inside = chunk.top_px <= window.top_px and window.bottom_px <= chunk.bottom_px
    return inside and chunk.left_px <= window.left_px and window.right_px <= chunk.right_px


@pytest.mark.parametrize("size", [(2048, 3), (2049, 900), (5000, 4097), (400, 9000)])
@pytest.mark.parametrize(("window_px", "overlap_px"), [(512, 128), (640, 0), (1024, 700)])
def test_every_window_lies_in_its_chunk_and_chunks_come_in_the_order_of_windows(
    size, window_px, overlap_px
):
    grid = ChunkGrid(size, window_px, overlap_px)
    order = [*grid.covering(slice(0, size[0]))]
    corners = [(chunk.top_px, chunk.left_px) for chunk in order]
    assert corners == sorted(set(corners))
    assert grid.num_across == len({left for _, left in corners})
    windows = windows_of(size, window_px, overlap_px)
    for window in windows:
        chunk = grid.of_window(window)
        assert holds(chunk, window) and chunk in order
        assert max(chunk.height_px, chunk.width_px) <= max(chunks.CHUNK_PX, window_px)
    for rows in (slice(0, 10), slice(300, 400), slice(size[0] - 1, size[0])):
        needed = {
            grid.of_window(window)
            for window in windows
            if window.top_px < rows.stop and window.bottom_px > rows.start
        }
        assert {*grid.covering(rows)} == needed


@pytest.mark.parametrize(
    ("size", "window_px", "expected"),
    [
        ((1, 1), 512, [Box(0, 0, 1, 1)]),
        ((2048, 2048), 512, [Box(0, 0, 2048, 2048)]),  # one chunk up to that side
        ((6000, 3000), 3000, [Box(0, 0, 3000, 3000), Box(3000, 0, 3000, 3000)]),
    ],
)
def test_chunks_by_hand(size, window_px, expected):
    assert [*ChunkGrid(size, window_px, 0).covering(slice(0, size[0]))] == expected


@pytest.mark.parametrize("num_parts", [1, 2, 3, 100])
def test_ranks_split_the_rows_of_an_image(num_parts):
    parts = ChunkGrid((9000, 700), 512, 128).split_rows(num_parts)
    rows = [row for part in parts for row in range(part.start, part.stop)]
    assert rows == [*range(9000)]
    assert len(parts) == min(num_parts, 5)  # rows of chunks
    heights = [part.stop - part.start for part in parts]
    assert max(heights) - min(heights) <= chunks.CHUNK_PX
    assert ChunkGrid((100, 100), 512, 128).split_rows(4) == [slice(0, 100)]


@pytest.mark.parametrize(("segment_px", "side_px"), [(8, 1024), (100, 2048)])
def test_chunks_of_small_superpixels_are_small(segment_px, side_px):
    """A map of noise, with two segments a cell, must not hold more than 65,535 segments."""
    found = [*ChunkGrid((9000, 9000), 256, 32, segment_px).covering(slice(0, 9000))]
    largest = max(chunk.height_px for chunk in found)
    assert side_px - 256 < largest <= side_px
    assert 2 * (largest / segment_px) ** 2 < 65536
