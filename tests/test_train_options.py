"""What a recipe can ask of training besides the plain run."""

import json
import shutil
import sys

import pytest
import torch

import train as script
from datasets.preparation.synthetic import prepare_synthetic
from datasets.tile_set import open_tile_set
from generate import generate_store
from tests.conftest import make_config, single_process
from tests.test_train import NO_VIT, run_to_the_end
from utils.errors import ConfigError, DataError, MissingDataError
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows


def test_a_run_without_progress_ends_early(data_root, tmp_path):
    overrides = ["optim.num_epochs=9", "optim.lr=1e-12", "optim.ema_decay=0", "eval.patience=2"]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides, *NO_VIT))
    rows = [row for row in read_rows(run.folder / "metrics.jsonl") if row["kind"] == "val"]
    assert run.state.epoch == len(rows) < 9 and run.state.num_stale == 2
    again = run_to_the_end(make_config(data_root, tmp_path, *overrides, *NO_VIT))
    assert again.state.step == run.state.step


def test_copies_are_kept_and_can_be_evaluated(data_root, tmp_path):
    overrides = ["optim.num_epochs=3", "eval.every_epochs=3", "run.keep_every_epochs=2"]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides, *NO_VIT))
    copies = sorted(path.name for path in run.folder.glob("*.pth"))
    assert copies == ["best.pth", "epoch_0002.pth", "last.pth"]
    kept = load_checkpoint(run.folder / "epoch_0002.pth")
    assert kept.progress["epoch"] == 2 and kept.training is None


def test_the_best_is_chosen_by_the_score_asked_for(data_root, tmp_path):
    run = run_to_the_end(make_config(data_root, tmp_path, "eval.metric=oa", *NO_VIT))
    best = load_checkpoint(run.folder / "best.pth")
    rows = [row for row in read_rows(run.folder / "metrics.jsonl") if row["kind"] == "val"]
    assert best.identity.selected_by == "oa"
    assert best.progress["best_score"] == max(row["oa"] for row in rows)


def test_classes_left_out_of_the_mean_do_not_choose_the_best(data_root, tmp_path):
    overrides = ["eval.mean_without=[clutter,tree]", *NO_VIT]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides))
    rows = [row for row in read_rows(run.folder / "metrics.jsonl") if row["kind"] == "val"]
    kept = [name for name in run.state.identity.classes if name not in ("clutter", "tree")]
    for row in rows:
        known = [row[f"iou/{name}"] for name in kept if row[f"iou/{name}"] is not None]
        assert row["miou"] == pytest.approx(sum(known) / len(known))
    best = load_checkpoint(run.folder / "best.pth")
    assert best.progress["best_score"] == max(row["miou"] for row in rows)


def test_a_class_left_out_that_is_not_there_is_refused_before_training(data_root, tmp_path):
    config = make_config(data_root, tmp_path, "eval.mean_without=[cow]", *NO_VIT)
    with pytest.raises(ConfigError, match=r"eval.mean_without names cow; the data set has imperv"):
        script.build_run(config, single_process())


@pytest.fixture
def other_classes(data_root, tmp_path):
    """A copy of the data set with another class at the end."""
    root = tmp_path / "other"
    shutil.copytree(data_root, root)
    meta = json.loads((root / "dataset.json").read_text())
    meta["classes"].append("water")
    meta["palette"].append([1, 2, 3])
    (root / "dataset.json").write_text(json.dumps(meta))
    return root


def test_fine_tuning_with_another_class_count_names_what_is_not_loaded(
    data_root, other_classes, tmp_path, capsys
):
    first = run_to_the_end(make_config(data_root, tmp_path, *NO_VIT))
    source = first.folder / "best.pth"
    config = make_config(other_classes, tmp_path, f"run.fine_tune={source}", "name=b", *NO_VIT)
    run = script.build_run(config, single_process())
    run.log.close()
    weights, old = run.state.network.state_dict(), load_checkpoint(source).weights
    new = ["head.classify.weight", "head.classify.bias"]
    assert all(torch.equal(weights[key], old[key]) for key in weights if key not in new)
    assert run.notes == [
        f"fine-tuning {source}: {len(weights) - 2} of {len(weights)} weights loaded, 0 not used",
        "  not loaded: head.classify.weight, 7x64x1x1 here, 6x64x1x1 there",
        "  not loaded: head.classify.bias, 7 here, 6 there",
    ]
    assert torch.equal(run.state.ema.average["head.classify.bias"], weights["head.classify.bias"])


def test_fine_tuning_from_nothing_is_one_sentence(data_root, tmp_path):
    config = make_config(data_root, tmp_path, f"run.fine_tune={tmp_path}/none.pth", *NO_VIT)
    with pytest.raises(MissingDataError, match=r"checkpoint .*none\.pth does not exist"):
        script.build_run(config, single_process())


def test_a_dry_run_says_what_the_run_would_take_and_leaves_nothing(
    recipe_path, tmp_path, capsys, monkeypatch
):
    arguments = ["train.py", "--config", str(recipe_path), "run.dry=true", *NO_VIT]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    said = capsys.readouterr().out
    assert "dry run: every part works, and no run was started" in said
    assert said.count("s, 6 of them") == 2  # 2 epochs of 3 steps, 2 validations of 3 images
    assert "GiB on cpu" in said
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_finds_what_is_wrong(recipe_path, monkeypatch):
    arguments = ["train.py", "--config", str(recipe_path), "run.dry=true", "optim.lr=1e30"]
    monkeypatch.setattr(sys, "argv", [*arguments, "optim.warmup_epochs=0", *NO_VIT])
    with pytest.raises(DataError, match="the loss is not finite at step"):
        script.main()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Enough scenes to learn a little from."""
    root = tmp_path_factory.mktemp("more") / "scenes"
    prepare_synthetic(root, seed=2, num_train=12, num_val=6, num_test=0, size_px=128)
    generate_store(
        make_config(root, root.parent), "superpixels", open_tile_set(root), single_process()
    )
    return root


def test_bf16_ends_where_fp32_ends(scenes, tmp_path):
    overrides = [
        "optim.num_epochs=40",
        "eval.every_epochs=40",
        "optim.lr=3e-3",
        "optim.batch_size=4",
    ]
    overrides += ["optim.ema_decay=0.95", *NO_VIT]
    score = {}
    for precision in ("fp32", "bf16"):
        more = [f"run.precision={precision}", f"name={precision}"]
        score[precision] = run_to_the_end(
            make_config(scenes, tmp_path, *overrides, *more)
        ).state.best_score
    assert score["fp32"] > 0.25
    assert abs(score["fp32"] - score["bf16"]) < 0.01, score


def test_a_compiled_run_keeps_the_names_of_its_weights(data_root, tmp_path):
    """Compiling itself takes minutes; the kernels are tried by hand (run.dry=true)."""
    config = make_config(data_root, tmp_path, "run.compile=true", *NO_VIT)
    run = script.build_run(config, single_process())
    run.state.save(run.folder)
    run.log.close()
    assert isinstance(run.state.ddp_network, torch._dynamo.OptimizedModule)
    names = load_checkpoint(run.folder / "last.pth").weights.keys()
    assert names == run.state.network.state_dict().keys()
    assert not any("_orig_mod" in name for name in names)
