"""The benchmark of accuracy: every candidate is trained, scored, kept and reused."""

import importlib.util
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import accuracy
from benchmarks.opponents import (
    DptOnTokens,
    FromScratch,
    OnTokens,
    SegformerOnTokens,
    Tokens,
    linear_probe,
    token_mlp,
)
from models.frozen_vit import load_frozen_vit
from utils.config import load_config
from utils.evaluation.compare import read_settings
from utils.training.optim import set_learning_rate
from utils.training.state import Ema

HAS_SMP = importlib.util.find_spec("segmentation_models_pytorch") is not None
NEEDS_SMP = ("segformer_b0", "upernet_r18")


@pytest.fixture
def run(run_script, recipe_path: Path, tmp_path: Path):
    """Run the benchmark; its JSON lines, rows of the table by candidate, errors."""
    fixed = ("--config", recipe_path, "--output", tmp_path / "results", "eval.window_px=96")
    fixed += ("--vit", "test_vit", "--vit-weights", "random")

    def run(*arguments: object) -> tuple[list[dict], dict[str, list[str]], str]:
        code, output, errors = run_script("benchmarks.accuracy", *fixed, *arguments)
        assert code == 0, errors
        lines = output.splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
        results = [json.loads(line) for line in lines if line.startswith("{")]
        return results, {row[0]: row[1:] for row in rows[2:]}, errors

    return run


def times_of(folder: Path) -> dict[Path, int]:
    """Times at which the results of runs were written."""
    return {p: p.stat().st_mtime_ns for p in folder.iterdir() if "speed" not in p.name}


def test_every_candidate_is_trained_scored_kept_and_comparable(
    run, run_script, recipe_path, tmp_path
):
    maps = ("name=test_vit", "checkpoint=random")
    chosen = ["structure.modalities=[features]", *(f"structure.features.{each}" for each in maps)]
    assert run_script("generate", "--config", recipe_path, *chosen)[0] == 0
    arguments = ("--steps", "2", "--seconds-per-step", "1")
    results, rows, errors = run(*arguments)
    expected = [name for name in accuracy.CANDIDATES if HAS_SMP or name not in NEEDS_SMP]
    assert len(expected) >= 16 and [*rows] == expected
    assert [result["candidate"] for result in results] == expected
    assert all(result["steps"] == 2 and 0 <= result["miou"] <= 1 for result in results)
    assert all((f"skipped {name}: " in errors) is not HAS_SMP for name in NEEDS_SMP)
    first = times_of(tmp_path / "results")
    assert run(*arguments)[0] == results and times_of(tmp_path / "results") == first
    settings = read_settings([f"{number}={path}" for number, path in enumerate(first)])
    assert len(settings) == len(expected)


def test_a_changed_setting_trains_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "NUM_TIMED", 1)
    one, num_files = ("--steps", "1", "--only", "linear_last"), 1
    run(*one)
    for more in (("optim.lr=1e-4",), ("--seeds", "1"), ("--steps", "2"), ("--vit", "test_vit2")):
        run(*one, *more)
        num_files += 1
        assert len(times_of(tmp_path / "results")) == num_files
    candidate = accuracy.CANDIDATES["linear_last"]
    other = replace(accuracy.CANDIDATES["mlp_four"], changes=candidate.changes)
    monkeypatch.setitem(accuracy.CANDIDATES, "linear_last", other)  # its code is changed
    run(*one)
    assert len(times_of(tmp_path / "results")) == num_files + 1


def test_speeds_are_measured_once_for_all_seeds_and_give_the_steps(run, monkeypatch):
    measured = []

    def seconds_per_step(trials: list[accuracy.Trial]) -> list[float]:
        measured.append(len(trials))
        return [1.5, 1.0, 0.5][: len(trials)]

    monkeypatch.setattr(accuracy, "seconds_per_step", seconds_per_step)
    arguments = ("--minutes", "0.05", "--seeds", "0,1")
    results, *_ = run(*arguments, "--only", "linear_last,mlp_four")
    assert [result["steps"] for result in results] == [2, 2, 3, 3] and measured == [2]
    run(*arguments, "--only", "linear_last,mlp_four,dpt")
    assert measured == [2, 1]
    assert run(*arguments, "--only", "mlp_four", "optim.batch_size=4")[0][0]["steps"] == 2
    assert measured == [2, 1, 1]


def test_the_seconds_of_a_step_are_medians_over_turns(recipe_path, dist, monkeypatch):
    steps = []

    def training(trial: SimpleNamespace, num_steps: int) -> Iterator[None]:
        for _ in range(num_steps):
            steps.append(trial.config)
            yield

    times = itertools.count(1)
    monkeypatch.setattr(accuracy, "training", training)
    monkeypatch.setattr(accuracy.Bench, "seconds", lambda bench, step: (step(), next(times))[1])
    trial = SimpleNamespace(config="a", dist=dist)
    other = SimpleNamespace(config="b", dist=dist)
    found = accuracy.seconds_per_step([trial, other])
    num_rounds = accuracy.NUM_UNTIMED + accuracy.NUM_TIMED
    assert steps == ["a", "b"] * num_rounds
    rounds = np.arange(accuracy.NUM_UNTIMED, num_rounds)
    assert found == [np.median(2 * rounds + 1), np.median(2 * rounds + 2)]


def test_the_schedule_fits_the_steps_and_the_averaged_weights_are_scored(
    recipe_path, dist, monkeypatch
):
    rates, averages, num_steps = [], [], 20

    def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
        rates.append(rate)
        set_learning_rate(optimizer, rate)

    def average(network: torch.nn.Module, decay: float) -> Ema:
        averages.append(Ema(network, decay))
        return averages[0]

    monkeypatch.setattr(accuracy, "set_learning_rate", set_rate)
    monkeypatch.setattr(accuracy, "Ema", average)
    own = accuracy.CANDIDATES["linear_last"].overrides("test_vit", "random")
    trial = accuracy.build_trial("linear_last", load_config(recipe_path, own), dist)
    assert len([*accuracy.training(trial, num_steps)]) == num_steps
    decay = [1e-3 * (1 - step / (num_steps - 1)) ** 0.9 for step in range(num_steps - 1)]
    assert rates == pytest.approx([0.5e-3, *decay])  # 5 % are one step
    weights = trial.network.state_dict()
    assert weights and all(torch.equal(weights[k], v) for k, v in averages[0].average.items())


def test_seeds_are_summarised(run):
    given = ("--steps", "2", "--seconds-per-step", "1.5")
    results, rows, _ = run(*given, "--seeds", "0,1", "--only", "linear_four,vsgnet")
    mious = [100 * result["miou"] for result in results[:2]]
    trainable, frozen, steps, seconds, seeds, miou, interval, *_ = rows["linear_four"]
    assert (steps, seconds, seeds) == ("2", "1.5", "2") and mious[0] != mious[1]
    assert miou == f"{np.mean(mious):.2f} ± {np.std(mious, ddof=1):.2f}"
    low, high = (float(end) for end in interval.split(" to "))
    assert low < np.mean(mious) < high
    width, num_classes = 4 * 64, len(results[0]["iou"])
    assert float(trainable) == pytest.approx(width * (2 + num_classes) / 1e6, rel=0.01)
    assert float(frozen) > 0 and rows["vsgnet"][1] == "0"


def test_without_a_vit_its_candidates_are_skipped_by_name(run_script, recipe_path):
    arguments = ("--config", recipe_path, "--only", "linear_last")
    code, _, errors = run_script("benchmarks.accuracy", *arguments)
    assert code == 2 and "skipped linear_last: needs --vit" in errors
    assert "no candidate is left" in errors


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("head", [linear_probe, token_mlp, DptOnTokens, SegformerOnTokens])
def test_heads_take_any_size_and_train_every_parameter(head, scale):
    vit = load_frozen_vit("test_vit", "random", layers=(1, 3, 4, 6), input_scale=scale)
    tokens = Tokens(channels=vit.channels, num_layers=4, input_scale=scale)
    network = OnTokens(vit, head(tokens, 3, 0.0))
    logits = network(torch.rand(2, 3, 70, 50), torch.empty(0))
    assert logits.shape == (2, 3, 70, 50)
    logits.square().mean().backward()
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None or not p.grad.any()] == []


def test_a_scaled_input_does_not_enlarge_the_maps_of_the_dpt_head():
    sizes = []
    for scale in (1.0, 2.0):
        vit = load_frozen_vit("test_vit", "random", layers=(1, 3, 4, 6), input_scale=scale)
        tokens = Tokens(channels=vit.channels, num_layers=4, input_scale=scale)
        head = DptOnTokens(tokens, 3, 0.0).head
        parts = zip(head.projects, head.resize_layers, vit(torch.rand(1, 3, 64, 64)), strict=True)
        sizes.append([enlarge(project(tokens)).shape[-1] for project, enlarge, tokens in parts])
    assert sizes == [[16, 8, 4, 2]] * 2


@pytest.mark.skipif(not HAS_SMP, reason="segmentation_models_pytorch is not installed")
def test_networks_from_scratch_take_any_size():
    network = FromScratch("Segformer", "mit_b0", 3).eval()
    assert network(torch.rand(1, 3, 70, 50), torch.empty(0)).shape == (1, 3, 70, 50)
