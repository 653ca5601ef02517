"""Modalities that are absent: dropped in training, missing at test time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import infer
from configs.schema import Config, StructureConfig
from datasets.dataset import prepare_inputs
from datasets.encodings import StructureEncoder
from datasets.loaders import absence_note, build_eval_loader, build_train_loader
from datasets.samplers import SampleKey
from datasets.tile_set import open_tile_set
from eval import evaluate_split
from models.structure.build import check_generated
from tests.conftest import make_config, single_process
from train import build_run, train
from utils.config import config_from_dict
from utils.errors import ConfigError
from utils.evaluation.evaluate import Predictor
from utils.training.checkpoint import load_checkpoint

BOTH = "structure.modalities=[superpixels,height]"


def config_of(root: Path, output: Path, *overrides: str) -> Config:
    return make_config(root, output, BOTH, *overrides)


def batch_of(config: Config, root: Path, seeds: range):
    loader, _ = build_train_loader(config, open_tile_set(root), single_process())
    return [loader.dataset[SampleKey(index=0, seed=seed)] for seed in seeds]


def test_dropout_has_its_rate_is_repeatable_and_never_takes_all(data_root, tmp_path):
    config = config_of(data_root, tmp_path, "structure.dropout=0.4", "data.crop_size_px=32")
    present = torch.cat([sample.present for sample in batch_of(config, data_root, range(300))])
    assert present.any(1).all()
    # 0.4 each; both gone (0.16) gives one of them back: 0.4 - 0.08
    assert (~present).float().mean().item() == pytest.approx(0.32, abs=0.05)
    again = torch.cat([sample.present for sample in batch_of(config, data_root, range(300))])
    assert torch.equal(present, again)


def test_what_is_absent_by_the_recipe_is_never_the_one_that_stays(data_root, tmp_path):
    overrides = ("structure.dropout=0.9", "structure.absent=[height]", "data.crop_size_px=32")
    samples = batch_of(config_of(data_root, tmp_path, *overrides), data_root, range(20))
    assert all(sample.present.tolist() == [[True, False]] for sample in samples)


def test_an_absent_modality_is_grey_whether_dropped_or_missing(data_root, tmp_path):
    config = config_of(data_root, tmp_path)
    (sample,) = batch_of(config, data_root, range(1))
    encoder = StructureEncoder(config.structure)
    assert encoder.num_channels == 5 and encoder.pictures == ((0, 1, 2), (4, 4, 4))
    image = sample.image.float() / 255
    full = encoder(image, sample.maps)
    dropped = encoder(image, sample.maps, None, torch.tensor([[True, False]]))
    assert torch.equal(dropped[:, :4], full[:, :4]) and (dropped[:, 4] == 0.5).all()
    missing = StructureEncoder(
        config_of(data_root, tmp_path, "structure.absent=[height]").structure
    )
    assert missing.stores == ("superpixels",) and missing.num_channels == 5
    assert torch.equal(missing(image, sample.maps), dropped)
    image, structure, _ = prepare_inputs(sample, encoder)
    assert torch.equal(structure, encoder(image, sample.maps))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("absent=[sam]", "absent: names sam, which modalities does not"),
        (
            "absent=[superpixels,height]",
            "absent: names all modalities; at least one must be there",
        ),
        ("dropout=1.0", "dropout: must be at least 0 and below 1"),
        ("modalities=[../a]", "modalities: '../a' is no name of a folder"),
        ("modalities=[height,height]", "modalities: names a modality twice"),
    ],
)
def test_impossible_structures_are_refused(override, words):
    recipe = {"name": "a", "data": {"root": "b"}}
    with pytest.raises(ConfigError) as error:
        config_from_dict(recipe, "test", [BOTH, f"structure.{override}"])
    assert f"structure.{words}" in [line.strip() for line in str(error.value).splitlines()]


def test_with_the_structure_off_nothing_can_be_absent(data_root, tmp_path):
    off = ("structure.control=off", "structure.absent=[superpixels,lidar]")
    config = make_config(data_root, tmp_path, *off, "structure.dropout=0.5")
    (sample,) = batch_of(config, data_root, range(1))
    image, structure, _ = prepare_inputs(sample, StructureEncoder(config.structure))
    assert torch.equal(image, structure)


def test_the_note_is_for_what_training_never_went_without():
    absent = StructureConfig(modalities=("superpixels", "height"), absent=("height",))
    assert absence_note(absent, {"dropout": 0.0, "absent": []}) == (
        "note: height is absent, and the checkpoint was trained with structure.dropout=0, so it "
        "never had to do without"
    )
    assert absence_note(absent, {"dropout": 0.2, "absent": []}) is None
    assert absence_note(absent, {"dropout": 0.0, "absent": ["height"]}) is None
    assert absence_note(replace(absent, control="off"), {}) is None
    assert absence_note(replace(absent, absent=()), {}) is None


def test_two_modalities_train_and_one_may_be_missing_at_test_time(data_root, tmp_path, capsys):
    config = config_of(data_root, tmp_path, "optim.num_epochs=1", "optim.warmup_epochs=0")
    run = build_run(config, single_process())
    train(run)
    run.log.close()
    checkpoint = load_checkpoint(run.folder / "best.pth")
    assert set(checkpoint.identity.maps) == {"superpixels", "height"}
    without = config_from_dict(checkpoint.identity.recipe, "test", ["structure.absent=[height]"])
    confusions, notes = [], []
    for changed in (config, without):
        evaluate_split(checkpoint, changed, "val", tmp_path / "eval", single_process())
        report = json.loads((tmp_path / "eval" / "report.json").read_text())
        confusions.append(report["confusion"])
        notes.append("note: height is absent" in capsys.readouterr().out)
    assert confusions[0] != confusions[1] and notes == [False, True]

    tile_set = open_tile_set(data_root)
    batch = next(iter(build_eval_loader(config, tile_set, "val", single_process(), ["full"])))
    network, device = run.state.network.eval(), batch.image.device
    predictors = (
        Predictor(
            network, StructureEncoder(recipe.structure), run.state.precision, config.eval, device
        )
        for recipe in (config, config, without)
    )
    full, again, rest = (
        torch.cat([logits for _, logits in p.strips(batch.image, batch.maps)], 1)
        for p in predictors
    )
    assert torch.equal(full, again) and rest.shape == full.shape and not torch.equal(full, rest)
    image = tile_set.read_image(batch.tile_ids[0])
    assert infer.Segmenter(checkpoint, without, device)(image).shape == (96, 96)
    with pytest.raises(ConfigError, match=r"leave it out: structure\.absent=\[height\]"):
        infer.Segmenter(checkpoint, config, device)


def test_infer_needs_a_sensor_to_be_absent(data_root, tmp_path):
    structure = config_of(data_root, tmp_path).structure
    sentence = (
        "best.pth was trained with a sensor (height), which cannot be computed from RGB; leave it "
        "out: structure.absent=[height]"
    )
    with pytest.raises(ConfigError) as error:
        check_generated(structure, "best.pth")
    assert str(error.value) == sentence
    check_generated(replace(structure, absent=("height",)), "best.pth")
