"""Labels of an image on its grid: masks beside it, masks placed elsewhere, and polygons."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from datasets.preparation.archives import ArchiveFile
from datasets.preparation.classes import Decoded, LabelRepair, MaskDecoder, PolygonDecoder
from utils.rasters.frames import Frame, wanted_warp
from utils.rasters.placement import grid_of
from utils.rasters.reading import Raster
from utils.rasters.vectors import POLYGON_SUFFIX, Polygons, read_polygons

Decoder = MaskDecoder | PolygonDecoder


@dataclass(frozen=True, kw_only=True)
class OpenLabels:
    """Labels of one kind of an open image."""

    name: str  # of the file
    is_warped: bool  # read through a warp, because the file has another grid
    decode: Callable[[slice], Decoded]  # rows of the image, in its full width
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
        if is_polygons(file):
            polygons = _polygons_of(file.path, self.attribute)
            placed = self.polygons.place(polygons, grid_of(image.size, image.placement), image_name)
            decode = partial(self.polygons.decode, placed)
            yield OpenLabels(name=file.name, is_warped=False, decode=decode, apart=placed.apart)
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


def is_polygons(file: ArchiveFile) -> bool:
    """Return True for a file of polygons, by its suffix."""
    return file.name.lower().endswith(POLYGON_SUFFIX)


@lru_cache(maxsize=8)  # one file may hold the polygons of all images
def _polygons_of(path: Path, attribute: str) -> Polygons:
    return read_polygons(path, attribute)
