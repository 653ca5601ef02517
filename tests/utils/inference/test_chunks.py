import itertools

import pytest

from utils.boxes import window_starts
from utils.inference.chunks import Piece, Pieces
from utils.inference.run import chunks as module

SIZES = [(1, 1), (64, 64), (2048, 3), (2049, 900), (5000, 4097), (400, 9000)]


def windows_of(size, window_px, overlap_px):
    sides = [
        [slice(s, s + min(window_px, n)) for s in window_starts(n, window_px, overlap_px)]
        for n in size
    ]
    return [*itertools.product(*sides)]


def holds(piece, window):
    return all(
        outer.start <= inner.start and inner.stop <= outer.stop
        for outer, inner in zip((piece.rows, piece.columns), window, strict=True)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window_px", "overlap_px"), [(512, 128), (640, 0), (1024, 700)])
def test_every_window_lies_in_its_piece_and_pieces_come_in_the_order_of_windows(
    size, window_px, overlap_px
):
    pieces = Pieces(size, window_px, overlap_px)
    order = [*pieces.of(slice(0, size[0]))]
    assert len({(p.rows.start, p.columns.start) for p in order}) == len(order)
    for window in windows_of(size, window_px, overlap_px):
        piece = pieces.around(window)
        assert holds(piece, window) and piece in order
        assert piece.rows.stop - piece.rows.start <= max(module.PIECE_PX, window_px)
        assert piece.columns.stop - piece.columns.start <= max(module.PIECE_PX, window_px)
    tops = [piece.rows.start for piece in order]
    assert tops == sorted(tops)


@pytest.mark.parametrize("size", [(1, 1), (2048, 2048), (2048, 7)])
def test_an_image_up_to_the_side_of_a_piece_is_one_piece(size):
    whole = Piece(rows=slice(0, size[0]), columns=slice(0, size[1]))
    assert [*Pieces(size, 512, 128).of(slice(0, size[0]))] == [whole]


def test_a_window_larger_than_a_piece_is_a_piece():
    pieces = Pieces((6000, 3000), 3000, 0)
    assert [p.rows for p in pieces.of(slice(0, 6000))] == [slice(0, 3000), slice(3000, 6000)]


def test_parts_need_the_pieces_of_their_windows_only():
    size, window_px, overlap_px = (9000, 5000), 512, 128
    pieces = Pieces(size, window_px, overlap_px)
    for part in (slice(0, 10), slice(1900, 2100), slice(4000, 9000)):
        needed = {
            (p.rows.start, p.columns.start)
            for w in windows_of(size, window_px, overlap_px)
            if w[0].start < part.stop and w[0].stop > part.start
            for p in [pieces.around(w)]
        }
        assert {(p.rows.start, p.columns.start) for p in pieces.of(part)} == needed


@pytest.mark.parametrize("number", [1, 2, 3, 7, 100])
def test_shares_are_the_rows_of_the_image_once(number):
    pieces = Pieces((9000, 700), 512, 128)
    shares = pieces.shares(number)
    assert 1 <= len(shares) <= number
    rows = [row for share in shares for row in range(share.start, share.stop)]
    assert rows == [*range(9000)]
    if number in (2, 3):  # balanced within one row of pieces
        heights = [share.stop - share.start for share in shares]
        assert len(heights) == number and max(heights) - min(heights) <= 2 * module.PIECE_PX
    assert Pieces((100, 100), 512, 128).shares(4) == [slice(0, 100)]


def test_pieces_of_small_superpixels_are_small():
    """So that a map of noise, with two segments a cell, does not hold more than it can."""
    for segment_px, side_px in ((8, 1024), (16, 2048), (100, 2048)):
        found = [*Pieces((9000, 9000), 256, 32, segment_px).of(slice(0, 9000))]
        sides = [piece.rows.stop - piece.rows.start for piece in found]
        assert side_px - 256 < max(sides) <= side_px
        assert 2 * (max(sides) / segment_px) ** 2 < 65536
