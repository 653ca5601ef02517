"""Sliding-window prediction, stitching of tiles, and test-time augmentation."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import Box, cell_grid, ramp, window_starts
from utils.geometry import cut_cells, dihedral, resize, resize_levels, resize_nearest, undo_dihedral


def window_weights(length_px: int, window_px: int, overlap_px: int) -> dict[int, Tensor]:
    """Return the blending weights of the windows along one axis, normalised to sum to one.

    A window's weight is 1 inside and falls linearly towards its ends over ``overlap_px``, where its
    context is one-sided; it is then divided by the sum over all windows of the pixel. A single
    window has a weight of exactly 1. In two dimensions the weights of rows and columns multiply.

    Returns:
        ``(window,)`` float32 in (0, 1] by the start of the window.
    """
    starts = window_starts(length_px, window_px, overlap_px)
    side = min(window_px, length_px)
    weight = torch.from_numpy(ramp(side, overlap_px, overlap_px))
    total = torch.zeros(length_px)
    for start in starts:
        total[start : start + side] += weight
    return {start: weight / total[start : start + side] for start in starts}


def predict_strips(
    forward: Callable[[list[Box]], Tensor],
    *,
    size: tuple[int, int],
    window_px: int,
    overlap_px: int,
    batch_size: int,
    part: slice = slice(None),
    is_wanted: Callable[[Box], bool] | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Average the logits of all windows, in strips from the top of the image down.

    A strip is yielded as soon as no further window covers its rows, and is then released: memory
    grows with the width of the image and the height of the windows of one batch, not with the
    height of the image, nor with rows that no wanted window covers.

    Args:
        forward: windows of one size -> their logits ``(N, C, h, w)``.
        size: height and width of the image.
        window_px: side of the windows; a smaller image is one window of its own size.
        overlap_px: least overlap of neighbouring windows, below ``window_px``.
        batch_size: windows per call, which may lie in several rows of windows.
        part: requested rows of the image; windows that do not cover any are skipped.
        is_wanted: tells windows that are predicted; None: all are. Pixels that only wanted windows
            cover have the same logits as if all were; those that none covers have logits of 0.

    Yields:
        Rows of the image, those of ``part`` that a wanted window covers in ascending order, and
        their logits ``(C, rows, width)`` float32 on the device of ``forward``.
    """
    weights = [window_weights(length, window_px, overlap_px) for length in size]
    height, width = (min(window_px, length) for length in size)
    begin, end, _ = part.indices(size[0])
    boxes = (
        Box(top, left, height, width)
        for top in weights[0]
        if top < end and top + height > begin
        for left in weights[1]
    )
    windows = [window for window in boxes if is_wanted is None or is_wanted(window)]
    for run in _runs(windows):
        for rows, logits in _predict_run(forward, run, size[1], weights, batch_size):
            if rows.start < end and rows.stop > begin:
                first, last = max(begin - rows.start, 0), min(rows.stop, end) - rows.start
                yield slice(rows.start + first, rows.start + last), logits[:, first:last]
            del logits  # released before the next ones are computed


def _runs(windows: Sequence[Box]) -> Iterator[list[Box]]:
    """Split windows, ordered by first row, where a row of the image lies in none of them."""
    run: list[Box] = []
    for window in windows:
        if run and window.top_px > run[-1].bottom_px:
            yield run
            run = []
        run.append(window)
    if run:
        yield run


def _predict_run(
    forward: Callable[[list[Box]], Tensor],
    windows: list[Box],
    width: int,
    weights: Sequence[dict[int, Tensor]],
    batch_size: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield all rows of windows of one height that leave no row out; see ``predict_strips``."""
    # Weighted sums of the rows from ``done`` on, as far down as a window has reached.
    held, done = None, windows[0].top_px
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        logits = forward(batch).float()
        if held is None:
            held = logits.new_zeros(logits.shape[1], 0, width)
            weights = [{s: x.to(logits.device) for s, x in axis.items()} for axis in weights]
        held = _with_rows(held, batch[-1].bottom_px - done)
        for window, each in zip(batch, logits, strict=True):
            weight = weights[0][window.top_px].unsqueeze(1) * weights[1][window.left_px]
            rows, columns = window.slices
            held[:, rows.start - done : rows.stop - done, columns].addcmul_(each, weight)
        del logits, each  # released before the next ones are computed
        last = first + batch_size >= len(windows)
        complete = batch[-1].bottom_px if last else windows[first + batch_size].top_px
        if complete > done:
            rows, finished = slice(done, complete), held[:, : complete - done]
            held, done = held[:, complete - done :].clone(), complete
            yield rows, finished
            del finished  # a view that keeps all the sums it was cut from alive


_NO_WEIGHT = 1e-30  # divisor of a pixel outside all tiles, whose sums are 0


def tile_weights(spans: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
    """Return the unnormalised blending weights of each tile along one axis.

    The weight is 1 inside and falls linearly over the pixels shared with a neighbour; where two
    tiles overlap, their weights sum to one. It does not fall at an end without a neighbour.

    Args:
        spans: first pixel of each tile along this axis, and the pixel behind its last one.

    Returns:
        ``(length,)`` float32 in (0, 1] by span.
    """
    known = sorted(set(spans))
    weights = {}
    for start, stop in known:
        before = max((b - start for a, b in known if a < start < b < stop), default=0)
        after = max((stop - a for a, b in known if start < a < stop < b), default=0)
        weights[start, stop] = torch.from_numpy(ramp(stop - start, before, after))
    return weights


def stitch(
    tiles: Sequence[Box], predictions: Iterable[Iterator[tuple[slice, Tensor]]], delay_px: int
) -> Iterator[tuple[slice, Tensor]]:
    """Average the logits of overlapping tiles, in strips from the top of the image down.

    Rows are yielded as soon as no further tile covers them, and are then released: memory grows
    with the width of the image and the height of its tiles. A single tile, and tiles that do not
    overlap, keep their logits bit for bit. Pixels outside all tiles have logits of 0.

    Args:
        tiles: place of each tile, ordered by first row.
        predictions: for each tile, from the top down: rows *of the tile* and their logits
            ``(C, rows, columns)`` float32. The next tile is requested when one is complete.
        delay_px: rows held back above the next tile, for consumers that look beyond a row.

    Yields:
        Rows of the image and their logits ``(C, rows, width)`` float32.
    """
    if len(tiles) == 1:
        for strips in predictions:
            yield from strips
        return
    down = tile_weights((tile.top_px, tile.bottom_px) for tile in tiles)
    across = tile_weights((tile.left_px, tile.right_px) for tile in tiles)
    height, width = max(tile.bottom_px for tile in tiles), max(tile.right_px for tile in tiles)
    held, done = None, 0  # sums of the rows from ``done`` on; the last channel sums the weights
    for number, (tile, strips) in enumerate(zip(tiles, predictions, strict=True)):
        columns = tile.slices[1]
        for strip, logits in strips:
            if held is None:
                held = logits.new_zeros(len(logits) + 1, 0, width)
            held = _with_rows(held, tile.bottom_px - done)
            weight = down[tile.top_px, tile.bottom_px][strip].unsqueeze(1)
            weight = (weight * across[tile.left_px, tile.right_px]).to(logits.device)
            first = tile.top_px - done
            place = held[:, first + strip.start : first + strip.stop, columns]
            place[:-1].addcmul_(logits, weight)
            place[-1] += weight
        is_last = number + 1 == len(tiles)
        complete = height if is_last else tiles[number + 1].top_px - delay_px
        if held is not None and complete > done:
            sums = _with_rows(held, complete - done)
            held = sums[:, complete - done :].clone()
            sums = sums[:, : complete - done]
            yield slice(done, complete), sums[:-1].div_(sums[-1].clamp(min=_NO_WEIGHT))
            del sums
            done = complete


def _with_rows(held: Tensor, num_rows: int) -> Tensor:
    """Return ``held`` with at least ``num_rows`` rows; appended ones are 0."""
    num_new = num_rows - held.shape[1]
    return F.pad(held, (0, 0, 0, num_new)) if num_new > 0 else held


# Symmetries of the square, by number: quarter turns, from 4 on mirrored as well.
_TURNS = {1: (0,), 2: (0, 4), 8: tuple(range(8))}


@dataclass(frozen=True, kw_only=True)
class View:
    """Augmentation of a window at test time: resized, then turned."""

    scale: float  # side of the network's input over side of the window
    turn: int  # 0..7, a symmetry of the square; 0 is the identity

    def photo(self, photo: Tensor) -> Tensor:
        """Transform an image ``(N, 3, H, W)`` float: bilinear, antialiased where it shrinks."""
        return dihedral(resize(photo, self._zoomed(photo.shape[-2:])), self.turn)

    def ids(self, ids: Tensor) -> Tensor:
        """Transform segment ids ``(N, H, W)`` int: those of the nearest pixel centres."""
        return dihedral(resize_nearest(ids, self._zoomed(ids.shape[-2:])), self.turn)

    def levels(self, levels: Tensor) -> Tensor:
        """Transform levels ``(N, H, W)`` int, 0 = no data, as ``resize_levels`` does."""
        return dihedral(resize_levels(levels, self._zoomed(levels.shape[-2:])), self.turn)

    def cells(self, cells: Tensor, size: tuple[int, int], cell_px: int) -> Tensor:
        """Transform the cells ``(N, K, gh, gw)`` of windows of a size, as ``cut_cells`` does.

        Cells keep their side in pixels of the network's input, so there are more in a larger view.
        """
        out = cell_grid(self._zoomed(size), cell_px)
        return dihedral(cut_cells(cells, size, Box(0, 0, *size), out), self.turn)

    def undo(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits of the window of ``size`` from those of the view, ``(N, C, h, w)``."""
        return resize(undo_dihedral(logits, self.turn), size)

    def _zoomed(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = (max(1, round(self.scale * length)) for length in size)
        return height, width


def views(scales: Sequence[float], num_turns: int) -> list[View]:
    """Return all views of a recipe; 2 turns are also mirrored, 8 all flips and quarter turns."""
    return [View(scale=scale, turn=turn) for scale in scales for turn in _TURNS[num_turns]]


def mean_logits(predictions: Iterator[Tensor], number: int) -> Tensor:
    """Return the logarithm of the mean of the softmax of several predictions.

    The softmax of the result is that mean. A single prediction is returned unchanged.

    Args:
        predictions: logits ``(N, C, H, W)`` of the same pixels, computed one at a time.
        number: of predictions.
    """
    if number == 1:
        return next(predictions)
    total = next(predictions).float().log_softmax(1)
    for logits in predictions:
        total = torch.logaddexp(total, logits.float().log_softmax(1))
    return total - math.log(number)
