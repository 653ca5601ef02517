"""How many pixels of every class each tile has, and crops drawn by it.

::

    ROOT/histogram.csv    id, one column for every class index 0..K-1, ignored

A tile whose labels are hidden has no row.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.errors import DataError, MissingDataError
from utils.files import write_text

FILE_NAME = "histogram.csv"
_COUNTED_ROWS = 512  # at a time: counting turns pixels into 64-bit numbers


def count_values(target: np.ndarray) -> np.ndarray:
    """Pixels of every value of an ``(H, W)`` uint8 array, ``(256,)`` int64."""
    counts = np.zeros(IGNORE_INDEX + 1, np.int64)
    for top in range(0, len(target), _COUNTED_ROWS):
        part = target[top : top + _COUNTED_ROWS]
        counts += np.bincount(part.ravel(), minlength=IGNORE_INDEX + 1)
    return counts


def count_classes(target: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of every class and, last, of ignore, of ``(H, W)`` uint8 class indices."""
    counts = count_values(target)
    return [*counts[:num_classes].tolist(), int(counts[IGNORE_INDEX])]


def write_histogram(root: Path, num_classes: int, counts: Mapping[str, Sequence[int]]) -> None:
    """Write the table of a data set, atomically.

    Args:
        root: its folder.
        num_classes: of the data set.
        counts: what ``count_classes`` gives, by tile.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["id", *range(num_classes), "ignored"])
    rows.writerows([tile_id, *counts[tile_id]] for tile_id in sorted(counts))
    write_text(root / FILE_NAME, table.getvalue())


def read_histogram(root: Path, num_classes: int) -> dict[str, np.ndarray]:
    """What ``write_histogram`` was given.

    Raises:
        MissingDataError: the data set was prepared without it.
        DataError: it belongs to other classes, or is no table of numbers.
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist; prepare the data set again")
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    expected = ["id", *map(str, range(num_classes)), "ignored"]
    if head != expected:
        raise DataError(
            f"{path} has the columns {', '.join(head)}, not {', '.join(expected)}; prepare the "
            "data set again"
        )
    counts = {}
    for tile_id, *numbers in rows:
        if len(numbers) != num_classes + 1 or not all(number.isdecimal() for number in numbers):
            raise DataError(
                f"{path} has no whole row of numbers for the tile '{tile_id}'; prepare the data "
                "set again"
            )
        counts[tile_id] = np.array(numbers, np.int64)
    return counts


class RareClasses:
    """Draws a class and a tile that has it, so that rare classes come as often as others.

    Args:
        root: folder of the data set, for the table and for errors.
        tile_ids: the tiles to draw from, in the data set's order.
        num_classes: how many classes the data set has.
    """

    def __init__(self, root: Path, tile_ids: Sequence[str], num_classes: int) -> None:
        counts = read_histogram(root, num_classes)
        for tile_id in tile_ids:
            if tile_id not in counts:
                raise DataError(
                    f"{root / FILE_NAME} has no row for the tile '{tile_id}', and "
                    "data.rare_class_share needs it; prepare the data set again"
                )
        has_class = np.stack([counts[tile_id][:num_classes] > 0 for tile_id in tile_ids])
        present = np.flatnonzero(has_class.any(0))
        self._tiles = {int(c): np.flatnonzero(has_class[:, c]) for c in present}
        if not self._tiles:
            raise DataError(f"{root}: no tile to train on has a labelled pixel")

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Index of a tile and of a class it has: classes evenly, then tiles evenly."""
        class_index = int(rng.choice(list(self._tiles)))
        return int(rng.choice(self._tiles[class_index])), class_index
