"""Random sizes, zooms and crops through the data set, on real files: aligned and repeatable."""

from pathlib import Path

import numpy as np
import pytest

from datasets.dataset import TileDataset
from datasets.samplers import SampleKey
from datasets.transforms import Geometry
from tests.datasets.coordinates import LARGEST_SIDE, STORES, check_aligned, write_set

NUM_TILES = 4


@pytest.mark.parametrize("seed", range(4))
def test_random_crops_are_aligned_and_repeatable(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    sizes = [tuple(np.rint(LARGEST_SIDE ** rng.random(2)).astype(int)) for _ in range(NUM_TILES)]
    tile_set = write_set(tmp_path / "set", [*sizes[:-1], (1, sizes[-1][1])])
    for _ in range(15):
        crop_px, zoom = int(rng.integers(1, 140)), float(2 ** rng.uniform(-2.5, 2.5))
        dataset = TileDataset(
            tile_set=tile_set,
            tile_ids=tile_set.split("train"),
            stores=STORES,
            geometry=Geometry(
                crop_size_px=crop_px,
                scale_range=(zoom, zoom),
                dihedral=True,
                value_stores=("levels",),
            ),
            color_jitter=float(rng.uniform(0, 0.9)),
            available=(True, True),
            dropout=float(rng.uniform(0, 0.9)),
            rare_class_share=float(rng.choice([0.0, 0.5, 1.0])),
        )
        key = SampleKey(index=int(rng.integers(NUM_TILES)), seed=(seed, *rng.integers(99, size=2)))
        batch, again = dataset[key], dataset[key]
        assert batch.tile_ids == again.tile_ids and batch.present.any(), seed
        tile = tile_set.tiles[batch.tile_ids[0]]
        members = {
            "image": batch.image[0].movedim(0, -1).numpy(),
            "target": batch.target[0].numpy(),
            **{store: batch.maps[store][0].numpy() for store in STORES},
        }
        assert all(member.shape[:2] == (crop_px, crop_px) for member in members.values()), seed
        assert np.array_equal(members["ids"], again.maps["ids"][0]), seed
        size = tile.height_px, tile.width_px
        check_aligned(members, size, max(1, round(crop_px / zoom)) / crop_px)
