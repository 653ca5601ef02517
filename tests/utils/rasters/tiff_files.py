"""TIFF files that rasterio writes, and what it reads from them."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from utils.rasters.reading import open_scene
from utils.rasters.tiff_layout import LZMA, ZSTD, is_built_in


def write_tiff(
    path: Path,
    picture: np.ndarray,
    *,
    crs: str | None = None,
    transform: rasterio.Affine | None = None,
    colormap: dict | None = None,
    orientation: int | None = None,
    **options: object,
) -> None:
    """Write ``(H, W, bands)`` with the creation options of GDAL's GTiff driver."""
    if not is_built_in({"ZSTD": ZSTD, "LZMA": LZMA}.get(str(options.get("compress")), 1)):
        pytest.skip(f"the libtiff of this Pillow has no {options['compress']}")
    height, width, bands = picture.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=bands,
            dtype=picture.dtype,
            crs=crs,
            transform=transform,
            **options,
        ) as file:
            file.write(picture.transpose(2, 0, 1))
            if colormap is not None:
                file.write_colormap(1, colormap)
            if orientation is not None:
                file.update_tags(TIFFTAG_RESOLUTIONUNIT="2")
    if orientation is not None:  # GDAL does not write the tag: another one is made to it
        was, becomes = (
            struct.pack("<HHIHH", t, 3, 1, v, 0) for t, v in ((296, 2), (274, orientation))
        )
        content = path.read_bytes()
        assert content.count(was) == 1
        path.write_bytes(content.replace(was, becomes))


def pixels_of(path: Path) -> np.ndarray:
    """``(H, W, 3)`` as rasterio reads them: the first three bands, or the first as grey."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            bands = [1, 2, 3] if file.count >= 3 else [1, 1, 1]
            return file.read(bands).transpose(1, 2, 0)


def read_all(path: Path, stretch: tuple[float, float] | None = None) -> np.ndarray:
    with open_scene(path, stretch) as scene:
        return scene.read(slice(None), slice(None))
