"""Label maps for polygons, and what is read from the files."""

import json
from pathlib import Path

import numpy as np
import pytest

import utils.rasters.contours
from utils.rasters.placement import Placement
from utils.rasters.polygons import write_geojson

IGNORED = 255
NAMES = ("road", "Gebäude", 'a "b"', "tree", "car")
PALETTE = ((255, 255, 255), (0, 0, 255), (1, 2, 3), (0, 160, 16), (255, 0, 0))


def write(path: Path, strips, georeference: Placement | None = None) -> Path:
    write_geojson(strips, path, names=NAMES, palette=PALETTE, georeference=georeference)
    return path


def features_of(path: Path, strips, georeference: Placement | None = None) -> list[dict]:
    return json.loads(write(path, strips, georeference).read_text(encoding="utf-8"))["features"]


def from_first(ring: list) -> list:
    """The same ring from its lowest point on: nothing says where a ring begins."""
    start = ring.index(min(ring))
    return [*ring[start:-1], *ring[: start + 1]]


def set_block_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(utils.rasters.contours, "_BLOCK_PX", 1)
    monkeypatch.setattr(utils.rasters.contours, "_BLOCK_ROWS", rows)


def noise(height: int, width: int, shares: list[float], seed: int) -> np.ndarray:
    """Classes with these shares of the pixels; the rest is ignored."""
    rng = np.random.default_rng(seed)
    values = np.array([*range(len(shares)), IGNORED], dtype=np.uint8)
    return rng.choice(values, (height, width), p=[*shares, 1 - sum(shares)])


def area_of(ring: np.ndarray) -> float:
    """Shoelace formula; positive, if the ring is counter-clockwise where y points upwards."""
    (x, y), (x_next, y_next) = ring[:-1].T, ring[1:].T
    return float((x * y_next - x_next * y).sum() / 2)
