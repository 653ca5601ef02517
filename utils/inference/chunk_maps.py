"""Structure maps of a piece of an image that is being segmented: made on the way, or stored."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from datasets.structure_generation import MapMaker
from datasets.structure_maps import (
    MapRecipe,
    depth_levels,
    holds_values,
    is_done,
    map_path,
    read_map,
    store_folder,
    write_map,
)
from utils.files import sha256_of
from utils.inference.chunks import Piece
from utils.inference.inputs import Input
from utils.inference.segment import MakeMaps


class MapSource(Protocol):
    """Where the maps of an image come from."""

    def of(self, image: Input | None) -> MakeMaps:
        """What gives the maps of its pieces; None: of an image that is in no file."""


class MadeMaps:
    """Maps that generators make; kept in a folder and taken from there again, if one is given.

    Args:
        makers: a generator by store, with the recipe that says how its maps come out.
        folder: gets ``STORE/NAME_yTOP_xLEFT_HEIGHTxWIDTH.tif`` of every piece; None: nothing is
            kept.
    """

    def __init__(
        self, makers: Mapping[str, tuple[MapMaker, MapRecipe]], folder: Path | None = None
    ) -> None:
        self._makers = dict(makers)
        self._folder = folder

    def of(self, image: Input | None) -> MakeMaps:
        """See ``MapSource``."""

        def make(piece: Piece, pixels: np.ndarray) -> dict[str, np.ndarray]:
            return {store: self._map(store, image, piece, pixels) for store in self._makers}

        return make

    def _map(self, store: str, image: Input | None, piece: Piece, pixels: np.ndarray) -> np.ndarray:
        maker, recipe = self._makers[store]
        if self._folder is None or image is None:
            return _levels(maker, recipe, pixels)
        folder, (top, left) = self._folder / store, piece.corner
        name = f"{image.result.with_suffix('')}_y{top:05d}_x{left:05d}"
        name += f"_{pixels.shape[0]}x{pixels.shape[1]}"
        status = image.path.stat()
        source = _sha256(image.path, status.st_size, status.st_mtime_ns)
        if is_done(folder, name, source, recipe):
            return np.array(read_map(map_path(folder, name)))
        made = _levels(maker, recipe, pixels)
        write_map(folder, name, made, source, recipe)
        return made


class StoredMaps:
    """Maps of a prepared data set, which ``datasets.loaders.check_structure`` has seen to fit.

    Args:
        root: the data set.
        stores: names of the stores.
    """

    def __init__(self, root: Path, stores: tuple[str, ...]) -> None:
        self._folders = {store: store_folder(root, store) for store in stores}

    def of(self, image: Input | None) -> MakeMaps:
        """See ``MapSource``; the image must be a tile of the data set."""
        assert image is not None and image.tile_id is not None
        paths = {store: map_path(folder, image.tile_id) for store, folder in self._folders.items()}

        def cut(piece: Piece, pixels: np.ndarray) -> dict[str, np.ndarray]:
            return {
                store: np.array(read_map(path)[piece.rows, piece.columns])
                for store, path in paths.items()
            }

        return cut


def _levels(maker: MapMaker, recipe: MapRecipe, pixels: np.ndarray) -> np.ndarray:
    (made,) = maker.generate_batch([pixels])
    return depth_levels(made)[0] if holds_values(recipe.generator) else made


@lru_cache(maxsize=4)  # the pieces of one image come one after the other
def _sha256(path: Path, num_bytes: int, time_ns: int) -> str:
    return sha256_of(path)
