"""Input images of infer.py, and the names of their results."""

import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from datasets.preparation.writer import TileSetWriter
from datasets.sensors import SensorFiles
from datasets.sources import SourceFacts
from datasets.structure_maps import MapRecipe
from datasets.tile_set import Tile, TileSet, open_tile_set
from tests.datasets.broken import CLASSES, PALETTE, image_of, target_of
from tests.utils.rasters.raster_files import write_tiff
from utils.boxes import Box
from utils.errors import ConfigError, DataError, MissingDataError
from utils.inference.inputs import Input, find_inputs, open_input, passed_over
from utils.inference.maps import GeneratedMaps
from utils.inference.sensors import SensorMaps, TrainedSensor
from utils.rasters.rendering import Rendering


def write_tiles(root: Path, *tiles: tuple[str, str, int]) -> TileSet:
    """A test split of tiles with an id, a source and a column."""
    writer = TileSetWriter(
        root, name="toy", classes=CLASSES, palette=PALETTE, origin="", prepared_with={}
    )
    with writer:
        for tile_id, source, left_px in tiles:
            tile = Tile(
                id=tile_id, source=source, top_px=0, left_px=left_px, height_px=8, width_px=8
            )
            writer.add("test", tile, image_of("a"), target_of("a"))
    return open_tile_set(root)


def test_a_split_gives_its_images_under_the_names_of_their_sources(tmp_path):
    tile_set = write_tiles(tmp_path / "set", ("t9", "9", 0), ("t7", "7", 0))
    assert find_inputs(tile_set.root, tmp_path / "out", "test") == [
        Input(path=tile_set.image_path("t7"), result=Path("7.png"), stem="7", tile_id="t7"),
        Input(path=tile_set.image_path("t9"), result=Path("9.png"), stem="9", tile_id="t9"),
    ]


UTM, AFFINE = CRS.from_epsg(32633).to_wkt(), (0.5, 0.0, 4e5, 0.0, -0.5, 57e5)


def placed(box: Box, size: tuple[int, int] = (40, 50)) -> SourceFacts:
    return SourceFacts(image="i", size=size, box=box, sha256="", crs=UTM, transform=AFFINE)


def test_a_block_of_a_placed_image_is_placed_by_its_offset(tmp_path):
    """Case 12 of docs/trials.md; a block that is one tile counts as whole."""
    writer = TileSetWriter(
        tmp_path / "set", name="toy", classes=CLASSES, palette=PALETTE, origin="", prepared_with={}
    )
    with writer:
        box = {"top_px": 16, "left_px": 40, "height_px": 8, "width_px": 8}
        tile = Tile(id="i_b1", source="i_b1", **box)
        writer.add("test", tile, image_of("a"), target_of("a"))
        writer.record_source("i_b1", placed(Box(16, 40, 8, 8)))
    (image,) = find_inputs(tmp_path / "set", tmp_path / "out", "test")
    assert image.result == Path("i_b1.tif") and pickle.loads(pickle.dumps(image)) == image
    expected = Affine(0.5, 0, 4e5 + 20, 0, -0.5, 57e5 - 8)
    assert image.placement.transform == expected and image.placement.crs.to_epsg() == 32633
    (image,) = find_inputs(tmp_path / "set", tmp_path / "out", "test", png=True)
    assert image.result == Path("i_b1.png")
    with open_input(image, Rendering(stretch=((0, 1),))) as scene:
        assert scene.placement == image.placement and not scene.has_mask
        assert np.array_equal(scene.read_rgb(slice(0, 8), slice(2, 8)), image_of("a")[:, 2:])
    heights = np.arange(40 * 50, dtype=np.float32).reshape(40, 50, 1)
    write_tiff(tmp_path / "i.tif", heights)
    maps = SensorMaps(
        GeneratedMaps({}),
        {"dsm": TrainedSensor(low=0, high=65534)},
        {"dsm": SensorFiles(path=tmp_path)},
        rendering=Rendering(),
        num_images=1,
        tile_set=open_tile_set(tmp_path / "set"),
    )
    with maps.opened(image):
        found = maps.of_chunk(image, Box(2, 1, 6, 7), image_of("a")[2:, 1:])["dsm"]
    assert np.array_equal(found, 1 + heights[18:24, 41:48, 0])


@pytest.mark.parametrize("lefts", [(0, 8), (8,)])
def test_images_that_were_cut_are_refused(tmp_path, lefts):
    tiles = [(f"photo_x{left:05d}", "photo", left) for left in lefts]
    tile_set = write_tiles(tmp_path / "set", *tiles)
    sentence = f"'test' of {tile_set.root} were cut into tiles (first: '{tiles[0][0]}'); prepare"
    with pytest.raises(DataError, match=re.escape(sentence)):
        find_inputs(tile_set.root, tmp_path, "test")


@pytest.mark.parametrize(
    ("source", "split", "error", "sentence"),
    [
        ("", None, ConfigError, "is a prepared data set; name one of its splits: --split test"),
        ("images", "test", MissingDataError, "images is not a prepared data set"),
        ("", "night", MissingDataError, "has no split 'night'; it has test, train, val"),
    ],
)
def test_a_data_set_and_a_split_belong_together(toy, tmp_path, source, split, error, sentence):
    with pytest.raises(error, match=sentence):
        find_inputs(toy.root / source, tmp_path, split)


@pytest.fixture
def photos(tmp_path):
    """Empty files: only their names matter."""
    folder = tmp_path / "photos"
    for name in ("a.PNG", "a.tif", "b.tiff", "far/c.gif", "far/.c.gif", ".far/d.gif", "far/e.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "f.png").mkdir()  # a folder, whatever its name
    return folder


def results_of(source, output):
    return {str(item.path): str(item.result) for item in find_inputs(source, output, None)}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", "a.PNG: a.PNG.png, a.tif: a.tif.tif, b.tiff: b.tif, far/c.gif: far/c.png"),
        ("a.tif", "a.tif: a.tif"),
        ("far/e.txt", "far/e.txt: e.tif"),  # whoever names a file means it
        ("*.tif*", "a.tif: a.tif, b.tiff: b.tif"),
        ("**/*.gif", "far/c.gif: far/c.png"),
        ("far/?.gif", "far/c.gif: c.png"),
    ],
)
def test_a_picture_gives_a_png_and_all_else_a_tiff(photos, tmp_path, pattern, expected):
    wanted = dict(pair.split(": ") for pair in expected.split(", "))
    found = results_of(photos / pattern, tmp_path / "out")
    assert found == {f"{photos}/{path}": result for path, result in wanted.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.jpg", "b.png"), ["a.png", "b.png"]),
        (("a.jpg", "a.png"), ["a.jpg.png", "a.png.png"]),
        (("a.png", "a.jpg", "a.jpg.png"), ["a.jpg.png", "a.jpg.png.png", "a.png.png"]),
        (("a.jpg", "a.jpg.png", "a.jpg.tif"), ["a.jpg.png.png", "a.jpg.tif.tif", "a.png"]),
    ],
)
def test_no_two_images_have_the_same_results(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).touch()
    assert sorted(results_of(tmp_path, tmp_path / "out").values()) == expected


def test_results_in_the_folder_of_the_images_are_left_out(photos):
    expected = [f"{photos}/{name}" for name in ("a.PNG", "a.tif", "b.tiff")]
    assert [*results_of(photos, photos / "far")] == expected


def test_files_that_are_passed_over_are_counted_but_for_results(photos):
    line = f"1 file of {photos} is no image by its suffix (.txt) and was passed over"
    assert passed_over(photos, photos / "out") == line
    assert passed_over(photos, photos / "far") is passed_over(photos / "a.tif", photos) is None


@pytest.mark.parametrize(
    ("source", "output", "sentence"),
    [
        ("far", "far", r"far holds no image outside the folder of results, .*far$"),
        ("nothing", "out", r"--input .*nothing does not exist$"),
        ("*.bmp", "out", r"no file matches --input .*\*\.bmp$"),
        ("f.png", "out", r"f\.png holds no image \(\.png, "),
    ],
)
def test_nothing_to_segment_is_an_error(photos, source, output, sentence):
    with pytest.raises(MissingDataError, match=sentence):
        find_inputs(photos / source, photos / output, None)


def test_a_kept_map_is_made_again_for_another_mask(tmp_path):
    """The pixels are the same: a mask has been put beside the image."""
    generator = SimpleNamespace(generate_batch=lambda images: [np.ones((8, 8), np.uint16)])
    recipe = MapRecipe(generator="superpixels", settings={}, weights_sha256=None)
    maps = GeneratedMaps({"superpixels": (generator, recipe)}, tmp_path / "maps")
    image = Input(path=tmp_path / "a.tif", result=Path("a.tif"), stem="a")
    for valid in (None, np.eye(8, dtype=bool), ~np.eye(8, dtype=bool)):
        found = maps.of_chunk(image, Box(0, 0, 8, 8), image_of("a"), valid)["superpixels"]
        assert np.array_equal(found, np.ones((8, 8)) if valid is None else valid)
