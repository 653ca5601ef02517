"""Stretches found from training images, stored with the set and used unasked."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.preparation import stretching
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.pipeline import Source
from datasets.preparation.stretching import auto_stretch
from datasets.tile_set import open_tile_set
from tests.utils.rasters.raster_files import picture, write_tiff
from utils.boxes import Box
from utils.errors import DataError
from utils.rasters.rendering import AS_STORED, Rendering


def source(path: Path, box: Box | None = None) -> Source:
    return Source(id=path.stem, image=ArchiveFile(name=str(path), path=path), labels={}, box=box)


def test_percentiles_of_each_band_over_all_pixels_with_data(tmp_path: Path):
    one, other = picture(60, 70, 4, "uint16"), picture(50, 40, 4, "uint16") // 9
    one[:30] = 0
    paths = [
        write_tiff(tmp_path / "a.tif", one, nodata=0),
        write_tiff(tmp_path / "b.tif", other, nodata=0),
    ]
    rendering = Rendering(bands=(4, 2, 1))
    found = auto_stretch([source(path) for path in paths], rendering, 2)
    pixels = np.concatenate([one[30:].reshape(-1, 4), other.reshape(-1, 4)])
    pixels = pixels[pixels.any(axis=1)][:, [3, 1, 0]]
    expected = np.percentile(pixels, (2, 98), axis=0).T
    np.testing.assert_allclose(found, expected)
    box = Box(40, 10, 9, 8)
    found = auto_stretch([source(paths[0], box)], Rendering(bands=(1,)), 1)
    np.testing.assert_allclose(found, [np.percentile(one[box.slices][..., 0], (2, 98))])


def test_infinite_values_and_most_of_very_many_images_do_not_count(tmp_path: Path, monkeypatch):
    values = np.linspace(-1, 1, 101, dtype=np.float32).reshape(1, 101, 1)
    values[0, 0], values[0, 100] = -np.inf, np.inf
    paths = [write_tiff(tmp_path / f"{i}.tif", values + i) for i in range(4)]
    monkeypatch.setattr(stretching, "_MOST_SOURCES", 2)
    found = auto_stretch([source(path) for path in paths], AS_STORED, 1)
    kept = np.concatenate([values[0, 1:100], values[0, 1:100] + 2]).astype(np.float64)
    np.testing.assert_allclose(found, [np.percentile(kept, (2, 98))], rtol=1e-6)


def test_images_without_a_stretch(tmp_path: Path):
    flat = picture(9, 9, 3, "uint16") + np.uint16(9)
    flat[..., 1] = 5
    image = source(write_tiff(tmp_path / "flat.tif", flat))
    with pytest.raises(DataError, match="hardly any value but 5, so there is no --stretch auto"):
        auto_stretch([image], AS_STORED, 1)
    empty = source(write_tiff(tmp_path / "empty.tif", np.zeros((9, 9, 3), np.uint16), nodata=0))
    with pytest.raises(DataError, match="has no finite value, so there is no --stretch auto"):
        auto_stretch([empty], AS_STORED, 1)
    grey = write_tiff(tmp_path / "grey.tif", picture(9, 9, 1, "uint16"))
    with pytest.raises(DataError, match="differ in their number of bands; name one with --bands"):
        auto_stretch([image, source(grey)], AS_STORED, 1)


@pytest.mark.parametrize("stretch", ["auto", "100,900,50,800,0,700"])
def test_bands_and_stretch_are_stored_with_the_set(run_prepare, tmp_path: Path, stretch: str):
    values = {name: picture(40, 50, 5, "uint16") // 60 + i for i, name in enumerate("abc")}
    for name, image in values.items():
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        write_tiff(tmp_path / f"images/{name}.tif", image)
        write_tiff(tmp_path / f"labels/{name}.tif", np.zeros((40, 50, 1), np.uint8))
    (tmp_path / "one.json").write_text(json.dumps({"classes": [{"name": "a", "color": "#000000"}]}))
    tree = ["--tree", tmp_path, "--classes", tmp_path / "one.json", "--output", tmp_path / "set"]
    options = ["--shares", 0.4, 0.3, 0.3, "--bands", "5,3,2", "--stretch", stretch]
    code, out, err = run_prepare("folder", *tree, *options)
    assert code == 0, err
    tiles = open_tile_set(tmp_path / "set")
    stored = Rendering.from_plain(tiles.rendering)
    assert stored.bands == (5, 3, 2)
    (train,) = tiles.splits["train"]
    shown = values[train][..., [4, 2, 1]].astype(float)
    if stretch == "auto":
        pairs = np.percentile(shown.reshape(-1, 3), (2, 98), axis=0).T
        assert "stretch: " in out and "(percentiles 2 and 98 of the training images)" in out
    else:
        pairs = np.array(stretch.split(","), float).reshape(-1, 2)
    np.testing.assert_allclose(stored.stretch, pairs)
    low, high = np.broadcast_to(pairs, (3, 2)).T
    expected = np.rint(np.clip((shown - low) / (high - low), 0, 1) * 255)
    np.testing.assert_array_equal(tiles.read_image(train), expected)
