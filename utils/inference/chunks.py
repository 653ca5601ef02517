"""Pieces of an image that is too large for one structure map: every window lies in one of them.

Pieces are groups of neighbouring prediction windows, and overlap as these do. Each gets maps of its
own, so nothing has to be joined, memory does not grow with the image, and where pieces meet,
windows with other maps are blended like any others: there is no seam.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from utils.boxes import window_starts
from utils.evaluation.sliding_window import Window

# Largest side of a piece, unless a window is larger. An image up to it is one piece. Larger pieces
# make maps of fewer pixels twice: 14 % with windows of 512 px that share 128 px.
PIECE_PX = 2048
# A map holds 65,535 segments. Superpixels of noise are twice as many as their grid has cells.
_SEGMENTS_ACROSS = 128


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an image."""

    rows: slice
    columns: slice

    @property
    def corner(self) -> tuple[int, int]:
        """Its first row and column, which no other piece of the image shares."""
        return self.rows.start, self.columns.start


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Pixels along one side, and the starts of the windows that belong to them."""

    pixels: slice
    starts: tuple[int, ...]


class Pieces:
    """The pieces of one image.

    Args:
        size: height and width of the image.
        window_px: side of the windows it is predicted in.
        overlap_px: least number of pixels that neighbouring windows share.
        segment_px: side of a superpixel, if maps of them are made.
    """

    def __init__(
        self,
        size: tuple[int, int],
        window_px: int,
        overlap_px: int,
        segment_px: int | None = None,
    ) -> None:
        side_px = PIECE_PX
        if segment_px is not None:
            side_px = min(side_px, _SEGMENTS_ACROSS * segment_px)
        self._rows, self._columns = (
            _spans(length, window_px, overlap_px, side_px) for length in size
        )
        self._height = min(window_px, size[0])

    @property
    def num_across(self) -> int:
        """Pieces beside each other."""
        return len(self._columns)

    def of(self, part: slice) -> Iterator[Piece]:
        """The pieces that the windows of some rows lie in, in the order of these windows."""
        for span in self._rows:
            if any(top < part.stop and top + self._height > part.start for top in span.starts):
                for columns in self._columns:
                    yield Piece(rows=span.pixels, columns=columns.pixels)

    def around(self, window: Window) -> Piece:
        """The piece that a window belongs to."""
        rows, columns = (
            next(span.pixels for span in spans if side.start in span.starts)
            for spans, side in zip((self._rows, self._columns), window, strict=True)
        )
        return Piece(rows=rows, columns=columns)

    def shares(self, number: int) -> list[slice]:
        """Rows of the image for each of some processes; few pieces are needed by two of them.

        There are fewer shares where there are fewer rows of pieces.
        """
        tops = [span.starts[0] for span in self._rows]
        number = min(number, len(tops))
        begins = [0, *(tops[index * len(tops) // number] for index in range(1, number))]
        ends = [*begins[1:], self._rows[-1].pixels.stop]
        return [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]


def _spans(length_px: int, window_px: int, overlap_px: int, side_px: int) -> list[_Span]:
    """Group windows along one side: as many in a piece as fit, one at least."""
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
