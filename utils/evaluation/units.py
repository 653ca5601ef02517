"""What an evaluation scores at once: a source image, which may lie in several tiles, or a tile."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from utils.evaluation.sliding_window import Window


class Place(Protocol):
    """What is needed of a ``datasets.tile_set.Tile``: a rectangle of a source image."""

    @property
    def id(self) -> str:
        """Name."""

    @property
    def source(self) -> str:
        """Name of the source image."""

    @property
    def top_px(self) -> int:
        """First row in the source image."""

    @property
    def left_px(self) -> int:
        """First column."""

    @property
    def height_px(self) -> int:
        """Number of rows."""

    @property
    def width_px(self) -> int:
        """Number of columns."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Tiles of one source image that are scored together.

    They need not cover it: the unit is the smallest rectangle around them, and what none of them
    covers is ignored. So a split may hold a part of an image, or tiles may have been taken out.
    """

    source: str
    tiles: tuple[Place, ...]  # from the top down, those of a row from the left

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the rectangle, in pixels."""
        windows = self.windows()
        height, width = (max(window[axis].stop for window in windows) for axis in (0, 1))
        return height, width

    def windows(self) -> list[Window]:
        """Where each tile is in the rectangle."""
        top = min(tile.top_px for tile in self.tiles)
        left = min(tile.left_px for tile in self.tiles)
        return [
            (
                slice(tile.top_px - top, tile.top_px - top + tile.height_px),
                slice(tile.left_px - left, tile.left_px - left + tile.width_px),
            )
            for tile in self.tiles
        ]


def units_of(tiles: Iterable[Place], unit: str) -> tuple[Unit, ...]:
    """The units of a split, in the order in which the list of tiles comes to them.

    Args:
        tiles: of the split.
        unit: see ``eval.unit``.
    """
    groups: dict[str, list[Place]] = {}
    for tile in tiles:
        groups.setdefault(tile.source if unit == "source" else tile.id, []).append(tile)
    return tuple(
        Unit(
            source=group[0].source,
            tiles=tuple(sorted(group, key=lambda tile: (tile.top_px, tile.left_px))),
        )
        for group in groups.values()
    )
