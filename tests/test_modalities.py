"""Sensors, depth and segments as modalities: trained on, missing at test time, generated anew."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.loaders import build_train_loader, check_structure
from datasets.samplers import SampleKey
from datasets.structure_maps import map_path, read_map, store_folder
from datasets.tile_set import open_tile_set
from eval import evaluate_split
from generate import generate_store
from models.structure import build
from tests.conftest import evaluate, make_config, single_process, train_briefly
from tests.datasets.fakes import FakeGenerator
from utils.boxes import Box
from utils.config import config_from_dict
from utils.errors import ConfigError
from utils.inference.maps import generated_maps
from utils.inference.segment import load_segmenter
from utils.training.checkpoint import load_checkpoint

SENSOR = "structure.modalities=[superpixels,height]"
DEPTH = "structure.modalities=[depth_anything,superpixels]"
BRIEF = ("optim.num_epochs=1", "optim.warmup_epochs=0")


def test_two_modalities_train_and_one_may_be_missing_at_test_time(data_root, tmp_path, capsys):
    config = make_config(data_root, tmp_path, SENSOR, *BRIEF)
    checkpoint = load_checkpoint(train_briefly(config))
    assert set(checkpoint.identity.maps) == {"superpixels", "height"}
    confusions, notes, absent = [], [], ["structure.absent=[height]"]
    for overrides in ([], absent):
        report = evaluate(checkpoint.path, tmp_path / "eval", *overrides)
        confusions.append(report["confusion"])
        notes.append("note: height is absent" in capsys.readouterr().out)
    assert confusions[0] != confusions[1] and notes == [False, True]
    without = config_from_dict(checkpoint.identity.recipe, "test", absent)
    image, device = np.zeros((96, 96, 3), np.uint8), single_process().device
    assert load_segmenter(checkpoint, without, device)(image).shape == (96, 96)
    with pytest.raises(ConfigError, match=r"--sensor height=FOLDER\), or leave it out: str"):
        generated_maps(checkpoint, config, device)


@pytest.fixture
def with_depth(data_root: Path, tmp_path: Path, monkeypatch) -> Path:
    """A data set with depth maps by a fake generator."""
    fake = FakeGenerator("values", images_per_batch=3)
    monkeypatch.setitem(build._BUILDERS, "depth_anything", lambda config, device: fake)
    config = make_config(data_root, tmp_path, DEPTH)
    generate_store(config, "depth_anything", open_tile_set(data_root), single_process())
    return data_root


def test_a_store_of_depth_holds_values_is_checked_and_resized_like_values(with_depth, tmp_path):
    tile_set = open_tile_set(with_depth)
    structure = make_config(with_depth, tmp_path, DEPTH).structure
    recipes = check_structure(tile_set, structure, ["train", "val"])
    assert list(recipes) == ["depth_anything", "superpixels"]
    folder = store_folder(with_depth, "depth_anything")
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "values"
    assert (folder / "contact_sheet.png").is_file()
    zoomed = make_config(with_depth, tmp_path, DEPTH, "data.scale_range=[1.5, 1.5]")
    loader, _ = build_train_loader(zoomed, tile_set, single_process())
    sample = loader.dataset[SampleKey(index=0, seed=(0, 0, 0))]
    stored = read_map(map_path(folder, sample.tile_ids[0]))
    new = np.setdiff1d(sample.maps["depth_anything"].numpy(), stored)
    assert new.size > 100  # means of levels; ids would be copied


def test_depth_is_trained_on_evaluated_and_inferred_with(with_depth, tmp_path):
    config = make_config(with_depth, tmp_path, DEPTH, *BRIEF)
    checkpoint = load_checkpoint(train_briefly(config))
    assert checkpoint.identity.maps["depth_anything"]["weights_sha256"] == "fake"
    evaluate_split(checkpoint, config, "val", tmp_path / "eval", single_process())
    assert (tmp_path / "eval" / "predictions.png").is_file()
    segmenter = load_segmenter(checkpoint, config, single_process().device)
    tile_set = open_tile_set(with_depth)
    tile_id = tile_set.split("val")[0]
    image = tile_set.read_image(tile_id)
    assert segmenter(image).shape == (96, 96)
    made = segmenter._maps.of_chunk(None, Box(0, 0, 96, 96), image)
    stored = read_map(map_path(store_folder(with_depth, "depth_anything"), tile_id))
    assert np.array_equal(made["depth_anything"], stored)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("absent=[sam]", "names sam, which modalities does not"),
        ("absent=[superpixels,height]", "names all modalities; at least one must be there"),
        ("dropout=1.0", "must be at least 0 and below 1"),
        ("modalities=[../a]", "'../a' is not a valid folder name"),
        ("modalities=[height,height]", "names a modality twice"),
        ("modalities=[superpixels,image]", "no store may be called 'image', a name of other"),
        ("depth_anything.images_per_batch=0", "must be 1 or more"),
        ("depth_anything.input_size_px=13", "must be 14 or more"),
        ("depth_anything.window_px=63", "must be 64 or more"),
        ("depth_anything.window_overlap_px=600", "must be 1 to half of window_px (512)"),
        ("features.num_components=513", "must be between 4 and 512"),
        ("features.cell_px=3", "must be between 4 and 32"),
        ("features.layers=[3,2]", "must be increasing numbers from 1"),
        ("features.window_overlap_px=149", "must be 1 to half of window_px (148)"),
        ("features.encodings=[boundary]", "unknown key; known here: store, name, checkpoint"),
        ("depth_anything.encodings=[boundary]", "unknown key; known here: store, model_type"),
        ("depth_anything.model_type=v2_giant", "'v2_giant' is not one of v2_small, v2_base"),
    ],
)
def test_impossible_structures_are_refused(override, problem):
    recipe, (key, _, _) = {"name": "a", "data": {"root": "b"}}, override.partition("=")
    with pytest.raises(ConfigError) as error:
        config_from_dict(recipe, "test", [SENSOR, f"structure.{override}"])
    assert f"\n  structure.{key}: {problem}" in str(error.value)
