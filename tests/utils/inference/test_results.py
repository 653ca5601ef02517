"""Results of one image as rasterio reads them: validity, probabilities, names, placement."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from tests.utils.rasters.raster_files import picture, write_tiff
from utils.errors import ConfigError, DataError
from utils.inference import results
from utils.inference.probabilities import probabilities_of
from utils.inference.results import (
    OutputSettings,
    RowFile,
    check_results,
    kinds_of_results,
    write_results,
)
from utils.rasters.reading import open_scene

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


def write(folder: Path, image: Path, kinds=KINDS, **options):
    """Write the results of random logits of an image; return facts on them and the class map."""
    output = OutputSettings(folder=folder, kinds=kinds, classes=NAMES, palette=PALETTE, **options)
    result = Path(image.name).with_suffix(".tif" if image.suffix != ".png" else ".png")
    with open_scene(image) as scene:
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


def features(folder: Path, name: str) -> list:
    text = (folder / "polygons" / name).read_text(encoding="utf-8")
    return json.loads(text)["features"]


def test_a_fourth_band_that_is_no_alpha_is_no_mask(tmp_path: Path):
    """Results of images without a mask have none either."""
    values = picture(30, 40, 4)
    values[:, :, 3] = 0
    scene = write_tiff(tmp_path / "a.tif", values, photometric="MINISBLACK", **PLACE)
    write(tmp_path / "out", scene)
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
    assert not written.thumbnail[:, :10].any() and written.thumbnail[:, 10:].mean() > 50
    colors = np.asarray(Image.open(tmp_path / "out/color/a.png"))[:, 10:]
    assert np.array_equal(colors, np.take(PALETTE, labels[:, 10:], 0))
    for raster in ("color", "overlay", "confidence"):
        shown = np.asarray(Image.open(tmp_path / "out" / raster / "a.png"))
        assert not shown[:, :10].any() and shown[:, 10:].any()


def test_probabilities_have_a_named_band_for_each_class(tmp_path: Path, monkeypatch):
    """Case 21 of docs/trials.md, for a PNG image, written in strips like its thumbnail."""
    monkeypatch.setattr(results, "_STRIP_PX", 3000)
    Image.fromarray(picture(600, 70)).save(tmp_path / "a.png")
    written, labels = write(tmp_path / "out", tmp_path / "a.png", ("index", "probabilities"))
    assert written.thumbnail.shape == (360, 42, 3) and written.thumbnail.any((1, 2)).all()
    with rasterio.open(tmp_path / "out/probabilities/a.tif") as file:
        assert file.descriptions == NAMES and file.scales == (1 / 255,) * 3
        assert file.dtypes == ("uint8",) * 3
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


def test_polygons_that_cannot_be_written_are_refused_before_the_prediction(tmp_path: Path):
    output = OutputSettings(
        folder=tmp_path, kinds=KINDS, classes=NAMES, palette=PALETTE, simplify_m=1.0
    )
    scene = write_tiff(tmp_path / "a.tif", picture(20, 30))
    with open_scene(scene) as raster:
        check_results(replace(output, simplify_m=None), raster)
        with pytest.raises(DataError, match=r"a\.tif: polygons cannot be simplified by metres"):
            check_results(output, raster)


def test_a_result_that_is_named_twice_is_written_once():
    assert kinds_of_results("index,color,index") == ("index", "color")


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
