"""Class indices of a whole scene, from the top down: read, map, predict, a piece at a time."""

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from utils.evaluation.evaluate import Members, Predictor
from utils.evaluation.sliding_window import Window
from utils.inference.chunks import Piece, Pieces
from utils.threads import Stopwatch, read_ahead

# Rows and columns of an image -> their pixels (h, w, 3) uint8 RGB.
Read = Callable[[slice, slice], np.ndarray]
# A piece and its pixels -> ids or levels (h, w) uint16 by store.
MakeMaps = Callable[[Piece, np.ndarray], dict[str, np.ndarray]]


def segment_strips(
    predictor: Predictor,
    pieces: Pieces,
    size: tuple[int, int],
    read: Read,
    make_maps: MakeMaps,
    watch: Stopwatch,
    part: slice | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Logits of an image of any size from the top down.

    Pieces are read, and their maps made, while the network works on the ones before. Memory grows
    with the width of the image: two rows of pieces, and the logits of one row of windows.

    Args:
        predictor: the network.
        pieces: of the image, by the windows of the predictor.
        size: height and width of the image.
        read: called in a thread, for one piece after the other.
        make_maps: called in that thread, too.
        watch: is told the seconds of ``read``, ``structure`` and ``wait`` (for both).
        part: rows that are wanted; None: all.

    Yields:
        Rows, and their logits ``(C, rows, W)`` float32 on the predictor's device.
    """
    rows = slice(0, size[0]) if part is None else part

    def load(piece: Piece) -> tuple[Piece, Members]:
        with watch.time("read"):
            pixels = read(piece.rows, piece.columns)
        with watch.time("structure"):
            maps = make_maps(piece, pixels)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 0).unsqueeze(0)
        return piece, (image, {s: torch.from_numpy(m).unsqueeze(0) for s, m in maps.items()}, None)

    held: dict[tuple[int, int], tuple[Piece, Members]] = {}

    def cut(window: Window) -> Members:
        corner = pieces.around(window).corner
        while corner not in held:
            with watch.time("wait"):
                loaded = next(coming)
            top = loaded[0].rows.start
            for done in [other for other in held if other[0] < top]:
                del held[done]  # windows come row by row: no further one is in it
            held[loaded[0].corner] = loaded
        piece, (image, maps, _) = held[corner]
        inside = (
            ...,
            slice(window[0].start - piece.rows.start, window[0].stop - piece.rows.start),
            slice(window[1].start - piece.columns.start, window[1].stop - piece.columns.start),
        )
        return image[inside], {store: levels[inside] for store, levels in maps.items()}, None

    ahead = pieces.num_across + 1  # those of the next row, while this one is predicted
    with closing(read_ahead(load, pieces.of(rows), num_threads=1, ahead=ahead)) as coming:
        yield from predictor.strips_of(size, cut, rows)


def confidence_of(logits: Tensor) -> np.ndarray:
    """Its softmax probability in steps of 1/255: ``(C, H, W)`` -> ``(H, W)`` uint8."""
    best = 1 / (logits - logits.max(0).values).exp_().sum(0)
    return (255 * best).round().to(torch.uint8).cpu().numpy()
