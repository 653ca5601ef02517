"""The cases of docs/trials.md that are about infer.py, its predictor and train.py.

Each name begins with the number of its case, each value is the one that is right there.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import yaml
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

import infer
from datasets.tile_set import open_tile_set
from generate import generate_store
from tests.conftest import make_config, single_process, train_briefly
from tests.trial_files import (
    TWO,
    class_file,
    halves,
    noise,
    placed,
    write_geotiff,
    write_image,
)
from utils.training.checkpoint import load_checkpoint

PLACE = placed(pixel_m=0.1)
NO_VIT = ("model.rgb_vit.name=none", "model.structure_vit.name=none")
RGB_ONLY = (*NO_VIT, "structure.control=off")
ONE_EPOCH = ("optim.num_epochs=1", "optim.warmup_epochs=0")


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory):
    """A network without ViTs and structure maps."""
    folder = tmp_path_factory.mktemp("runs")
    return load_checkpoint(train_briefly(make_config(data_root, folder, *RGB_ONLY)))


@pytest.fixture
def segment(run_script, checkpoint, tmp_path):
    """Run infer.py; the folder of its results and the output, or the sentence of a refusal."""

    def run(source, *arguments, path=None, fails=False, name="out", write="index"):
        known = ("--checkpoint", path or checkpoint.path, "--output", tmp_path / name)
        known += ("--write", write)
        code, out, err = run_script("infer", *known, "--input", source, *arguments)
        assert code == (2 if fails else 0), out + err
        return tmp_path / name, err.partition("error: ")[2].strip() if fails else out

    return run


def read(path, band=1):
    with rasterio.open(path) as file:
        return file.read(band)


def write_diamond(path, kind):
    """Write 400 x 512 pixels, half of which are a collar; the pixels that hold data."""
    y, x = np.mgrid[:400, :512]
    valid = np.abs(x - 256) / 256 + np.abs(y - 200) / 200 < 1
    if kind == "none":
        valid[:] = False
    pixels = np.where(valid[..., None], noise(400, 512).clip(1), 0).astype(np.uint8)
    options = {"photometric": "RGB", **PLACE}
    if kind in ("tag", "none"):
        write_geotiff(path, pixels, nodata=0, **options)
    elif kind in ("alpha", "infrared"):
        fourth = np.where(valid, 255, 0).astype(np.uint8)
        options["alpha"] = "NON-PREMULTIPLIED" if kind == "alpha" else "NO"
        write_geotiff(path, np.dstack([pixels, fourth]), **options)
    else:
        write_geotiff(path, pixels, **options)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"):
            with rasterio.open(path, "r+") as file:
                file.write_mask(valid)
    return np.ones_like(valid) if kind == "infrared" else valid


def test_case_02_collars_get_no_class(segment, tmp_path):
    """No index, area, polygon, colour or confidence where a file of any kind holds no data."""
    kinds = ("tag", "alpha", "internal", "msk", "none", "infrared")
    images = tmp_path / "images"
    valid_of = {kind: write_diamond(images / f"{kind}.tif", kind) for kind in kinds}
    out, _ = segment(images, "eval.window_px=512", write="index,color,overlay,confidence,polygons")
    sums = dict.fromkeys(kinds, 0)
    with (out / "areas.csv").open() as file:
        for row in csv.DictReader(file):
            sums[Path(row["image"]).stem] += int(row["pixels"])
    expected = dict.fromkeys(kinds, 102_385) | {"none": 0, "infrared": 204_800}
    assert sums == expected
    for kind, valid in valid_of.items():
        for folder in ("index", "color", "overlay", "confidence"):
            with rasterio.open(out / folder / f"{kind}.tif") as file:
                assert np.array_equal(file.dataset_mask() != 0, valid), (kind, folder)
                if folder == "index":
                    assert file.nodata == 255 and np.all((file.read(1) == 255) == ~valid)
        found = json.loads((out / f"polygons/{kind}.geojson").read_text())["features"]
        assert sum(each["properties"]["area_px"] for each in found) == expected[kind]


@pytest.fixture
def trained_on(run_prepare, tmp_path, tmp_path_factory):
    """Prepare three images of any files, train a network on them; its checkpoint."""

    def run(write, *options):
        folder = tmp_path / "own"
        for name in "abc":
            write(folder / f"images/{name}.tif")
            write_image(folder / f"labels/{name}.png", halves(70, 90))
        command = ("folder", "--tree", folder, "--classes", class_file(tmp_path / "c.json", TWO))
        root = tmp_path_factory.mktemp("sets") / "set"
        shares = ("--shares", 0.4, 0.3, 0.3)
        code, out, err = run_prepare(*command, *shares, *options, "--output", root)
        assert code == 0, out + err
        return train_briefly(make_config(root, tmp_path / "runs", *RGB_ONLY, *ONE_EPOCH))

    return run


RGB = noise(70, 90)


def write_deep(path):
    return write_geotiff(path, RGB.astype(np.uint16) * 10 + 200, photometric="RGB")


def write_bgrn(path, colors=()):
    bands = np.dstack([RGB[..., ::-1], RGB[..., :1] // 2])
    return write_geotiff(path, bands, colors=colors, photometric="MINISBLACK")


def test_case_05_values_of_16_bits_need_a_stretch(segment, tmp_path):
    """Nothing becomes levels 1 to 11; the range is named, and the given stretch is exact."""
    deep = write_deep(tmp_path / "deep.tif")
    text = segment(deep, fails=True)[1]
    assert "200 to 2750" in text and "--stretch 200,2750" in text
    out, _ = segment(deep, "--stretch", "200,2750")
    expected, _ = segment(write_geotiff(tmp_path / "rgb.tif", RGB, photometric="RGB"))
    assert np.array_equal(read(out / "index/deep.tif"), read(expected / "index/rgb.tif"))


@pytest.mark.parametrize(
    ("write", "option", "plain"),
    [
        (write_deep, ("--stretch", "200,2750"), ("--stretch", "0,255")),  # cases 4 and 5
        (write_bgrn, ("--bands", "3,2,1"), ("--bands", "1,2,3")),  # case 8
    ],
    ids=["stretch", "bands"],
)
def test_case_04_05_08_a_network_reads_images_as_its_training_set(
    segment, trained_on, tmp_path, write, option, plain
):
    """The option of prepare.py is in the checkpoint, and infer.py uses it unasked."""
    path = trained_on(write, *option)
    out, said = segment(write(tmp_path / "a.tif"), path=path)
    assert f"{option[1]}, as in the training set" in said
    write_geotiff(tmp_path / "b.tif", RGB, photometric="RGB")
    segment(tmp_path / "b.tif", *plain, path=path)
    index = read(out / "index/a.tif")
    assert np.array_equal(index, read(out / "index/b.tif")) and len(np.unique(index)) > 1


def test_case_08_red_is_the_band_that_the_file_names(segment, tmp_path):
    """Blue, green, red, infrared: as the RGB picture if named, and else a note is printed."""
    names = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
    write_bgrn(tmp_path / "named.tif", names)
    write_bgrn(tmp_path / "unnamed.tif")
    write_geotiff(tmp_path / "rgb.tif", RGB, photometric="RGB")
    out, _ = segment(tmp_path / "rgb.tif")
    expected = read(out / "index/rgb.tif")
    said = segment(tmp_path / "named.tif")[1]
    assert np.array_equal(read(out / "index/named.tif"), expected) and "were taken" not in said
    assert "the bands 1,2,3 were taken" in segment(tmp_path / "unnamed.tif")[1]
    assert not np.array_equal(read(out / "index/unnamed.tif"), expected)
    segment(tmp_path / "unnamed.tif", "--bands", "3,2,1")
    assert np.array_equal(read(out / "index/unnamed.tif"), expected)


def write_dsm(path, number, pixel_m=1.0):
    side = int(64 / pixel_m)
    y, x = np.mgrid[:side, :side] * pixel_m
    heights = (100 + 0.3 * y + 5 * np.sin(x / 9)).astype(np.float32)
    heights[:4] = -9999
    write_geotiff(path, heights, nodata=-9999, **placed(400_000 + 100 * number, pixel_m=pixel_m))


def test_case_12_sensors_are_read_at_inference_and_results_are_placed(
    segment, run_prepare, tmp_path, tmp_path_factory
):
    """Six scenes with a surface model; those of the split test have no labels."""
    tree, splits = tmp_path / "tree", ("train", "train", "train", "val", "test", "test")
    for number, split in enumerate(splits):
        place = placed(400_000 + 100 * number)
        image = np.roll(noise(64, 64), number, 0)
        write_geotiff(tree / split / f"images/{number}.tif", image, photometric="RGB", **place)
        if split != "test":
            write_geotiff(tree / split / f"labels/{number}.tif", halves(64, 64), **place)
        write_dsm(tmp_path / f"dsm/{number}.tif", number)
    write_dsm(tmp_path / "coarse/5.tif", 5, pixel_m=2.0)
    root = tmp_path_factory.mktemp("sets") / "set"
    classes = class_file(tmp_path / "c.json", TWO)
    command = ("folder", "--tree", tree, "--classes", classes, "--output", root)
    code, out, err = run_prepare(*command, "--sensor", f"dsm={tmp_path / 'dsm'}")
    assert code == 0 and "the split test is without labels" in out, out + err
    modalities = "structure.modalities=[superpixels,dsm]"
    config = make_config(root, tmp_path / "runs", *NO_VIT, modalities)
    generate_store(config, "superpixels", open_tile_set(root), single_process())
    path, images = train_briefly(config), tree / "test/images"

    text = segment(images, path=path, fails=True)[1]
    assert "was trained with a sensor (dsm)" in text and "--sensor dsm=" in text
    dsm = ("--sensor", f"dsm={tmp_path / 'dsm'}")
    given, _ = segment(images, *dsm, path=path, name="given")
    stored, _ = segment(root, "--split", "test", path=path, name="stored")
    for number in (4, 5):
        with rasterio.open(stored / f"index/{number}.tif") as file:
            assert file.crs.to_epsg() == 32633
            assert file.transform == placed(400_000 + 100 * number)["transform"]
            assert np.array_equal(file.read(1), read(given / f"index/{number}.tif"))
    coarse = ("--sensor", f"dsm={tmp_path / 'coarse/5.tif'}")
    resampled, _ = segment(images / "5.tif", *coarse, path=path, name="coarse")
    assert read(resampled / "index/5.tif").shape == (64, 64)


PROJECT = """
import sys
from utils import helper
sys.path.append(sys.argv[1])
from infer import load_predictor
import utils
print(helper(), utils.helper is helper, callable(load_predictor))
"""


def test_case_17_a_project_with_its_own_utils_imports_the_predictor(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/__init__.py").write_text("def helper():\n    return 7\n")
    (tmp_path / "project.py").write_text(PROJECT)
    command = [sys.executable, "project.py", str(Path(infer.__file__).parent)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["7", "True", "True"], done.stderr


IMAGE = noise(50, 60)


@pytest.mark.parametrize(
    "array",
    [
        (IMAGE / 255).astype(np.float32),
        IMAGE.astype(np.uint16) * 257,
        IMAGE.transpose(2, 0, 1),
        IMAGE[..., 0],
        np.dstack([IMAGE, IMAGE[..., :1]]),
    ],
    ids=["floats", "uint16", "channels first", "grey", "RGBA"],
)
def test_case_18_predict_says_what_it_takes_and_what_came(checkpoint, array):
    predict = infer.load_predictor(checkpoint.path, device="cpu")
    assert predict(IMAGE).shape == (50, 60)
    with pytest.raises(ValueError, match=r"takes an array \(H, W, 3\) of uint8") as caught:
        predict(array)
    text = str(caught.value)
    assert re.sub(r"\s", "", str(array.shape)) in re.sub(r"\s", "", text) and "\n" not in text
    assert array.dtype.name in text


def test_case_19_a_finished_run_names_the_way_to_go_on(checkpoint, run_script, tmp_path):
    """It has run for two epochs; ``tests/test_train.py`` follows the way that is named here."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(checkpoint.identity.recipe))
    code, _, err = run_script("train", "--config", recipe, "optim.num_epochs=4")
    assert code == 2 and "optim.num_epochs: 4 | 2" in err
    assert "name=NEW" in err and f"run.fine_tune={checkpoint.path.with_name('last.pth')}" in err


def test_case_21_probabilities_are_a_band_for_each_class(segment, checkpoint, tmp_path):
    write_geotiff(tmp_path / "a.tif", RGB, photometric="RGB", **PLACE)
    out, _ = segment(tmp_path / "a.tif", write="index,probabilities")
    with rasterio.open(out / "probabilities/a.tif") as file:
        assert file.crs.to_epsg() == 32633 and file.transform == PLACE["transform"]
        assert file.descriptions == tuple(checkpoint.identity.classes)
        shares = file.read() * np.array(file.scales)[:, None, None]
    assert np.abs(shares.sum(0) - 1).max() < len(shares) / 255 / 2 + 1 / 255
    assert np.array_equal(shares.argmax(0), read(out / "index/a.tif"))


def test_case_22_what_places_an_image_places_its_results(segment, tmp_path):
    """Rational polynomials, a world file with an ESRI .prj, control points."""
    images, ones = tmp_path / "images", [1.0] + [0.0] * 19
    rpcs = RPC(100, 500, 50, 0.1, ones, ones, 300, 400, 9, 0.1, ones, ones, 400, 300, 0, 0)
    write_geotiff(images / "rpc.tif", RGB, photometric="RGB", rpcs=rpcs)
    write_geotiff(images / "world.tif", RGB, photometric="RGB")
    (images / "world.tfw").write_text("0.1\n0\n0\n-0.1\n400000.05\n5699999.95\n")
    esri = rasterio.CRS.from_epsg(32633).to_wkt(version="WKT1_ESRI")
    (images / "world.prj").write_text(esri)
    points = [GroundControlPoint(r, c, 15 + c, 50 - r) for r, c in ((0, 0), (0, 90), (70, 0))]
    write_geotiff(images / "gcp.tif", RGB, photometric="RGB", gcps=points, crs="EPSG:4326")
    out, said = segment(images, write="index,polygons")
    with rasterio.open(out / "index/rpc.tif") as file:
        with rasterio.open(images / "rpc.tif") as source:
            assert file.rpcs.to_dict() == source.rpcs.to_dict() and file.rpcs.lat_off == 50
    with rasterio.open(out / "index/world.tif") as file:
        assert "LOCAL_CS" not in file.crs.to_wkt() and file.crs.to_epsg(20) == 32633
        assert file.transform.almost_equals(PLACE["transform"], 1e-6)
    with rasterio.open(out / "index/gcp.tif") as file:
        assert len(file.gcps[0]) == 3 and file.gcps[1].to_epsg() == 4326
    assert "2 images without a transform to the earth: polygons are in pixels" in said


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jp2", {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}),
        (".img", {"driver": "HFA"}),
        (".vrt", {}),
        (".dat", {"driver": "ENVI"}),
    ],
)
def test_case_23_rasters_of_other_formats_are_read(segment, tmp_path, suffix, options):
    """As a file and in a folder, where other files are counted."""
    images, path = tmp_path / "images", tmp_path / f"images/a{suffix}"
    write_geotiff(tmp_path / "rgb.tif", RGB, photometric="RGB", **PLACE)
    if suffix == ".vrt":
        images.mkdir()
        rasterio.shutil.copy(tmp_path / "rgb.tif", path, driver="VRT")
    else:
        write_geotiff(path, RGB, **options, **PLACE)
    (images / "notes.txt").touch()
    out, _ = segment(tmp_path / "rgb.tif", name="expected")
    expected = read(out / "index/rgb.tif")
    out, _ = segment(path, name="one")
    assert np.array_equal(read(out / "index/a.tif"), expected)
    out, said = segment(images, name="all")
    assert np.array_equal(read(out / "index/a.tif"), expected)
    assert "is no image by its suffix (.txt) and was passed over" in said


def test_case_23_a_format_that_is_not_read_gets_its_conversion(segment, tmp_path):
    """The file is good, so no other one is asked for."""
    path = tmp_path / "a.gpkg"
    write_geotiff(path, RGB, driver="GPKG", **PLACE)
    text = segment(path, fails=True)[1]
    assert "(GPKG)" in text and "gdal_translate" in text and "replace" not in text
