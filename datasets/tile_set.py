"""Prepared tile set on disk: tiles, targets, splits and class histogram.

::

    ROOT/dataset.json          name, classes, palette, origin, split, rendering, settings
    ROOT/sources.json          image, size, place and hash of the pixels of every source
    ROOT/tiles.csv             id, source, offset and size in its image, of every tile
    ROOT/histogram.csv         pixels of every class, and ignored ones, of every labelled tile
    ROOT/splits/SPLIT.txt      tile ids, one per line
    ROOT/images/ID.tif         (H, W, 3) 8-bit RGB
    ROOT/valid/ID.tif          (H, W) 8-bit, 0 = no data; only of tiles that have such pixels
    ROOT/labels/ID.tif         (H, W) 8-bit class index, 255 = ignore
    ROOT/labels_eroded/ID.tif  the same, ignored along class borders, where published

A tile comes from one source, and a source is in one split. A source is an image, or a block of one
that was split by blocks. Splits whose labels are hidden (``unlabelled``) have no labels.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.rasters import SUFFIX, read_raster
from datasets.sources import SourceFacts, read_sources
from utils.boxes import Box
from utils.config import differences
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import read_json, write_text

FORMAT_VERSION = 3
SPLITS = ("train", "val", "test")
LABEL_FOLDERS = {"full": "labels", "eroded": "labels_eroded"}
HISTOGRAM = "histogram.csv"
_COUNTED_ROWS = 512  # at a time: counting converts pixels to 64-bit integers

Color = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class NamedSplit:
    """A named split of the source images of a data set."""

    name: str
    source: str  # origin of the lists, one sentence
    lists: Mapping[str, tuple[str, ...]]  # source ids by split
    unlabelled: tuple[str, ...] = ()  # splits whose labels are hidden

    def __post_init__(self) -> None:
        check_disjoint(f"split '{self.name}'", self.lists)

    def sources(self) -> tuple[str, ...]:
        """Return the source images of all splits."""
        return tuple(source for ids in self.lists.values() for source in ids)


def split_sha256(lists: Mapping[str, Iterable[str]]) -> str:
    """Return the SHA-256 of the source images of every split, without empty splits.

    It identifies the protocol, independently of the tiling.
    """
    plain = {split: sorted(chosen) for split, ids in lists.items() if (chosen := set(ids))}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_disjoint(where: str, lists: Mapping[str, Iterable[str]]) -> None:
    """Refuse a source image in two splits.

    Raises:
        DataError: naming the image and both splits.
    """
    split_of: dict[str, str] = {}
    for split, ids in lists.items():
        for source in ids:
            if split_of.setdefault(source, split) != split:
                raise DataError(
                    f"{where}: source image '{source}' is in the splits {split_of[source]} and "
                    f"{split}; a source image may be in one split only"
                )


def find_split(name: str, known: Mapping[str, NamedSplit], data_set: str) -> NamedSplit:
    """Return the split of this name, or raise a ``ConfigError`` with the known names."""
    if name not in known:
        raise ConfigError(f"--split {name} is not a split of {data_set}; it has {', '.join(known)}")
    return known[name]


@dataclass(frozen=True, kw_only=True)
class Tile(Box):
    """A rectangle of a source image, with an image file and a target file of its own."""

    id: str  # file name without suffix
    source: str  # id of the source image


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """Tiles of one source image that are scored together.

    The tiles need not cover the source image: its extent here is their bounding rectangle, in which
    pixels outside all tiles are ignored. A split may thus hold a part of an image, and tiles may
    have been removed.
    """

    source: str  # id of the source image
    tiles: tuple[Tile, ...]  # by first row, then by first column

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the bounding rectangle, in pixels."""
        boxes = self.boxes
        return max(box.bottom_px for box in boxes), max(box.right_px for box in boxes)

    @property
    def boxes(self) -> list[Box]:
        """Return the place of each tile in the bounding rectangle."""
        top = min(tile.top_px for tile in self.tiles)
        left = min(tile.left_px for tile in self.tiles)
        return [
            Box(tile.top_px - top, tile.left_px - left, tile.height_px, tile.width_px)
            for tile in self.tiles
        ]


def source_images(tiles: Iterable[Tile], unit: str) -> tuple[SourceImage, ...]:
    """Group the tiles of a split into what is scored as one image, by order of first appearance.

    ``unit`` is ``source``, or ``tile`` to score every tile by itself (``eval.unit``).
    """
    groups: dict[str, list[Tile]] = {}
    for tile in tiles:
        groups.setdefault(tile.source if unit == "source" else tile.id, []).append(tile)
    by_place = attrgetter("top_px", "left_px")
    return tuple(
        SourceImage(source=group[0].source, tiles=tuple(sorted(group, key=by_place)))
        for group in groups.values()
    )


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """A prepared data set, opened for reading."""

    root: Path
    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]  # RGB of each class
    origin: str  # source of the images
    prepared_with: dict[str, Any]  # the settings of prepare.py
    split_name: str
    split_sha256: str  # of the lists on disk
    unlabelled: tuple[str, ...]  # splits whose labels are hidden
    label_kinds: tuple[str, ...]  # of LABEL_FOLDERS
    channels: str  # of the three: rgb or irrg
    rendering: dict[str, Any]  # bands and stretch of the images, see utils.rasters.rendering
    sources: dict[str, SourceFacts] = field(repr=False)
    tiles: dict[str, Tile] = field(repr=False)
    splits: dict[str, tuple[str, ...]] = field(repr=False)

    def identity(self) -> dict[str, Any]:
        """Return the part that checkpoints store: name, classes, colours and split."""
        return {
            "dataset": self.name,
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "split": {"name": self.split_name, "sha256": self.split_sha256},
        }

    def image_path(self, tile_id: str) -> Path:
        """Return the path of a tile's RGB image."""
        return image_path(self.root, tile_id)

    def target_path(self, tile_id: str, kind: str = "full") -> Path:
        """Return the path of a tile's target, ``full`` or ``eroded`` (ignored along borders)."""
        return target_path(self.root, tile_id, kind)

    def split(self, name: str) -> tuple[str, ...]:
        """Return the tile ids of a split.

        Raises:
            MissingDataError: the data set has no such split, or it is empty.
        """
        if not self.splits.get(name):
            known = ", ".join(split for split, ids in self.splits.items() if ids)
            raise MissingDataError(f"{self.root} has no split '{name}'; it has {known}")
        return self.splits[name]

    def read_image(self, tile_id: str) -> np.ndarray:
        """Read a tile's image, ``(H, W, 3)`` uint8 RGB."""
        return read_raster(self.image_path(tile_id), "RGB")

    def read_target(self, tile_id: str, kind: str = "full") -> np.ndarray:
        """Read a tile's target, ``(H, W)`` uint8 class index, 255 = ignore.

        Raises:
            MissingDataError: the labels are hidden, or there is no such file.
            DataError: the file is truncated, not 8-bit, or holds an unknown index.
        """
        path = self.target_path(tile_id, kind)
        if not path.is_file():
            own = [split for split, ids in self.splits.items() if tile_id in ids]
            self.require_labels("".join(own), kind)
        target = read_raster(path, "8-bit")
        check_target(path, target, len(self.classes))
        return target

    def read_valid(self, tile_id: str) -> np.ndarray | None:
        """Read which pixels of a tile hold data, ``(H, W)`` bool; None: all of them."""
        path = valid_path(self.root, tile_id)
        return read_raster(path, "8-bit") != 0 if path.is_file() else None

    def kinds_of(self, split: str) -> tuple[str, ...]:
        """Return the label kinds of a split; a kind counts if all of its tiles have it."""
        tile_ids = self.split(split)
        return tuple(
            kind
            for kind in self.label_kinds
            if kind == "full" or all(self.target_path(t, kind).is_file() for t in tile_ids)
        )

    def require_labels(self, split: str, kind: str) -> None:
        """Refuse a split without labels of a kind.

        Raises:
            MissingDataError: the labels of the split are hidden, or the set has none of this kind.
        """
        if split in self.unlabelled:
            raise MissingDataError(
                f"the labels of the split {split} of {self.root} are hidden: infer.py predicts its "
                "images, which cannot be scored here"
            )
        if kind not in self.label_kinds:
            raise MissingDataError(
                f"{self.root} has no {kind} labels, only {', '.join(self.label_kinds)}; prepare it "
                "again with the archive that holds them"
            )


def image_path(root: Path, tile_id: str) -> Path:
    """Return the path of a tile's RGB image in a set, complete or not."""
    return root / "images" / f"{tile_id}{SUFFIX}"


def valid_path(root: Path, tile_id: str) -> Path:
    """Return the path of the file that tells which pixels of a tile hold data, if it is needed."""
    return root / "valid" / f"{tile_id}{SUFFIX}"


def target_path(root: Path, tile_id: str, kind: str) -> Path:
    """Return the path of a tile's target in a set, complete or not."""
    return root / LABEL_FOLDERS[kind] / f"{tile_id}{SUFFIX}"


def check_target(path: Path, target: np.ndarray, num_classes: int) -> None:
    """Refuse a uint8 target, or part of one, with class indices that the data set does not have."""
    # In uint8 the successor of ignore (255) is 0, so the maximum is that of a class.
    largest = int((target + np.uint8(1)).max(initial=0)) - 1
    if largest >= num_classes:
        raise DataError(
            f"{path} holds class index {largest}, the data set has {num_classes} classes "
            f"(0..{num_classes - 1}, {IGNORE_INDEX} = ignore)"
        )


def is_prepared(root: Path, settings: dict[str, Any]) -> bool:
    """Return True if ``root`` holds a set prepared with these settings.

    Raises:
        DataError: it holds something else; names both sides.
    """
    if not root.exists():
        return False
    if not (root / "dataset.json").is_file():
        raise DataError(f"{root} exists and is not a prepared data set; choose another --output")
    meta = read_json(root / "dataset.json")
    if lines := differences(settings, meta.get("prepared_with", {})):
        raise DataError(
            f"{root} was prepared with other settings (wanted | found): {'; '.join(lines)}. Delete "
            "it or choose another --output"
        )
    if (version := meta.get("format_version")) != FORMAT_VERSION:
        raise DataError(
            f"{root} has data set format {version}, this program writes {FORMAT_VERSION}. Delete "
            "it or choose another --output"
        )
    print(f"{root} is already prepared with these settings")
    return True


def open_tile_set(root: Path) -> TileSet:
    """Open a prepared data set and check that its lists agree.

    Raises:
        MissingDataError: the folder, or one of its lists, is missing.
        DataError: another format version, a tile that is not in the table, a source image in two
            splits, or lists other than those of the recorded split.
    """
    if not (facts := root / "dataset.json").is_file():
        raise MissingDataError(
            f"{root} is not a prepared data set ({facts.absolute()} does not exist); make it with "
            "prepare.py, or correct its name"
        )
    meta = read_json(root / "dataset.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{root} has data set format {meta.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; prepare it again"
        )
    tiles, sources = _read_tiles(root / "tiles.csv"), read_sources(root)
    if lost := sorted({tile.source for tile in tiles.values()} - sources.keys()):
        raise DataError(
            f"{root}/sources.json lacks {len(lost)} sources of tiles.csv (first: '{lost[0]}'); "
            "prepare the data set again"
        )
    splits = {path.stem: _read_ids(path) for path in sorted((root / "splits").glob("*.txt"))}
    hashed = check_splits(root, tiles, splits)
    split = meta["split"]
    if split.get("sha256") not in (None, hashed):
        raise DataError(
            f"the lists in {root}/splits are not those of the split '{split['name']}' any more "
            f"(SHA-256 {hashed}, recorded is {split['sha256']}); restore the lists, or give the "
            "split a name of its own (split.name in dataset.json) and delete split.sha256"
        )
    return TileSet(
        root=root,
        name=meta["name"],
        classes=tuple(meta["classes"]),
        palette=tuple((red, green, blue) for red, green, blue in meta["palette"]),
        origin=meta["origin"],
        prepared_with=meta["prepared_with"],
        split_name=split["name"],
        split_sha256=hashed,
        unlabelled=tuple(split["unlabelled"]),
        label_kinds=tuple(meta["labels"]),
        channels=meta["channels"],
        rendering=meta["rendering"],
        sources=sources,
        tiles=tiles,
        splits=splits,
    )


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


def check_splits(root: Path, tiles: dict[str, Tile], splits: dict[str, tuple[str, ...]]) -> str:
    """Check that the lists of tiles agree with their table.

    Returns:
        Hash of the split, see ``split_sha256``.

    Raises:
        DataError: a tile is not in the table, or a source image is in two splits.
    """
    sources: dict[str, list[str]] = {}
    for split, ids in splits.items():
        for tile_id in ids:
            if tile_id not in tiles:
                raise DataError(f"{root}/splits/{split}.txt names '{tile_id}', tiles.csv does not")
        sources[split] = [tiles[tile_id].source for tile_id in ids]
    check_disjoint(str(root), sources)
    return split_sha256(sources)


def count_values(target: np.ndarray) -> np.ndarray:
    """Count the pixels of every value of an ``(H, W)`` uint8 array, ``(256,)`` int64."""
    counts = np.zeros(IGNORE_INDEX + 1, np.int64)
    for top in range(0, len(target), _COUNTED_ROWS):
        part = target[top : top + _COUNTED_ROWS]
        counts += np.bincount(part.ravel(), minlength=IGNORE_INDEX + 1)
    return counts


def count_classes(target: np.ndarray, num_classes: int) -> list[int]:
    """Count the pixels of every class and, last, of ignore, of ``(H, W)`` uint8 class indices."""
    counts = count_values(target)
    return [*counts[:num_classes].tolist(), int(counts[IGNORE_INDEX])]


def write_histogram(root: Path, num_classes: int, counts: Mapping[str, Sequence[int]]) -> None:
    """Write the class histogram of a data set, results of ``count_classes`` by tile, atomically."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["id", *range(num_classes), "ignored"])
    rows.writerows([tile_id, *counts[tile_id]] for tile_id in sorted(counts))
    write_text(root / HISTOGRAM, table.getvalue())


def read_histogram(root: Path, num_classes: int) -> dict[str, np.ndarray]:
    """Read the class histogram of a data set, ``(num_classes + 1,)`` int64 by tile.

    Raises:
        MissingDataError: the file does not exist.
        DataError: it belongs to other classes, or is not a table of numbers.
    """
    path = root / HISTOGRAM
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
    for tile_id, *numbers in rows:
        if len(numbers) != num_classes + 1 or not all(map(str.isdecimal, numbers)):
            raise DataError(
                f"{path} has no complete row of numbers for the tile '{tile_id}'; prepare the data "
                "set again"
            )
    return {tile_id: np.array(numbers, np.int64) for tile_id, *numbers in rows}


class RareClasses:
    """Class-balanced sampling of the tiles of a data set: draws a class, then a tile with it."""

    def __init__(self, root: Path, tile_ids: Sequence[str], num_classes: int) -> None:
        counts = read_histogram(root, num_classes)
        for tile_id in tile_ids:
            if tile_id not in counts:
                raise DataError(
                    f"{root / HISTOGRAM} has no row for the tile '{tile_id}', and "
                    "data.rare_class_share needs it; prepare the data set again"
                )
        has_class = np.stack([counts[tile_id][:num_classes] > 0 for tile_id in tile_ids])
        present = np.flatnonzero(has_class.any(0))
        self._tiles = {int(c): np.flatnonzero(has_class[:, c]) for c in present}
        if not self._tiles:
            raise DataError(f"{root}: no training tile has a labelled pixel")

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the index of a tile and of a class in it, both uniformly."""
        class_index = int(rng.choice(list(self._tiles)))
        return int(rng.choice(self._tiles[class_index])), class_index
