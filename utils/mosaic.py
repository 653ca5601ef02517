"""Mosaicking of overlapping tiles: one id per object, one scale of values, no seams.

A tile is a map of a rectangle of an image, made on its own. Only a tile and its neighbours need to
be in memory at a time, and each result depends on its inputs alone, so any process may compute it:

1. ``lay_out``: the overlaps of the tiles of one image.
2. For each of ``Layout.pairs``, on the two parts given by ``overlap_of``: ``match_segments`` for
   segment ids, ``overlap_moments`` for values.
3. Once for all tiles: ``join_segments``, or ``align``.
4. For each tile, from its map and those of ``Layout.neighbours``: ``paste``, or ``blend``. Tiles
   that share a pixel get the same result there, bit for bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import Box, ramp
from utils.regions import connected_groups

Pair = tuple[int, int]  # indices of two tiles, the lower one first
Slices = tuple[slice, slice]  # rows, columns

_EXACT = 1e-8  # unexplained fraction of the variance that rounding leaves in an exact copy
_PULL = 0.005  # weight of a pixel for equal scales; for its own ratio it weighs 1 where r² is 1/2
_MAX_FACTOR = 100.0  # between a scale and the median of its group


@dataclass(frozen=True)
class Layout:
    """The tiles of one image, by index, and their overlaps."""

    boxes: tuple[Box, ...]
    pairs: tuple[Pair, ...]  # tiles that share pixels, sorted
    neighbours: tuple[tuple[int, ...], ...]  # of each tile, ascending
    frame: Box  # bounding box of all tiles, taken as the extent of the image


@dataclass(frozen=True)
class Alignment:
    """Scale and shift that bring the values of each of N tiles to a common scale."""

    scale: np.ndarray  # (N,) float64, positive, mean 1 in each connected group
    shift: np.ndarray  # (N,) float64, mean 0 in each connected group
    residual: float  # RMS difference of aligned values over all overlaps, in their unit

    def apply(self, index: int, values: np.ndarray) -> np.ndarray:
        """Return the values of a tile on the common scale, ``(H, W)`` float32."""
        return (values.astype(float) * self.scale[index] + self.shift[index]).astype(np.float32)


def lay_out(boxes: Sequence[Box]) -> Layout:
    """Find the overlaps of the tiles of one image, at least one tile."""
    pairs = overlapping_pairs(boxes)
    neighbours: list[list[int]] = [[] for _ in boxes]
    for i, j in pairs:
        neighbours[i].append(j)
        neighbours[j].append(i)
    top, left = min(box.top_px for box in boxes), min(box.left_px for box in boxes)
    bottom, right = max(box.bottom_px for box in boxes), max(box.right_px for box in boxes)
    frame = Box(top, left, bottom - top, right - left)
    return Layout(tuple(boxes), tuple(pairs), tuple(tuple(sorted(n)) for n in neighbours), frame)


def overlapping_pairs(boxes: Sequence[Box]) -> list[Pair]:
    """Return all pairs of at least one box that share pixels, sorted."""
    edges = np.array([(b.top_px, b.left_px, b.bottom_px, b.right_px) for b in boxes], np.int64)
    # Sweep along the axis over which the boxes spread more, in order of their first pixels.
    axis = int(np.argmax(np.ptp(edges[:, :2], axis=0)))
    order = np.argsort(edges[:, axis], kind="stable")
    edges = edges[order]
    start, stop = edges[:, 1 - axis], edges[:, 3 - axis]
    pairs = []
    for this, end in enumerate(np.searchsorted(edges[:, axis], edges[:, axis + 2]).tolist()):
        # Boxes this + 1 .. end - 1 overlap along the sweep; test them along the other axis.
        rest = slice(this + 1, end)
        meets = (start[rest] < stop[this]) & (stop[rest] > start[this])
        pairs += [(int(order[this]), other) for other in order[rest][meets].tolist()]
    return sorted((min(pair), max(pair)) for pair in pairs)


def overlap_of(one: Box, other: Box) -> tuple[Slices, Slices]:
    """Return the pixels shared by two boxes, as slices of the map of each."""
    top, bottom = max(one.top_px, other.top_px), min(one.bottom_px, other.bottom_px)
    left, right = max(one.left_px, other.left_px), min(one.right_px, other.right_px)
    here, there = (
        (slice(top - b.top_px, bottom - b.top_px), slice(left - b.left_px, right - b.left_px))
        for b in (one, other)
    )
    return here, there


def match_segments(ids_a: np.ndarray, ids_b: np.ndarray) -> np.ndarray:
    """Match the segments of two maps of the same pixels: intersection over union above 1/2.

    Both are ``(H, W)`` integers, 0 = no segment. Returns ``(N, 2)`` int64 pairs of ids, ascending.
    """
    # Count the pixels of every pair of ids that occurs, by one code a pair.
    num_b = int(ids_b.max()) + 1
    codes, shared = np.unique(ids_a.astype(np.int64) * num_b + ids_b, return_counts=True)
    a, b = np.divmod(codes, num_b)
    area_a, area_b = np.bincount(ids_a.ravel())[a], np.bincount(ids_b.ravel())[b]
    agree = (a > 0) & (b > 0) & (2 * shared > area_a + area_b - shared)
    return np.stack([a[agree], b[agree]], axis=1)


def join_segments(num_ids: Sequence[int], matches: Mapping[Pair, np.ndarray]) -> list[np.ndarray]:
    """Number the objects of an image: matched segments, over any chain of tiles, are one object.

    Args:
        num_ids: highest id K of each tile.
        matches: for tiles ``(i, j)`` the ``(N, 2)`` matched ids, those of i first.

    Returns:
        For each tile a table ``(K + 1,)`` int32 from its ids to those of the image: 0 stays 0,
        objects are 1..G by their first tile and their lowest id there.
    """
    # Nodes are the ids above 0 of all tiles, one tile after the other.
    offset = np.concatenate([[0], np.cumsum(num_ids, dtype=np.int64)])
    edges = [match.reshape(-1, 2) + offset[list(pair)] - 1 for pair, match in matches.items()]
    root = connected_groups(int(offset[-1]), np.concatenate([np.zeros((0, 2)), *edges]))
    # A group has the number of its root, its lowest node; each table begins with 0 -> 0.
    number = np.cumsum(root == np.arange(root.size), dtype=np.int32)[root]
    return [np.insert(part, 0, 0) for part in np.split(number, offset[1:-1])]


def paste(
    layout: Layout, index: int, ids: Mapping[int, np.ndarray], tables: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the joint segment map in the box of a tile, ``(H, W)`` int32.

    Each pixel is taken from the tile in which it is farthest from the border. Borders on the border
    of the image do not count; ties go to the lower index.

    Args:
        layout: the tiles of the image.
        index: the tile.
        ids: ``(H, W)`` integers of the tile and its neighbours, by index.
        tables: result of ``join_segments``.
    """
    farthest = np.zeros(ids[index].shape)
    joint = np.zeros(farthest.shape, dtype=np.int32)
    for tile, here, there in _tiles_over(layout, index):
        distance = _distance_to_border(layout, tile)[there]
        wins = distance > farthest[here]
        farthest[here][wins] = distance[wins]
        joint[here][wins] = tables[tile][ids[tile][there][wins]]
    return joint


def blend(layout: Layout, index: int, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the joint values in the box of a tile, the weighted mean of all tiles at a pixel.

    The weight of a tile falls linearly over its overlaps towards its border, see
    ``utils.boxes.ramp``; borders that no other tile crosses do not count.

    Args:
        layout: the tiles of the image.
        index: the tile.
        values: aligned ``(H, W)`` values of the tile and its neighbours, by index; the result is
            float32.
    """
    total, weights = np.zeros((2, *values[index].shape))
    for tile, here, there in _tiles_over(layout, index):
        rows, columns = _ramps(layout, tile)
        weight = rows[there[0], None] * columns[there[1]]
        total[here] += weight * values[tile][there]
        weights[here] += weight
    return (total / weights).astype(np.float32)


def _tiles_over(layout: Layout, index: int) -> Iterator[tuple[int, Slices, Slices]]:
    """Yield a tile and its neighbours with ``overlap_of``, ascending: sums have one order."""
    for tile in sorted([index, *layout.neighbours[index]]):
        yield tile, *overlap_of(layout.boxes[index], layout.boxes[tile])


def _distance_to_border(layout: Layout, tile: int) -> np.ndarray:
    """Return each pixel's distance to the nearest border inside the image, ``(H, W)``, 1 or more.

    Infinity if there is no such border.
    """
    box, frame = layout.boxes[tile], layout.frame
    lines = []
    for length, has_before, has_after in (
        (box.height_px, box.top_px > frame.top_px, box.bottom_px < frame.bottom_px),
        (box.width_px, box.left_px > frame.left_px, box.right_px < frame.right_px),
    ):
        line = np.arange(1.0, length + 1)
        to_start = line if has_before else np.inf
        to_stop = line[::-1] if has_after else np.inf
        lines.append(np.full(length, np.minimum(to_start, to_stop)))
    return np.minimum.outer(*lines)


def _ramps(layout: Layout, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the rows and columns of a tile, ``(H,)`` and ``(W,)`` float64."""
    box = layout.boxes[tile]
    others = [layout.boxes[each] for each in layout.neighbours[tile]]
    ramps = []
    for first, last, spans in (
        (box.top_px, box.bottom_px, [(b.top_px, b.bottom_px) for b in others]),
        (box.left_px, box.right_px, [(b.left_px, b.right_px) for b in others]),
    ):
        # The widest overlaps with tiles that extend beyond either end of this one.
        before = max((min(stop, last) - first for start, stop in spans if start < first), default=0)
        after = max((last - max(start, first) for start, stop in spans if stop > last), default=0)
        ramps.append(ramp(last - first, before, after).astype(float))
    return ramps[0], ramps[1]


def overlap_moments(values_a: np.ndarray, values_b: np.ndarray) -> np.ndarray:
    """Return the statistics of two tiles' values of the same pixels that ``align`` needs.

    These are ``(6,)`` float64, of pixels that are finite in both: their number, means of a and b,
    (co)variances aa, ab and bb. All are 0 if there are none.
    """
    is_finite = np.isfinite(values_a) & np.isfinite(values_b)
    if not is_finite.any():
        return np.zeros(6)
    both = np.stack([values_a[is_finite], values_b[is_finite]]).astype(np.float64)
    # Subtract the first value before the mean, so that a constant has a variance of exactly 0.
    first = both[:, 0]
    both = both - first[:, None]
    means = both.mean(axis=1)
    a, b = both - means[:, None]
    return np.array([a.size, *(first + means), (a * a).mean(), (a * b).mean(), (b * b).mean()])


def align(moments: Mapping[Pair, np.ndarray], num_tiles: int) -> Alignment:
    """Estimate scale and shift of each tile so that values in the overlaps agree.

    Shifts are least squares over the pixels of all overlaps, given the scales. Logarithms of scales
    are least squares over the overlaps: the ratio of two scales should be that of the standard
    deviations in the overlap, with weight ``pixels * r² / (1 - r²)``, where r is the correlation.
    For tiles that differ by scale and shift alone this minimises the squared differences of aligned
    pixels over both. Where they differ otherwise, that minimum would favour small scales, which
    make differences small, and could invert a tile; this estimate cannot.

    An overlap that is constant in a tile, or has r <= 0, is no evidence about scales; a weak pull
    towards equal scales decides where there is no other. A scale beyond 100 times the median of its
    group, or below a hundredth, is replaced by the median. Tiles without overlaps keep scale 1 and
    shift 0. The order of ``moments`` does not matter. Memory grows with the square of N.

    Args:
        moments: result of ``overlap_moments`` for each pair of tiles.
        num_tiles: N.
    """
    pairs = sorted(moments)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    group = connected_groups(num_tiles, edges)
    table = np.array([moments[pair] for pair in pairs], dtype=np.float64).reshape(-1, 6)
    count, mean_a, mean_b, aa, ab, bb = table.T
    # Ratio of variances and r² of each overlap; 1 and 0 where it is no evidence.
    is_evidence = (ab > 0) & (aa > 0) & (bb > 0)
    ratio = np.divide(bb, aa, out=np.ones_like(aa), where=is_evidence)
    explained = np.divide(ab * ab, aa * bb, out=np.zeros_like(aa), where=is_evidence)
    weight = count * explained / np.maximum(1 - explained, _EXACT)
    log_scale = _solve_differences(edges, np.log(ratio) / 2, weight, _PULL * count, group)
    # Replace absurd scales by the median of their group, then set the mean of each group to 1.
    median = np.array([np.median(log_scale[group == root]) for root in group])
    absurd = np.abs(log_scale - median) > np.log(_MAX_FACTOR)
    scale = np.exp(np.where(absurd, median, log_scale))
    scale /= (np.bincount(group, scale) / np.maximum(np.bincount(group), 1))[group]
    # Shifts that bring the scaled means of each overlap together.
    a, b = scale[edges.T]
    step = b * mean_b - a * mean_a
    shift = _solve_differences(edges, step, count, np.zeros_like(count), group)
    # Mean square difference of each overlap: variance of a * A - b * B, and difference of means.
    square = a * a * aa - 2 * a * b * ab + b * b * bb + (np.diff(shift[edges])[:, 0] + step) ** 2
    residual = max(float(count @ square), 0) / max(float(count.sum()), 1)
    return Alignment(scale, shift, residual**0.5)


def _solve_differences(
    edges: np.ndarray, step: np.ndarray, weight: np.ndarray, pull: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """Solve ``x[i] - x[j] = step`` by weighted least squares, with mean 0 in each group.

    Args:
        edges: ``(M, 2)`` pairs i, j.
        step: ``(M,)`` wanted differences.
        weight: ``(M,)`` weights of the differences.
        pull: ``(M,)`` weights of ``x[i] = 0`` and ``x[j] = 0``.
        group: ``(N,)`` connected group of each unknown.

    Returns:
        ``(N,)`` float64.
    """
    # Normal equations, the graph's weighted Laplacian with the pull on its diagonal.
    matrix, right = np.zeros((group.size, group.size)), np.zeros(group.size)
    for (one, other), sign in ((edges.T, 1), (edges.T[::-1], -1)):
        np.add.at(matrix, (one, one), weight + pull)
        np.add.at(matrix, (one, other), -weight)
        np.add.at(right, one, sign * weight * step)
    # A constant added to a group costs nothing; penalise its mean, which then comes out as 0.
    matrix += (group[:, None] == group) * (matrix.trace() / group.size or 1.0)
    return np.linalg.solve(matrix, right)
