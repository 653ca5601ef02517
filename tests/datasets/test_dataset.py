import numpy as np
import pytest
import torch

from datasets.dataset import TileDataset, _stack, prepare_inputs
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader, build_train_loader, check_structure
from datasets.rasters import write_raster
from datasets.samplers import SampleKey
from datasets.tile_set import open_tile_set
from tests.conftest import make_config
from utils.errors import ConfigError, DataError, MissingDataError


@pytest.fixture
def tile_set(data_root):
    return open_tile_set(data_root)


def key(index):
    return SampleKey(index=index, seed=(0, 0, index))


def test_a_whole_tile_comes_with_its_members(tile_set):
    ids = tile_set.split("val")
    sample = TileDataset(tile_set=tile_set, tile_ids=ids, stores=["superpixels"])[key(1)]
    assert sample.tile_ids == (ids[1],)
    assert np.array_equal(sample.image[0].movedim(0, -1), tile_set.read_image(ids[1]))
    assert np.array_equal(sample.target[0], tile_set.read_target(ids[1]))
    assert sample.maps["superpixels"].shape == (1, 96, 96)
    assert sample.structure_image is None


def test_shuffled_gives_another_tiles_map_and_image(tile_set):
    ids = tile_set.split("val")
    settings = {"tile_set": tile_set, "tile_ids": ids, "stores": ["superpixels"]}
    shuffled = TileDataset(**settings, shuffled=True)[key(2)]
    partner = TileDataset(**settings)[key(0)]  # the next one, round the end
    assert torch.equal(shuffled.maps["superpixels"], partner.maps["superpixels"])
    assert torch.equal(shuffled.structure_image, partner.image)
    assert not torch.equal(shuffled.image, partner.image)


def test_train_batches_are_the_same_for_any_number_of_workers(config, tile_set, dist):
    def first(num_workers):
        changed = make_config(
            tile_set.root, tile_set.root.parent, f"data.num_workers={num_workers}"
        )
        loader, _ = build_train_loader(changed, tile_set, dist)
        return next(iter(loader))

    ours, theirs = first(0), first(2)
    assert ours.tile_ids == theirs.tile_ids
    assert torch.equal(ours.image, theirs.image)
    assert torch.equal(ours.maps["superpixels"], theirs.maps["superpixels"])
    assert torch.equal(ours.color_factors, theirs.color_factors)


def test_inputs_have_their_ranges_types_and_layout(config, tile_set, dist):
    batch = next(iter(build_train_loader(config, tile_set, dist)[0]))
    image, structure, target = prepare_inputs(batch, StructureEncoder(config.structure))
    assert image.shape == (2, 3, 64, 64) and structure.shape == (2, 4, 64, 64)
    assert 0 <= image.min() and image.max() <= 1
    assert target.dtype == torch.int64 and target.shape == (2, 64, 64)
    assert structure.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_reads_whole_tiles_in_order(config, tile_set, dist):
    loader = build_eval_loader(config, tile_set, "val", dist, ["full"])
    assert tuple(batch.tile_ids[0] for batch in loader) == tile_set.split("val")


def test_sizes_that_differ_are_one_clear_sentence(tile_set, tmp_path, monkeypatch):
    write_raster(tmp_path / "small.tif", np.zeros((5, 7), np.uint8))
    monkeypatch.setattr(type(tile_set), "target_path", lambda *_: tmp_path / "small.tif")
    dataset = TileDataset(tile_set=tile_set, tile_ids=tile_set.split("val"), stores=[])
    with pytest.raises(DataError, match=r"image is \(96, 96\) and target \(5, 7\) \(height, width"):
        dataset[key(0)]


def test_structure_is_checked_before_anything_is_built(config, tile_set, data_root, tmp_path):
    assert check_structure(tile_set, config.structure, ["train", "val"]).keys() == {"superpixels"}
    other = make_config(data_root, tmp_path, "structure.superpixels.compactness=5")
    with pytest.raises(DataError, match=r"settings\.compactness: 5\.0 \| 10\.0"):
        check_structure(tile_set, other.structure, ["train"])
    missing = make_config(data_root, tmp_path, "structure.superpixels.store=none")
    with pytest.raises(MissingDataError, match=r"modalities/none are missing.*generate\.py"):
        check_structure(tile_set, missing.structure, ["train"])
    off = make_config(data_root, tmp_path, "structure.control=off")
    assert check_structure(tile_set, off.structure, ["train"]) == {}


def test_a_batch_that_the_ranks_do_not_divide_is_refused(config, tile_set, dist):
    from dataclasses import replace

    with pytest.raises(
        ConfigError,
        match=r"batch_size is 2, which 3 processes with optim\.accumulate=1 do not divide",
    ):
        build_train_loader(config, tile_set, replace(dist, world_size=3))


@pytest.mark.parametrize("shape", [(70, 70), (70, 70, 3), (33, 33), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_turned_member_is_copied_as_it_is(shape, dtype):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    turns = [np.rot90(array, k) for k in range(4)]
    turns += [turned[:, ::-1] for turned in turns]
    np.testing.assert_array_equal(_stack(turns).numpy(), np.stack(turns))
