import re
from pathlib import Path

import numpy as np
import pytest

from configs.schema import DataConfig
from datasets.dataset import TileDataset
from datasets.loaders import build_train_loader
from datasets.rasters import write_raster
from datasets.samplers import SampleKey
from datasets.tile_set import (
    RareClasses,
    TileSet,
    count_classes,
    open_tile_set,
    read_histogram,
    write_histogram,
)
from datasets.transforms import Geometry
from tests.conftest import make_config
from tests.datasets.coordinates import write_set
from utils.errors import ConfigError, DataError, MissingDataError


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """Six tiles of class 0; one pixel of class 4 in tile 2, some of class 7 in tiles 1 and 2."""
    tile_set = write_set(tmp_path_factory.mktemp("rare") / "set", [(90, 120)] * 6)
    counts = {}
    for number, tile_id in enumerate(tile_set.split("train")):
        target = np.zeros((90, 120), np.uint8)
        if number in (1, 2):
            target[40:43, 60:90] = 7
        if number == 2:
            target[20, 30] = 4
        target[80:, :] = 255
        write_raster(tile_set.target_path(tile_id), target)
        counts[tile_id] = count_classes(target, 50)
    write_histogram(tile_set.root, 50, counts)
    return tile_set


def dataset_of(tile_set: TileSet, share: float, zooms: tuple[float, float]) -> TileDataset:
    return TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split("train"),
        stores=(),
        geometry=Geometry(crop_size_px=32, scale_range=zooms, dihedral=True),
        rare_class_share=share,
    )


def test_classes_are_counted_by_hand():
    target = np.array([[0, 2, 2], [255, 2, 0]], np.uint8)
    assert count_classes(target, 4) == [2, 0, 3, 0, 1]


def test_the_table_is_as_it_is_written(tmp_path: Path):
    counts = {"b, c": np.array([1, 2, 3]), "a": np.array([0, 10**12, 0])}
    write_histogram(tmp_path, 2, counts)
    text = (tmp_path / "histogram.csv").read_text()
    assert text == 'id,0,1,ignored\na,0,1000000000000,0\n"b, c",1,2,3\n'
    found = read_histogram(tmp_path, 2)
    assert {tile_id: row.tolist() for tile_id, row in found.items()} == {
        tile_id: row.tolist() for tile_id, row in counts.items()
    }


def test_a_set_without_the_table_is_one_sentence(config, data_root, dist, tmp_path):
    changed = make_config(data_root, tmp_path, "data.rare_class_share=0.5")
    path = data_root / "histogram.csv"
    kept = path.rename(tmp_path / "kept.csv") if path.exists() else None
    try:
        with pytest.raises(MissingDataError) as error:
            build_train_loader(changed, open_tile_set(data_root), dist)
    finally:
        if kept is not None:
            kept.rename(path)
    assert str(error.value) == (f"{path} does not exist; prepare the data set again")
    build_train_loader(config, open_tile_set(data_root), dist)  # nothing else needs it


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has the columns , not id, 0, 1, ignored; prepare the data set again"),
        ("id,0,ignored\n", "has the columns id, 0, ignored, not id, 0, 1, ignored; prepare"),
        ("id,0,1,ignored\na,1,2\n", "has no whole row of numbers for the tile 'a'; prepare"),
        ("id,0,1,ignored\na,1,-2,x\n", "has no whole row of numbers for the tile 'a'; prepare"),
        ("id,0,1,ignored\nb,1,2,3\n", "has no row for the tile 'a', and data.rare_class_share"),
        ("id,0,1,ignored\na,0,0,9\n", ": no tile to train on has a labelled pixel"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, problem: str):
    (tmp_path / "histogram.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(problem)):
        RareClasses(tmp_path, ["a"], 2)


def test_a_table_of_other_labels_is_one_sentence(tile_set):
    rows = read_histogram(tile_set.root, 50)
    try:
        write_histogram(tile_set.root, 50, {t: np.eye(51, dtype=int)[9] for t in rows})
        dataset = dataset_of(tile_set, 1.0, (1.0, 1.0))
        with pytest.raises(DataError, match=r"t00\d\.tif has no pixel of class 9, which histogram"):
            dataset[SampleKey(index=0, seed=(0, 0, 0))]
    finally:
        write_histogram(tile_set.root, 50, rows)


@pytest.mark.parametrize("zooms", [(1.0, 1.0), (0.5, 1.75), (2.0, 3.0)])
def test_every_such_crop_shows_its_class(tile_set, zooms):
    dataset = dataset_of(tile_set, 1.0, zooms)
    rare = RareClasses(tile_set.root, dataset.tile_ids, 50)
    for seed in range(150):
        rng = np.random.default_rng((5, seed, 0))
        rng.random()
        index, class_index = rare.draw(rng)
        batch = dataset[SampleKey(index=0, seed=(5, seed, 0))]
        assert batch.tile_ids == (dataset.tile_ids[index],)
        assert (batch.target == class_index).any(), seed


def test_classes_and_their_tiles_are_drawn_evenly(tile_set):
    rare = RareClasses(tile_set.root, tile_set.split("train"), 50)
    draws = [rare.draw(np.random.default_rng(seed)) for seed in range(6000)]
    for class_index, tiles in {0: range(6), 4: (2,), 7: (1, 2)}.items():
        found = [index for index, drawn in draws if drawn == class_index]
        assert len(found) / 6000 == pytest.approx(1 / 3, abs=0.025)
        for tile in tiles:
            assert found.count(tile) / len(found) == pytest.approx(1 / len(tiles), abs=0.04)


def test_the_share_is_as_declared_and_every_sample_is_repeatable(tile_set):
    dataset = dataset_of(tile_set, 0.3, (0.5, 1.75))
    keys = [SampleKey(index=5, seed=(0, 0, place)) for place in range(1500)]
    batches = [dataset[key] for key in keys]
    # Tile 5 comes by its turn, and in a third of the others by class 0 and a sixth of its draws.
    others = sum(batch.tile_ids != ("t005",) for batch in batches) / len(batches)
    assert others == pytest.approx(0.3 * (1 - 1 / 18), abs=0.04)
    shows = sum(bool((batch.target == 4).any()) for batch in batches) / len(batches)
    assert shows > 0.1 * 0.8
    for key, batch in list(zip(keys, batches, strict=True))[:50]:
        again = dataset[key]
        assert again.tile_ids == batch.tile_ids
        assert np.array_equal(again.target, batch.target) and np.array_equal(
            again.image, batch.image
        )


def test_without_the_share_nothing_is_drawn_by_class(tile_set):
    dataset = dataset_of(tile_set, 0.0, (1.0, 1.0))
    tiles = {dataset[SampleKey(index=3, seed=(0, 0, place))].tile_ids for place in range(50)}
    assert tiles == {("t003",)}


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_the_share_is_a_probability(data_root, tmp_path, share):
    assert DataConfig(root="").rare_class_share == 0.0
    with pytest.raises(ConfigError, match=r"data\.rare_class_share: must be between 0 and 1"):
        make_config(data_root, tmp_path, f"data.rare_class_share={share}")
