"""A real sensor as a modality: import, encoding, geometry, the controls."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from configs.schema import Config, StructureConfig
from datasets.dataset import prepare_inputs
from datasets.encodings import StructureEncoder, value
from datasets.loaders import build_eval_loader, check_structure
from datasets.preparation.sensor import import_sensor, read_band
from datasets.structure_maps import (
    MapRecipe,
    begin_store,
    check_store,
    map_path,
    read_manifest,
    read_map,
    store_folder,
    to_levels,
    write_manifest,
    write_map,
)
from datasets.tile_set import TileSet, open_tile_set
from datasets.transforms import Geometry
from tests.conftest import make_config, single_process
from tests.datasets.coordinates import cut_all
from utils.errors import ConfigError, DataError, MissingDataError
from utils.rasters.reading import open_scene

BOTH = "structure.modalities=[superpixels,dsm]"


def read_raster(path: Path, no_data: float | None) -> np.ndarray:
    with open_scene(path) as raster:
        return read_band(raster, str(path), no_data)


@pytest.fixture(scope="module")
def with_sensor(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes with a sensor that sees the brightness, NaN in one corner."""
    rasters = tmp_path_factory.mktemp("rasters")
    tile_set = open_tile_set(data_root)
    for tile_id in tile_set.tiles:
        heights = tile_set.read_image(tile_id).mean(-1).astype(np.float32) / 10 - 3
        heights[:5, :7] = np.nan
        Image.fromarray(heights).save(rasters / f"{tile_id}.tif")
    import_sensor(tile_set, "dsm", rasters)
    return data_root


@contextmanager
def refused(kind: type[Exception], sentence: str) -> Iterator[None]:
    with pytest.raises(kind) as error:
        yield
    assert str(error.value) == sentence


def config_of(root: Path, output: Path, *overrides: str) -> Config:
    return make_config(root, output, BOTH, *overrides)


def test_levels_by_hand():
    values = np.array([[-3.0, 0.0, 3.0, np.nan]])
    assert to_levels(values, -3.0, 3.0).tolist() == [[1, 32768, 65535, 0]]
    encoded = value(torch.zeros(1, 3, 1, 4), torch.tensor([[[1, 32768, 65535, 0]]]))
    assert encoded.tolist() == [[[[0.0, 0.5, 1.0, 0.5]]]]


def test_import_keeps_values_and_no_data(with_sensor, tmp_path):
    tile_set = open_tile_set(with_sensor)
    folder = store_folder(with_sensor, "dsm")
    recipe, sources = read_manifest(folder)
    assert recipe.generator == "sensor" and set(sources) == set(tile_set.tiles)
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    tile_id = next(iter(tile_set.tiles))
    levels = read_map(map_path(folder, tile_id))
    expected = tile_set.read_image(tile_id).mean(-1) / 10 - 3
    assert (levels[:5, :7] == 0).all() and (levels[5:] > 0).all()
    ours = low + (levels - 1) / 65534 * (high - low)
    np.testing.assert_allclose(ours[5:], expected[5:], atol=(high - low) / 65000)


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f4"])
def test_rasters_of_8_16_and_32_bit_are_read(kind, tmp_path):
    array = np.array([[1, 2], [9, 4]], kind)
    Image.fromarray(array).save(tmp_path / "a.tif")
    raster = read_raster(tmp_path / "a.tif", no_data=9)
    np.testing.assert_array_equal(raster, [[1, 2], [np.nan, 4]])


def test_a_range_is_kept_and_another_one_over_it_refused(data_root: Path, tmp_path: Path):
    tile_set = open_tile_set(data_root)
    for tile_id in tile_set.tiles:
        raster = np.full((96, 96), -5, np.float32)
        raster[:, 1:4] = (0, 5, 99)
        Image.fromarray(raster).save(tmp_path / f"{tile_id}.TIF")
    assert import_sensor(tile_set, "given", tmp_path, None, (0.0, 10.0)) == (0.0, 10.0)
    folder = store_folder(data_root, "given")
    levels = read_map(map_path(folder, tile_set.split("val")[0]))
    assert levels[0, :4].tolist() == [1, 1, 32768, 65535]
    with pytest.raises(DataError, match=r"given was made with other settings .* under another --n"):
        import_sensor(tile_set, "given", tmp_path)
    assert len(read_manifest(folder)[1]) == len(tile_set.tiles)


def test_a_store_that_broke_off_or_is_stale_names_the_command(tmp_path: Path):
    recipe = MapRecipe(generator="sensor", settings={}, weights_sha256=None)
    folder = store_folder(tmp_path, "dsm")
    begin_store(folder, recipe)
    unfinished = "are missing or not finished; make them with prepare.py sensor"
    with refused(MissingDataError, f"the structure maps {folder} {unfinished}"):
        check_store(tmp_path, "dsm", {}, {})
    write_manifest(folder, recipe, {"a": "hash of another image"})
    image = tmp_path / "a.png"
    image.touch()
    lacking = "lacks 1 of 1 maps (first: 'a'); complete it with prepare.py sensor"
    with refused(MissingDataError, f"{folder} {lacking}"):
        check_store(tmp_path, "dsm", {}, {"a": image})
    write_map(folder, "a", np.zeros((2, 2), np.uint16), "", recipe)
    stale = "1 images changed after their maps were made (first: 'a'); run prepare.py sensor again"
    with refused(DataError, f"{folder}: {stale}"):
        check_store(tmp_path, "dsm", {}, {"a": image})


def test_no_data_means_what_the_file_can_hold(tmp_path: Path):
    Image.fromarray(np.array([[-9999.9, 1]], np.float32)).save(tmp_path / "a.tif")
    assert np.isnan(read_raster(tmp_path / "a.tif", no_data=-9999.9)).tolist() == [[True, False]]


@pytest.mark.parametrize("declared", ["-32767", "-32767 ", "nan"])
def test_no_data_that_a_geotiff_declares(tmp_path: Path, declared: str):
    array = np.array([[-32767, 1, 2]], np.float32)
    Image.fromarray(array).save(tmp_path / "a.tif", tiffinfo={42113: declared})
    expected = [[declared != "nan", False, True]]
    assert np.isnan(read_raster(tmp_path / "a.tif", no_data=2)).tolist() == expected
    Image.fromarray(array).save(tmp_path / "a.tif", tiffinfo={42113: "none"})
    assert not np.isnan(read_raster(tmp_path / "a.tif", no_data=None)).any()


@pytest.mark.parametrize("kind", ["int16", "uint32", "float64"])
def test_no_data_and_masks_of_gdal(tmp_path: Path, kind: str):
    profile = {"driver": "GTiff", "dtype": kind, "count": 1, "height": 2, "width": 3}
    values = np.array([[100, 7, 3], [4, 5, 6]], kind)
    values[0, 0] = 100_000 if kind != "int16" else -30_000
    with rasterio.open(tmp_path / "a.tif", "w", nodata=7, **profile) as file:
        file.write(values, 1)
    expected = values.astype(float)
    expected[0, 1] = np.nan
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", no_data=None), expected)
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as file:
        file.write(values, 1)
        file.write_mask(values != 5)
    expected = values.astype(float)
    expected[1, 1] = np.nan
    np.testing.assert_array_equal(read_raster(tmp_path / "b.tif", no_data=None), expected)


def test_import_errors_are_one_sentence(data_root: Path, tmp_path: Path):
    tile_set = open_tile_set(data_root)
    first = tmp_path / next(iter(tile_set.tiles))
    sentence = f"the image '{first.name}' has no raster {first}{{.tif,.tiff,.png}}; add it"
    with refused(MissingDataError, sentence):
        import_sensor(tile_set, "other", tmp_path)
    for tile_id in tile_set.tiles:
        Image.fromarray(np.zeros((96, 95), np.uint8)).save(tmp_path / f"{tile_id}.png")
    sizes = "is 96 x 95 and its image 96 x 96 (height x width); give them one size"
    with refused(DataError, f"{first}.png {sizes}"):
        import_sensor(tile_set, "other", tmp_path)
    for tile_id in tile_set.tiles:
        Image.fromarray(np.zeros((96, 96), np.uint8)).save(tmp_path / f"{tile_id}.png")
    with refused(DataError, f"no raster in {tmp_path} has a pixel with data; check --no-data"):
        import_sensor(tile_set, "other", tmp_path, no_data=0)
    with refused(ConfigError, "--range is 3 3; the first must be the smaller"):
        import_sensor(tile_set, "other", tmp_path, value_range=(3, 3))
    assert not store_folder(data_root, "other").exists()
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with refused(
        DataError, f"{tmp_path / 'rgb.png'} must have one band of numbers, not 3 bands of uint8"
    ):
        read_raster(tmp_path / "rgb.png", None)


def test_a_sensor_that_is_not_there_says_how_to_import_it(data_root: Path, tmp_path: Path):
    config = make_config(data_root, tmp_path, "structure.modalities=[superpixels,lidar]")
    sentence = (
        "structure.modalities names 'lidar', which is neither a generator (these are superpixels, "
        f"sam, depth_anything) nor a sensor in {data_root}; import it with prepare.py sensor "
        f"--data {data_root} --name lidar --rasters FOLDER"
    )
    with refused(MissingDataError, sentence):
        check_structure(open_tile_set(data_root), config.structure, ["val"])


def test_another_range_than_that_of_the_checkpoint_is_refused(with_sensor, tmp_path):
    tile_set: TileSet = open_tile_set(with_sensor)
    structure = config_of(with_sensor, tmp_path).structure
    assert set(check_structure(tile_set, structure, ["val"])) == {"superpixels", "dsm"}
    other = {"dsm": {"settings": {"minimum": 0.0, "maximum": 1.0}}}
    folder = store_folder(with_sensor, "dsm")
    found = read_manifest(folder)[0].settings
    sentence = (
        f"{folder} was made with other settings (wanted | found): settings.minimum: 0.0 | "
        f"{found['minimum']}; settings.maximum: 1.0 | {found['maximum']}. Delete the folder and "
        "import the sensor again with prepare.py sensor (--range sets minimum and maximum), or "
        "under another --name"
    )
    with refused(DataError, sentence):
        check_structure(tile_set, structure, ["val"], other)


def test_geometry_moves_a_sensor_like_the_image():
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64))
    members = {
        "image": np.repeat(ramp[..., None], 3, -1).astype(np.uint8),
        "target": ramp.astype(np.uint8),
        "dsm": (1 + 100 * ramp).astype(np.uint16),
    }
    geometry = Geometry(
        crop_size_px=32, scale_range=(0.7, 1.6), dihedral=True, value_stores=("dsm",)
    )
    for seed in range(30):
        out = cut_all(geometry, members, seed)
        valid = out["dsm"] > 0
        assert valid.mean() > 0.4
        difference = (out["dsm"].astype(float) - 1) / 100 - out["image"][..., 0]
        assert np.abs(difference[valid]).max() <= 1  # the image is rounded to whole numbers


def test_no_data_does_not_bleed_when_resized():
    levels = np.full((40, 40), 5000, np.uint16)
    levels[:, :20] = 0
    members = {"image": np.zeros((40, 40, 3), np.uint8), "dsm": levels}
    geometry = Geometry(
        crop_size_px=30, scale_range=(0.75, 0.75), dihedral=False, value_stores=("dsm",)
    )
    out = cut_all(geometry, members, 0)["dsm"]
    assert set(np.unique(out)) == {0, 5000}
    assert (out[:, :14] == 0).all() and (out[:, 16:] == 5000).all()


def test_shuffled_gives_the_other_tiles_sensor(with_sensor, tmp_path):
    tile_set = open_tile_set(with_sensor)
    config = config_of(with_sensor, tmp_path, "structure.control=shuffled")
    first = next(iter(build_eval_loader(config, tile_set, "val", single_process(), ["full"])))
    partner = map_path(store_folder(with_sensor, "dsm"), tile_set.split("val")[1])
    np.testing.assert_array_equal(first.maps["dsm"][0], read_map(partner))
    encoder = StructureEncoder(config.structure)
    _, structure, _ = prepare_inputs(first, encoder)
    assert torch.equal(structure[:, 4:], value(structure, first.maps["dsm"]))


def test_segments_are_those_of_the_first_segment_modality():
    ids, levels = torch.ones(1, 2, 2, dtype=torch.int32), torch.zeros(1, 2, 2)
    maps = {"dsm": levels, "superpixels": ids}
    structure = StructureConfig(modalities=("dsm", "superpixels"))
    assert StructureEncoder(structure).segments(maps) is ids
    assert StructureEncoder(StructureConfig(modalities=("dsm",))).segments(maps) is None
    shuffled = StructureConfig(modalities=("superpixels",), control="shuffled")
    assert StructureEncoder(shuffled).segments(maps) is None
