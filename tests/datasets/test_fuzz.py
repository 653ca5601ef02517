"""Random parameters, sizes and shapes through the data set, on real files."""

import time
from pathlib import Path

import numpy as np
import pytest

from datasets.dataset import Batch, TileDataset
from datasets.samplers import SampleKey
from datasets.tile_set import TileSet
from datasets.transforms import Geometry
from tests.datasets.coordinates import LARGEST_SIDE, STORES, check_aligned, write_set

BUDGET_S = 45.0
TILES_PER_SET = 4


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: any, or one pixel, or square."""
    height, width = (round(LARGEST_SIDE ** rng.uniform(0, 1)) for _ in range(2))
    kind = rng.integers(6)
    return [(1, width), (height, 1), (width, width), *[(height, width)] * 3][kind]


def draw_dataset(tile_set: TileSet, rng: np.random.Generator) -> TileDataset:
    geometry = None
    if rng.random() < 0.9:
        zoom = float(2 ** rng.uniform(-2.5, 2.5)) if rng.random() < 0.8 else 1.0
        geometry = Geometry(
            crop_size_px=int(rng.integers(1, 140)),
            scale_range=(zoom, zoom),
            dihedral=bool(rng.random() < 0.8),
            value_stores=("levels",),
        )
    return TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split("train"),
        stores=STORES,
        shuffled=bool(rng.random() < 0.2),
        geometry=geometry,
        color_jitter=float(rng.uniform(0, 0.9)),
        available=(True, True),
        dropout=float(rng.uniform(0, 0.9)),
        shuffle_ids=bool(rng.random() < 0.5),
        rare_class_share=float(rng.choice([0.0, 0.5, 1.0])),
    )


def check_batch(batch: Batch, dataset: TileDataset) -> None:
    geometry = dataset.geometry
    for i, tile_id in enumerate(batch.tile_ids):
        tile = dataset.tile_set.tiles[tile_id]
        members = {
            "image": batch.image[i].movedim(0, -1).numpy(),
            "target": batch.target[i].numpy(),
            **{store: batch.maps[store][i].numpy() for store in STORES},
        }
        size = (tile.height_px, tile.width_px)
        crop = size if geometry is None else (geometry.crop_size_px,) * 2
        assert all(member.shape[:2] == crop for member in members.values())
        assert batch.present[i].any()
        shrink = 1.0
        if geometry is not None:
            side = max(1, round(geometry.crop_size_px / geometry.scale_range[0]))
            shrink = side / geometry.crop_size_px
        if not dataset.shuffled:
            check_aligned(members, size, shrink)
            continue
        # The maps are another tile's, but the tile is aligned with its own target, and they with
        # the picture that came with them.
        assert batch.structure_image is not None
        assert batch.structure_image[i].shape == batch.image[i].shape
        inside = members["target"] != 255
        if shrink == 1:
            rows, columns = (members["image"][..., c].astype(int) for c in (0, 1))
            expected = np.where(inside, (7 * rows + 3 * columns) % 50, 255)
            np.testing.assert_array_equal(members["target"], expected)
        assert np.array_equal(members["ids"] > 0, inside)


def run_case(root: Path, seed: int, num_batches: int) -> None:
    """Cut random crops of random tiles and check them; a failure names the seed."""
    rng = np.random.default_rng(seed)
    try:
        tile_set = write_set(root, [draw_size(rng) for _ in range(TILES_PER_SET)])
        for _ in range(num_batches):
            dataset = draw_dataset(tile_set, rng)
            num_keys = 1 if dataset.geometry is None else int(rng.integers(1, 4))
            seeds = rng.integers(2**31, size=(num_keys, 3)).tolist()
            keys = [
                SampleKey(index=int(rng.integers(TILES_PER_SET)), seed=(a, b, c))
                for a, b, c in seeds
            ]
            batch = dataset.__getitems__(keys)
            check_batch(batch, dataset)
            again = dataset[keys[-1]]
            assert again.tile_ids == batch.tile_ids[-1:]
            assert np.array_equal(again.maps["ids"][0], batch.maps["ids"][-1])
    except BaseException as error:
        pytest.fail(f"seed {seed}: {error!r}")


@pytest.mark.parametrize("seed", range(15))
def test_random_parameters_never_crash_or_misalign(tmp_path: Path, seed: int):
    run_case(tmp_path / "set", seed, num_batches=10)


@pytest.mark.slow
def test_other_random_parameters_each_time(tmp_path: Path):
    start, seed = time.monotonic(), time.time_ns() % 2**32
    while time.monotonic() - start < BUDGET_S:
        seed += 1
        run_case(tmp_path / str(seed), seed, num_batches=12)
