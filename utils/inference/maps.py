"""Structure maps for inference: generated for each chunk of an image, or read from a data set."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from configs.schema import Config, StructureConfig
from datasets.encodings import StructureEncoder
from datasets.loaders import check_structure
from datasets.sensors import SensorFiles
from datasets.structure_maps import (
    MapRecipe,
    finish_map,
    map_kind,
    map_path,
    map_settings,
    read_facts,
    read_map,
    store_folder,
    write_map,
)
from datasets.tile_set import TileSet, open_tile_set
from models.structure.build import build_generator, check_generated
from models.structure.generator import FittedGenerator, StructureGenerator
from utils.boxes import Box, cell_grid
from utils.config import differences
from utils.distributed import DistContext
from utils.errors import DataError, UserError
from utils.geometry import cut_cells
from utils.inference.inputs import Input
from utils.inference.map_source import MapSource
from utils.inference.sensors import SensorMaps, choose_files, trained_sensors
from utils.rasters.rendering import AS_STORED, Rendering
from utils.training.checkpoint import Checkpoint


class GeneratedMaps(MapSource):
    """Maps computed from the image, chunk by chunk.

    Args:
        generators: by store, each with the recipe of its maps.
        folder: stores ``STORE/NAME_yTOP_xLEFT_HEIGHTxWIDTH.tif`` for every chunk, and is read
            instead of computing a map again; None: nothing is stored.
    """

    kind = "generated"

    def __init__(
        self,
        generators: Mapping[str, tuple[StructureGenerator, MapRecipe]],
        folder: Path | None = None,
    ) -> None:
        self._generators, self._folder = generators, folder

    def of_chunk(
        self, image: Input | None, chunk: Box, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Make the maps of a chunk, see ``MapSource``."""
        if self._folder is None or image is None:
            pairs = self._generators.items()
            return {store: _generate(*pair, pixels, valid) for store, pair in pairs}
        name = f"{image.result.with_suffix('')}_y{chunk.top_px:05d}_x{chunk.left_px:05d}"
        name += f"_{chunk.height_px}x{chunk.width_px}"
        maps, source = {}, _sha256(pixels, valid)
        for store, (generator, recipe) in self._generators.items():
            folder = self._folder / store
            if read_facts(folder, name, source, recipe) is not None:
                kind = map_kind(recipe.generator)
                maps[store] = np.array(read_map(map_path(folder, name), kind))
            else:
                maps[store] = _generate(generator, recipe, pixels, valid)
                write_map(folder, name, maps[store], source, recipe)
        return maps


class StoredMaps(MapSource):
    """Maps of a prepared data set, checked by ``datasets.loaders.check_structure`` before.

    Args:
        tile_set: the data set.
        stores: names of the stores.
        cell_px: by store, those that hold cells.
    """

    kind = "stored"

    def __init__(
        self, tile_set: TileSet, stores: Sequence[str], cell_px: Mapping[str, int]
    ) -> None:
        self._tile_set, self._stores, self._cell_px = tile_set, tuple(stores), cell_px

    def of_chunk(
        self, image: Input | None, chunk: Box, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Read the maps of a chunk, see ``MapSource``; the image must be a tile."""
        assert image is not None and image.tile_id is not None
        tile, maps = self._tile_set.tiles[image.tile_id], {}
        for store in self._stores:
            path = map_path(store_folder(self._tile_set.root, store), image.tile_id)
            if store in self._cell_px:
                size = (tile.height_px, tile.width_px)
                out = cell_grid((chunk.height_px, chunk.width_px), self._cell_px[store])
                maps[store] = cut_cells(read_map(path, "cells"), size, chunk, out).numpy()
            else:
                maps[store] = np.array(read_map(path)[chunk.slices])
        return maps


def choose_maps(
    checkpoint: Checkpoint,
    config: Config,
    dist: DistContext,
    *,
    data_split: tuple[Path, str] | None = None,
    keep: Path | None = None,
    files: Mapping[str, SensorFiles] | None = None,
    rendering: Rendering = AS_STORED,
    num_images: int = 1,
) -> MapSource:
    """Build the source of structure maps for a run of inference; else as ``generated_maps``.

    Args:
        checkpoint: the network's.
        config: its recipe, possibly overridden.
        dist: this process; its device runs the generators.
        data_split: root of the prepared data set that the images come from, and the split. Its
            stores are used if they are complete and made as in training; if they are not, a note
            on the console says why, and maps are generated.
        keep: folder to store generated maps in.
        files: rasters of sensors (``--sensor``), which are read instead of stores.
        rendering: of the images, whose further bands may be sensors.
        num_images: number of images.
    """
    structure, tile_set = config.structure, None
    if data_split is not None:
        tile_set = open_tile_set(data_split[0])
    sensors = trained_sensors(structure, checkpoint.identity.maps)
    is_prepared = tile_set is not None
    read = choose_files(sensors, files or {}, num_images=num_images, is_prepared=is_prepared)
    stores = tuple(s for s in StructureEncoder(structure).stores if s not in read)
    others: MapSource | None = None
    if tile_set is not None and data_split is not None and stores:
        stored = replace(structure, absent=(*structure.absent, *read))
        others = _stored_maps(checkpoint, tile_set, data_split[1], stored, stores, dist)
    others = others or generated_maps(checkpoint, config, dist.device, keep, given=tuple(read))
    if not read:
        return others
    return SensorMaps(
        others, sensors, read, rendering=rendering, num_images=num_images, tile_set=tile_set
    )


def _stored_maps(
    checkpoint: Checkpoint,
    tile_set: TileSet,
    split: str,
    structure: StructureConfig,
    stores: tuple[str, ...],
    dist: DistContext,
) -> StoredMaps | None:
    """Return the stores of a data set; None, with a note on the console, if they do not fit."""
    if structure.control == "shuffled":
        return None
    try:
        check_structure(tile_set, structure, [split], checkpoint.identity.maps)
    except UserError as error:
        if dist.is_main:
            print(f"note: structure maps are generated from the images: {error}")
        return None
    return StoredMaps(tile_set, stores, StructureEncoder(structure).cell_px)


def generated_maps(
    checkpoint: Checkpoint,
    config: Config,
    device: torch.device,
    keep: Path | None = None,
    given: Collection[str] = (),
) -> GeneratedMaps:
    """Build a generator for every structure store that the network reads.

    Args:
        checkpoint: the network's.
        config: its recipe, possibly overridden.
        device: where the generators compute.
        keep: folder to store the maps in.
        given: sensors, which are not generated.

    Raises:
        ConfigError: the structure cannot be generated from an RGB image.
        DataError: these settings generate other maps than those of the training.
    """
    check_generated(config.structure, str(checkpoint.path), given)
    generators: dict[str, tuple[StructureGenerator, MapRecipe]] = {}
    stores = StructureEncoder(config.structure).stores
    for name, settings in config.structure.selected().items():
        if settings.store not in stores:
            continue
        generator = build_generator(name, settings, device)
        if isinstance(generator, FittedGenerator):
            fit = checkpoint.identity.fitted.get(settings.store, {})
            generator.use(fit, str(checkpoint.path))
        recipe = MapRecipe(
            generator=name,
            settings=map_settings(settings),
            weights_sha256=generator.weights_sha256,
        )
        trained_with = checkpoint.identity.maps.get(settings.store, {})
        if lines := differences(asdict(recipe), trained_with):
            raise DataError(
                f"{checkpoint.path} was trained with other structure maps than these settings "
                f"generate (these | trained with): {'; '.join(lines)}"
            )
        generators[settings.store] = (generator, recipe)
    return GeneratedMaps(generators, keep)


def _generate(
    generator: StructureGenerator, recipe: MapRecipe, pixels: np.ndarray, valid: np.ndarray | None
) -> np.ndarray:
    (made,) = generator.generate_batch([pixels])
    return finish_map(made, recipe.generator, valid)[0]


def _sha256(pixels: np.ndarray, valid: np.ndarray | None) -> str:
    """Return the hash of what a map is made of: not of a file, which can be read in many ways."""
    digest = hashlib.sha256(pixels.tobytes())
    if valid is not None:
        digest.update(np.packbits(valid).tobytes())
    return digest.hexdigest()
