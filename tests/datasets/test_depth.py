"""Depth as a modality: stored as levels, seen as values, no ids anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
from configs.schema import (
    Config,
    DepthAnythingConfig,
    SamConfig,
    StructureConfig,
    SuperpixelsConfig,
)
from datasets.encodings import StructureEncoder
from datasets.loaders import build_train_loader, check_structure
from datasets.samplers import SampleKey
from datasets.structure_maps import (
    depth_levels,
    from_levels,
    map_path,
    map_settings,
    read_map,
    store_folder,
)
from datasets.tile_set import open_tile_set
from eval import evaluate_split
from generate import generate_store
from models.structure import build
from tests.conftest import make_config, single_process, train_briefly
from tests.datasets.fakes import FakeGenerator
from utils.config import config_from_dict
from utils.errors import ConfigError, DataError
from utils.boxes import Box
from utils.training.checkpoint import load_checkpoint

BOTH = "structure.modalities=[depth_anything,superpixels]"
DEPTH = StructureConfig(modalities=("depth_anything",))


@pytest.fixture(autouse=True)
def fake_depth(monkeypatch):
    """The recipe's depth generator gives what two channels of the image say."""
    fake = FakeGenerator("values", images_per_batch=3)
    monkeypatch.setitem(build._BUILDERS, "depth_anything", lambda config, device: fake)


@pytest.fixture
def with_depth(data_root: Path, tmp_path: Path) -> Path:
    config = make_config(data_root, tmp_path, BOTH)
    generate_store(config, "depth_anything", open_tile_set(data_root), single_process())
    return data_root


def test_levels_are_those_of_the_map_s_own_range():
    depth = np.random.default_rng(0).normal(3, 20, (40, 50)).astype(np.float32)
    levels, (low, high) = depth_levels(depth)
    assert levels.dtype == np.uint16 and (levels.min(), levels.max()) == (1, 65535)
    assert np.abs(from_levels(levels, low, high) - depth).max() <= (high - low) / 131068 * 1.001
    flat, ends = depth_levels(np.full((2, 2), 7, np.float32))
    assert flat.tolist() == [[1, 1], [1, 1]] and ends == (7.0, 7.0)
    with pytest.raises(DataError, match=r"not finite everywhere.*precision=fp32"):
        depth_levels(np.full((2, 2), np.inf, np.float32))


def test_a_store_of_depth_holds_values_and_is_checked_like_any_other(with_depth, tmp_path):
    structure = make_config(with_depth, tmp_path, BOTH).structure
    recipes = check_structure(open_tile_set(with_depth), structure, ["train", "val"])
    assert list(recipes) == ["depth_anything", "superpixels"]
    folder = store_folder(with_depth, "depth_anything")
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "values"
    assert (folder / "contact_sheet.png").is_file()
    other = make_config(with_depth, tmp_path, BOTH, "structure.depth_anything.input_size_px=700")
    with pytest.raises(DataError, match=r"input_size_px: 700 \| 518\. Change the recipe, or name"):
        check_structure(open_tile_set(with_depth), other.structure, ["val"])


def test_the_network_sees_depth_as_values_and_never_as_segments(with_depth, tmp_path):
    config = make_config(with_depth, tmp_path, BOTH, "data.crop_size_px=96", "data.dihedral=false")
    encoder = StructureEncoder(config.structure)
    assert encoder.stores == ("depth_anything", "superpixels")
    assert encoder.value_stores == ("depth_anything",)
    assert encoder.num_channels == 5 and encoder.pictures == ((0, 0, 0), (1, 2, 3))
    loader, _ = build_train_loader(config, open_tile_set(with_depth), single_process())
    sample = loader.dataset[SampleKey(index=0, seed=0)]
    assert torch.equal(encoder.segments(sample.maps), sample.maps["superpixels"].int())
    structure = encoder(sample.image.float() / 255, sample.maps)
    levels = sample.maps["depth_anything"].float()
    expected = torch.where(levels == 0, 0.5, (levels - 1) / 65534)
    assert torch.equal(structure[:, 0], expected)
    assert StructureEncoder(DEPTH).segments(sample.maps) is None


def test_depth_is_resized_like_values(with_depth, tmp_path):
    zoomed = make_config(with_depth, tmp_path, BOTH, "data.scale_range=[1.5, 1.5]")
    loader, _ = build_train_loader(zoomed, open_tile_set(with_depth), single_process())
    sample = loader.dataset[SampleKey(index=0, seed=0)]
    stored = read_map(map_path(store_folder(with_depth, "depth_anything"), sample.tile_ids[0]))
    new = np.setdiff1d(sample.maps["depth_anything"].numpy(), stored)
    assert new.size > 100  # means of levels; ids would be copied


def test_depth_gives_no_segments_to_a_loss(tmp_path):
    depth = "structure.modalities=[depth_anything]"
    with pytest.raises(ConfigError, match=r"optim\.object_weight: needs .* a segment modality"):
        make_config(tmp_path, tmp_path, depth, "optim.object_weight=0.1")
    config: Config = make_config(tmp_path, tmp_path, BOTH, "optim.object_weight=0.1")
    assert config.structure.segment_stores() == ("superpixels",)


def test_depth_is_trained_on_evaluated_and_inferred_with(with_depth, tmp_path):
    config = make_config(with_depth, tmp_path, BOTH, "optim.num_epochs=1", "optim.warmup_epochs=0")
    checkpoint = load_checkpoint(train_briefly(config))
    assert checkpoint.identity.maps["depth_anything"]["weights_sha256"] == "fake"
    evaluate_split(checkpoint, config, "val", tmp_path / "eval", single_process())
    assert (tmp_path / "eval" / "predictions.png").is_file()
    segmenter = infer.Segmenter(checkpoint, config, single_process().device)
    tile_set = open_tile_set(with_depth)
    tile_id = tile_set.split("val")[0]
    image = tile_set.read_image(tile_id)
    assert segmenter(image).shape == (96, 96)
    made = segmenter._maps.for_image(None)(Box(0, 0, 96, 96), image)
    stored = read_map(map_path(store_folder(with_depth, "depth_anything"), tile_id))
    assert np.array_equal(made["depth_anything"], stored)


def test_what_decides_a_map_and_what_does_not():
    assert "input_size_px" in map_settings(DepthAnythingConfig())
    for config in (SuperpixelsConfig(), SamConfig(), DepthAnythingConfig()):
        recorded = map_settings(config)
        free = {"store", "encodings", "checkpoint", "points_per_batch", "images_per_batch"}
        assert not free & recorded.keys()
        if not isinstance(config, SuperpixelsConfig):
            wanted = {"precision", "window_px", "window_overlap_px", "join_tiles", "model_type"}
            assert wanted <= recorded.keys()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("images_per_batch=0", "images_per_batch: must be 1 or more"),
        ("input_size_px=13", "input_size_px: must be 14 or more"),
        ("window_px=63", "window_px: must be 64 or more"),
        ("window_overlap_px=600", "window_overlap_px: must be 1 to half of window_px (512)"),
        ("encodings=[boundary]", "encodings: unknown key; known here: store, model_type"),
        ("model_type=v2_giant", "model_type: 'v2_giant' is not one of v2_small, v2_base"),
    ],
)
def test_impossible_settings_are_refused(override, words):
    recipe = {"name": "a", "data": {"root": "b"}}
    with pytest.raises(ConfigError) as error:
        config_from_dict(recipe, "test", [f"structure.depth_anything.{override}"])
    assert f"structure.depth_anything.{words}" in str(error.value)
