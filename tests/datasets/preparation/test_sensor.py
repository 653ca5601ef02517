"""Import of a real sensor as a modality: values, pixels without data, ranges, errors."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from datasets.loaders import check_structure
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.sensor import SourceRaster, import_sensor, rasters_of, store_rasters
from datasets.rasters import write_raster
from datasets.sensors import open_band
from datasets.sources import SourceFacts
from datasets.structure_maps import (
    MapRecipe,
    begin_store,
    map_path,
    read_manifest,
    read_map,
    store_folder,
)
from datasets.tile_set import Tile, TileSet, image_path, open_tile_set, valid_path
from tests.conftest import make_config
from utils.boxes import Box
from utils.errors import DataError, MissingDataError
from utils.rasters.frames import Frame
from utils.rasters.reading import open_scene


def read_raster(path: Path, no_data: float | None) -> np.ndarray:
    with open_scene(path) as raster:
        height, width = raster.size
    image = Frame(name="image", size=(height, width))
    with open_band(partial(open_scene, path), image, no_data=no_data) as band:
        return band.read(slice(0, height), slice(0, width))


def save_all(tile_set: TileSet, folder: Path, array: np.ndarray, suffix: str = ".png") -> None:
    """One raster for all source images."""
    for tile_id in tile_set.tiles:
        Image.fromarray(array).save(folder / f"{tile_id}{suffix}")


def test_a_range_is_kept_and_another_one_over_it_refused(data_root, tmp_path, run_prepare):
    tile_set = open_tile_set(data_root)
    raster = np.full((96, 96), -5, np.float32)
    raster[:, 1:4] = (0, 5, 99)
    raster[1] = np.nan
    save_all(tile_set, tmp_path, raster, ".TIF")
    command = ("sensor", "--data", data_root, "--name", "given", "--rasters", tmp_path)
    code, _, err = run_prepare(*command, "--range", 3, 3)
    assert (code, err) == (2, "error: --range is 3 3; the first must be the smaller\n")
    code, out, _ = run_prepare(*command, "--range", 0, 10)
    folder = store_folder(data_root, "given")
    assert code == 0 and out.startswith(f"12 maps in {folder}, values 0 to 10; use them with")
    levels = read_map(map_path(folder, tile_set.split("val")[0]))
    assert levels[0, :4].tolist() == [1, 1, 32768, 65535]
    assert np.flatnonzero((levels == 0).any(1)).tolist() == [1] and not levels[1].any()
    code, _, err = run_prepare(*command)
    assert code == 2 and "given was made with other settings" in err and "another --name" in err
    assert len(read_manifest(folder)[1]) == len(tile_set.tiles)
    code, _, err = run_prepare(*command[:4], "sam", *command[5:])
    assert code == 2 and "--name: 'sam' is reserved or no folder name; ch" in err


def test_a_store_that_broke_off_names_the_command(tmp_path: Path):
    folder = store_folder(tmp_path, "dsm")
    begin_store(folder, MapRecipe(generator="sensor", settings={}, weights_sha256=None))
    with pytest.raises(MissingDataError, match=r"not finished; make them with prepare\.py sensor$"):
        read_manifest(folder)


def test_no_data_means_what_the_file_can_hold_declares_or_masks(tmp_path: Path):
    path = tmp_path / "a.tif"
    for kind in ("u1", "u2", "i4", "f4"):
        Image.fromarray(np.array([[1, 2], [9, 4]], kind)).save(path)
        np.testing.assert_array_equal(read_raster(path, no_data=9), [[1, 2], [np.nan, 4]])
    array = np.array([[-9999.9, 1, 2]], np.float32)
    Image.fromarray(array).save(path)
    assert np.isnan(read_raster(path, no_data=-9999.9)).tolist() == [[True, False, False]]
    Image.fromarray(array).save(path, tiffinfo={42113: "-9999.9"})
    assert np.isnan(read_raster(path, no_data=2)).tolist() == [[True, False, True]]
    profile = {"driver": "GTiff", "dtype": "int16", "count": 1, "height": 1, "width": 3}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.array([[[-30_000, 7, 5]]], np.int16))
        file.write_mask(np.array([[True, True, False]]))
    np.testing.assert_array_equal(read_raster(path, None), [[-30_000, 7, np.nan]])


def test_rasters_that_do_not_fit(data_root: Path, tmp_path: Path):
    tile_set = open_tile_set(data_root)
    first = next(iter(tile_set.tiles))
    sentence = rf"the image '{first}' has no raster .*/{first} \(\.tif, \.png or another format\)"
    with pytest.raises(MissingDataError, match=sentence):
        rasters_of(tile_set, tmp_path)
    for shape, sentence in (
        (
            (96, 95),
            r"png is 96 x 95 and its image '.*' 96 x 96 \(.*\); give them one size, or",
        ),
        (
            (96, 96, 3),
            r"png has 3 bands; name the one of the sensor: --band N, or --sensor",
        ),
        (
            (96, 96),
            r"no raster of the sensor other has a pixel with data; check --no-data or leave",
        ),
    ):
        save_all(tile_set, tmp_path, np.zeros(shape, np.uint8))
        with pytest.raises(DataError, match=sentence):
            import_sensor(tile_set, "other", rasters_of(tile_set, tmp_path), no_data=0)
    assert not store_folder(data_root, "other").exists()


def test_a_sensor_that_is_absent_or_of_another_range_says_what_to_do(data_root, tmp_path):
    def check(sensor, trained_with=None):
        modalities = f"structure.modalities=[superpixels,{sensor}]"
        structure = make_config(data_root, tmp_path, modalities).structure
        return check_structure(open_tile_set(data_root), structure, ["val"], trained_with)

    with pytest.raises(
        MissingDataError, match=r"'lidar', which is neither a generator .* nor a se"
    ):
        check("lidar")
    assert set(check("height")) == {"superpixels", "height"}
    with pytest.raises(
        DataError, match=r"settings\.maximum: 1\.0 \| 20\.0\. .* \(--range sets mini"
    ):
        check("height", {"height": {"settings": {"minimum": 0.0, "maximum": 1.0}}})


def test_a_block_is_cut_where_it_lies_in_its_image(tmp_path: Path):
    """The range is that of the block alone, and pixels without data in the image are 0."""
    values = np.arange(64 * 96, dtype=np.float32).reshape(64, 96)
    Image.fromarray(values).save(tmp_path / "a.tif")
    tile = Tile(id="t", source="a_1", top_px=15, left_px=28, height_px=32, width_px=40)
    valid = np.ones((32, 40), np.uint8)
    valid[:, 39] = 0
    write_raster(image_path(tmp_path, "t"), np.zeros((32, 40, 3), np.uint8))
    write_raster(valid_path(tmp_path, "t"), valid)
    box = Box(10, 20, 40, 50)
    raster = SourceRaster(
        id="a_1",
        file=ArchiveFile(name="a.tif", path=tmp_path / "a.tif"),
        tiles=[tile],
        facts=SourceFacts(image="a", size=(64, 96), box=box, sha256=""),
    )
    found = store_rasters(tmp_path, "dsm", [raster], None, 1)
    low, high = float(values[10, 20]), float(values[49, 69])
    assert (found.low, found.high, found.num_rasters, found.num_warped) == (low, high, 1, 0)
    levels = np.array(read_map(map_path(store_folder(tmp_path, "dsm"), "t")))
    expected = 1 + np.rint((values[15:47, 28:68].astype(float) - low) / (high - low) * 65534)
    np.testing.assert_array_equal(levels, np.where(valid, expected, 0))
