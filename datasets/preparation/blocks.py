"""Spatial splits: blocks of one or few large images become training, validation and test data.

Neighbouring pixels resemble each other, so blocks of different splits are kept apart by a gap, and
no tile leaves its block.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datasets.preparation.pairing.splits import counts_of
from datasets.preparation.pipeline import Source
from datasets.tile_set import SPLITS
from utils.boxes import Box
from utils.errors import ConfigError

_MIN_BLOCK_PX = 32  # the coarsest scale of the network is 1/32


def split_by_blocks(
    sources: Sequence[Source],
    side_px: int,
    gap_px: int,
    shares: tuple[float, ...],
    seed: int,
) -> dict[str, list[Source]]:
    """Cut every image into blocks, and distribute these over the splits at random.

    An image has as many rows and columns of blocks as its sides hold ``side_px``, rounded, at least
    one. A block is smaller by half of the gap at every side beyond which, also diagonally, lies a
    block of another split; the pixels of the gap are in no split.

    Args:
        sources: images with their labels.
        side_px: side of a block.
        gap_px: least distance of blocks of different splits.
        shares: fractions of the blocks for train, val and test, which sum to 1.
        seed: 0 or more.

    Returns:
        Blocks by split, as sources named ``IMAGE_bROW_COLUMN``.

    Raises:
        ConfigError: the gap leaves too little of a block, or blocks are fewer than the splits.
    """
    grids = [_edges(_size_of(source), side_px) for source in sources]
    num_blocks = [(len(rows) - 1) * (len(columns) - 1) for rows, columns in grids]
    splits = _draw(sum(num_blocks), shares, seed)
    found: dict[str, list[Source]] = {split: [] for split in SPLITS}
    ends = np.cumsum([0, *num_blocks])
    for number, (source, (rows, columns)) in enumerate(zip(sources, grids, strict=True)):
        own = splits[ends[number] : ends[number + 1]].reshape(len(rows) - 1, len(columns) - 1)
        for row, column in np.ndindex(own.shape):
            box = _shrunk(own, row, column, rows, columns, gap_px)
            height_px = rows[row + 1] - rows[row]
            width_px = columns[column + 1] - columns[column]
            if min(box.height_px, box.width_px) < min(height_px, width_px, _MIN_BLOCK_PX):
                raise ConfigError(
                    f"--blocks {side_px} with --gap {gap_px} leaves less than {_MIN_BLOCK_PX} px "
                    f"of a side of a block of {source.id}, {height_px} x {width_px} px; take "
                    "larger blocks or a smaller gap"
                )
            block = replace(
                source,
                id=f"{source.id}_b{row:02d}_{column:02d}",
                image_id=source.id,
                box=box,
            )
            found[SPLITS[own[row, column]]].append(block)
    return {split: blocks for split, blocks in found.items() if blocks}


def _size_of(source: Source) -> tuple[int, int]:
    with source.image.open_image() as image:
        return image.size


def _edges(size: tuple[int, int], side_px: int) -> tuple[list[int], list[int]]:
    """Return the first row of every row of blocks and the end of the last one; so for columns."""
    counts = [max(1, round(length / side_px)) for length in size]
    rows, columns = (
        [i * length // count for i in range(count + 1)]
        for length, count in zip(size, counts, strict=True)
    )
    return rows, columns


def _draw(num_blocks: int, shares: tuple[float, ...], seed: int) -> np.ndarray:
    """Return the index of the split of every block, ``(num_blocks,)``."""
    counts = counts_of(shares, num_blocks, "block")
    return np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], counts))


def _shrunk(
    splits: np.ndarray, row: int, column: int, rows: list[int], columns: list[int], gap_px: int
) -> Box:
    """Return a block without its part of the gap."""
    own = splits[row, column]
    around = splits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    here = min(row, 1), min(column, 1)  # of the block in its surroundings
    other = around != own
    before, after = gap_px // 2, math.ceil(gap_px / 2)
    top = rows[row] + after * bool(here[0] and other[0].any())
    left = columns[column] + after * bool(here[1] and other[:, 0].any())
    bottom = rows[row + 1] - before * bool(other[here[0] + 1 :].any())
    right = columns[column + 1] - before * bool(other[:, here[1] + 1 :].any())
    return Box(top, left, bottom - top, right - left)
