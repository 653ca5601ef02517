"""Labels of an image on its grid: masks beside it, masks placed elsewhere, and polygons."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datasets.preparation.archives import ArchiveFile
from datasets.preparation.classes import Decoded, LabelRepair, MaskDecoder, PolygonDecoder
from utils.errors import DataError
from utils.rasters.placement import Grid, covers, grid_of, same_grid
from utils.rasters.reading import Raster
from utils.rasters.vectors import PlacedPolygons

POLYGON_SUFFIX = ".geojson"
Decoder = MaskDecoder | PolygonDecoder


@dataclass(frozen=True, kw_only=True)
class OpenLabels:
    """Labels of one kind of an open image, read by rows."""

    name: str  # of the file
    is_warped: bool  # read through a warp, because the file has another grid
    _source: Raster | PlacedPolygons
    _decoder: Decoder
    _repair: LabelRepair | None

    def decode(self, rows: slice) -> Decoded:
        """Decode rows of the image, in its full width."""
        if isinstance(self._decoder, MaskDecoder):
            assert isinstance(self._source, Raster)
            return self._decoder.decode(self._source, rows, self.name, self._repair)
        assert not isinstance(self._source, Raster)
        return self._decoder.decode(self._source, rows, self.name)


def is_polygons(file: ArchiveFile) -> bool:
    """Return True for a file of polygons, by its suffix."""
    return file.name.lower().endswith(POLYGON_SUFFIX)


@contextmanager
def open_labels(
    file: ArchiveFile,
    image: Raster,
    image_name: str,
    decoder: Decoder,
    repair: LabelRepair | None = None,
) -> Iterator[OpenLabels]:
    """Open the labels of an image.

    Two placed files are brought together by their places: a mask on another grid, or in another
    coordinate reference system, is warped to that of the image, by nearest pixels. If one of them
    has no place, they belong together pixel by pixel.

    Raises:
        DataError: the mask does not cover the image, or differs in size; polygons, but the image
            has no place.
    """
    grid = grid_of(image.size, image.placement)
    if isinstance(decoder, PolygonDecoder):
        if grid is None or grid.placement.crs is None:
            raise DataError(
                f"{image_name} has no place on the earth, which labels as polygons need; give it a "
                "coordinate reference system and a transform, or masks as labels"
            )
        burned = decoder.polygons_of(file.path).on(grid)
        yield OpenLabels(
            name=file.name, is_warped=False, _source=burned, _decoder=decoder, _repair=None
        )
        return
    with file.open_image() as mask:
        warp = wanted_warp(mask, image, (file.name, image_name))
        if warp is None:
            yield OpenLabels(
                name=file.name, is_warped=False, _source=mask, _decoder=decoder, _repair=repair
            )
            return
    with file.open_image(grid=warp) as mask:
        yield OpenLabels(
            name=file.name, is_warped=True, _source=mask, _decoder=decoder, _repair=repair
        )


def wanted_warp(raster: Raster, image: Raster, names: tuple[str, str]) -> Grid | None:
    """Return the grid that a raster has to be warped to for an image; None: it fits as it is.

    Args:
        raster: a mask, or the raster of a sensor.
        image: the open image.
        names: of both files, for errors.

    Raises:
        DataError: it does not cover the image, or has no place and another size.
    """
    own, grid = grid_of(raster.size, raster.placement), grid_of(image.size, image.placement)
    if own is None or grid is None:
        if raster.size != image.size:
            sizes = [
                f"{name} is {s[0]} x {s[1]}"
                for name, s in zip(names, (raster.size, image.size), strict=True)
            ]
            raise DataError(
                f"{' and '.join(sizes)} (height x width); give them one size, or place both on the "
                "earth"
            )
        return None
    if same_grid(own, grid):
        return None
    if not covers(own, grid):
        crs = grid.placement.crs if own.placement.crs is not None else None
        raise DataError(
            f"{names[0]} does not cover {names[1]}: it spans {own.text(crs)}, the image "
            f"{grid.text()}; give the file that belongs to the image, or correct its place"
        )
    return grid
