"""Labels of an image on its grid: masks beside it, masks placed elsewhere, and polygons."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.classes import UNKNOWN, ClassFile, Decoded, LabelRepair, MaskDecoder
from utils.errors import ConfigError
from utils.rasters.frames import Frame, wanted_warp
from utils.rasters.placement import Grid, grid_of
from utils.rasters.reading import Raster
from utils.rasters.vectors import (
    OUTSIDE,
    PlacedPolygons,
    Polygons,
    is_polygons,
    read_polygons,
)

_FIRST_POLYGON = 256  # above all class indices
_reading = Lock()


class PolygonDecoder:
    """Decoder of polygons to class indices.

    The attribute of a polygon is the name of a class, or else one of its values in the class file.

    Args:
        classes: the class file.
        background: name of the class of pixels outside all polygons; None: they are ignored.

    Raises:
        ConfigError: there is no class of this name.
    """

    def __init__(self, classes: ClassFile, background: str | None = None) -> None:
        if background is not None and background not in classes.names:
            raise ConfigError(
                f"--background is '{background}', but the classes are {', '.join(classes.names)}"
            )
        self._values = classes.value_table()
        self._names = {name: index for index, name in enumerate(classes.names)}
        self._background = IGNORE_INDEX if background is None else self._names[background]

    def place(self, polygons: Polygons, grid: Grid | None, name: str) -> PlacedPolygons:
        """Put polygons on the grid of an image.

        Args:
            polygons: of a file.
            grid: of the image; None: it has no place on the earth.
            name: of the image, for errors.

        Raises:
            DataError: as ``Polygons.on``.
        """
        codes = np.array([self._find(value) for value in polygons.values], int)
        # An unknown polygon is burned as itself, so that its attribute is known afterwards.
        itself = _FIRST_POLYGON + np.arange(len(codes))
        return polygons.on(grid, np.where(codes == UNKNOWN, itself, codes), name)

    def decode(self, placed: PlacedPolygons, rows: slice) -> Decoded:
        """Decode rows of an image.

        Args:
            placed: the polygons on its grid.
            rows: from ``start`` up to ``stop``, in full width.
        """
        burned = placed.burn(rows)
        unknown: Counter[str] = Counter()
        strange = burned >= _FIRST_POLYGON
        if strange.any():
            numbers, counts = np.unique(burned[strange] - _FIRST_POLYGON, return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                value = placed.polygons.values[number]
                unknown[json.dumps(value, ensure_ascii=False)] += count
            burned[strange] = IGNORE_INDEX
        is_outside = burned == OUTSIDE
        burned[is_outside] = self._background
        origin = f"they are values of '{placed.polygons.attribute}' in {placed.polygons.path}"
        return Decoded(
            target=burned.astype(np.uint8),
            unknown=dict(unknown),
            num_outside=int(is_outside.sum()) if self._background == IGNORE_INDEX else 0,
            hint=origin if unknown else None,
        )

    def _find(self, value: Any) -> int:
        """Return the class index of an attribute."""
        if isinstance(value, str):
            if value in self._names:
                return self._names[value]
            value = int(value) if re.fullmatch(r"-?[0-9]{1,20}", value) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return self._values.find_one(value) if type(value) is int else UNKNOWN


@dataclass(frozen=True, kw_only=True)
class OpenLabels:
    """Labels of one kind of an open image."""

    name: str  # of the file
    is_warped: bool  # read through a warp, because the file has another grid
    decode: Callable[[slice], Decoded]  # rows of the image, in its full width
    is_empty: bool = False  # a file without any polygon
    apart: str | None = None  # a clause: the image lies outside the extent of all polygons


@dataclass(frozen=True, kw_only=True)
class LabelReader:
    """Reader of the labels of one kind.

    Attributes:
        masks: decoder of masks.
        polygons: decoder of polygons.
        attribute: property of a polygon that names its class.
    """

    masks: MaskDecoder
    polygons: PolygonDecoder
    attribute: str

    @contextmanager
    def open(
        self,
        file: ArchiveFile,
        image: Raster,
        image_name: str,
        repair: LabelRepair | None = None,
    ) -> Iterator[OpenLabels]:
        """Open the labels of an image.

        Two placed files are brought together by their places: a mask on another grid, or in another
        coordinate reference system, is warped to that of the image, by nearest pixels. If one of
        them has no place, they belong together pixel by pixel. Polygons are drawn on the grid.

        Raises:
            DataError: the mask does not cover the image, or differs in size; polygons, but the
                image has no place.
        """
        if is_polygons(file.name):
            with _reading:  # else every thread reads the same file
                polygons = _polygons_of(file.path, self.attribute)
            placed = self.polygons.place(polygons, grid_of(image.size, image.placement), image_name)
            decode = partial(self.polygons.decode, placed)
            yield OpenLabels(
                name=file.name,
                is_warped=False,
                decode=decode,
                is_empty=not len(polygons.values),
                apart=placed.apart,
            )
            return
        with ExitStack() as stack:
            mask = stack.enter_context(file.open_image())
            warp = wanted_warp(
                Frame(name=file.name, size=mask.size, placement=mask.placement),
                Frame(name=image_name, size=image.size, placement=image.placement),
            )
            if warp is not None:
                mask = stack.enter_context(file.open_image(grid=warp))

            def decode_rows(rows: slice) -> Decoded:
                return self.masks.decode(mask, rows, file.name, repair)

            yield OpenLabels(name=file.name, is_warped=warp is not None, decode=decode_rows)


@lru_cache(maxsize=8)  # one file may hold the polygons of all images
def _polygons_of(path: Path, attribute: str) -> Polygons:
    return read_polygons(path, attribute)
