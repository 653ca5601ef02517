"""Prediction of images of any size in overlapping windows that are averaged without seams."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import window_starts

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
