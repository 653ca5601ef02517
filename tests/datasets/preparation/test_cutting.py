"""Cutting by strips of rows, against slices of the whole image."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin

from datasets.preparation import cutting
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.classes import MaskDecoder, read_class_file
from datasets.preparation.labels import LabelReader, PolygonDecoder
from datasets.preparation.writer import Tiling
from datasets.rasters import read_raster
from datasets.sources import pixel_hash
from datasets.tile_set import Tile, image_path, target_path, valid_path
from tests.utils.rasters.raster_files import EVERYTHING, picture, write_tiff
from utils.boxes import Box
from utils.errors import DataError
from utils.rasters.reading import open_scene

IMAGE = picture(101, 83)
MASK = (picture(101, 83, 1) % 3).astype(np.uint8)
PLACE = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5.7e6, 1, 1)}


def cut(folder: Path, image: np.ndarray, mask: np.ndarray, parts, **options) -> dict:
    """Cut an image with its mask into the tiles of its parts."""
    folder.mkdir(exist_ok=True)
    entries = [f'{{"name": "{name}", "color": "#00000{i}"}}' for i, name in enumerate("abc")]
    (folder / "c.json").write_text(f'{{"classes": [{", ".join(entries)}]}}')
    classes = read_class_file(folder / "c.json")
    reader = LabelReader(
        masks=MaskDecoder(classes), polygons=PolygonDecoder(classes), attribute="class"
    )
    file = ArchiveFile(name="m.tif", path=write_tiff(folder / "m.tif", mask, **PLACE))
    path = write_tiff(folder / "i.tif", image, **PLACE, **options)
    with ExitStack() as stack:
        raster = stack.enter_context(open_scene(path))
        labels = {"full": stack.enter_context(reader.open(file, raster, "i.tif"))}
        cutter = cutting.ImageCutter(folder, raster, labels, parts, 3, lambda _: True)
        return cutter.cut("i")


@pytest.mark.parametrize("strip_rows", [1, 7, 64, 512])
@pytest.mark.parametrize("split", ["train", "val"])
def test_strips_of_any_height_give_the_same_tiles(tmp_path, monkeypatch, strip_rows, split):
    monkeypatch.setattr(cutting, "_STRIP_ROWS", strip_rows)
    boxes = {"i_b0": Box(0, 0, 60, 83), "i_b1": Box(66, 5, 35, 70)}
    tiling = Tiling(tile_size_px=32, overlap_px=9)
    parts = [(name, box, tiling.tiles(name, split, box)) for name, box in boxes.items()]
    record = cut(tmp_path, IMAGE, MASK, parts)
    for name, box, tiles in parts:
        own = record["sources"][name]
        assert [Tile(**entry["tile"]) for entry in own["tiles"]] == tiles
        for tile, entry in zip(tiles, own["tiles"], strict=True):
            target = MASK[tile.slices][..., 0]
            image = read_raster(image_path(tmp_path, tile.id), "RGB")
            np.testing.assert_array_equal(image, IMAGE[tile.slices])
            found = read_raster(target_path(tmp_path, tile.id, "full"), "8-bit")
            np.testing.assert_array_equal(found, target)
            assert entry["pixels"] == [*np.bincount(target.ravel(), minlength=3).tolist(), 0]
            assert not valid_path(tmp_path, tile.id).exists()
        pixels = pixel_hash((box.height_px, box.width_px))
        pixels.update(IMAGE[box.slices].tobytes())
        assert own["facts"]["sha256"] == pixels.hexdigest()
        counts = np.bincount(MASK[box.slices].ravel(), minlength=256).tolist()
        assert own["pixels"] == counts and own["num_pixels"] == box.height_px * box.width_px


def test_pixels_without_data_are_ignored_and_told(tmp_path: Path):
    image = IMAGE.copy()
    image[:40, :50] = 0  # of the tile at the top left nothing is left
    tiling = Tiling(tile_size_px=32)
    parts = [("i", Box(0, 0, 101, 83), tiling.tiles("i", "val", Box(0, 0, 101, 83)))]
    record = cut(tmp_path, image, MASK, parts, nodata=0)
    own = record["sources"]["i"]
    with open_scene(tmp_path / "i.tif") as raster:
        valid = raster.read_mask(EVERYTHING, EVERYTHING)
    assert own["num_no_data"] == (~valid).sum() >= 2000
    expected = np.where(valid, MASK[..., 0], 255)
    written = {entry["tile"]["id"] for entry in own["tiles"]}
    for tile in parts[0][2]:
        part = valid[tile.slices]
        assert (tile.id in written) is bool(part.any())
        if tile.id in written:
            target = read_raster(target_path(tmp_path, tile.id, "full"), "8-bit")
            np.testing.assert_array_equal(target, expected[tile.slices])
            path = valid_path(tmp_path, tile.id)
            assert path.exists() is not part.all()
            if path.exists():
                np.testing.assert_array_equal(read_raster(path, "8-bit"), part)
    assert own["num_empty"] == len(parts[0][2]) - len(written) == 1
    assert own["pixels"][255] == own["num_no_data"]


def test_an_image_that_is_too_large_for_one_tile(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cutting, "_LARGEST_BYTES", 3 * 101 * 83)
    box = Box(0, 0, 101, 83)
    with pytest.raises(DataError, match=r"i\.tif is 101 x 83 pixels, too large for one tile; cut"):
        cut(tmp_path, IMAGE, MASK, [("i", box, [Tile(id="i", source="i", **vars(box))])])
