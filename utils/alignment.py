"""One scale for values that overlapping pieces know up to a scale and shift of their own.

The counterpart of ``utils.mosaic`` for relative depth: ``overlap_moments`` of each pair of pieces,
``align`` once, ``Alignment.apply`` for each piece; ``utils.mosaic.blend`` puts them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from utils.mosaic import Pair, connected_groups

_EXACT = 1e-8  # share of the variance that rounding may leave unexplained in an exact copy
_PULL = 0.005  # weight of a pixel for equal scales; for its own ratio it weighs 1 where r² is 1/2
_MAX_FACTOR = 100.0  # between a scale and the middle of its group


@dataclass(frozen=True)
class Alignment:
    """What brings the values of N pieces to one common scale."""

    scale: np.ndarray  # (N,) float64, positive, mean 1 in each connected group
    shift: np.ndarray  # (N,) float64, mean 0 in each connected group
    residual: float  # RMS difference of aligned values over all overlaps, in their unit
    shift_only: np.ndarray  # (N,) bool: the scale found was absurd, the middle of its group is used

    def apply(self, index: int, values: np.ndarray) -> np.ndarray:
        """The values of piece ``index`` on the common scale, ``(H, W)`` float32."""
        return (values.astype(float) * self.scale[index] + self.shift[index]).astype(np.float32)


def overlap_moments(values_a: np.ndarray, values_b: np.ndarray) -> np.ndarray:
    """What ``align`` needs of two pieces' values, ``(H, W)`` and finite, of the same pixels.

    ``(6,)`` float64: number of pixels, means of a and b, (co)variances aa, ab and bb.
    """
    # Less the first value before the mean: what is constant then has a variance of exactly 0.
    first = np.array([values_a[0, 0], values_b[0, 0]], dtype=np.float64)
    both = np.stack([values_a.ravel(), values_b.ravel()]).astype(np.float64) - first[:, None]
    means = both.mean(axis=1)
    a, b = both - means[:, None]
    return np.array([a.size, *(first + means), (a * a).mean(), (a * b).mean(), (b * b).mean()])


def align(moments: Mapping[Pair, np.ndarray], num_pieces: int) -> Alignment:
    """Find the scale and shift of each piece under which the values of overlaps agree.

    The shifts are least squares over the pixels of all overlaps, given the scales. The logarithms
    of the scales are least squares over the overlaps: two scales should be to each other as the
    standard deviations there are, which weighs ``pixels * r² / (1 - r²)``, r being the correlation.
    For pieces that differ by scale and shift alone this minimises the squared differences of
    aligned pixels over both. Where they differ otherwise that minimum would favour small scales,
    because they make differences small, and could turn a piece upside down; this cannot.

    An overlap that is constant in a piece, or has r <= 0, says nothing of scales; a weak pull
    towards equal scales decides where nothing else does. A scale beyond 100 times the median of its
    group, or below a hundredth, becomes that median (``Alignment.shift_only``). Pieces without
    overlaps keep scale 1 and shift 0. The order of ``moments`` does not matter. N x N memory.
    """
    pairs = sorted(moments)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    group = connected_groups(num_pieces, edges)
    table = np.array([moments[pair] for pair in pairs], dtype=np.float64).reshape(-1, 6)
    count, mean_a, mean_b, aa, ab, bb = table.T
    says = (ab > 0) & (aa > 0) & (bb > 0)
    ratio = np.divide(bb, aa, out=np.ones_like(aa), where=says)
    explained = np.divide(ab * ab, aa * bb, out=np.zeros_like(aa), where=says)
    weight = count * explained / np.maximum(1 - explained, _EXACT)
    level = _levels(edges, np.log(ratio) / 2, weight, _PULL * count, group)
    middle = np.array([np.median(level[group == root]) for root in group])
    absurd = np.abs(level - middle) > np.log(_MAX_FACTOR)
    scale = np.exp(np.where(absurd, middle, level))
    scale /= (np.bincount(group, scale) / np.maximum(np.bincount(group), 1))[group]
    a, b = scale[edges.T]
    step = b * mean_b - a * mean_a
    shift = _levels(edges, step, count, np.zeros_like(count), group)
    square = a * a * aa - 2 * a * b * ab + b * b * bb + (np.diff(shift[edges])[:, 0] + step) ** 2
    residual = max(float(count @ square), 0) / max(float(count.sum()), 1)
    return Alignment(scale, shift, residual**0.5, absurd)


def _levels(
    edges: np.ndarray, step: np.ndarray, weight: np.ndarray, pull: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """Least squares of ``level[i] - level[j] = step`` and, pulled, of ``level = 0``; ``(N,)``."""
    matrix, right = np.zeros((group.size, group.size)), np.zeros(group.size)
    for (one, other), sign in ((edges.T, 1), (edges.T[::-1], -1)):
        np.add.at(matrix, (one, one), weight + pull)
        np.add.at(matrix, (one, other), -weight)
        np.add.at(right, one, sign * weight * step)
    # A common level costs nothing; now the mean of each group does, so that it comes out as 0.
    matrix += (group[:, None] == group) * (matrix.trace() / group.size or 1.0)
    return np.linalg.solve(matrix, right)
