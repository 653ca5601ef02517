"""How source images are cut into tiles.

Training images are cut with overlap; validation and test images without, into nearly equal parts,
because an evaluated pixel must be counted once.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.tile_set import SPLITS, Tile
from utils.arguments import non_negative_int
from utils.boxes import window_starts
from utils.errors import ConfigError

_MIN_TILE_PX = 32  # the coarsest scale of the network is 1/32
_SIZE_HELP = "cut images to at most this side in pixels"
_OVERLAP_HELP = (
    "least overlap of train tiles in pixels; val and test tiles never overlap, because an "
    "evaluated pixel must be counted once"
)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How source images are cut."""

    tile_size_px: int | None  # None: nothing is cut
    overlap_px: int = 0  # of neighbouring training tiles, at least
    keep_whole: tuple[str, ...] = ()  # splits whose images are not cut

    def __post_init__(self) -> None:
        if self.tile_size_px is None:
            if self.overlap_px:
                raise ConfigError("--overlap needs --tile-size")
        elif self.tile_size_px < _MIN_TILE_PX:
            raise ConfigError(
                f"--tile-size is {self.tile_size_px}; it must be {_MIN_TILE_PX} or more"
            )
        elif not 0 <= self.overlap_px < self.tile_size_px:
            raise ConfigError(
                f"--overlap is {self.overlap_px}; it must be at least 0 and below --tile-size "
                f"({self.tile_size_px})"
            )

    def windows(self, split: str, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Top, left, height and width of every tile of an image, in pixels."""
        if self.tile_size_px is None or split in self.keep_whole:
            return [(0, 0, height, width)]
        rows, columns = (self._spans(split, length) for length in (height, width))
        return [(top, left, h, w) for top, h in rows for left, w in columns]

    def _spans(self, split: str, length_px: int) -> list[tuple[int, int]]:
        """Start and length of the tiles along one side."""
        assert self.tile_size_px is not None
        if split == "train":
            starts = window_starts(length_px, self.tile_size_px, self.overlap_px)
            return [(start, min(self.tile_size_px, length_px)) for start in starts]
        num_tiles = -(-length_px // self.tile_size_px)
        edges = [round(i * length_px / num_tiles) for i in range(num_tiles + 1)]
        return [(edges[i], edges[i + 1] - edges[i]) for i in range(num_tiles)]

    def tiles(self, source: str, split: str, size: tuple[int, int]) -> list[Tile]:
        """Every tile of a source image of some height and width, named by its place."""
        windows = self.windows(split, *size)
        return [
            Tile(
                id=f"{source}_y{top:05d}_x{left:05d}" if len(windows) > 1 else source,
                source=source,
                top_px=top,
                left_px=left,
                height_px=height,
                width_px=width,
            )
            for top, left, height, width in windows
        ]


def add_arguments(
    add: Callable[..., Any], size_px: int | None, overlap_px: int, whole: Sequence[str]
) -> None:
    """The arguments that say how to cut, with the defaults of a data set."""
    add("--tile-size", type=non_negative_int, default=size_px, help=_SIZE_HELP)
    add("--overlap", type=non_negative_int, default=overlap_px, help=_OVERLAP_HELP)
    add("--keep-whole", nargs="*", default=list(whole), choices=SPLITS, help="splits not to cut")


def tiling_of(args: argparse.Namespace) -> Tiling:
    """What the arguments say."""
    return Tiling(
        tile_size_px=args.tile_size, overlap_px=args.overlap, keep_whole=tuple(args.keep_whole)
    )
