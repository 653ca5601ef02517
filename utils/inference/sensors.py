"""Levels of sensors at inference: of rasters beside the images, or of arrays in memory."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs.schema import StructureConfig
from datasets.sensors import SensorBand, SensorFiles, find_raster, image_frame, open_band
from datasets.structure_maps import to_levels
from datasets.tile_set import TileSet
from utils.boxes import Box
from utils.errors import ConfigError, DataError, MissingDataError, UserError
from utils.inference.inputs import Input
from utils.inference.map_source import MapSource
from utils.inference.progress import file_state
from utils.rasters.frames import Frame
from utils.rasters.placement import grid_of
from utils.rasters.reading import open_scene
from utils.rasters.rendering import AS_STORED, Rendering

_OUTSIDE = 0.5  # share of values outside the range of the training set that is warned of


@dataclass(frozen=True, kw_only=True)
class TrainedSensor:
    """A sensor as a network knows it."""

    low: float  # range of its levels, in the unit of the training set
    high: float
    band: int | None = None  # of the images, counted from 1; None: rasters of its own

    def levels(self, values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """Return values ``(h, w)``, NaN without data, as uint16 levels, 0 where not ``valid``."""
        levels = to_levels(values, self.low, self.high)
        if valid is not None:
            levels[~valid] = 0
        return levels

    def warning(self, values: np.ndarray, name: str, where: str) -> str | None:
        """Return a sentence if most of some values lie outside the range."""
        outside = ((values < self.low) | (values > self.high)).mean() if len(values) else 0
        if outside <= _OUTSIDE:
            return None
        return (
            f"{outside:.0%} of the values of {name} in {where}, {values.min():.6g} to "
            f"{values.max():.6g}, lie outside the range of the training set, {self.low:.6g} to "
            f"{self.high:.6g}, and are clipped to it; check their unit"
        )


def trained_sensors(
    structure: StructureConfig, maps: Mapping[str, Mapping[str, Any]]
) -> dict[str, TrainedSensor]:
    """Return the sensors that a network reads.

    Args:
        structure: section of its recipe, possibly overridden.
        maps: recipes of the stores that it was trained with.

    Raises:
        ConfigError: the recipe names another one.
    """
    names = structure.sensors() if structure.control == "on" else ()
    found = {}
    for name in names:
        if name not in maps:
            raise ConfigError(f"structure.modalities names {name}, which was not trained with")
        settings = maps[name]["settings"]
        low, high = settings["minimum"], settings["maximum"]
        found[name] = TrainedSensor(low=low, high=high, band=settings.get("band"))
    return found


def choose_files(
    sensors: Mapping[str, TrainedSensor],
    given: Mapping[str, SensorFiles],
    *,
    num_images: int,
    is_prepared: bool,
) -> dict[str, SensorFiles]:
    """Return the files of the sensors: those that are given, else bands of the images.

    Args:
        sensors: those of the network.
        given: by ``--sensor``.
        num_images: number of images.
        is_prepared: the images are those of a prepared set, which has stores of its own.

    Raises:
        ConfigError: the network has no such sensor, or the files cannot be its.
        MissingDataError: there are no such files.
    """
    for name, where in given.items():
        option = f"--sensor {name}={where}"
        if name not in sensors:
            uses = f"the sensors {', '.join(sensors)}" if sensors else "no sensor"
            raise ConfigError(f"{option} is not used: the network reads {uses}; leave it out")
        if where.path is None and is_prepared:
            raise ConfigError(
                f"{option}: the images of a prepared set have red, green and blue only; name the "
                f"original images: {name}=FOLDER:{where}"
            )
        if where.path is not None and not where.path.exists():
            raise MissingDataError(f"{option} does not exist")
        if where.path is not None and where.path.is_file() and num_images > 1:
            with open_scene(where.path) as raster:
                if grid_of(raster.size, raster.placement) is None:
                    raise ConfigError(
                        f"{option} is one raster without a place on the earth for {num_images} "
                        "images; name a folder with a raster for each, of the name of the image"
                    )
    bands = {name: s.band for name, s in sensors.items() if s.band and not is_prepared}
    return {name: SensorFiles(path=None, band=band) for name, band in bands.items()} | {**given}


class SensorMaps(MapSource):
    """Levels of sensors from rasters, beside the maps of another source.

    Args:
        others: source of the other maps.
        sensors: range of each sensor.
        files: their rasters.
        rendering: of the images: tells if alpha is data, where a sensor is a band of theirs.
        num_images: number of images; a single raster for several must be placed, like them.
        tile_set: the prepared set that the images are of; None: they are files.
    """

    def __init__(
        self,
        others: MapSource,
        sensors: Mapping[str, TrainedSensor],
        files: Mapping[str, SensorFiles],
        *,
        rendering: Rendering,
        num_images: int,
        tile_set: TileSet | None = None,
    ) -> None:
        self._others, self._sensors, self._files = others, sensors, files
        self._rendering, self._num_images, self._tile_set = rendering, num_images, tile_set
        self._bands: dict[str, SensorBand] = {}  # of the open image
        self._offset = (0, 0)  # of its first pixel in the rasters
        self._warned: set[str] = set()
        places = {name: [str(f.path and f.path.resolve()), f.band] for name, f in files.items()}
        self.kind = json.dumps([others.kind, places], sort_keys=True)

    def digest_of(self, image: Input, digest: str) -> str:
        """Return a digest that changes with the rasters of an image, see ``MapSource``."""
        states: list[Any] = [digest]
        for name in sorted(self._files):
            try:
                path = self._path(name, image)
                states.append([str(path), *file_state(path)])
            except (UserError, OSError):  # reported when the image is segmented
                states.append(None)
        return hashlib.sha256(json.dumps(states).encode()).hexdigest()

    @contextmanager
    def opened(self, image: Input | None) -> Iterator[None]:
        """Open the rasters of an image, see ``MapSource``; the image must be a file or a tile."""
        assert image is not None
        with ExitStack() as stack:
            stack.enter_context(self._others.opened(image))
            frame, self._offset = self._frame(image)
            for name, where in self._files.items():
                path = self._path(name, image)
                if where.path is not None and where.path.is_file():
                    self._check_shared(image, frame, path)
                band = stack.enter_context(
                    open_band(
                        partial(open_scene, path),
                        frame,
                        rendering=self._rendering if where.path is None else AS_STORED,
                        band=where.band,
                    )
                )
                self._bands[name] = band
                warning = self._sensors[name].warning(band.sample(), name, str(path))
                if warning is not None and name not in self._warned:
                    self._warned.add(name)
                    tqdm.write(f"warning: {warning}")
            yield

    def of_chunk(
        self, image: Input | None, chunk: Box, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Make the maps of a chunk of the image that is open, see ``MapSource``."""
        maps = self._others.of_chunk(image, chunk, pixels, valid)
        top, left = chunk.top_px + self._offset[0], chunk.left_px + self._offset[1]
        place = Box(top, left, chunk.height_px, chunk.width_px).slices
        for name, band in self._bands.items():
            maps[name] = self._sensors[name].levels(band.read(*place), valid)
        return maps

    def _check_shared(self, image: Input, frame: Frame, path: Path) -> None:
        """Refuse to put one raster for several images on an image that is not placed."""
        if self._num_images > 1 and grid_of(frame.size, frame.placement) is None:
            raise DataError(
                f"{image.path} has no place on the earth, so {path}, one raster for several "
                "images, cannot be put on its grid; name a folder with a raster for each image"
            )

    def _frame(self, image: Input) -> tuple[Frame, tuple[int, int]]:
        """Return the frame of the rasters of an image, and row and column where it begins in it."""
        if self._tile_set is None or image.tile_id is None:
            with open_scene(image.path) as scene:
                return Frame(name=image.path, size=scene.size, placement=scene.placement), (0, 0)
        tile = self._tile_set.tiles[image.tile_id]
        return image_frame(self._tile_set.sources[tile.source]), (tile.top_px, tile.left_px)

    def _path(self, name: str, image: Input) -> Path:
        """Return the raster of an image."""
        folder = self._files[name].path
        if folder is None:
            return image.path
        if folder.is_file():
            return folder
        stem = (image.result.parent / image.stem).as_posix()
        if self._tile_set is not None and image.tile_id is not None:
            stem = self._tile_set.sources[self._tile_set.tiles[image.tile_id].source].image
        return find_raster(folder, stem)


class ArrayMaps(MapSource):
    """Levels of sensors from arrays, beside the maps of another source, for one image.

    Args:
        others: source of the other maps.
        sensors: those of the network.
        arrays: ``(H, W)`` numbers by sensor, NaN where there is no data.
        size: of the image.

    Raises:
        DataError: a sensor is missing, unknown, or no such array.
    """

    kind = "arrays"

    def __init__(
        self,
        others: MapSource,
        sensors: Mapping[str, TrainedSensor],
        arrays: Mapping[str, Any],
        size: tuple[int, int],
    ) -> None:
        for name in [*arrays, *sensors]:
            if name not in sensors:
                uses = f"the sensors {', '.join(sensors)}" if sensors else "no sensor"
                raise DataError(f"predict takes no '{name}': the network reads {uses}")
            if name not in arrays:
                raise DataError(
                    f"the network reads the sensor {name} as well: predict(image, {name}=array), "
                    f"an array (H, W) of numbers in the unit of the training set (there "
                    f"{sensors[name].low:.6g} to {sensors[name].high:.6g}), NaN without data"
                )
        self._others, self._sensors = others, sensors
        self._arrays = {name: _numbers(name, array, size) for name, array in arrays.items()}
        for name, array in self._arrays.items():
            if text := sensors[name].warning(array[np.isfinite(array)], name, "the array"):
                warnings.warn(text, stacklevel=3)  # the caller of the predictor

    def of_chunk(
        self, image: Input | None, chunk: Box, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Make the maps of a chunk, see ``GeneratedMaps.of_chunk``."""
        maps = self._others.of_chunk(image, chunk, pixels, valid)
        for name, array in self._arrays.items():
            maps[name] = self._sensors[name].levels(array[chunk.slices], valid)
        return maps


def _numbers(name: str, array: Any, size: tuple[int, int]) -> np.ndarray:
    """Return an array of the size of its image as floating-point numbers, NaN where masked."""
    is_array = isinstance(array, np.ndarray) and array.dtype.kind in "iuf"
    if not is_array or array.shape != size:
        found = f"{array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else type(array)
        raise DataError(f"{name} must be an array {size} of numbers, like its image, not {found}")
    values = np.ma.getdata(array).astype(np.result_type(array.dtype, np.float32))
    values[np.ma.getmaskarray(array)] = np.nan
    return values
