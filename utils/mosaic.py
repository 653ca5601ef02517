"""One map of an image from overlapping pieces of it: objects go on, values have no seams.

The work is cut so that only a piece and its neighbours need to be in memory, and so that every
result is small, depends on its inputs alone, and may be computed by any process at any time:

1. ``lay_out(boxes)``: which pieces overlap, of one image.
2. For each of ``Layout.pairs``, of its ``overlap_of``: ``match_segments``, or ``overlap_moments``
   of ``utils.mosaic``.
3. Once, for all pieces: ``join_segments``, or ``align`` of ``utils.mosaic``.
4. For each piece, of its own map and those of ``Layout.neighbours``: ``paste`` or ``blend``. A
   pixel comes out the same, bit for bit, whichever of the pieces over it is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from utils.regions import connected_groups

Pair = tuple[int, int]  # indices of two pieces, the lower one first
Part = tuple[slice, slice]  # rows, columns


class Placed(Protocol):
    """What has a place in an image: a ``Box``, a ``datasets.tile_set.Tile``."""

    @property
    def top_px(self) -> int: ...  # noqa: D102
    @property
    def left_px(self) -> int: ...  # noqa: D102
    @property
    def height_px(self) -> int: ...  # noqa: D102
    @property
    def width_px(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, not empty."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int


@dataclass(frozen=True)
class Layout:
    """The pieces of one image; a piece is named by its index."""

    boxes: tuple[Placed, ...]
    pairs: tuple[Pair, ...]  # that share pixels, sorted
    neighbours: tuple[tuple[int, ...], ...]  # of each piece, ascending
    frame: Box  # bounding box of all pieces, taken for the whole image


def lay_out(boxes: Sequence[Placed]) -> Layout:
    """Find what overlaps among the pieces of one image, at least one piece."""
    pairs = overlapping_pairs(boxes)
    neighbours: list[list[int]] = [[] for _ in boxes]
    for i, j in pairs:
        neighbours[i].append(j)
        neighbours[j].append(i)
    edges = _edges(*boxes)
    (top, left), (bottom, right) = edges[:, :2].min(0).tolist(), edges[:, 2:].max(0).tolist()
    frame = Box(top, left, bottom - top, right - left)
    return Layout(tuple(boxes), tuple(pairs), tuple(tuple(sorted(n)) for n in neighbours), frame)


def overlapping_pairs(boxes: Sequence[Placed]) -> list[Pair]:
    """All pairs of boxes that share pixels, sorted; of at least one box."""
    edges = _edges(*boxes)
    axis = int(np.argmax(np.ptp(edges[:, :2], axis=0)))  # sweep along the longer side
    order = np.argsort(edges[:, axis], kind="stable")
    edges = edges[order]
    start, stop = edges[:, 1 - axis], edges[:, 3 - axis]
    pairs = []
    for this, end in enumerate(np.searchsorted(edges[:, axis], edges[:, axis + 2]).tolist()):
        rest = slice(this + 1, end)
        meets = (start[rest] < stop[this]) & (stop[rest] > start[this])
        pairs += [(int(order[this]), other) for other in order[rest][meets].tolist()]
    return sorted((min(pair), max(pair)) for pair in pairs)


def overlap_of(one: Placed, other: Placed) -> tuple[Part, Part]:
    """Rows and columns that two boxes share: as slices of one's map and of the other's map."""
    edges = _edges(one, other)
    starts, stops = edges[:, :2].max(axis=0), edges[:, 2:].min(axis=0)
    spans = np.stack([starts - edges[:, :2], stops - edges[:, :2]], axis=2).tolist()
    here, there = ((slice(*rows), slice(*columns)) for rows, columns in spans)
    return here, there


def owners(layout: Layout, index: int) -> np.ndarray:
    """Which piece each pixel of a piece is taken from.

    A pixel belongs to the piece in which it is farthest from the piece's border, where borders that
    lie on the border of the whole image do not count; ties go to the lower index. ``(H, W)`` int32.
    """
    owner = np.zeros((layout.boxes[index].height_px, layout.boxes[index].width_px), dtype=np.int32)
    farthest = np.zeros(owner.shape)
    for piece, here, there in _pieces_over(layout, index):
        distance = _distance(layout, piece)[there]
        wins = distance > farthest[here]
        owner[here][wins] = piece
        farthest[here][wins] = distance[wins]
    return owner


def match_segments(ids_a: np.ndarray, ids_b: np.ndarray) -> np.ndarray:
    """Segments on which two maps of the same pixels agree: intersection over union above 1/2.

    Of ``(H, W)`` integers with 0 = no segment; ``(N, 2)`` int64 pairs of ids above 0, ascending.
    """
    num_b = int(ids_b.max()) + 1
    codes, shared = np.unique(ids_a.astype(np.int64) * num_b + ids_b, return_counts=True)
    a, b = np.divmod(codes, num_b)
    area_a, area_b = np.bincount(ids_a.ravel())[a], np.bincount(ids_b.ravel())[b]
    agree = (a > 0) & (b > 0) & (2 * shared > area_a + area_b - shared)
    return np.stack([a[agree], b[agree]], axis=1)


def join_segments(num_ids: Sequence[int], pairs: Mapping[Pair, np.ndarray]) -> list[np.ndarray]:
    """Give every object one id in all pieces: matched segments are one object, over any chain.

    Of the highest id K of each piece and the ``(N, 2)`` matches of pieces ``(i, j)``, ids of i
    first. For each piece a table ``(K + 1,)`` int32, id in the piece -> id in the image: 0 stays 0,
    objects are 1..G in order of the first piece, and of the lowest id there, that has them.
    """
    offset = np.concatenate([[0], np.cumsum(num_ids, dtype=np.int64)])
    edges = [match.reshape(-1, 2) + offset[list(pair)] - 1 for pair, match in pairs.items()]
    root = connected_groups(int(offset[-1]), np.concatenate([np.zeros((0, 2)), *edges]))
    number = np.cumsum(root == np.arange(root.size), dtype=np.int32)[root]
    return [np.insert(part, 0, 0) for part in np.split(number, offset[1:-1])]


def paste(
    layout: Layout, index: int, ids: Mapping[int, np.ndarray], tables: Sequence[np.ndarray]
) -> np.ndarray:
    """The joint segment map where piece ``index`` lies, ``(H, W)`` int32: pixels of their owners.

    Of the ids of the piece and its neighbours, as they were made, and ``join_segments``' tables.
    """
    owner = owners(layout, index)
    joint = np.empty_like(owner)
    for piece, here, there in _pieces_over(layout, index):
        owned = owner[here] == piece
        joint[here][owned] = tables[piece][ids[piece][there][owned]]
    return joint


def blend(layout: Layout, index: int, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """The joint values where piece ``index`` lies: the weighted mean of all pieces there.

    A piece's weight falls linearly from the middle of an overlap to the piece's own border, where
    it is 0; borders beyond which no piece goes on do not count. Of the aligned ``(H, W)`` values
    (``Alignment.apply``) of the piece and its neighbours; ``(H, W)`` float32.
    """
    total, weights = np.zeros((2, *values[index].shape))
    for piece, here, there in _pieces_over(layout, index):
        rows, columns = _ramps(layout, piece)
        weight = rows[there[0], None] * columns[there[1]]
        total[here] += weight * values[piece][there]
        weights[here] += weight
    return (total / weights).astype(np.float32)


def _edges(*boxes: Placed) -> np.ndarray:
    """First row and column, and those behind the last ones, ``(N, 4)`` int64."""
    edges = np.array([(b.top_px, b.left_px, b.height_px, b.width_px) for b in boxes], np.int64)
    edges[:, 2:] += edges[:, :2]
    return edges


def _pieces_over(layout: Layout, index: int) -> Iterator[tuple[int, Part, Part]]:
    """The piece and its neighbours, with ``overlap_of``; ascending, so that sums have one order."""
    for piece in sorted([index, *layout.neighbours[index]]):
        yield piece, *overlap_of(layout.boxes[index], layout.boxes[piece])


def _distance(layout: Layout, piece: int) -> np.ndarray:
    """Distance of each pixel to the nearest border inside the image, ``(H, W)`` from 1."""
    (own, frame), lines = _edges(layout.boxes[piece], layout.frame), []
    for axis in (0, 1):
        line = np.arange(1.0, own[axis + 2] - own[axis] + 1)
        to_start = np.where(own[axis] > frame[axis], line, np.inf)
        to_stop = np.where(own[axis + 2] < frame[axis + 2], line[::-1], np.inf)
        lines.append(np.minimum(to_start, to_stop))
    return np.minimum.outer(*lines)


def _ramps(layout: Layout, piece: int) -> list[np.ndarray]:
    """Weight of each row and of each column of a piece for ``blend``, ``(H,)`` and ``(W,)``."""
    edges = _edges(*(layout.boxes[each] for each in (piece, *layout.neighbours[piece])))
    ramps = []
    for start, stop in (edges[:, ::2].T, edges[:, 1::2].T):
        shared = np.minimum(stop, stop[0]) - np.maximum(start, start[0])
        before = shared.max(where=start < start[0], initial=1)
        after = shared.max(where=stop > stop[0], initial=1)
        line = np.arange(0.5, stop[0] - start[0])  # middles of pixels, so that no weight is 0
        ramps.append(np.minimum(1, 2 * np.minimum(line / before, line[::-1] / after)))
    return ramps


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
