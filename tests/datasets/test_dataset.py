"""Samples and batches: members, crops of rare classes, absent modalities, inputs of the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.dataset import TileDataset, collate, prepare_inputs
from datasets.encodings import StructureEncoder, shuffle_ids
from datasets.rasters import write_raster
from datasets.samplers import SampleKey
from datasets.tile_set import RareClasses, TileSet, count_classes, open_tile_set, write_histogram
from datasets.transforms import Geometry
from tests.conftest import make_config
from tests.datasets.coordinates import STORES, check_aligned, write_set
from utils.errors import ConfigError, DataError


@pytest.fixture
def tile_set(data_root):
    return open_tile_set(data_root)


def key(index, place=None):
    return SampleKey(index=index, seed=(0, 0, index if place is None else place))


def test_shuffled_gives_another_tiles_map_and_image(tile_set):
    ids = tile_set.split("val")
    settings = {"tile_set": tile_set, "tile_ids": ids, "stores": ["superpixels"]}
    shuffled = TileDataset(**settings, shuffled=True)[key(2)]
    partner = TileDataset(**settings)[key(0)]  # the next one, round the end
    assert torch.equal(shuffled.maps["superpixels"], partner.maps["superpixels"])
    assert torch.equal(shuffled.structure_image, partner.image)
    assert not torch.equal(shuffled.image, partner.image)


def test_parts_of_a_batch_are_its_samples(tile_set):
    settings = {"labels": ["full", "full"], "shuffled": True, "shuffle_ids": True}
    ids = tile_set.split("train")
    dataset = TileDataset(tile_set=tile_set, tile_ids=ids, stores=["superpixels"], **settings)
    keys = [key(index) for index in range(4)]
    parts = dataset.__getitems__(keys).split(2)
    for part, two in zip(parts, (keys[:2], keys[2:]), strict=True):
        whole = dataset.__getitems__(two)
        assert part.tile_ids == whole.tile_ids and len(part.more_targets) == 1
        for name in ("image", "target", "structure_image", "color_factors", "present", "id_keys"):
            assert torch.equal(getattr(part, name), getattr(whole, name)), name
        assert torch.equal(part.maps["superpixels"], whole.maps["superpixels"])
        assert torch.equal(part.more_targets[0], whole.target)


def test_inputs_have_their_ranges_types_and_layout(tile_set, config):
    dataset = TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split("train"),
        stores=["superpixels"],
        geometry=Geometry(crop_size_px=64, scale_range=(0.75, 1.5), dihedral=True),
        color_jitter=0.5,
    )
    batch = dataset.__getitems__([key(0), key(1)])
    (image, structure), target = prepare_inputs(batch, StructureEncoder(config.structure))
    assert image.shape == (2, 3, 64, 64) and structure.shape == (2, 4, 64, 64)
    assert 0 <= image.min() and image.max() <= 1
    assert not torch.allclose(image, batch.image / 255)  # jittered
    assert target.dtype == torch.int64 and torch.equal(target, batch.target.long())
    assert structure.is_contiguous(memory_format=torch.channels_last)


def test_ids_are_shuffled_on_the_device_for_segments_only(tmp_path):
    tile_set = write_set(tmp_path / "set", [(90, 120)])
    recipe = (
        "structure.modalities=[superpixels,levels]",
        "structure.superpixels.store=ids",
        "structure.superpixels.encodings=[mean_color,color_by_id]",
    )
    encoder = StructureEncoder(make_config(tile_set.root, tmp_path, *recipe).structure)
    settings = {"tile_set": tile_set, "tile_ids": ["t000"], "stores": ["ids", "levels"]}
    assert TileDataset(**settings)[key(0)].id_keys is None  # unless asked for
    batch = TileDataset(**settings, available=(True, True), shuffle_ids=True)[key(0)]
    (_, shuffled), _ = prepare_inputs(batch, encoder)
    (_, plain), _ = prepare_inputs(replace(batch, id_keys=None), encoder)
    torch.testing.assert_close(shuffled[:, :3], plain[:, :3])
    assert torch.equal(shuffled[:, 6:], plain[:, 6:])  # the levels
    again = {**batch.maps, "ids": shuffle_ids(batch.maps["ids"], batch.id_keys)}
    (_, expected), _ = prepare_inputs(replace(batch, id_keys=None, maps=again), encoder)
    assert torch.equal(shuffled, expected)
    assert (shuffled[:, 3:6] != plain[:, 3:6]).float().mean() > 0.5


@pytest.mark.parametrize("zoom", [0.26, 0.77, 1.02, 1.75, 4.1])
def test_all_members_of_a_sample_show_the_same_place(tmp_path, zoom):
    sizes = [(160, 160), (75, 131), (9, 140), (1, 1), (1, 70), (50, 1)]
    tile_set = write_set(tmp_path / "set", sizes)
    dataset = TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split("train"),
        stores=STORES,
        geometry=Geometry(
            crop_size_px=41, scale_range=(zoom, zoom), dihedral=True, value_stores=("levels",)
        ),
    )
    for place in range(12 * len(sizes)):
        batch = dataset[key(place % len(sizes), place)]
        assert batch.tile_ids == (f"t{place % len(sizes):03d}",)
        members = {"image": batch.image.movedim(1, -1), "target": batch.target, **batch.maps}
        members = {name: member[0].numpy() for name, member in members.items()}
        check_aligned(members, sizes[place % len(sizes)], round(41 / zoom) / 41)


def test_sizes_that_differ_are_one_clear_sentence(tile_set, tmp_path, monkeypatch):
    write_raster(tmp_path / "small.tif", np.zeros((5, 7), np.uint8))
    monkeypatch.setattr(type(tile_set), "target_path", lambda *_: tmp_path / "small.tif")
    dataset = TileDataset(tile_set=tile_set, tile_ids=tile_set.split("val"), stores=[])
    with pytest.raises(DataError, match=r"image is \(96, 96\) and target \(5, 7\) \(height, width"):
        dataset[key(0)]


@pytest.mark.parametrize("shape", [(70, 70), (70, 70, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_turned_members_are_copied_as_they_are(shape, dtype, tile_set):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    turns = [np.rot90(array, k) for k in range(4)]
    turns += [turned[:, ::-1] for turned in turns]
    dataset = TileDataset(tile_set=tile_set, tile_ids=tile_set.split("val"), stores=[])
    sample = dataset._read(key(0))
    samples = [replace(sample, members={**sample.members, "m": turned}) for turned in turns]
    np.testing.assert_array_equal(collate(samples).maps["m"].numpy(), np.stack(turns))


def test_dropout_has_its_rate_is_repeatable_and_never_takes_all(tile_set):
    settings = {"tile_set": tile_set, "tile_ids": tile_set.split("train"), "stores": []}
    dataset = TileDataset(**settings, available=(True, True), dropout=0.4)
    present = torch.cat([dataset[key(0, place)].present for place in range(400)])
    assert present.any(1).all()
    # 0.4 each; both gone (0.16) gives one of them back: 0.4 - 0.08
    assert (~present).float().mean().item() == pytest.approx(0.32, abs=0.04)
    again = torch.cat([dataset[key(0, place)].present for place in range(400)])
    assert torch.equal(present, again)
    absent = TileDataset(**settings, available=(True, False), dropout=0.9)
    assert all(absent[key(0, place)].present.tolist() == [[True, False]] for place in range(20))


@pytest.fixture(scope="module")
def rare_set(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
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


def rare_dataset(tile_set: TileSet, share: float, zooms: tuple[float, float]) -> TileDataset:
    return TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split("train"),
        stores=(),
        geometry=Geometry(crop_size_px=32, scale_range=zooms, dihedral=True),
        rare_class_share=share,
    )


@pytest.mark.parametrize("zooms", [(1.0, 1.0), (0.5, 1.75), (2.0, 3.0)])
def test_every_crop_of_a_class_shows_it(rare_set, zooms):
    dataset = rare_dataset(rare_set, 1.0, zooms)
    rare = RareClasses(rare_set.root, dataset.tile_ids, 50)
    for seed in range(150):
        rng = np.random.default_rng((5, seed, 0))
        rng.random()
        index, class_index = rare.draw(rng)
        batch = dataset[SampleKey(index=0, seed=(5, seed, 0))]
        assert batch.tile_ids == (dataset.tile_ids[index],)
        assert (batch.target == class_index).any(), seed


def test_classes_and_their_tiles_are_drawn_evenly(rare_set):
    rare = RareClasses(rare_set.root, rare_set.split("train"), 50)
    draws = [rare.draw(np.random.default_rng(seed)) for seed in range(6000)]
    for class_index, tiles in {0: range(6), 4: (2,), 7: (1, 2)}.items():
        found = [index for index, drawn in draws if drawn == class_index]
        assert len(found) / 6000 == pytest.approx(1 / 3, abs=0.025)
        for tile in tiles:
            assert found.count(tile) / len(found) == pytest.approx(1 / len(tiles), abs=0.04)


def test_the_share_of_rare_classes_is_as_declared(rare_set, data_root, tmp_path):
    dataset = rare_dataset(rare_set, 0.3, (0.5, 1.75))
    batches = [dataset[key(5, place)] for place in range(1500)]
    # Tile 5 comes by its turn, and in a third of the others by class 0 and a sixth of its draws.
    others = sum(batch.tile_ids != ("t005",) for batch in batches) / len(batches)
    assert others == pytest.approx(0.3 * (1 - 1 / 18), abs=0.04)
    assert sum(bool((batch.target == 4).any()) for batch in batches) / len(batches) > 0.08
    for place in range(20):
        assert torch.equal(dataset[key(5, place)].image, batches[place].image)
    dataset = rare_dataset(rare_set, 0.0, (1.0, 1.0))
    assert {dataset[key(3, place)].tile_ids for place in range(50)} == {("t003",)}
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=r"data\.rare_class_share: must be between 0 and 1"):
            make_config(data_root, tmp_path, f"data.rare_class_share={share}")


def test_a_histogram_of_other_labels_is_one_sentence(tmp_path):
    tile_set = write_set(tmp_path / "set", [(40, 40)])
    write_raster(tile_set.target_path("t000"), np.zeros((40, 40), np.uint8))
    write_histogram(tile_set.root, 50, {"t000": np.eye(51, dtype=int)[9]})
    dataset = rare_dataset(tile_set, 1.0, (1.0, 1.0))
    with pytest.raises(DataError, match=r"t000\.tif has no pixel of class 9, contrary to histo"):
        dataset[key(0)]
