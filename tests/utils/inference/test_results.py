"""Results of one image as rasterio reads them: validity, probabilities, names, placement."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from tests.utils.rasters.raster_files import picture, write_tiff
from tests.utils.rasters.test_placement import seen_by_gdal
from utils.errors import ConfigError, DataError
from utils.inference import results
from utils.inference.probabilities import probabilities_of
from utils.inference.results import OutputSettings, RowFile, check_results, write_results
from utils.rasters.reading import open_scene
from utils.rasters.rendering import Rendering

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "geodata-samples"
NAMES = ("ground", 'Gebäude & "<roof>"', "tree")
PALETTE = ((255, 255, 255), (0, 0, 255), (0, 160, 16))
KINDS = ("index", "color", "overlay", "confidence", "probabilities", "polygons")
RASTERS = KINDS[:-1]
RNG = np.random.default_rng(2)
PLACE = {"crs": "EPSG:32633", "transform": Affine(0.1, 0, 500000, 0, -0.1, 5700000)}


def blocks(size: tuple[int, int]) -> torch.Tensor:
    """Random logits ``(3, H, W)``, constant in blocks of 4 x 4."""
    height, width = size
    coarse = 3 * np.random.default_rng(0).standard_normal((3, height // 4 + 1, width // 4 + 1))
    return torch.from_numpy(coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy()).float()


def write(folder: Path, image: Path, kinds=KINDS, stretch=(), **options):
    """Write the results of random logits of an image; return facts on them and the class map."""
    output = OutputSettings(folder=folder, kinds=kinds, classes=NAMES, palette=PALETTE, **options)
    result = Path(image.name).with_suffix(".tif" if image.suffix != ".png" else ".png")
    with open_scene(image, Rendering(stretch=stretch)) as scene:
        logits = blocks(scene.size)
        labels = logits.max(0).indices.to(torch.uint8).numpy()
        labels[~scene.read_mask(slice(None), slice(None))] = 255
        maps = output.scratch(result, scene.size[1])
        maps["index"].write(0, labels)
        maps["probabilities"].write(0, probabilities_of(logits))
        maps["confidence"].write(0, probabilities_of(logits).max(0))
        written = write_results(output, result, scene, maps)
        output.remove_scratch(result)
    assert [*folder.glob(".*")] == []
    return written, labels


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def features(folder: Path, name: str) -> list:
    text = (folder / "polygons" / name).read_text(encoding="utf-8")
    return json.loads(text)["features"]


def diamond(path: Path, kind: str) -> Path:
    """A scene of 400 x 512 px, half of which is a collar without data."""
    height, width = 400, 512
    y, x = np.mgrid[:height, :width]
    valid = np.abs(x - width / 2) / (width / 2) + np.abs(y - height / 2) / (height / 2) < 1
    rgb = np.where(valid[..., None], picture(height, width).clip(1), 0).astype(np.uint8)
    options = PLACE | {"photometric": "RGB"}
    if kind == "tag":
        return write_tiff(path, rgb, nodata=0, **options)
    if kind == "alpha":
        alpha = np.where(valid, 255, 0).astype(np.uint8)
        return write_tiff(path, np.dstack([rgb, alpha]), alpha="YES", **options)
    write_tiff(path, rgb, **options)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "mask"), rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    return path


@pytest.mark.parametrize("kind", ["tag", "alpha", "mask", "msk"])
def test_results_tell_where_there_is_no_data(tmp_path: Path, kind: str):
    """Case 2 of docs/trials.md: collars by a no-data tag, alpha, internal mask and .msk file."""
    scene, out = diamond(tmp_path / "scene.tif", kind), tmp_path / "out"
    written, labels = write(out, scene)
    with rasterio.open(scene) as file:
        valid = file.dataset_mask() != 0
    assert valid.sum() == sum(written.pixels) == 102_385
    for raster in RASTERS:
        with rasterio.open(out / raster / "scene.tif") as file:
            assert np.array_equal(file.dataset_mask() != 0, valid), raster
            assert (file.read()[:, ~valid] == (255 if raster == "index" else 0)).all(), raster
            assert file.nodata == (255 if raster == "index" else None)
    assert not [*out.rglob("*.msk")]
    found = features(out, "scene.geojson")
    assert sum(feature["properties"]["area_px"] for feature in found) == 102_385
    assert np.array_equal(
        pixels(out / "color/scene.tif")[:, valid].T, np.take(PALETTE, labels[valid], 0)
    )
    thumbnail = written.thumbnail
    assert thumbnail.shape == (281, 360, 3)
    assert not thumbnail[:20, :20].any() and thumbnail[130:150, 170:190].mean() > 50


def test_a_fourth_band_that_is_no_alpha_is_no_mask(tmp_path: Path):
    """Case 2 of docs/trials.md; results of images without a mask have none either."""
    values = picture(30, 40, 4)
    values[:, :, 3] = 0
    scene = write_tiff(tmp_path / "a.tif", values, photometric="MINISBLACK", **PLACE)
    written, _ = write(tmp_path / "out", scene)
    assert sum(written.pixels) == 1200
    for raster in RASTERS:
        with rasterio.open(tmp_path / "out" / raster / "a.tif") as file:
            flags = {flag.name for band in file.mask_flag_enums for flag in band}
        assert flags == ({"nodata"} if raster == "index" else {"all_valid"})


def test_a_png_of_an_image_with_transparent_pixels(tmp_path: Path):
    values = picture(20, 30, 4)
    values[:, :10, 3], values[:, 10:, 3] = 0, 255
    Image.fromarray(values).save(tmp_path / "a.png")
    written, labels = write(tmp_path / "out", tmp_path / "a.png")
    assert sum(written.pixels) == 400
    index = Image.open(tmp_path / "out/index/a.png")
    assert index.mode == "L" and np.array_equal(np.asarray(index), labels)
    assert (labels[:, :10] == 255).all()
    for raster in ("color", "overlay", "confidence"):
        shown = np.asarray(Image.open(tmp_path / "out" / raster / "a.png"))
        assert not shown[:, :10].any() and shown[:, 10:].any()


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_probabilities_have_a_named_band_for_each_class(tmp_path: Path, monkeypatch, suffix: str):
    """Case 21 of docs/trials.md."""
    monkeypatch.setattr(results, "_STRIP_PX", 3000)
    scene = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        write_tiff(scene, picture(600, 70), **PLACE)
    else:
        Image.fromarray(picture(600, 70)).save(scene)
    _, labels = write(tmp_path / "out", scene, ("index", "probabilities"))
    with rasterio.open(tmp_path / "out/probabilities/a.tif") as file:
        assert file.descriptions == NAMES and file.scales == (1 / 255,) * 3
        assert file.dtypes == ("uint8",) * 3 and file.crs == (
            PLACE["crs"] if suffix == ".tif" else None
        )
        assert file.interleaving.name == "band" and file.block_shapes == [(512, 512)] * 3
        assert ColorInterp.alpha not in file.colorinterp and ColorInterp.red not in file.colorinterp
        values = file.read()
    assert np.array_equal(values.argmax(0), labels)
    assert np.array_equal(values[::-1].argmax(0), 2 - labels)  # no other class is as large
    assert abs(values.astype(int).sum(0) - 255).max() <= 2
    assert np.abs(values - 255 * blocks((600, 70)).softmax(0).numpy()).max() <= 1.501


@pytest.mark.parametrize(
    ("probabilities", "steps"),
    [
        ([1.0, 0.0], [255, 0]),
        ([0.5, 0.5], [129, 128]),  # the first one of a tie
        ([0.4995, 0.5005], [127, 128]),
        ([0.2, 0.4, 0.4], [51, 103, 102]),
        ([0.25, 0.2499, 0.2501, 0.25], [64, 64, 65, 64]),
    ],
)
def test_the_predicted_class_has_the_largest_probability(probabilities: list, steps: list):
    logits = torch.tensor(probabilities).log()[:, None, None] + 7
    assert probabilities_of(logits).ravel().tolist() == steps


def test_a_file_of_rows_holds_bands(tmp_path: Path):
    values = RNG.integers(0, 255, (3, 7, 5)).astype(np.uint8)
    rows = RowFile(tmp_path / "a" / "rows", 5, 3)
    rows.write(4, values[:, 4:])
    rows.write(0, values[:, :3])
    rows.write(3, values[0, 3:4])  # of all bands
    values[:, 3] = values[0, 3]
    assert np.array_equal(rows.read(slice(0, 7)), values)
    assert np.array_equal(rows.read(slice(2, 5)), values[:, 2:5])


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_qgis_finds_names_and_colours_beside_the_index(tmp_path: Path, suffix: str):
    scene = tmp_path / f"a.b{suffix}"
    if suffix == ".tif":
        write_tiff(scene, picture(20, 30), **PLACE)
    else:
        Image.fromarray(picture(20, 30)).save(scene)
    write(tmp_path / "out", scene, ("index", "color"))
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {f"a.b{suffix}", "a.b.qml"}
    tree = ElementTree.parse(tmp_path / "out/index/a.b.qml")
    [renderer] = tree.iter("rasterrenderer")
    assert renderer.attrib["type"] == "paletted" and renderer.attrib["band"] == "1"
    found = [
        tuple(entry.attrib[k] for k in ("value", "label", "color", "alpha"))
        for entry in renderer.iter("paletteEntry")
    ]
    colors = ("#ffffff", "#0000ff", "#00a010")
    assert found == [(str(i), NAMES[i], colors[i], "255") for i in range(3)]
    if suffix == ".tif":
        with rasterio.open(tmp_path / "out/index/a.b.tif") as file:
            assert file.descriptions == ("class",)
            assert file.tags(1) == {f"class_{i}": name for i, name in enumerate(NAMES)}
            assert [file.colormap(1)[i][:3] for i in range(3)] == [*PALETTE]


def test_world_file_and_esri_projection_place_all_results(tmp_path: Path):
    """Case 22 of docs/trials.md: the system is that of the .prj, never an invented one."""
    scene = write_tiff(tmp_path / "a.tif", picture(30, 40))
    scene.with_suffix(".tfw").write_text("0.1\n0\n0\n-0.1\n500000.05\n5699999.95\n")
    esri = rasterio.CRS.from_epsg(32633).to_wkt(version="WKT1_ESRI")
    scene.with_suffix(".prj").write_text(esri)
    write(tmp_path / "out", scene)
    for raster in RASTERS:
        with rasterio.open(tmp_path / "out" / raster / "a.tif") as file:
            assert (
                file.crs.to_epsg(confidence_threshold=20) == 32633
                and "LOCAL_CS" not in file.crs.to_wkt()
            )
            assert file.transform.almost_equals(PLACE["transform"], 1e-6)
    [longitude, latitude] = features(tmp_path / "out", "a.geojson")[0]["geometry"]["coordinates"][
        0
    ][0]
    assert 14.9 < longitude < 15.1 and 51.4 < latitude < 51.5


def test_control_points_place_all_results(tmp_path: Path):
    """Case 22 of docs/trials.md; polygons are in pixels, and the facts say so."""
    points = [GroundControlPoint(r, c, 9 + c, 50 - r, 0) for r, c in ((0, 0), (0, 30), (20, 0))]
    scene = write_tiff(tmp_path / "a.tif", picture(20, 30), gcps=points, crs="EPSG:4326")
    written, _ = write(tmp_path / "out", scene)
    for raster in RASTERS:
        assert seen_by_gdal(tmp_path / "out" / raster / "a.tif") == seen_by_gdal(scene)
    assert written.polygons is not None and written.polygons.are_pixels


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data is not at hand")
@pytest.mark.parametrize("name", ["RGB.byte.rpc.vrt", "RGB.byte.gcp.vrt"])
def test_real_images_without_a_transform_keep_what_places_them(tmp_path: Path, name: str):
    """Case 22 of docs/trials.md."""
    written, _ = write(tmp_path, SAMPLES / name, RASTERS)
    before = seen_by_gdal(SAMPLES / name)
    assert before[3] or before[4]
    for raster in RASTERS:
        assert seen_by_gdal(tmp_path / raster / Path(name).with_suffix(".tif")) == before, raster
    assert written.polygons is None


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data is not at hand")
@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("RGB.byte.tif", 67.457),
        ("RGB2.byte.tif", 67.397),
        ("alpha.tif", 1.550),
        ("RGBA.uint16.tif", 48.860),
        ("all-nodata.tif", 0),
        ("rotated.tif", None),
    ],
)
def test_the_mask_of_real_images_comes_back(tmp_path: Path, name: str, percent: float | None):
    """Case 2 of docs/trials.md, on the files that it names."""
    kinds = ("index", "color", "polygons") if percent == 0 else ("index", "color")
    written, _ = write(tmp_path, SAMPLES / name, kinds, stretch=((0, 65535),))
    with rasterio.open(SAMPLES / name) as file:
        mask = file.dataset_mask() != 0
    if percent is not None:
        assert 100 * mask.mean() == pytest.approx(percent, abs=0.0005)
    for raster in ("index", "color"):
        with rasterio.open(tmp_path / raster / name) as file:
            assert np.array_equal(file.dataset_mask() != 0, mask)
    assert sum(written.pixels) == mask.sum()
    if percent == 0:
        assert features(tmp_path, "all-nodata.geojson") == []
        assert written.polygons is not None and written.polygons.num_written == 0


def test_polygons_have_confidence_and_leave_small_ones_out(tmp_path: Path):
    scene = write_tiff(tmp_path / "a.tif", picture(30, 40), **PLACE)
    plain, _ = write(tmp_path / "out", scene, ("polygons",))
    found = [feature["properties"] for feature in features(tmp_path / "out", "a.geojson")]
    assert all(1 / 3 <= each["confidence"] <= 1 for each in found)
    kept, _ = write(tmp_path / "out", scene, ("polygons",), min_area=0.2)  # 20 pixels
    again = [feature["properties"] for feature in features(tmp_path / "out", "a.geojson")]
    assert again == [each for each in found if each["area_px"] >= 20] and 0 < len(again) < len(
        found
    )
    assert kept.polygons is not None and kept.pixels == plain.pixels
    assert kept.polygons.num_dropped == len(found) - len(again)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_area": -1.0}, "--min-area is -1; give a number above 0"),
        ({"simplify_m": 0.0}, "--simplify is 0; give a number above 0"),
        ({"simplify_m": float("nan")}, "--simplify is nan; give a number above 0"),
        ({"min_area": 1.0, "kinds": ("index",)}, "--min-area acts on polygons; add them"),
    ],
)
def test_options_without_sense_are_refused(tmp_path: Path, options: dict, sentence: str):
    given = {"folder": tmp_path, "kinds": KINDS, "classes": NAMES, "palette": PALETTE, **options}
    with pytest.raises(ConfigError, match=sentence):
        OutputSettings(**given)


def test_metres_without_a_size_of_pixels_are_refused_before_the_prediction(tmp_path: Path):
    output = OutputSettings(
        folder=tmp_path, kinds=KINDS, classes=NAMES, palette=PALETTE, simplify_m=1.0
    )
    scene = write_tiff(tmp_path / "a.tif", picture(20, 30))
    with open_scene(scene) as raster, pytest.raises(DataError, match=r"a\.tif: polygons cannot"):
        check_results(output, raster)


def test_all_files_of_an_image_are_known(tmp_path: Path):
    """A run removes what a killed one left of them."""
    scene = tmp_path / "a.png"
    Image.fromarray(picture(20, 30)).save(scene)
    scene.with_suffix(".pgw").write_text("0.1\n0\n0\n-0.1\n500000\n5700000\n")
    scene.with_suffix(".prj").write_text(rasterio.CRS.from_epsg(32633).to_wkt())
    write(tmp_path / "out", scene)
    output = OutputSettings(folder=tmp_path / "out", kinds=KINDS, classes=NAMES, palette=PALETTE)
    found = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(found) == 15 and found <= {*output.files(Path("a.png"))}
