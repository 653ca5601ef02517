"""Pixels without data: no class, no area, no polygon, and windows without any are skipped."""

import csv
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from tests.utils.inference.pointwise import infer_pointwise
from tests.utils.rasters.raster_files import write_tiff
from utils.inference import chunks
from utils.inference import run as run_module
from utils.rasters.rendering import Rendering

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "geodata-samples"
SIZE = (400, 512)
UTM = {"crs": "EPSG:32633", "transform": Affine(0.1, 0, 4e5, 0, -0.1, 5.7e6), "photometric": "RGB"}


def diamond() -> tuple[np.ndarray, np.ndarray]:
    """A picture of 1..255 in a diamond and 0 outside, and the diamond: 102,385 of 204,800 px."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    valid = abs(x - width / 2) / (width / 2) + abs(y - height / 2) / (height / 2) < 1
    blocks = np.random.default_rng(0).integers(1, 255, (13, 16, 3), np.uint8, endpoint=True)
    image = np.kron(blocks, np.ones((32, 32, 1), np.uint8))[:height]
    return np.where(valid[..., np.newaxis], image, 0).astype(np.uint8), valid


def write_diamond(path: Path, kind: str) -> np.ndarray:
    """Write it with its collar given in one of several ways; the valid pixels."""
    image, valid = diamond()
    if kind == "tag":
        write_tiff(path, image, nodata=0, **UTM)
    elif kind == "alpha":
        alpha = valid * np.uint8(255)
        write_tiff(path, np.dstack([image, alpha]), alpha="non-premultiplied", **UTM)
    elif kind == "NaN":
        stored = np.where(valid[..., np.newaxis], image, np.nan).astype(np.float32)
        stored[..., :2] = image[..., :2]  # in one of the bands only
        write_tiff(path, stored, **UTM)
    else:
        write_tiff(path, image, **UTM)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal mask"):
            with rasterio.open(path, "r+") as file:
                file.write_mask(valid)
    return valid


def areas(output: Path) -> dict[str, int]:
    """Pixels of each class in all images."""
    with (output / "areas.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    names = dict.fromkeys(row["class"] for row in rows)
    return {name: sum(int(r["pixels"]) for r in rows if r["class"] == name) for name in names}


def polygon_area_px(output: Path, name: str) -> int:
    features = json.loads((output / f"polygons/{name}.geojson").read_text())["features"]
    return sum(feature["properties"]["area_px"] for feature in features)


@pytest.mark.parametrize("kind", ["tag", "alpha", "internal mask", ".msk", "NaN"])
def test_a_collar_is_in_no_class_however_it_is_given(tmp_path, dist, kind):
    """Case 2 of docs/trials.md; NaN besides, the collar of floating-point images."""
    valid = write_diamond(tmp_path / "scene.tif", kind)
    assert valid.sum() == 102_385 and (tmp_path / "scene.tif.msk").is_file() == (kind == ".msk")
    rendering = Rendering(stretch=((0, 255),) if kind == "NaN" else ())
    network = infer_pointwise(tmp_path / "scene.tif", tmp_path / "out", dist, rendering)
    image, _ = diamond()
    with rasterio.open(tmp_path / "out/index/scene.tif") as file:
        assert file.nodata == 255
        assert np.array_equal(file.dataset_mask() != 0, valid)
        labels = file.read(1)
    if kind != "NaN":
        with rasterio.open(tmp_path / "scene.tif") as file:
            assert np.array_equal(file.dataset_mask() != 0, valid)
        assert np.array_equal(labels, np.where(valid, image.argmin(-1), 255))
    counted = areas(tmp_path / "out")
    assert [*counted.values()] == np.bincount(labels[valid], minlength=3).tolist()
    assert sum(counted.values()) == polygon_area_px(tmp_path / "out", "scene") == 102_385
    for result in ("color", "overlay", "confidence", "probabilities"):
        with rasterio.open(tmp_path / "out" / result / "scene.tif") as file:
            assert np.array_equal(file.dataset_mask() != 0, valid) and file.nodata is None
            assert not file.read()[:, ~valid].any()
    assert not [*(tmp_path / "out").rglob("*.msk")]
    assert sum(network.batches) < 81  # windows: four corners of nine by eleven are left out


def test_a_declared_alpha_band_may_be_data(tmp_path, dist):
    write_diamond(tmp_path / "scene.tif", "alpha")
    data = Rendering(alpha_is_data=True)
    infer_pointwise(tmp_path / "scene.tif", tmp_path / "out", dist, data, kinds=("index",))
    assert sum(areas(tmp_path / "out").values()) == 204_800


def test_an_alpha_band_of_many_values_gives_a_hint(tmp_path, dist, capsys):
    """Near infrared that some program has tagged as alpha."""
    infrared = np.random.default_rng(0).integers(0, 200, (30, 40, 1), np.uint8)
    image = np.dstack([np.full((30, 40, 3), 9, np.uint8), infrared])
    write_tiff(tmp_path / "a.tif", image, photometric="RGB", alpha="non-premultiplied")
    write_diamond(tmp_path / "b.tif", "alpha")
    infer_pointwise(tmp_path, tmp_path / "out", dist, kinds=("index",))
    expected = f"add --alpha-is-data (first: {tmp_path / 'a.tif'})"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "alpha band" in line]
    assert line.startswith("1 image with an alpha band of many values") and line.endswith(expected)


def test_images_without_data_give_no_class_and_one_line(tmp_path, dist, capsys):
    """Neither is a result of another run taken for theirs when a mask appears beside them."""
    for name in ("a", "b"):
        write_tiff(tmp_path / f"{name}.tif", np.zeros((70, 90, 3), np.uint8), nodata=0, **UTM)
    image = tmp_path / "c.tif"
    write_tiff(image, np.full((70, 90, 3), 7, np.uint8), **UTM)
    network = infer_pointwise(tmp_path, tmp_path / "out", dist)
    said = capsys.readouterr().out
    assert "2 images without any pixel that holds data: no class, no area, no polygon" in said
    assert sum(network.batches) == 4 and sum(areas(tmp_path / "out").values()) == 6300
    assert [polygon_area_px(tmp_path / "out", name) for name in "abc"] == [0, 0, 6300]
    with rasterio.open(tmp_path / "out/index/a.tif") as file:
        assert (file.read(1) == 255).all()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(image, "r+") as file:
        file.write_mask(np.zeros((70, 90), bool))
    assert (tmp_path / "c.tif.msk").is_file()
    infer_pointwise(tmp_path, tmp_path / "out", dist)
    assert "(2 of them before)" in capsys.readouterr().out
    assert sum(areas(tmp_path / "out").values()) == 0


def infer_shared(dist, source, output):
    """Segment images, all ranks sharing the rows of each."""
    with (
        mock.patch.object(run_module, "SHARED_FROM_PX", 1),
        mock.patch.object(chunks, "CHUNK_PX", 64),
    ):
        return sum(infer_pointwise(source, output, dist).batches)


def test_ranks_that_share_an_image_write_what_one_writes(tmp_path, dist, ranks):
    (tmp_path / "images").mkdir()
    image = np.zeros((300, 70, 3), np.uint8)  # data in the lower half, which is of one rank
    image[220:230] = 5
    write_tiff(tmp_path / "images/half.tif", image, nodata=0, **UTM)
    image[10:120, :9] = 7
    write_tiff(tmp_path / "images/both.tif", image, nodata=0, **UTM)
    nums = ranks(infer_shared, tmp_path / "images", tmp_path / "together")
    alone = infer_pointwise(tmp_path / "images", tmp_path / "alone", dist)
    assert min(nums) > 0 and sum(nums) >= sum(alone.batches)
    paths = [p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("*.*")]
    compared = [p for p in paths if p.suffix in (".tif", ".geojson", ".csv")]
    assert len(compared) == 13
    for path in compared:
        assert (tmp_path / "alone" / path).read_bytes() == (
            tmp_path / "together" / path
        ).read_bytes(), path


def test_results_of_a_prepared_set_have_place_and_validity_of_the_images(
    tmp_path, dist, run_prepare
):
    """Case 12 of docs/trials.md, for an image with a collar."""
    names = [{"name": "a", "color": "#000000"}, {"name": "b", "color": "#ffffff"}]
    entries = [{**name, "value": value} for value, name in enumerate(names)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries}))
    image = np.full((50, 60, 3), 9, np.uint8)
    image[:, :20] = 0
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (tmp_path / "tree" / split / kind).mkdir(parents=True)
        folder = tmp_path / "tree" / split
        write_tiff(folder / f"images/{split}.tif", image, nodata=0, **UTM)
        write_tiff(folder / f"labels/{split}.tif", image[..., :1] // 9)
    line = ["folder", "--tree", tmp_path / "tree", "--classes", tmp_path / "classes.json"]
    code, _, errors = run_prepare(*line, "--output", tmp_path / "set")
    assert code == 0, errors
    infer_pointwise(tmp_path / "set", tmp_path / "out", dist, split="test")
    source = tmp_path / "tree/test/images/test.tif"
    (result,) = (tmp_path / "out/index").rglob("*.tif")
    with rasterio.open(result) as found, rasterio.open(source) as file:
        assert found.crs == file.crs and found.transform == file.transform
        assert np.array_equal(found.dataset_mask(), file.dataset_mask())
    assert sum(areas(tmp_path / "out").values()) == 2000


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data is not at hand")
@pytest.mark.parametrize(
    ("name", "percent", "stretch"),
    [
        ("RGB.byte.tif", 67.457, ()),
        ("RGB2.byte.tif", 67.397, ()),
        ("alpha.tif", 1.550, ()),
        ("RGBA.uint16.tif", 48.860, ((0, 65535),)),
        ("all-nodata.tif", 0, ((0, 65535),)),
    ],
)
def test_real_rasters_keep_their_valid_pixels(tmp_path, dist, name, percent, stretch):
    """Cases 2 and 8 of docs/trials.md: red of RGBA.uint16.tif is its third band."""
    kinds = ("index", "polygons") if percent < 1 else ("index",)
    infer_pointwise(SAMPLES / name, tmp_path, dist, Rendering(stretch=stretch), kinds)
    with rasterio.open(tmp_path / "index" / name) as result, rasterio.open(SAMPLES / name) as file:
        valid, stored = file.dataset_mask() != 0, file.read()
        assert np.array_equal(result.dataset_mask() != 0, valid)
        labels = result.read(1)
    assert round(100 * valid.mean(), 3) == percent
    assert sum(areas(tmp_path).values()) == valid.sum()
    if name == "all-nodata.tif":
        assert json.loads((tmp_path / "polygons/all-nodata.geojson").read_text())["features"] == []
    if name == "RGBA.uint16.tif":
        rgb = np.rint(stored[2::-1] / 257)
        assert np.array_equal(labels[valid], rgb.argmin(0)[valid])
