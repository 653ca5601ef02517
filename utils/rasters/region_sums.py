"""Sums of values over the connected regions of a large label map, in strips of rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from utils.regions import connected_groups, touching_runs

_NO_LABEL = -1


@dataclass(frozen=True)
class RegionSums:
    """Sums of values over the 4-connected regions of a label map.

    Attributes:
        first: flat index of the first pixel of each region in rows from the top, ``(N,)`` int64,
            ascending.
        total: sum of the values, ``(N,)`` int64.
    """

    first: np.ndarray
    total: np.ndarray

    def of(self, first: np.ndarray) -> np.ndarray:
        """Return the sums of some regions, named by their first pixels."""
        return self.total[np.searchsorted(self.first, first)]


def region_sums(
    strips: Iterable[tuple[np.ndarray, np.ndarray]], width: int, ignored: int
) -> RegionSums:
    """Sum values over regions, in memory of 16 bytes a region, 40 at the end.

    Args:
        strips: labels and values, ``(rows, width)`` uint8, from the top down.
        width: of the map.
        ignored: label whose regions are left out.
    """
    top, found = 0, []
    above = _OpenRegions.none(width)
    for labels, values in strips:
        above, ended = above.followed_by(top, labels, values, ignored)
        found.append(ended)
        top += len(labels)
    found.append(above.ended(ignored))
    first, total = (np.concatenate([part[member] for part in found]) for member in range(2))
    del found
    order = np.argsort(first)
    return RegionSums(first[order], total[order])


@dataclass(frozen=True)
class _OpenRegions:
    """Regions that reach the last row so far.

    Attributes:
        row: ``(1, width)`` int16, labels of that row.
        region: number of the region that each run of the row belongs to.
        label, first, total: of each region, as in ``RegionSums``.
    """

    row: np.ndarray
    region: np.ndarray
    label: np.ndarray
    first: np.ndarray
    total: np.ndarray

    @classmethod
    def none(cls, width: int) -> "_OpenRegions":
        """Return the regions above the first row: a single one, of no label."""
        zero = np.zeros(1, np.int64)
        return cls(np.full((1, width), _NO_LABEL, np.int16), zero, zero + _NO_LABEL, zero, zero)

    def ended(self, ignored: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``first`` and ``total`` of the regions, which end here."""
        kept = (self.label != ignored) & (self.label != _NO_LABEL)
        return self.first[kept], self.total[kept]

    def followed_by(
        self, top: int, labels: np.ndarray, values: np.ndarray, ignored: int
    ) -> tuple["_OpenRegions", tuple[np.ndarray, np.ndarray]]:
        """Return the open regions below further rows, and ``first`` and ``total`` of the others.

        Args:
            top: number of rows above.
            labels: ``(rows, width)``.
            values: likewise.
            ignored: label whose regions are not among the others.
        """
        width, num_above = labels.shape[1], len(self.region)
        # The row above is the first one here, so that touching_runs finds what goes on.
        seen = np.concatenate([self.row, labels], dtype=np.int16)
        starts, pairs = touching_runs(seen)
        # Runs of one open region are one group, even if nothing here connects them.
        _, leaders = np.unique(self.region, return_index=True)
        same = np.stack([leaders[self.region], np.arange(num_above)], axis=1)
        group = connected_groups(len(starts), np.concatenate([pairs, same]))

        sums = np.zeros(len(starts), np.int64)
        sums[leaders] = self.total
        new = starts[num_above:] - width
        sums[num_above:] = np.add.reduceat(values.ravel(), new, dtype=np.int64)
        totals = np.bincount(group, weights=sums)  # exact below 2 ** 53
        # A group begins with its lowest run, unless it began above.
        firsts = starts + (top - 1) * width
        firsts[:num_above] = self.first[self.region]
        np.minimum.at(firsts, group[:num_above], firsts[:num_above])

        def regions(roots: np.ndarray, of_runs: np.ndarray) -> _OpenRegions:
            label = seen.ravel()[starts[roots]].astype(np.int64)
            return _OpenRegions(
                seen[-1:], of_runs, label, firsts[roots], totals[roots].astype(np.int64)
            )

        begin_last = np.searchsorted(starts, len(labels) * width)
        open_roots, of_runs = np.unique(group[begin_last:], return_inverse=True)
        is_root = group == np.arange(len(starts))
        is_root[open_roots] = False
        others = regions(np.flatnonzero(is_root), of_runs)
        return regions(open_roots, of_runs), others.ended(ignored)
