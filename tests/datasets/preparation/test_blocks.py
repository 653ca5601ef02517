"""Spatial splits: distances, shares and places of blocks, and the sets made of them."""

import json
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from datasets.preparation.archives import ArchiveFile
from datasets.preparation.blocks import split_by_blocks
from datasets.preparation.pipeline import Source
from datasets.tile_set import open_tile_set
from tests.utils.rasters.raster_files import picture, write_tiff
from utils.boxes import Box
from utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def scene(folder: Path, name: str, size: tuple[int, int]) -> Source:
    path = write_tiff(folder / f"{name}.tif", np.zeros((*size, 3), np.uint8))
    return Source(id=name, image=ArchiveFile(name=str(path), path=path), labels={})


def distance(one: Box, other: Box) -> int:
    """Pixels between two boxes along the axis where they are farther apart; below 0: they share."""
    down = max(one.top_px, other.top_px) - min(one.bottom_px, other.bottom_px)
    across = max(one.left_px, other.left_px) - min(one.right_px, other.right_px)
    return max(down, across)


@pytest.mark.parametrize("gap_px", [0, 7, 20])
def test_blocks_of_different_splits_keep_their_distance(tmp_path: Path, gap_px: int):
    sources = [scene(tmp_path, "a", (330, 410)), scene(tmp_path, "b", (100, 95))]
    found = split_by_blocks(sources, 64, gap_px, (0.6, 0.2, 0.2), seed=3)
    blocks = [(split, block) for split, members in found.items() for block in members]
    # 330 x 410 holds 5 x 6 blocks of 66 x 68 or 69, and 100 x 95 holds 2 x 1.
    assert [len(found[split]) for split in ("train", "val", "test")] == [20, 6, 6]
    assert {block.image_id for _, block in blocks} == {"a", "b"}
    assert sorted(b.id for _, b in blocks if b.image_id == "b") == ["b_b00_00", "b_b01_00"]
    cut = 0
    for (split, one), (other_split, other) in combinations(blocks, 2):
        if one.image_id == other.image_id:
            apart = distance(one.box, other.box)
            assert apart >= (0 if split == other_split else gap_px)
            cut += split != other_split and apart == gap_px
    assert cut > 0  # the gap is no larger than asked for
    area = sum(b.box.height_px * b.box.width_px for _, b in blocks)
    assert area == 330 * 410 + 100 * 95 if gap_px == 0 else area < 330 * 410 + 100 * 95


def test_a_block_among_its_own_is_whole(tmp_path: Path):
    found = split_by_blocks([scene(tmp_path, "a", (192, 192))], 64, 8, (1, 0, 0), seed=0)
    assert list(found) == ["train"] and len(found["train"]) == 9
    assert all(block.box.height_px == block.box.width_px == 64 for block in found["train"])


def test_the_seed_decides_and_nothing_else(tmp_path: Path):
    sources = [scene(tmp_path, "a", (300, 300))]
    ids = [
        {split: [b.id for b in members] for split, members in found.items()}
        for found in (split_by_blocks(sources, 50, 4, (0.5, 0.25, 0.25), s) for s in (0, 0, 1))
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("side_px", "gap_px", "shares", "sentence"),
    [
        (
            79,
            47,
            (0.5, 0.5, 0),
            "--blocks 79 with --gap 47 leaves less than 32 px of a side of a block of a, 66 x ",
        ),
        (200, 8, (0.5, 0.5, 0), "1 block is too few for --shares 0.5 0.5 0; every split"),
        (64, 8, (0.5, 0.6, 0), "--shares must be three numbers from 0 to 1 that sum to 1"),
    ],
)
def test_blocks_that_cannot_be(tmp_path: Path, side_px, gap_px, shares, sentence):
    with pytest.raises(ConfigError, match=sentence):
        split_by_blocks([scene(tmp_path, "a", (200, 200))], side_px, gap_px, shares, seed=0)


def test_one_scene_becomes_a_set_with_places(run_prepare, tmp_path: Path):
    """Tiles hold the pixels of their place in the scene, and check finds no shared ones."""
    image, mask = picture(300, 420), (picture(300, 420, 1) > 99).astype(np.uint8)
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5.7e6, 0.5, 0.5)}
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    write_tiff(tmp_path / "images/scene.tif", image, **place)
    write_tiff(tmp_path / "labels/scene.tif", mask, **place)
    entries = [{"name": "bg", "color": "#000000"}, {"name": "fg", "color": "#ff0000"}]
    (tmp_path / "two.json").write_text(json.dumps({"classes": entries}))
    options = ["--blocks", 100, "--gap", 10, "--shares", 0.5, 0.25, 0.25, "--tile-size", 64]
    tree = ["--tree", tmp_path, "--classes", tmp_path / "two.json", "--output", tmp_path / "set"]
    code, out, err = run_prepare("folder", *tree, *options, "--overlap", 16)
    assert code == 0, err
    assert "random shares 0.5 0.25 0.25 of blocks of 100 px, seed 0, at least 10 px between" in out
    tiles = open_tile_set(tmp_path / "set")
    assert len(tiles.sources) == 12 and {f.image for f in tiles.sources.values()} == {"scene"}
    for tile in tiles.tiles.values():
        assert (tiles.read_image(tile.id) == image[tile.slices]).all()
        assert (tiles.read_target(tile.id) == mask[..., 0][tile.slices]).all()
        box = tiles.sources[tile.source].box
        assert box.top_px <= tile.top_px and tile.bottom_px <= box.bottom_px
    counts = {
        split: len({tiles.tiles[t].source for t in ids}) for split, ids in tiles.splits.items()
    }
    assert counts == {"train": 6, "val": 3, "test": 3}
    assert tiles.sources["scene_b00_00"].transform == (0.5, 0, 4e5, 0, -0.5, 5.7e6)
    assert run_prepare("check", "--data", tmp_path / "set")[0] == 0


@pytest.mark.slow
def test_a_scene_of_40000_x_30000_is_prepared_within_1_5_gib(tmp_path: Path):
    """A labelled GeoTIFF pair of constant areas, some MiB; the set takes 6 GB of disk."""
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5.7e6, 0.1, 0.1)}
    options = {"compress": "deflate", "tiled": True, "blockxsize": 512, "blockysize": 512}
    for folder, bands in (("images", 3), ("labels", 1)):
        (tmp_path / folder).mkdir()
        size = {"height": 30_000, "width": 40_000, "count": bands, "dtype": "uint8"}
        path = tmp_path / folder / "scene.tif"
        with rasterio.open(path, "w", driver="GTiff", **size, **options, **place) as file:
            for number, top in enumerate(range(0, 30_000, 2048)):
                height = min(2048, 30_000 - top)
                level = 40 + number if bands == 3 else number % 2
                rows = np.full((bands, height, 40_000), level, np.uint8)
                file.write(rows, window=((top, top + height), (0, 40_000)))
    entries = [{"name": "bg", "color": "#000000"}, {"name": "fg", "color": "#ff0000"}]
    (tmp_path / "two.json").write_text(json.dumps({"classes": entries}))
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    code = "import re, prepare; prepare.main(); status = open('/proc/self/status').read(); "
    code += "print('peak', re.search('VmHWM: *(.*) kB', status)[1])"
    line = [sys.executable, "-c", code, "folder", "--tree", tmp_path, "--output", tmp_path / "set"]
    line += ["--classes", tmp_path / "two.json", "--blocks", "2048", "--tile-size", "1024"]
    line += ["--shares", "0.6", "0.2", "0.2", "--overlap", "128"]
    start = time.monotonic()
    out = subprocess.check_output([*map(str, line)], cwd=ROOT, text=True)
    peak_mib = int(out.split("peak ")[1]) / 1024
    print(f"{out}peak memory {peak_mib:.0f} MiB, {time.monotonic() - start:.0f} s")
    assert peak_mib < 1.5 * 1024
    tiles = open_tile_set(tmp_path / "set")
    assert len(tiles.sources) == 300
    tile = tiles.tiles[tiles.splits["val"][0]]
    band = np.arange(tile.top_px, tile.bottom_px) // 2048
    np.testing.assert_array_equal(tiles.read_image(tile.id)[:, 0, 0], 40 + band)
    np.testing.assert_array_equal(tiles.read_target(tile.id)[:, 0], band % 2)
