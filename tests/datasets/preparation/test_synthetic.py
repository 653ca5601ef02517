"""Drawn scenes: reproducible, consistent, not solvable by colour; the set made of them."""

import numpy as np
import pytest

from datasets.preparation import synthetic
from datasets.preparation.synthetic import CLASSES, MAX_HEIGHT_M, PALETTE, draw_scene
from datasets.preparation.synthetic_canvas import Canvas
from datasets.structure_maps import check_store, from_levels, map_path, read_map, store_folder
from datasets.tile_set import Tile, open_tile_set
from utils.errors import ConfigError
from utils.files import list_images, read_rgb

PAVED, BUILDING, GRASS, TREE, CAR, CLUTTER = range(6)
COUNTS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, 128) for seed in range(12)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    counts = {f"num_{split}": num for split, num in COUNTS.items()}
    synthetic.prepare_synthetic(root, seed=3, size_px=64, **counts)
    return root


def test_a_scene_is_the_same_bytes_for_a_seed_and_fits_its_size():
    first, second, other = (draw_scene(seed, 101) for seed in (2**64 - 1, 2**64 - 1, 1))
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (101, 101, 3)
    assert {plane.shape[:2] for plane in first} == {(101, 101)}
    assert [plane.dtype for plane in first] == [np.uint8, np.uint8, np.uint16, np.float32]
    assert [plane.tobytes() for plane in first] == [plane.tobytes() for plane in second]
    with pytest.raises(ConfigError, match="size_px is 63; a drawn scene needs 64 or more"):
        draw_scene(0, 63)


def test_segments_are_numbered_in_raster_order_and_have_one_class(scenes):
    for scene in scenes:
        ids, first = np.unique(scene.segments, return_index=True)
        assert ids.tolist() == list(range(1, len(ids) + 1)) and np.all(np.diff(first) > 0)
        pairs = np.unique(np.stack([scene.segments.ravel(), scene.target.ravel()]), axis=1)
        assert pairs.shape[1] == len(ids)
        assert all(np.count_nonzero(pairs[1] == kind) > 1 for kind in (PAVED, GRASS, TREE))


def test_every_scene_shows_every_class_at_its_heights(scenes):
    for scene in (*scenes, *(draw_scene(seed, size) for seed in range(4) for size in (64, 256))):
        height, target = scene.height_m, scene.target
        assert set(np.unique(target)) == set(range(6))
        assert np.all(height[np.isin(target, (PAVED, GRASS))] == 0)
        assert height[target == BUILDING].min() > 2
        assert height[target == TREE].min() >= 0.5
        assert height.max() < MAX_HEIGHT_M
        assert 1.3 <= height[target == CAR].min() <= height[target == CAR].max() <= 1.8
        assert 0 <= height[target == CLUTTER].min() <= height[target == CLUTTER].max() < 4


def test_a_block_casts_a_shadow_of_height_over_slope_away_from_the_sun():
    canvas = Canvas(np.random.default_rng(0), 256)
    canvas.sun, canvas.sun_slope = (1.0, 0.0), 0.5  # in the east; shadows are twice the height
    block = np.zeros((256, 256), bool)
    block[100:150, 120:160] = True
    canvas.new_object(((100, 100, 100),), (0.0, 0.0, 0.0))  # the ground
    canvas.paint(synthetic.EVERYWHERE, block, BUILDING, ((100, 100, 100),), height_m=6.0)
    row = canvas.expose().astype(np.float32).mean(axis=2)[105:145].mean(axis=0)
    dark = np.flatnonzero(row < (row[:40].mean() + row[90:110].mean()) / 2)
    assert (dark.min(), dark.max()) == pytest.approx((120 - 12 / 0.2, 119), abs=2)


def test_colour_alone_does_not_give_the_class(scenes):
    """The nearest mean colour per class, fitted on other scenes, reaches a mIoU of 0.13."""
    colors = np.stack([scene.image for scene in scenes]).astype(np.float64)
    target = np.stack([scene.target for scene in scenes])
    means = np.stack([colors[:8][target[:8] == kind].mean(axis=0) for kind in range(6)])
    guess = ((colors[8:, :, :, None] - means) ** 2).sum(axis=-1).argmin(axis=-1)
    hits = [(guess == kind, target[8:] == kind) for kind in range(6)]
    assert 0.05 < np.mean([(a & b).sum() / (a | b).sum() for a, b in hits]) < 0.25


def test_the_prepared_set_has_the_right_counts_and_heights_as_a_sensor(prepared):
    tiles, folder = open_tile_set(prepared), store_folder(prepared, "height")
    assert (tiles.name, tiles.classes, tiles.palette) == ("synthetic", CLASSES, PALETTE)
    assert {split: len(tiles.split(split)) for split in tiles.splits} == COUNTS
    assert tiles.split("val") == ("scene_00003", "scene_00004")
    counts = {f"num_{split}": number for split, number in COUNTS.items()}
    assert tiles.prepared_with == {"command": "synthetic", "seed": 3, **counts, "size_px": 64}
    wanted = {"generator": "sensor", "settings": {"minimum": 0.0, "maximum": 20.0}}
    check_store(prepared, "height", wanted, {name: tiles.image_path(name) for name in tiles.tiles})
    for name, tile in tiles.tiles.items():
        assert tile == Tile(0, 0, 64, 64, id=name, source=name)
        assert tiles.read_image(name).shape == (64, 64, 3)
        target = tiles.read_target(name)
        height_m = from_levels(read_map(map_path(folder, name)), 0, 20)
        assert height_m.min() == 0 and (height_m[np.isin(target, (PAVED, GRASS))] == 0).all()
        assert height_m[target == BUILDING].min() > 2


def test_a_split_does_not_depend_on_the_size_of_the_others(prepared, tmp_path):
    root = tmp_path / "other"
    synthetic.prepare_synthetic(root, seed=3, num_train=1, num_val=1, num_test=0, size_px=64)
    ours, theirs = open_tile_set(root), open_tile_set(prepared)
    for split in ("train", "val"):
        first, same = ours.split(split)[0], theirs.split(split)[0]
        np.testing.assert_array_equal(ours.read_image(first), theirs.read_image(same))


def test_held_back_images_are_in_no_split_and_appear_as_a_whole_or_not_at_all(
    prepared, tmp_path, capsys
):
    folder = tmp_path / "held_back"
    with pytest.raises(ConfigError):
        synthetic.write_images(folder, seed=3, num_images=1, size_px=8)
    assert not folder.exists()
    for num_images in (4, 1):  # what exists is left unchanged
        synthetic.write_images(folder, seed=3, num_images=num_images, size_px=64)
    assert capsys.readouterr().out == f"{folder} exists and is left unchanged\n"
    paths = list_images(folder)
    assert [path.name for path in paths] == [f"held_back_{i:05d}.png" for i in range(4)]
    tiles = open_tile_set(prepared)
    seen = [tiles.read_image(name).tobytes() for name in tiles.tiles]
    seen += [read_rgb(path).tobytes() for path in paths]
    assert len(set(seen)) == sum(COUNTS.values()) + 4
