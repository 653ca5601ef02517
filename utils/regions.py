"""Connected regions of label maps, found by joining horizontal runs of equal pixels."""

from collections.abc import Sequence

import numpy as np

_FEW_RUNS = 8  # pixels per run from which bisection is faster than a table


def run_starts(labels: np.ndarray) -> np.ndarray:
    """Return the flat index of the first pixel of each horizontal run, ``(N,)`` ascending."""
    return np.flatnonzero(_begins(labels))


def _begins(labels: np.ndarray) -> np.ndarray:
    """Return the mask of pixels that differ from their left neighbour, or have none, ``(H, W)``."""
    begins = np.ones(labels.shape, dtype=bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    return begins


def touching_runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the horizontal runs of a label map, and the 4-connected pairs of them.

    Args:
        labels: ``(H, W)``.

    Returns:
        Flat index of the first pixel of each run, ``(N,)`` ascending; pairs of runs of one label
        that share a pixel edge, ``(M, 2)``, the upper one first.
    """
    begins = _begins(labels)
    starts = np.flatnonzero(begins)
    # The columns shared by two runs begin where one of the runs begins: one pixel for each pair.
    upper = np.flatnonzero((labels[1:] == labels[:-1]) & (begins[1:] | begins[:-1]))
    pixels = np.stack([upper, upper + labels.shape[1]], axis=1)
    # Run of a pixel: by bisection if there are few runs, else from a table of all pixels.
    if _FEW_RUNS * starts.size < labels.size:
        return starts, np.searchsorted(starts, pixels, side="right") - 1
    return starts, (np.cumsum(begins, dtype=np.int32) - 1)[pixels]


def fill_runs(starts: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the map of this shape in which each run of ``touching_runs`` has one value."""
    lengths = np.diff(starts, append=shape[0] * shape[1])
    return np.repeat(values, lengths).reshape(shape)


def connected_groups(num_nodes: int, pairs: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """Return the lowest node of the connected component of each node, ``(num_nodes,)`` int64.

    Args:
        num_nodes: number of nodes of the graph.
        pairs: its edges, ``(M, 2)``.
    """
    root = np.arange(num_nodes)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    while edges.size:
        # Every root hooks itself to the lowest root that it touches,
        np.minimum.at(root, edges.max(axis=1), edges.min(axis=1))
        # pointer jumping flattens the trees,
        while not np.array_equal(above := root[root], root):
            root = above
        # and edges inside a tree are dropped.
        edges = root[edges]
        edges = edges[edges[:, 0] != edges[:, 1]]
    return root
