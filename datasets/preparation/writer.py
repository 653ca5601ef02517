"""Cutting of source images into tiles, and writing of a tile set.

Training images are cut with overlap; validation and test images without, into nearly equal parts,
because an evaluated pixel must be counted once. A set appears under its name as a whole or not at
all.
"""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.rasters import read_raster, write_raster
from datasets.sources import SourceFacts, pixel_hash, write_sources
from datasets.tile_set import (
    FORMAT_VERSION,
    SPLITS,
    Color,
    Tile,
    check_splits,
    count_classes,
    image_path,
    target_path,
    valid_path,
    write_histogram,
)
from utils.boxes import Box, window_starts
from utils.errors import ConfigError, DataError
from utils.files import write_json, write_text
from utils.rasters.rendering import AS_STORED, Rendering

RECORDS = "records"  # folder of what an unfinished run has done; not in the finished set
_DIGEST = "digest.txt"
_MIN_TILE_PX = 32  # the coarsest scale of the network is 1/32
_TILE_COLUMNS = ("id", "source", "top_px", "left_px", "height_px", "width_px")  # of tiles.csv


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Rule for cutting source images into tiles."""

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

    def windows(self, split: str, height: int, width: int) -> list[Box]:
        """Return the rectangles of all tiles of an image, row by row."""
        if self.tile_size_px is None or split in self.keep_whole:
            return [Box(0, 0, height, width)]
        rows = _spans(split, height, self.tile_size_px, self.overlap_px)
        columns = _spans(split, width, self.tile_size_px, self.overlap_px)
        return [Box(top, left, h, w) for top, h in rows for left, w in columns]

    def tiles(self, source: str, split: str, box: Box) -> list[Tile]:
        """Return all tiles of a source, which is a part of its image, named by their place."""
        tiles = []
        windows = self.windows(split, box.height_px, box.width_px)
        for window in windows:
            place = replace(
                window, top_px=box.top_px + window.top_px, left_px=box.left_px + window.left_px
            )
            suffix = f"_y{place.top_px:05d}_x{place.left_px:05d}" if len(windows) > 1 else ""
            tiles.append(Tile(id=f"{source}{suffix}", source=source, **asdict(place)))
        return tiles


def _spans(split: str, length_px: int, size_px: int, overlap_px: int) -> list[tuple[int, int]]:
    """Return start and length of the tiles along one side of an image."""
    if split == "train":
        starts = window_starts(length_px, size_px, overlap_px)
        return [(start, min(size_px, length_px)) for start in starts]
    num_tiles = -(-length_px // size_px)
    edges = [round(i * length_px / num_tiles) for i in range(num_tiles + 1)]
    return [(edges[i], edges[i + 1] - edges[i]) for i in range(num_tiles)]


def write_tile(
    folder: Path,
    tile: Tile,
    image: np.ndarray,
    targets: Mapping[str, np.ndarray],
    valid: np.ndarray | None = None,
) -> Path:
    """Write the files of one tile.

    Args:
        folder: root of the set, finished or not.
        tile: gives the file name.
        image: ``(H, W, 3)`` uint8 RGB.
        targets: ``(H, W)`` uint8 class indices, 255 = ignore, by label kind.
        valid: ``(H, W)`` bool, pixels that hold data; None: all. Of those that do not, targets must
            be ignored.

    Returns:
        The image file.
    """
    for target in targets.values():
        if image.shape[:2] != target.shape:
            raise DataError(
                f"tile '{tile.id}': image is {image.shape[:2]} and label {target.shape} "
                "(height, width); they must have one size"
            )
    path = image_path(folder, tile.id)
    write_raster(path, image)
    for kind, target in targets.items():
        write_raster(target_path(folder, tile.id, kind), target)
    if valid is not None and not valid.all():
        write_raster(valid_path(folder, tile.id), valid.astype(np.uint8))
    return path


class TileSetWriter:
    """Writer of a data set that appears under its name as a whole or not at all.

    Use as a context manager: ``add`` every tile, and leave the block. An error leaves nothing at
    ``root``. The temporary folder of a killed run is cleared by the next one, unless that has the
    same ``digest`` and can resume.

    Args:
        root: folder of the finished set.
        name: as in ``TileSet``, like the other arguments that are not named here.
        split_source: origin of the lists of source images; None: that of the images.
        digest: hash of everything that decides the content; empty: never resume.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        classes: tuple[str, ...],
        palette: tuple[Color, ...],
        origin: str,
        prepared_with: dict[str, Any],
        split_name: str = "own",
        split_source: str | None = None,
        unlabelled: tuple[str, ...] = (),
        label_kinds: tuple[str, ...] = ("full",),
        channels: str = "rgb",
        rendering: Rendering = AS_STORED,
        digest: str = "",
    ) -> None:
        self.folder = partial_folder(root)  # holds the set until it is finished
        self._root, self._digest = root, digest
        self._tiles: dict[str, Tile] = {}
        self._pixels: dict[str, list[int]] = {}
        self._sources: dict[str, SourceFacts] = {}
        self._splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._num_classes = len(classes)
        self._meta: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "classes": list(classes),
            "palette": [list(color) for color in palette],
            "ignore_index": IGNORE_INDEX,
            "origin": origin,
            "split": {
                "name": split_name,
                "sha256": None,
                "source": split_source or origin,
                "unlabelled": list(unlabelled),
            },
            "labels": list(label_kinds),
            "channels": channels,
            "rendering": rendering.to_plain(),
            "prepared_with": prepared_with,
        }

    def __enter__(self) -> "TileSetWriter":
        if self._root.exists():
            raise DataError(f"{self._root} exists already; delete it or choose another --output")
        path = self.folder / RECORDS / _DIGEST
        if not self._digest or not path.is_file() or path.read_text("utf-8") != self._digest:
            shutil.rmtree(self.folder, ignore_errors=True)
            write_text(path, self._digest)
        for unfinished in list(self.folder.rglob(".*.partial")):
            unfinished.unlink()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt) and self._digest:
            return  # the same command resumes here
        try:
            if error is None:
                self._finish()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)  # gone already after a success

    def add(self, split: str, tile: Tile, image: np.ndarray, target: np.ndarray) -> Path:
        """Write one tile with its full label; see ``write_tile``."""
        path = write_tile(self.folder, tile, image, {"full": target})
        self.record(split, tile, count_classes(target, self._num_classes))
        return path

    def record(self, split: str, tile: Tile, pixels: list[int] | None) -> None:
        """Enter a tile whose files are written into the tables.

        Args:
            split: train, val or test.
            tile: its id, source and place.
            pixels: result of ``count_classes``; None if the labels of its split are hidden.
        """
        if tile.id in self._tiles:
            raise DataError(f"two tiles are named '{tile.id}'; rename one of the source images")
        self._tiles[tile.id] = tile
        self._splits[split].append(tile.id)
        if pixels is not None:
            self._pixels[tile.id] = pixels

    def record_source(self, source: str, facts: SourceFacts) -> None:
        """Enter a source; without an entry it is the bounding rectangle of its tiles."""
        self._sources[source] = facts

    def _facts_of(self, source: str) -> SourceFacts:
        """Return the entry of a source that has none, from the files of its tiles."""
        tiles = [tile for _, tile in sorted(self._tiles.items()) if tile.source == source]
        size = max(t.bottom_px for t in tiles), max(t.right_px for t in tiles)
        pixels = pixel_hash(size)
        for tile in tiles:
            pixels.update(read_raster(image_path(self.folder, tile.id), "RGB").data)
        return SourceFacts(image=source, size=size, box=Box(0, 0, *size), sha256=pixels.hexdigest())

    def split_sha256(self) -> str:
        """Return the hash of the split as recorded so far, see ``datasets.tile_set``."""
        return check_splits(self._root, self._tiles, {k: tuple(v) for k, v in self._splits.items()})

    def _finish(self) -> None:
        self._meta["split"]["sha256"] = self.split_sha256()
        for split, ids in self._splits.items():
            if ids:
                write_text(self.folder / "splits" / f"{split}.txt", "\n".join(sorted(ids)) + "\n")
        text = io.StringIO()
        rows = csv.DictWriter(text, _TILE_COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(self._tiles[tile_id]) for tile_id in sorted(self._tiles))
        write_text(self.folder / "tiles.csv", text.getvalue())
        write_histogram(self.folder, self._num_classes, self._pixels)
        sources = {tile.source for tile in self._tiles.values()}
        known = self._sources
        write_sources(self.folder, {s: known.get(s) or self._facts_of(s) for s in sources})
        write_json(self.folder / "dataset.json", self._meta)
        shutil.rmtree(self.folder / RECORDS, ignore_errors=True)
        self.folder.rename(self._root)


def partial_folder(root: Path) -> Path:
    """Return the folder that holds a set until it is finished."""
    return root.parent / f".{root.name}.partial"
