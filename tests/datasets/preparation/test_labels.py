"""Labels on the grid of their image, against hand-computed pixels and rasterio."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

from datasets.preparation import labels
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.classes import MaskDecoder, read_class_file
from datasets.preparation.labels import LabelReader, PolygonDecoder
from datasets.tile_set import open_tile_set
from tests.utils.rasters.raster_files import picture, write_tiff
from utils.errors import DataError
from utils.rasters.reading import open_scene
from utils.rasters.vectors import read_polygons

UTM = "EPSG:32633"
MASK = (picture(40, 60, 1) > 127).astype(np.uint8)


@pytest.fixture
def reader(tmp_path: Path) -> LabelReader:
    path = tmp_path / "two.json"
    path.write_text(
        '{"classes": [{"name": "bg", "color": "#000000"}, {"name": "fg", "color": "#ff0000"}]}'
    )
    classes = read_class_file(path)
    return LabelReader(
        masks=MaskDecoder(classes), polygons=PolygonDecoder(classes), attribute="class"
    )


def labels_of(reader: LabelReader, image: Path, mask: Path) -> tuple[np.ndarray, bool]:
    """The whole label of an image, read in two strips, and if it was warped."""
    with (
        open_scene(image) as raster,
        reader.open(ArchiveFile(name=mask.name, path=mask), raster, image.name) as opened,
    ):
        strips = [slice(0, 13), slice(13, raster.size[0])]
        return np.concatenate([opened.decode(rows).target for rows in strips]), opened.is_warped


def placed(path: Path, values: np.ndarray, x: float, y: float, pixel: float = 1, crs: str = UTM):
    return write_tiff(path, values, crs=crs, transform=from_origin(x, y, pixel, pixel))


def test_an_image_without_a_place_and_its_mask_belong_together(tmp_path: Path, reader):
    image = write_tiff(tmp_path / "image.tif", picture(40, 60))
    mask = placed(tmp_path / "mask.tif", MASK, 400000, 5700000)
    target, is_warped = labels_of(reader, image, mask)
    assert not is_warped and (target == MASK[..., 0]).all()


def test_a_larger_mask_is_read_where_the_image_lies(tmp_path: Path, reader):
    """Case 7a of docs/trials.md: the mask begins elsewhere, but covers the image."""
    mask = placed(tmp_path / "mask.tif", MASK, 400000, 5700000)
    image = placed(tmp_path / "image.tif", picture(20, 30), 400011, 5700000 - 7)
    target, is_warped = labels_of(reader, image, mask)
    assert is_warped and (target == MASK[7:27, 11:41, 0]).all()


def test_a_mask_of_other_pixels_or_turned_is_read_at_their_centres(tmp_path: Path, reader):
    mask = placed(tmp_path / "coarse.tif", MASK, 400000, 5700000, pixel=2)
    image = placed(tmp_path / "image.tif", picture(50, 70), 400010, 5700000 - 20)
    target, _ = labels_of(reader, image, mask)
    rows, columns = (np.arange(50) + 20.5) // 2, (np.arange(70) + 10.5) // 2
    assert (target == MASK[rows.astype(int)[:, None], columns.astype(int), 0]).all()
    # South is up in this one: its rows are counted from the bottom.
    turned = write_tiff(
        tmp_path / "turned.tif", MASK[::-1], crs=UTM, transform=Affine(1, 0, 400000, 0, 1, 5699960)
    )
    image = placed(tmp_path / "image.tif", picture(40, 60), 400000, 5700000)
    target, is_warped = labels_of(reader, image, turned)
    assert is_warped and (target == MASK[..., 0]).all()


def test_a_mask_in_another_system_is_warped(tmp_path: Path, reader):
    image = placed(tmp_path / "image.tif", picture(40, 60), 400000, 5700000)
    (west, east), (south, north) = transform(
        CRS.from_string(UTM), CRS.from_epsg(4326), [399950, 400110], [5699910, 5700050]
    )
    degrees = from_origin(west, north, (east - west) / 300, (north - south) / 300)
    values = (picture(300, 300, 1) > 127).astype(np.uint8)
    mask = write_tiff(tmp_path / "mask.tif", values, crs="EPSG:4326", transform=degrees)
    target, is_warped = labels_of(reader, image, mask)
    x, y = np.meshgrid(400000.5 + np.arange(60), 5699999.5 - np.arange(40))
    longitude, latitude = transform(CRS.from_string(UTM), CRS.from_epsg(4326), x.ravel(), y.ravel())
    column, row = ~degrees @ (np.array(longitude), np.array(latitude))
    expected = values[row.astype(int), column.astype(int), 0].reshape(40, 60)
    assert is_warped and (target != expected).mean() < 0.02  # GDAL errs by a hundredth of a pixel


def test_a_mask_elsewhere_is_refused_with_both_extents(tmp_path: Path, reader):
    """Case 7a of docs/trials.md: 40 m to the east, of the same size."""
    image = placed(tmp_path / "image.tif", picture(40, 60), 400000, 5700000)
    mask = placed(tmp_path / "mask.tif", MASK, 400040, 5700000)
    sentence = (
        r"^mask\.tif does not cover its image image\.tif: it extends over x 400040 to 400100, y "
        r"5699960 to 5700000 \(EPSG:32633\), the image over x 400000 to 400060, y 5699960 to "
        r"5700000 \(EPSG:32633\); give"
    )
    with pytest.raises(DataError, match=sentence):
        labels_of(reader, image, mask)
    placed(tmp_path / "mask.tif", MASK, 400040, 5700000, crs="EPSG:32634")
    with pytest.raises(DataError, match=r"does not cover"):
        labels_of(reader, image, mask)


def test_other_sizes_without_a_place_are_refused(tmp_path: Path, reader):
    image = placed(tmp_path / "image.tif", picture(40, 61), 400000, 5700000)
    mask = write_tiff(tmp_path / "mask.tif", MASK)
    with pytest.raises(DataError, match=r"mask\.tif is 40 x 60 and its image image\.tif 40 x 61 "):
        labels_of(reader, image, mask)


def test_labels_without_data_around_the_edge_of_a_mask(tmp_path: Path, reader):
    """A mask that ends half a pixel before the image covers it; the rest is ignored."""
    mask = placed(tmp_path / "mask.tif", MASK, 400000.4, 5700000)
    image = placed(tmp_path / "image.tif", picture(40, 61), 400000, 5700000)
    target, is_warped = labels_of(reader, image, mask)
    assert is_warped and (target[:, 1:60] == MASK[:, 1:, 0]).all()
    assert (target[:, 0] == MASK[:, 0, 0]).all() and (target[:, 60] == 255).all()


def test_the_no_data_value_of_a_warped_label_is_ignored(tmp_path: Path, reader):
    values = MASK.copy()
    values[3:9, 5:15] = 7
    mask = placed(tmp_path / "mask.tif", values, 400000, 5700000)
    with rasterio.open(mask, "r+") as file:
        file.nodata = 7
    image = placed(tmp_path / "image.tif", picture(20, 30), 400000, 5700000)
    target, _ = labels_of(reader, image, mask)
    assert (target == np.where(values == 7, 255, values)[:20, :30, 0]).all()


@pytest.fixture
def scenes(run_prepare, tmp_path: Path):
    """Prepare a, b and c, which lie side by side, with polygons.

    ``CODE, OUT, ERR = run(SET, LABELS, ..., classes=NAMES)``
    """
    for name, x in (("a", 400000), ("b", 400500), ("c", 400900)):
        (tmp_path / "images").mkdir(exist_ok=True)
        placed(tmp_path / f"images/{name}.tif", picture(40, 60), x, 5700000)

    def run(name: str, labels: str, *more: object, classes: tuple[str, ...] = ("bg", "fg")):
        entries = [{"name": name, "color": f"#00000{i}"} for i, name in enumerate(classes)]
        (tmp_path / "two.json").write_text(json.dumps({"classes": entries}))
        files = ("--images", tmp_path / "images", "--labels", tmp_path / labels)
        files += ("--classes", tmp_path / "two.json", "--shares", 0.4, 0.3, 0.3)
        return run_prepare("folder", *files, "--output", tmp_path / name, *more)

    return run


def save_square(path: Path, *, is_empty: bool = False) -> None:
    """A polygon of 20 x 20 pixels in a, or none, in a file with a byte order mark."""
    ring = [[400010, 5699970], [400030, 5699970], [400030, 5699990], [400010, 5699990]]
    feature = {"type": "Feature", "properties": {"class": "fg"}}
    feature |= {"geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}}
    collection = {"type": "FeatureCollection", "features": [] if is_empty else [feature]}
    collection["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(collection), encoding="utf-8-sig")


def test_polygons_of_all_images_in_one_file(scenes, tmp_path: Path, monkeypatch):
    """Read once. Some images may lie outside the extent of the polygons, but not all."""
    read = []

    def read_slowly(*arguments):
        read.append(arguments)
        time.sleep(0.02)  # all threads are here then
        return read_polygons(*arguments)

    monkeypatch.setattr(labels, "read_polygons", read_slowly)
    save_square(tmp_path / "l.geojson")
    code, out, err = scenes("set", "l.geojson", "--background", "bg", "--workers", 3)
    assert code == 0 and len(read) == 1, err
    assert "note: 2 images lie outside the extent of all polygons (first: " in out
    tiles = open_tile_set(tmp_path / "set")
    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 10:30] = 1
    assert (tiles.read_target("a") == expected).all() and not tiles.read_target("b").any()
    (tmp_path / "images/a.tif").unlink()
    placed(tmp_path / "images/a.tif", picture(40, 60), 401500, 5700000)
    code, _, err = scenes("other", "l.geojson")
    assert code == 2 and " lies outside " in err and "give the polygons of this image" in err
    assert not (tmp_path / "other").exists()


def test_the_file_of_an_image_may_hold_no_polygon_but_not_all_of_them(scenes, tmp_path: Path):
    for name in "abc":
        save_square(tmp_path / f"each/{name}.geojson", is_empty=name != "a")
    code, out, err = scenes("set", "each", "--background", "bg")
    assert code == 0 and "note: 2 images have no polygon (first: " in out, err
    tiles = open_tile_set(tmp_path / "set")
    assert tiles.read_target("a").sum() == 400 and not tiles.read_target("b").any()
    save_square(tmp_path / "none.geojson", is_empty=True)
    code, _, err = scenes("no", "none.geojson")
    assert code == 2 and f"the labels hold no polygon (first: {tmp_path}/none.geojson); draw" in err


def test_polygons_of_no_class(scenes, tmp_path: Path):
    save_square(tmp_path / "l.geojson")
    code, _, err = scenes("no", "l.geojson", classes=("bg", "tree"))
    assert code == 2 and '\n  "fg": 400 pixels (5.556%), e.g. in ' in err
    assert "error: the polygons hold 1 value that the class file does not name (5.556% of" in err
