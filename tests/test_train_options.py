"""What a recipe can ask of training besides the plain run."""

import json
import shutil
import sys

import pytest
import torch

import train as script
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


def test_the_best_is_chosen_by_the_score_asked_for_and_copies_are_kept(data_root, tmp_path):
    overrides = ["eval.metric=oa", "optim.num_epochs=3", "run.keep_every_epochs=2"]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides, *NO_VIT))
    copies = sorted(path.name for path in run.folder.glob("*.pth"))
    assert copies == ["best.pth", "epoch_0002.pth", "last.pth"]
    kept = load_checkpoint(run.folder / "epoch_0002.pth")
    assert kept.progress["epoch"] == 2 and kept.training is None
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
def other_data(data_root, tmp_path):
    """Change the classes of a copy of the data set."""

    def change(change_meta):
        root = tmp_path / "other"
        shutil.copytree(data_root, root)
        meta = json.loads((root / "dataset.json").read_text())
        change_meta(meta)
        (root / "dataset.json").write_text(json.dumps(meta))
        return root

    return change


def add_class(meta):
    meta["classes"].append("water")
    meta["palette"].append([1, 2, 3])


def rename_class(meta):
    meta["classes"][1] = "water"


@pytest.mark.parametrize("change", [add_class, rename_class, lambda meta: None])
def test_fine_tuning_loads_no_classifier_of_other_classes_and_says_so(
    checkpoint, other_data, tmp_path, change
):
    source = checkpoint.path
    overrides = [f"run.fine_tune={source}", "name=b"]
    run = script.build_run(make_config(other_data(change), tmp_path, *overrides), single_process())
    run.log.close()
    weights, old = run.state.network.state_dict(), checkpoint.weights
    new = ["head.classify.weight", "head.classify.bias"]
    assert all(torch.equal(weights[key], old[key]) for key in weights if key not in new)
    average = run.state.ema.average["head.classify.bias"]
    assert torch.equal(average, weights["head.classify.bias"])
    count = len(weights)
    if change is add_class:
        sizes = [("7x64x1x1", "6x64x1x1 there"), ("7", "6 there")]
    elif change is rename_class:
        there = f"of other classes there ({', '.join(checkpoint.identity.classes)})"
        sizes = [("6x64x1x1", there), ("6", there)]
    else:
        assert torch.equal(weights[new[1]], old[new[1]])
        assert run.notes == [f"fine-tuning {source}: {count} of {count} weights loaded, 0 not used"]
        return
    assert not any(torch.equal(weights[key], old[key]) for key in new)
    assert run.notes == [
        f"fine-tuning {source}: {count - 2} of {count} weights loaded, 0 not used",
        *(
            f"  not loaded: {key}, {here} here, {there}"
            for key, (here, there) in zip(new, sizes, strict=True)
        ),
    ]


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


def test_bf16_trains_like_fp32(data_root, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        overrides = [f"run.precision={precision}", f"name={precision}", "optim.lr=3e-3"]
        overrides += ["optim.steps_per_epoch=10", "optim.warmup_epochs=0", *NO_VIT]
        run = script.build_run(make_config(data_root, tmp_path, *overrides), single_process())
        script.train_one_epoch(run)
        run.log.close()
        losses[precision] = [row["loss"] for row in read_rows(run.folder / "metrics.jsonl")]
    assert len(losses["fp32"]) == 10 and losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


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
