"""Sensors from prepare.py over training to infer.py: rasters, bands of the images, and arrays."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

import infer
from datasets.structure_maps import from_levels, map_path, read_manifest, read_map, store_folder
from datasets.tile_set import open_tile_set
from generate import generate_store
from tests.conftest import make_config, single_process, train_briefly
from tests.utils.rasters.raster_files import write_tiff
from utils.errors import DataError
from utils.inference.segment import Segmenter

SIZE = 96
NO_DATA = -9999.0
MODALITIES = "structure.modalities=[superpixels,dsm,nir]"


def place(number: int, pixel_m: float = 1.0) -> dict:
    corner = rasterio.Affine(pixel_m, 0, 400_000 + 1000 * number, 0, -pixel_m, 5_700_000)
    return {"crs": "EPSG:32633", "transform": corner}


def heights(number: int, size: int = SIZE) -> np.ndarray:
    y, x = np.mgrid[:size, :size] * (SIZE / size)
    return (100 + 10 * number + 0.3 * y + 5 * np.sin(x / 9)).astype(np.float32)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six placed images of red, green, blue and near infrared, their masks and surface models."""
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for name in ("images", "labels", "dsm"):
        (root / name).mkdir()
    for number in range(6):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 4), np.uint8)
        dsm = heights(number)
        dsm[:4] = NO_DATA
        photometric = {"photometric": "RGB", "alpha": "NO"}
        write_tiff(root / f"images/{number}.tif", pixels, **photometric, **place(number))
        write_tiff(root / f"labels/{number}.tif", pixels[..., :1] // 128, **place(number))
        write_tiff(root / f"dsm/{number}.tif", dsm[..., None], nodata=NO_DATA, **place(number))
    names = {"low": "#000000", "high": "#ffffff"}
    classes = [{"name": n, "value": i, "color": names[n]} for i, n in enumerate(names)]
    (root / "two.json").write_text(json.dumps({"classes": classes}))
    return root


@pytest.fixture
def command(scenes: Path) -> tuple:
    folders = ("--images", scenes / "images", "--labels", scenes / "labels")
    return ("folder", *folders, "--classes", scenes / "two.json", "--shares", 0.5, 0.25, 0.25)


@pytest.fixture
def prepared(scenes: Path, command: tuple, run_prepare) -> Path:
    """The data set with both sensors, made once."""
    root = scenes / "set"
    if not root.exists():
        sensors = ("--sensor", f"dsm={scenes / 'dsm'}", "--sensor", "nir=band:4")
        code, _, err = run_prepare(*command, *sensors, "--output", root)
        assert code == 0, err
    return root


@pytest.fixture
def trained(scenes: Path, prepared: Path) -> Path:
    """A network that was trained for two steps with both sensors, made once."""
    path = scenes / "runs/run/best.pth"
    if not path.exists():
        few = ("optim.num_epochs=1", "optim.warmup_epochs=0", "optim.steps_per_epoch=2")
        config = make_config(prepared, scenes / "runs", MODALITIES, *few)
        generate_store(config, "superpixels", open_tile_set(prepared), single_process())
        path = train_briefly(config)
    return path


@pytest.fixture
def run(trained: Path, run_script, tmp_path: Path):
    """Run infer.py; its output folder."""

    def run(source: Path, *arguments: object, output: str = "out") -> tuple[Path, str]:
        known = ("--checkpoint", trained, "--output", tmp_path / output, "--write", "index")
        code, out, err = run_script("infer", *known, "--input", source, *arguments)
        if code:
            raise DataError(err)
        return tmp_path / output, out

    return run


def index_of(output: Path, number: int) -> np.ndarray:
    with rasterio.open(output / f"index/{number}.tif") as file:
        assert file.crs.to_epsg() == 32633 and file.transform == place(number)["transform"]
        return file.read(1)


def test_sensors_at_inference_are_those_of_the_stores(scenes, prepared, trained, run, tmp_path):
    """Case 12 of docs/trials.md: rasters given at inference predict what the stores predict.

    The network reads the stores, the files, and arrays in Python: equal predictions, and others
    without the surface model. Near infrared is read from the images unasked.
    """
    tile_set = open_tile_set(prepared)
    numbers = [int(tile_set.tiles[tile_id].source) for tile_id in tile_set.split("test")]
    stored, _ = run(prepared, "--split", "test", output="stored")
    given, _ = run(scenes / "images", "--sensor", f"dsm={scenes / 'dsm'}", output="given")
    again, _ = run(
        *(prepared, "--split", "test", "--sensor", f"dsm={scenes / 'dsm'}"),
        *("--sensor", f"nir={scenes / 'images'}:band:4"),
        output="again",
    )
    absent, _ = run(scenes / "images", "structure.absent=[dsm]", output="absent")
    predict = infer.load_predictor(trained, device="cpu")
    for number in numbers:
        index = index_of(stored, number)
        assert np.array_equal(index, index_of(given, number))
        assert np.array_equal(index, index_of(again, number))
        assert not np.array_equal(index, index_of(absent, number))
        with rasterio.open(scenes / f"images/{number}.tif") as file:
            pixels = np.moveaxis(file.read(), 0, -1)
        dsm = heights(number)
        dsm[:4] = np.nan
        image = np.ascontiguousarray(pixels[..., :3])
        assert np.array_equal(index, predict(image, dsm=dsm, nir=pixels[..., 3]))
        masked = np.ma.masked_invalid(dsm)
        assert np.array_equal(index, predict(image, dsm=masked, nir=pixels[..., 3]))


def test_a_band_of_the_images_is_a_store_that_knows_its_band(scenes, prepared, run_prepare):
    tile_set = open_tile_set(prepared)
    folder = store_folder(prepared, "nir")
    recipe = read_manifest(folder)[0]
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    assert recipe.settings == {"minimum": 0.0, "maximum": 255.0, "band": 4}
    for tile_id, tile in tile_set.tiles.items():
        with rasterio.open(scenes / f"images/{tile.source}.tif") as file:
            band = file.read(4)
        values = from_levels(np.array(read_map(map_path(folder, tile_id))), low, high)
        np.testing.assert_allclose(values, band, atol=0.01)
    command = ("sensor", "--data", prepared, "--name", "same", "--images", scenes / "images")
    code, _, err = run_prepare(*command)
    assert code == 2 and "--images needs --band: the band of the images that is the sensor" in err
    assert run_prepare(*command, "--band", 4)[0] == 0
    for path in folder.glob("*.tif"):
        assert path.read_bytes() == (store_folder(prepared, "same") / path.name).read_bytes()
    code, _, err = run_prepare(*command[:-2], "--rasters", scenes / "images")
    assert code == 2 and "0.tif has 4 bands; name the one of the sensor: --band N, or" in err
    code, _, err = run_prepare(*command, "--band", 5)
    assert code == 2 and "0.tif has 4 bands, not a band 5" in err


def test_a_surface_model_of_larger_pixels_is_resampled_by_its_place(
    scenes, prepared, trained, run, run_prepare, tmp_path
):
    """Case 12 of docs/trials.md: half the resolution; compared with GDAL's warp, by hand."""
    for number in range(6):
        array = heights(number, SIZE // 2)[..., None]
        array[10, 10] = NO_DATA
        path = tmp_path / f"half/{number}.tif"
        path.parent.mkdir(exist_ok=True)
        write_tiff(path, array, nodata=NO_DATA, **place(number, 2.0))
    shutil.copy(scenes / "dsm/5.tif", tmp_path / "half/5.tif")
    command = ("sensor", "--data", prepared, "--name", "half", "--rasters", tmp_path / "half")
    code, out, _ = run_prepare(*command)
    assert code == 0 and "5 of 6 rasters of half were put on the grid of their image\n" in out
    folder, tile_set = store_folder(prepared, "half"), open_tile_set(prepared)
    settings = read_manifest(folder)[0].settings
    for tile_id, tile in tile_set.tiles.items():
        with rasterio.open(tmp_path / f"half/{tile.source}.tif") as file:
            grid = {**place(int(tile.source)), "height": SIZE, "width": SIZE}
            with WarpedVRT(file, resampling=Resampling.bilinear, **grid) as warped:
                expected = warped.read(1, masked=True).filled(np.nan)
        levels = np.array(read_map(map_path(folder, tile_id)))
        values = from_levels(levels, settings["minimum"], settings["maximum"])
        np.testing.assert_allclose(values, expected, atol=0.01)
        assert 4 <= np.isnan(values).sum() < SIZE * SIZE / 2
    with rasterio.open(tmp_path / "half/0.tif") as file:
        with WarpedVRT(file, resampling=Resampling.bilinear, **grid | place(0)) as warped:
            dsm = warped.read(1, masked=True).filled(np.nan)
    with rasterio.open(scenes / "images/0.tif") as file:
        pixels = np.moveaxis(file.read(), 0, -1)
    predict = infer.load_predictor(trained, device="cpu")
    expected = predict(np.ascontiguousarray(pixels[..., :3]), dsm=dsm, nir=pixels[..., 3])
    given, _ = run(scenes / "images/0.tif", "--sensor", f"dsm={tmp_path / 'half/0.tif'}")
    assert np.array_equal(index_of(given, 0), expected)


def test_rasters_that_do_not_fit_at_inference(scenes, trained, run, tmp_path):
    """Every sentence, collected for each image like those of broken images."""
    folder = tmp_path / "dsm"
    shutil.copytree(scenes / "dsm", folder)
    shutil.copy(folder / "0.tif", folder / "1.tif")  # elsewhere
    (folder / "2.tif").unlink()
    write_tiff(folder / "3.tif", heights(3, 48)[..., None])  # smaller, without a place
    write_tiff(folder / "4.tif", np.dstack([heights(4)] * 2), **place(4))
    with pytest.raises(DataError) as caught:
        run(scenes / "images", "--sensor", f"dsm={folder}")
    text = str(caught.value)
    assert "4 of 6 images could not be segmented" in text
    for sentence in (
        "dsm/1.tif does not cover its image",
        "it extends over x 400000 to 400096, y 5699904 to 5700000 (EPSG:32633), the image over "
        "x 401000 to 401096,",
        "the image '2' has no raster",
        "3.tif is 48 x 48 and its image",
        "georeference both: placed files are resampled to the grid of the image",
        "4.tif has 2 bands; name the one of the sensor: --band N, or --sensor NAME=PATH:band:N",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--sensor", "lidar=."),
            "--sensor lidar=. is not used: the network reads the sensors dsm",
        ),
        (("--sensor", "dsm=nowhere"), "--sensor dsm=nowhere does not exist"),
        (("--sensor", "dsm=a:band:x"), "must be NAME=PATH, NAME=PATH:band:N or, of the images, NA"),
        (("--sensor", "dsm"), "must be NAME=PATH, NAME=PATH:band:N or, of the images, NAME=band:N"),
        (("--sensor", "dsm=band:7"), "0.tif has 4 bands, not a band 7"),
    ],
)
def test_sensors_that_cannot_be_read(scenes, run, arguments, sentence):
    with pytest.raises(DataError) as caught:
        run(scenes / "images", *arguments)
    assert sentence in str(caught.value)


def test_one_raster_serves_several_images_only_by_its_place(scenes, run, tmp_path):
    with rasterio.open(scenes / "dsm/0.tif") as file:
        values = file.read()
    whole = np.tile(values[0], (1, 60))[..., None]
    write_tiff(tmp_path / "placed.tif", whole, nodata=NO_DATA, **place(0))
    write_tiff(tmp_path / "unplaced.tif", values[0][..., None], nodata=NO_DATA)
    run(scenes / "images", "--sensor", f"dsm={tmp_path / 'placed.tif'}")
    with pytest.raises(DataError, match="is one raster without a place on the earth for 6 images"):
        run(scenes / "images", "--sensor", f"dsm={tmp_path / 'unplaced.tif'}")


def test_a_changed_raster_repeats_its_image(scenes, run, tmp_path):
    folder = tmp_path / "dsm"
    shutil.copytree(scenes / "dsm", folder)
    sensor = ("--sensor", f"dsm={folder}")
    run(scenes / "images", *sensor)
    assert "6 of 6 images segmented (6 of them before)" in run(scenes / "images", *sensor)[1]
    os.utime(folder / "3.tif", ns=(1, 1))
    assert "6 of 6 images segmented (5 of them before)" in run(scenes / "images", *sensor)[1]
    other = (*sensor, "--sensor", "nir=band:1")
    assert "6 of 6 images segmented;" in run(scenes / "images", *other)[1]


def test_values_of_another_unit_are_warned_of_once(scenes, run, tmp_path):
    (tmp_path / "feet").mkdir()
    for number in range(6):
        array = heights(number)[..., None] * np.float32(3.28)
        write_tiff(tmp_path / f"feet/{number}.tif", array, **place(number))
    _, out = run(scenes / "images", "--sensor", f"dsm={tmp_path / 'feet'}")
    assert out.count("lie outside the range of the training set") == 1
    assert "warning: 100% of the values of dsm in" in out and "are clipped to it; check" in out


@pytest.fixture
def predict(trained: Path) -> Segmenter:
    return infer.load_predictor(trained, device="cpu")


@pytest.mark.parametrize(
    ("sensors", "sentence"),
    [
        ({}, r"reads the sensor dsm as well: predict\(image, dsm=array\), an array \(H, W\) of nu"),
        ({"dsm": np.zeros((9, 9)), "x": 1}, "takes no 'x': the network reads the sensors dsm, nir"),
        (
            {"dsm": np.zeros((3, 9))},
            r"dsm must be an array \(9, 9\) of numbers, .* not \(3, 9\)",
        ),
        ({"dsm": np.full((9, 9), "a")}, r"dsm must be an array .* not \(9, 9\) of <U1"),
        ({"dsm": [[1.0] * 9] * 9}, r"dsm must be an array .* not <class 'list'>"),
    ],
)
def test_arrays_of_sensors_are_checked(predict, sensors, sentence):
    nir = {"nir": np.zeros((9, 9), np.uint8)} if sensors else {}
    with pytest.raises(DataError, match=sentence):
        predict(np.zeros((9, 9, 3), np.uint8), **sensors, **nir)


def test_an_array_of_another_unit_is_warned_of_where_it_is_passed(predict):
    with pytest.warns(UserWarning, match="of dsm in the array, 2000 to 2000, lie") as caught:
        predict(np.zeros((9, 9, 3), np.uint8), dsm=np.full((9, 9), 2e3), nir=np.zeros((9, 9)))
    assert caught[0].filename == __file__
