"""Prediction of images of any size in overlapping windows that are averaged without seams."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import nearest_pixels, window_starts

Window = tuple[slice, slice]  # rows, columns


def window_shares(length_px: int, window_px: int, overlap_px: int) -> dict[int, Tensor]:
    """What every window along one side says in the mean, by its start, ``(window,)`` in (0, 1].

    A window's weight is 1 inside and falls linearly towards its ends over ``overlap_px``: it says
    least where it sees least. The shares of all windows at a pixel sum to one; where there is one
    window, its share is exactly 1. In two dimensions the shares of rows and columns are multiplied.
    """
    starts = window_starts(length_px, window_px, overlap_px)
    side = min(window_px, length_px)
    position = torch.arange(1, side + 1, dtype=torch.float32)
    nearest = torch.minimum(position, side + 1 - position)
    weight = (nearest / (overlap_px + 1)).clamp(max=1)
    total = torch.zeros(length_px)
    for start in starts:
        total[start : start + side] += weight
    return {start: weight / total[start : start + side] for start in starts}


def predict_strips(
    forward: Callable[[list[Window]], Tensor],
    *,
    size: tuple[int, int],
    window_px: int,
    overlap_px: int,
    batch_size: int,
    part: slice = slice(None),
) -> Iterator[tuple[slice, Tensor]]:
    """Weighted mean of the logits of all windows, in strips from the top of the image down.

    A strip comes as soon as no further window touches its rows, and is forgotten: the memory grows
    with the width of the image and the height of the windows of one batch, not with the image.

    Args:
        forward: windows of one size -> their logits ``(N, C, h, w)``.
        size: height and width of the image.
        window_px: side of the windows; an image that is smaller is one window of its own size.
        overlap_px: least number of pixels that neighbours share, below ``window_px``.
        batch_size: windows a call; they may lie in several rows of windows.
        part: rows of the image that are wanted; windows that do not touch them are left out.

    Yields:
        Rows of the image, those of ``part`` one after the other, and their logits
        ``(C, rows, width)``, float32 where ``forward`` has them.
    """
    shares = [window_shares(length, window_px, overlap_px) for length in size]
    height, width = (min(window_px, length) for length in size)
    begin, end, _ = part.indices(size[0])
    windows = [
        (slice(top, top + height), slice(left, left + width))
        for top in shares[0]
        if top < end and top + height > begin
        for left in shares[1]
    ]
    # Sums of the rows from ``done`` on, as far as a window touched them.
    held, done = None, windows[0][0].start
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        logits = forward(batch).float()
        if held is None:
            held = logits.new_zeros(logits.shape[1], 0, size[1])
            shares = [{s: x.to(logits.device) for s, x in axis.items()} for axis in shares]
        if num_new := batch[-1][0].stop - done - held.shape[1]:
            held = F.pad(held, (0, 0, 0, num_new))
        for (rows, columns), each in zip(batch, logits, strict=True):
            share = shares[0][rows.start].unsqueeze(1) * shares[1][columns.start]
            held[:, rows.start - done : rows.stop - done, columns].addcmul_(each, share)
        del logits, each  # not held while the next ones are made
        last = first + batch_size >= len(windows)
        untouched = batch[-1][0].stop if last else windows[first + batch_size][0].start
        if untouched > done:
            rows = slice(max(done, begin), min(untouched, end))
            finished = held[:, max(rows.start - done, 0) : rows.stop - done]
            held, done = held[:, untouched - done :].clone(), untouched
            if rows.start < rows.stop:
                yield rows, finished
            del finished  # with all of the sums it was cut from


_NOTHING = 1e-30  # weight of a pixel that no tile covers: its logits are 0


def side_weights(spans: Iterable[slice]) -> dict[tuple[int, int], Tensor]:
    """What every tile says along one side, before the weights of a pixel are made to sum to one.

    The weight is 1 inside and falls linearly over the pixels that a tile shares with a neighbour,
    towards the end where it sees least; where two tiles overlap, their weights sum to one. An end
    without a neighbour does not fall.

    Args:
        spans: first and last pixel of the tiles along this side.

    Returns:
        ``(length,)`` float32 in (0, 1] by start and stop.
    """
    known = sorted({(span.start, span.stop) for span in spans})
    weights = {}
    for start, stop in known:
        shared_before = max((b - start for a, b in known if a < start < b < stop), default=0)
        shared_after = max((stop - a for a, b in known if start < a < stop < b), default=0)
        position = torch.arange(1, stop - start + 1, dtype=torch.float32)
        rising = position / (shared_before + 1)
        falling = position.flip(0) / (shared_after + 1)
        weights[start, stop] = torch.minimum(rising, falling).clamp(max=1)
    return weights


def stitch(
    windows: Sequence[Window], predictions: Iterable[Iterator[tuple[slice, Tensor]]], late_px: int
) -> Iterator[tuple[slice, Tensor]]:
    """Weighted mean of the logits of all tiles, in strips from the top of the image down.

    Rows come as soon as no further tile touches them, and are forgotten: the memory grows with the
    width of the image and the height of its tiles. A single tile, and tiles that do not overlap,
    are given bit by bit as they are. Pixels that no tile covers have logits of 0.

    Args:
        windows: rows and columns of every tile, by their first row.
        predictions: of each, from the top down: rows *of the tile* and their logits
            ``(C, rows, columns)`` float32. The next ones are asked for when one is done.
        late_px: rows that are held back above the next tile, for what looks further than a pixel.

    Yields:
        Rows of the image and their logits ``(C, rows, width)`` float32.
    """
    if len(windows) == 1:
        for strips in predictions:
            yield from strips
        return
    down = side_weights(rows for rows, _ in windows)
    across = side_weights(columns for _, columns in windows)
    height, width = (max(window[axis].stop for window in windows) for axis in (0, 1))
    held, done = None, 0  # sums of the rows from ``done`` on, and of their weights
    for number, ((rows, columns), strips) in enumerate(zip(windows, predictions, strict=True)):
        for strip, logits in strips:
            if held is None:
                held = logits.new_zeros(len(logits) + 1, 0, width)
            held = _with_rows(held, rows.stop - done)
            weight = down[rows.start, rows.stop][strip].unsqueeze(1)
            weight = (weight * across[columns.start, columns.stop]).to(logits.device)
            first = rows.start - done
            place = held[:, first + strip.start : first + strip.stop, columns]
            place[:-1].addcmul_(logits, weight)
            place[-1] += weight
        is_last = number + 1 == len(windows)
        untouched = height if is_last else windows[number + 1][0].start - late_px
        if held is not None and untouched > done:
            sums = _with_rows(held, untouched - done)
            held = sums[:, untouched - done :].clone()
            sums = sums[:, : untouched - done]
            yield slice(done, untouched), sums[:-1].div_(sums[-1].clamp(min=_NOTHING))
            del sums
            done = untouched


def _with_rows(held: Tensor, num_rows: int) -> Tensor:
    """At least so many rows; new ones are 0."""
    num_new = num_rows - held.shape[1]
    return F.pad(held, (0, 0, 0, num_new)) if num_new > 0 else held


# Symmetries of the square, by number: quarter turns, from 4 on mirrored as well.
_TURNS = {1: (0,), 2: (0, 4), 8: tuple(range(8))}


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at a window: zoomed, then turned.

    Attributes:
        scale: side of what the network sees over side of the window.
        turn: 0..7, a symmetry of the square; 0 changes nothing.
    """

    scale: float
    turn: int

    def photo(self, photo: Tensor) -> Tensor:
        """``(N, 3, H, W)`` float, bilinear, averaged when it gets smaller."""
        return _turn(_resize(photo, self._zoomed(photo)), self.turn)

    def ids(self, ids: Tensor) -> Tensor:
        """``(N, H, W)`` int segment ids: of the pixel whose centre is nearest."""
        for axis, length in zip((-2, -1), self._zoomed(ids), strict=True):
            if length != ids.shape[axis]:
                kept = torch.from_numpy(nearest_pixels(ids.shape[axis], length))
                ids = ids.index_select(axis, kept.to(ids.device))
        return _turn(ids, self.turn)

    def levels(self, levels: Tensor) -> Tensor:
        """``(N, H, W)`` int levels, 0 = no data: like a photo, but none where less than half is."""
        size = self._zoomed(levels)
        if size != levels.shape[-2:]:
            has_data = _resize((levels > 0).float().unsqueeze(1), size)
            mean = _resize(levels.float().unsqueeze(1), size) / has_data.clamp(min=1e-6)
            levels = torch.where(has_data >= 0.5, mean.round(), 0).squeeze(1).to(levels.dtype)
        return _turn(levels, self.turn)

    def undo(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits ``(N, C, h, w)`` of what was seen -> those of the window of ``size``."""
        if self.turn >= 4:
            logits = logits.flip(-1)
        return _resize(_turn(logits, -self.turn % 4), size)

    def _zoomed(self, x: Tensor) -> tuple[int, int]:
        height, width = (max(1, round(self.scale * length)) for length in x.shape[-2:])
        return height, width


def views(scales: Sequence[float], num_turns: int) -> list[View]:
    """All views of a recipe.

    Args:
        scales: zooms.
        num_turns: 1: none; 2: also mirrored; 8: all flips and quarter turns.
    """
    return [View(scale=scale, turn=turn) for scale in scales for turn in _TURNS[num_turns]]


def mean_logits(predictions: Iterator[Tensor], number: int) -> Tensor:
    """Logits ``(N, C, H, W)`` of the same pixels -> the logarithm of the mean of their softmax.

    The softmax of the result is that mean. A single prediction is returned as it is.

    Args:
        predictions: made one after the other, so that few are in memory at a time.
        number: of predictions.
    """
    if number == 1:
        return next(predictions)
    total = next(predictions).float().log_softmax(1)
    for logits in predictions:
        total = torch.logaddexp(total, logits.float().log_softmax(1))
    return total - math.log(number)


def _turn(x: Tensor, turn: int) -> Tensor:
    """One of the eight symmetries of the square, of the last two axes."""
    turned = torch.rot90(x, turn % 4, (-2, -1)) if turn % 4 else x
    return turned.flip(-1) if turn >= 4 else turned


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, C, H, W)`` float, bilinear between centres, averaged when it gets smaller."""
    if size == x.shape[-2:]:
        return x
    smaller = size[0] < x.shape[-2] or size[1] < x.shape[-1]
    return F.interpolate(x, size, mode="bilinear", antialias=smaller)
