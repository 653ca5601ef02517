"""Recipes: each value is accepted or refused by its key, and random ones train two steps."""

import random
import re

import pytest
import torch

from tests.conftest import make_config, single_process
from train import build_run, train_one_epoch
from utils.errors import ConfigError, UserError

FIXED = ["optim.steps_per_epoch=2", "optim.num_epochs=4", "data.crop_size_px=32"]
FIXED += ["model.rgb_vit.name=none", "model.structure_vit.name=none"]

# Key -> values that work, and values that do not. What goes wrong only together with other keys
# counts as working.
CHOICES = {
    "data.crop_size_px": (["32", "48", "65"], ["31", "0", "-64", "big", "33.5"]),
    "data.scale_range": (["[1.0, 1.0]", "[0.3, 3.0]"], ["[2, 1]", "[0, 1]", "[1]", "1.0"]),
    "data.dihedral": (["true", "false"], ["maybe", "1"]),
    "data.color_jitter": (["0", "0.5"], ["1", "-0.1", "none"]),
    "structure.control": (["on", "off", "shuffled"], ["none", "1"]),
    "structure.modalities": (["[superpixels]", "[superpixels, height]"], ["[]", "[a, a]", "5"]),
    "structure.dropout": (["0", "0.5"], ["1", "-1"]),
    "structure.superpixels.encodings": (
        ["[boundary]", "[mean_color, log_area, boundary_distance]", "[color_by_id]"],
        ["[]", "[colour]", "boundary"],
    ),
    "model.size": (["tiny"], ["huge", "3"]),
    "model.fe_branches": (
        ["[global_context]", "[structure_gate]", "[global_context, structure_gate, large_kernel]"],
        ["[]", "[other]", "[global_context, global_context]"],
    ),
    "model.fr_gates": (["off", "channel", "channel_spatial"], ["both", "true"]),
    "model.drop_path": (["0", "0.4"], ["1", "-0.1"]),
    "model.recompute": (["true", "false"], ["2"]),
    "optim.optimizer": (["adamw", "sgd"], ["adam", "null"]),
    "optim.momentum": (["0", "0.9"], ["1", "-0.5"]),
    "optim.lr": (["1e-4", "0.01", "1"], ["0", "-1", "fast"]),
    "optim.lr_factors": (["{head: 3}", "{}", "{encoder: 0}"], ["{head: -1}", "3", "{1: 2}"]),
    "optim.weight_decay": (["0", "0.5"], ["-0.1", "much"]),
    "optim.batch_size": (["1", "2", "6"], ["0", "-2", "2.5"]),
    "optim.accumulate": (["1", "2"], ["0", "1.5"]),
    "optim.warmup_epochs": (["0", "1"], ["-1", "4"]),
    "optim.schedule": (["poly", "cosine"], ["step"]),
    "optim.clip_norm": (["0", "0.1"], ["-1"]),
    "optim.ema_decay": (["0", "0.9"], ["1"]),
    "optim.dice_weight": (["0", "1"], ["-1"]),
    "optim.label_smoothing": (["0", "0.2"], ["1"]),
    "optim.class_weights": (["null", "[1, 2, 1, 1, 5, 0]"], ["[1, -1]", "[0, 0, 0]", "2"]),
    "optim.object_weight": (["0", "0.5"], ["-1"]),
    "optim.boundary_weight": (["0", "0.5"], ["-1"]),
    "eval.metric": (["miou", "mf1", "oa"], ["iou"]),
    "eval.patience": (["0", "2"], ["-1"]),
    "eval.overlap_px": (["0", "16"], ["64", "-1"]),
    "eval.scales": (["[1]", "[0.75, 1, 1.25]"], ["[]", "[1, 1]", "[0.4]", "[-1]", "1"]),
    "eval.turns": (["1", "2", "8"], ["0", "4", "true", "1.0"]),
    "run.precision": (["auto", "fp32", "bf16"], ["fp16", "tf32", "half"]),
    "run.keep_every_epochs": (["0", "1"], ["-1"]),
    "run.log_every_steps": (["1", "5"], ["0"]),
    "run.deterministic": (["true", "false"], ["0"]),
    "run.sed": ([], ["1"]),
    "optimiser": ([], ["{lr: 1}"]),
}


def test_each_value_is_accepted_or_refused_by_its_key(tmp_path):
    for key, (good, bad) in CHOICES.items():
        for value in good:
            make_config(tmp_path, tmp_path, *FIXED, f"{key}={value}")
        for value in bad:
            with pytest.raises(ConfigError, match=rf"\n  {re.escape(key)}\b"):
                make_config(tmp_path, tmp_path, *FIXED, f"{key}={value}")


def draw(number):
    rng = random.Random(number)
    keys = rng.sample(sorted(key for key, (good, _) in CHOICES.items() if good), rng.randint(2, 6))
    return [f"{key}={rng.choice(CHOICES[key][0])}" for key in keys]


@pytest.fixture(autouse=True)
def nondeterminism_allowed_again():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "numbers", [range(20), pytest.param(range(20, 150), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_random_recipes_train_or_are_refused_by_key(data_root, tmp_path, numbers):
    num_trained = 0
    for number in numbers:
        overrides, folder = draw(number), tmp_path / str(number)
        try:
            run = build_run(make_config(data_root, folder, *FIXED, *overrides), single_process())
        except UserError as error:
            assert isinstance(error, ConfigError) and not folder.exists(), (overrides, error)
            keys = [override.partition("=")[0] for override in overrides]
            assert any(key in str(error) for key in keys), (overrides, error)
            continue
        train_one_epoch(run)
        run.log.close()
        assert run.state.step == 2
        assert all(torch.isfinite(p).all() for p in run.state.network.parameters()), overrides
        num_trained += 1
    assert num_trained >= len(numbers) // 2
