"""Frames of rasters, and the one decision of how two files that belong together are brought so."""

from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError
from utils.rasters.placement import Grid, Placement, covers, grid_of, same_grid


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Name, size and place of a raster, open or not."""

    name: str | Path  # for errors
    size: tuple[int, int]  # height and width
    placement: Placement | None = None


def wanted_warp(raster: Frame, image: Frame) -> Grid | None:
    """Return the grid to warp a raster to, so that it fits its image; None: it fits as it is.

    Two placed files are brought together by their places. If one of them has no place, they belong
    together pixel by pixel.

    Raises:
        DataError: it does not cover the image, or has no place and another size.
    """
    own, grid = grid_of(raster.size, raster.placement), grid_of(image.size, image.placement)
    if own is None or grid is None:
        if raster.size != image.size:
            raise DataError(
                f"{raster.name} is {raster.size[0]} x {raster.size[1]} and its image {image.name} "
                f"{image.size[0]} x {image.size[1]} (height x width); give them one size, or "
                "georeference both: placed files are resampled to the grid of the image"
            )
        return None
    if same_grid(own, grid):
        return None
    try:
        if covers(own, grid):
            return grid
        extent = own.text(grid.placement.crs if own.placement.crs is not None else None)
    except Exception as error:  # GDAL's own, private ones
        raise DataError(
            f"the coordinates of {raster.name} cannot be converted to those of {image.name} "
            f"({str(error).rstrip('.')}); correct the coordinate reference system of one of them"
        ) from error
    raise DataError(
        f"{raster.name} does not cover its image {image.name}: it extends over {extent}, the image "
        f"over {grid.text()}; give a file of the whole image, or correct its place"
    )
