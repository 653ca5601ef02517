"""Test-time augmentation: a window is predicted zoomed and turned as well, and all of it averaged.

Zooming and turning happen inside a window, as in a tile-by-tile evaluation with such augmentation:
the windows and what they share stay what they are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import nearest_pixels

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
