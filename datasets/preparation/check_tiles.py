"""What ``prepare.py check`` finds in one tile: every member is read once, to its end."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.rasters import Kind, open_raster
from datasets.structure_maps import SENSOR, MapRecipe, holds_values, maker, map_path, read_facts
from datasets.tile_set import Tile, TileSet, count_values
from utils.errors import UserError
from utils.files import sha256_of

_PREPARE = "prepare the data set again"
_NUM_LISTED = 5  # unknown values in a sentence


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or strange: a line that says what, where, and what to do."""

    kind: str  # findings of one kind are shown together, under this title
    text: str


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """A finished store, as its manifest describes it."""

    name: str
    folder: Path
    recipe: MapRecipe
    sources: dict[str, str]  # tile -> SHA-256 of the image its map was made from

    @property
    def holds_values(self) -> bool:
        """Whether its maps hold levels, not segment ids."""
        return holds_values(self.recipe.generator)

    @property
    def is_depth(self) -> bool:
        """Whether its values come from a generator, which gives every pixel one."""
        return self.holds_values and self.recipe.generator != SENSOR


@dataclass(frozen=True, kw_only=True)
class MapFacts:
    """What a map holds."""

    num_pixels: int
    num_empty: int  # without data, or without a segment
    is_flat: bool  # one level or one id only


@dataclass(frozen=True, kw_only=True)
class TileFacts:
    """What was found in a tile."""

    tile_id: str
    image_sha256: str | None  # of the file, equal if all pixels are; None: unreadable
    is_uniform: bool  # the image has one colour
    counts: np.ndarray | None  # (256,) int64 pixels of every label value; None: no readable label
    maps: dict[str, MapFacts]  # by store
    faults: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def examine_tile(
    tile_set: TileSet,
    stores: tuple[StoreRecord, ...],
    label_kinds: dict[str, tuple[str, ...]],
    tile_id: str,
) -> TileFacts:
    """Read every member of a tile.

    Args:
        tile_set: the data set.
        stores: the finished stores.
        label_kinds: of every tile: full, eroded, both or none.
        tile_id: which tile.
    """
    examiner = _Examiner(tile_set, tile_set.tiles[tile_id])
    image = examiner.read_image()
    labels = {kind: examiner.read_label(kind) for kind in label_kinds[tile_id]}
    counts = {k: examiner.count_label(k, t) for k, t in labels.items() if t is not None}
    examiner.compare_labels(labels)
    sha256 = None if image is None else sha256_of(tile_set.image_path(tile_id))
    is_uniform = image is not None and _is_uniform(image)
    maps = {}
    for store in stores:
        examiner.compare_source(store, sha256)
        if (facts := examiner.examine_map(store, is_uniform)) is not None:
            maps[store.name] = facts
    return TileFacts(
        tile_id=tile_id,
        image_sha256=sha256,
        is_uniform=is_uniform,
        counts=counts.get("full"),
        maps=maps,
        faults=tuple(examiner.faults),
        warnings=tuple(examiner.warnings),
    )


class _Examiner:
    """Reads the members of one tile and collects what is wrong with them."""

    def __init__(self, tile_set: TileSet, tile: Tile) -> None:
        self._tile_set = tile_set
        self._tile = tile
        self.faults: list[Finding] = []
        self.warnings: list[Finding] = []

    def read_image(self) -> np.ndarray | None:
        """The image, ``(H, W, 3)`` uint8; None if it cannot be read."""
        return self._read(self._tile_set.image_path(self._tile.id), "RGB", _PREPARE)

    def read_label(self, kind: str) -> np.ndarray | None:
        """A label, ``(H, W)`` uint8; None if it cannot be read."""
        return self._read(self._tile_set.target_path(self._tile.id, kind), "8-bit", _PREPARE)

    def count_label(self, kind: str, target: np.ndarray) -> np.ndarray:
        """Pixels of every value of a label, ``(256,)`` int64."""
        counts = count_values(target)
        num_classes = len(self._tile_set.classes)
        unknown = np.flatnonzero(counts[:IGNORE_INDEX])
        unknown = unknown[unknown >= num_classes]
        if unknown.size:
            listed = ", ".join(f"{v} ({counts[v]:,} pixels)" for v in unknown[:_NUM_LISTED])
            more = f" and {len(unknown) - _NUM_LISTED} more" if len(unknown) > _NUM_LISTED else ""
            self._fault(
                "unknown label values",
                f"{self._tile_set.target_path(self._tile.id, kind)} holds {listed}{more}; the "
                f"classes are 0..{num_classes - 1}, {IGNORE_INDEX} = ignore; correct the masks and "
                f"{_PREPARE}",
            )
        return counts

    def compare_labels(self, labels: dict[str, np.ndarray | None]) -> None:
        """An eroded label is the full one with more pixels ignored."""
        full, eroded = labels.get("full"), labels.get("eroded")
        if full is None or eroded is None or full.shape != eroded.shape:
            return
        differ = int(np.count_nonzero((eroded != full) & (eroded != IGNORE_INDEX)))
        if differ:
            text = f"{self._tile_set.target_path(self._tile.id, 'eroded')} holds other classes than"
            text += f" the full label in {differ:,} pixels; compare the two"
            self.warnings.append(Finding("eroded labels with other classes", text))

    def compare_source(self, store: StoreRecord, sha256: str | None) -> None:
        """Compare the image's hash with that in the manifest."""
        known = store.sources.get(self._tile.id)
        if sha256 is not None and known is not None and sha256 != known:
            self._fault(
                "maps of changed images",
                f"{self._tile_set.image_path(self._tile.id)} changed after its map in "
                f"{store.folder} was made; run {maker(store.recipe.generator)} again",
            )

    def examine_map(self, store: StoreRecord, is_uniform: bool) -> MapFacts | None:
        """Read the tile's map of a store; None if there is none, or none that can be read."""
        path, tile_id = map_path(store.folder, self._tile.id), self._tile.id
        again = f"run {maker(store.recipe.generator)} again"
        if tile_id not in store.sources or not path.is_file():
            where = "no map" if tile_id in store.sources else "no map in its manifest"
            self._fault("missing maps", f"{store.folder}: '{tile_id}' has {where}; {again}")
            return None
        levels = self._read(path, "16-bit", again)
        if levels is None:
            return None
        if read_facts(store.folder, tile_id, store.sources[tile_id], store.recipe) is None:
            self._fault(
                "maps that differ from their manifest",
                f"{path} says that it was made from another image or with other settings than the "
                f"manifest records; delete it and {again}",
            )
        facts = _map_facts(levels, values=store.holds_values)
        if store.is_depth and facts.num_empty:
            share = facts.num_empty / facts.num_pixels
            self._fault(
                "depth that is constant or no number",
                f"{path} has no depth in {share:.1%} of its pixels; delete it and {again}",
            )
        elif store.is_depth and facts.is_flat and not is_uniform:
            self._fault(
                "depth that is constant or no number",
                f"{path} holds one depth only, its image more than one colour; delete it and "
                f"{again}",
            )
        return facts

    def _read(self, path: Path, kind: Kind, remedy: str) -> np.ndarray | None:
        """A member's pixels, mapped, or None; its size is compared with the tile's."""
        if not path.is_file():
            self._fault("missing files", f"{path} does not exist; {remedy}")
            return None
        try:
            array = open_raster(path, kind)
        except UserError as error:
            self._fault("files that cannot be read", str(error))
            return None
        wanted = (self._tile.height_px, self._tile.width_px)
        if array.shape[:2] != wanted:
            self._fault(
                "sizes",
                f"{path} is {array.shape[0]} x {array.shape[1]}, tiles.csv says {wanted[0]} x "
                f"{wanted[1]} (height x width); {remedy}",
            )
        return array

    def _fault(self, kind: str, text: str) -> None:
        self.faults.append(Finding(kind, " ".join(text.split())))


def _map_facts(levels: np.ndarray, *, values: bool) -> MapFacts:
    num_empty = levels.size - int(np.count_nonzero(levels))
    data = levels[levels > 0] if values and num_empty else levels
    is_flat = data.size == 0 or bool(data.min() == data.max())
    return MapFacts(num_pixels=levels.size, num_empty=num_empty, is_flat=is_flat)


def _is_uniform(image: np.ndarray) -> bool:
    # Hardly an image has one colour in its first row: the rest is seldom looked at.
    color = image[:1, :1]
    return bool((image[0] == color[0]).all() and (image == color).all())
