"""Files of one tile: image, labels, mask of its data, and structure maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.checks.fingerprints import Fingerprints, fingerprints
from datasets.rasters import Kind, open_raster
from datasets.structure_maps import MapRecipe, maker, map_kind, map_path, read_facts, read_map
from datasets.tile_set import TileSet, count_values, valid_path
from utils.boxes import cell_grid, valid_cells
from utils.errors import UserError
from utils.files import sha256_of

PREPARE = "prepare the data set again"
_NUM_LISTED = 5  # unknown values in a sentence

# By folder: recipes, and the SHA-256 of the image that each map was made from.
Stores = Mapping[Path, tuple[MapRecipe, dict[str, str]]]


class Finding(NamedTuple):
    """A fault or a warning: one line that names the problem, the place and the remedy."""

    kind: str  # findings of one kind are printed together, under this title
    text: str
    is_fault: bool = True


@dataclass(kw_only=True)
class TileFacts:
    """Content of the files of one tile."""

    image_sha256: str | None = None  # of the file, if it is readable and has several colours
    prints: Fingerprints | None = None  # of the image, if it is readable and in a split
    counts: np.ndarray | None = None  # (256,) int64 pixels of every value of the full label
    num_no_data: int = 0  # pixels
    flat: list[Path] = field(default_factory=list)  # stores whose map of this tile has one value
    findings: list[Finding] = field(default_factory=list)


class TileExaminer:
    """Examiner of the files of a tile, each read to its end and compared with the others.

    Args:
        tile_set: the data set.
        label_kinds: of each tile, by id; empty if its labels are hidden.
        stores: finished stores of structure maps.
    """

    def __init__(
        self, tile_set: TileSet, label_kinds: Mapping[str, Sequence[str]], stores: Stores
    ) -> None:
        self._tile_set, self._label_kinds, self._stores = tile_set, label_kinds, stores
        self._known_values = [*range(len(tile_set.classes)), IGNORE_INDEX]

    def examine(self, tile_id: str) -> TileFacts:
        """Read all files of a tile to their end."""
        facts, path = TileFacts(), self._tile_set.image_path(tile_id)
        image = self._read(facts, tile_id, path, "RGB", PREPARE)
        sha256 = None if image is None else sha256_of(path)
        valid = self._examine_valid(facts, tile_id)
        for kind in self._label_kinds[tile_id]:
            label_path = self._tile_set.target_path(tile_id, kind)
            target = self._read(facts, tile_id, label_path, "8-bit", PREPARE)
            if target is not None:
                counts = count_values(target)
                facts.findings += self._find_unknown(label_path, counts)
                facts.counts = counts if kind == "full" else facts.counts
                if num := _count_beyond(valid, target, IGNORE_INDEX):
                    text = f"{label_path} has {num:,} labelled pixels where the image holds no data"
                    kind_of_it = "labels of pixels without data"
                    facts.findings.append(Finding(kind_of_it, f"{text}; {PREPARE}"))
        for folder, (recipe, sources) in self._stores.items():
            if sha256 is not None and sources.get(tile_id, sha256) != sha256:
                text = f"{path} changed after its map in {folder} was made; run "
                text += f"{maker(recipe.generator)} again"
                facts.findings.append(Finding("maps of changed images", text))
            self._examine_map(facts, tile_id, folder, valid)
        if image is not None and (image != image[0, 0]).any():  # else it is no duplicate
            facts.image_sha256 = sha256
            facts.prints = fingerprints(image)
        return facts

    def _examine_valid(self, facts: TileFacts, tile_id: str) -> np.ndarray | None:
        """Read which pixels hold data, ``(H, W)`` uint8; None if all, or the file is unreadable."""
        path = valid_path(self._tile_set.root, tile_id)
        valid = self._read(facts, tile_id, path, "8-bit", PREPARE) if path.is_file() else None
        if valid is None:
            return None
        counts = count_values(valid)
        facts.num_no_data = int(counts[0])
        if counts[0] == 0 or counts[2:].any():
            text = f"{path} holds {', '.join(map(str, np.flatnonzero(counts)[:_NUM_LISTED]))}; it "
            text += f"must hold 0 (no data) and may hold 1 (data), nothing else; {PREPARE}"
            facts.findings.append(Finding("wrong masks of pixels without data", text))
        return valid

    def _read(
        self, facts: TileFacts, tile_id: str, path: Path, kind: Kind, remedy: str
    ) -> np.ndarray | None:
        """Map the pixels of a file and compare its size with the tile's; None if unreadable."""
        if not path.is_file():
            facts.findings.append(Finding("missing files", f"{path} does not exist; {remedy}"))
            return None
        try:
            array = open_raster(path, kind)
        except UserError as error:
            facts.findings.append(Finding("unreadable files", str(error)))
            return None
        found, tile = array.shape, self._tile_set.tiles[tile_id]
        if found[:2] != (tile.height_px, tile.width_px):
            text = f"{path} is {found[0]} x {found[1]}, tiles.csv says {tile.height_px} x "
            text += f"{tile.width_px} (height x width); {remedy}"
            facts.findings.append(Finding("wrong sizes", text))
        return array

    def _find_unknown(self, path: Path, counts: np.ndarray) -> Iterator[Finding]:
        unknown = np.setdiff1d(np.flatnonzero(counts), self._known_values).tolist()
        if unknown:
            listed = ", ".join(f"{v} ({counts[v]:,} pixels)" for v in unknown[:_NUM_LISTED])
            more = f" and {len(unknown) - _NUM_LISTED} more" if len(unknown) > _NUM_LISTED else ""
            last = len(self._tile_set.classes) - 1
            text = f"{path} holds {listed}{more}; the classes are 0..{last}, {IGNORE_INDEX} = "
            text += f"ignore; correct the masks and {PREPARE}"
            yield Finding("unknown label values", text)

    def _examine_map(
        self, facts: TileFacts, tile_id: str, folder: Path, valid: np.ndarray | None
    ) -> None:
        """Compare the map of a tile with the manifest of its store, and with the image's data."""
        recipe, sources = self._stores[folder]
        path, again = map_path(folder, tile_id), f"run {maker(recipe.generator)} again"
        if tile_id not in sources or not path.is_file():
            where = "no map" if tile_id in sources else "no map in its manifest"
            text = f"{folder}: '{tile_id}' has {where}; {again}"
            facts.findings.append(Finding("missing maps", text))
            return
        if map_kind(recipe.generator) == "cells":
            levels, valid = self._read_cells(facts, tile_id, path, recipe, valid)
        else:
            levels = self._read(facts, tile_id, path, "16-bit", again)
        if levels is not None and read_facts(folder, tile_id, sources[tile_id], recipe) is None:
            text = f"{path} was made from another image or with other settings than its manifest "
            text += f"records; delete it and {again}"
            facts.findings.append(Finding("maps that differ from their manifest", text))
        if levels is not None and (num := _count_beyond(valid, levels, 0)):
            what = "pixels" if levels.dtype == np.uint16 else "cells"
            text = f"{path} covers {num:,} {what} where the image holds no data; delete it and "
            finding = Finding("maps that cover pixels without data", f"{text}{again}")
            facts.findings.append(finding)
        if levels is not None and (levels == levels[0, 0]).all():
            facts.flat.append(folder)

    def _read_cells(
        self,
        facts: TileFacts,
        tile_id: str,
        path: Path,
        recipe: MapRecipe,
        valid: np.ndarray | None,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Read the sum of the levels of each cell; None if unreadable. And the cells with data."""
        tile = self._tile_set.tiles[tile_id]
        grid = cell_grid((tile.height_px, tile.width_px), recipe.settings["cell_px"])
        try:
            cells = read_map(path, "cells")
        except UserError as error:
            facts.findings.append(Finding("unreadable files", str(error)))
            return None, None
        if cells.shape != (expected := (recipe.settings["num_components"], *grid)):
            text = f"{path} holds {cells.shape} components, rows and columns of cells, its tile "
            text += f"has {expected}; delete it and run {maker(recipe.generator)} again"
            facts.findings.append(Finding("wrong sizes", text))
        return cells.sum(0), None if valid is None else valid_cells(valid != 0, grid)


def _count_beyond(valid: np.ndarray | None, array: np.ndarray, empty: int) -> int:
    """Return the number of pixels without data that are not empty in a label or a map."""
    if valid is None or array.shape != valid.shape:
        return 0
    return int(np.count_nonzero((valid == 0) & (array != empty)))
