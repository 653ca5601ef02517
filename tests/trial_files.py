"""Small inputs of the trials in ``docs/trials.md``, and what the programs made of them.

Files are written and read by rasterio and Pillow, never by the readers under test.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image

TWO = [{"name": "bg", "value": 0}, {"name": "fg", "value": 1}]
TWO_255 = [{"name": "bg", "value": 0}, {"name": "fg", "value": 255}]
COLORS = ("#000000", "#00a000", "#ff0000")


def class_file(path: Path, classes: list[dict], ignore: dict | None = None) -> Path:
    """Write a class file."""
    colored = [{"color": color, **own} for color, own in zip(COLORS, classes, strict=False)]
    content: dict[str, Any] = {"classes": colored}
    path.write_text(json.dumps(content | ({"ignore": ignore} if ignore else {})))
    return path


def write_image(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Write pixels with Pillow, in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_geotiff(path: Path, pixels: np.ndarray, colors: tuple = (), **options: Any) -> Path:
    """Write ``(H, W)`` or ``(H, W, bands)`` with the options of GDAL's GTiff driver."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **{"driver": "GTiff", **size, **options}) as file:
        file.write(bands)
        if colors:
            file.colorinterp = colors
    return path


def placed(east: float = 400_000, north: float = 5_700_000, pixel_m: float = 1) -> dict:
    """Return coordinate system and transform of a raster whose upper left corner is here."""
    transform = rasterio.Affine(pixel_m, 0, east, 0, -pixel_m, north)
    return {"crs": "EPSG:32633", "transform": transform}


def noise(height: int = 96, width: int = 128, bands: int = 3) -> np.ndarray:
    """``(H, W, bands)`` of 8 bits, 0 and 255 among them."""
    pixels = np.random.default_rng(height + width).integers(0, 256, (height, width, bands), "u1")
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


def halves(height: int = 96, width: int = 128) -> np.ndarray:
    """``(H, W)`` mask: 0 in the left half, 1 in the right one."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    return mask


def tiles_of(root: Path, what: str = "images") -> dict[str, np.ndarray]:
    """Return the rasters of a folder of a prepared set by their names."""
    return {path.stem: np.array(Image.open(path)) for path in sorted((root / what).glob("*.tif"))}


def the_tile(root: Path, what: str = "images") -> np.ndarray:
    """Return the one raster of a folder of a prepared set."""
    (tile,) = tiles_of(root, what).values()
    return tile
