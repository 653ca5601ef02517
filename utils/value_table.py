"""Codes of whole numbers of any type, by ranges."""

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

_LARGEST_TABLE_BITS = 16  # types up to here are looked up in a table of all their values


class ValueTable:
    """Codes of whole numbers, by ranges that do not overlap.

    Args:
        spans: ranges and their codes, 0..255.
        rest: code of all other whole numbers.
        fraction: code of floats that are no whole numbers.
    """

    def __init__(self, spans: Iterable[tuple[range, int]], rest: int, fraction: int) -> None:
        # The code changes at each of these numbers; the first one is that of all lower numbers.
        self._edges: list[int] = []
        self._codes = [rest]
        for span, code in sorted(spans, key=lambda each: each[0].start):
            if self._edges and self._edges[-1] == span.start:
                self._codes[-1] = code
            else:
                self._edges.append(span.start)
                self._codes.append(code)
            self._edges.append(span.stop)
            self._codes.append(rest)
        self._fraction = fraction
        self._tables: dict[np.dtype, np.ndarray] = {}

    def find_one(self, value: int) -> int:
        """Return the code of a number."""
        return self._codes[bisect_right(self._edges, value)]

    def find(self, values: np.ndarray) -> np.ndarray:
        """Return the codes of integers or floats, as uint8 of the same shape."""
        if values.dtype.kind == "f":
            is_whole = (values == np.rint(values)) & (values >= -(2.0**63)) & (values < 2.0**63)
            found = self._search(np.where(is_whole, values, 0).astype(np.int64))
            found[~is_whole] = self._fraction
            return found
        num_bits = 8 * values.dtype.itemsize
        if num_bits > _LARGEST_TABLE_BITS:
            return self._search(values)
        unsigned = np.dtype(f"u{values.dtype.itemsize}")
        if values.dtype not in self._tables:
            every = np.arange(1 << num_bits).astype(unsigned).view(values.dtype)
            self._tables[values.dtype] = self._search(every)
        return self._tables[values.dtype][values.view(unsigned)]

    def _search(self, values: np.ndarray) -> np.ndarray:
        limits = np.iinfo(values.dtype)
        first, end = (bisect_right(self._edges, int(limit)) for limit in (limits.min, limits.max))
        edges = np.array(self._edges[first:end], values.dtype)
        codes = np.array(self._codes[first : end + 1], np.uint8)
        return codes[np.searchsorted(edges, values, side="right")]
