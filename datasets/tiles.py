"""The tile folder: what every data set looks like on disk once it is prepared.

::

    ROOT/dataset.json          name, classes, palette, ignore index, origin, how it was prepared
    ROOT/tiles.csv             id, source image, offset and size in it, of every tile
    ROOT/splits/SPLIT.txt      tile ids, one a line
    ROOT/images/ID.tif         (H, W, 3) 8-bit RGB
    ROOT/labels/ID.tif         (H, W) 8-bit class index, 255 = ignore

A tile comes from one source image, and a source image is in one split.
"""

import csv
import io
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.config import differences
from utils.errors import DataError, MissingDataError
from utils.files import read_json, write_json, write_text
from utils.raster import SUFFIX, read_raster, write_raster

FORMAT_VERSION = 2
SPLITS = ("train", "val", "test")
LABEL_FOLDERS = {"full": "labels", "eroded": "labels_eroded"}

Color = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A rectangle of a source image."""

    id: str  # file name without suffix
    source: str  # id of the source image
    top_px: int
    left_px: int
    height_px: int
    width_px: int


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """A prepared data set, opened for reading."""

    root: Path
    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]  # RGB of each class
    origin: str  # where the images come from
    prepared_with: dict[str, Any]  # the settings of prepare.py
    tiles: dict[str, Tile] = field(repr=False)
    splits: dict[str, tuple[str, ...]] = field(repr=False)

    def image_path(self, tile_id: str) -> Path:
        """File of a tile's RGB image."""
        return self.root / "images" / f"{tile_id}{SUFFIX}"

    def target_path(self, tile_id: str, kind: str = "full") -> Path:
        """File of a tile's class indices: ``full``, or ``eroded`` (ignore along borders)."""
        return self.root / LABEL_FOLDERS[kind] / f"{tile_id}{SUFFIX}"

    def split(self, name: str) -> tuple[str, ...]:
        """Tile ids of a split.

        Raises:
            MissingDataError: the data set has no such split, or it is empty.
        """
        if not self.splits.get(name):
            known = ", ".join(split for split, ids in self.splits.items() if ids)
            raise MissingDataError(f"{self.root} has no split '{name}'; it has {known}")
        return self.splits[name]

    def read_image(self, tile_id: str) -> np.ndarray:
        """A tile's image, ``(H, W, 3)`` uint8 RGB; ``utils.raster.open_raster`` maps it."""
        return read_raster(self.image_path(tile_id), "RGB")

    def read_target(self, tile_id: str, kind: str = "full") -> np.ndarray:
        """A tile's class indices, ``(H, W)`` uint8 in ``0..num_classes-1`` or 255 = ignore.

        Raises:
            MissingDataError: there is no such file.
            DataError: the file is not whole, not 8-bit, or holds an unknown index.
        """
        path = self.target_path(tile_id, kind)
        target = read_raster(path, "8-bit")
        check_target(path, target, len(self.classes))
        return target


def check_target(path: Path, target: np.ndarray, num_classes: int) -> None:
    """Refuse class indices that the data set does not have.

    Args:
        path: for the error.
        target: uint8, the class indices or any part of them.
        num_classes: how many the data set has.
    """
    # In uint8 the number after ignore (255) is 0, so the largest successor shows what is unknown.
    largest = int((target + np.uint8(1)).max(initial=0)) - 1
    if largest >= num_classes:
        raise DataError(
            f"{path} holds class index {largest}, the data set has {num_classes} classes "
            f"(0..{num_classes - 1}, {IGNORE_INDEX} = ignore)"
        )


def is_prepared(root: Path, settings: dict[str, Any]) -> bool:
    """Whether ``root`` holds a set made with these settings.

    Raises:
        DataError: it holds something else; both sides are named.
    """
    if not root.exists():
        return False
    if not (root / "dataset.json").is_file():
        raise DataError(f"{root} exists and is not a prepared data set; choose another --output")
    found = read_json(root / "dataset.json").get("prepared_with", {})
    if lines := differences(settings, found):
        raise DataError(
            f"{root} was prepared with other settings (wanted | found): {'; '.join(lines)}. Delete "
            "it or choose another --output"
        )
    print(f"{root} is already prepared with these settings")
    return True


def open_tile_set(root: Path) -> TileSet:
    """Open a prepared data set and check that its lists agree.

    Raises:
        MissingDataError: the folder, or one of its lists, is not there.
        DataError: another format version, a tile that no list describes, a source in two splits.
    """
    if not (root / "dataset.json").is_file():
        raise MissingDataError(
            f"{root} is not a prepared data set (no dataset.json); make it with prepare.py"
        )
    meta = read_json(root / "dataset.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{root} has data set format {meta.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; prepare it again"
        )
    tiles = _read_tiles(root / "tiles.csv")
    splits = {path.stem: _read_ids(path) for path in sorted((root / "splits").glob("*.txt"))}
    _check_splits(root, tiles, splits)
    return TileSet(
        root=root,
        name=meta["name"],
        classes=tuple(meta["classes"]),
        palette=tuple(_color(rgb) for rgb in meta["palette"]),
        origin=meta["origin"],
        prepared_with=meta["prepared_with"],
        tiles=tiles,
        splits=splits,
    )


def _color(rgb: list[int]) -> Color:
    red, green, blue = rgb
    return red, green, blue


def _read_ids(path: Path) -> tuple[str, ...]:
    lines = path.read_text(encoding="utf-8").split("\n")  # an id may hold spaces
    return tuple(line.strip() for line in lines if line.strip())


def _read_tiles(path: Path) -> dict[str, Tile]:
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist; prepare the data set again")
    tiles = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {key: int(row[key]) for key in row if key.endswith("_px")}
            tiles[row["id"]] = Tile(id=row["id"], source=row["source"], **numbers)
    return tiles


def _check_splits(root: Path, tiles: dict[str, Tile], splits: dict[str, tuple[str, ...]]) -> None:
    split_of: dict[str, str] = {}
    for split, ids in splits.items():
        for tile_id in ids:
            if tile_id not in tiles:
                raise DataError(f"{root}/splits/{split}.txt names '{tile_id}', tiles.csv does not")
            source = tiles[tile_id].source
            if split_of.setdefault(source, split) != split:
                raise DataError(
                    f"{root}: source image '{source}' is in the splits {split_of[source]} and "
                    f"{split}; a source image may be in one split only"
                )


class TileSetWriter:
    """Write a data set under a temporary name; it appears as a whole, or not at all.

    Use as a context manager: ``add`` every tile, and leave the block. An error or a kill leaves
    nothing at ``root``; the next attempt clears what a killed one left beside it.
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
    ) -> None:
        self._root = root
        self._partial = root.parent / f".{root.name}.partial"
        self._tiles: dict[str, Tile] = {}
        self._splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._meta = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "classes": list(classes),
            "palette": [list(color) for color in palette],
            "ignore_index": IGNORE_INDEX,
            "origin": origin,
            "prepared_with": prepared_with,
        }

    def __enter__(self) -> "TileSetWriter":
        if self._root.exists():
            raise DataError(f"{self._root} exists already; delete it or choose another --output")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self

    @property
    def folder(self) -> Path:
        """Where the set lies until it is whole, for what is written beside its tiles."""
        return self._partial

    def add(self, split: str, tile: Tile, image: np.ndarray, target: np.ndarray) -> Path:
        """Write one tile.

        Args:
            split: train, val or test.
            tile: its id, source and place.
            image: ``(H, W, 3)`` uint8 RGB.
            target: ``(H, W)`` uint8 class index, 255 = ignore.

        Returns:
            The image file, under its temporary name.
        """
        if image.shape[:2] != target.shape:
            raise DataError(
                f"tile '{tile.id}': image is {image.shape[:2]} and label {target.shape} "
                "(height, width); they must have one size"
            )
        if tile.id in self._tiles:
            raise DataError(f"two tiles are called '{tile.id}'; rename one of the source images")
        path = self._partial / "images" / f"{tile.id}{SUFFIX}"
        write_raster(path, image)
        write_raster(self._partial / "labels" / f"{tile.id}{SUFFIX}", target)
        self._tiles[tile.id] = tile
        self._splits[split].append(tile.id)
        return path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)  # gone already if all went well

    def _finish(self) -> None:
        _check_splits(self._root, self._tiles, {k: tuple(v) for k, v in self._splits.items()})
        for split, ids in self._splits.items():
            if ids:
                write_text(self._partial / "splits" / f"{split}.txt", "\n".join(sorted(ids)) + "\n")
        table = io.StringIO()
        columns = [f.name for f in fields(Tile)]
        rows = csv.DictWriter(table, columns, lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(self._tiles[tile_id]) for tile_id in sorted(self._tiles))
        write_text(self._partial / "tiles.csv", table.getvalue())
        write_json(self._partial / "dataset.json", self._meta)
        self._partial.rename(self._root)
