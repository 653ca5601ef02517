"""Writing a tile folder, so that it appears as a whole, or not at all."""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.rasters import write_raster
from datasets.tile_set import (
    FORMAT_VERSION,
    SPLITS,
    Color,
    Tile,
    check_splits,
    count_classes,
    image_path,
    target_path,
    write_histogram,
)
from utils.errors import DataError
from utils.files import write_json, write_text

RECORDS = "records"  # folder of what a run that breaks off has done; not in the finished set
_BEGUN_WITH = "begun_with.txt"


def write_tile(
    folder: Path, tile: Tile, image: np.ndarray, targets: Mapping[str, np.ndarray]
) -> Path:
    """Write the files of one tile.

    Args:
        folder: the set, or what will be it.
        tile: its id.
        image: ``(H, W, 3)`` uint8 RGB.
        targets: ``(H, W)`` uint8 class index, 255 = ignore, by label kind.

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
    return path


class TileSetWriter:
    """Write a data set under a temporary name; it appears as a whole, or not at all.

    Use as a context manager: ``add`` every tile, and leave the block. An error or a kill leaves
    nothing at ``root``; the next attempt clears what a killed one left beside it, unless it has the
    same ``begun_with`` and so can go on.

    Args:
        root: the finished set.
        name: see ``TileSet``, as all that follow.
        classes: names.
        palette: colours.
        origin: where the images come from.
        prepared_with: the settings.
        split_name: of the lists of source images.
        split_source: where they come from; None: as the images.
        unlabelled: splits whose labels are hidden.
        label_kinds: which there are.
        bands: of the images.
        begun_with: digest of all that decides what is written; None: every attempt begins anew.
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
        bands: str = "rgb",
        begun_with: str | None = None,
    ) -> None:
        self._root = root
        self._partial = partial_folder(root)
        self._begun_with = begun_with
        self._tiles: dict[str, Tile] = {}
        self._pixels: dict[str, list[int]] = {}
        self._splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._split = {
            "name": split_name,
            "sha256": None,
            "source": split_source or origin,
            "unlabelled": list(unlabelled),
        }
        self._num_classes = len(classes)
        self._meta = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "classes": list(classes),
            "palette": [list(color) for color in palette],
            "ignore_index": IGNORE_INDEX,
            "origin": origin,
            "split": self._split,
            "labels": list(label_kinds),
            "bands": bands,
            "prepared_with": prepared_with,
        }

    def __enter__(self) -> "TileSetWriter":
        if self._root.exists():
            raise DataError(f"{self._root} exists already; delete it or choose another --output")
        begun_with = self._partial / RECORDS / _BEGUN_WITH
        if self._begun_with is None or _read(begun_with) != self._begun_with:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            if self._begun_with is not None:
                write_text(begun_with, self._begun_with)
        for path in list(self._partial.rglob(".*.partial")):  # a kill left them half-written
            path.unlink()
        return self

    @property
    def folder(self) -> Path:
        """Where the set lies until it is whole, for what is written beside its tiles."""
        return self._partial

    def add(self, split: str, tile: Tile, image: np.ndarray, target: np.ndarray) -> Path:
        """Write one tile with its full label; see ``write_tile``."""
        path = write_tile(self._partial, tile, image, {"full": target})
        self.record(split, tile, count_classes(target, self._num_classes))
        return path

    def record(self, split: str, tile: Tile, pixels: list[int] | None) -> None:
        """Take a tile whose files are written into the tables.

        Args:
            split: train, val or test.
            tile: its id, source and place.
            pixels: see ``count_classes``; None if the labels of its split are hidden.
        """
        if tile.id in self._tiles:
            raise DataError(f"two tiles are called '{tile.id}'; rename one of the source images")
        self._tiles[tile.id] = tile
        self._splits[split].append(tile.id)
        if pixels is not None:
            self._pixels[tile.id] = pixels

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if interrupted and self._begun_with is not None:
            return  # the same command goes on here
        try:
            if error is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)  # gone already if all went well

    def split_sha256(self) -> str:
        """Hash of the split as far as it is recorded, see ``datasets.tile_set``."""
        return check_splits(self._root, self._tiles, {k: tuple(v) for k, v in self._splits.items()})

    def _finish(self) -> None:
        self._split["sha256"] = self.split_sha256()
        for split, ids in self._splits.items():
            if ids:
                write_text(self._partial / "splits" / f"{split}.txt", "\n".join(sorted(ids)) + "\n")
        table = io.StringIO()
        rows = csv.DictWriter(table, [f.name for f in fields(Tile)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(self._tiles[tile_id]) for tile_id in sorted(self._tiles))
        write_text(self._partial / "tiles.csv", table.getvalue())
        write_histogram(self._partial, self._num_classes, self._pixels)
        write_json(self._partial / "dataset.json", self._meta)
        shutil.rmtree(self._partial / RECORDS, ignore_errors=True)
        self._partial.rename(self._root)


def partial_folder(root: Path) -> Path:
    """Where a set lies until it is whole."""
    return root.parent / f".{root.name}.partial"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
