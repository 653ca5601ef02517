"""Prediction of images of any size in overlapping windows that are averaged without seams."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from utils.windows import window_starts

Window = tuple[slice, slice]  # rows, columns


def window_weights(height_px: int, width_px: int, overlap_px: int) -> Tensor:
    """Weight of each pixel of a window, ``(height, width)`` in (0, 1].

    1 inside, falling linearly towards the border over ``overlap_px``: a window says least where
    it sees least.
    """

    def ramp(length_px: int) -> Tensor:
        position = torch.arange(1, length_px + 1, dtype=torch.float32)
        nearest = torch.minimum(position, length_px + 1 - position)
        return (nearest / (overlap_px + 1)).clamp(max=1)

    return ramp(height_px).unsqueeze(1) * ramp(width_px)


def predict_windows(
    forward: Callable[[list[Window]], Tensor],
    *,
    size: tuple[int, int],
    window_px: int,
    overlap_px: int,
    batch_size: int,
) -> Tensor:
    """Weighted mean of the logits of all windows.

    Args:
        forward: windows of one size -> their logits ``(N, C, h, w)``.
        size: height and width of the image.
        window_px: side of the windows; an image that is smaller is one window of its own size.
        overlap_px: least number of pixels that neighbours share, below ``window_px``.
        batch_size: windows a call.

    Returns:
        ``(C, height, width)`` float32 on the CPU.
    """
    total, weight = None, torch.zeros(size)
    edge = window_weights(min(window_px, size[0]), min(window_px, size[1]), overlap_px)
    for windows in _batches(size, window_px, overlap_px, batch_size):
        logits = forward(windows).float().cpu()
        if total is None:
            total = torch.zeros(logits.shape[1], *size)
        for (rows, columns), each in zip(windows, logits, strict=True):
            total[:, rows, columns] += each * edge
            weight[rows, columns] += edge
    assert total is not None
    return total / weight


def _batches(
    size: tuple[int, int], window_px: int, overlap_px: int, batch_size: int
) -> Iterator[list[Window]]:
    height, width = (min(window_px, side) for side in size)
    windows = [
        (slice(top, top + height), slice(left, left + width))
        for top in window_starts(size[0], window_px, overlap_px)
        for left in window_starts(size[1], window_px, overlap_px)
    ]
    for first in range(0, len(windows), batch_size):
        yield windows[first : first + batch_size]
