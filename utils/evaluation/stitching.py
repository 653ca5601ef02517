"""Tiles of one source image, predicted one after the other, joined without seams."""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.evaluation.sliding_window import Window

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
