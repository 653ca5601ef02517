"""Fingerprints of tiles: tiles that hold a part of the same picture, at any offset.

Crops that were cut with overlap before ``prepare.py`` saw them have names of their own and no
common source. They are found by hashes of windows of 16 x 16 pixels. The hash of a window alone
decides if it is kept, so two crops keep the same windows wherever they were cut, and a window that
both keep gives their offset. The pixels are then compared.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from utils.boxes import Box
from utils.mosaic import overlap_of

Pair = tuple[str, str]  # ids of two tiles
Size = tuple[int, int]  # height and width in pixels

_WINDOW_PX = 16
_ONE_IN = 128  # windows: 19 fingerprints in an overlap of 64 x 64 pixels, 1 in one of 26 x 26
_MIN_COLORS = 24  # of a window; fewer are found in unrelated tiles too, where nothing is to be seen
_BLOCK_PX = 256  # windows along a side of what is hashed at a time: it stays in the cache
_ROW_BASE, _COLUMN_BASE = 0x9E3779B1, 0x85EBCA77  # odd, the bases of the polynomial
_MIX = (0xC2B2AE3D, 0x27D4EB2F)
_WEIGHTS = np.random.default_rng(0).integers(2**63, size=_WINDOW_PX**2, dtype=np.uint64) * 2 + 1
_MAX_SHARING = 16  # tiles that hold one window, within which all pairs are formed
_MAX_OFFSETS = 4  # of a pair of tiles to compare: windows that repeat suggest wrong ones
_COMPARED_ROWS = 64


class Fingerprints(NamedTuple):
    """Distinctive windows of an image, chosen by their content."""

    keys: np.ndarray  # (N,) uint64 hashes
    places: np.ndarray  # (N, 2) int32 row and column of their first pixels


def fingerprints(image: np.ndarray) -> Fingerprints:
    """Choose about one in 128 windows of an image by their content.

    Windows with few colours, and those that occur twice close together, are left out.

    Args:
        image: ``(H, W, 3)`` uint8; one that is smaller than a window has no fingerprints.
    """
    keys, places = [np.zeros(0, np.uint64)], [np.zeros((0, 2), np.int32)]
    last = [length - _WINDOW_PX + 1 for length in image.shape[:2]]
    size = _BLOCK_PX + _WINDOW_PX - 1
    for top in range(0, last[0], _BLOCK_PX):
        for left in range(0, last[1], _BLOCK_PX):
            pixels = _pack(image[top : top + size, left : left + size])
            rows, columns = _choose(_window_hashes(pixels))
            windows = sliding_window_view(pixels, (_WINDOW_PX, _WINDOW_PX))[rows, columns]
            windows = windows.reshape(-1, _WINDOW_PX**2)
            ordered = np.sort(windows, axis=1)
            num_colors = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
            keep = num_colors >= _MIN_COLORS
            # The rolling hash has 32 bits, too few to tell all windows of a data set apart.
            keys.append(windows[keep].astype(np.uint64) @ _WEIGHTS)
            places.append(np.stack([rows[keep] + top, columns[keep] + left], 1).astype(np.int32))
    return Fingerprints(np.concatenate(keys), np.concatenate(places))


def _pack(image: np.ndarray) -> np.ndarray:
    """Return RGB as one number a pixel, ``(H, W)`` uint32."""
    packed = np.zeros((*image.shape[:2], 4), np.uint8)
    for channel in range(3):  # three times as fast as all at once
        packed[..., channel] = image[..., channel]
    return packed.view(np.uint32)[..., 0]


def _window_hashes(pixels: np.ndarray) -> np.ndarray:
    """Return the hash of the window that begins at each pixel, uint32, 15 pixels less a side.

    It is a polynomial in two variables with the pixels as coefficients, modulo 2**32. A sum of 2,
    4, 8 or 16 terms is made of two sums of half as many.
    """
    hashes, step = pixels, 1
    across, down = _COLUMN_BASE, _ROW_BASE
    while step < _WINDOW_PX:
        pairs = hashes[:, :-step] * np.uint32(across)
        pairs += hashes[:, step:]
        hashes = pairs[:-step] * np.uint32(down)
        hashes += pairs[step:]
        across, down, step = across**2 % 2**32, down**2 % 2**32, 2 * step
    # The low bits of the sum depend on the low bits of the pixels alone.
    hashes *= np.uint32(_MIX[0])
    hashes ^= hashes >> np.uint32(15)
    hashes *= np.uint32(_MIX[1])
    return hashes


def _choose(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the windows with low hashes that occur once.

    In an area of one colour, or of a pattern, all windows or none have low hashes.
    """
    flat = hashes.ravel()
    chosen = np.flatnonzero(flat < 2**32 // _ONE_IN)
    _, first, counts = np.unique(flat[chosen], return_index=True, return_counts=True)
    rows, columns = np.divmod(np.sort(chosen[first[counts == 1]]), hashes.shape[1])
    return rows, columns


def shared_pixels(
    prints: Mapping[str, Fingerprints],
    split_of: Mapping[str, str],
    read: Callable[[str], np.ndarray],
) -> Iterator[tuple[Pair, Size]]:
    """Find tiles of different splits that are equal where they overlap, at any offset.

    An overlap of 64 x 64 pixels with some texture is found with certainty in practice, one of
    32 x 32 in nine of ten cases. Of more than 16 tiles that hold the same place not all pairs are
    formed. Copies that were turned, resized or saved with losses are not found.

    Args:
        prints: of each tile to compare, by id; sets the order of results.
        split_of: the split of each of them.
        read: image of a tile, ``(H, W, 3)`` uint8.

    Yields:
        Two ids, the one first that is first in ``prints``, and height and width in pixels of the
        area that they share.
    """
    for pair, offsets in sorted(_candidates(prints, split_of).items()):
        one, other = (names[index] for names, index in zip([[*prints]] * 2, pair, strict=True))
        images = read(one), read(other)
        for offset, _ in offsets.most_common(_MAX_OFFSETS):
            if (size := _equal_area(*images, offset)) is not None:
                yield (one, other), size
                break


def _candidates(
    prints: Mapping[str, Fingerprints], split_of: Mapping[str, str]
) -> dict[tuple[int, int], Counter[tuple[int, int]]]:
    """Count the fingerprints that tiles of different splits share, by offset.

    Returns:
        For indices of two tiles: how many fingerprints place the second one there in the first.
    """
    if not any(len(found.keys) for found in prints.values()):
        return {}
    keys = np.concatenate([found.keys for found in prints.values()])
    places = np.concatenate([found.places for found in prints.values()])
    counts = [len(found.keys) for found in prints.values()]
    tiles = np.repeat(np.arange(len(prints), dtype=np.int32), counts)
    numbers = {split: number for number, split in enumerate(dict.fromkeys(split_of.values()))}
    split_of_tile = np.array([numbers[split_of[tile_id]] for tile_id in prints])
    # Sort by key, and in a key by tile. Most keys occur once.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    repeats = keys[1:] == keys[:-1]
    chosen = np.flatnonzero(np.append(repeats, False) | np.insert(repeats, 0, False))
    keys, order = keys[chosen], order[chosen]
    tiles, places = tiles[order], places[order]
    splits = split_of_tile[tiles]
    candidates: defaultdict[tuple[int, int], Counter[tuple[int, int]]] = defaultdict(Counter)
    for lag in range(1, _MAX_SHARING):
        one = np.flatnonzero((keys[lag:] == keys[:-lag]) & (splits[lag:] != splits[:-lag]))
        other = one + lag
        found = np.stack([tiles[one], tiles[other], *(places[one] - places[other]).T], axis=1)
        # Equal rows have equal sums; unequal ones would need the same 64 bits by chance.
        sums = found.astype(np.uint64) @ _WEIGHTS[:4]
        _, index, votes = np.unique(sums, return_index=True, return_counts=True)
        for (first, second, down, across), count in zip(found[index].tolist(), votes, strict=True):
            candidates[first, second][down, across] += int(count)
    return candidates


def _equal_area(one: np.ndarray, other: np.ndarray, offset: Sequence[int]) -> Size | None:
    """Return the size of the overlap if all pixels are equal there.

    ``offset`` is the row and the column in ``one`` of the first pixel of ``other``.
    """
    here, there = overlap_of(Box(0, 0, *one.shape[:2]), Box(*offset, *other.shape[:2]))
    part, copy = one[here], other[there]
    for top in range(0, len(part), _COMPARED_ROWS):
        rows = slice(top, top + _COMPARED_ROWS)
        if not np.array_equal(part[rows], copy[rows]):
            return None
    return part.shape[0], part.shape[1]
