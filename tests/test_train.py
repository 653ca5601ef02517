"""Training as a whole: it learns, resumes bit for bit, and saves nothing that is not finite."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import make_config, single_process
from train import Run, build_run, train
from utils.errors import ConfigError, DataError, MissingDataError
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows

ROOT = Path(__file__).resolve().parent.parent
NO_VIT = ("model.rgb_vit.name=none", "model.structure_vit.name=none")


def build(data_root: Path, output: Path, *overrides: str) -> Run:
    return build_run(make_config(data_root, output, *NO_VIT, *overrides), single_process())


def run_to_the_end(config) -> Run:
    run = build_run(config, single_process())
    train(run)
    run.log.close()
    return run


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, average, optimiser, counters and random state, and the rows of metrics.jsonl."""
    a, b = load_checkpoint(ours / "last.pth"), load_checkpoint(theirs / "last.pth")
    assert a.progress == b.progress and len(a.training["optimizer"]["state"]) > 100
    torch.testing.assert_close([a.weights, a.training], [b.weights, b.training], rtol=0, atol=0)

    def rows(folder):
        dropped = {"images_per_s", "data_wait_share", "memory_gib"}
        rows = read_rows(folder / "metrics.jsonl")
        return [{k: v for k, v in row.items() if k not in dropped} for row in rows]

    assert rows(ours) == rows(theirs) and rows(ours)


def test_a_run_learns_and_leaves_its_files(recipe_path, tmp_path, run_script):
    overrides = ["optim.num_epochs=12", "optim.lr=5e-3", "eval.every_epochs=6", *NO_VIT]
    code, said, _ = run_script("train", "--config", recipe_path, *overrides)
    assert code == 0
    folder = tmp_path / "runs" / "run"
    rows = read_rows(folder / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 12 * 3
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    val = [row for row in rows if row["kind"] == "val"]
    assert [row["step"] for row in val] == [18, 36]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Images("val/predictions")] == [18, 36]
    assert [event.step for event in events.Scalars("val/iou/building")] == [18, 36]
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "environment.json", "best.pth", "last.pth", "train.log"}
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures == {"run.png", "worst.png"}
    best = load_checkpoint(folder / "best.pth")
    assert best.training is None and best.identity.selected_on == "val"
    assert best.identity.maps["superpixels"]["settings"]["segment_size_px"] == 8
    score = max(row["miou"] for row in val)
    assert best.progress["best_score"] == score > 0
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["world_size"] == 1 and environment["batch"]["samples"] == 2
    assert environment["data"]["maps"]["superpixels"]["settings"]["segment_size_px"] == 8
    assert f"best mIoU {100 * score:.2f} on val" in said and "fp32 on 1 x cpu, from step 0" in said


def test_frozen_weights_are_not_in_the_checkpoint_but_named(checkpoint):
    assert not any(".vit." in key for key in checkpoint.weights)
    assert checkpoint.identity.frozen["rgb_vit"]["name"] == "test_vit"


RESUMED = ["model.drop_path=0.3", "run.save_every_steps=1", "optim.accumulate=2"]


@pytest.fixture(scope="module")
def straight(data_root, tmp_path_factory):
    """Six steps with drop path, dropout, micro-batches and averaged weights."""
    config = make_config(data_root, tmp_path_factory.mktemp("a"), *NO_VIT, *RESUMED)
    return run_to_the_end(config).folder


def test_a_run_interrupted_while_validating_repeats_only_the_validation(
    data_root, tmp_path, straight
):
    """Interruptions in the middle of an epoch: ``test_train_kills.py``."""

    def interrupt():
        raise KeyboardInterrupt

    overrides = [*RESUMED, "run.save_every_steps=1000"]
    run = build(data_root, tmp_path, *overrides)
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(run, validation=interrupt))
    run.log.close()
    assert load_checkpoint(run.folder / "last.pth").progress["step"] == 3
    resumed = build(data_root, tmp_path, *overrides)
    assert resumed.state.step_in_epoch == resumed.batches.num_batches == 3
    train(resumed)
    resumed.log.close()
    assert_same_run(straight, resumed.folder)


def test_another_recipe_in_the_same_folder_is_refused_with_both_sides(data_root, straight):
    with pytest.raises(ConfigError, match=r"another recipe .*optim\.lr: 0\.01 \| 0\.001"):
        build(data_root, straight.parent, *RESUMED, "optim.lr=0.01")


def test_more_epochs_are_refused_with_the_way_to_go_on(data_root, straight, tmp_path):
    """Case 19 of docs/trials.md: the sentence is followed to the letter."""
    more = [*RESUMED, "optim.num_epochs=4"]
    with pytest.raises(ConfigError, match=r"optim\.num_epochs: 4 \| 2\. Give this run") as error:
        build(data_root, straight.parent, *more)
    way = re.findall(r"name=NEW|run\.fine_tune=\S+", str(error.value))
    assert way == ["name=NEW", f"run.fine_tune={straight / 'last.pth'}"]
    run = build(data_root, tmp_path, *more, *way)
    assert run.folder == tmp_path / "NEW" and run.notes[0].startswith(f"fine-tuning {straight}")


def test_a_finished_run_is_not_trained_again(data_root, tmp_path, straight):
    shutil.copytree(straight, tmp_path / "run")
    before = (straight / "last.pth").read_bytes()
    again = run_to_the_end(make_config(data_root, tmp_path, *NO_VIT, *RESUMED))
    assert again.folder == tmp_path / "run" and again.state.step == 6
    assert (again.folder / "last.pth").read_bytes() == before


def test_missing_maps_stop_before_the_run_folder_is_made_unless_they_are_off(data_root, tmp_path):
    none = "structure.superpixels.store=none"
    with pytest.raises(MissingDataError, match=r"none are missing or not finished.*generate\.py"):
        build(data_root, tmp_path / "runs", none)
    assert not (tmp_path / "runs").exists()
    run = build(data_root, tmp_path / "runs", none, "structure.control=off")
    run.log.close()
    assert run.state.identity.maps == {}


def saved_steps(folder: Path) -> dict[str, int]:
    checkpoints = {path.name: load_checkpoint(path) for path in folder.glob("*.pth")}
    for checkpoint in checkpoints.values():
        assert all(value.isfinite().all() for value in checkpoint.weights.values())
    return {name: checkpoint.progress["step"] for name, checkpoint in checkpoints.items()}


LONG = ["optim.num_epochs=4", "run.log_every_steps=1000"]  # of three steps, each one validated


@pytest.mark.parametrize(("bad_step", "save_every", "last"), [(5, 2, 4), (6, 1000, 3)])
def test_a_loss_that_is_nan_is_in_no_checkpoint(data_root, tmp_path, bad_step, save_every, last):
    run = build(data_root, tmp_path, *LONG, f"run.save_every_steps={save_every}")
    real, names, note = run.loss.forward, {}, run.state.guard.note

    def forward(*given):
        broken = run.state.step + 1 == bad_step
        return {key: term * (torch.nan if broken else 1.0) for key, term in real(*given).items()}

    def note_names(step, loss, tile_ids):
        names[step] = ", ".join(tile_ids)
        note(step, loss, tile_ids)

    run.loss.forward, run.state.guard.note = forward, note_names
    with pytest.raises(DataError, match=f"the loss is not finite at step {bad_step} ") as caught:
        train(run)
    run.log.close()
    assert f"(tiles: {names[bad_step]})" in str(caught.value)
    assert saved_steps(run.folder) == {"last.pth": last, "best.pth": 3}


def test_a_gradient_that_is_nan_is_in_no_checkpoint(data_root, tmp_path):
    """The loss of that step is finite; the weights after it are not."""
    run = build(data_root, tmp_path, *LONG, "optim.clip_norm=1", "run.save_every_steps=1")
    weight = run.state.network.head.classify.bias
    weight.register_hook(lambda grad: grad * (torch.nan if run.state.step + 1 == 5 else 1.0))
    with pytest.raises(DataError, match=r"weights are not finite after step 5 "):
        train(run)
    run.log.close()
    assert saved_steps(run.folder) == {"last.pth": 4, "best.pth": 3}


def test_import_of_train_does_not_load_rasterio_or_matplotlib():
    code = "import sys, train; print([m for m in ('rasterio', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
